/* code_dots_avx512.c: 64 products an instruction, four rows at a time, both bytes of a query while
 * a row's codes are at hand. */
#include <immintrin.h>

#include "backend/cpu/code_dots.h"
#include "core/codes.h"

enum { STEP = 64, ROWS = 4 };

/* The four sums of four registers. */
static inline __m128i fold(__m512i a, __m512i b, __m512i c, __m512i d) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* Rows row[0..3] against `bytes` bytes a column; sums of four rows go to out[b]. */
__attribute__((always_inline)) static inline void
four(const uint8_t *const *row, const peri_code_values *values, size_t bytes, __m128i *out) {
    __m512i sums[2][ROWS];
    for (size_t b = 0; b < bytes; b++)
        for (size_t r = 0; r < ROWS; r++) sums[b][r] = _mm512_setzero_si512();
    for (size_t j = 0; j < values->cols; j += STEP) {
        size_t left = values->cols - j;
        __mmask64 mask = left >= STEP ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i codes[ROWS];
        for (size_t r = 0; r < ROWS; r++) codes[r] = _mm512_maskz_loadu_epi8(mask, row[r] + j);
        for (size_t b = 0; b < bytes; b++) {
            __m512i v = _mm512_loadu_si512(values->data + b * values->stride + j);
            for (size_t r = 0; r < ROWS; r++)
                sums[b][r] = _mm512_dpbusd_epi32(sums[b][r], codes[r], v);
        }
    }
    for (size_t b = 0; b < bytes; b++)
        out[b] = fold(sums[b][0], sums[b][1], sums[b][2], sums[b][3]);
}

__attribute__((always_inline)) static inline void dots_of(const uint8_t *codes, size_t stride,
                                                          size_t count,
                                                          const peri_code_values *values,
                                                          size_t bytes, int32_t *dots) {
    for (size_t i = 0; i < count; i += ROWS) {
        const uint8_t *row[ROWS];
        __m128i out[2];
        for (size_t r = 0; r < ROWS; r++)
            row[r] = codes + (i + r < count ? i + r : count - 1) * stride;
        four(row, values, bytes, out);
        for (size_t b = 0; b < bytes; b++) /* past count: still within the chunk */
            _mm_storeu_si128((__m128i *)(void *)(dots + b * PERI_CODE_CHUNK + i), out[b]);
    }
}

void peri_code_dots_avx512(const uint8_t *codes, size_t stride, size_t count,
                           const peri_code_values *values, int32_t *dots) {
    if (values->bytes == 1)
        dots_of(codes, stride, count, values, 1, dots);
    else
        dots_of(codes, stride, count, values, 2, dots);
}

/* Four registers of 16 entries; all bytes of a query while the codes are at hand. */
__attribute__((always_inline)) static inline void
lanes_of(const uint32_t *lanes, const peri_code_values *values, size_t bytes, int32_t *dots) {
    enum { REGISTERS = PERI_CODE_CHUNK / 16 };
    __m512i sums[2][REGISTERS];
    for (size_t b = 0; b < bytes; b++)
        for (size_t r = 0; r < REGISTERS; r++) sums[b][r] = _mm512_setzero_si512();
    for (size_t g = 0; 4 * g < values->cols; g++) {
        __m512i codes[REGISTERS];
        for (size_t r = 0; r < REGISTERS; r++)
            codes[r] = _mm512_loadu_si512(lanes + g * PERI_CODE_CHUNK + 16 * r);
        for (size_t b = 0; b < bytes; b++) {
            int32_t four;
            __builtin_memcpy(&four, values->data + b * values->stride + 4 * g, sizeof four);
            __m512i v = _mm512_set1_epi32(four);
            for (size_t r = 0; r < REGISTERS; r++)
                sums[b][r] = _mm512_dpbusd_epi32(sums[b][r], codes[r], v);
        }
    }
    for (size_t b = 0; b < bytes; b++)
        for (size_t r = 0; r < REGISTERS; r++)
            _mm512_storeu_si512(dots + b * PERI_CODE_CHUNK + 16 * r, sums[b][r]);
}

void peri_code_lanes_avx512(const uint32_t *lanes, const peri_code_values *values, int32_t *dots) {
    if (values->bytes == 1)
        lanes_of(lanes, values, 1, dots);
    else
        lanes_of(lanes, values, 2, dots);
}

/* ---- unpacking ---------------------------------------------------------------------------- */

/* The bytes of a row that hold the next 64 codes: fewer at its end. */
static inline __mmask32 bytes_left(size_t codes, size_t in_a_byte) {
    size_t bytes = (codes + in_a_byte - 1) / in_a_byte;
    return bytes >= 32 ? UINT32_MAX : (UINT32_C(1) << bytes) - 1;
}

static void bits_of(const uint8_t *row, size_t cols, uint8_t *codes) {
    for (size_t j = 0; j < cols; j += STEP) {
        __mmask16 mask = (__mmask16)(bytes_left(cols - j, 8) & 0xFF);
        __m128i bytes = _mm_maskz_loadu_epi8(mask, row + j / 8);
        _mm512_storeu_si512(codes + j,
                            _mm512_maskz_set1_epi8((uint64_t)_mm_cvtsi128_si64(bytes), 1));
    }
}

static void nibbles(const uint8_t *row, size_t cols, uint8_t *codes) {
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t j = 0; j < cols; j += STEP) {
        __m512i both = _mm512_cvtepu8_epi16(
            _mm256_maskz_loadu_epi8(bytes_left(cols - j, 2), row + j / 2));
        both = _mm512_or_si512(both, _mm512_slli_epi16(both, 4));
        _mm512_storeu_si512(codes + j, _mm512_and_si512(both, low));
    }
}

void peri_code_unpack_avx512(const uint8_t *row, size_t cols, uint32_t bits, uint8_t *codes) {
    if (bits == 1)
        bits_of(row, cols, codes);
    else if (bits == 4)
        nibbles(row, cols, codes);
    else
        peri_code_unpack_avx2(row, cols, bits, codes);
}
