/* detours_avx512.c: sixteen slots at a time: one gather reads their ranks (and the two bytes behind
 * each), one compress packs those above. */
#include <immintrin.h>

#include "backend/cpu/detours.h"

size_t peri_ranks_avx512(const uint16_t *ranks, const uint32_t *slots, size_t count, uint32_t least,
                         uint16_t *hits) {
    const __m512i low = _mm512_set1_epi32(0xFFFF), bar = _mm512_set1_epi32((int)least);
    size_t found = 0;
    for (size_t i = 0; i < count; i += 16) {
        __mmask16 mask = (__mmask16)(count - i >= 16 ? 0xFFFFu : (1u << (count - i)) - 1);
        __m512i at = _mm512_maskz_loadu_epi32(mask, slots + i);
        __m512i wide = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, at,
                                                   (const int *)(const void *)ranks, 2);
        wide = _mm512_and_si512(wide, low);
        __mmask16 above = _mm512_cmpgt_epi32_mask(wide, bar);
        __m512i kept = _mm512_maskz_compress_epi32(above, wide);
        _mm256_storeu_si256((__m256i *)(void *)(hits + found), _mm512_cvtepi32_epi16(kept));
        found += (size_t)__builtin_popcount(above);
    }
    return found;
}
