/* code_value.h: queries and values of CODE_SCAN, as perigee_backend.h defines them: what every
 * backend on the host shares besides the sums of whole numbers. */
#ifndef PERI_CORE_CODE_VALUE_H
#define PERI_CORE_CODE_VALUE_H

#include <math.h>

#include "core/codes.h"
#include "core/distance.h"
#include "perigee_backend.h"

enum { PERI_VALUE_LEVELS_1 = 127, PERI_VALUE_LEVELS_2 = 16319 };

/* A query on codes. */
typedef struct peri_code_query_head {
    float half_step; /* d */
    float offset;    /* o */
    float length;    /* cosine */
    int32_t sum[2];  /* of v1 and v0; of v and nothing with one byte */
} peri_code_query_head;

static inline bool peri_value_squared(peri_metric metric) {
    return metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN;
}

/* middle [cols]. */
static inline void peri_code_middle(const peri_op_code_scan *op, float *middle) {
    float half = (float)((1u << op->bits) - 1u) * 0.5f;
    for (size_t j = 0; j < op->queries.cols; j++) middle[j] = op->low[j] + half * op->step[j];
}

/* Rounds query q [cols] to values [query_bytes, stride]: v1 (or v), then v0. middle may be NULL. */
static inline void peri_code_round(const peri_op_code_scan *op, const float *q, const float *middle,
                                   size_t stride, int8_t *values, peri_code_query_head *head) {
    size_t cols = op->queries.cols;
    float levels = op->query_bytes == 1 ? PERI_VALUE_LEVELS_1 : PERI_VALUE_LEVELS_2, most = 0;
    for (size_t j = 0; j < cols; j++) {
        float w = op->step == NULL ? q[j] : q[j] * op->step[j];
        most = fabsf(w) > most ? fabsf(w) : most;
    }
    float scale = most > 0 ? levels / most : 0;
    if (!isfinite(most) || !isfinite(scale)) scale = 0;
    *head = (peri_code_query_head){ .half_step = scale > 0 ? most / levels * 0.5f : 0 };
    for (size_t j = 0; j < cols; j++) {
        float w = scale > 0 ? (op->step == NULL ? q[j] : q[j] * op->step[j]) * scale : 0;
        int32_t v = (int32_t)(w < 0 ? w - 0.5f : w + 0.5f), high = (v + 64) >> 7;
        values[j] = (int8_t)(op->query_bytes == 1 ? v : high);
        head->sum[0] += values[j];
        if (op->query_bytes == 1) continue;
        values[stride + j] = (int8_t)(v - 128 * high);
        head->sum[1] += values[stride + j];
    }
    if (middle != NULL) head->offset = peri_canonical_dot(PERI_F32, q, middle, (uint32_t)cols);
    if (op->metric == PERI_COSINE)
        head->length = peri_canonical_length(PERI_F32, q, (uint32_t)cols);
}

/* sum (2 u - most) v from sum u v and sum v; whole numbers, modulo 2^32 on the way. */
static inline int32_t peri_code_centred(int32_t dot, int32_t sum, uint32_t bits) {
    return (int32_t)(2u * (uint32_t)dot - ((1u << bits) - 1u) * (uint32_t)sum);
}

/* The value from p, B and the entry's add. */
static inline float peri_code_value(peri_metric metric, const peri_code_query_head *head,
                                    float base, float add, float product) {
    float value;
    if (peri_value_squared(metric)) {
        float far = base + add, both = 2.0f * product;
        value = far - both;
    } else {
        value = base - product;
        if (metric == PERI_COSINE) value = 1.0f + value / head->length;
    }
    return value == value ? value : INFINITY;
}

#endif
