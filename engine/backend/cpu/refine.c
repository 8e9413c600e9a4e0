/* refine.c: canonical values of candidates, a query a task.
 *
 * k == 0: values in the order given. k > 0: the slots are sorted first, which finds repeats and
 * makes the rows be read in ascending order; then the k best are kept. Slots are sorted in scratch
 * of the worker. */
#include <math.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/ops.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"
#include "core/threads.h"
#include "core/topk.h"

#define CHUNK 128u /* values at a time */

typedef struct refine_job {
    const peri_op_refine *op;
    peri_distances distances;
    char *scratch;
    size_t worker_bytes;
} refine_job;

static size_t worker_bytes(const peri_op_refine *op) {
    return peri_round_up(op->columns * sizeof(uint32_t), PERI_ALIGN);
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

/* The distinct slots among the candidates, ascending. */
static size_t distinct_slots(const int64_t *candidates, size_t columns, uint32_t *slots) {
    size_t count = 0, kept = 0;
    for (size_t j = 0; j < columns; j++)
        if (candidates[j] != PERI_ID_NONE) slots[count++] = (uint32_t)candidates[j];
    sort_slots(slots, count);
    for (size_t j = 0; j < count; j++)
        if (kept == 0 || slots[kept - 1] != slots[j]) slots[kept++] = slots[j];
    return kept;
}

static void best_of(const refine_job *job, size_t i, const void *query, float length,
                    uint32_t *slots) {
    const peri_op_refine *op = job->op;
    size_t count = distinct_slots(op->candidates + i * op->columns, op->columns, slots);
    peri_topk top;
    peri_topk_init(&top, op->distances + i * op->k, op->ids + i * op->k, op->k);
    for (size_t first = 0; first < count; first += CHUNK) {
        float values[CHUNK];
        size_t some = peri_min_size(CHUNK, count - first);
        peri_distances_slots(&job->distances, query, length, slots + first, some, values);
        for (size_t j = 0; j < some; j++) peri_topk_offer(&top, values[j], slots[first + j]);
    }
    peri_topk_finish(&top);
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
    if (job->op->k == 0)
        in_order(job, task, query, length);
    else
        best_of(job, task, query, length,
                (uint32_t *)(void *)(job->scratch + worker * job->worker_bytes));
    return PERI_OK;
}

size_t peri_cpu_refine_scratch(const peri_device *device, const peri_op_refine *op) {
    return op->k == 0 ? 0 : peri_threads(device->context, 0) * worker_bytes(op);
}

peri_status peri_cpu_refine(peri_stream *stream, const peri_op_refine *op, void *scratch,
                            size_t scratch_bytes) {
    (void)scratch_bytes;
    refine_job job = { .op = op, .scratch = scratch, .worker_bytes = worker_bytes(op) };
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    peri_loop loop = { "refine", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop, op->queries.rows, refine_query, &job);
}
