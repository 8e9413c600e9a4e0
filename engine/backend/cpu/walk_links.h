/* walk_links.h: which links of a row are new to a walk, by the best instruction set found. */
#ifndef PERI_BACKEND_CPU_WALK_LINKS_H
#define PERI_BACKEND_CPU_WALK_LINKS_H

#include <stddef.h>
#include <stdint.h>

/* Writes those of links[0..count-1] whose bit in `taken` is not set to `slots`, in order, and sets
 * it; returns how many. `slots` has room for `count`. */
typedef size_t (*peri_walk_links_fn)(const uint32_t *links, size_t count, uint64_t *taken,
                                     uint32_t *slots);

size_t peri_walk_links_avx2(const uint32_t *links, size_t count, uint64_t *taken, uint32_t *slots);

/* For the instruction set in use. */
peri_walk_links_fn peri_walk_links_chosen(void);

/* One slot: appended unless it was taken before, without a branch: it is a toss. */
static inline size_t peri_walk_append(uint64_t *restrict taken, uint32_t *restrict slots,
                                      size_t count, uint32_t slot) {
    uint64_t word = taken[slot / 64], bit = UINT64_C(1) << (slot % 64);
    slots[count] = slot;
    taken[slot / 64] = word | bit;
    return count + ((word & bit) == 0);
}

#endif
