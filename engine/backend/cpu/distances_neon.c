/* distances_neon.c: the sum kernels with NEON, which every 64-bit Arm CPU has.
 *
 * f32 and f16: the 32 lanes are eight registers a row; two rows at a time fill sixteen
 * accumulators of the thirty-two registers. A ragged tail goes through a padded copy, and lanes
 * past the end keep their sum (adding a product of zeros would turn -0 into +0). i8 and u8:
 * products in 16 bits, added in pairs to 32; integers, so their order is free. */
#include <arm_neon.h>
#include <string.h>

#include "backend/cpu/sums.h"
#include "core/code.h"

#define GROUP 2
#define PARTS 8 /* registers of 4 lanes */
#define INLINE static inline __attribute__((always_inline))

/* ---- f32 and f16 --------------------------------------------------------------------------- */

INLINE float32x4_t load4(peri_dtype dtype, const char *row, size_t j) {
    if (dtype == PERI_F16) {
        uint16x4_t half = vld1_u16((const uint16_t *)(const void *)(row + 2 * j));
        return vcvt_f32_f16(vreinterpret_f16_u16(half));
    }
    return vld1q_f32((const float *)(const void *)(row + 4 * j));
}

INLINE float32x4_t step(peri_sums_form form, float32x4_t q, float32x4_t x, float32x4_t sum) {
    if (form == PERI_SUMS_DOT) return vfmaq_f32(sum, q, x);
    if (form == PERI_SUMS_L1) return vaddq_f32(sum, vabdq_f32(q, x));
    float32x4_t t = vsubq_f32(q, x);
    return vfmaq_f32(sum, t, t);
}

/* All ones in the lanes of part `part` that are below `left`. */
INLINE uint32x4_t lanes_below(size_t left, int part) {
    static const uint32_t numbers[4] = { 0, 1, 2, 3 };
    uint32x4_t lane = vaddq_u32(vdupq_n_u32((uint32_t)(4 * part)), vld1q_u32(numbers));
    return vcltq_u32(lane, vdupq_n_u32((uint32_t)left));
}

INLINE void tail(peri_dtype dtype, peri_sums_form form, int group, const float *q,
                 const char *const *rows, size_t j, size_t left, float32x4_t sums[GROUP][PARTS]) {
    float query[32] = { 0 };
    size_t size = dtype == PERI_F16 ? 2 : 4;
    memcpy(query, q + j, left * sizeof *query);
    for (int r = 0; r < group; r++) {
        char row[32 * 4] = { 0 };
        memcpy(row, rows[r] + j * size, left * size);
#pragma GCC unroll 8
        for (int p = 0; p < PARTS; p++) {
            float32x4_t sum = step(form, vld1q_f32(query + 4 * p),
                                   load4(dtype, row, (size_t)(4 * p)), sums[r][p]);
            sums[r][p] = vbslq_f32(lanes_below(left, p), sum, sums[r][p]);
        }
    }
}

/* The lane sums of `group` rows. */
INLINE void lanes(peri_dtype dtype, peri_sums_form form, int group, const float *q,
                  const char *const *rows, uint32_t dim, float32x4_t sums[GROUP][PARTS]) {
    for (int r = 0; r < group; r++)
        for (int p = 0; p < PARTS; p++) sums[r][p] = vdupq_n_f32(0);
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
#pragma GCC unroll 8
        for (int p = 0; p < PARTS; p++) {
            size_t at = j + (size_t)(4 * p);
            float32x4_t wide = vld1q_f32(q + at);
#pragma GCC unroll 2
            for (int r = 0; r < group; r++)
                sums[r][p] = step(form, wide, load4(dtype, rows[r], at), sums[r][p]);
        }
    }
    if (j < dim) tail(dtype, form, group, q, rows, j, dim - j, sums);
}

/* + 16, + 8, + 4, + 2, + 1. */
INLINE float fold(const float32x4_t sums[PARTS]) {
    float32x4_t s16[4];
    for (int p = 0; p < 4; p++) s16[p] = vaddq_f32(sums[p], sums[p + 4]);
    float32x4_t s4 = vaddq_f32(vaddq_f32(s16[0], s16[2]), vaddq_f32(s16[1], s16[3]));
    float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
    return vget_lane_f32(s2, 0) + vget_lane_f32(s2, 1);
}

INLINE void float_sums(peri_dtype dtype, peri_sums_form form, const void *query, const void *rows,
                       size_t stride, const uint32_t *slots, size_t count, uint32_t dim,
                       float *out) {
    size_t i = 0, bytes = dim * (dtype == PERI_F16 ? 2u : 4u);
    float32x4_t sums[GROUP][PARTS];
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

INLINE int32x4_t step_i8(peri_sums_form form, int8x16_t q, int8x16_t x, int32x4_t sum) {
    if (form == PERI_SUMS_DOT) {
        sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(q), vget_low_s8(x)));
        return vpadalq_s16(sum, vmull_high_s8(q, x));
    }
    int16x8_t low = vsubl_s8(vget_low_s8(q), vget_low_s8(x)), high = vsubl_high_s8(q, x);
    sum = vmlal_s16(sum, vget_low_s16(low), vget_low_s16(low));
    sum = vmlal_high_s16(sum, low, low);
    sum = vmlal_s16(sum, vget_low_s16(high), vget_low_s16(high));
    return vmlal_high_s16(sum, high, high);
}

INLINE int32x4_t step_u8(peri_sums_form form, uint8x16_t q, uint8x16_t x, int32x4_t sum) {
    if (form == PERI_SUMS_SQUARED)
        q = x = vabdq_u8(q, x); /* the square of a difference is that of its size */
    uint32x4_t bits = vreinterpretq_u32_s32(sum);
    bits = vpadalq_u16(bits, vmull_u8(vget_low_u8(q), vget_low_u8(x)));
    bits = vpadalq_u16(bits, vmull_high_u8(q, x));
    return vreinterpretq_s32_u32(bits);
}

INLINE int32x4_t whole_step(peri_dtype dtype, peri_sums_form form, const char *q, const char *x,
                            int32x4_t sum) {
    const uint8_t *a = (const uint8_t *)(const void *)q, *b = (const uint8_t *)(const void *)x;
    if (dtype == PERI_U8) return step_u8(form, vld1q_u8(a), vld1q_u8(b), sum);
    return step_i8(form, vreinterpretq_s8_u8(vld1q_u8(a)), vreinterpretq_s8_u8(vld1q_u8(b)), sum);
}

INLINE float whole_sum(peri_dtype dtype, peri_sums_form form, const char *q, const char *x,
                       uint32_t dim) {
    int32x4_t even = vdupq_n_s32(0), odd = even;
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
        even = whole_step(dtype, form, q + j, x + j, even);
        odd = whole_step(dtype, form, q + j + 16, x + j + 16, odd);
    }
    for (; j < dim; j += 16) {
        char query[16] = { 0 }, row[16] = { 0 };
        size_t left = dim - j < 16 ? dim - j : 16;
        memcpy(query, q + j, left);
        memcpy(row, x + j, left);
        even = whole_step(dtype, form, query, row, even);
    }
    return (float)vaddvq_s32(vaddq_s32(even, odd));
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

INLINE uint32x4_t byte_step(bytes_form form, const char *q, const char *x, uint32x4_t sum) {
    uint8x16_t a = vld1q_u8((const uint8_t *)(const void *)q);
    uint8x16_t b = vld1q_u8((const uint8_t *)(const void *)x);
    if (form == DIFFERING_BITS) return vpadalq_u16(sum, vpaddlq_u8(vcntq_u8(veorq_u8(a, b))));
    if (form == DIFFERENCE_I8) { /* to u8, whose differences are the same */
        a = veorq_u8(a, vdupq_n_u8(0x80));
        b = veorq_u8(b, vdupq_n_u8(0x80));
    }
    return vpadalq_u16(sum, vpaddlq_u8(vabdq_u8(a, b)));
}

INLINE float byte_sum(bytes_form form, const char *q, const char *x, uint32_t dim) {
    uint32x4_t even = vdupq_n_u32(0), odd = even;
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
        even = byte_step(form, q + j, x + j, even);
        odd = byte_step(form, q + j + 16, x + j + 16, odd);
    }
    for (; j < dim; j += 16) {
        char query[16] = { 0 }, row[16] = { 0 };
        size_t left = dim - j < 16 ? dim - j : 16;
        memcpy(query, q + j, left);
        memcpy(row, x + j, left);
        even = byte_step(form, query, row, even);
    }
    return (float)vaddvq_u32(vaddq_u32(even, odd));
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

/* sum + products of 16 codes with 16 weights. */
INLINE int32x4_t code_step(const int8_t *weights, uint8x16_t codes, int32x4_t sum) {
    int8x16_t w = vld1q_s8(weights);
    int16x8_t w0 = vmovl_s8(vget_low_s8(w)), w1 = vmovl_high_s8(w);
    int16x8_t c0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes)));
    int16x8_t c1 = vreinterpretq_s16_u16(vmovl_high_u8(codes));
    sum = vmlal_high_s16(vmlal_s16(sum, vget_low_s16(w0), vget_low_s16(c0)), w0, c0);
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(w1), vget_low_s16(c1)), w1, c1);
}

static void code_product(const void *query, const void *rows, size_t stride, const uint32_t *slots,
                         size_t count, uint32_t dim, float *out) {
    const int8_t *weights = query;
    for (size_t i = 0; i < count; i++) {
        const char *row = peri_sums_row(rows, stride, slots, i);
        int32x4_t high = vdupq_n_s32(0), low = high;
        for (size_t j = 0; j < dim; j += 16) {
            uint8x16_t codes = vld1q_u8((const uint8_t *)(const void *)(row + j));
            high = code_step(weights + j, codes, high);
            low = code_step(weights + dim + j, codes, low);
        }
        out[i] = peri_code_product(vaddvq_s32(high), vaddvq_s32(low));
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

const peri_sums_table peri_sums_neon = {
    { sqeuclidean_f32, sqeuclidean_f16, sqeuclidean_i8, sqeuclidean_u8 },
    { dot_f32, dot_f16, dot_i8, dot_u8 },
    { l1_f32, l1_f16, l1_i8, l1_u8 },
    hamming,
    code_product,
};
