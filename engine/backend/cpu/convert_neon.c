/* convert_neon.c: f16 to and from f32 with NEON. As in convert_avx2.c, elements with a NaN among
 * them take the plain way. */
#include <arm_neon.h>

#include "backend/cpu/convert.h"
#include "core/half.h"

static int has_nan(float32x4_t x) { return vminvq_u32(vceqq_f32(x, x)) == 0; }

void peri_widen_neon(const uint16_t *in, size_t count, float *out) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        float32x4_t wide = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in + i)));
        if (has_nan(wide))
            for (size_t j = i; j < i + 4; j++) out[j] = peri_half_to_float(in[j]);
        else
            vst1q_f32(out + i, wide);
    }
    for (; i < count; i++) out[i] = peri_half_to_float(in[i]);
}

void peri_narrow_neon(const float *in, size_t count, uint16_t *out) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        float32x4_t wide = vld1q_f32(in + i);
        if (has_nan(wide))
            for (size_t j = i; j < i + 4; j++) out[j] = peri_float_to_half(in[j]);
        else
            vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(wide)));
    }
    for (; i < count; i++) out[i] = peri_float_to_half(in[i]);
}
