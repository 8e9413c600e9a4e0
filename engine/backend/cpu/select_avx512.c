/* select_avx512.c: the kernels of select.h with AVX-512, which packs the chosen lanes of a register
 * with one instruction. */
#include <immintrin.h>

#include "backend/cpu/select_body.h"

static float kth(const peri_span *spans, size_t span_count, size_t k) {
    return select_kth(spans, span_count, k);
}

/* What is written lies at or before what was read. */
static size_t filter(float *values, uint32_t *slots, size_t count, float most) {
    __m512 bar = _mm512_set1_ps(most);
    size_t kept = 0;
    for (size_t i = 0; i < count; i += 16) {
        size_t left = count - i;
        __mmask16 valid = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
        __m512 value = _mm512_maskz_loadu_ps(valid, values + i);
        __m512i slot = _mm512_maskz_loadu_epi32(valid, slots + i);
        __mmask16 chosen = _mm512_mask_cmp_ps_mask(valid, value, bar, _CMP_LE_OQ);
        unsigned found = (unsigned)__builtin_popcount(chosen);
        __mmask16 front = (__mmask16)((1u << found) - 1);
        _mm512_mask_storeu_ps(values + kept, front, _mm512_maskz_compress_ps(chosen, value));
        _mm512_mask_storeu_epi32(slots + kept, front, _mm512_maskz_compress_epi32(chosen, slot));
        kept += found;
    }
    return kept;
}

const peri_select_kernels peri_select_avx512 = { kth, filter };
