/* convert.h: the conversions that have a kernel of their own: f16 to and from f32. */
#ifndef PERI_BACKEND_CPU_CONVERT_H
#define PERI_BACKEND_CPU_CONVERT_H

#include <stddef.h>
#include <stdint.h>

/* With F16C, or with NEON; a NaN is converted as core/half.h does it. */
void peri_widen_avx2(const uint16_t *in, size_t count, float *out);
void peri_narrow_avx2(const float *in, size_t count, uint16_t *out);
void peri_widen_neon(const uint16_t *in, size_t count, float *out);
void peri_narrow_neon(const float *in, size_t count, uint16_t *out);

/* The best present. */
void peri_widen(const uint16_t *in, size_t count, float *out);
void peri_narrow(const float *in, size_t count, uint16_t *out);

#endif
