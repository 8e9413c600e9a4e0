/* near_list_avx512.c: the offer of near_list.h without its guesses.
 *
 * The plain offer sorts and merges by comparing and branching, and each branch is a toss: that
 * costs more than the distances of bytes. Here keys are made and sifted eight at a time, the few
 * that stay are sorted by counting how many are below each, and the merge is two expansions for
 * eight places of the list: of the new keys where a mask of their places says so, of the old ones
 * elsewhere. */
#include <immintrin.h>

#include "backend/cpu/near_offer.h"

#define SORTED_MAX 32u   /* keys sorted by counting */
#define MERGED_MAX 4096u /* places that the masks hold; beyond, moving is most of the work anyhow */
#define WORDS (MERGED_MAX / 64)
#define LINEAR_MAX 64u /* keys that are all compared when one's place is sought */
#define INLINE static inline __attribute__((always_inline))

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
        __mmask8 live = (__mmask8)(count - i >= 8 ? 0xFFu : (1u << (count - i)) - 1);
        __m512i keys = keys_of(live, distances + i, slots + i);
        live = _mm512_mask_cmplt_epu64_mask(live, keys, limit);
        _mm512_storeu_si512(spare + kept, _mm512_maskz_compress_epi64(live, keys));
        kept += (size_t)__builtin_popcount(live);
    }
    return kept;
}

/* As below, for keys of so many blocks of eight. */
INLINE void rank_blocks(size_t blocks, const uint64_t *from, size_t count, uint64_t *to) {
    __m512i all[SORTED_MAX / 8];
#pragma GCC unroll 4
    for (size_t b = 0; b < blocks; b++) {
        size_t left = count > 8 * b ? count - 8 * b : 0;
        __mmask8 live = (__mmask8)(left >= 8 ? 0xFFu : (1u << left) - 1);
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

/* How many of the keys [count] are below `key`. */
static inline size_t rank_among(const uint64_t *keys, size_t count, uint64_t key) {
    size_t below = 0;
    __m512i wide = _mm512_set1_epi64((int64_t)key);
    for (size_t i = 0; i < count; i += 8) {
        size_t left = count - i;
        __mmask8 live = (__mmask8)(left >= 8 ? 0xFFu : (1u << left) - 1);
        __m512i some = _mm512_loadu_si512(keys + i);
        below += (size_t)__builtin_popcount(_mm512_mask_cmplt_epu64_mask(live, some, wide));
    }
    return below;
}

/* How many of the list's keys are below `key`: of a long list, halves first. */
INLINE size_t rank_in(bool longer, const peri_near_list *list, uint64_t key) {
    size_t from = 0, count = list->count;
    while (longer && count > LINEAR_MAX) {
        size_t half = count / 2;
        from += list->keys[from + half - 1] < key ? half : 0;
        count -= half;
    }
    return from + rank_among(list->keys + from, count, key);
}

/* ---- the merge ------------------------------------------------------------------------------ */

/* The places of the list that new keys take, a bit each, and the lowest of them. All functions on
 * them know when compiled whether the list is `longer` than 64: if not, the bits are a register. */
typedef struct places {
    size_t count, lowest;
    uint64_t words[WORDS];
} places;

/* `at`: how many keys are below the new one, of the list's and of those that come with it. */
INLINE void take_place(bool longer, places *p, const peri_near_list *list, size_t at) {
    size_t taken = at < list->capacity;
    p->words[longer && taken ? at / 64 : 0] |= taken << (at % 64);
    p->count += taken;
    if (longer) p->lowest = at < p->lowest ? at : p->lowest;
}

INLINE void clear_places(bool longer, places *p, const peri_near_list *list) {
    p->count = p->words[0] = 0;
    p->lowest = list->capacity;
    for (size_t i = 1; longer && i <= (list->capacity - 1) / 64; i++) p->words[i] = 0;
}

INLINE void find_places(bool longer, places *p, const peri_near_list *list, const uint64_t *sorted,
                        size_t kept) {
    clear_places(longer, p, list);
    for (size_t i = 0; i < kept; i++)
        take_place(longer, p, list, rank_in(longer, list, sorted[i]) + i);
}

/* For at most eight keys in any order, which are sorted on the way. */
INLINE void find_places_of_few(bool longer, places *p, const peri_near_list *list,
                               const uint64_t *from, size_t kept, uint64_t *sorted) {
    __mmask8 live = (__mmask8)((1u << kept) - 1);
    __m512i all = _mm512_mask_loadu_epi64(_mm512_set1_epi64(-1), live, from);
    clear_places(longer, p, list);
    for (size_t i = 0; i < kept; i++) {
        __m512i key = _mm512_set1_epi64((int64_t)from[i]);
        size_t rank = (size_t)__builtin_popcount(_mm512_cmplt_epu64_mask(all, key));
        sorted[rank] = from[i];
        take_place(longer, p, list, rank_in(longer, list, from[i]) + rank);
    }
}

/* Puts sorted keys at their places, from the back, so that an old key is read before its place is
 * written. */
INLINE size_t merge(bool longer, peri_near_list *list, const uint64_t *sorted, size_t kept,
                    const places *p) {
    uint64_t *keys = list->keys;
    size_t total = list->count + kept, before = p->count;
    if (p->count == 0) return list->capacity;
    size_t lowest = longer ? p->lowest : (size_t)__builtin_ctzll(p->words[0]);
    list->count = total < list->capacity ? total : list->capacity;
    for (size_t block = (list->count + 7) / 8; block-- > lowest / 8;) {
        __mmask8 fresh = (__mmask8)(p->words[longer ? block / 8 : 0] >> (8 * (block % 8)));
        before -= (size_t)__builtin_popcount(fresh); /* new keys in the blocks before */
        __m512i old = _mm512_loadu_si512(keys + 8 * block - before);
        __m512i all = _mm512_maskz_expand_epi64(fresh, _mm512_loadu_si512(sorted + before));
        all = _mm512_mask_expand_epi64(all, (__mmask8)~fresh, old);
        _mm512_storeu_si512(keys + 8 * block, all);
    }
    return lowest;
}

INLINE size_t enter(bool longer, peri_near_list *list, const uint64_t *spare, size_t kept) {
    uint64_t sorted[SORTED_MAX + 8];
    places where;
    if (kept <= 8) {
        find_places_of_few(longer, &where, list, spare, kept, sorted);
    } else {
        sort_by_rank(spare, kept, sorted);
        find_places(longer, &where, list, sorted, kept);
    }
    return merge(longer, list, sorted, kept, &where);
}

static size_t enter_longer(peri_near_list *list, const uint64_t *spare, size_t kept) {
    return enter(true, list, spare, kept);
}

size_t peri_near_offer_avx512(peri_near_list *list, const float *distances, const uint32_t *slots,
                              size_t count, uint64_t *spare) {
    if (list->capacity > MERGED_MAX || list->capacity == 0)
        return peri_near_offer(list, distances, slots, count, spare);
    uint64_t worst = list->count == list->capacity ? list->keys[list->count - 1] : UINT64_MAX;
    size_t kept = sift(distances, slots, count, worst, spare);
    if (kept == 0) return list->capacity;
    if (kept > SORTED_MAX) return peri_near_merge(list, spare, kept);
    return list->capacity > 64 ? enter_longer(list, spare, kept) : enter(false, list, spare, kept);
}
