/* coarse_bound.h: what a product must not be below for a row to be near: the certified bound of the
 * coarse passes, derived in knn_bound.c. Shared by exact search and by assignment, where a
 * centroid is the row and a row the query. */
#ifndef PERI_BACKEND_CPU_COARSE_BOUND_H
#define PERI_BACKEND_CPU_COARSE_BOUND_H

#include <math.h>

#include "core/checked.h"
#include "core/distance.h"

#define PERI_COARSE_U 0x1p-24
#define PERI_COARSE_NORM_MAX 1e37      /* of a squared length: products of two stay finite */
#define PERI_COARSE_LENGTH_LEAST 1e-12 /* cosine: above, underflow is far below u |q||x| */
#define PERI_COARSE_LENGTH_MOST 1e12
/* Of a squared length that enters a bound as a length: a smaller one may be what underflow left. */
#define PERI_COARSE_NORM_LEAST 1e-30f

/* The nearest float that is not above. */
static inline float peri_coarse_float_below(double value) {
    float near = (float)value;
    return (double)near > value ? nextafterf(near, -INFINITY) : near;
}

/* Terms of one lane of a canonical sum. */
static inline double peri_coarse_lanes(uint32_t dim) {
    return (double)peri_ceil_div(dim, PERI_LANES);
}

/* Squared L2: the product starts at - (squared length of the row) * this. */
static inline double peri_coarse_start(uint32_t dim) {
    return 0.5 - 2 * ((double)dim + 8) * PERI_COARSE_U;
}

/* Inner product: what the threshold is lowered by, a length of the query and of the row. */
static inline double peri_coarse_slack(uint32_t dim) {
    return 2 * ((double)dim + peri_coarse_lanes(dim) + 16) * PERI_COARSE_U;
}

/* A row at `value` or nearer has a product of at least this. `norm` of the query is its squared
 * length for squared L2 and its canonical length for cosine. */
static inline float peri_coarse_least(peri_metric metric, uint32_t dim, double norm, float value) {
    double t = value, lanes = peri_coarse_lanes(dim), under = (4 * (double)dim + 64) * 0x1p-149;
    if (metric == PERI_INNER_PRODUCT)
        return peri_coarse_float_below(-t - 8 * PERI_COARSE_U * fabs(t) - under);
    if (metric == PERI_COSINE)
        return peri_coarse_float_below((1 - t) * norm -
                                       2 * ((double)dim + lanes + 24) * PERI_COARSE_U * norm);
    double c = (lanes + 8) * PERI_COARSE_U;
    return peri_coarse_float_below(norm * peri_coarse_start(dim) - t * (0.5 + 2 * c) - under);
}

#endif
