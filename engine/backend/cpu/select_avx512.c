/* select_avx512.c: the kernels of select.h with AVX-512, which packs the chosen lanes of a register
 * with one instruction. The loops are written out: the compiler makes them of half the width, at a
 * third of the speed. */
#include <immintrin.h>

#include "backend/cpu/select_body.h"

static inline __mmask16 front(size_t count) {
    return (__mmask16)(count >= 16 ? 0xFFFFu : (1u << count) - 1);
}

static inline size_t count_most(const peri_span *span, float most) {
    __m512 bar = _mm512_set1_ps(most);
    __m512i sum = _mm512_setzero_si512(), one = _mm512_set1_epi32(1);
    for (size_t i = 0; i < span->count; i += 16) {
        __mmask16 valid = front(span->count - i);
        __m512 value = _mm512_maskz_loadu_ps(valid, span->values + i);
        __mmask16 found = _mm512_mask_cmp_ps_mask(valid, value, bar, _CMP_LE_OQ);
        sum = _mm512_mask_add_epi32(sum, found, sum, one);
    }
    return (size_t)_mm512_reduce_add_epi32(sum);
}

static inline __m512i order16(__m512 value) {
    __m512i bits = _mm512_castps_si512(value);
    __m512i flip = _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(INT32_MAX));
    return _mm512_xor_si512(bits, flip);
}

static inline int32_t largest_most(const peri_span *span, float most, int32_t largest) {
    __m512 bar = _mm512_set1_ps(most);
    __m512i best = _mm512_set1_epi32(largest);
    for (size_t i = 0; i < span->count; i += 16) {
        __mmask16 valid = front(span->count - i);
        __m512 value = _mm512_maskz_loadu_ps(valid, span->values + i);
        __mmask16 found = _mm512_mask_cmp_ps_mask(valid, value, bar, _CMP_LE_OQ);
        best = _mm512_mask_max_epi32(best, found, best, order16(value));
    }
    return _mm512_reduce_max_epi32(best);
}

static inline void ends(const peri_span *span, int32_t *least, int32_t *most) {
    __m512i low = _mm512_set1_epi32(*least), high = _mm512_set1_epi32(*most);
    for (size_t i = 0; i < span->count; i += 16) {
        __mmask16 valid = front(span->count - i);
        __m512i order = order16(_mm512_maskz_loadu_ps(valid, span->values + i));
        low = _mm512_mask_min_epi32(low, valid, low, order);
        high = _mm512_mask_max_epi32(high, valid, high, order);
    }
    *least = _mm512_reduce_min_epi32(low);
    *most = _mm512_reduce_max_epi32(high);
}

static float kth(const peri_span *spans, size_t span_count, size_t k, size_t most) {
    static const select_loops loops = { count_most, largest_most, ends };
    return select_kth(&loops, spans, span_count, k, most);
}

/* Whole registers are written, at or before what was read. */
static size_t filter(float *values, uint32_t *slots, size_t count, float most) {
    __m512 bar = _mm512_set1_ps(most);
    size_t kept = 0;
    for (size_t i = 0; i < count; i += 16) {
        __m512 value = _mm512_loadu_ps(values + i);
        __m512i slot = _mm512_loadu_si512(slots + i);
        __mmask16 found = _mm512_mask_cmp_ps_mask(front(count - i), value, bar, _CMP_LE_OQ);
        _mm512_storeu_ps(values + kept, _mm512_maskz_compress_ps(found, value));
        _mm512_storeu_si512(slots + kept, _mm512_maskz_compress_epi32(found, slot));
        kept += (size_t)__builtin_popcount(found);
    }
    return kept;
}

/* A key's place is how many are less, and how many before it are equal. */
static void sort(const uint64_t *keys, size_t count, uint64_t *out) {
    for (size_t i = 0; i < count; i++) {
        __m512i key = _mm512_set1_epi64((long long)keys[i]);
        size_t place = 0;
        for (size_t j = 0; j < count; j += 8) {
            __mmask8 valid = (__mmask8)(front(count - j) & 0xFF);
            __m512i other = _mm512_maskz_loadu_epi64(valid, keys + j);
            __mmask8 before = (__mmask8)(j >= i ? 0 : front(i - j) & 0xFF);
            __mmask8 less = _mm512_mask_cmplt_epu64_mask(valid, other, key);
            __mmask8 equal = _mm512_mask_cmpeq_epu64_mask(before, other, key);
            place += (size_t)__builtin_popcount((uint32_t)(less | equal));
        }
        out[place] = keys[i];
    }
}

const peri_select_kernels peri_select_avx512 = { kth, filter, sort };
