/* list_scan.c: every entry of the probed lists that passes, offered to the k best of its query. */
#include "backend/ref/ops.h"
#include "core/bitset.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/topk.h"

size_t peri_ref_list_scan_scratch(const peri_device *device, const peri_op_list_scan *op) {
    (void)device;
    (void)op;
    return 0;
}

static bool passes(const peri_filter_view *filter, size_t query, size_t slot) {
    if (filter->count == 0) return true;
    uint32_t which = filter->which == NULL ? 0 : filter->which[query];
    return peri_bitset_test(filter->bits[which], slot);
}

/* Offers the entries of one list and returns how many passed. */
static size_t scan_list(const peri_op_list_scan *op, size_t i, float query_length, size_t list,
                        peri_topk *top) {
    const void *query = peri_view_row(&op->queries, i);
    size_t first = (size_t)op->lists.offsets[list], passed = 0;
    for (size_t at = first; at < first + op->lists.sizes[list]; at++) {
        uint32_t slot = op->lists.slots[at];
        if (!passes(&op->filter, i, slot)) continue;
        float value = peri_canonical_distance(
            op->metric, op->rows.dtype, query, peri_view_row(&op->rows, at),
            (uint32_t)op->rows.cols, query_length, op->metric == PERI_COSINE ? op->lengths[at] : 0);
        peri_topk_offer(top, value, (int64_t)slot);
        passed++;
    }
    return passed;
}

static void search_one(const peri_op_list_scan *op, size_t i) {
    bool cosine = op->metric == PERI_COSINE;
    float length = cosine ? peri_canonical_length(op->queries.dtype, peri_view_row(&op->queries, i),
                                                  (uint32_t)op->rows.cols)
                          : 0;
    size_t probes = op->probes == NULL ? op->lists.n_lists : op->n_probes, visited = 0;
    peri_topk top;
    peri_topk_init(&top, op->distances + i * op->k, op->ids + i * op->k, op->k);
    for (size_t p = 0; p < probes; p++) {
        int64_t list = op->probes == NULL ? (int64_t)p : op->probes[i * probes + p];
        if (list != PERI_ID_NONE) visited += scan_list(op, i, length, (size_t)list, &top);
    }
    peri_topk_finish(&top);
    if (op->visited != NULL) op->visited[i] = (uint32_t)visited;
}

peri_status peri_ref_list_scan(peri_stream *stream, const peri_op_list_scan *op, void *scratch,
                               size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->queries.rows; i++) search_one(op, i);
    return PERI_OK;
}
