/* pq_wide.h: the kernels of the fast scan of codes of 5 to 8 bits, by instruction set. */
#ifndef PERI_BACKEND_CPU_PQ_WIDE_H
#define PERI_BACKEND_CPU_PQ_WIDE_H

#include "backend/cpu/pq_scan.h"

extern const peri_pq_wide peri_pq_wide_avx512vbmi;

#endif
