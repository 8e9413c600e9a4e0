/* range_scan.c: all entries within a distance, by canonical distances. A task is one query on one
 * segment of one of its lists; tasks that follow each other are of one segment where queries share
 * lists, so that it stays in L2. The places of what is found are given out by an atomic count. */
#include "backend/cpu/distances.h"
#include "backend/cpu/ops.h"
#include "core/bitset.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/threads.h"

#define CHUNK 64u
#define SEGMENT_BYTES 262144u
#define SEGMENT_ROWS_LEAST 1024u

typedef struct range_job {
    const peri_op_range_scan *op;
    peri_distances distances;
    size_t probes, segments, segment_rows;
} range_job;

size_t peri_cpu_range_scan_scratch(const peri_device *device, const peri_op_range_scan *op) {
    (void)device;
    (void)op;
    return 0;
}

/* Entries of a chunk that pass and are near enough go to the front; returns how many. */
static size_t choose(const peri_op_range_scan *op, const uint64_t *bits, size_t at, size_t count,
                     float *values, int64_t *slots) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t slot = op->lists.slots == NULL ? (int64_t)(at + i) : op->lists.slots[at + i];
        bool good = values[i] <= op->radius &&
                    (bits == NULL || peri_bitset_test(bits, (size_t)slot));
        values[found] = values[i];
        slots[found] = slot;
        found += good;
    }
    return found;
}

static void scan(const range_job *job, size_t query, size_t at, size_t stop) {
    const peri_op_range_scan *op = job->op;
    const peri_filter_view *filter = &op->filter;
    const void *bytes = peri_view_row(&op->queries, query);
    const uint64_t *bits = filter->count == 0
                               ? NULL
                               : filter->bits[filter->which == NULL ? 0 : filter->which[query]];
    float length = peri_distances_query_length(&job->distances, bytes), values[CHUNK];
    int64_t slots[CHUNK];
    for (; at < stop; at += CHUNK) {
        size_t count = peri_min_size(CHUNK, stop - at);
        peri_distances_range(&job->distances, bytes, length, at, count, values);
        size_t found = choose(op, bits, at, count, values, slots);
        if (found == 0) continue;
        int64_t to = __atomic_fetch_add(&op->counts[query], (int64_t)found, __ATOMIC_RELAXED);
        for (size_t i = 0; i < found && op->offsets != NULL; i++) {
            op->ids[op->offsets[query] + to + (int64_t)i] = slots[i];
            op->distances[op->offsets[query] + to + (int64_t)i] = values[i];
        }
    }
}

static peri_status scan_task(void *ud, size_t task, size_t worker) {
    const range_job *job = ud;
    const peri_op_range_scan *op = job->op;
    size_t query = task % op->queries.rows, piece = task / op->queries.rows;
    size_t probe = piece / job->segments, segment = piece % job->segments;
    int64_t list = op->probes == NULL ? (int64_t)probe : op->probes[query * job->probes + probe];
    (void)worker;
    if (list == PERI_ID_NONE) return PERI_OK;
    size_t first = segment * job->segment_rows, size = op->lists.sizes[list];
    if (first >= size) return PERI_OK;
    size_t begin = (size_t)op->lists.offsets[list];
    scan(job, query, begin + first, begin + peri_min_size(first + job->segment_rows, size));
    return PERI_OK;
}

peri_status peri_cpu_range_scan(peri_stream *stream, const peri_op_range_scan *op, void *scratch,
                                size_t scratch_bytes) {
    (void)scratch;
    (void)scratch_bytes;
    range_job job = { .op = op };
    size_t largest = 1;
    for (size_t i = 0; i < op->queries.rows; i++) op->counts[i] = 0;
    for (size_t l = 0; l < op->lists.n_lists; l++)
        largest = peri_max_size(largest, op->lists.sizes[l]);
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    job.probes = op->probes == NULL ? op->lists.n_lists : op->n_probes;
    job.segment_rows = peri_max_size(SEGMENT_ROWS_LEAST, SEGMENT_BYTES / op->rows.stride_bytes);
    job.segments = peri_ceil_div(largest, job.segment_rows);
    peri_loop loop = { "range_scan", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop,
                         op->queries.rows * job.probes * job.segments, scan_task, &job);
}
