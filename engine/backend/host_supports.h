/* host_supports.h: what the operations of the backends on the host take. One answer for ref and
 * cpu. */
#ifndef PERI_BACKEND_HOST_SUPPORTS_H
#define PERI_BACKEND_HOST_SUPPORTS_H

#include "perigee_backend.h"

/* The `supports` slot: shapes, dtypes and limits; `reason` names the value that is not taken. */
bool peri_host_supports(const peri_device *device, const peri_op *op, char *reason, size_t size);

#endif
