/* pairwise.c: the canonical distance of every query to every row. */
#include "backend/ref/ops.h"
#include "core/distance.h"
#include "core/matrix.h"

size_t peri_ref_pairwise_scratch(const peri_device *device, const peri_op_pairwise *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_ref_pairwise(peri_stream *stream, const peri_op_pairwise *op, void *scratch,
                              size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    uint32_t dim = (uint32_t)op->rows.cols;
    bool cosine = op->metric == PERI_COSINE;
    for (size_t i = 0; i < op->queries.rows; i++) {
        const void *query = peri_view_row(&op->queries, i);
        float length = cosine ? peri_canonical_length(op->queries.dtype, query, dim) : 0;
        float *out = peri_view_row(&op->out, i);
        for (size_t j = 0; j < op->rows.rows; j++)
            out[j] = peri_canonical_distance(op->metric, op->rows.dtype, query,
                                             peri_view_row(&op->rows, j), dim, length,
                                             cosine ? op->lengths[j] : 0);
    }
    return PERI_OK;
}
