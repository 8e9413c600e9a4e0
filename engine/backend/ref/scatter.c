/* scatter.c: rows to slots. */
#include <string.h>

#include "backend/ref/ops.h"
#include "core/matrix.h"

size_t peri_ref_scatter_scratch(const peri_device *device, const peri_op_scatter *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_ref_scatter(peri_stream *stream, const peri_op_scatter *op, void *scratch,
                             size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    size_t bytes = op->rows.cols * peri_dtype_bytes(op->rows.dtype);
    for (size_t i = 0; i < op->count; i++) {
        size_t from = op->from == NULL ? i : (size_t)op->from[i];
        memcpy(peri_view_row(&op->out, (size_t)op->to[i]), peri_view_row(&op->rows, from), bytes);
    }
    return PERI_OK;
}
