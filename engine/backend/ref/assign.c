/* assign.c: the nearest centroid of every row: all of them, in order. */
#include "backend/convert_element.h"
#include "backend/ref/ops.h"
#include "core/distance.h"
#include "core/matrix.h"

size_t peri_ref_assign_scratch(const peri_device *device, const peri_op_assign *op) {
    (void)device;
    return op->rows.cols * sizeof(float);
}

static void assign_one(const peri_op_assign *op, size_t i, float *wide) {
    const void *row = peri_view_row(&op->rows, i);
    uint32_t dim = (uint32_t)op->rows.cols, label = 0;
    bool cosine = op->metric == PERI_COSINE;
    for (size_t j = 0; j < dim; j++) wide[j] = peri_element_load(op->rows.dtype, row, j);
    float length = cosine ? peri_canonical_length(PERI_F32, wide, dim) : 0, nearest = INFINITY;
    for (size_t c = 0; c < op->centroids.rows; c++) {
        float value = peri_canonical_distance(op->metric, PERI_F32, wide,
                                              peri_view_row(&op->centroids, c), dim, length,
                                              cosine ? op->lengths[c] : 0);
        if (!(value < nearest)) continue;
        nearest = value;
        label = (uint32_t)c;
    }
    op->labels[i] = label;
    if (op->distances != NULL) op->distances[i] = nearest;
}

peri_status peri_ref_assign(peri_stream *stream, const peri_op_assign *op, void *scratch,
                            size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->rows.rows; i++) assign_one(op, i, scratch);
    return PERI_OK;
}
