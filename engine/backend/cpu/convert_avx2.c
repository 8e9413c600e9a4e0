/* convert_avx2.c: f16 to and from f32 with F16C.
 *
 * The instructions round as core/half.h does, but make NaNs quiet and keep their payload; eight
 * elements with a NaN among them therefore take the plain way, so that the bits are the same
 * everywhere. */
#include <immintrin.h>

#include "backend/cpu/convert.h"
#include "core/half.h"

static int has_nan(__m256 x) { return _mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)); }

void peri_widen_avx2(const uint16_t *in, size_t count, float *out) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + i)));
        if (has_nan(wide))
            for (size_t j = i; j < i + 8; j++) out[j] = peri_half_to_float(in[j]);
        else
            _mm256_storeu_ps(out + i, wide);
    }
    for (; i < count; i++) out[i] = peri_half_to_float(in[i]);
}

void peri_narrow_avx2(const float *in, size_t count, uint16_t *out) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256 wide = _mm256_loadu_ps(in + i);
        if (has_nan(wide))
            for (size_t j = i; j < i + 8; j++) out[j] = peri_float_to_half(in[j]);
        else
            _mm_storeu_si128((__m128i *)(void *)(out + i),
                             _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    for (; i < count; i++) out[i] = peri_float_to_half(in[i]);
}
