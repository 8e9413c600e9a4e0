/* knn_block_avx2.c: the kernels of the coarse pass with AVX2 and FMA: 16 rows by 6 queries.
 *
 * 12 accumulators, two registers of rows and one of a query: 15 of the 16. Rows are transposed 8 by
 * 8 in registers; a ragged tail of columns goes through a padded copy. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/knn_block.h"

#define ROWS 16
#define QUERIES 6
#define INLINE static inline __attribute__((always_inline))
/* Holds an accumulator in its register: left alone, gcc 12 reorders the integer products until the
 * accumulators no longer fit and keeps them on the stack, at half the speed. */
#define HOLD(accumulator) __asm__ volatile("" : "+x"(accumulator))

INLINE size_t element_bytes(peri_dtype dtype) {
    return dtype == PERI_F32 ? 4 : dtype == PERI_F16 ? 2 : 1;
}

/* Eight values; of i8 and u8, eight pairs of columns. */
INLINE __m256 load_whole(peri_dtype dtype, const char *at) {
    const __m128i *p = (const __m128i *)(const void *)at;
    switch (dtype) {
    case PERI_F16: return _mm256_cvtph_ps(_mm_loadu_si128(p));
    case PERI_I8: return _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128(p)));
    case PERI_U8: return _mm256_castsi256_ps(_mm256_cvtepu8_epi16(_mm_loadu_si128(p)));
    default: return _mm256_loadu_ps((const float *)(const void *)at);
    }
}

/* From element j; `count` of them are there, the others are 0. */
INLINE __m256 load(peri_dtype dtype, const char *row, size_t j, size_t count) {
    const char *at = row + j * element_bytes(dtype);
    if (count >= (element_bytes(dtype) == 1 ? 16 : 8)) return load_whole(dtype, at);
    char padded[32] = { 0 };
    memcpy(padded, at, count * element_bytes(dtype));
    return load_whole(dtype, padded);
}

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

/* Eight rows into eight lanes of the panel. */
INLINE void pack8(peri_dtype dtype, const char *const *rows, uint32_t dim, const float *centre,
                  const float *scale, float *panel, float *norms) {
    __m256 norm = _mm256_setzero_ps(), r[8];
    for (size_t j = 0; j < dim; j += 8) {
        size_t columns = dim - j < 8 ? dim - j : 8;
        __m256 middle = centre == NULL ? _mm256_setzero_ps()
                                       : load(PERI_F32, (const char *)centre, j, columns);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            r[i] = load(dtype, rows[i], j, columns);
            if (centre != NULL) r[i] = _mm256_sub_ps(r[i], middle);
            if (scale != NULL) r[i] = _mm256_mul_ps(r[i], _mm256_set1_ps(scale[i]));
        }
        transpose(r);
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; c++) {
            if (c >= columns) continue;
            _mm256_storeu_ps(panel + (j + c) * ROWS, r[c]);
            norm = _mm256_fmadd_ps(r[c], r[c], norm);
        }
    }
    _mm256_storeu_ps(norms, norm);
}

#define PACK_BOTH(dtype)                                                                           \
    do {                                                                                           \
        pack8(dtype, rows, dim, centre, scale, panel, norms);                                      \
        pack8(dtype, rows + 8, dim, centre, scale == NULL ? NULL : scale + 8, panel + 8,           \
              norms + 8);                                                                          \
    } while (0)

static void pack(peri_dtype dtype, const char *const *rows, uint32_t dim, const float *centre,
                 const float *scale, float *panel, float *norms) {
    if (dtype == PERI_F16)
        PACK_BOTH(PERI_F16);
    else
        PACK_BOTH(PERI_F32);
}

static void tile(const float *panel, const float *start, const float *queries, uint32_t dim,
                 const float *least, uint32_t *masks) {
    __m256 low[QUERIES], high[QUERIES];
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        low[i] = _mm256_loadu_ps(start);
        high[i] = _mm256_loadu_ps(start + 8);
    }
    for (size_t j = 0; j < dim; j++, panel += ROWS, queries += QUERIES) {
        __m256 x0 = _mm256_loadu_ps(panel), x1 = _mm256_loadu_ps(panel + 8);
#pragma GCC unroll 6
        for (int i = 0; i < QUERIES; i++) {
            __m256 q = _mm256_broadcast_ss(queries + i);
            low[i] = _mm256_fmadd_ps(q, x0, low[i]);
            high[i] = _mm256_fmadd_ps(q, x1, high[i]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        __m256 bar = _mm256_broadcast_ss(least + i);
        uint32_t first = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(low[i], bar, _CMP_NLT_UQ));
        uint32_t second = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(high[i], bar, _CMP_NLT_UQ));
        masks[i] = first | second << 8;
    }
}

/* ---- i8 and u8 ----------------------------------------------------------------------------- */

INLINE void pack_pairs8(peri_dtype dtype, const char *const *rows, uint32_t dim, int16_t *panel) {
    __m256 r[8];
    for (size_t j = 0; j < dim; j += 16) {
        size_t left = dim - j;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) r[i] = load(dtype, rows[i], j, left);
        transpose(r);
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; c++)
            if (2 * c < left)
                _mm256_storeu_ps((float *)(void *)(panel + (j / 2 + c) * 2 * ROWS), r[c]);
    }
}

static void pack_pairs(peri_dtype dtype, const char *const *rows, uint32_t dim, int16_t *panel) {
    for (size_t half = 0; half < ROWS; half += 8) {
        if (dtype == PERI_I8)
            pack_pairs8(PERI_I8, rows + half, dim, panel + 2 * half);
        else
            pack_pairs8(PERI_U8, rows + half, dim, panel + 2 * half);
    }
}

INLINE uint32_t not_below(__m256i products, const float *start, const float *scale, __m256 bar) {
    __m256 value = _mm256_add_ps(
        _mm256_loadu_ps(start),
        _mm256_mul_ps(_mm256_loadu_ps(scale), _mm256_cvtepi32_ps(products)));
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(value, bar, _CMP_NLT_UQ));
}

INLINE __m256i load_words(const int16_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

static void tile_pairs(const int16_t *panel, const float *start, const float *scale,
                       const int16_t *queries, uint32_t pairs, const float *least,
                       uint32_t *masks) {
    __m256i low[QUERIES], high[QUERIES];
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) low[i] = high[i] = _mm256_setzero_si256();
    for (size_t j = 0; j < pairs; j++, panel += 2 * ROWS, queries += 2 * QUERIES) {
        __m256i x0 = load_words(panel), x1 = load_words(panel + 16);
#pragma GCC unroll 6
        for (int i = 0; i < QUERIES; i++) {
            int32_t pair;
            memcpy(&pair, queries + 2 * i, sizeof pair);
            __m256i q = _mm256_set1_epi32(pair);
            low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(q, x0));
            high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(q, x1));
            HOLD(low[i]);
            HOLD(high[i]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        __m256 bar = _mm256_broadcast_ss(least + i);
        masks[i] = not_below(low[i], start, scale, bar) |
                   not_below(high[i], start + 8, scale + 8, bar) << 8;
    }
}

const peri_block_kernels peri_block_avx2 = { ROWS, QUERIES, pack, tile, pack_pairs, tile_pairs };
