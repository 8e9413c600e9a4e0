/* pq_kernels_neon.c: two registers hold a byte of each of the 32 entries of a group; sums of bytes
 * are added to 16-bit words by the widening add. */
#include <arm_neon.h>

#include "backend/cpu/pq_scan_body.h"

static inline uint32_t bits_of(uint16x8_t sums, uint16x8_t most) {
    static const uint16_t bits[8] = { 1, 2, 4, 8, 16, 32, 64, 128 };
    return vaddvq_u16(vandq_u16(vcleq_u16(sums, most), vld1q_u16(bits)));
}

static void one_query(const uint8_t *codes, size_t row_bytes, const uint8_t *table, uint16_t limit,
                      uint32_t *mask) {
    uint16x8_t sums[4] = { vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0) };
    uint8x16_t nibble = vdupq_n_u8(15);
    for (size_t b = 0; b < row_bytes; b++, table += 2 * PERI_PQ_FAST_WORDS) {
        uint8x16_t low = vld1q_u8(table), high = vld1q_u8(table + PERI_PQ_FAST_WORDS);
        for (size_t half = 0; half < 2; half++) {
            uint8x16_t byte = vld1q_u8(codes + PERI_CODES_GROUP * b + 16 * half);
            uint8x16_t sum = vaddq_u8(vqtbl1q_u8(low, vandq_u8(byte, nibble)),
                                      vqtbl1q_u8(high, vshrq_n_u8(byte, 4)));
            sums[2 * half] = vaddw_u8(sums[2 * half], vget_low_u8(sum));
            sums[2 * half + 1] = vaddw_high_u8(sums[2 * half + 1], sum);
        }
    }
    uint16x8_t most = vdupq_n_u16(limit);
    *mask = bits_of(sums[0], most) | bits_of(sums[1], most) << 8 | bits_of(sums[2], most) << 16 |
            bits_of(sums[3], most) << 24;
}

static void neon_masks(const uint8_t *codes, size_t row_bytes, size_t groups,
                       const uint8_t *const *tables, size_t queries, const uint32_t *limits,
                       uint32_t *masks) {
    for (size_t g = 0; g < groups; g++)
        for (size_t q = 0; q < queries; q++)
            one_query(codes + g * row_bytes * PERI_CODES_GROUP, row_bytes, tables[q],
                      short_limit(limits[q]), &masks[q * PERI_PQ_FAST_GROUPS + g]);
}

static float neon_tables(const peri_pq_shape *shape, const float *x, const float *centroid,
                         float *scratch, const float *words, float *T) {
    return plain_tables(shape, x, centroid, scratch, words, T);
}

const peri_pq_kernels peri_pq_kernels_neon = { .most = PERI_PQ_FAST_MOST,
                                               .tables = neon_tables,
                                               .sums = plain_sums,
                                               .spans = plain_spans,
                                               .shrink = plain_shrink,
                                               .masks = neon_masks };
