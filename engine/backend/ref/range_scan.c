/* range_scan.c: every entry of the probed lists that passes and is near enough. */
#include "backend/ref/ops.h"
#include "core/bitset.h"
#include "core/distance.h"
#include "core/matrix.h"

size_t peri_ref_range_scan_scratch(const peri_device *device, const peri_op_range_scan *op) {
    (void)device;
    (void)op;
    return 0;
}

static bool passes(const peri_filter_view *filter, size_t query, size_t slot) {
    if (filter->count == 0) return true;
    uint32_t which = filter->which == NULL ? 0 : filter->which[query];
    return peri_bitset_test(filter->bits[which], slot);
}

static void scan_list(const peri_op_range_scan *op, size_t i, float query_length, size_t list) {
    const void *query = peri_view_row(&op->queries, i);
    size_t first = (size_t)op->lists.offsets[list];
    for (size_t at = first; at < first + op->lists.sizes[list]; at++) {
        int64_t slot = op->lists.slots == NULL ? (int64_t)at : (int64_t)op->lists.slots[at];
        if (!passes(&op->filter, i, (size_t)slot)) continue;
        float value = peri_canonical_distance(
            op->metric, op->rows.dtype, query, peri_view_row(&op->rows, at),
            (uint32_t)op->rows.cols, query_length, op->metric == PERI_COSINE ? op->lengths[at] : 0);
        if (!(value <= op->radius)) continue;
        if (op->offsets != NULL) {
            op->ids[op->offsets[i] + op->counts[i]] = slot;
            op->distances[op->offsets[i] + op->counts[i]] = value;
        }
        op->counts[i]++;
    }
}

peri_status peri_ref_range_scan(peri_stream *stream, const peri_op_range_scan *op, void *scratch,
                                size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    size_t probes = op->probes == NULL ? op->lists.n_lists : op->n_probes;
    for (size_t i = 0; i < op->queries.rows; i++) {
        float length = op->metric == PERI_COSINE
                           ? peri_canonical_length(op->queries.dtype,
                                                   peri_view_row(&op->queries, i),
                                                   (uint32_t)op->rows.cols)
                           : 0;
        op->counts[i] = 0;
        for (size_t p = 0; p < probes; p++) {
            int64_t list = op->probes == NULL ? (int64_t)p : op->probes[i * probes + p];
            if (list != PERI_ID_NONE) scan_list(op, i, length, (size_t)list);
        }
    }
    return PERI_OK;
}
