/* knn_block_neon.c: the kernels of the coarse pass with NEON: 16 rows by 6 queries in 24
 * accumulators, four registers of rows and two of queries: 30 of the 32.
 *
 * Rows are transposed 4 by 4 in registers (bytes 8 by 8); a ragged tail of columns goes through a
 * padded copy. Bytes are widened to 16 bits and multiplied a column at a time into 32: every 64-bit
 * Arm CPU does that as fast as it multiplies floats. */
#include <arm_neon.h>
#include <string.h>

#include "backend/cpu/knn_block.h"

#define ROWS 16
#define QUERIES 6
#define PARTS 4 /* registers of 4 rows */
#define INLINE static inline __attribute__((always_inline))

/* A bit a lane, of four registers of comparisons. */
INLINE uint32_t bits_of(const uint32x4_t all[PARTS]) {
    static const uint8_t weights[8] = { 1, 2, 4, 8, 16, 32, 64, 128 };
    uint8x8_t weight = vld1_u8(weights);
    uint8x8_t low = vmovn_u16(vcombine_u16(vmovn_u32(all[0]), vmovn_u32(all[1])));
    uint8x8_t high = vmovn_u16(vcombine_u16(vmovn_u32(all[2]), vmovn_u32(all[3])));
    return (uint32_t)vaddv_u8(vand_u8(low, weight)) | (uint32_t)vaddv_u8(vand_u8(high, weight))
                                                          << 8;
}

/* ---- f32 and f16 --------------------------------------------------------------------------- */

INLINE float32x4_t load_all(peri_dtype dtype, const char *at) {
    if (dtype == PERI_F16)
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(const void *)at)));
    return vld1q_f32((const float *)(const void *)at);
}

/* Four values from element j; `count` of them are there, the others are 0. */
INLINE float32x4_t load(peri_dtype dtype, const char *row, size_t j, size_t count) {
    size_t size = dtype == PERI_F16 ? 2 : 4;
    if (count >= 4) return load_all(dtype, row + j * size);
    char padded[16] = { 0 };
    memcpy(padded, row + j * size, count * size);
    return load_all(dtype, padded);
}

INLINE void transpose(float32x4_t r[4]) {
    float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

/* Four rows into four lanes of the panel. */
INLINE void pack4(peri_dtype dtype, const char *const *rows, uint32_t dim, const float *centre,
                  const float *scale, float *panel, float *norms) {
    float32x4_t norm = vdupq_n_f32(0), r[4];
    for (size_t j = 0; j < dim; j += 4) {
        size_t columns = dim - j < 4 ? dim - j : 4;
        float32x4_t middle = vdupq_n_f32(0);
        if (centre != NULL) middle = load(PERI_F32, (const char *)centre, j, columns);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            r[i] = load(dtype, rows[i], j, columns);
            if (centre != NULL) r[i] = vsubq_f32(r[i], middle);
            if (scale != NULL) r[i] = vmulq_n_f32(r[i], scale[i]);
        }
        transpose(r);
#pragma GCC unroll 4
        for (size_t c = 0; c < 4; c++) {
            if (c >= columns) continue;
            vst1q_f32(panel + (j + c) * ROWS, r[c]);
            norm = vfmaq_f32(norm, r[c], r[c]);
        }
    }
    vst1q_f32(norms, norm);
}

static void pack(peri_dtype dtype, const char *const *rows, uint32_t dim, const float *centre,
                 const float *scale, float *panel, float *norms) {
    for (size_t r = 0; r < ROWS; r += 4) {
        const float *scales = scale == NULL ? NULL : scale + r;
        if (dtype == PERI_F16)
            pack4(PERI_F16, rows + r, dim, centre, scales, panel + r, norms + r);
        else
            pack4(PERI_F32, rows + r, dim, centre, scales, panel + r, norms + r);
    }
}

static uint32_t tile(const float *panel, const float *start, const float *queries, uint32_t dim,
                     const float *least, uint32_t *masks, float *scores) {
    float32x4_t sums[QUERIES][PARTS];
    uint32_t hits = 0;
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) sums[i][p] = vld1q_f32(start + 4 * p);
    for (size_t j = 0; j < dim; j++, panel += ROWS, queries += QUERIES) {
        float32x4_t first = vld1q_f32(queries), x[PARTS];
        float32x2_t last = vld1_f32(queries + 4);
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) x[p] = vld1q_f32(panel + 4 * p);
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) {
            sums[0][p] = vfmaq_laneq_f32(sums[0][p], x[p], first, 0);
            sums[1][p] = vfmaq_laneq_f32(sums[1][p], x[p], first, 1);
            sums[2][p] = vfmaq_laneq_f32(sums[2][p], x[p], first, 2);
            sums[3][p] = vfmaq_laneq_f32(sums[3][p], x[p], first, 3);
            sums[4][p] = vfmaq_lane_f32(sums[4][p], x[p], last, 0);
            sums[5][p] = vfmaq_lane_f32(sums[5][p], x[p], last, 1);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        uint32x4_t above[PARTS];
        float32x4_t bar = vdupq_n_f32(least[i]);
        for (int p = 0; p < PARTS; p++) above[p] = vmvnq_u32(vcltq_f32(sums[i][p], bar));
        uint32_t mask = bits_of(above);
        if (__builtin_expect(mask == 0, 1)) continue;
        masks[i] = mask;
        for (int p = 0; p < PARTS; p++) vst1q_f32(scores + i * ROWS + 4 * p, sums[i][p]);
        hits |= UINT32_C(1) << i;
    }
    return hits;
}

/* ---- i8 and u8 ----------------------------------------------------------------------------- */

/* Eight elements as X, of which `count` are there; the others are 0. */
INLINE uint8x8_t load_whole(peri_dtype dtype, const char *at, size_t count) {
    uint8_t flip = dtype == PERI_I8 ? 0x80 : 0;
    if (count >= 8) return veor_u8(vld1_u8((const uint8_t *)(const void *)at), vdup_n_u8(flip));
    uint8_t padded[8];
    memset(padded, flip, sizeof padded);
    memcpy(padded, at, count);
    return veor_u8(vld1_u8(padded), vdup_n_u8(flip));
}

INLINE uint8x8_t trade_words(uint8x8_t a, uint8x8_t b, int which) {
    uint32x2_t x = vreinterpret_u32_u8(a), y = vreinterpret_u32_u8(b);
    return vreinterpret_u8_u32(which == 0 ? vtrn1_u32(x, y) : vtrn2_u32(x, y));
}

INLINE uint8x8_t trade_pairs(uint8x8_t a, uint8x8_t b, int which) {
    uint16x4_t x = vreinterpret_u16_u8(a), y = vreinterpret_u16_u8(b);
    return vreinterpret_u8_u16(which == 0 ? vtrn1_u16(x, y) : vtrn2_u16(x, y));
}

INLINE void transpose_bytes(uint8x8_t r[8]) {
    uint8x8_t a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = vtrn1_u8(r[i], r[i + 1]);
        a[i + 1] = vtrn2_u8(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int from = i / 2 * 4 + i % 2;
        b[from] = trade_pairs(a[from], a[from + 2], 0);
        b[from + 2] = trade_pairs(a[from], a[from + 2], 1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = trade_words(b[i], b[i + 4], 0);
        r[i + 4] = trade_words(b[i], b[i + 4], 1);
    }
}

/* Eight rows into eight lanes of the panel. */
INLINE void pack_whole8(peri_dtype dtype, const char *const *rows, uint32_t dim, int16_t *panel,
                        int32_t *sums, int32_t *squares) {
    int32x4_t sum[2] = { vdupq_n_s32(0), vdupq_n_s32(0) }, square[2] = { sum[0], sum[1] };
    uint8x8_t r[8];
    for (size_t j = 0; j < dim; j += 8) {
        size_t left = dim - j;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) r[i] = load_whole(dtype, rows[i] + j, left);
        transpose_bytes(r);
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; c++) {
            if (c >= left) continue;
            int16x8_t x = vreinterpretq_s16_u16(vmovl_u8(r[c]));
            int16x8_t less = vsubq_s16(x, vdupq_n_s16(128));
            vst1q_s16(panel + (j + c) * ROWS, x);
            sum[0] = vaddw_s16(sum[0], vget_low_s16(x));
            sum[1] = vaddw_high_s16(sum[1], x);
            square[0] = vmlal_s16(square[0], vget_low_s16(x), vget_low_s16(less));
            square[1] = vmlal_high_s16(square[1], x, less);
        }
    }
    for (int h = 0; h < 2; h++) {
        vst1q_s32(sums + 4 * h, sum[h]);
        vst1q_s32(squares + 4 * h, square[h]);
    }
}

static void pack_whole(peri_dtype dtype, const char *const *rows, uint32_t dim, void *panel,
                       int32_t *sums, int32_t *squares) {
    for (size_t half = 0; half < ROWS; half += 8) {
        int16_t *lanes = (int16_t *)panel + half;
        if (dtype == PERI_I8)
            pack_whole8(PERI_I8, rows + half, dim, lanes, sums + half, squares + half);
        else
            pack_whole8(PERI_U8, rows + half, dim, lanes, sums + half, squares + half);
    }
}

INLINE void multiply_whole(const int16_t *panel, const int32_t *start, const int16_t *queries,
                           uint32_t columns, int32x4_t sums[QUERIES][PARTS]) {
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) sums[i][p] = vld1q_s32(start + 4 * p);
    for (size_t j = 0; j < columns; j++, panel += ROWS, queries += QUERIES) {
        int16x8_t x[2] = { vld1q_s16(panel), vld1q_s16(panel + 8) };
        int32_t pair;
        memcpy(&pair, queries + 4, sizeof pair);
        int16x4_t first = vld1_s16(queries), last = vreinterpret_s16_s32(vdup_n_s32(pair));
#define ADD(i, four, lane)                                                                         \
    do {                                                                                           \
        sums[i][0] = vmlal_lane_s16(sums[i][0], vget_low_s16(x[0]), four, lane);                   \
        sums[i][1] = vmlal_high_lane_s16(sums[i][1], x[0], four, lane);                            \
        sums[i][2] = vmlal_lane_s16(sums[i][2], vget_low_s16(x[1]), four, lane);                   \
        sums[i][3] = vmlal_high_lane_s16(sums[i][3], x[1], four, lane);                            \
    } while (0)
        ADD(0, first, 0);
        ADD(1, first, 1);
        ADD(2, first, 2);
        ADD(3, first, 3);
        ADD(4, last, 0);
        ADD(5, last, 1);
#undef ADD
    }
}

INLINE void put_whole(const int32x4_t sums[PARTS], int32_t *scores) {
    for (int p = 0; p < PARTS; p++) vst1q_s32(scores + 4 * p, sums[p]);
}

static uint32_t tile_whole(const void *panel, const int32_t *start, const void *queries,
                           uint32_t groups, const int32_t *least, uint32_t *masks,
                           int32_t *scores) {
    int32x4_t sums[QUERIES][PARTS];
    uint32_t hits = 0;
    multiply_whole(panel, start, queries, groups, sums);
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        uint32x4_t above[PARTS];
        int32x4_t bar = vdupq_n_s32(least[i]);
        for (int p = 0; p < PARTS; p++) above[p] = vcgeq_s32(sums[i][p], bar);
        uint32_t mask = bits_of(above);
        if (__builtin_expect(mask == 0, 1)) continue;
        masks[i] = mask;
        put_whole(sums[i], scores + i * ROWS);
        hits |= UINT32_C(1) << i;
    }
    return hits;
}

static uint32_t tile_scaled(const void *panel, const int32_t *start, const float *scale,
                            const void *queries, uint32_t groups, const int32_t *base,
                            const float *least, uint32_t *masks, int32_t *scores) {
    int32x4_t sums[QUERIES][PARTS];
    uint32_t hits = 0;
    multiply_whole(panel, start, queries, groups, sums);
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        uint32x4_t above[PARTS];
        float32x4_t bar = vdupq_n_f32(least[i]);
        for (int p = 0; p < PARTS; p++) {
            float32x4_t dot = vcvtq_f32_s32(vaddq_s32(sums[i][p], vdupq_n_s32(base[i])));
            dot = vmulq_f32(vld1q_f32(scale + 4 * p), dot);
            above[p] = vmvnq_u32(vcltq_f32(dot, bar));
        }
        uint32_t mask = bits_of(above);
        if (__builtin_expect(mask == 0, 1)) continue;
        masks[i] = mask;
        put_whole(sums[i], scores + i * ROWS);
        hits |= UINT32_C(1) << i;
    }
    return hits;
}

/* ---- entries ------------------------------------------------------------------------------- */

/* The values of four scores. */
INLINE float32x4_t values4(const peri_block_rule *rule, const char *scores, size_t first) {
    int32x4_t whole = vld1q_s32((const int32_t *)(const void *)(scores + 4 * first));
    int32x4_t base = vdupq_n_s32(rule->base);
    if (rule->form == PERI_BLOCK_FLOAT)
        return vsubq_f32(vdupq_n_f32(rule->offset), vreinterpretq_f32_s32(whole));
    if (rule->form == PERI_BLOCK_SQUARED) {
        int32x4_t less = vaddq_s32(vshlq_n_s32(whole, 1), vld1q_s32(rule->odd + first));
        return vcvtq_f32_s32(vsubq_s32(base, less));
    }
    float32x4_t dot = vcvtq_f32_s32(vaddq_s32(whole, base));
    if (rule->form == PERI_BLOCK_DOT) return vnegq_f32(dot);
    float32x4_t lengths = vmulq_n_f32(vld1q_f32(rule->lengths + first), rule->length);
    float32x4_t value = vsubq_f32(vdupq_n_f32(1), vdivq_f32(dot, lengths));
    return vbslq_f32(vceqq_f32(value, value), value, vdupq_n_f32(__builtin_inff()));
}

static size_t take(const peri_block_rule *rule, const void *scores, uint32_t mask,
                   const uint32_t *slots, float *values, uint32_t *out_slots) {
    float all[ROWS];
    size_t count = 0;
    for (size_t r = 0; r < ROWS; r += 4) vst1q_f32(all + r, values4(rule, scores, r));
    for (; mask != 0; mask &= mask - 1, count++) {
        size_t r = (size_t)__builtin_ctz(mask);
        values[count] = all[r];
        out_slots[count] = slots[r];
    }
    return count;
}

const peri_block_kernels peri_block_neon = { .rows = ROWS,
                                             .queries = QUERIES,
                                             .group = 1,
                                             .pack = pack,
                                             .tile = tile,
                                             .pack_whole = pack_whole,
                                             .tile_whole = tile_whole,
                                             .tile_scaled = tile_scaled,
                                             .take = take };
