/* pq_kernels.c: the kernels of a scan of codes without special instructions, and which are used. */
#include "backend/cpu/distances.h"
#include "backend/cpu/pq_scan_body.h"

const peri_pq_kernels peri_pq_kernels_scalar = { plain_tables, plain_sums, plain_spans,
                                                 plain_shrink, plain_masks };

const peri_pq_kernels *peri_pq_kernels_chosen(void) {
    switch (peri_isa_chosen()) {
#if defined(__x86_64__)
    case PERI_ISA_AVX512: return &peri_pq_kernels_avx512;
    case PERI_ISA_AVX2: return &peri_pq_kernels_avx2;
#elif defined(__aarch64__)
    case PERI_ISA_NEON: return &peri_pq_kernels_neon;
#endif
    default: return &peri_pq_kernels_scalar;
    }
}
