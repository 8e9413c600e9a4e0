/* pq_nearest_avx2.c: 8 codewords a register, up to 4 registers at once, so that a broadcast of the
 * piece's element serves 32 codewords and the sums don't wait for each other. */
#include <immintrin.h>

#include "backend/cpu/pq_nearest.h"

/* The least of 8 lanes; among equal ones the lowest code. */
static inline uint8_t least(__m256 sums, __m256i codes) {
    float sum[8];
    int32_t code[8];
    _mm256_storeu_ps(sum, sums);
    _mm256_storeu_si256((__m256i *)(void *)code, codes);
    int best = 0;
    for (int i = 1; i < 8; i++)
        if (sum[i] < sum[best] || (sum[i] == sum[best] && code[i] < code[best])) best = i;
    return (uint8_t)code[best];
}

__attribute__((always_inline)) static inline uint8_t
nearest(const float *x, const float *book, uint32_t codes, uint32_t len, uint32_t registers) {
    __m256 best = _mm256_set1_ps(__builtin_inff());
    __m256i best_code = _mm256_setzero_si256();
    __m256i code = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (uint32_t c = 0; c < codes; c += 8 * registers) {
        __m256 sums[4];
        for (uint32_t g = 0; g < registers; g++) sums[g] = _mm256_setzero_ps();
        for (uint32_t l = 0; l < len; l++) {
            __m256 element = _mm256_broadcast_ss(x + l);
            const float *words = book + (size_t)l * codes + c;
            for (uint32_t g = 0; g < registers; g++) {
                __m256 t = _mm256_sub_ps(element, _mm256_loadu_ps(words + 8 * g));
                sums[g] = _mm256_fmadd_ps(t, t, sums[g]);
            }
        }
        for (uint32_t g = 0; g < registers; g++) {
            __m256 nearer = _mm256_cmp_ps(sums[g], best, _CMP_LT_OQ);
            best = _mm256_blendv_ps(best, sums[g], nearer);
            best_code = _mm256_blendv_epi8(best_code, code, _mm256_castps_si256(nearer));
            code = _mm256_add_epi32(code, _mm256_set1_epi32(8));
        }
    }
    return least(best, best_code);
}

void peri_pq_nearest_avx2(const float *x, size_t stride, size_t count, const float *book,
                          uint32_t codes, uint32_t len, uint8_t *out) {
    for (size_t i = 0; i < count; i++) {
        const float *piece = x + i * stride;
        if (codes >= 32)
            out[i] = nearest(piece, book, codes, len, 4);
        else if (codes == 16)
            out[i] = nearest(piece, book, codes, len, 2);
        else
            out[i] = nearest(piece, book, codes, len, 1);
    }
}
