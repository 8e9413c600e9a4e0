/* distances_avx512.c: the sum kernels with AVX-512 (F, BW, VL, DQ, VNNI).
 *
 * f32 and f16: the 32 lanes are two registers a row; four rows at a time share the loads of the
 * query and hide the latency of the multiply-add. A ragged tail is masked in the accumulation too:
 * adding 0 * 0 would turn a sum of -0 into +0. i8 and u8: widened to 16 bits, pairs of products
 * summed in 32 bits by one instruction; integers, so their order is free. */
#include <immintrin.h>

#include "backend/cpu/sums.h"
#include "core/code.h"

#define GROUP 4
#define BLOCKS_MAX 4 /* of 32 bytes, that block_sums unrolls */
#define INLINE static inline __attribute__((always_inline))

/* ---- f32 and f16 --------------------------------------------------------------------------- */

INLINE __m512 load16(peri_dtype dtype, const char *row, size_t j) {
    if (dtype == PERI_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(row + 2 * j)));
    return _mm512_loadu_ps(row + 4 * j);
}

INLINE __m512 load_tail(peri_dtype dtype, const char *row, size_t j, __mmask16 mask) {
    if (dtype == PERI_F16) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + 2 * j));
    return _mm512_maskz_loadu_ps(mask, row + 4 * j);
}

INLINE __m512 step(peri_sums_form form, __m512 q, __m512 x, __m512 sum) {
    if (form == PERI_SUMS_DOT) return _mm512_fmadd_ps(q, x, sum);
    __m512 t = _mm512_sub_ps(q, x);
    if (form == PERI_SUMS_L1) return _mm512_add_ps(sum, _mm512_abs_ps(t));
    return _mm512_fmadd_ps(t, t, sum);
}

INLINE __m512 step_masked(peri_sums_form form, __m512 q, __m512 x, __m512 sum, __mmask16 mask) {
    if (form == PERI_SUMS_DOT) return _mm512_mask3_fmadd_ps(q, x, sum, mask);
    __m512 t = _mm512_sub_ps(q, x);
    if (form == PERI_SUMS_L1) return _mm512_mask_add_ps(sum, mask, sum, _mm512_abs_ps(t));
    return _mm512_mask3_fmadd_ps(t, t, sum, mask);
}

/* + 16, + 8, + 4 of one row: what is left is lanes 0..3. */
INLINE __m128 fold_to_4(__m512 low, __m512 high) {
    __m512 s16 = _mm512_add_ps(low, high);
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(s16), _mm512_extractf32x8_ps(s16, 1));
    return _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
}

/* + 2, + 1 of four rows at once, by transposing halves. */
INLINE __m128 fold_4_rows(__m128 a, __m128 b, __m128 c, __m128 d) {
    __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

/* The lane sums of `group` rows. */
INLINE void lanes(peri_dtype dtype, peri_sums_form form, int group, const float *q,
                  const char *const *rows, uint32_t dim, __m512 sums[GROUP][2]) {
    for (int r = 0; r < group; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
        __m512 q0 = _mm512_loadu_ps(q + j), q1 = _mm512_loadu_ps(q + j + 16);
#pragma GCC unroll 4
        for (int r = 0; r < group; r++) {
            sums[r][0] = step(form, q0, load16(dtype, rows[r], j), sums[r][0]);
            sums[r][1] = step(form, q1, load16(dtype, rows[r], j + 16), sums[r][1]);
        }
    }
    if (j == dim) return;
    uint32_t left = (uint32_t)((UINT64_C(1) << (dim - j)) - 1);
    __mmask16 m0 = (__mmask16)left, m1 = (__mmask16)(left >> 16);
    __m512 q0 = _mm512_maskz_loadu_ps(m0, q + j), q1 = _mm512_maskz_loadu_ps(m1, q + j + 16);
#pragma GCC unroll 4
    for (int r = 0; r < group; r++) {
        sums[r][0] = step_masked(form, q0, load_tail(dtype, rows[r], j, m0), sums[r][0], m0);
        sums[r][1] = step_masked(form, q1, load_tail(dtype, rows[r], j + 16, m1), sums[r][1], m1);
    }
}

INLINE void float_sums(peri_dtype dtype, peri_sums_form form, const void *query, const void *rows,
                       size_t stride, const uint32_t *slots, size_t count, uint32_t dim,
                       float *out) {
    size_t i = 0, bytes = dim * (dtype == PERI_F16 ? 2u : 4u);
    __m512 sums[GROUP][2];
    const char *row[GROUP];
    for (; i + GROUP <= count; i += GROUP) {
        for (size_t r = 0; r < GROUP; r++) row[r] = peri_sums_row(rows, stride, slots, i + r);
        if (slots != NULL)
            for (size_t r = i + GROUP; r < i + 2 * GROUP && r < count; r++)
                peri_sums_prefetch(peri_sums_row(rows, stride, slots, r), bytes);
        lanes(dtype, form, GROUP, query, row, dim, sums);
        __m128 four = fold_4_rows(
            fold_to_4(sums[0][0], sums[0][1]), fold_to_4(sums[1][0], sums[1][1]),
            fold_to_4(sums[2][0], sums[2][1]), fold_to_4(sums[3][0], sums[3][1]));
        _mm_storeu_ps(out + i, four);
    }
    for (; i < count; i++) {
        row[0] = peri_sums_row(rows, stride, slots, i);
        lanes(dtype, form, 1, query, row, dim, sums);
        __m128 one = fold_to_4(sums[0][0], sums[0][1]);
        out[i] = _mm_cvtss_f32(fold_4_rows(one, one, one, one));
    }
}

/* ---- i8 and u8 ----------------------------------------------------------------------------- */

INLINE __m512i widen(peri_dtype dtype, __m256i bytes) {
    return dtype == PERI_I8 ? _mm512_cvtepi8_epi16(bytes) : _mm512_cvtepu8_epi16(bytes);
}

INLINE __m512i whole_step(peri_sums_form form, __m512i q, __m512i x, __m512i sum) {
    if (form == PERI_SUMS_DOT) return _mm512_dpwssd_epi32(sum, q, x);
    __m512i t = _mm512_sub_epi16(q, x);
    return _mm512_dpwssd_epi32(sum, t, t);
}

INLINE __m256i load_bytes(const char *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* Whole blocks first: masks in the loop would cost as much as the sums. */
INLINE void whole_lanes(peri_dtype dtype, peri_sums_form form, const char *q,
                        const char *const *rows, uint32_t dim, __m512i sums[GROUP]) {
    size_t j = 0;
    for (int r = 0; r < GROUP; r++) sums[r] = _mm512_setzero_si512();
    for (; j + 32 <= dim; j += 32) {
        __m512i wide = widen(dtype, load_bytes(q + j));
#pragma GCC unroll 4
        for (int r = 0; r < GROUP; r++)
            sums[r] = whole_step(form, wide, widen(dtype, load_bytes(rows[r] + j)), sums[r]);
    }
    if (j == dim) return;
    __mmask32 mask = (__mmask32)((UINT32_C(1) << (dim - j)) - 1);
    __m512i wide = widen(dtype, _mm256_maskz_loadu_epi8(mask, q + j));
#pragma GCC unroll 4
    for (int r = 0; r < GROUP; r++)
        sums[r] = whole_step(form, wide, widen(dtype, _mm256_maskz_loadu_epi8(mask, rows[r] + j)),
                             sums[r]);
}

/* The sums of four rows, each over its 16 lanes: halves of two rows are added at once. */
INLINE __m128i whole_fold_4(const __m512i s[GROUP]) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]),
                                  _mm512_unpackhi_epi32(s[0], s[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]),
                                  _mm512_unpackhi_epi32(s[2], s[3]));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* The rows of a group from number i; the last row stands in for those past the end. */
INLINE void group_rows(const void *rows, size_t stride, const uint32_t *slots, size_t i,
                       size_t count, const char *row[GROUP]) {
    for (size_t r = 0; r < GROUP; r++)
        row[r] = peri_sums_row(rows, stride, slots, i + r < count ? i + r : count - 1);
}

INLINE __mmask8 group_mask(size_t i, size_t count) {
    return (__mmask8)(count - i >= GROUP ? 0xFu : (1u << (count - i)) - 1);
}

/* Of rows of `blocks` times 32 elements, as codes are: the query stays in registers. */
INLINE void block_sums(peri_dtype dtype, peri_sums_form form, uint32_t blocks, const char *query,
                       const void *rows, size_t stride, const uint32_t *slots, size_t count,
                       float *out) {
    __m512i q[BLOCKS_MAX], sums[GROUP];
    const char *row[GROUP];
#pragma GCC unroll 4
    for (uint32_t b = 0; b < blocks; b++) q[b] = widen(dtype, load_bytes(query + 32 * b));
    for (size_t i = 0; i < count; i += GROUP) {
        group_rows(rows, stride, slots, i, count, row);
#pragma GCC unroll 4
        for (int r = 0; r < GROUP; r++) {
            sums[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
            for (uint32_t b = 0; b < blocks; b++)
                sums[r] = whole_step(form, q[b], widen(dtype, load_bytes(row[r] + 32 * b)),
                                     sums[r]);
        }
        _mm_mask_storeu_ps(out + i, group_mask(i, count), _mm_cvtepi32_ps(whole_fold_4(sums)));
    }
}

/* Asks for no rows ahead: rows of bytes are short, so the CPU reads the next group by itself. */
INLINE void whole_sums(peri_dtype dtype, peri_sums_form form, const void *query, const void *rows,
                       size_t stride, const uint32_t *slots, size_t count, uint32_t dim,
                       float *out) {
    switch (dim) {
    case 32: block_sums(dtype, form, 1, query, rows, stride, slots, count, out); return;
    case 64: block_sums(dtype, form, 2, query, rows, stride, slots, count, out); return;
    case 96: block_sums(dtype, form, 3, query, rows, stride, slots, count, out); return;
    case 128: block_sums(dtype, form, 4, query, rows, stride, slots, count, out); return;
    default: break;
    }
    for (size_t i = 0; i < count; i += GROUP) {
        __m512i sums[GROUP];
        const char *row[GROUP];
        group_rows(rows, stride, slots, i, count, row);
        whole_lanes(dtype, form, query, row, dim, sums);
        _mm_mask_storeu_ps(out + i, group_mask(i, count), _mm_cvtepi32_ps(whole_fold_4(sums)));
    }
}

/* Sums of a byte's worth each: |q - x| as i8 or u8, or the bits set in q ^ x. */
typedef enum bytes_form { DIFFERENCE_I8, DIFFERENCE_U8, DIFFERING_BITS } bytes_form;

INLINE __m512i bits_set(__m512i bytes) {
    __m128i half = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    __m512i table = _mm512_broadcast_i32x4(half), low = _mm512_set1_epi8(15);
    __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
    return _mm512_add_epi8(_mm512_shuffle_epi8(table, _mm512_and_si512(bytes, low)),
                           _mm512_shuffle_epi8(table, high));
}

INLINE __m512i byte_step(bytes_form form, __m512i q, __m512i x, __m512i sum) {
    if (form == DIFFERENCE_I8) { /* to u8, whose differences are the same */
        q = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
        x = _mm512_xor_si512(x, _mm512_set1_epi8(-128));
    } else if (form == DIFFERING_BITS) {
        q = bits_set(_mm512_xor_si512(q, x));
        x = _mm512_setzero_si512();
    }
    return _mm512_add_epi32(sum, _mm512_sad_epu8(q, x));
}

INLINE void byte_lanes(bytes_form form, const char *q, const char *const *rows, uint32_t dim,
                       __m512i sums[GROUP]) {
    size_t j = 0;
    for (int r = 0; r < GROUP; r++) sums[r] = _mm512_setzero_si512();
    for (; j + 64 <= dim; j += 64) {
        __m512i query = _mm512_loadu_si512(q + j);
#pragma GCC unroll 4
        for (int r = 0; r < GROUP; r++)
            sums[r] = byte_step(form, query, _mm512_loadu_si512(rows[r] + j), sums[r]);
    }
    if (j == dim) return;
    __mmask64 mask = (UINT64_C(1) << (dim - j)) - 1;
    __m512i query = _mm512_maskz_loadu_epi8(mask, q + j);
#pragma GCC unroll 4
    for (int r = 0; r < GROUP; r++)
        sums[r] = byte_step(form, query, _mm512_maskz_loadu_epi8(mask, rows[r] + j), sums[r]);
}

INLINE void byte_sums(bytes_form form, const void *query, const void *rows, size_t stride,
                      const uint32_t *slots, size_t count, uint32_t dim, float *out) {
    for (size_t i = 0; i < count; i += GROUP) {
        __m512i sums[GROUP];
        const char *row[GROUP];
        group_rows(rows, stride, slots, i, count, row);
        if (slots != NULL)
            for (size_t r = i + GROUP; r < i + 2 * GROUP && r < count; r++)
                peri_sums_prefetch(peri_sums_row(rows, stride, slots, r), dim);
        byte_lanes(form, query, row, dim, sums);
        _mm_mask_storeu_ps(out + i, group_mask(i, count), _mm_cvtepi32_ps(whole_fold_4(sums)));
    }
}

/* ---- codes --------------------------------------------------------------------------------- */

INLINE void code_step(const __m512i *weights, const __m512i *codes, __m512i high[GROUP],
                      __m512i low[GROUP]) {
#pragma GCC unroll 4
    for (int r = 0; r < GROUP; r++) {
        high[r] = _mm512_dpbusd_epi32(high[r], codes[r], weights[0]);
        low[r] = _mm512_dpbusd_epi32(low[r], codes[r], weights[1]);
    }
}

INLINE void code_lanes(const char *weights, const char *const *rows, uint32_t dim,
                       __m512i high[GROUP], __m512i low[GROUP]) {
    __m512i w[2], codes[GROUP];
    size_t j = 0;
    for (int r = 0; r < GROUP; r++) high[r] = low[r] = _mm512_setzero_si512();
    for (; j + 64 <= dim; j += 64) {
        for (size_t h = 0; h < 2; h++) w[h] = _mm512_loadu_si512(weights + h * dim + j);
        for (int r = 0; r < GROUP; r++) codes[r] = _mm512_loadu_si512(rows[r] + j);
        code_step(w, codes, high, low);
    }
    if (j == dim) return;
    for (size_t h = 0; h < 2; h++) w[h] = _mm512_zextsi256_si512(load_bytes(weights + h * dim + j));
    for (int r = 0; r < GROUP; r++) codes[r] = _mm512_zextsi256_si512(load_bytes(rows[r] + j));
    code_step(w, codes, high, low);
}

/* peri_code_product of four rows: exact in doubles, then rounded once. */
INLINE __m128 code_products(__m128i high, __m128i low) {
    __m256d all = _mm256_fmadd_pd(_mm256_cvtepi32_pd(high), _mm256_set1_pd(-64.0),
                                  _mm256_sub_pd(_mm256_setzero_pd(), _mm256_cvtepi32_pd(low)));
    return _mm256_cvtpd_ps(all);
}

static void code_product(const void *query, const void *rows, size_t stride, const uint32_t *slots,
                         size_t count, uint32_t dim, float *out) {
    for (size_t i = 0; i < count; i += GROUP) {
        __m512i high[GROUP], low[GROUP];
        const char *row[GROUP];
        group_rows(rows, stride, slots, i, count, row);
        code_lanes(query, row, dim, high, low);
        _mm_mask_storeu_ps(out + i, group_mask(i, count),
                           code_products(whole_fold_4(high), whole_fold_4(low)));
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

const peri_sums_table peri_sums_avx512 = {
    { sqeuclidean_f32, sqeuclidean_f16, sqeuclidean_i8, sqeuclidean_u8 },
    { dot_f32, dot_f16, dot_i8, dot_u8 },
    { l1_f32, l1_f16, l1_i8, l1_u8 },
    hamming,
    code_product,
};
