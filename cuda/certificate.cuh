/* certificate.cuh: what a coarse value proves about the canonical distance.
 *
 * The coarse pass sees f16 in place of rows and queries. In real numbers let x be a row, q a query,
 * c a centre, s and t powers of two:
 *     X = s (x - c)   of squared L2 and inner product, s (x / |x| - c) of cosine
 *     Q = s (q - c)   of squared L2, where t = 1, else t q
 *     X = Y + dX, Q = P + dQ   with Y and P in f16: what the tensor cores multiply
 * |dX| and |dQ| are summed while rows and queries are prepared, and bounded by what roundings of
 * the preparation itself may add. With u = 2^-24 and d columns:
 *     dot    the products of halves are exact; a matrix instruction aligns those of a block of 8 or
 *            16 (4 on older chips) and the running sum to the largest of them, cuts what is below
 *            and cuts the sum once more (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of
 *            NVIDIA tensor cores, 2021; Khattak, Mikaitis: Accurate models of NVIDIA tensor cores,
 *            2025: blocks of 16 with 2 bits to spare on Hopper, of 8 with 1 on Ampere). No term and
 *            no running sum is larger than |P||Y|, so that the error is at most
 *            (9 / 2 + 1) 2u |P||Y| a block of 8 there, and 12 u |P||Y| a block of 4 without any bit
 *            to spare. g = 4 u d covers them all with a margin.
 *     term   |Y|^2 by sums of exact squares in ceil(d / 32) lane steps and 5 folds: w = (ceil(d /
 *            32) + 8) u of itself.
 *     value  v = term - 2 dot, one rounding: u (|P| + |Y|)^2.
 * Squared L2: |P - Y|^2 >= |P|^2 + v - E, E = 2 g |P||Y| + (w + 1.01 u) (|P| + |Y|)^2, and
 *     |q - x| >= (|P - Y| - |dQ| - |dX|) / s.
 *     The doubt is a length beside the distance, not beside the norms: what is near is known well.
 * Inner product: <q, x> = <q, c> + (<P, Y> + <dQ, Y> + <Q, dX>) / (s t), so that
 *     <q, x> <= <q, c> + (-v + (g + u) |P||Y| + |dQ||Y| + |Q||dX|) / (s t).
 * Cosine: the same of x / |x|, over |q|.
 * Rows that the tensor cores take as f32 and read as TF32, without a centre, s = 1: X = x, and Y is
 * what the hardware makes of it, |dX| <= 2^-10 |X|. The term is |X|^2, not |Y|^2, so that
 *     |P - X|^2 >= |P|^2 + v - E - 2 |P||dX|    and    |q - x| >= |P - X| - |dQ|,
 *     a doubt beside the squared lengths; for the inner product only |P||dX| is left of |Q||dX|.
 * |Y|, |dX| and |x| are those of the longest row. What is out of range has no such bound: a row has
 * the term -inf and so is a candidate of every query, but for squared L2; a query proves nothing.
 * Squared L2 has a closer one where rows differ much in length: a row whose canonical value is V or
 * less is no longer than the query and the way to it, |X| <= |P| + |dQ| + s sqrt(V), and rounding
 * it to halves took 2^-11 of that, and 2^-25 an element where halves are subnormal. Rows that are
 * longer are farther than V whatever their coarse value: so are those with an element past the
 * range of f16, which have the term +inf, as long as no row that is as near as V can have one.
 *
 * Of the canonical value itself: a sum of squares has the relative error w, a dot product w |q||x|,
 * a cosine 4 (ceil(d / 32) + 16) u, underflow takes at most 2^-149 a term. A canonical value that
 * is below what these leave of the bound is nearer than all rows that are no candidates, ties too.
 *
 * Whole numbers (centre 0, s = t = 1): while (|q| + |x|)^2 < 2^24 every step above is exact,
 * the canonical one too, so that the candidates are the nearest in their order already. */
#ifndef PERI_CUDA_CERTIFICATE_CUH
#define PERI_CUDA_CERTIFICATE_CUH

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "perigee.h"

#ifdef __CUDACC__
#define PERI_BOTH __host__ __device__
#else
#define PERI_BOTH
#endif

#define PERI_DOUBT_U 0x1p-24
#define PERI_DOUBT_RANGE 65504.0 /* the largest half */

/* Of the longest row that has a term. */
typedef struct peri_doubt_rows {
    double norm;     /* |Y| */
    double residual; /* |dX| */
    double length;   /* |x| as it came */
    double scale;    /* s */
    double apart;    /* |dX| where the term is that of X, not of Y; then residual is 0 */
    double term;     /* relative error of the terms, when more than w */
} peri_doubt_rows;

typedef struct peri_doubt_query {
    double norm;       /* |P| */
    double residual;   /* |dQ| */
    double length;     /* |q| as it came */
    double centre_dot; /* <q, c>; inner product and cosine */
    double scale;      /* t */
} peri_doubt_query;

/* Steps of one lane of a canonical sum. */
PERI_BOTH static inline double peri_doubt_lanes(uint32_t dim) {
    return (double)((dim + 31u) / 32u);
}

PERI_BOTH static inline double peri_doubt_sum(uint32_t dim) {
    return (peri_doubt_lanes(dim) + 8) * PERI_DOUBT_U;
}

PERI_BOTH static inline double peri_doubt_dot(uint32_t dim) {
    return 4 * PERI_DOUBT_U * (double)(dim + 16u);
}

/* Squared L2: lowers what is known of the longest row to what a row can have whose canonical value
 * is `value` or less. False when such a row may be out of range. */
PERI_BOTH static inline bool peri_doubt_near(uint32_t dim, peri_doubt_rows *x,
                                             const peri_doubt_query *q, double value) {
    double under = (4 * (double)dim + 64) * 0x1p-149;
    double way = sqrt((value + under) * (1 + 1.01 * peri_doubt_sum(dim))) * x->scale;
    double most = (q->norm + q->residual + way) * (1 + 0x1p-20), small = sqrt((double)dim);
    double norm = most * (1 + 0x1p-11) + small * 0x1p-24;
    double residual = most * (0x1p-11 + 0x1p-22) + small * 0x1p-24;
    if (norm < x->norm) x->norm = norm;
    if (residual < x->residual) x->residual = residual;
    return most < PERI_DOUBT_RANGE;
}

/* Whether whole numbers are exact all the way. */
PERI_BOTH static inline bool peri_doubt_none(const peri_doubt_rows *x, const peri_doubt_query *q) {
    double most = (q->norm + x->norm) * 1.0001;
    return most * most < 0x1p24;
}

PERI_BOTH static inline double peri_bound_squared(uint32_t dim, const peri_doubt_rows *x,
                                                  const peri_doubt_query *q, double last) {
    double both = q->norm + x->norm;
    double term = x->term > peri_doubt_sum(dim) ? x->term : peri_doubt_sum(dim);
    double doubt = 2 * (peri_doubt_dot(dim) * x->norm + x->apart) * q->norm +
                   (term + 1.01 * PERI_DOUBT_U) * both * both;
    double square = q->norm * q->norm * (1 - 1e-12) + last - doubt;
    if (!(square > 0)) return 0;
    double root = sqrt(square) - q->residual - x->residual;
    return root > 0 ? root * root / (x->scale * x->scale) * (1 - 1e-12) : 0;
}

/* The most that <q, x>, or <q, x> / |x|, of a row outside can be. */
PERI_BOTH static inline double peri_bound_dot(uint32_t dim, const peri_doubt_rows *x,
                                              const peri_doubt_query *q, double last) {
    double doubt = (peri_doubt_dot(dim) + PERI_DOUBT_U) * q->norm * x->norm +
                   q->residual * x->norm + (q->norm + q->residual) * x->residual +
                   q->norm * x->apart;
    double most = (doubt - last) / (x->scale * q->scale);
    return q->centre_dot + most + 1e-12 * (fabs(q->centre_dot) + fabs(most));
}

/* No row that is not a candidate has a canonical value inside below this, when the coarse value of
 * each of them is `last` or more. */
PERI_BOTH static inline double peri_certificate(peri_metric metric, uint32_t dim,
                                                const peri_doubt_rows *x, const peri_doubt_query *q,
                                                double last) {
    double under = (4 * (double)dim + 64) * 0x1p-149;
    if (metric == PERI_INNER_PRODUCT)
        return -peri_bound_dot(dim, x, q, last) - peri_doubt_sum(dim) * q->length * x->length -
               under;
    if (metric == PERI_COSINE)
        return 1 - peri_bound_dot(dim, x, q, last) / q->length -
               4 * (peri_doubt_lanes(dim) + 16) * PERI_DOUBT_U;
    return peri_bound_squared(dim, x, q, last) * (1 - peri_doubt_sum(dim)) - under;
}

#endif
