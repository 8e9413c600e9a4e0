/* bitset.c: ranges and counts of bits. */
#include "core/bitset.h"

void peri_bitset_add_range(uint64_t *words, size_t first, size_t stop) {
    if (first >= stop) return;
    size_t from = first / 64, to = (stop - 1) / 64;
    uint64_t head = ~UINT64_C(0) << (first % 64);
    uint64_t tail = ~UINT64_C(0) >> (63 - (stop - 1) % 64);
    if (from == to) {
        words[from] |= head & tail;
        return;
    }
    words[from] |= head;
    for (size_t w = from + 1; w < to; w++) words[w] = ~UINT64_C(0);
    words[to] |= tail;
}

size_t peri_bitset_count(const uint64_t *words, size_t bits) {
    size_t count = 0;
    for (size_t w = 0; w < bits / 64; w++) count += (size_t)__builtin_popcountll(words[w]);
    if (bits % 64 != 0) {
        uint64_t tail = words[bits / 64] & (~UINT64_C(0) >> (64 - bits % 64));
        count += (size_t)__builtin_popcountll(tail);
    }
    return count;
}

void peri_bitset_trim(uint64_t *words, size_t bits) {
    if (bits % 64 != 0) words[bits / 64] &= ~UINT64_C(0) >> (64 - bits % 64);
}
