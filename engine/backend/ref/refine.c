/* refine.c: canonical values of candidates, in the order given or the best k of each row. */
#include "backend/ref/ops.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/topk.h"

size_t peri_ref_refine_scratch(const peri_device *device, const peri_op_refine *op) {
    (void)device;
    (void)op;
    return 0;
}

static float value_of(const peri_op_refine *op, size_t query, int64_t slot) {
    const void *q = peri_view_row(&op->queries, query);
    uint32_t dim = (uint32_t)op->rows.cols;
    bool cosine = op->metric == PERI_COSINE;
    float query_length = cosine ? peri_canonical_length(op->queries.dtype, q, dim) : 0;
    return peri_canonical_distance(op->metric, op->rows.dtype, q,
                                   peri_view_row(&op->rows, (size_t)slot), dim, query_length,
                                   cosine ? op->lengths[slot] : 0);
}

static bool seen_before(const int64_t *candidates, size_t j) {
    for (size_t i = 0; i < j; i++)
        if (candidates[i] == candidates[j]) return true;
    return false;
}

peri_status peri_ref_refine(peri_stream *stream, const peri_op_refine *op, void *scratch,
                            size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->queries.rows; i++) {
        const int64_t *candidates = op->candidates + i * op->columns;
        peri_topk top;
        if (op->k > 0) peri_topk_init(&top, op->distances + i * op->k, op->ids + i * op->k, op->k);
        for (size_t j = 0; j < op->columns; j++) {
            bool none = candidates[j] == PERI_ID_NONE;
            if (op->k == 0)
                op->distances[i * op->columns + j] = none ? INFINITY
                                                          : value_of(op, i, candidates[j]);
            else if (!none && !seen_before(candidates, j))
                peri_topk_offer(&top, value_of(op, i, candidates[j]), candidates[j]);
        }
        if (op->k > 0) peri_topk_finish(&top);
    }
    return PERI_OK;
}
