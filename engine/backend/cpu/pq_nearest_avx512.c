/* pq_nearest_avx512.c: 16 codewords a register, up to 4 registers at once; see the avx2 one. */
#include <immintrin.h>

#include "backend/cpu/pq_nearest.h"

/* The least of 16 lanes; among equal ones the lowest code. */
static inline uint8_t least(__m512 sums, __m512i codes) {
    float sum = _mm512_reduce_min_ps(sums);
    __mmask16 equal = _mm512_cmp_ps_mask(sums, _mm512_set1_ps(sum), _CMP_EQ_OQ);
    return (uint8_t)_mm512_mask_reduce_min_epu32(equal, codes);
}

__attribute__((always_inline)) static inline uint8_t
nearest(const float *x, const float *book, uint32_t codes, uint32_t len, uint32_t registers) {
    __m512 best = _mm512_set1_ps(__builtin_inff());
    __m512i best_code = _mm512_setzero_si512();
    __m512i code = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (uint32_t c = 0; c < codes; c += 16 * registers) {
        __m512 sums[4];
        for (uint32_t g = 0; g < registers; g++) sums[g] = _mm512_setzero_ps();
        for (uint32_t l = 0; l < len; l++) {
            __m512 element = _mm512_set1_ps(x[l]);
            const float *words = book + (size_t)l * codes + c;
            for (uint32_t g = 0; g < registers; g++) {
                __m512 t = _mm512_sub_ps(element, _mm512_loadu_ps(words + 16 * g));
                sums[g] = _mm512_fmadd_ps(t, t, sums[g]);
            }
        }
        for (uint32_t g = 0; g < registers; g++) {
            __mmask16 nearer = _mm512_cmp_ps_mask(sums[g], best, _CMP_LT_OQ);
            best = _mm512_mask_mov_ps(best, nearer, sums[g]);
            best_code = _mm512_mask_mov_epi32(best_code, nearer, code);
            code = _mm512_add_epi32(code, _mm512_set1_epi32(16));
        }
    }
    return least(best, best_code);
}

void peri_pq_nearest_avx512(const float *x, size_t stride, size_t count, const float *book,
                            uint32_t codes, uint32_t len, uint8_t *out) {
    for (size_t i = 0; i < count; i++) {
        const float *piece = x + i * stride;
        if (codes >= 64)
            out[i] = nearest(piece, book, codes, len, 4);
        else if (codes == 32)
            out[i] = nearest(piece, book, codes, len, 2);
        else
            out[i] = nearest(piece, book, codes, len, 1);
    }
}
