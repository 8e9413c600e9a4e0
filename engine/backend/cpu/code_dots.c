/* code_dots.c: the plain kernels, and which ones are used. */
#include "backend/cpu/code_dots.h"

#include "backend/cpu/distances.h"
#include "core/codes.h"

static void dots_plain(const uint8_t *codes, size_t stride, size_t count,
                       const peri_code_values *values, int32_t *dots) {
    for (size_t b = 0; b < values->bytes; b++) {
        const int8_t *v = values->data + b * values->stride;
        for (size_t i = 0; i < count; i++) {
            const uint8_t *row = codes + i * stride;
            int32_t sum = 0;
            for (size_t j = 0; j < values->cols; j++) sum += (int32_t)row[j] * v[j];
            dots[b * PERI_CODE_CHUNK + i] = sum;
        }
    }
}

peri_code_kernels peri_code_kernels_chosen(void) {
#if defined(__x86_64__)
    peri_isa isa = peri_isa_chosen();
    if (isa == PERI_ISA_AVX512)
        return (peri_code_kernels){ peri_code_dots_avx512, peri_code_lanes_avx512,
                                    peri_code_unpack_avx512 };
    if (isa == PERI_ISA_AVX2)
        return (peri_code_kernels){ peri_code_dots_avx2, NULL, peri_code_unpack_avx2 };
#endif
    return (peri_code_kernels){ dots_plain, NULL, peri_codes_unpack };
}
