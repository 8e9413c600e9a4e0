/* near_list_avx512.c: the offer of near_list.h without its guesses.
 *
 * The plain offer sorts and merges by comparing and branching, and each branch is a toss: that
 * costs more than the distances of bytes. Here keys are made and sifted eight at a time, the few
 * that stay are sorted by counting how many are below each, and the merge is two expansions for
 * eight places of the list: of the new keys where a mask of their places says so, of the old ones
 * elsewhere. */
#include <immintrin.h>

#include "backend/cpu/near_offer.h"

#define SORTED_MAX 32u /* keys sorted by counting */
#define MERGED_MAX 64u /* places that a mask holds */

static inline __m512i keys_of(__mmask8 live, const float *distances, const uint32_t *slots) {
    __m256 plain = _mm256_add_ps(_mm256_maskz_loadu_ps(live, distances), _mm256_setzero_ps());
    __m256i bits = _mm256_castps_si256(plain);
    bits = _mm256_xor_si256(
        bits, _mm256_or_si256(_mm256_srai_epi32(bits, 31), _mm256_set1_epi32(INT32_MIN)));
    __m512i slot = _mm512_cvtepu32_epi64(_mm256_maskz_loadu_epi32(live, slots));
    return _mm512_or_si512(_mm512_slli_epi64(_mm512_cvtepu32_epi64(bits), 32),
                           _mm512_slli_epi64(slot, 1));
}

/* The keys below `worst` into spare. */
static size_t sift(const float *distances, const uint32_t *slots, size_t count, uint64_t worst,
                   uint64_t *spare) {
    size_t kept = 0;
    __m512i limit = _mm512_set1_epi64((int64_t)worst);
    for (size_t i = 0; i < count; i += 8) {
        __mmask8 live = count - i >= 8 ? 0xFF : (__mmask8)((1u << (count - i)) - 1);
        __m512i keys = keys_of(live, distances + i, slots + i);
        live = _mm512_mask_cmplt_epu64_mask(live, keys, limit);
        _mm512_storeu_si512(spare + kept, _mm512_maskz_compress_epi64(live, keys));
        kept += (size_t)__builtin_popcount(live);
    }
    return kept;
}

/* As below, for keys of so many blocks of eight. */
static inline __attribute__((always_inline)) void rank_blocks(size_t blocks, const uint64_t *from,
                                                              size_t count, uint64_t *to) {
    __m512i all[SORTED_MAX / 8];
#pragma GCC unroll 4
    for (size_t b = 0; b < blocks; b++) {
        size_t left = count > 8 * b ? count - 8 * b : 0;
        __mmask8 live = left >= 8 ? 0xFF : (__mmask8)((1u << left) - 1);
        all[b] = _mm512_mask_loadu_epi64(_mm512_set1_epi64(-1), live, from + 8 * b);
    }
    for (size_t i = 0; i < count; i++) {
        __m512i key = _mm512_set1_epi64((int64_t)from[i]);
        uint32_t below = 0;
#pragma GCC unroll 4
        for (size_t b = 0; b < blocks; b++)
            below |= (uint32_t)_mm512_cmplt_epu64_mask(all[b], key) << (8 * b);
        to[__builtin_popcount(below)] = from[i];
    }
}

/* count <= SORTED_MAX distinct keys of `from`, ascending, into `to`. */
static void sort_by_rank(const uint64_t *from, size_t count, uint64_t *to) {
    if (count <= 16)
        rank_blocks(2, from, count, to);
    else
        rank_blocks(4, from, count, to);
}

/* How many of the list's keys are below `key`. */
static size_t rank_in(const peri_near_list *list, uint64_t key) {
    size_t below = 0;
    __m512i wide = _mm512_set1_epi64((int64_t)key);
    for (size_t i = 0; i < list->count; i += 8) {
        size_t left = list->count - i;
        __mmask8 live = left >= 8 ? 0xFF : (__mmask8)((1u << left) - 1);
        __m512i keys = _mm512_loadu_si512(list->keys + i);
        below += (size_t)__builtin_popcount(_mm512_mask_cmplt_epu64_mask(live, keys, wide));
    }
    return below;
}

/* Where a key goes: `places` has a bit for each place of the list that a new key takes. */
static inline uint64_t place_bit(const peri_near_list *list, size_t place) {
    return (uint64_t)(place < list->capacity) << (place % MERGED_MAX);
}

static uint64_t find_places(const peri_near_list *list, const uint64_t *sorted, size_t kept) {
    uint64_t places = 0;
    for (size_t i = 0; i < kept; i++) places |= place_bit(list, rank_in(list, sorted[i]) + i);
    return places;
}

/* For at most eight keys in any order, which are sorted on the way. */
static uint64_t find_places_of_few(const peri_near_list *list, const uint64_t *from, size_t kept,
                                   uint64_t *sorted) {
    uint64_t places = 0;
    __mmask8 live = (__mmask8)((1u << kept) - 1);
    __m512i all = _mm512_mask_loadu_epi64(_mm512_set1_epi64(-1), live, from);
    for (size_t i = 0; i < kept; i++) {
        __m512i key = _mm512_set1_epi64((int64_t)from[i]);
        size_t rank = (size_t)__builtin_popcount(_mm512_cmplt_epu64_mask(all, key));
        sorted[rank] = from[i];
        places |= place_bit(list, rank_in(list, from[i]) + rank);
    }
    return places;
}

/* Puts sorted keys at their places in a list of at most MERGED_MAX, from the back, so that an old
 * key is read before its place is written. */
static size_t merge(peri_near_list *list, const uint64_t *sorted, size_t kept, uint64_t places) {
    uint64_t *keys = list->keys;
    size_t total = list->count + kept;
    if (places == 0) return list->capacity;
    size_t lowest = (size_t)__builtin_ctzll(places);
    list->count = total < list->capacity ? total : list->capacity;
    for (size_t block = (list->count + 7) / 8; block-- > lowest / 8;) {
        __mmask8 fresh = (__mmask8)(places >> (8 * block));
        uint64_t before = places & ((UINT64_C(1) << (8 * block)) - 1);
        size_t passed = (size_t)__builtin_popcountll(before);
        __m512i old = _mm512_loadu_si512(keys + 8 * block - passed);
        __m512i all = _mm512_maskz_expand_epi64(fresh, _mm512_loadu_si512(sorted + passed));
        all = _mm512_mask_expand_epi64(all, (__mmask8)~fresh, old);
        _mm512_storeu_si512(keys + 8 * block, all);
    }
    return lowest;
}

size_t peri_near_offer_avx512(peri_near_list *list, const float *distances, const uint32_t *slots,
                              size_t count, uint64_t *spare) {
    uint64_t sorted[SORTED_MAX + 8];
    if (list->capacity > MERGED_MAX || list->capacity == 0)
        return peri_near_offer(list, distances, slots, count, spare);
    uint64_t worst = list->count == list->capacity ? list->keys[list->count - 1] : UINT64_MAX;
    size_t kept = sift(distances, slots, count, worst, spare);
    if (kept == 0) return list->capacity;
    if (kept > SORTED_MAX) return peri_near_merge(list, spare, kept);
    if (kept <= 8) return merge(list, sorted, kept, find_places_of_few(list, spare, kept, sorted));
    sort_by_rank(spare, kept, sorted);
    return merge(list, sorted, kept, find_places(list, sorted, kept));
}
