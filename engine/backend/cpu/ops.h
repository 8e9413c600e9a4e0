/* ops.h: the operations of the cpu backend, one file each. Declared from the one list of the seam.
 *
 * peri_cpu_<op>_scratch() is an upper bound of the scratch of peri_cpu_<op>(), in bytes. */
#ifndef PERI_BACKEND_CPU_OPS_H
#define PERI_BACKEND_CPU_OPS_H

#include "perigee_backend.h"

#define PERI_CPU_OP_DECLARE(NAME, name)                                                            \
    peri_status peri_cpu_##name(peri_stream *stream, const peri_op_##name *op, void *scratch,      \
                                size_t scratch_bytes);                                             \
    size_t peri_cpu_##name##_scratch(const peri_device *device, const peri_op_##name *op);
PERI_OP_MAP(PERI_CPU_OP_DECLARE)
#undef PERI_CPU_OP_DECLARE

#endif
