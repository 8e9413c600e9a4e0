/* knn_block.c: which kernels of the coarse pass this CPU runs. */
#include "backend/cpu/knn_block.h"

#include <stdatomic.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "backend/cpu/distances.h"

#define AVXVNNI_BIT (1u << 4) /* of eax, leaf 7, subleaf 1 */

static bool has_avxvnni(void) {
#if defined(__x86_64__)
    unsigned a = 0, b, c, d;
    if (!peri_isa_present(PERI_ISA_AVX2)) return false;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & AVXVNNI_BIT) != 0;
#else
    return false;
#endif
}

bool peri_block_has_avxvnni(void) {
    static atomic_int known = -1; /* asked once: isa.c says why */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer < 0) {
        answer = has_avxvnni();
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer != 0;
}

const peri_block_kernels *peri_block_chosen(void) {
    switch (peri_isa_chosen()) {
#if defined(__x86_64__)
    case PERI_ISA_AVX512: return &peri_block_avx512;
    case PERI_ISA_AVX2: return peri_block_has_avxvnni() ? &peri_block_avxvnni : &peri_block_avx2;
#elif defined(__aarch64__)
    case PERI_ISA_NEON: return &peri_block_neon;
#endif
    default: return NULL;
    }
}
