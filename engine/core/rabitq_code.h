/* rabitq_code.h: what a RaBitQ code means, and how a distance is estimated from it: the part that
 * backends and the quantizer share (quant/rabitq.h makes codes and queries).
 *
 * A row o is coded against a centroid c. P is a random rotation into D dimensions, r = P(o - c).
 * Its code holds D numbers u[j] of `bits` bits (core/codes.h), which stand for the vector
 *     x[j] = u[j] - half,  half = (2^bits - 1) / 2
 * close in direction to r. Two factors go with it:
 *     scale = |r|^2 / <x, r>              so that  scale * <x, v>  estimates <r, v> without bias
 *     add   = |r|^2 + 2 * scale * <x, Pc>
 * so for any query q, and with the same rotated Pq for all centroids,
 *     |o - q|^2 ~ |q - c|^2 + add - 2 * scale * <x, Pq>
 *     -<o, q>   ~ -<c, q>          - scale * <x, Pq>
 * The query's Pq is rounded to whole numbers v[j] of -127..127 in steps of `delta`, so that
 * <u, v> is exact in 32 bits (D <= 32768 + 31) on every backend, and
 *     <x, Pq> = delta * (<u, v> - half * sum),  sum = the sum of all v[j].
 *
 * Source: Gao & Long, RaBitQ (SIGMOD 2024, arXiv 2405.12497); Gao et al., the extension to more
 * bits (arXiv 2409.09913). The folding of c into `add` makes one query serve all lists. */
#ifndef PERI_CORE_RABITQ_CODE_H
#define PERI_CORE_RABITQ_CODE_H

#include <string.h>

#include "core/codes.h"
#include "perigee.h"

/* Dimensions of codes are whole blocks of this many, so kernels need no tail. */
#define PERI_RABITQ_BLOCK 32u

/* Behind the codes of a row, unaligned. */
typedef struct peri_rabitq_factors {
    float add, scale;
} peri_rabitq_factors;

/* Row: padded_dim codes, then the factors. */
static inline size_t peri_rabitq_code_bytes(size_t padded_dim, uint32_t bits) {
    return peri_codes_bytes(padded_dim, bits);
}
static inline size_t peri_rabitq_row_bytes(size_t padded_dim, uint32_t bits) {
    return peri_codes_bytes(padded_dim, bits) + sizeof(peri_rabitq_factors);
}

static inline float peri_rabitq_half(uint32_t bits) { return (float)((1u << bits) - 1u) * 0.5f; }

static inline peri_rabitq_factors peri_rabitq_row_factors(const uint8_t *row, size_t code_bytes) {
    peri_rabitq_factors factors;
    memcpy(&factors, row + code_bytes, sizeof factors);
    return factors;
}

/* A query, rotated and rounded. */
typedef struct peri_rabitq_query {
    const int8_t *values; /* [padded_dim] v */
    float delta;
    float half_sum; /* half * sum of the values */
} peri_rabitq_query;

/* <u, v>: the definition; backends have faster ones of the same value. */
static inline int32_t peri_rabitq_dot(const uint8_t *row, const int8_t *values, size_t padded_dim,
                                      uint32_t bits) {
    int32_t sum = 0;
    for (size_t j = 0; j < padded_dim; j++)
        sum += (int32_t)peri_codes_get(row, j, bits) * values[j];
    return sum;
}

/* The value inside (smaller is nearer) from <u, v>. `base` is |q - c|^2, or -<c, q> for the inner
 * product; 0 - |q|^2 and 0 - without a centroid. An estimate of a squared distance may be below
 * 0. Each operation is rounded to f32, in this order. */
static inline float peri_rabitq_estimate(peri_metric metric, const peri_rabitq_query *query,
                                         float base, peri_rabitq_factors factors, int32_t dot) {
    float product = factors.scale * (query->delta * ((float)dot - query->half_sum));
    return metric == PERI_INNER_PRODUCT ? base - product : (base + factors.add) - 2.0f * product;
}

#endif
