/* others.c: answers of rows about themselves, without themselves. */
#include "backend/ref/ops.h"
#include "core/matrix.h"

size_t peri_ref_others_scratch(const peri_device *device, const peri_op_others *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_ref_others(peri_stream *stream, const peri_op_others *op, void *scratch,
                            size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->count; i++) {
        const int64_t *ids = op->ids + i * (op->degree + 1);
        uint32_t *list = op->slots + i * op->degree;
        size_t at = 0;
        for (size_t j = 0; j <= op->degree && at < op->degree; j++)
            if (ids[j] != (int64_t)(op->first + i))
                list[at++] = ids[j] == PERI_ID_NONE ? PERI_SLOT_NONE : (uint32_t)ids[j];
        while (at < op->degree) list[at++] = PERI_SLOT_NONE;
    }
    return PERI_OK;
}
