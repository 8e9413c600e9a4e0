/* pq_scan_body.h: the kernels of pq_scan.h in plain C, as each instruction set compiles them. Every
 * number is computed on its own in one order, so all sets agree bit for bit. */
#ifndef PERI_BACKEND_CPU_PQ_SCAN_BODY_H
#define PERI_BACKEND_CPU_PQ_SCAN_BODY_H

#include <math.h>
#include <string.h>

#include "backend/cpu/pq_scan.h"

static inline void add_piece(const peri_pq_shape *shape, const float *t, const float *words,
                             float *T) {
    uint32_t count = shape->words;
    for (uint32_t w = 0; w < count; w++) T[w] = 0;
    for (uint32_t i = 0; i < shape->pq_len; i++, words += count) {
        float x = t[i];
        if (shape->squared) {
            for (uint32_t w = 0; w < count; w++) {
                float u = x - words[w];
                T[w] = fmaf(u, u, T[w]);
            }
        } else {
            for (uint32_t w = 0; w < count; w++) T[w] = fmaf(x, words[w], T[w]);
        }
    }
}

/* x less the centroid, where that counts. */
static inline const float *less_centroid(const peri_pq_shape *shape, const float *x,
                                         const float *centroid, float *t) {
    size_t dim = (size_t)shape->pq_dim * shape->pq_len;
    if (centroid == NULL || !shape->squared) return x;
    for (size_t i = 0; i < dim; i++) t[i] = x[i] - centroid[i];
    return t;
}

static inline float plain_tables(const peri_pq_shape *shape, const float *x, const float *centroid,
                                 float *scratch, const float *words, float *T) {
    const float *t = less_centroid(shape, x, centroid, scratch);
    size_t step = shape->one_book ? 0 : (size_t)shape->pq_len * shape->words;
    for (uint32_t j = 0; j < shape->pq_dim; j++)
        add_piece(shape, t + (size_t)j * shape->pq_len, words + j * step,
                  T + (size_t)j * shape->words);
    return -1;
}

/* Codes of piece j of the 32 entries of a group. */
static inline void take_codes(const peri_pq_shape *shape, const uint8_t *codes, size_t j,
                              uint8_t *out) {
    size_t at = j * shape->pq_bits;
    uint32_t shift = (uint32_t)(at % 8), mask = shape->words - 1;
    const uint8_t *first = codes + at / 8 * PERI_CODES_GROUP;
    bool crosses = shift + shape->pq_bits > 8;
    const uint8_t *second = crosses ? first + PERI_CODES_GROUP : first;
    for (uint32_t r = 0; r < PERI_CODES_GROUP; r++) {
        uint32_t word = (uint32_t)first[r] | (uint32_t)second[r] << 8;
        out[r] = (uint8_t)(word >> shift & mask);
    }
}

static inline void plain_sums(const peri_pq_shape *shape, const float *T, const uint8_t *codes,
                              float *sums) {
    uint8_t piece[PERI_CODES_GROUP];
    for (uint32_t r = 0; r < PERI_CODES_GROUP; r++) sums[r] = 0;
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words) {
        take_codes(shape, codes, j, piece);
        for (uint32_t r = 0; r < PERI_CODES_GROUP; r++) sums[r] += T[piece[r]];
    }
}

static inline void plain_spans(const peri_pq_shape *shape, const float *T, float *lows,
                               peri_pq_span *span) {
    *span = (peri_pq_span){ .widest = 0 };
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words) {
        float low = shape->squared ? 0 : -T[0], high = low;
        for (size_t w = 0; w < shape->words; w++) {
            float value = shape->squared ? T[w] : -T[w];
            low = value < low ? value : low;
            high = value > high ? value : high;
        }
        lows[j] = low;
        span->widest = high - low > span->widest ? high - low : span->widest;
        span->low_sum += low;
        span->largest += fabsf(low) > fabsf(high) ? fabsf(low) : fabsf(high);
    }
}

static inline void plain_shrink(const float *T, size_t pq_dim, bool squared, const float *lows,
                                float scale, uint8_t *out) {
    for (size_t j = 0; j < pq_dim; j++, T += PERI_PQ_FAST_WORDS, out += PERI_PQ_FAST_WORDS)
        for (size_t w = 0; w < PERI_PQ_FAST_WORDS; w++) {
            float value = ((squared ? T[w] : -T[w]) - lows[j]) * scale;
            out[w] = (uint8_t)(int)(value > 0 ? value : 0); /* a NaN is 0 */
        }
}

static inline void plain_masks(const uint8_t *codes, size_t row_bytes, size_t groups,
                               const uint8_t *const *tables, size_t queries, const uint32_t *limits,
                               uint32_t *masks) {
    for (size_t q = 0; q < queries; q++)
        for (size_t g = 0; g < groups; g++) {
            uint16_t sums[PERI_CODES_GROUP] = { 0 };
            uint32_t mask = 0;
            for (size_t b = 0; b < row_bytes; b++) {
                const uint8_t *low = tables[q] + b * 2 * PERI_PQ_FAST_WORDS;
                const uint8_t *high = low + PERI_PQ_FAST_WORDS;
                const uint8_t *group = codes + (g * row_bytes + b) * PERI_CODES_GROUP;
                for (uint32_t r = 0; r < PERI_CODES_GROUP; r++)
                    sums[r] = (uint16_t)(sums[r] + low[group[r] & 15] + high[group[r] >> 4]);
            }
            for (uint32_t r = 0; r < PERI_CODES_GROUP; r++)
                mask |= (uint32_t)(sums[r] <= limits[q]) << r;
            masks[q * PERI_PQ_FAST_GROUPS + g] = mask;
        }
}

/* A limit of sums of 16 bits. */
static inline uint16_t short_limit(uint32_t limit) {
    return (uint16_t)(limit < UINT16_MAX ? limit : UINT16_MAX);
}

#endif
