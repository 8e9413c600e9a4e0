/* knn_block_avx2.c: the kernels of the coarse pass with AVX2 and FMA: 16 rows by 6 queries.
 *
 * 12 accumulators, two registers of rows and one of a query: 15 of the 16. Rows are transposed 8 by 8 in
 * registers; a ragged tail of columns goes through a padded copy. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/knn_block.h"

#define ROWS 16
#define QUERIES 6
#define INLINE static inline __attribute__((always_inline))

INLINE size_t element_bytes(peri_dtype dtype) {
    return dtype == PERI_F32 ? 4 : dtype == PERI_F16 ? 2 : 1;
}

INLINE __m256 load_whole(peri_dtype dtype, const char *at) {
    const __m128i *p = (const __m128i *)(const void *)at;
    switch (dtype) {
    case PERI_F16: return _mm256_cvtph_ps(_mm_loadu_si128(p));
    case PERI_I8: return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
    case PERI_U8: return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)));
    default: return _mm256_loadu_ps((const float *)(const void *)at);
    }
}

INLINE __m256 load(peri_dtype dtype, const char *row, size_t j, size_t columns) {
    const char *at = row + j * element_bytes(dtype);
    if (columns == 8) return load_whole(dtype, at);
    char padded[32] = { 0 };
    memcpy(padded, at, columns * element_bytes(dtype));
    return load_whole(dtype, padded);
}

INLINE void transpose(__m256 r[8]) {
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
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
    switch (dtype) {
    case PERI_F16: PACK_BOTH(PERI_F16); break;
    case PERI_I8: PACK_BOTH(PERI_I8); break;
    case PERI_U8: PACK_BOTH(PERI_U8); break;
    default: PACK_BOTH(PERI_F32); break;
    }
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

const peri_block_kernels peri_block_avx2 = { ROWS, QUERIES, pack, tile };
