/* merge.c: the best of several sorted lists: the nearest of their heads, again and again. */
#include "backend/ref/ops.h"
#include "core/topk.h"

size_t peri_ref_merge_scratch(const peri_device *device, const peri_op_merge *op) {
    (void)device;
    return op->parts * sizeof(size_t);
}

/* The part of the nearest head, or `parts` when all lists have ended; its entry goes to id and
 * distance. */
static size_t nearest_head(const peri_op_merge *op, size_t query, const size_t *at, int64_t *id,
                           float *distance) {
    size_t found = op->parts;
    for (size_t p = 0; p < op->parts; p++) {
        size_t entry = (p * op->queries + query) * op->part_k + at[p];
        if (at[p] == op->part_k || op->ids[entry] == PERI_ID_NONE) continue;
        int64_t own = op->ids[entry] + (op->bases == NULL ? 0 : op->bases[p]);
        if (found < op->parts && !peri_nearer(op->distances[entry], own, *distance, *id)) continue;
        found = p;
        *id = own;
        *distance = op->distances[entry];
    }
    return found;
}

static void merge_query(const peri_op_merge *op, size_t query, size_t *at) {
    int64_t *ids = op->best_ids + query * op->k, id = 0;
    float *distances = op->best_distances + query * op->k, distance = 0;
    size_t count = 0;
    for (size_t p = 0; p < op->parts; p++) at[p] = 0;
    while (count < op->k) {
        size_t part = nearest_head(op, query, at, &id, &distance);
        if (part == op->parts) break;
        at[part]++;
        if (op->unique && count > 0 && ids[count - 1] == id && distances[count - 1] == distance)
            continue;
        ids[count] = id;
        distances[count++] = distance;
    }
    for (; count < op->k; count++) {
        ids[count] = PERI_ID_NONE;
        distances[count] = INFINITY;
    }
}

peri_status peri_ref_merge(peri_stream *stream, const peri_op_merge *op, void *scratch,
                           size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->queries; i++) merge_query(op, i, scratch);
    return PERI_OK;
}
