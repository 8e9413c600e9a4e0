/* knn_block_avx512.c: the kernels of the coarse pass with AVX-512: 32 rows by 12 queries.
 *
 * 24 accumulators hide the latency of the multiply-add at two of 512 bits a cycle; a column costs
 * two loads and twelve broadcasts for its 24 multiply-adds, so the loads keep up. Rows are
 * transposed 16 by 16 in registers. A query without a hit costs one maximum, one comparison and one
 * branch at the end of its tile. */
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

/* 64 elements as X: 16 groups of four; 0 where the mask is. */
INLINE __m512 load_whole(peri_dtype dtype, const char *row, __mmask64 mask) {
    __m512i bytes = _mm512_maskz_loadu_epi8(mask, row);
    if (dtype == PERI_I8) bytes = _mm512_maskz_add_epi8(mask, bytes, _mm512_set1_epi8((char)0x80));
    return _mm512_castsi512_ps(bytes);
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

/* `columns` of sixteen rows, from column j on, into sixteen lanes of the panel. Four sums of
 * squares, so that none waits for the other. */
INLINE void pack16_columns(peri_dtype dtype, const char *const *rows, size_t j, size_t columns,
                           const float *centre, const float *scale, float *panel, __m512 norms[4]) {
    __mmask16 mask = (__mmask16)((1u << columns) - 1);
    __m512 r[16], middle = _mm512_setzero_ps();
    if (centre != NULL) middle = _mm512_maskz_loadu_ps(mask, centre + j);
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
        norms[c % 4] = _mm512_fmadd_ps(r[c], r[c], norms[c % 4]);
    }
}

/* Sixteen rows into sixteen lanes of the panel. */
INLINE void pack16(peri_dtype dtype, const char *const *rows, uint32_t dim, const float *centre,
                   const float *scale, float *panel, float *norms) {
    __m512 n[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                    _mm512_setzero_ps() };
    size_t j = 0;
    for (; j + 16 <= dim; j += 16) pack16_columns(dtype, rows, j, 16, centre, scale, panel, n);
    if (j < dim) pack16_columns(dtype, rows, j, dim - j, centre, scale, panel, n);
    _mm512_storeu_ps(norms, _mm512_add_ps(_mm512_add_ps(n[0], n[1]), _mm512_add_ps(n[2], n[3])));
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

static uint32_t tile(const float *panel, const float *start, const float *queries, uint32_t dim,
                     const float *least, uint32_t *masks, float *scores) {
    __m512 low[QUERIES], high[QUERIES];
    uint32_t hits = 0;
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
        __mmask16 first = _mm512_cmp_ps_mask(low[i], bar, _CMP_NLT_UQ);
        __mmask16 second = _mm512_cmp_ps_mask(high[i], bar, _CMP_NLT_UQ);
        if (__builtin_expect(!_kortestz_mask16_u8(first, second), 0)) {
            masks[i] = (uint32_t)first | (uint32_t)second << 16;
            _mm512_storeu_ps(scores + i * ROWS, low[i]);
            _mm512_storeu_ps(scores + i * ROWS + 16, high[i]);
            hits |= UINT32_C(1) << i;
        }
    }
    return hits;
}

/* ---- i8 and u8 ----------------------------------------------------------------------------- */

/* Sixteen rows into sixteen lanes of the panel. */
INLINE void pack_whole16(peri_dtype dtype, const char *const *rows, uint32_t dim, char *panel,
                         int32_t *sums, int32_t *squares) {
    __m512i sum = _mm512_setzero_si512(), square = _mm512_setzero_si512();
    __m512i one = _mm512_set1_epi8(1), half = _mm512_set1_epi8((char)0x80);
    __m512 r[16];
    for (size_t j = 0; j < dim; j += 64) {
        size_t left = dim - j;
        __mmask64 mask = left >= 64 ? UINT64_MAX : (__mmask64)((UINT64_C(1) << left) - 1);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) r[i] = load_whole(dtype, rows[i] + j, mask);
        transpose(r);
#pragma GCC unroll 16
        for (size_t c = 0; c < 16; c++) {
            if (4 * c >= left) continue;
            __m512i x = _mm512_castps_si512(r[c]);
            _mm512_storeu_si512(panel + (j / 4 + c) * 4 * ROWS, x);
            sum = _mm512_dpbusd_epi32(sum, x, one);
            square = _mm512_dpbusd_epi32(square, x, _mm512_xor_si512(x, half));
        }
    }
    _mm512_storeu_si512(sums, sum);
    _mm512_storeu_si512(squares, square);
}

static void pack_whole(peri_dtype dtype, const char *const *rows, uint32_t dim, void *panel,
                       int32_t *sums, int32_t *squares) {
    for (size_t half = 0; half < ROWS; half += 16) {
        char *lanes = (char *)panel + 4 * half;
        if (dtype == PERI_I8)
            pack_whole16(PERI_I8, rows + half, dim, lanes, sums + half, squares + half);
        else
            pack_whole16(PERI_U8, rows + half, dim, lanes, sums + half, squares + half);
    }
}

INLINE void multiply_whole(const char *panel, const int32_t *start, const char *queries,
                           uint32_t groups, __m512i low[QUERIES], __m512i high[QUERIES]) {
#pragma GCC unroll 12
    for (int i = 0; i < QUERIES; i++) {
        low[i] = _mm512_loadu_si512(start);
        high[i] = _mm512_loadu_si512(start + 16);
    }
    for (size_t g = 0; g < groups; g++, panel += 4 * ROWS, queries += 4 * QUERIES) {
        __m512i x0 = _mm512_loadu_si512(panel), x1 = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 12
        for (int i = 0; i < QUERIES; i++) {
            int32_t four;
            memcpy(&four, queries + 4 * i, sizeof four);
            __m512i q = _mm512_set1_epi32(four);
            low[i] = _mm512_dpbusd_epi32(low[i], x0, q);
            high[i] = _mm512_dpbusd_epi32(high[i], x1, q);
            HOLD(low[i]);
            HOLD(high[i]);
        }
    }
}

INLINE void put_whole(__m512i low, __m512i high, __mmask16 first, __mmask16 second, uint32_t *mask,
                      int32_t *scores) {
    *mask = (uint32_t)first | (uint32_t)second << 16;
    _mm512_storeu_si512(scores, low);
    _mm512_storeu_si512(scores + 16, high);
}

static uint32_t tile_whole(const void *panel, const int32_t *start, const void *queries,
                           uint32_t groups, const int32_t *least, uint32_t *masks,
                           int32_t *scores) {
    __m512i low[QUERIES], high[QUERIES];
    uint32_t hits = 0;
    multiply_whole(panel, start, queries, groups, low, high);
#pragma GCC unroll 12
    for (int i = 0; i < QUERIES; i++) {
        __m512i bar = _mm512_set1_epi32(least[i]);
        __mmask16 any = _mm512_cmpge_epi32_mask(_mm512_max_epi32(low[i], high[i]), bar);
        if (__builtin_expect(any != 0, 0)) {
            put_whole(low[i], high[i], _mm512_cmpge_epi32_mask(low[i], bar),
                      _mm512_cmpge_epi32_mask(high[i], bar), &masks[i], scores + i * ROWS);
            hits |= UINT32_C(1) << i;
        }
    }
    return hits;
}

INLINE __mmask16 not_below(__m512i products, const float *scale, __m512i base, __m512 bar) {
    __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(products, base));
    return _mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_loadu_ps(scale), dot), bar, _CMP_NLT_UQ);
}

static uint32_t tile_scaled(const void *panel, const int32_t *start, const float *scale,
                            const void *queries, uint32_t groups, const int32_t *base,
                            const float *least, uint32_t *masks, int32_t *scores) {
    __m512i low[QUERIES], high[QUERIES];
    uint32_t hits = 0;
    multiply_whole(panel, start, queries, groups, low, high);
#pragma GCC unroll 12
    for (int i = 0; i < QUERIES; i++) {
        __m512 bar = _mm512_set1_ps(least[i]);
        __m512i more = _mm512_set1_epi32(base[i]);
        __mmask16 first = not_below(low[i], scale, more, bar);
        __mmask16 second = not_below(high[i], scale + 16, more, bar);
        if (__builtin_expect(!_kortestz_mask16_u8(first, second), 0)) {
            put_whole(low[i], high[i], first, second, &masks[i], scores + i * ROWS);
            hits |= UINT32_C(1) << i;
        }
    }
    return hits;
}

/* ---- entries ------------------------------------------------------------------------------- */

/* The values of sixteen scores. */
INLINE __m512 values16(const peri_block_rule *rule, const char *scores, size_t first) {
    __m512i whole = _mm512_loadu_si512(scores + 4 * first), base = _mm512_set1_epi32(rule->base);
    if (rule->form == PERI_BLOCK_FLOAT)
        return _mm512_sub_ps(_mm512_set1_ps(rule->offset), _mm512_castsi512_ps(whole));
    if (rule->form == PERI_BLOCK_SQUARED) {
        __m512i less = _mm512_add_epi32(_mm512_slli_epi32(whole, 1),
                                        _mm512_loadu_si512(rule->odd + first));
        return _mm512_cvtepi32_ps(_mm512_sub_epi32(base, less));
    }
    __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(whole, base));
    if (rule->form == PERI_BLOCK_DOT) return _mm512_xor_ps(dot, _mm512_set1_ps(-0.0f));
    __m512 lengths = _mm512_mul_ps(_mm512_set1_ps(rule->length),
                                   _mm512_loadu_ps(rule->lengths + first));
    __m512 value = _mm512_sub_ps(_mm512_set1_ps(1), _mm512_div_ps(dot, lengths));
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(value, nan, _mm512_set1_ps(__builtin_inff()));
}

static size_t take(const peri_block_rule *rule, const void *scores, uint32_t mask,
                   const uint32_t *slots, float *values, uint32_t *out_slots) {
    size_t count = 0;
    for (size_t first = 0; first < ROWS; first += 16) {
        __mmask16 part = (__mmask16)(mask >> first);
        __m512i named = _mm512_loadu_si512(slots + first);
        _mm512_storeu_ps(values + count,
                         _mm512_maskz_compress_ps(part, values16(rule, scores, first)));
        _mm512_storeu_si512(out_slots + count, _mm512_maskz_compress_epi32(part, named));
        count += (size_t)__builtin_popcount(part);
    }
    return count;
}

const peri_block_kernels peri_block_avx512 = { .rows = ROWS,
                                               .queries = QUERIES,
                                               .group = 4,
                                               .pack = pack,
                                               .tile = tile,
                                               .pack_whole = pack_whole,
                                               .tile_whole = tile_whole,
                                               .tile_scaled = tile_scaled,
                                               .take = take };
