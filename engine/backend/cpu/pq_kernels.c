/* pq_kernels.c: the kernels of a scan of codes without special instructions, and which are used. */
#include <stdatomic.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/pq_scan_body.h"

static atomic_bool common_only;

void peri_pq_kernels_force_common(bool common) { atomic_store(&common_only, common); }

static float scalar_tables(const peri_pq_shape *shape, const float *x, const float *centroid,
                           float *scratch, const float *words, float *T) {
    return plain_tables(shape, x, centroid, scratch, words, T);
}

const peri_pq_kernels peri_pq_kernels_scalar = { .most = PERI_PQ_FAST_MOST,
                                                 .tables = scalar_tables,
                                                 .sums = plain_sums,
                                                 .spans = plain_spans,
                                                 .shrink = plain_shrink,
                                                 .masks = plain_masks };

#if defined(__x86_64__)
static const peri_pq_kernels *avx512_kernels(void) {
    bool vbmi = __builtin_cpu_supports("avx512vbmi") && !atomic_load(&common_only);
    return vbmi ? &peri_pq_kernels_avx512vbmi : &peri_pq_kernels_avx512;
}
#endif

const peri_pq_kernels *peri_pq_kernels_chosen(void) {
    switch (peri_isa_chosen()) {
#if defined(__x86_64__)
    case PERI_ISA_AVX512: return avx512_kernels();
    case PERI_ISA_AVX2: return &peri_pq_kernels_avx2;
#elif defined(__aarch64__)
    case PERI_ISA_NEON: return &peri_pq_kernels_neon;
#endif
    default: return &peri_pq_kernels_scalar;
    }
}
