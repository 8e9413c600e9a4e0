/* bitset.h: bits in 64-bit words, bit r in word r / 64. Bits past the end stay 0. */
#ifndef PERI_CORE_BITSET_H
#define PERI_CORE_BITSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t peri_bitset_words(size_t bits) { return bits / 64 + (bits % 64 != 0); }

static inline bool peri_bitset_test(const uint64_t *words, size_t bit) {
    return words[bit / 64] >> (bit % 64) & 1;
}
static inline void peri_bitset_add(uint64_t *words, size_t bit) {
    words[bit / 64] |= UINT64_C(1) << (bit % 64);
}
static inline void peri_bitset_remove(uint64_t *words, size_t bit) {
    words[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

/* Sets bits [first, stop). */
void peri_bitset_add_range(uint64_t *words, size_t first, size_t stop);
/* Set bits among the first `bits`. */
size_t peri_bitset_count(const uint64_t *words, size_t bits);
/* Clears the bits of the last word past `bits`. */
void peri_bitset_trim(uint64_t *words, size_t bits);

#endif
