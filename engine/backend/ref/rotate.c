/* rotate.c: rows less their centroids, turned by a matrix. */
#include "backend/convert_element.h"
#include "backend/ref/ops.h"
#include "core/distance.h"
#include "core/matrix.h"

size_t peri_ref_rotate_scratch(const peri_device *device, const peri_op_rotate *op) {
    (void)device;
    return op->rows.cols * sizeof(float);
}

peri_status peri_ref_rotate(peri_stream *stream, const peri_op_rotate *op, void *scratch,
                            size_t scratch_bytes) {
    size_t dim = op->rows.cols;
    float *t = scratch;
    (void)stream;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->rows.rows; i++) {
        const void *row = peri_view_row(&op->rows, i);
        size_t label = op->labels == NULL ? 0 : op->labels[i];
        for (size_t j = 0; j < dim; j++) {
            t[j] = peri_element_load(op->rows.dtype, row, j);
            if (op->lengths != NULL) t[j] /= op->lengths[i];
            if (op->centroids != NULL) t[j] -= op->centroids[label * dim + j];
        }
        float *out = peri_view_row(&op->out, i);
        for (size_t r = 0; r < op->out.cols; r++) {
            if (op->rotation != NULL)
                out[r] = peri_canonical_dot(PERI_F32, op->rotation + r * dim, t, (uint32_t)dim);
            else
                out[r] = r < dim ? t[r] : 0.0f;
        }
    }
    return PERI_OK;
}
