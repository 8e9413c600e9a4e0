/* scatter.c: rows to slots, in parallel over chunks of them. A row goes to memory that is not read
 * here, so what is asked for ahead is the line that is written. */
#include <string.h>

#include "backend/cpu/ops.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/threads.h"

#define CHUNK_BYTES 262144u /* of one task */
#define AHEAD 4u            /* rows */

static size_t row_bytes(const peri_op_scatter *op) {
    return op->rows.cols * peri_dtype_bytes(op->rows.dtype);
}

static size_t chunk_rows(const peri_op_scatter *op) {
    return peri_max_size(1, CHUNK_BYTES / peri_max_size(8, row_bytes(op)));
}

static const void *source(const peri_op_scatter *op, size_t i) {
    return peri_view_row(&op->rows, op->from == NULL ? i : (size_t)op->from[i]);
}

static peri_status scatter_chunk(void *ud, size_t task, size_t worker) {
    const peri_op_scatter *op = ud;
    size_t first = task * chunk_rows(op), stop = peri_min_size(first + chunk_rows(op), op->count);
    size_t bytes = row_bytes(op);
    (void)worker;
    for (size_t i = first; i < stop; i++) {
        if (i + AHEAD < stop) {
            __builtin_prefetch(peri_view_row(&op->out, (size_t)op->to[i + AHEAD]), 1);
            __builtin_prefetch(source(op, i + AHEAD));
        }
        memcpy(peri_view_row(&op->out, (size_t)op->to[i]), source(op, i), bytes);
    }
    return PERI_OK;
}

size_t peri_cpu_scatter_scratch(const peri_device *device, const peri_op_scatter *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_cpu_scatter(peri_stream *stream, const peri_op_scatter *op, void *scratch,
                             size_t scratch_bytes) {
    (void)scratch;
    (void)scratch_bytes;
    peri_op_scatter copy = *op;
    peri_loop loop = { "scatter", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop, peri_ceil_div(op->count, chunk_rows(op)),
                         scatter_chunk, &copy);
}
