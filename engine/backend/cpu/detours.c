/* detours.c: the kernel of detour pruning in plain C: no branch asks whether a rank is a hit. */
#include "backend/cpu/detours.h"

#include "backend/cpu/distances.h"

static size_t ranks_scalar(const uint16_t *ranks, const uint32_t *slots, size_t count,
                           uint32_t least, uint16_t *hits) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t rank = ranks[slots[i]];
        hits[found] = rank;
        found += rank > least;
    }
    return found;
}

peri_ranks_fn peri_ranks_chosen(void) {
#if defined(__x86_64__)
    if (peri_isa_chosen() == PERI_ISA_AVX512) return peri_ranks_avx512;
#endif
    return ranks_scalar;
}
