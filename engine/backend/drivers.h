/* drivers.h: the backends that are linked in. */
#ifndef PERI_BACKEND_DRIVERS_H
#define PERI_BACKEND_DRIVERS_H

#include "perigee_backend.h"

extern const peri_driver peri_cpu_driver;
extern const peri_driver peri_ref_driver;
extern const peri_driver peri_fake_driver;

#endif
