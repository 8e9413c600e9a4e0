/* pq_nearest_neon.c: 4 codewords a register, up to 8 registers at once, so that one element of the
 * piece serves 32 codewords and the sums don't wait for each other. */
#include <arm_neon.h>

#include "backend/cpu/pq_nearest.h"

/* The least of 4 lanes; among equal ones the lowest code. */
static inline uint8_t least(float32x4_t sums, uint32x4_t codes) {
    float sum[4];
    uint32_t code[4];
    vst1q_f32(sum, sums);
    vst1q_u32(code, codes);
    int best = 0;
    for (int i = 1; i < 4; i++)
        if (sum[i] < sum[best] || (sum[i] == sum[best] && code[i] < code[best])) best = i;
    return (uint8_t)code[best];
}

__attribute__((always_inline)) static inline uint8_t
nearest(const float *x, const float *book, uint32_t codes, uint32_t len, uint32_t registers) {
    static const uint32_t first[4] = { 0, 1, 2, 3 };
    float32x4_t best = vdupq_n_f32(__builtin_inff());
    uint32x4_t best_code = vdupq_n_u32(0), code = vld1q_u32(first);
    for (uint32_t c = 0; c < codes; c += 4 * registers) {
        float32x4_t sums[8];
        for (uint32_t g = 0; g < registers; g++) sums[g] = vdupq_n_f32(0);
        for (uint32_t l = 0; l < len; l++) {
            float32x4_t element = vdupq_n_f32(x[l]);
            const float *words = book + (size_t)l * codes + c;
            for (uint32_t g = 0; g < registers; g++) {
                float32x4_t t = vsubq_f32(element, vld1q_f32(words + 4 * g));
                sums[g] = vfmaq_f32(sums[g], t, t);
            }
        }
        for (uint32_t g = 0; g < registers; g++) {
            uint32x4_t nearer = vcltq_f32(sums[g], best);
            best = vbslq_f32(nearer, sums[g], best);
            best_code = vbslq_u32(nearer, code, best_code);
            code = vaddq_u32(code, vdupq_n_u32(4));
        }
    }
    return least(best, best_code);
}

void peri_pq_nearest_neon(const float *x, size_t stride, size_t count, const float *book,
                          uint32_t codes, uint32_t len, uint8_t *out) {
    for (size_t i = 0; i < count; i++) {
        const float *piece = x + i * stride;
        if (codes >= 32)
            out[i] = nearest(piece, book, codes, len, 8);
        else if (codes == 16)
            out[i] = nearest(piece, book, codes, len, 4);
        else if (codes == 8)
            out[i] = nearest(piece, book, codes, len, 2);
        else
            out[i] = nearest(piece, book, codes, len, 1);
    }
}
