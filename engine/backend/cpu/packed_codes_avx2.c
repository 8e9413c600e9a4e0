/* packed_codes_avx2.c: the kernels of packed_codes.h, 32 products an instruction: a number of at
 * most 4 bits times 7 bits and a sign, twice, fits the 16 bits of the byte multiply. */
#include <immintrin.h>

#include "backend/cpu/packed_codes.h"

#define INLINE static inline __attribute__((always_inline))

/* dots + the sums of four products of the numbers s of x. */
INLINE __m256i add_products(uint32_t bits, uint32_t s, __m256i x, __m256i v, __m256i dots) {
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    __m256i u = _mm256_and_si256(_mm256_srli_epi32(x, (int)(s * bits)), mask);
    __m256i pairs = _mm256_maddubs_epi16(u, v);
    return _mm256_add_epi32(dots, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* ---- links --------------------------------------------------------------------------------- */

INLINE void group_dots(uint32_t bits, const peri_packed_codes *codes,
                       const peri_packed_query *query, const uint8_t *at, int32_t out[16]) {
    __m256i dots[2] = { _mm256_setzero_si256(), _mm256_setzero_si256() };
    for (size_t w = 0; w < codes->code_bytes; w += 4) {
        const __m256i *x = (const __m256i *)(const void *)(at + 16 * w);
        __m256i low = _mm256_loadu_si256(x), high = _mm256_loadu_si256(x + 1);
#pragma GCC unroll 8
        for (uint32_t s = 0; s < 8 / bits; s++) {
            int32_t four;
            __builtin_memcpy(&four, query->values + (size_t)s * query->stride + w, sizeof four);
            __m256i v = _mm256_set1_epi32(four);
            dots[0] = add_products(bits, s, low, v, dots[0]);
            dots[1] = add_products(bits, s, high, v, dots[1]);
        }
    }
    _mm256_storeu_si256((__m256i *)(void *)out, dots[0]);
    _mm256_storeu_si256((__m256i *)(void *)(out + 8), dots[1]);
}

INLINE size_t links_of(uint32_t bits, const peri_packed_codes *codes,
                       const peri_packed_query *query, const uint8_t *group, const uint32_t *links,
                       size_t count, float bound, uint32_t *slots, float *values) {
    size_t kept = 0, bytes = peri_packed_group_bytes(codes->dim, bits);
    for (size_t first = 0; first < count; first += 16, group += bytes) {
        int32_t dots[16];
        size_t here = count - first < 16 ? count - first : 16;
        group_dots(bits, codes, query, group + 16 * sizeof(peri_packed_factors), dots);
        for (size_t i = 0; i < here; i++) {
            peri_packed_factors factors;
            __builtin_memcpy(&factors.add, group + 4 * i, 4);
            __builtin_memcpy(&factors.scale, group + 4 * (16 + i), 4);
            float value = peri_packed_value(query, bits, factors, dots[i]);
            slots[kept] = links[first + i];
            values[kept] = value;
            kept += value <= bound;
        }
    }
    return kept;
}

size_t peri_packed_links_avx2(const peri_packed_codes *codes, const peri_packed_query *query,
                              const uint8_t *group, const uint32_t *links, size_t count,
                              float bound, uint32_t *slots, float *values) {
    switch (codes->bits) {
    case 1: return links_of(1, codes, query, group, links, count, bound, slots, values);
    case 2: return links_of(2, codes, query, group, links, count, bound, slots, values);
    default: return links_of(4, codes, query, group, links, count, bound, slots, values);
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* Bytes b .. b + 31 of a row's codes, zeros past their end. */
INLINE __m256i load_codes(const uint8_t *row, size_t b, size_t bytes) {
    uint8_t rest[32] = { 0 };
    if (bytes - b >= 32) return _mm256_loadu_si256((const __m256i *)(const void *)(row + b));
    __builtin_memcpy(rest, row + b, bytes - b);
    return _mm256_loadu_si256((const __m256i *)(const void *)rest);
}

INLINE int32_t sum_of(__m256i x) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}

INLINE void rows_of(uint32_t bits, const peri_packed_codes *codes, const peri_packed_query *query,
                    const uint32_t *slots, size_t count, float *values) {
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = codes->rows + slots[i] * codes->stride;
        __m256i dots = _mm256_setzero_si256();
        for (size_t b = 0; b < codes->code_bytes; b += 32) {
            __m256i x = load_codes(row, b, codes->code_bytes);
#pragma GCC unroll 8
            for (uint32_t s = 0; s < 8 / bits; s++) {
                const int8_t *v = query->values + (size_t)s * query->stride + b;
                dots = add_products(bits, s, x,
                                    _mm256_loadu_si256((const __m256i *)(const void *)v), dots);
            }
        }
        values[i] = peri_packed_value(query, bits, peri_packed_row_factors(row, codes->code_bytes),
                                      sum_of(dots));
    }
}

void peri_packed_rows_avx2(const peri_packed_codes *codes, const peri_packed_query *query,
                           const uint32_t *slots, size_t count, float *values) {
    switch (codes->bits) {
    case 1: rows_of(1, codes, query, slots, count, values); return;
    case 2: rows_of(2, codes, query, slots, count, values); return;
    default: rows_of(4, codes, query, slots, count, values); return;
    }
}
