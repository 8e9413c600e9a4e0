/* knn.c: exact nearest rows: every row that passes, offered to the k best of its query. */
#include "backend/ref/ops.h"
#include "core/bitset.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/topk.h"

size_t peri_ref_knn_scratch(const peri_device *device, const peri_op_knn *op) {
    (void)device;
    (void)op;
    return 0;
}

static bool passes(const peri_filter_view *filter, size_t query, size_t row) {
    if (filter->count == 0) return true;
    uint32_t which = filter->which == NULL ? 0 : filter->which[query];
    return peri_bitset_test(filter->bits[which], row);
}

static void search_one(const peri_op_knn *op, size_t i) {
    const void *query = peri_view_row(&op->queries, i);
    uint32_t dim = (uint32_t)op->rows.cols;
    bool cosine = op->metric == PERI_COSINE;
    float query_length = cosine ? peri_canonical_length(op->queries.dtype, query, dim) : 0;
    peri_topk top;
    peri_topk_init(&top, op->distances + i * op->k, op->ids + i * op->k, op->k);
    for (size_t row = 0; row < op->rows.rows; row++) {
        if (!passes(&op->filter, i, row)) continue;
        float value = peri_canonical_distance(op->metric, op->rows.dtype, query,
                                              peri_view_row(&op->rows, row), dim, query_length,
                                              cosine ? op->lengths[row] : 0);
        peri_topk_offer(&top, value, (int64_t)row);
    }
    peri_topk_finish(&top);
}

peri_status peri_ref_knn(peri_stream *stream, const peri_op_knn *op, void *scratch,
                         size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->queries.rows; i++) search_one(op, i);
    if (op->redone != NULL) *op->redone = 0;
    if (op->scanned != NULL) *op->scanned = 0;
    return PERI_OK;
}
