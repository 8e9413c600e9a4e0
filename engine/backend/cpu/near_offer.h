/* near_offer.h: the offer of near_list.h by the best instruction set found: the same lists. */
#ifndef PERI_BACKEND_CPU_NEAR_OFFER_H
#define PERI_BACKEND_CPU_NEAR_OFFER_H

#include "backend/cpu/near_list.h"

/* As peri_near_offer, but the keys of the list have room for whole blocks of PERI_NEAR_BLOCK, and
 * so has `spare` behind `count`. */
#define PERI_NEAR_BLOCK 8u
typedef size_t (*peri_near_offer_fn)(peri_near_list *list, const float *distances,
                                     const uint32_t *slots, size_t count, uint64_t *spare);

size_t peri_near_offer_avx512(peri_near_list *list, const float *distances, const uint32_t *slots,
                              size_t count, uint64_t *spare);

/* For the instruction set in use. */
peri_near_offer_fn peri_near_offer_chosen(void);

#endif
