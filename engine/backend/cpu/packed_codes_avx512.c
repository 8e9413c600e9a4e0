/* packed_codes_avx512.c: the kernels of packed_codes.h, 64 products an instruction (VNNI). Numbers
 * are cut out of bytes where they stand: one shift and one mask for 64 of them. */
#include <immintrin.h>

#include "backend/cpu/packed_codes.h"

#define INLINE static inline __attribute__((always_inline))
enum { ROWS = 4 };

/* Number s of every byte of x. */
INLINE __m512i number(uint32_t bits, uint32_t s, __m512i x) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    return _mm512_and_si512(_mm512_srli_epi32(x, s * bits), mask);
}

INLINE __m512 to_values(const peri_packed_query *query, uint32_t bits, __m512 add, __m512 scale,
                        __m512i dots) {
    int32_t most = (int32_t)(((1u << bits) - 1u) * (uint32_t)query->sum);
    __m512i centred = _mm512_sub_epi32(_mm512_add_epi32(dots, dots), _mm512_set1_epi32(most));
    __m512 step = _mm512_mul_ps(_mm512_set1_ps(query->half_step), _mm512_cvtepi32_ps(centred));
    __m512 product = _mm512_mul_ps(scale, step);
    __m512 value = query->squared ? _mm512_sub_ps(add, _mm512_add_ps(product, product))
                                  : _mm512_sub_ps(_mm512_setzero_ps(), product);
    __mmask16 lost = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(value, lost, _mm512_set1_ps(__builtin_inff()));
}

/* ---- links --------------------------------------------------------------------------------- */

/* The dots of `groups` groups of 16 links. */
INLINE void group_dots(uint32_t bits, size_t groups, const peri_packed_codes *codes,
                       const peri_packed_query *query, const uint8_t *const *at, __m512i *out) {
    __m512i dots[2][2];
    for (size_t g = 0; g < groups; g++) dots[g][0] = dots[g][1] = _mm512_setzero_si512();
    for (size_t w = 0; w < codes->code_bytes; w += 4) {
        __m512i x[2];
        for (size_t g = 0; g < groups; g++) x[g] = _mm512_loadu_si512(at[g] + 16 * w);
#pragma GCC unroll 8
        for (uint32_t s = 0; s < 8 / bits; s++) {
            int32_t four;
            __builtin_memcpy(&four, query->values + (size_t)s * query->stride + w, sizeof four);
            __m512i v = _mm512_set1_epi32(four);
            for (size_t g = 0; g < groups; g++)
                dots[g][s % 2] = _mm512_dpbusd_epi32(dots[g][s % 2], number(bits, s, x[g]), v);
        }
    }
    for (size_t g = 0; g < groups; g++) out[g] = _mm512_add_epi32(dots[g][0], dots[g][1]);
}

INLINE size_t keep(const peri_packed_query *query, uint32_t bits, const uint8_t *group,
                   const uint32_t *links, size_t count, float bound, __m512i dots, uint32_t *slots,
                   float *values) {
    __mmask16 live = (__mmask16)(count >= 16 ? 0xFFFFu : (1u << count) - 1);
    __m512 add = _mm512_loadu_ps((const float *)(const void *)group);
    __m512 scale = _mm512_loadu_ps((const float *)(const void *)(group + 64));
    __m512 value = to_values(query, bits, add, scale, dots);
    live = _mm512_mask_cmp_ps_mask(live, value, _mm512_set1_ps(bound), _CMP_LE_OQ);
    __m512i slot = _mm512_maskz_loadu_epi32(live, links);
    _mm512_storeu_si512(slots, _mm512_maskz_compress_epi32(live, slot));
    _mm512_storeu_ps(values, _mm512_maskz_compress_ps(live, value));
    return (size_t)__builtin_popcount(live);
}

INLINE size_t links_of(uint32_t bits, const peri_packed_codes *codes,
                       const peri_packed_query *query, const uint8_t *group, const uint32_t *links,
                       size_t count, float bound, uint32_t *slots, float *values) {
    const size_t bytes = peri_packed_group_bytes(codes->dim, bits);
    const size_t head = PERI_PACKED_GROUP * sizeof(peri_packed_factors);
    size_t kept = 0, i = 0;
    for (; i + 16 < count; i += 32) {
        const uint8_t *first = group + i / 16 * bytes, *second = first + bytes;
        const uint8_t *const at[] = { first + head, second + head };
        __m512i dots[2];
        group_dots(bits, 2, codes, query, at, dots);
        kept += keep(query, bits, first, links + i, 16, bound, dots[0], slots + kept,
                     values + kept);
        kept += keep(query, bits, second, links + i + 16, count - i - 16, bound, dots[1],
                     slots + kept, values + kept);
    }
    if (i >= count) return kept;
    const uint8_t *last = group + i / 16 * bytes, *const at[] = { last + head };
    __m512i dots;
    group_dots(bits, 1, codes, query, at, &dots);
    return kept +
           keep(query, bits, last, links + i, count - i, bound, dots, slots + kept, values + kept);
}

size_t peri_packed_links_avx512(const peri_packed_codes *codes, const peri_packed_query *query,
                                const uint8_t *group, const uint32_t *links, size_t count,
                                float bound, uint32_t *slots, float *values) {
    switch (codes->bits) {
    case 1: return links_of(1, codes, query, group, links, count, bound, slots, values);
    case 2: return links_of(2, codes, query, group, links, count, bound, slots, values);
    default: return links_of(4, codes, query, group, links, count, bound, slots, values);
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* The sums of four registers. */
INLINE __m128i fold(const __m512i s[ROWS]) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]),
                                  _mm512_unpackhi_epi32(s[0], s[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]),
                                  _mm512_unpackhi_epi32(s[2], s[3]));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

INLINE void row_dots(uint32_t bits, const peri_packed_codes *codes, const peri_packed_query *query,
                     const uint8_t *const row[ROWS], __m512i dots[ROWS]) {
    for (size_t r = 0; r < ROWS; r++) dots[r] = _mm512_setzero_si512();
    for (size_t b = 0; b < codes->code_bytes; b += 64) {
        size_t left = codes->code_bytes - b;
        __mmask64 mask = left >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i x[ROWS];
        for (size_t r = 0; r < ROWS; r++) x[r] = _mm512_maskz_loadu_epi8(mask, row[r] + b);
#pragma GCC unroll 8
        for (uint32_t s = 0; s < 8 / bits; s++) {
            __m512i v = _mm512_loadu_si512(query->values + (size_t)s * query->stride + b);
            for (size_t r = 0; r < ROWS; r++)
                dots[r] = _mm512_dpbusd_epi32(dots[r], number(bits, s, x[r]), v);
        }
    }
}

INLINE __m128 gather_factors(const uint8_t *const row[ROWS], size_t at, bool scale) {
    __m128d f[ROWS];
    for (size_t r = 0; r < ROWS; r++) f[r] = _mm_castsi128_pd(_mm_loadu_si64(row[r] + at));
    __m128 ab = _mm_castpd_ps(_mm_unpacklo_pd(f[0], f[1]));
    __m128 cd = _mm_castpd_ps(_mm_unpacklo_pd(f[2], f[3]));
    return scale ? _mm_shuffle_ps(ab, cd, 0xDD) : _mm_shuffle_ps(ab, cd, 0x88);
}

INLINE void rows_of(uint32_t bits, const peri_packed_codes *codes, const peri_packed_query *query,
                    const uint32_t *slots, size_t count, float *values) {
    for (size_t i = 0; i < count; i += ROWS) {
        const uint8_t *row[ROWS];
        __m512i dots[ROWS];
        size_t left = count - i;
        for (size_t r = 0; r < ROWS; r++)
            row[r] = codes->rows + slots[r < left ? i + r : count - 1] * codes->stride;
        row_dots(bits, codes, query, row, dots);
        __m128 add = gather_factors(row, codes->code_bytes, false);
        __m128 scale = gather_factors(row, codes->code_bytes, true);
        __m512 four = to_values(query, bits, _mm512_castps128_ps512(add),
                                _mm512_castps128_ps512(scale), _mm512_castsi128_si512(fold(dots)));
        __mmask8 live = (__mmask8)(left >= ROWS ? 0xFu : (1u << left) - 1);
        _mm_mask_storeu_ps(values + i, live, _mm512_castps512_ps128(four));
    }
}

void peri_packed_rows_avx512(const peri_packed_codes *codes, const peri_packed_query *query,
                             const uint32_t *slots, size_t count, float *values) {
    switch (codes->bits) {
    case 1: rows_of(1, codes, query, slots, count, values); return;
    case 2: rows_of(2, codes, query, slots, count, values); return;
    default: rows_of(4, codes, query, slots, count, values); return;
    }
}
