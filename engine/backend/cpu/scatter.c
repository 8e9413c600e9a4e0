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

static size_t from_row(const peri_op_scatter *op, size_t i) {
    return op->from == NULL ? i : (size_t)op->from[i];
}

static size_t to_row(const peri_op_scatter *op, size_t i) {
    return op->to == NULL ? i : (size_t)op->to[i];
}

static const void *source(const peri_op_scatter *op, size_t i) {
    return peri_view_row(&op->rows, from_row(op, i));
}

static void *target(const peri_op_scatter *op, size_t i) {
    return peri_view_row(&op->out, to_row(op, i));
}

/* The first byte of a row; *step is how far apart its bytes are. */
static uint8_t *bytes_of(const peri_view *view, bool interleaved, size_t row, size_t *step) {
    size_t within = row % PERI_CODES_GROUP;
    *step = interleaved ? PERI_CODES_GROUP : 1;
    if (!interleaved) return peri_view_row(view, row);
    return (uint8_t *)view->data + (row - within) * view->cols + within;
}

/* Between layouts, byte by byte. */
static void move_codes(const peri_op_scatter *op, size_t i) {
    size_t in_step, out_step;
    const uint8_t *in = bytes_of(&op->rows, op->rows_interleaved, from_row(op, i), &in_step);
    uint8_t *out = bytes_of(&op->out, op->out_interleaved, to_row(op, i), &out_step);
    for (size_t b = 0; b < op->rows.cols; b++) out[b * out_step] = in[b * in_step];
}

static peri_status scatter_chunk(void *ud, size_t task, size_t worker) {
    const peri_op_scatter *op = ud;
    size_t first = task * chunk_rows(op), stop = peri_min_size(first + chunk_rows(op), op->count);
    size_t bytes = row_bytes(op);
    (void)worker;
    if (op->rows_interleaved || op->out_interleaved) {
        for (size_t i = first; i < stop; i++) move_codes(op, i);
        return PERI_OK;
    }
    for (size_t i = first; i < stop; i++) {
        if (i + AHEAD < stop) {
            __builtin_prefetch(target(op, i + AHEAD), 1);
            __builtin_prefetch(source(op, i + AHEAD));
        }
        memcpy(target(op, i), source(op, i), bytes);
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
