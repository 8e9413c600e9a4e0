/* distances_avx2.c: the sum kernels with AVX2, FMA and F16C.
 *
 * f32 and f16: the 32 lanes are four registers a row; two rows at a time fill the eight
 * accumulators that the latency of the multiply-add asks for and still leave registers for the
 * query. A ragged tail goes through a padded copy, and lanes past the end keep their sum (adding a
 * product of zeros would turn -0 into +0). i8 and u8: widened to 16 bits, madd to 32; integers, so
 * their order is free. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/sums.h"
#include "core/code.h"

#define GROUP 2
#define PARTS 4 /* registers of 8 lanes */
#define INLINE static inline __attribute__((always_inline))

/* ---- f32 and f16 --------------------------------------------------------------------------- */

INLINE __m256 load8(peri_dtype dtype, const char *row, size_t j) {
    if (dtype == PERI_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(row + 2 * j)));
    return _mm256_loadu_ps((const float *)(const void *)(row + 4 * j));
}

INLINE __m256 step(peri_sums_form form, __m256 q, __m256 x, __m256 sum) {
    if (form == PERI_SUMS_DOT) return _mm256_fmadd_ps(q, x, sum);
    __m256 t = _mm256_sub_ps(q, x);
    if (form == PERI_SUMS_L1) return _mm256_add_ps(sum, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), t));
    return _mm256_fmadd_ps(t, t, sum);
}

/* All ones in the lanes of part `part` that are below `left`. */
INLINE __m256 lanes_below(size_t left, int part) {
    __m256i lane = _mm256_add_epi32(_mm256_set1_epi32(8 * part),
                                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), lane));
}

INLINE void tail(peri_dtype dtype, peri_sums_form form, int group, const float *q,
                 const char *const *rows, size_t j, size_t left, __m256 sums[GROUP][PARTS]) {
    float query[32] = { 0 };
    size_t size = dtype == PERI_F16 ? 2 : 4;
    memcpy(query, q + j, left * sizeof *query);
    for (int r = 0; r < group; r++) {
        char row[32 * 4] = { 0 };
        memcpy(row, rows[r] + j * size, left * size);
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) {
            __m256 sum = step(form, _mm256_loadu_ps(query + 8 * p),
                              load8(dtype, row, (size_t)(8 * p)), sums[r][p]);
            sums[r][p] = _mm256_blendv_ps(sums[r][p], sum, lanes_below(left, p));
        }
    }
}

/* The lane sums of `group` rows. */
INLINE void lanes(peri_dtype dtype, peri_sums_form form, int group, const float *q,
                  const char *const *rows, uint32_t dim, __m256 sums[GROUP][PARTS]) {
    for (int r = 0; r < group; r++)
        for (int p = 0; p < PARTS; p++) sums[r][p] = _mm256_setzero_ps();
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) {
            size_t at = j + (size_t)(8 * p);
            __m256 wide = _mm256_loadu_ps(q + at);
#pragma GCC unroll 2
            for (int r = 0; r < group; r++)
                sums[r][p] = step(form, wide, load8(dtype, rows[r], at), sums[r][p]);
        }
    }
    if (j < dim) tail(dtype, form, group, q, rows, j, dim - j, sums);
}

/* + 16, + 8, + 4, + 2, + 1. */
INLINE float fold(const __m256 sums[PARTS]) {
    __m256 s8 = _mm256_add_ps(_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3]));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

INLINE void float_sums(peri_dtype dtype, peri_sums_form form, const void *query, const void *rows,
                       size_t stride, const uint32_t *slots, size_t count, uint32_t dim,
                       float *out) {
    size_t i = 0, bytes = dim * (dtype == PERI_F16 ? 2u : 4u);
    __m256 sums[GROUP][PARTS];
    const char *row[GROUP];
    for (; i + GROUP <= count; i += GROUP) {
        for (size_t r = 0; r < GROUP; r++) row[r] = peri_sums_row(rows, stride, slots, i + r);
        if (slots != NULL)
            for (size_t r = i + 2 * GROUP; r < i + 3 * GROUP && r < count; r++)
                peri_sums_prefetch(peri_sums_row(rows, stride, slots, r), bytes);
        lanes(dtype, form, GROUP, query, row, dim, sums);
        for (size_t r = 0; r < GROUP; r++) out[i + r] = fold(sums[r]);
    }
    for (; i < count; i++) {
        row[0] = peri_sums_row(rows, stride, slots, i);
        lanes(dtype, form, 1, query, row, dim, sums);
        out[i] = fold(sums[0]);
    }
}

/* ---- i8 and u8 ----------------------------------------------------------------------------- */

INLINE __m256i load_wide(peri_dtype dtype, const char *p) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    return dtype == PERI_I8 ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
}

INLINE __m256i whole_step(peri_sums_form form, __m256i q, __m256i x, __m256i sum) {
    if (form == PERI_SUMS_DOT) return _mm256_add_epi32(sum, _mm256_madd_epi16(q, x));
    __m256i t = _mm256_sub_epi16(q, x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(t, t));
}

INLINE int32_t whole_fold(__m256i sum) {
    __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    __m128i s2 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s2, _mm_shuffle_epi32(s2, 0xB1)));
}

INLINE float whole_sum(peri_dtype dtype, peri_sums_form form, const char *q, const char *x,
                       uint32_t dim) {
    __m256i even = _mm256_setzero_si256(), odd = even;
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
        even = whole_step(form, load_wide(dtype, q + j), load_wide(dtype, x + j), even);
        odd = whole_step(form, load_wide(dtype, q + j + 16), load_wide(dtype, x + j + 16), odd);
    }
    for (; j < dim; j += 16) {
        char query[16] = { 0 }, row[16] = { 0 };
        size_t left = dim - j < 16 ? dim - j : 16;
        memcpy(query, q + j, left);
        memcpy(row, x + j, left);
        even = whole_step(form, load_wide(dtype, query), load_wide(dtype, row), even);
    }
    return (float)whole_fold(_mm256_add_epi32(even, odd));
}

INLINE void whole_sums(peri_dtype dtype, peri_sums_form form, const void *query, const void *rows,
                       size_t stride, const uint32_t *slots, size_t count, uint32_t dim,
                       float *out) {
    for (size_t i = 0; i < count; i++) {
        if (slots != NULL && i + 4 < count)
            peri_sums_prefetch(peri_sums_row(rows, stride, slots, i + 4), dim);
        out[i] = whole_sum(dtype, form, query, peri_sums_row(rows, stride, slots, i), dim);
    }
}

/* Sums of a byte's worth each: |q - x| as i8 or u8, or the bits set in q ^ x. */
typedef enum bytes_form { DIFFERENCE_I8, DIFFERENCE_U8, DIFFERING_BITS } bytes_form;

INLINE __m256i bits_set(__m256i bytes) {
    __m128i half = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    __m256i table = _mm256_broadcastsi128_si256(half), low = _mm256_set1_epi8(15);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(bytes, low)),
                           _mm256_shuffle_epi8(table, high));
}

INLINE __m256i byte_step(bytes_form form, const char *q, const char *x, __m256i sum) {
    __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)q);
    __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)x);
    if (form == DIFFERENCE_I8) { /* to u8, whose differences are the same */
        a = _mm256_xor_si256(a, _mm256_set1_epi8(-128));
        b = _mm256_xor_si256(b, _mm256_set1_epi8(-128));
    } else if (form == DIFFERING_BITS) {
        a = bits_set(_mm256_xor_si256(a, b));
        b = _mm256_setzero_si256();
    }
    return _mm256_add_epi32(sum, _mm256_sad_epu8(a, b));
}

INLINE float byte_sum(bytes_form form, const char *q, const char *x, uint32_t dim) {
    __m256i sum = _mm256_setzero_si256();
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) sum = byte_step(form, q + j, x + j, sum);
    if (j < dim) {
        char query[32] = { 0 }, row[32] = { 0 };
        memcpy(query, q + j, dim - j);
        memcpy(row, x + j, dim - j);
        sum = byte_step(form, query, row, sum);
    }
    return (float)whole_fold(sum);
}

INLINE void byte_sums(bytes_form form, const void *query, const void *rows, size_t stride,
                      const uint32_t *slots, size_t count, uint32_t dim, float *out) {
    for (size_t i = 0; i < count; i++) {
        if (slots != NULL && i + 4 < count)
            peri_sums_prefetch(peri_sums_row(rows, stride, slots, i + 4), dim);
        out[i] = byte_sum(form, query, peri_sums_row(rows, stride, slots, i), dim);
    }
}

/* ---- codes --------------------------------------------------------------------------------- */

/* sum + products of 32 codes with 32 weights; two products fit 16 bits (code.h). */
INLINE __m256i code_step(const int8_t *weights, __m256i codes, __m256i sum) {
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)weights);
    __m256i pairs = _mm256_maddubs_epi16(codes, w);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static void code_product(const void *query, const void *rows, size_t stride, const uint32_t *slots,
                         size_t count, uint32_t dim, float *out) {
    const int8_t *weights = query;
    for (size_t i = 0; i < count; i++) {
        const char *row = peri_sums_row(rows, stride, slots, i);
        __m256i high = _mm256_setzero_si256(), low = high;
        for (size_t j = 0; j < dim; j += 32) {
            __m256i codes = _mm256_loadu_si256((const __m256i *)(const void *)(row + j));
            high = code_step(weights + j, codes, high);
            low = code_step(weights + dim + j, codes, low);
        }
        out[i] = peri_code_product(whole_fold(high), whole_fold(low));
    }
}

/* ---- the table ----------------------------------------------------------------------------- */

#define KERNEL(name, kernel, dtype, form)                                                          \
    static void name(const void *query, const void *rows, size_t stride, const uint32_t *slots,    \
                     size_t count, uint32_t dim, float *sums) {                                    \
        kernel(dtype, form, query, rows, stride, slots, count, dim, sums);                         \
    }

#define BYTES(name, form)                                                                          \
    static void name(const void *query, const void *rows, size_t stride, const uint32_t *slots,    \
                     size_t count, uint32_t dim, float *sums) {                                    \
        byte_sums(form, query, rows, stride, slots, count, dim, sums);                             \
    }

KERNEL(sqeuclidean_f32, float_sums, PERI_F32, PERI_SUMS_SQUARED)
KERNEL(sqeuclidean_f16, float_sums, PERI_F16, PERI_SUMS_SQUARED)
KERNEL(sqeuclidean_i8, whole_sums, PERI_I8, PERI_SUMS_SQUARED)
KERNEL(sqeuclidean_u8, whole_sums, PERI_U8, PERI_SUMS_SQUARED)
KERNEL(dot_f32, float_sums, PERI_F32, PERI_SUMS_DOT)
KERNEL(dot_f16, float_sums, PERI_F16, PERI_SUMS_DOT)
KERNEL(dot_i8, whole_sums, PERI_I8, PERI_SUMS_DOT)
KERNEL(dot_u8, whole_sums, PERI_U8, PERI_SUMS_DOT)
KERNEL(l1_f32, float_sums, PERI_F32, PERI_SUMS_L1)
KERNEL(l1_f16, float_sums, PERI_F16, PERI_SUMS_L1)
BYTES(l1_i8, DIFFERENCE_I8)
BYTES(l1_u8, DIFFERENCE_U8)
BYTES(hamming, DIFFERING_BITS)

const peri_sums_table peri_sums_avx2 = {
    { sqeuclidean_f32, sqeuclidean_f16, sqeuclidean_i8, sqeuclidean_u8 },
    { dot_f32, dot_f16, dot_i8, dot_u8 },
    { l1_f32, l1_f16, l1_i8, l1_u8 },
    hamming,
    code_product,
};
