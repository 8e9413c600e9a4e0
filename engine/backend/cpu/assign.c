/* assign.c: the nearest centroid of every row. */
#include "backend/cpu/ops.h"

#include <math.h>

#include "backend/convert_element.h"
#include "backend/cpu/convert.h"
#include "backend/cpu/distances.h"
#include "backend/cpu/workers.h"
#include "core/matrix.h"
#include "core/memory.h"

#define CHUNK 128u               /* centroids whose distances are found at a time */
#define DIRECT_PRODUCTS 4000000u /* of a task */

typedef struct assign_job {
    const peri_op_assign *op;
    peri_distances centroids;
    char *wide; /* one widened row a worker */
    size_t wide_bytes, task_rows;
} assign_job;

static size_t wide_bytes(const peri_op_assign *op) {
    return peri_round_up(op->rows.cols * sizeof(float), PERI_ALIGN);
}

size_t peri_cpu_assign_scratch(const peri_device *device, const peri_op_assign *op) {
    return peri_cpu_workers_max(device) * wide_bytes(op);
}

static const float *widened(const assign_job *job, size_t i, size_t worker) {
    const peri_view *rows = &job->op->rows;
    const void *row = peri_view_row(rows, i);
    float *wide = (float *)(void *)(job->wide + worker * job->wide_bytes);
    if (rows->dtype == PERI_F32) return row;
    for (size_t j = 0; j < rows->cols; j++) wide[j] = peri_element_load(rows->dtype, row, j);
    return wide;
}

static void assign_directly(const assign_job *job, size_t i, size_t worker) {
    const peri_op_assign *op = job->op;
    const float *query = widened(job, i, worker);
    float length = peri_distances_query_length(&job->centroids, query), nearest = INFINITY;
    float values[CHUNK];
    size_t label = 0;
    for (size_t c = 0; c < op->centroids.rows; c += CHUNK) {
        size_t count = peri_min_size(CHUNK, op->centroids.rows - c);
        peri_distances_range(&job->centroids, query, length, c, count, values);
        for (size_t k = 0; k < count; k++) {
            if (!(values[k] < nearest)) continue;
            nearest = values[k];
            label = c + k;
        }
    }
    op->labels[i] = (uint32_t)label;
    if (op->distances != NULL) op->distances[i] = nearest;
}

static peri_status direct_task(void *ud, size_t task, size_t worker) {
    const assign_job *job = ud;
    size_t first = task * job->task_rows;
    size_t stop = peri_min_size(first + job->task_rows, job->op->rows.rows);
    for (size_t i = first; i < stop; i++) assign_directly(job, i, worker);
    return PERI_OK;
}

peri_status peri_cpu_assign(peri_stream *stream, const peri_op_assign *op, void *scratch,
                            size_t scratch_bytes) {
    assign_job job = { .op = op, .wide = scratch, .wide_bytes = wide_bytes(op) };
    (void)scratch_bytes;
    peri_distances_init(&job.centroids, op->metric, &op->centroids, op->lengths);
    size_t products = op->centroids.rows * op->rows.cols;
    job.task_rows = peri_max_size(1, DIRECT_PRODUCTS / products);
    peri_loop loop = { "assign", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop,
                         peri_ceil_div(op->rows.rows, job.task_rows), direct_task, &job);
}
