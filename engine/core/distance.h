/* distance.h: the canonical distance. Every reported distance is this one, bit for bit.
 *
 * For rows of f32 and f16 (f16 widened to f32, exactly) and an f32 query: 32 partial sums; element
 * j goes to sum j % 32, in ascending j, by one fused multiply-add:
 *     squared L2:     t = q[j] - x[j];  sum = fma(t, t, sum)
 *     inner product:  sum = fma(q[j], x[j], sum)
 *     l1:             sum = sum + |q[j] - x[j]|
 * then the sums fold: s[i] += s[i + 16], then + 8, + 4, + 2, + 1. 32 lanes are two AVX-512
 * registers, four AVX2 ones, or one warp with its butterfly, so every backend reaches this order at
 * full speed.
 *
 * For i8 and u8 (both sides of one dtype): the exact integer sum in 32 bits (PERI_DIM_MAX keeps it
 * there), then one conversion to f32. hamming is such a sum over u8: of the bits set in
 * q[j] ^ x[j].
 *
 * From the sum to the value inside, where smaller is nearer:
 *     squared L2, euclidean, l1, hamming: sum
 *     inner product: -dot             cosine: 1 - dot / (|q| * |x|)
 * with |x| = sqrtf(canonical dot of x with itself), one product, one division, one subtraction,
 * each rounded to f32. A NaN never enters (inputs are checked above the seam); an overflow to
 * Inf may, and where one of both signs makes a NaN (Inf - Inf, Inf / Inf) the value is +inf: the
 * farthest. */
#ifndef PERI_CORE_DISTANCE_H
#define PERI_CORE_DISTANCE_H

#include "core/status.h"

#define PERI_LANES 32u

/* Plain C, the definition. query is f32 for rows of f32 and f16, else of `dtype`. */
float peri_canonical_dot(peri_dtype dtype, const void *query, const void *row, uint32_t dim);
float peri_canonical_sqeuclidean(peri_dtype dtype, const void *query, const void *row,
                                 uint32_t dim);
float peri_canonical_l1(peri_dtype dtype, const void *query, const void *row, uint32_t dim);
float peri_canonical_hamming(const uint8_t *query, const uint8_t *row, uint32_t dim);

/* sqrtf(dot(row, row)) of a row of `dtype`. */
float peri_canonical_length(peri_dtype dtype, const void *row, uint32_t dim);

/* The value inside (smaller is nearer); lengths are used by cosine only. */
float peri_canonical_distance(peri_metric metric, peri_dtype dtype, const void *query,
                              const void *row, uint32_t dim, float query_length, float row_length);

/* From inside to what the API reports, in place: inner product's sign, euclidean's root; a missing
 * result (+inf) becomes the metric's worst value; the root of an estimate below 0 is 0. */
void peri_metric_report(peri_metric metric, float *values, size_t count);

/* Whether the value follows from dot products and lengths, so that a pass of matrix multiplication
 * can bound it, rows can be clustered by means, and 8-bit codes of a walk stand for them. */
static inline bool peri_metric_by_products(peri_metric metric) {
    return metric != PERI_L1 && metric != PERI_HAMMING;
}

/* Whether rows of `dtype` (f32 f16 i8 u8) have the metric. */
static inline bool peri_metric_takes(peri_metric metric, peri_dtype dtype) {
    return metric != PERI_HAMMING || dtype == PERI_U8;
}

/* The dtype that queries have for rows of `dtype`. */
static inline peri_dtype peri_query_dtype(peri_dtype dtype) {
    return dtype == PERI_F16 ? PERI_F32 : dtype;
}

#endif
