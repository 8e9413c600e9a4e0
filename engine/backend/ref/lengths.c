/* lengths.c: the Euclidean length of every row. */
#include "backend/ref/ops.h"
#include "core/distance.h"
#include "core/matrix.h"

size_t peri_ref_lengths_scratch(const peri_device *device, const peri_op_lengths *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_ref_lengths(peri_stream *stream, const peri_op_lengths *op, void *scratch,
                             size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->rows.rows; i++)
        op->out[i] = peri_canonical_length(op->rows.dtype, peri_view_row(&op->rows, i),
                                           (uint32_t)op->rows.cols);
    return PERI_OK;
}
