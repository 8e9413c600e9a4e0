/* knn_block_ymm.h: what the kernels of 256 bits share: 16 rows by 6 queries in twelve accumulators,
 * two registers of rows and one of a query: 15 of the 16. Only for files that are compiled with
 * AVX2. */
#ifndef PERI_BACKEND_CPU_KNN_BLOCK_YMM_H
#define PERI_BACKEND_CPU_KNN_BLOCK_YMM_H

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/knn_block.h"

#define ROWS 16
#define QUERIES 6
#define INLINE static inline __attribute__((always_inline))
/* Holds an accumulator in its register: left alone, gcc 12 reorders the integer products until the
 * accumulators no longer fit and keeps them on the stack, at half the speed. */
#define HOLD(accumulator) __asm__ volatile("" : "+x"(accumulator))

/* Of knn_block_avx2.c. */
void peri_block_pack_avx2(peri_dtype dtype, const char *const *rows, uint32_t dim,
                          const float *centre, const float *scale, float *panel, float *norms);
uint32_t peri_block_tile_avx2(const float *panel, const float *start, const float *queries,
                              uint32_t dim, const float *least, uint32_t *masks, float *scores);
size_t peri_block_take_avx2(const peri_block_rule *rule, const void *scores, uint32_t mask,
                            const uint32_t *slots, float *values, uint32_t *out_slots);

INLINE void transpose(__m256 r[8]) {
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]),
               d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        r[i] = _mm256_shuffle_ps(a, c, 0x44);
        r[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
        r[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        r[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m256 a = r[c], b = r[c + 4];
        r[c] = _mm256_permute2f128_ps(a, b, 0x20);
        r[c + 4] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}

INLINE uint32_t both(__m256 low, __m256 high) {
    return (uint32_t)_mm256_movemask_ps(low) | (uint32_t)_mm256_movemask_ps(high) << 8;
}

INLINE __m256i load_words(const void *p) { return _mm256_loadu_si256(p); }

INLINE void put_whole(__m256i low, __m256i high, int32_t *scores) {
    _mm256_storeu_si256((void *)scores, low);
    _mm256_storeu_si256((void *)(scores + 8), high);
}

/* The hits of finished products. */
INLINE uint32_t hits_whole(const __m256i low[QUERIES], const __m256i high[QUERIES],
                           const int32_t *least, uint32_t *masks, int32_t *scores) {
    uint32_t hits = 0;
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        __m256i bar = _mm256_set1_epi32(least[i]);
        uint32_t below = both(_mm256_castsi256_ps(_mm256_cmpgt_epi32(bar, low[i])),
                              _mm256_castsi256_ps(_mm256_cmpgt_epi32(bar, high[i])));
        if (__builtin_expect(below != UINT16_MAX, 0)) {
            masks[i] = below ^ UINT16_MAX;
            put_whole(low[i], high[i], scores + i * ROWS);
            hits |= UINT32_C(1) << i;
        }
    }
    return hits;
}

INLINE __m256 not_below(__m256i products, const float *scale, __m256i base, __m256 bar) {
    __m256 dot = _mm256_cvtepi32_ps(_mm256_add_epi32(products, base));
    return _mm256_cmp_ps(_mm256_mul_ps(_mm256_loadu_ps(scale), dot), bar, _CMP_NLT_UQ);
}

INLINE uint32_t hits_scaled(const __m256i low[QUERIES], const __m256i high[QUERIES],
                            const float *scale, const int32_t *base, const float *least,
                            uint32_t *masks, int32_t *scores) {
    uint32_t hits = 0;
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        __m256 bar = _mm256_broadcast_ss(least + i);
        __m256i more = _mm256_set1_epi32(base[i]);
        uint32_t mask = both(not_below(low[i], scale, more, bar),
                             not_below(high[i], scale + 8, more, bar));
        if (__builtin_expect(mask != 0, 0)) {
            masks[i] = mask;
            put_whole(low[i], high[i], scores + i * ROWS);
            hits |= UINT32_C(1) << i;
        }
    }
    return hits;
}

#endif
