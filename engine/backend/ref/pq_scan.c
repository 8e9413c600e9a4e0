/* pq_scan.c: the value of every entry of the probed lists that passes, each from its codewords,
 * offered to the k best of its query. */
#include <math.h>

#include "backend/ref/ops.h"
#include "core/bitset.h"
#include "core/codes.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/topk.h"

size_t peri_ref_pq_scan_scratch(const peri_device *device, const peri_op_pq_scan *op) {
    (void)device;
    (void)op;
    return 0;
}

static bool passes(const peri_filter_view *filter, size_t query, size_t slot) {
    if (filter->count == 0) return true;
    uint32_t which = filter->which == NULL ? 0 : filter->which[query];
    return peri_bitset_test(filter->bits[which], slot);
}

static bool is_squared(peri_metric metric) {
    return metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN;
}

/* T[j][w] of the contract. */
static float piece_value(const peri_op_pq_scan *op, const float *x, const float *centroid, size_t j,
                         const float *word) {
    float sum = 0;
    for (size_t i = 0; i < op->pq_len; i++) {
        size_t at = j * op->pq_len + i;
        float t = centroid == NULL ? x[at] : x[at] - centroid[at];
        if (!is_squared(op->metric))
            sum = fmaf(x[at], word[i], sum);
        else
            sum = fmaf(t - word[i], t - word[i], sum);
    }
    return sum;
}

static uint32_t code_of(const peri_op_pq_scan *op, size_t at, size_t j) {
    size_t group = PERI_CODES_GROUP, bytes = peri_codes_bytes(op->pq_dim, op->pq_bits);
    const uint8_t *first = op->codes + (at - at % group) * bytes + at % group;
    uint32_t code = 0;
    for (uint32_t bit = 0; bit < op->pq_bits; bit++) {
        size_t number = j * op->pq_bits + bit;
        code |= (uint32_t)(first[number / 8 * group] >> number % 8 & 1) << bit;
    }
    return code;
}

static float value_of(const peri_op_pq_scan *op, const float *x, size_t list, size_t at) {
    size_t dim = op->queries.cols, codes = (size_t)1 << op->pq_bits;
    const float *centroid = op->centroids == NULL ? NULL : op->centroids + list * dim;
    float sum = 0;
    for (size_t j = 0; j < op->pq_dim; j++) {
        size_t word = (op->per_cluster ? list : j) * codes + code_of(op, at, j);
        sum += piece_value(op, x, centroid, j, op->codebooks + word * op->pq_len);
    }
    if (!is_squared(op->metric)) {
        float dot = centroid == NULL ? 0 : peri_canonical_dot(PERI_F32, x, centroid, (uint32_t)dim);
        sum = op->metric == PERI_COSINE ? 1 - (dot + sum) : -(dot + sum);
    }
    return isnan(sum) ? INFINITY : sum;
}

static size_t scan_list(const peri_op_pq_scan *op, size_t i, size_t list, peri_topk *top) {
    const float *x = peri_view_row(&op->queries, i);
    size_t first = (size_t)op->lists.offsets[list], passed = 0;
    for (size_t at = first; at < first + op->lists.sizes[list]; at++) {
        uint32_t slot = op->lists.slots[at];
        if (!passes(&op->filter, i, slot)) continue;
        peri_topk_offer(top, value_of(op, x, list, at), (int64_t)slot);
        passed++;
    }
    return passed;
}

static void search_one(const peri_op_pq_scan *op, size_t i) {
    size_t probes = op->probes == NULL ? op->lists.n_lists : op->n_probes, visited = 0;
    peri_topk top;
    peri_topk_init(&top, op->distances + i * op->k, op->ids + i * op->k, op->k);
    for (size_t p = 0; p < probes; p++) {
        int64_t list = op->probes == NULL ? (int64_t)p : op->probes[i * probes + p];
        if (list != PERI_ID_NONE) visited += scan_list(op, i, (size_t)list, &top);
    }
    peri_topk_finish(&top);
    if (op->visited != NULL) op->visited[i] = (uint32_t)visited;
}

peri_status peri_ref_pq_scan(peri_stream *stream, const peri_op_pq_scan *op, void *scratch,
                             size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->queries.rows; i++) search_one(op, i);
    return PERI_OK;
}
