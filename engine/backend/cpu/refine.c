/* refine.c: canonical values of candidates, a query a task.
 *
 * k == 0: values in the order given. k > 0: the k best are selected and sorted; where a slot is
 * among them twice, which no search of ours answers, all slots are sorted and thinned first. All in
 * scratch of the worker. */
#include <math.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/select.h"
#include "backend/cpu/sums.h"
#include "backend/cpu/workers.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"

#define CHUNK 128u /* values at a time */
#define AHEAD 8u   /* rows that are on their way before the first is used (taste) */

typedef struct refine_job {
    const peri_op_refine *op;
    peri_distances distances;
    const peri_select_kernels *select;
    char *scratch;
    size_t worker_bytes;
} refine_job;

/* What a worker has. */
typedef struct part {
    float *values;   /* [columns], and what select.h wants behind them */
    uint32_t *slots; /* the same */
    uint64_t *keys;  /* [2 k] */
} part;

static size_t lay_out(const peri_op_refine *op, char *base, part *p) {
    size_t at = 0, room = peri_round_up(op->columns, 16), k = peri_min_size(op->k, op->columns);
    p->values = peri_scratch_cut(&at, base, room * sizeof *p->values);
    p->slots = peri_scratch_cut(&at, base, room * sizeof *p->slots);
    p->keys = peri_scratch_cut(&at, base, 2 * k * sizeof *p->keys);
    return at;
}

static void sift_down(uint32_t *slots, size_t at, size_t count) {
    uint32_t value = slots[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && slots[child + 1] > slots[child]) child++;
        if (slots[child] <= value) break;
        slots[at] = slots[child];
    }
    slots[at] = value;
}

/* Heap sort: in place, no recursion, no bad case. */
static void sort_slots(uint32_t *slots, size_t count) {
    for (size_t i = count / 2; i-- > 0;) sift_down(slots, i, count);
    for (size_t last = count; last > 1; last--) {
        uint32_t most = slots[0];
        slots[0] = slots[last - 1];
        slots[last - 1] = most;
        sift_down(slots, 0, last - 1);
    }
}

static size_t take_slots(const int64_t *candidates, size_t columns, uint32_t *slots) {
    size_t count = 0;
    for (size_t j = 0; j < columns; j++) {
        slots[count] = (uint32_t)candidates[j];
        count += candidates[j] != PERI_ID_NONE;
    }
    return count;
}

/* Sorts the slots and leaves one of each. */
static size_t thin(uint32_t *slots, size_t count) {
    size_t kept = 0;
    sort_slots(slots, count);
    for (size_t j = 0; j < count; j++)
        if (kept == 0 || slots[kept - 1] != slots[j]) slots[kept++] = slots[j];
    return kept;
}

/* The k best of `count` slots, sorted, to the front; returns how many there are. More than k: what
 * ties for the last place is one slot, more than once, and nothing is sorted. */
static size_t choose(const refine_job *job, const part *p, const void *query, float length,
                     size_t count) {
    size_t k = job->op->k, bytes = job->distances.dim * peri_dtype_bytes(job->distances.dtype);
    for (size_t j = 0; j < count && j < AHEAD; j++)
        peri_sums_prefetch(peri_view_row(&job->op->rows, p->slots[j]), bytes);
    peri_distances_slots(&job->distances, query, length, p->slots, count, p->values);
    peri_select_best(job->select, p->values, p->slots, &count, k, k);
    if (count > k) return count;
    peri_select_sort(p->values, p->slots, count, p->keys);
    return count;
}

static bool repeats(const uint32_t *slots, size_t count) {
    bool found = false;
    for (size_t j = 1; j < count; j++) found |= slots[j] == slots[j - 1];
    return found;
}

static void best_of(const refine_job *job, size_t i, const void *query, float length,
                    const part *p) {
    const peri_op_refine *op = job->op;
    const int64_t *candidates = op->candidates + i * op->columns;
    float *distances = op->distances + i * op->k;
    int64_t *ids = op->ids + i * op->k;
    size_t count = choose(job, p, query, length, take_slots(candidates, op->columns, p->slots));
    if (count > op->k || repeats(p->slots, count)) {
        count = thin(p->slots, take_slots(candidates, op->columns, p->slots));
        count = choose(job, p, query, length, count);
    }
    for (size_t j = 0; j < op->k; j++) {
        distances[j] = j < count ? p->values[j] : INFINITY;
        ids[j] = j < count ? (int64_t)p->slots[j] : PERI_ID_NONE;
    }
}

static void in_order(const refine_job *job, size_t i, const void *query, float length) {
    const peri_op_refine *op = job->op;
    const int64_t *candidates = op->candidates + i * op->columns;
    float *out = op->distances + i * op->columns;
    for (size_t first = 0; first < op->columns; first += CHUNK) {
        uint32_t slots[CHUNK];
        float values[CHUNK];
        size_t some = peri_min_size(CHUNK, op->columns - first), count = 0, taken = 0;
        for (size_t j = first; j < first + some; j++)
            if (candidates[j] != PERI_ID_NONE) slots[count++] = (uint32_t)candidates[j];
        peri_distances_slots(&job->distances, query, length, slots, count, values);
        for (size_t j = first; j < first + some; j++)
            out[j] = candidates[j] == PERI_ID_NONE ? INFINITY : values[taken++];
    }
}

static peri_status refine_query(void *ud, size_t task, size_t worker) {
    const refine_job *job = ud;
    const void *query = peri_view_row(&job->op->queries, task);
    float length = peri_distances_query_length(&job->distances, query);
    part p;
    lay_out(job->op, job->scratch + worker * job->worker_bytes, &p);
    if (job->op->k == 0)
        in_order(job, task, query, length);
    else
        best_of(job, task, query, length, &p);
    return PERI_OK;
}

size_t peri_cpu_refine_scratch(const peri_device *device, const peri_op_refine *op) {
    part none;
    return op->k == 0 ? 0 : peri_threads(device->context, 0) * lay_out(op, NULL, &none);
}

peri_status peri_cpu_refine(peri_stream *stream, const peri_op_refine *op, void *scratch,
                            size_t scratch_bytes) {
    part none;
    (void)scratch_bytes;
    refine_job job = { .op = op, .select = peri_select_chosen(), .scratch = scratch };
    job.worker_bytes = lay_out(op, NULL, &none);
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    peri_loop loop = { "refine", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop, op->queries.rows, refine_query, &job);
}
