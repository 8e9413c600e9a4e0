/* knn_block_avx512.c: the kernels of the coarse pass with AVX-512: 32 rows by 12 queries.
 *
 * 24 accumulators hide the latency of the multiply-add at one of 512 bits a cycle; a column costs
 * two loads and twelve broadcasts for its 24 multiply-adds, so the loads keep up. Rows are
 * transposed 16 by 16 in registers. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/knn_block.h"

#define ROWS 32
#define QUERIES 12
#define INLINE static inline __attribute__((always_inline))
/* Holds an accumulator in its register: left alone, gcc 12 reorders the integer products until the
 * accumulators no longer fit and keeps them on the stack, at half the speed. */
#define HOLD(accumulator) __asm__ volatile("" : "+v"(accumulator))

INLINE __m512 load(peri_dtype dtype, const char *row, size_t j, __mmask16 mask) {
    if (dtype == PERI_F16) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + 2 * j));
    return _mm512_maskz_loadu_ps(mask, row + 4 * j);
}

/* 32 elements widened: 16 pairs. */
INLINE __m512 load_pairs(peri_dtype dtype, const char *row, __mmask32 mask) {
    __m256i bytes = _mm256_maskz_loadu_epi8(mask, row);
    return _mm512_castsi512_ps(dtype == PERI_I8 ? _mm512_cvtepi8_epi16(bytes)
                                                : _mm512_cvtepu8_epi16(bytes));
}

INLINE __m512d pair_low(__m512 a, __m512 b) {
    return _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
}

INLINE __m512d pair_high(__m512 a, __m512 b) {
    return _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
}

/* Within each 128-bit part: four rows of four become four columns of four. */
INLINE void transpose_parts(__m512 r[16]) {
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        __m512 a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        __m512 c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]),
               d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        r[i] = _mm512_castpd_ps(pair_low(a, c));
        r[i + 1] = _mm512_castpd_ps(pair_high(a, c));
        r[i + 2] = _mm512_castpd_ps(pair_low(b, d));
        r[i + 3] = _mm512_castpd_ps(pair_high(b, d));
    }
}

/* Then the 128-bit parts themselves: column 4 p + c is made of part p of rows' quads c. */
INLINE void transpose(__m512 r[16]) {
    transpose_parts(r);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512 a = _mm512_shuffle_f32x4(r[c], r[c + 4], 0x88);
        __m512 b = _mm512_shuffle_f32x4(r[c], r[c + 4], 0xDD);
        __m512 d = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0x88);
        __m512 e = _mm512_shuffle_f32x4(r[c + 8], r[c + 12], 0xDD);
        r[c] = _mm512_shuffle_f32x4(a, d, 0x88);
        r[c + 4] = _mm512_shuffle_f32x4(b, e, 0x88);
        r[c + 8] = _mm512_shuffle_f32x4(a, d, 0xDD);
        r[c + 12] = _mm512_shuffle_f32x4(b, e, 0xDD);
    }
}

/* Sixteen rows into sixteen lanes of the panel. */
INLINE void pack16(peri_dtype dtype, const char *const *rows, uint32_t dim, const float *centre,
                   const float *scale, float *panel, float *norms) {
    __m512 norm = _mm512_setzero_ps(), r[16];
    for (size_t j = 0; j < dim; j += 16) {
        size_t columns = dim - j < 16 ? dim - j : 16;
        __mmask16 mask = (__mmask16)((1u << columns) - 1);
        __m512 middle = centre == NULL ? _mm512_setzero_ps()
                                       : _mm512_maskz_loadu_ps(mask, centre + j);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            r[i] = load(dtype, rows[i], j, mask);
            if (centre != NULL) r[i] = _mm512_sub_ps(r[i], middle);
            if (scale != NULL) r[i] = _mm512_mul_ps(r[i], _mm512_set1_ps(scale[i]));
        }
        transpose(r);
#pragma GCC unroll 16
        for (size_t c = 0; c < 16; c++) {
            if (c >= columns) continue;
            _mm512_storeu_ps(panel + (j + c) * ROWS, r[c]);
            norm = _mm512_fmadd_ps(r[c], r[c], norm);
        }
    }
    _mm512_storeu_ps(norms, norm);
}

#define PACK_BOTH(dtype)                                                                           \
    do {                                                                                           \
        pack16(dtype, rows, dim, centre, scale, panel, norms);                                     \
        pack16(dtype, rows + 16, dim, centre, scale == NULL ? NULL : scale + 16, panel + 16,       \
               norms + 16);                                                                        \
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
    __m512 low[QUERIES], high[QUERIES];
#pragma GCC unroll 12
    for (int i = 0; i < QUERIES; i++) {
        low[i] = _mm512_loadu_ps(start);
        high[i] = _mm512_loadu_ps(start + 16);
    }
    for (size_t j = 0; j < dim; j++, panel += ROWS, queries += QUERIES) {
        __m512 x0 = _mm512_loadu_ps(panel), x1 = _mm512_loadu_ps(panel + 16);
#pragma GCC unroll 12
        for (int i = 0; i < QUERIES; i++) {
            __m512 q = _mm512_set1_ps(queries[i]);
            low[i] = _mm512_fmadd_ps(q, x0, low[i]);
            high[i] = _mm512_fmadd_ps(q, x1, high[i]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < QUERIES; i++) {
        __m512 bar = _mm512_set1_ps(least[i]);
        masks[i] = (uint32_t)_mm512_cmp_ps_mask(low[i], bar, _CMP_NLT_UQ) |
                   (uint32_t)_mm512_cmp_ps_mask(high[i], bar, _CMP_NLT_UQ) << 16;
    }
}

/* ---- i8 and u8 ----------------------------------------------------------------------------- */

INLINE void pack_pairs16(peri_dtype dtype, const char *const *rows, uint32_t dim, int16_t *panel) {
    __m512 r[16];
    for (size_t j = 0; j < dim; j += 32) {
        size_t left = dim - j;
        __mmask32 mask = left >= 32 ? UINT32_MAX : (__mmask32)((UINT32_C(1) << left) - 1);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) r[i] = load_pairs(dtype, rows[i] + j, mask);
        transpose(r);
#pragma GCC unroll 16
        for (size_t c = 0; c < 16; c++)
            if (2 * c < left) _mm512_storeu_ps(panel + (j / 2 + c) * 2 * ROWS, r[c]);
    }
}

static void pack_pairs(peri_dtype dtype, const char *const *rows, uint32_t dim, int16_t *panel) {
    for (size_t half = 0; half < ROWS; half += 16) {
        if (dtype == PERI_I8)
            pack_pairs16(PERI_I8, rows + half, dim, panel + 2 * half);
        else
            pack_pairs16(PERI_U8, rows + half, dim, panel + 2 * half);
    }
}

INLINE uint32_t not_below(__m512i products, const float *start, const float *scale, __m512 bar) {
    __m512 value = _mm512_add_ps(
        _mm512_loadu_ps(start),
        _mm512_mul_ps(_mm512_loadu_ps(scale), _mm512_cvtepi32_ps(products)));
    return _mm512_cmp_ps_mask(value, bar, _CMP_NLT_UQ);
}

static void tile_pairs(const int16_t *panel, const float *start, const float *scale,
                       const int16_t *queries, uint32_t pairs, const float *least,
                       uint32_t *masks) {
    __m512i low[QUERIES], high[QUERIES];
#pragma GCC unroll 12
    for (int i = 0; i < QUERIES; i++) low[i] = high[i] = _mm512_setzero_si512();
    for (size_t j = 0; j < pairs; j++, panel += 2 * ROWS, queries += 2 * QUERIES) {
        __m512i x0 = _mm512_loadu_si512(panel), x1 = _mm512_loadu_si512(panel + 32);
#pragma GCC unroll 12
        for (int i = 0; i < QUERIES; i++) {
            int32_t pair;
            memcpy(&pair, queries + 2 * i, sizeof pair);
            __m512i q = _mm512_set1_epi32(pair);
            low[i] = _mm512_dpwssd_epi32(low[i], q, x0);
            high[i] = _mm512_dpwssd_epi32(high[i], q, x1);
            HOLD(low[i]);
            HOLD(high[i]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < QUERIES; i++) {
        __m512 bar = _mm512_set1_ps(least[i]);
        masks[i] = not_below(low[i], start, scale, bar) |
                   not_below(high[i], start + 16, scale + 16, bar) << 16;
    }
}

const peri_block_kernels peri_block_avx512 = { ROWS, QUERIES, pack, tile, pack_pairs, tile_pairs };
