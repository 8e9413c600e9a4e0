/* code.h: the 8-bit codes that a walk measures by, as perigee_backend.h defines them.
 *
 * A query is encoded once; the value of a row is then a sum of whole numbers, so every instruction
 * set and every backend finds the same. Under the inner product the query's weights have 13 bits,
 * as two bytes of 7 each (t = 64 * high + low, high -63..63, low -32..31): a product of such a
 * byte with a code, twice, fits 16 signed bits, which is what AVX2's byte multiply wants. */
#ifndef PERI_CORE_CODE_H
#define PERI_CORE_CODE_H

#include "core/status.h"
#include "perigee_backend.h"

#define PERI_CODE_COLS 32u    /* columns of code rows are a multiple of it */
#define PERI_CODE_WEIGHT 4063 /* the largest weight of an encoded query */

/* Bytes of an encoded query: codes, or the high bytes of the weights and behind them the low. */
static inline size_t peri_code_query_bytes(size_t cols) { return 2 * cols; }

/* Whether codes are compared by squared differences, else by products. */
static inline bool peri_code_squared(peri_metric metric) {
    return metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN;
}

/* Encodes d elements of a row, or of a query under squared L2, into `cols` bytes. */
void peri_code_row(const peri_codes_view *codes, const float *row, size_t dim, uint8_t *out);

/* Encodes a query of d elements into peri_code_query_bytes(cols) bytes. */
void peri_code_query(const peri_codes_view *codes, peri_metric metric, const float *query,
                     size_t dim, uint8_t *out);

/* The value of an encoded query and the codes of a row, `cols` bytes. Plain C, the definition. */
float peri_code_distance(peri_metric metric, const uint8_t *query, const uint8_t *row,
                         uint32_t cols);

/* -sum t[j] * c[j] of the sums of both halves. */
static inline float peri_code_product(int32_t high, int32_t low) {
    return (float)-((int64_t)high * 64 + low);
}

#endif
