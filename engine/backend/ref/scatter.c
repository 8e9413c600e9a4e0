/* scatter.c: rows to slots. */
#include "backend/ref/ops.h"
#include "core/matrix.h"

size_t peri_ref_scatter_scratch(const peri_device *device, const peri_op_scatter *op) {
    (void)device;
    (void)op;
    return 0;
}

static uint8_t *byte_of(const peri_view *view, bool interleaved, size_t row, size_t b) {
    size_t group = PERI_CODES_GROUP;
    if (!interleaved) return (uint8_t *)peri_view_row(view, row) + b;
    return (uint8_t *)view->data + (row - row % group) * view->cols + b * group + row % group;
}

peri_status peri_ref_scatter(peri_stream *stream, const peri_op_scatter *op, void *scratch,
                             size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    size_t bytes = op->rows.cols * peri_dtype_bytes(op->rows.dtype);
    for (size_t i = 0; i < op->count; i++) {
        size_t from = op->from == NULL ? i : (size_t)op->from[i];
        size_t to = op->to == NULL ? i : (size_t)op->to[i];
        for (size_t b = 0; b < bytes; b++)
            *byte_of(&op->out, op->out_interleaved, to,
                     b) = *byte_of(&op->rows, op->rows_interleaved, from, b);
    }
    return PERI_OK;
}
