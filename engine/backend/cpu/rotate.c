/* rotate.c: rows less their centroids, turned by a matrix, in parallel over chunks of rows.
 *
 * A chunk is widened first, so that each row of the matrix is read once a chunk: the dot kernel
 * takes it as the query and runs over the chunk's rows. */
#include <string.h>

#include "backend/cpu/convert.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/sums.h"
#include "backend/cpu/workers.h"
#include "core/matrix.h"

#define CHUNK_BYTES 65536u /* of widened rows: they stay in L2 beside a row of the matrix */
#define CHUNK_ROWS_MAX 64u

typedef struct rotate_job {
    const peri_op_rotate *op;
    peri_sums_fn dot;
    size_t chunk_rows, part_bytes; /* of a worker: widened rows, one column of products */
    char *parts;
} rotate_job;

static size_t chunk_rows(const peri_op_rotate *op) {
    size_t fit = CHUNK_BYTES / (op->rows.cols * sizeof(float));
    return peri_min_size(peri_max_size(fit, 4), CHUNK_ROWS_MAX);
}

static size_t part_bytes(const peri_op_rotate *op) {
    return peri_round_up((op->rows.cols + 1) * chunk_rows(op) * sizeof(float), 64);
}

size_t peri_cpu_rotate_scratch(const peri_device *device, const peri_op_rotate *op) {
    return peri_cpu_workers_max(device) * part_bytes(op);
}

static void widen_row(const peri_op_rotate *op, size_t i, float *t) {
    const void *row = peri_view_row(&op->rows, i);
    size_t dim = op->rows.cols;
    switch (op->rows.dtype) {
    case PERI_F32: memcpy(t, row, dim * sizeof *t); break;
    case PERI_F16: peri_widen(row, dim, t); break;
    case PERI_I8:
        for (size_t j = 0; j < dim; j++) t[j] = ((const int8_t *)row)[j];
        break;
    default:
        for (size_t j = 0; j < dim; j++) t[j] = ((const uint8_t *)row)[j];
        break;
    }
    if (op->lengths != NULL)
        for (size_t j = 0; j < dim; j++) t[j] /= op->lengths[i];
    if (op->centroids == NULL) return;
    const float *centroid = op->centroids + (op->labels == NULL ? 0 : op->labels[i]) * dim;
    for (size_t j = 0; j < dim; j++) t[j] -= centroid[j];
}

static peri_status rotate_chunk(void *ud, size_t task, size_t worker) {
    const rotate_job *job = ud;
    const peri_op_rotate *op = job->op;
    size_t dim = op->rows.cols, first = task * job->chunk_rows;
    size_t count = peri_min_size(job->chunk_rows, op->rows.rows - first);
    float *t = (float *)(void *)(job->parts + worker * job->part_bytes);
    float *column = t + dim * job->chunk_rows;
    for (size_t i = 0; i < count; i++) widen_row(op, first + i, t + i * dim);
    if (op->rotation == NULL) {
        for (size_t i = 0; i < count; i++) {
            float *out = peri_view_row(&op->out, first + i);
            memcpy(out, t + i * dim, dim * sizeof *t);
            memset(out + dim, 0, (op->out.cols - dim) * sizeof *t);
        }
        return PERI_OK;
    }
    for (size_t r = 0; r < op->out.cols; r++) {
        job->dot(op->rotation + r * dim, t, dim * sizeof *t, NULL, count, (uint32_t)dim, column);
        for (size_t i = 0; i < count; i++)
            ((float *)peri_view_row(&op->out, first + i))[r] = column[i];
    }
    return PERI_OK;
}

peri_status peri_cpu_rotate(peri_stream *stream, const peri_op_rotate *op, void *scratch,
                            size_t scratch_bytes) {
    (void)scratch_bytes;
    rotate_job job = { op, peri_sums_chosen()->dot[PERI_F32], chunk_rows(op), part_bytes(op),
                       scratch };
    peri_loop loop = { "rotate", peri_cpu_workers(stream), stream->control };
    return peri_parallel(stream->device->context, &loop,
                         peri_ceil_div(op->rows.rows, job.chunk_rows), rotate_chunk, &job);
}
