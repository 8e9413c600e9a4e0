/* list_join.c: every row of every list that a row probes, offered to its list in turn. */
#include <math.h>
#include <string.h>

#include "backend/ref/ops.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/half.h"
#include "core/matrix.h"

size_t peri_ref_list_join_scratch(const peri_device *device, const peri_op_list_join *op) {
    (void)device;
    return (op->rows.cols + op->degree) * sizeof(float);
}

/* Keeps (d, slot) when it is among the nearest `degree`; `count` is how many are kept so far. */
static size_t offer(const peri_op_list_join *op, size_t row, float *distances, size_t count,
                    float d, uint32_t slot) {
    uint32_t *slots = op->slots + row * op->degree;
    size_t at = count;
    while (at > 0 && (d < distances[at - 1] || (d == distances[at - 1] && slot < slots[at - 1])))
        at--;
    if (at == op->degree) return count;
    size_t moved = peri_min_size(count, op->degree - 1) - at;
    memmove(slots + at + 1, slots + at, moved * sizeof *slots);
    memmove(distances + at + 1, distances + at, moved * sizeof *distances);
    slots[at] = slot;
    distances[at] = d;
    return peri_min_size(count + 1, op->degree);
}

static bool probed_before(const uint32_t *probes, size_t at) {
    for (size_t i = 0; i < at; i++)
        if (probes[i] == probes[at]) return true;
    return false;
}

static void join_row(const peri_op_list_join *op, size_t row, float *wide, float *distances) {
    const uint32_t *probes = op->probes + row * op->probe_count;
    const void *query = peri_view_row(&op->rows, row);
    uint32_t dim = (uint32_t)op->rows.cols;
    bool cosine = op->metric == PERI_COSINE;
    size_t count = 0;
    if (op->rows.dtype == PERI_F16) {
        for (size_t i = 0; i < dim; i++) wide[i] = peri_half_to_float(((const uint16_t *)query)[i]);
        query = wide;
    }
    for (size_t p = 0; p < op->probe_count; p++) {
        if (probes[p] == PERI_SLOT_NONE || probed_before(probes, p)) continue;
        for (uint32_t slot = op->starts[probes[p]]; slot < op->starts[probes[p] + 1]; slot++) {
            if (slot == row) continue;
            float d = peri_canonical_distance(
                op->metric, op->rows.dtype, query, peri_view_row(&op->rows, slot), dim,
                cosine ? op->lengths[row] : 0, cosine ? op->lengths[slot] : 0);
            count = offer(op, row, distances, count, d, slot);
        }
    }
    for (; count < op->degree; count++) {
        op->slots[row * op->degree + count] = PERI_SLOT_NONE;
        distances[count] = INFINITY;
    }
    if (op->distances != NULL)
        memcpy(op->distances + row * op->degree, distances, op->degree * sizeof *distances);
}

peri_status peri_ref_list_join(peri_stream *stream, const peri_op_list_join *op, void *scratch,
                               size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    float *wide = scratch, *distances = wide + op->rows.cols;
    for (size_t row = 0; row < op->rows.rows; row++) join_row(op, row, wide, distances);
    return PERI_OK;
}
