/* distance.c: the definition of the canonical distance, in plain C.
 *
 * This file is read, not run: backends have their own forms, which must give the same bits. It is
 * compiled without contraction, so a multiply-add is fused where fmaf() stands and nowhere else. */
#include "core/distance.h"

#include <math.h>

#include "core/half.h"

/* Folds the lanes: + 16, + 8, + 4, + 2, + 1. */
static float fold(float *sums) {
    for (uint32_t half = PERI_LANES / 2; half > 0; half /= 2)
        for (uint32_t i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

static float element(peri_dtype dtype, const void *row, uint32_t j) {
    return dtype == PERI_F16 ? peri_half_to_float(((const uint16_t *)row)[j])
                             : ((const float *)row)[j];
}

static int32_t whole_element(peri_dtype dtype, const void *row, uint32_t j) {
    return dtype == PERI_I8 ? ((const int8_t *)row)[j] : ((const uint8_t *)row)[j];
}

static bool is_whole(peri_dtype dtype) { return dtype == PERI_I8 || dtype == PERI_U8; }

static float whole_dot(peri_dtype dtype, const void *query, const void *row, uint32_t dim) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < dim; j++)
        sum += whole_element(dtype, query, j) * whole_element(dtype, row, j);
    return (float)sum;
}

static float whole_sqeuclidean(peri_dtype dtype, const void *query, const void *row, uint32_t dim) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < dim; j++) {
        int32_t t = whole_element(dtype, query, j) - whole_element(dtype, row, j);
        sum += t * t;
    }
    return (float)sum;
}

float peri_canonical_dot(peri_dtype dtype, const void *query, const void *row, uint32_t dim) {
    if (is_whole(dtype)) return whole_dot(dtype, query, row, dim);
    float sums[PERI_LANES] = { 0 };
    const float *q = query;
    for (uint32_t j = 0; j < dim; j++) {
        float *sum = &sums[j % PERI_LANES];
        *sum = fmaf(q[j], element(dtype, row, j), *sum);
    }
    return fold(sums);
}

float peri_canonical_sqeuclidean(peri_dtype dtype, const void *query, const void *row,
                                 uint32_t dim) {
    if (is_whole(dtype)) return whole_sqeuclidean(dtype, query, row, dim);
    float sums[PERI_LANES] = { 0 };
    const float *q = query;
    for (uint32_t j = 0; j < dim; j++) {
        float *sum = &sums[j % PERI_LANES];
        float t = q[j] - element(dtype, row, j);
        *sum = fmaf(t, t, *sum);
    }
    return fold(sums);
}

/* The barrier keeps the loop from being vectorized: gcc 12 for 64-bit Arm then takes differences of
 * i8 as if they were u8. */
static float whole_l1(peri_dtype dtype, const void *query, const void *row, uint32_t dim) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < dim; j++) {
        int32_t t = whole_element(dtype, query, j) - whole_element(dtype, row, j);
        __asm__("" : "+r"(t));
        sum += t < 0 ? -t : t;
    }
    return (float)sum;
}

float peri_canonical_l1(peri_dtype dtype, const void *query, const void *row, uint32_t dim) {
    if (is_whole(dtype)) return whole_l1(dtype, query, row, dim);
    float sums[PERI_LANES] = { 0 };
    const float *q = query;
    for (uint32_t j = 0; j < dim; j++) sums[j % PERI_LANES] += fabsf(q[j] - element(dtype, row, j));
    return fold(sums);
}

float peri_canonical_hamming(const uint8_t *query, const uint8_t *row, uint32_t dim) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < dim; j++) sum += __builtin_popcount((unsigned)(query[j] ^ row[j]));
    return (float)sum;
}

float peri_canonical_length(peri_dtype dtype, const void *row, uint32_t dim) {
    if (dtype != PERI_F16) return sqrtf(peri_canonical_dot(dtype, row, row, dim));
    float sums[PERI_LANES] = { 0 };
    for (uint32_t j = 0; j < dim; j++) {
        float x = element(dtype, row, j), *sum = &sums[j % PERI_LANES];
        *sum = fmaf(x, x, *sum);
    }
    return sqrtf(fold(sums));
}

float peri_canonical_distance(peri_metric metric, peri_dtype dtype, const void *query,
                              const void *row, uint32_t dim, float query_length, float row_length) {
    float value;
    if (metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN)
        return peri_canonical_sqeuclidean(dtype, query, row, dim);
    if (metric == PERI_L1) return peri_canonical_l1(dtype, query, row, dim);
    if (metric == PERI_HAMMING) return peri_canonical_hamming(query, row, dim);
    float dot = peri_canonical_dot(dtype, query, row, dim);
    if (metric == PERI_INNER_PRODUCT)
        value = -dot;
    else
        value = 1.0f - dot / (query_length * row_length);
    return isnan(value) ? INFINITY : value;
}

void peri_metric_report(peri_metric metric, float *values, size_t count) {
    if (metric == PERI_INNER_PRODUCT)
        for (size_t i = 0; i < count; i++) values[i] = -values[i];
    if (metric == PERI_EUCLIDEAN)
        for (size_t i = 0; i < count; i++) /* an estimate may be below 0 */
            values[i] = values[i] > 0 ? sqrtf(values[i]) : 0;
}
