/* ops.h: the operations of the ref backend, one file each. Declared from the one list of the seam.
 *
 * peri_ref_<op>_scratch() is an upper bound of the scratch of peri_ref_<op>(), in bytes. */
#ifndef PERI_BACKEND_REF_OPS_H
#define PERI_BACKEND_REF_OPS_H

#include "perigee_backend.h"

#define PERI_REF_OP_DECLARE(NAME, name)                                                            \
    peri_status peri_ref_##name(peri_stream *stream, const peri_op_##name *op, void *scratch,      \
                                size_t scratch_bytes);                                             \
    size_t peri_ref_##name##_scratch(const peri_device *device, const peri_op_##name *op);
PERI_OP_MAP(PERI_REF_OP_DECLARE)
#undef PERI_REF_OP_DECLARE

#endif
