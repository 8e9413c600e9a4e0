/* select_k.c: the least values of every row: each is offered to the k best. */
#include "backend/ref/ops.h"
#include "core/matrix.h"
#include "core/topk.h"

size_t peri_ref_select_k_scratch(const peri_device *device, const peri_op_select_k *op) {
    (void)device;
    (void)op;
    return 0;
}

static float plain(float value) {
    if (isnan(value)) return INFINITY;
    return value == 0.0f ? 0.0f : value;
}

peri_status peri_ref_select_k(peri_stream *stream, const peri_op_select_k *op, void *scratch,
                              size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    size_t columns = op->values.cols;
    for (size_t i = 0; i < op->values.rows; i++) {
        const float *values = peri_view_row(&op->values, i);
        int64_t *ids = op->best_ids + i * op->k;
        peri_topk top;
        peri_topk_init(&top, op->best_values + i * op->k, ids, op->k);
        for (size_t j = 0; j < columns; j++) peri_topk_offer(&top, plain(values[j]), (int64_t)j);
        peri_topk_finish(&top);
        for (size_t j = 0; j < op->k && op->ids != NULL; j++)
            if (ids[j] != PERI_ID_NONE) ids[j] = op->ids[i * columns + (size_t)ids[j]];
    }
    return PERI_OK;
}
