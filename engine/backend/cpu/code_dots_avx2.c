/* code_dots_avx2.c: 16 codes a step, widened to 16 bits, four rows at a time; and unpacking: 8
 * codes a word by a bit deposit, nibbles and bits by shuffles. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/code_dots.h"
#include "core/codes.h"

enum { STEP = 16, ROWS = 4 };

static inline __m256i widen_codes(const uint8_t *at) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)at));
}

static inline __m256i widen_values(const int8_t *at) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)at));
}

static inline int32_t fold(__m256i x) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    sum = _mm_hadd_epi32(sum, sum);
    sum = _mm_hadd_epi32(sum, sum);
    return _mm_cvtsi128_si32(sum);
}

/* The columns behind the last whole step. */
static int32_t rest(const uint8_t *row, const int8_t *v, size_t from, size_t cols) {
    int32_t sum = 0;
    for (size_t j = from; j < cols; j++) sum += (int32_t)row[j] * v[j];
    return sum;
}

void peri_code_dots_avx2(const uint8_t *codes, size_t stride, size_t count,
                         const peri_code_values *values, int32_t *dots) {
    size_t whole = values->cols / STEP * STEP;
    for (size_t b = 0; b < values->bytes; b++) {
        const int8_t *v = values->data + b * values->stride;
        int32_t *out = dots + b * PERI_CODE_CHUNK;
        for (size_t i = 0; i < count; i += ROWS) {
            __m256i sums[ROWS] = { 0 };
            const uint8_t *row[ROWS];
            for (size_t r = 0; r < ROWS; r++)
                row[r] = codes + (i + r < count ? i + r : count - 1) * stride;
            for (size_t j = 0; j < whole; j += STEP) {
                __m256i value = widen_values(v + j);
                for (size_t r = 0; r < ROWS; r++)
                    sums[r] = _mm256_add_epi32(sums[r],
                                               _mm256_madd_epi16(widen_codes(row[r] + j), value));
            }
            for (size_t r = 0; r < ROWS && i + r < count; r++)
                out[i + r] = fold(sums[r]) + rest(row[r], v, whole, values->cols);
        }
    }
}

/* ---- unpacking ---------------------------------------------------------------------------- */

static inline uint64_t load16(const uint8_t *at) {
    uint16_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t load32(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* `bits` bytes and nothing behind them: by loads that overlap, as a copy of 3 or 5 bytes through
 * memory waits for its own stores. */
__attribute__((always_inline)) static inline uint64_t load_bytes(const uint8_t *at, size_t bits) {
    switch (bits) {
    case 1: return at[0];
    case 2: return load16(at);
    case 3: return load16(at) | load16(at + 1) << 8;
    case 4: return load32(at);
    default: return load32(at) | load32(at + bits - 4) << (8 * (bits - 4));
    }
}

/* 8 codes of `bits` bits are `bits` bytes. */
__attribute__((always_inline)) static inline void deposit(const uint8_t *row, size_t cols,
                                                          size_t bits, uint8_t *codes) {
    const uint64_t mask = UINT64_C(0x0101010101010101) * ((UINT64_C(1) << bits) - 1);
    size_t j = 0;
    for (; j + 8 <= cols; j += 8, row += bits) {
        uint64_t word = _pdep_u64(load_bytes(row, bits), mask);
        memcpy(codes + j, &word, sizeof word);
    }
    if (j < cols) peri_codes_unpack(row, cols - j, (uint32_t)bits, codes + j);
}

static void nibbles(const uint8_t *row, size_t cols, uint8_t *codes) {
    const __m128i low = _mm_set1_epi8(15);
    size_t j = 0;
    for (; j + 32 <= cols; j += 32) {
        __m128i both = _mm_loadu_si128((const __m128i *)(const void *)(row + j / 2));
        __m128i even = _mm_and_si128(both, low), odd = _mm_and_si128(_mm_srli_epi16(both, 4), low);
        _mm_storeu_si128((__m128i *)(void *)(codes + j), _mm_unpacklo_epi8(even, odd));
        _mm_storeu_si128((__m128i *)(void *)(codes + j + 16), _mm_unpackhi_epi8(even, odd));
    }
    if (j < cols) deposit(row + j / 2, cols - j, 4, codes + j);
}

void peri_code_unpack_avx2(const uint8_t *row, size_t cols, uint32_t bits, uint8_t *codes) {
    switch (bits) {
    case 1: deposit(row, cols, 1, codes); break;
    case 2: deposit(row, cols, 2, codes); break;
    case 3: deposit(row, cols, 3, codes); break;
    case 4: nibbles(row, cols, codes); break;
    case 5: deposit(row, cols, 5, codes); break;
    case 6: deposit(row, cols, 6, codes); break;
    case 7: deposit(row, cols, 7, codes); break;
    default: memcpy(codes, row, cols); break;
    }
}
