/* convert.c: rows from dtype to dtype, an element at a time. */
#include <string.h>

#include "backend/convert_element.h"
#include "backend/ref/ops.h"
#include "core/matrix.h"

size_t peri_ref_convert_scratch(const peri_device *device, const peri_op_convert *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_ref_convert(peri_stream *stream, const peri_op_convert *op, void *scratch,
                             size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->in.rows; i++) {
        const void *in = peri_view_row(&op->in, i);
        void *out = peri_view_row(&op->out, i);
        if (op->in.dtype == op->out.dtype) {
            memcpy(out, in, op->in.cols * peri_dtype_bytes(op->in.dtype));
            continue;
        }
        for (size_t j = 0; j < op->in.cols; j++)
            peri_element_store(op->out.dtype, out, j, peri_element_load(op->in.dtype, in, j));
    }
    return PERI_OK;
}
