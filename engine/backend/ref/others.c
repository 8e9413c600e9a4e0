/* others.c: answers of rows about themselves, without themselves. */
#include "backend/ref/ops.h"
#include "core/matrix.h"

size_t peri_ref_others_scratch(const peri_device *device, const peri_op_others *op) {
    (void)device;
    (void)op;
    return 0;
}

static void put(const peri_op_others *op, size_t to, size_t from) {
    int64_t id = op->ids[from];
    if (op->slots != NULL) op->slots[to] = id == PERI_ID_NONE ? PERI_SLOT_NONE : (uint32_t)id;
    if (op->other_ids != NULL) op->other_ids[to] = id;
    if (op->other_distances != NULL) op->other_distances[to] = op->distances[from];
}

peri_status peri_ref_others(peri_stream *stream, const peri_op_others *op, void *scratch,
                            size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->count; i++) {
        size_t from = i * (op->degree + 1), at = 0;
        for (size_t j = from; j <= from + op->degree && at < op->degree; j++)
            if (op->ids[j] != (int64_t)(op->first + i)) put(op, i * op->degree + at++, j);
    }
    return PERI_OK;
}
