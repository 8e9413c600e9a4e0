/* detours.h: the kernel of detour pruning, one an instruction set: which slots of a list are in
 * another row's list, and at which ranks. */
#ifndef PERI_BACKEND_CPU_DETOURS_H
#define PERI_BACKEND_CPU_DETOURS_H

#include <stddef.h>
#include <stdint.h>

/* What may be read behind the last rank of a map. */
#define PERI_RANKS_SPARE 4u

/* Writes those of ranks[slots[0..count-1]] that are above `least` to `hits`, in any order, and
 * returns how many. `hits` has room for count + 16. All slots are in range. */
typedef size_t (*peri_ranks_fn)(const uint16_t *ranks, const uint32_t *slots, size_t count,
                                uint32_t least, uint16_t *hits);

size_t peri_ranks_avx512(const uint16_t *ranks, const uint32_t *slots, size_t count, uint32_t least,
                         uint16_t *hits);

/* Of the instruction set in use. */
peri_ranks_fn peri_ranks_chosen(void);

#endif
