/* lengths.c: the Euclidean length of every row, by the dot kernel of its dtype on the row itself. A
 * row of f16 is widened first, for the kernel takes f32 on the query's side. */
#include <math.h>

#include "backend/cpu/convert.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/sums.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"
#include "core/threads.h"

#define CHUNK_ELEMENTS 65536u /* of one task: some 10 us of work */

typedef struct lengths_job {
    const peri_op_lengths *op;
    peri_sums_fn dot;
    char *wide; /* one widened row a worker */
    size_t wide_bytes, chunk_rows;
} lengths_job;

static size_t wide_bytes(const peri_op_lengths *op) {
    return op->rows.dtype == PERI_F16 ? peri_round_up(op->rows.cols * sizeof(float), PERI_ALIGN)
                                      : 0;
}

static peri_status lengths_chunk(void *ud, size_t task, size_t worker) {
    const lengths_job *job = ud;
    const peri_op_lengths *op = job->op;
    size_t first = task * job->chunk_rows;
    size_t stop = peri_min_size(first + job->chunk_rows, op->rows.rows);
    for (size_t i = first; i < stop; i++) {
        const void *row = peri_view_row(&op->rows, i), *query = row;
        float sum;
        if (op->rows.dtype == PERI_F16) {
            float *wide = (float *)(void *)(job->wide + worker * job->wide_bytes);
            peri_widen(row, op->rows.cols, wide);
            query = wide;
        }
        job->dot(query, row, 0, NULL, 1, (uint32_t)op->rows.cols, &sum);
        op->out[i] = sqrtf(sum);
    }
    return PERI_OK;
}

size_t peri_cpu_lengths_scratch(const peri_device *device, const peri_op_lengths *op) {
    return peri_threads(device->context, 0) * wide_bytes(op);
}

peri_status peri_cpu_lengths(peri_stream *stream, const peri_op_lengths *op, void *scratch,
                             size_t scratch_bytes) {
    (void)scratch_bytes;
    lengths_job job = { op, peri_sums_chosen()->dot[op->rows.dtype], scratch, wide_bytes(op),
                        peri_max_size(1, CHUNK_ELEMENTS / peri_max_size(1, op->rows.cols)) };
    peri_loop loop = { "lengths", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop,
                         peri_ceil_div(op->rows.rows, job.chunk_rows), lengths_chunk, &job);
}
