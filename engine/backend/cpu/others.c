/* others.c: answers of rows about themselves, without themselves: a pass over what was just
 * written, so that one thread keeps up with it. */
#include "backend/cpu/ops.h"
#include "backend/ref/ops.h"

size_t peri_cpu_others_scratch(const peri_device *device, const peri_op_others *op) {
    return peri_ref_others_scratch(device, op);
}

peri_status peri_cpu_others(peri_stream *stream, const peri_op_others *op, void *scratch,
                            size_t scratch_bytes) {
    return peri_ref_others(stream, op, scratch, scratch_bytes);
}
