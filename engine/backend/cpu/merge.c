/* merge.c: the best of several sorted lists: a heap of parts by their heads, a chunk of queries a
 * task. With two parts, the usual case, the heap is one comparison. */
#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/topk.h"

#define CHUNK_ENTRIES 16384u /* of the answers of one task (taste) */

/* The head of a list that has not ended. */
typedef struct head {
    int64_t id;
    float distance;
    uint32_t part;
    size_t at; /* its place in the arrays */
    size_t stop;
} head;

typedef struct merge_job {
    const peri_op_merge *op;
    char *parts; /* part_bytes of heads a worker */
    size_t part_bytes, chunk;
} merge_job;

static size_t part_bytes(const peri_op_merge *op) {
    return peri_round_up(op->parts * sizeof(head), 64);
}

size_t peri_cpu_merge_scratch(const peri_device *device, const peri_op_merge *op) {
    return peri_cpu_workers_max(device) * part_bytes(op);
}

static bool before(const head *a, const head *b) {
    if (peri_nearer(a->distance, a->id, b->distance, b->id)) return true;
    return a->distance == b->distance && a->id == b->id && a->part < b->part;
}

static void sift_down(head *heads, size_t at, size_t count) {
    head moved = heads[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(&heads[child + 1], &heads[child])) child++;
        if (!before(&heads[child], &moved)) break;
        heads[at] = heads[child];
    }
    heads[at] = moved;
}

/* Reads the entry that a head is at; false when its list has ended. */
static bool read_head(const peri_op_merge *op, head *h) {
    if (h->at == h->stop || op->ids[h->at] == PERI_ID_NONE) return false;
    h->id = op->ids[h->at] + (op->bases == NULL ? 0 : op->bases[h->part]);
    h->distance = op->distances[h->at];
    return true;
}

static size_t open_heads(const peri_op_merge *op, size_t query, head *heads) {
    size_t count = 0;
    for (size_t p = 0; p < op->parts; p++) {
        head *h = &heads[count];
        h->part = (uint32_t)p;
        h->at = (p * op->queries + query) * op->part_k;
        h->stop = h->at + op->part_k;
        count += read_head(op, h);
    }
    for (size_t i = count / 2; i-- > 0;) sift_down(heads, i, count);
    return count;
}

static void merge_query(const peri_op_merge *op, size_t query, head *heads) {
    int64_t *ids = op->best_ids + query * op->k;
    float *distances = op->best_distances + query * op->k;
    size_t open = open_heads(op, query, heads), count = 0;
    while (count < op->k && open > 0) {
        bool again = op->unique && count > 0 && ids[count - 1] == heads[0].id &&
                     distances[count - 1] == heads[0].distance;
        if (!again) {
            ids[count] = heads[0].id;
            distances[count++] = heads[0].distance;
        }
        heads[0].at++;
        if (!read_head(op, &heads[0])) heads[0] = heads[--open];
        if (open > 1) sift_down(heads, 0, open);
    }
    for (; count < op->k; count++) {
        ids[count] = PERI_ID_NONE;
        distances[count] = INFINITY;
    }
}

static peri_status merge_chunk(void *ud, size_t task, size_t worker) {
    const merge_job *job = ud;
    size_t query = task * job->chunk, stop = peri_min_size(query + job->chunk, job->op->queries);
    head *heads = (head *)(void *)(job->parts + worker * job->part_bytes);
    for (; query < stop; query++) merge_query(job->op, query, heads);
    return PERI_OK;
}

peri_status peri_cpu_merge(peri_stream *stream, const peri_op_merge *op, void *scratch,
                           size_t scratch_bytes) {
    (void)scratch_bytes;
    merge_job job = { op, scratch, part_bytes(op), peri_max_size(1, CHUNK_ENTRIES / op->k) };
    peri_loop loop = { "merge", peri_cpu_workers(stream), stream->control };
    return peri_parallel(stream->device->context, &loop, peri_ceil_div(op->queries, job.chunk),
                         merge_chunk, &job);
}
