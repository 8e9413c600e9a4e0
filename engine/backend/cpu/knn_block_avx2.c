/* knn_block_avx2.c: the kernels of the coarse pass with AVX2 and FMA: 16 rows by 6 queries.
 *
 * Rows are transposed 8 by 8 in registers; a ragged tail of columns goes through a padded copy.
 * Bytes are widened to 16 bits: the products of bytes that AVX2 has saturate. */
#include "backend/cpu/knn_block_ymm.h"

INLINE size_t element_bytes(peri_dtype dtype) {
    return dtype == PERI_F32 ? 4 : dtype == PERI_F16 ? 2 : 1;
}

/* Eight values; of i8 and u8, eight pairs of X. */
INLINE __m256 load_all(peri_dtype dtype, const char *at) {
    const __m128i *p = (const __m128i *)(const void *)at;
    const __m128i half = _mm_set1_epi8((char)0x80);
    switch (dtype) {
    case PERI_F16: return _mm256_cvtph_ps(_mm_loadu_si128(p));
    case PERI_I8:
        return _mm256_castsi256_ps(_mm256_cvtepu8_epi16(_mm_xor_si128(_mm_loadu_si128(p), half)));
    case PERI_U8: return _mm256_castsi256_ps(_mm256_cvtepu8_epi16(_mm_loadu_si128(p)));
    default: return _mm256_loadu_ps((const float *)(const void *)at);
    }
}

/* From element j; `count` of them are there, the others are 0. */
INLINE __m256 load(peri_dtype dtype, const char *row, size_t j, size_t count) {
    const char *at = row + j * element_bytes(dtype);
    if (count >= (element_bytes(dtype) == 1 ? 16 : 8)) return load_all(dtype, at);
    char padded[32];
    memset(padded, dtype == PERI_I8 ? 0x80 : 0, sizeof padded);
    memcpy(padded, at, count * element_bytes(dtype));
    return load_all(dtype, padded);
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

void peri_block_pack_avx2(peri_dtype dtype, const char *const *rows, uint32_t dim,
                          const float *centre, const float *scale, float *panel, float *norms) {
    if (dtype == PERI_F16)
        PACK_BOTH(PERI_F16);
    else
        PACK_BOTH(PERI_F32);
}

uint32_t peri_block_tile_avx2(const float *panel, const float *start, const float *queries,
                              uint32_t dim, const float *least, uint32_t *masks, float *scores) {
    __m256 low[QUERIES], high[QUERIES];
    uint32_t hits = 0;
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
        uint32_t mask = both(_mm256_cmp_ps(low[i], bar, _CMP_NLT_UQ),
                             _mm256_cmp_ps(high[i], bar, _CMP_NLT_UQ));
        if (__builtin_expect(mask != 0, 0)) {
            masks[i] = mask;
            _mm256_storeu_ps(scores + i * ROWS, low[i]);
            _mm256_storeu_ps(scores + i * ROWS + 8, high[i]);
            hits |= UINT32_C(1) << i;
        }
    }
    return hits;
}

/* ---- i8 and u8 ----------------------------------------------------------------------------- */

/* Eight rows into eight lanes of the panel. */
INLINE void pack_whole8(peri_dtype dtype, const char *const *rows, uint32_t dim, int16_t *panel,
                        int32_t *sums, int32_t *squares) {
    __m256i sum = _mm256_setzero_si256(), square = sum;
    __m256i one = _mm256_set1_epi16(1), half = _mm256_set1_epi16(128);
    __m256 r[8];
    for (size_t j = 0; j < dim; j += 16) {
        size_t left = dim - j;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) r[i] = load(dtype, rows[i], j, left);
        transpose(r);
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; c++) {
            if (2 * c >= left) continue;
            __m256i x = _mm256_castps_si256(r[c]);
            _mm256_storeu_si256((void *)(panel + (j / 2 + c) * 2 * ROWS), x);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, one));
            square = _mm256_add_epi32(square, _mm256_madd_epi16(x, _mm256_sub_epi16(x, half)));
        }
    }
    _mm256_storeu_si256((void *)sums, sum);
    _mm256_storeu_si256((void *)squares, square);
}

static void pack_whole(peri_dtype dtype, const char *const *rows, uint32_t dim, void *panel,
                       int32_t *sums, int32_t *squares) {
    for (size_t half = 0; half < ROWS; half += 8) {
        int16_t *lanes = (int16_t *)panel + 2 * half;
        if (dtype == PERI_I8)
            pack_whole8(PERI_I8, rows + half, dim, lanes, sums + half, squares + half);
        else
            pack_whole8(PERI_U8, rows + half, dim, lanes, sums + half, squares + half);
    }
}

INLINE void multiply_whole(const int16_t *panel, const int32_t *start, const int16_t *queries,
                           uint32_t groups, __m256i low[QUERIES], __m256i high[QUERIES]) {
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        low[i] = load_words(start);
        high[i] = load_words(start + 8);
    }
    for (size_t g = 0; g < groups; g++, panel += 2 * ROWS, queries += 2 * QUERIES) {
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
}

static uint32_t tile_whole(const void *panel, const int32_t *start, const void *queries,
                           uint32_t groups, const int32_t *least, uint32_t *masks,
                           int32_t *scores) {
    __m256i low[QUERIES], high[QUERIES];
    multiply_whole(panel, start, queries, groups, low, high);
    return hits_whole(low, high, least, masks, scores);
}

static uint32_t tile_scaled(const void *panel, const int32_t *start, const float *scale,
                            const void *queries, uint32_t groups, const int32_t *base,
                            const float *least, uint32_t *masks, int32_t *scores) {
    __m256i low[QUERIES], high[QUERIES];
    multiply_whole(panel, start, queries, groups, low, high);
    return hits_scaled(low, high, scale, base, least, masks, scores);
}

/* ---- entries ------------------------------------------------------------------------------- */

/* The values of eight scores. */
INLINE __m256 values8(const peri_block_rule *rule, const char *scores, size_t first) {
    __m256i whole = load_words(scores + 4 * first), base = _mm256_set1_epi32(rule->base);
    if (rule->form == PERI_BLOCK_FLOAT)
        return _mm256_sub_ps(_mm256_set1_ps(rule->offset), _mm256_castsi256_ps(whole));
    if (rule->form == PERI_BLOCK_SQUARED) {
        __m256i less = _mm256_add_epi32(_mm256_slli_epi32(whole, 1), load_words(rule->odd + first));
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(base, less));
    }
    __m256 dot = _mm256_cvtepi32_ps(_mm256_add_epi32(whole, base));
    if (rule->form == PERI_BLOCK_DOT) return _mm256_xor_ps(dot, _mm256_set1_ps(-0.0f));
    __m256 lengths = _mm256_mul_ps(_mm256_set1_ps(rule->length),
                                   _mm256_loadu_ps(rule->lengths + first));
    __m256 value = _mm256_sub_ps(_mm256_set1_ps(1), _mm256_div_ps(dot, lengths));
    __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    return _mm256_blendv_ps(value, _mm256_set1_ps(__builtin_inff()), nan);
}

size_t peri_block_take_avx2(const peri_block_rule *rule, const void *scores, uint32_t mask,
                            const uint32_t *slots, float *values, uint32_t *out_slots) {
    float all[ROWS];
    size_t count = 0;
    _mm256_storeu_ps(all, values8(rule, scores, 0));
    _mm256_storeu_ps(all + 8, values8(rule, scores, 8));
    for (; mask != 0; mask &= mask - 1, count++) {
        size_t r = (size_t)__builtin_ctz(mask);
        values[count] = all[r];
        out_slots[count] = slots[r];
    }
    return count;
}

const peri_block_kernels peri_block_avx2 = { .rows = ROWS,
                                             .queries = QUERIES,
                                             .group = 2,
                                             .pack = peri_block_pack_avx2,
                                             .tile = peri_block_tile_avx2,
                                             .pack_whole = pack_whole,
                                             .tile_whole = tile_whole,
                                             .tile_scaled = tile_scaled,
                                             .take = peri_block_take_avx2 };
