/* knn_block_avx512.c: the kernels of the coarse pass with AVX-512: 32 rows by 12 queries.
 *
 * 24 accumulators hide the latency of the multiply-add at one of 512 bits a cycle; a column costs two
 * loads and twelve broadcasts for its 24 multiply-adds, so the loads keep up. Rows are transposed 16 by 16
 * in registers. */
#include <immintrin.h>

#include "backend/cpu/knn_block.h"

#define ROWS 32
#define QUERIES 12
#define INLINE static inline __attribute__((always_inline))

INLINE __m512 load(peri_dtype dtype, const char *row, size_t j, __mmask16 mask) {
    switch (dtype) {
    case PERI_F16: return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + 2 * j));
    case PERI_I8: return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, row + j)));
    case PERI_U8: return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, row + j)));
    default: return _mm512_maskz_loadu_ps(mask, row + 4 * j);
    }
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
        __m512 c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
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

/* Sixteen rows, `offset` lanes into the panel. */
INLINE void pack16(peri_dtype dtype, const char *const *rows, uint32_t dim, const float *centre,
                   const float *scale, float *panel, float *norms) {
    __m512 norm = _mm512_setzero_ps(), r[16];
    for (size_t j = 0; j < dim; j += 16) {
        size_t columns = dim - j < 16 ? dim - j : 16;
        __mmask16 mask = (__mmask16)((1u << columns) - 1);
        __m512 middle = centre == NULL ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, centre + j);
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
    switch (dtype) {
    case PERI_F16: PACK_BOTH(PERI_F16); break;
    case PERI_I8: PACK_BOTH(PERI_I8); break;
    case PERI_U8: PACK_BOTH(PERI_U8); break;
    default: PACK_BOTH(PERI_F32); break;
    }
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

const peri_block_kernels peri_block_avx512 = { ROWS, QUERIES, pack, tile };
