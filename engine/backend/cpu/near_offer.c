/* near_offer.c: which offer the CPU takes. */
#include "backend/cpu/near_offer.h"

#include "backend/cpu/distances.h"

static size_t plain_offer(peri_near_list *list, const float *distances, const uint32_t *slots,
                          size_t count, uint64_t *spare) {
    return peri_near_offer(list, distances, slots, count, spare);
}

peri_near_offer_fn peri_near_offer_chosen(void) {
#if defined(__x86_64__)
    if (peri_isa_chosen() == PERI_ISA_AVX512) return peri_near_offer_avx512;
#endif
    return plain_offer;
}
