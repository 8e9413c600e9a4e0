/* code.h: the codes that a walk measures by, as perigee_backend.h defines them: 8 bits an element,
 * or packed ones of fewer.
 *
 * A query is encoded once; the value of a row is then a sum of whole numbers, so every instruction
 * set and every backend finds the same. Under the inner product the query's weights have 13 bits,
 * as two bytes of 7 each (t = 64 * high + low, high -63..63, low -32..31): a product of such a
 * byte with a code, twice, fits 16 signed bits, which is what AVX2's byte multiply wants. */
#ifndef PERI_CORE_CODE_H
#define PERI_CORE_CODE_H

#include <string.h>

#include "core/checked.h"
#include "core/codes.h"
#include "core/status.h"
#include "perigee_backend.h"

#define PERI_CODE_COLS 32u    /* columns of code rows are a multiple of it */
#define PERI_CODE_WEIGHT 4063 /* the largest weight of an encoded query */

/* Whether codes are compared by squared differences, else by products. */
static inline bool peri_code_squared(peri_metric metric) {
    return metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN;
}

/* Encodes d elements of a row, or of a query under squared L2, into `cols` bytes. */
void peri_code_row(const peri_codes_view *codes, const float *row, size_t dim, uint8_t *out);

/* Bytes of an encoded query, 64-byte aligned: codes, or the high bytes of the weights and behind
 * them the low; of packed codes a peri_packed_query. */
size_t peri_code_query_bytes(const peri_codes_view *codes);

/* Encodes a query of d elements; other dtypes than f32 are for packed codes. */
void peri_code_query(const peri_codes_view *codes, peri_metric metric, peri_dtype dtype,
                     const void *query, size_t dim, uint8_t *out);

/* The value of an encoded query and a row's codes, of either sort. Plain C, the definition. */
float peri_code_value_of(const peri_codes_view *codes, peri_metric metric, const uint8_t *query,
                         const uint8_t *row);

/* The value of an encoded query and the codes of a row, `cols` bytes. Plain C, the definition. */
float peri_code_distance(peri_metric metric, const uint8_t *query, const uint8_t *row,
                         uint32_t cols);

/* -sum t[j] * c[j] of the sums of both halves. */
static inline float peri_code_product(int32_t high, int32_t low) {
    return (float)-((int64_t)high * 64 + low);
}

/* ---- packed codes -------------------------------------------------------------------------- */

#define PERI_PACKED_GROUP 16u  /* links whose codes lie together */
#define PERI_PACKED_STRIDE 64u /* a query's values are padded to it */

typedef struct peri_packed_factors {
    float add, scale;
} peri_packed_factors;

/* Bytes of a row's codes, a multiple of 4, and of all of it. */
static inline size_t peri_packed_code_bytes(size_t dim, uint32_t bits) { return dim * bits / 8; }
static inline size_t peri_packed_row_bytes(size_t dim, uint32_t bits) {
    return peri_packed_code_bytes(dim, bits) + sizeof(peri_packed_factors);
}

/* Bytes of the codes of 16 links, and of all links of a row. */
static inline size_t peri_packed_group_bytes(size_t dim, uint32_t bits) {
    return PERI_PACKED_GROUP * peri_packed_row_bytes(dim, bits);
}
static inline size_t peri_packed_block(size_t dim, uint32_t bits, size_t degree) {
    return peri_ceil_div(degree, PERI_PACKED_GROUP) * peri_packed_group_bytes(dim, bits);
}

static inline peri_packed_factors peri_packed_row_factors(const uint8_t *row, size_t code_bytes) {
    peri_packed_factors factors;
    memcpy(&factors, row + code_bytes, sizeof factors);
    return factors;
}

/* Writes the codes of row `row` as those of link `link` into a block. */
void peri_packed_put_link(size_t dim, uint32_t bits, const uint8_t *row, size_t link,
                          uint8_t *block);

/* An encoded query. Code j of a row is number j % n, n = 8 / bits, of byte j / n: values[s * stride
 * + b] goes with number s of byte b. */
typedef struct peri_packed_query {
    float half_step; /* h */
    int32_t sum;     /* of all v */
    uint32_t stride; /* code bytes, padded with zeros to PERI_PACKED_STRIDE */
    uint32_t squared;
    uint8_t reserved[48];
    int8_t values[]; /* [8 / bits, stride] */
} peri_packed_query;

/* From dot = sum u * v. */
static inline float peri_packed_value(const peri_packed_query *query, uint32_t bits,
                                      peri_packed_factors factors, int32_t dot) {
    int32_t centred = (int32_t)(2u * (uint32_t)dot - ((1u << bits) - 1u) * (uint32_t)query->sum);
    float step = query->half_step * (float)centred, product = factors.scale * step;
    float value = query->squared ? factors.add - 2.0f * product : -product;
    return value == value ? value : __builtin_inff();
}

#endif
