/* gather.c: rows by slot. */
#include <string.h>

#include "backend/ref/ops.h"
#include "core/matrix.h"

size_t peri_ref_gather_scratch(const peri_device *device, const peri_op_gather *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_ref_gather(peri_stream *stream, const peri_op_gather *op, void *scratch,
                            size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    size_t bytes = op->rows.cols * peri_dtype_bytes(op->rows.dtype);
    for (size_t i = 0; i < op->out.rows; i++)
        memcpy(peri_view_row(&op->out, i), peri_view_row(&op->rows, (size_t)op->slots[i]), bytes);
    return PERI_OK;
}
