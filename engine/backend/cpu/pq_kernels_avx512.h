/* pq_kernels_avx512.h: what the kernels with AVX-512 share: 16 words are one register, so a code of
 * 4 bits is looked up by a permutation of one, in floats too; four registers of a table are rounded
 * to one of bytes. */
#ifndef PERI_BACKEND_CPU_PQ_KERNELS_AVX512_H
#define PERI_BACKEND_CPU_PQ_KERNELS_AVX512_H

#include <immintrin.h>

#include "backend/cpu/pq_scan_body.h"

#define PICKED_BYTES 32u /* of each entry at a time */

static inline __m128i bytes16(const uint8_t *at) {
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

/* ---- tables ------------------------------------------------------------------------------- */

/* 16 words are one register. */
static inline __m512 piece_table(const peri_pq_shape *shape, const float *t, const float *words) {
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < shape->pq_len; i++, words += PERI_PQ_FAST_WORDS) {
        __m512 x = _mm512_set1_ps(t[i]), w = _mm512_loadu_ps(words), u = _mm512_sub_ps(x, w);
        sum = shape->squared ? _mm512_fmadd_ps(u, u, sum) : _mm512_fmadd_ps(x, w, sum);
    }
    return sum;
}

static float avx512_tables(const peri_pq_shape *shape, const float *x, const float *centroid,
                           float *scratch, const float *words, float *T) {
    if (shape->words != PERI_PQ_FAST_WORDS)
        return plain_tables(shape, x, centroid, scratch, words, T);
    const float *t = less_centroid(shape, x, centroid, scratch);
    size_t step = shape->one_book ? 0 : (size_t)shape->pq_len * PERI_PQ_FAST_WORDS;
    __m512 most = _mm512_setzero_ps();
    for (size_t j = 0; j < shape->pq_dim; j++) {
        __m512 table = piece_table(shape, t + j * shape->pq_len, words + j * step);
        _mm512_storeu_ps(T + j * PERI_PQ_FAST_WORDS, table);
        most = _mm512_max_ps(table, most);
    }
    return shape->squared ? _mm512_reduce_max_ps(most) : -1;
}

/* The least and the largest of U of a piece; a NaN is neither. */
static inline void piece_ends(const peri_pq_shape *shape, const float *T, float *low, float *high) {
    __m512 least = _mm512_set1_ps(INFINITY), most = _mm512_set1_ps(-INFINITY);
    __m512 sign = _mm512_set1_ps(shape->squared ? 1 : -1);
    for (size_t w = 0; w < shape->words; w += 16) {
        __m512 value = _mm512_mul_ps(_mm512_loadu_ps(T + w), sign);
        least = _mm512_min_ps(value, least);
        most = _mm512_max_ps(value, most);
    }
    *low = shape->squared ? 0 : _mm512_reduce_min_ps(least);
    *high = _mm512_reduce_max_ps(most);
}

static void avx512_spans(const peri_pq_shape *shape, const float *T, float *lows,
                         peri_pq_span *span) {
    if (shape->words % 16 != 0) {
        plain_spans(shape, T, lows, span);
        return;
    }
    *span = (peri_pq_span){ .widest = 0 };
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words) {
        float low, high;
        piece_ends(shape, T, &low, &high);
        lows[j] = low;
        span->widest = high - low > span->widest ? high - low : span->widest;
        span->low_sum += low;
        span->largest += fabsf(low) > fabsf(high) ? fabsf(low) : fabsf(high);
    }
}

/* ---- small tables ------------------------------------------------------------------------- */

typedef struct peri_pq_shrinking {
    const float *T, *lows;
    __m512 factor, scale;
} peri_pq_shrinking;

static inline peri_pq_shrinking shrinking_of(const float *T, const float *lows, bool squared,
                                             float scale) {
    return (peri_pq_shrinking){ T, lows, _mm512_set1_ps(squared ? scale : -scale),
                                _mm512_set1_ps(scale) };
}

/* Numbers that don't fit an integer become its least: 0 in the end. */
static inline __m512i shrink_one(const peri_pq_shrinking *s, size_t j, size_t pq_dim) {
    if (j >= pq_dim) return _mm512_setzero_si512();
    __m512 low = _mm512_mul_ps(_mm512_set1_ps(s->lows[j]), s->scale);
    __m512 value = _mm512_fmsub_ps(_mm512_loadu_ps(s->T + j * PERI_PQ_FAST_WORDS), s->factor, low);
    return _mm512_cvttps_epi32(value);
}

/* Pieces j, j + step, ..: 16 bytes each, one after the other; below 0 is 0, above 255 is 255. */
static inline __m512i shrink_four(const peri_pq_shrinking *s, size_t j, size_t step,
                                  size_t pq_dim) {
    __m512i first = _mm512_packs_epi32(shrink_one(s, j, pq_dim), shrink_one(s, j + step, pq_dim));
    __m512i second = _mm512_packs_epi32(shrink_one(s, j + 2 * step, pq_dim),
                                        shrink_one(s, j + 3 * step, pq_dim));
    __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second));
}

/* ---- sums of T ---------------------------------------------------------------------------- */

/* Adds the two numbers that a byte of 16 entries names. */
static inline __m512 add_pair(__m512 sum, __m128i bytes, const float *T) {
    __m512i low = _mm512_cvtepu8_epi32(bytes), high = _mm512_srli_epi32(low, 4);
    sum = _mm512_add_ps(sum, _mm512_permutexvar_ps(low, _mm512_loadu_ps(T)));
    return _mm512_add_ps(sum, _mm512_permutexvar_ps(high, _mm512_loadu_ps(T + 16)));
}

static inline __m512 add_single(__m512 sum, __m128i bytes, const float *T) {
    __m512i low = _mm512_cvtepu8_epi32(bytes);
    return _mm512_add_ps(sum, _mm512_permutexvar_ps(low, _mm512_loadu_ps(T)));
}

static void sums_of_nibbles(const peri_pq_shape *shape, const float *T, const uint8_t *codes,
                            float *sums) {
    __m512 first = _mm512_setzero_ps(), second = first;
    size_t pairs = shape->pq_dim / 2;
    for (size_t b = 0; b < pairs; b++, codes += PERI_CODES_GROUP, T += 2 * PERI_PQ_FAST_WORDS) {
        first = add_pair(first, bytes16(codes), T);
        second = add_pair(second, bytes16(codes + 16), T);
    }
    if (shape->pq_dim % 2 != 0) {
        first = add_single(first, bytes16(codes), T);
        second = add_single(second, bytes16(codes + 16), T);
    }
    _mm512_storeu_ps(sums, first);
    _mm512_storeu_ps(sums + 16, second);
}

/* Their bytes are brought side by side first. */
static void avx512_picked(const peri_pq_shape *shape, const float *T, const uint8_t *const *codes,
                          float *sums) {
    __attribute__((aligned(64))) uint8_t bytes[PICKED_BYTES * PERI_PQ_PICKED];
    __m512 sum = _mm512_setzero_ps();
    for (size_t first = 0; first < shape->row_bytes; first += PICKED_BYTES) {
        size_t left = shape->row_bytes - first, count = left < PICKED_BYTES ? left : PICKED_BYTES;
        for (size_t i = 0; i < PERI_PQ_PICKED; i++) {
            const uint8_t *from = codes[i] + first * PERI_CODES_GROUP;
            for (size_t b = 0; b < count; b++)
                bytes[b * PERI_PQ_PICKED + i] = from[b * PERI_CODES_GROUP];
        }
        for (size_t b = 0; b < count; b++, T += 2 * PERI_PQ_FAST_WORDS) {
            __m128i some = bytes16(bytes + b * PERI_PQ_PICKED);
            bool single = 2 * (first + b) + 1 == shape->pq_dim;
            sum = single ? add_single(sum, some, T) : add_pair(sum, some, T);
        }
    }
    _mm512_storeu_ps(sums, sum);
}

static void avx512_sums(const peri_pq_shape *shape, const float *T, const uint8_t *codes,
                        float *sums) {
    uint8_t piece[PERI_CODES_GROUP];
    if (shape->pq_bits == 4) {
        sums_of_nibbles(shape, T, codes, sums);
        return;
    }
    __m512 first = _mm512_setzero_ps(), second = first;
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words) {
        const uint8_t *at = codes + j * PERI_CODES_GROUP;
        if (shape->pq_bits != 8) {
            take_codes(shape, codes, j, piece);
            at = piece;
        }
        __m512i a = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));
        __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(at + 16)));
        first = _mm512_add_ps(first, _mm512_i32gather_ps(a, T, 4));
        second = _mm512_add_ps(second, _mm512_i32gather_ps(b, T, 4));
    }
    _mm512_storeu_ps(sums, first);
    _mm512_storeu_ps(sums + 16, second);
}

#endif
