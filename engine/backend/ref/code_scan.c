/* code_scan.c: the value of every entry of the probed lists that passes, offered to the k best of
 * its query. */
#include "backend/ref/ops.h"
#include "core/bitset.h"
#include "core/code_value.h"
#include "core/matrix.h"
#include "core/topk.h"

typedef struct asked {
    const peri_op_code_scan *op;
    const float *query;
    const uint64_t *bits;
    int8_t *values; /* [2, cols] */
    float *middle;  /* [cols] or NULL */
    peri_code_query_head head;
    peri_topk top;
} asked;

size_t peri_ref_code_scan_scratch(const peri_device *device, const peri_op_code_scan *op) {
    (void)device;
    return op->queries.cols * (sizeof(float) + 2);
}

/* T. */
static float sum_of(const asked *a, const uint8_t *code) {
    const peri_op_code_scan *op = a->op;
    size_t cols = op->queries.cols;
    int32_t most = (1 << op->bits) - 1, sums[2] = { 0, 0 };
    for (size_t j = 0; j < cols; j++) {
        int32_t u = 2 * (int32_t)peri_codes_get(code, j, op->bits) - most;
        sums[0] += u * a->values[j];
        if (op->query_bytes == 2) sums[1] += u * a->values[cols + j];
    }
    if (op->query_bytes == 1) return (float)sums[0];
    return 128.0f * (float)sums[0] + (float)sums[1];
}

static float base_of(const asked *a, size_t list) {
    const peri_op_code_scan *op = a->op;
    uint32_t cols = (uint32_t)op->queries.cols;
    const float *centroid = op->centroids == NULL ? NULL : op->centroids + list * cols;
    if (!peri_value_squared(op->metric))
        return centroid == NULL ? 0 : -peri_canonical_dot(PERI_F32, a->query, centroid, cols);
    return centroid == NULL ? peri_canonical_dot(PERI_F32, a->query, a->query, cols)
                            : peri_canonical_sqeuclidean(PERI_F32, a->query, centroid, cols);
}

static size_t scan_list(asked *a, size_t list) {
    const peri_op_code_scan *op = a->op;
    size_t bytes = peri_codes_bytes(op->queries.cols, op->bits), passed = 0;
    size_t first = (size_t)op->lists.offsets[list];
    float base = base_of(a, list);
    for (size_t at = first; at < first + op->lists.sizes[list]; at++) {
        uint32_t slot = op->lists.slots[at];
        if (a->bits != NULL && !peri_bitset_test(a->bits, slot)) continue;
        float product = a->head.half_step * sum_of(a, op->codes + at * bytes);
        product += a->head.offset;
        if (op->scales != NULL) product *= op->scales[at];
        float value = peri_code_value(op->metric, &a->head, base,
                                      op->adds == NULL ? 0 : op->adds[at], product);
        peri_topk_offer(&a->top, value, (int64_t)slot);
        passed++;
    }
    return passed;
}

static void search_one(asked *a, size_t i) {
    const peri_op_code_scan *op = a->op;
    size_t probes = op->probes == NULL ? op->lists.n_lists : op->n_probes, visited = 0;
    a->query = peri_view_row(&op->queries, i);
    a->bits = NULL;
    if (op->filter.count > 0)
        a->bits = op->filter.bits[op->filter.which == NULL ? 0 : op->filter.which[i]];
    peri_code_round(op, a->query, a->middle, op->queries.cols, a->values, &a->head);
    peri_topk_init(&a->top, op->distances + i * op->k, op->ids + i * op->k, op->k);
    for (size_t p = 0; p < probes; p++) {
        int64_t list = op->probes == NULL ? (int64_t)p : op->probes[i * probes + p];
        if (list != PERI_ID_NONE) visited += scan_list(a, (size_t)list);
    }
    peri_topk_finish(&a->top);
    if (op->visited != NULL) op->visited[i] = (uint32_t)visited;
}

peri_status peri_ref_code_scan(peri_stream *stream, const peri_op_code_scan *op, void *scratch,
                               size_t scratch_bytes) {
    float *middle = scratch;
    asked a = { .op = op, .values = (int8_t *)(middle + op->queries.cols) };
    (void)stream;
    (void)scratch_bytes;
    if (op->low != NULL) {
        peri_code_middle(op, middle);
        a.middle = middle;
    }
    for (size_t i = 0; i < op->queries.rows; i++) search_one(&a, i);
    return PERI_OK;
}
