/* knn_bound.c: the certified bound of the coarse pass of exact search.
 *
 * The bound. Let u = 2^-24, d the columns, T the k-th canonical value found so far, P' the product
 * as computed: a chain of d fused multiply-adds that starts with s, so
 *     |P' - P| <= g (|s| + |q||x|), g = d u / (1 - d u)
 * (Higham, Accuracy and Stability of Numerical Algorithms, 2002, ch. 3). A canonical sum of
 * ceil(d / 32) terms a lane and 5 folds has the relative error c = (ceil(d / 32) + 8) u.
 *   squared L2: q and x are taken relative to a centre m, which changes |q - x|^2 by less than
 *     4 u (|q|^2 + |x|^2), for q - m and x - m are rounded once. Since 2 |q||x| <= |q|^2 + |x|^2, a
 *     row with canonical value <= T has, with a = 2 (d + 8) u,
 *         P' started at -|x|^2 (1/2 - a)  >=  |q|^2 (1/2 - a) - T (1/2 + 2 c).
 *     The centre matters: far from the origin the norms, and with them the doubt, would be large.
 *   inner product: P' >= -T - 2 (d + ceil(d / 32) + 16) u |q| max|x|, the longest row of the panel.
 *   cosine: rows are scaled by 1 / |x| when packed,
 *         P' >= (1 - T) |q| - 2 (d + ceil(d / 32) + 24) u |q|.
 * The factors 2 are more than what the roundings of norms, lengths and thresholds need; underflow
 * is covered by 2^-149 a term. Rows and queries so large or small that this arithmetic would leave
 * the normal range are rescored always: their start is +inf, their threshold -inf, and a NaN counts
 * as near. A length below the root of PERI_COARSE_NORM_LEAST counts as that root, for its square
 * may have lost its digits.
 *
 * The other way, a row with score P' has a canonical value of at most
 *   squared L2: (1 + 12 a) (|q|^2 (1 + 10 a) - 2 P'). From P >= P' - s - g (|s| + |q||x|) and the
 *     rounding of |x|^2 in s, |q - x|^2 is at most |q|^2 (1 + a) - 2 P' + 4 a |x|^2, the rounding
 *     of the centred columns included; and |x|^2 <= 2 |q|^2 + 2 |q - x|^2, with 8 a < 1/25 for
 *     PERI_DIM_MAX columns. The norm of the row is not needed, so an entry is a value and a slot.
 *   inner product: -P' + slack |x|; entries hold this, with the longest row of their panel for |x|.
 *   cosine: 1 - P' / |q| + 2 (d + ceil(d / 32) + 24) u.
 * So the k best entries of the coarse pass prove a bound of the k-th canonical value before any of
 * them is computed, and about k of them are rescored in the end.
 *
 * i8 and u8: scores are exact integers, and entries hold canonical values at once. */
#include "backend/cpu/knn_bound.h"

#include <math.h>

#include "backend/cpu/coarse_bound.h"

#define U PERI_COARSE_U

/* a of the bound of squared L2. */
static double doubt(const peri_knn_job *job) { return 2 * ((double)job->distances.dim + 8) * U; }

/* What underflow can take from a sum. */
static double underflow(const peri_knn_job *job) {
    return (4 * (double)job->distances.dim + 64) * 0x1p-149;
}

void peri_knn_describe(const peri_knn_job *job, const void *query, double squares,
                       peri_knn_query *out) {
    *out = (peri_knn_query){ .norm = squares, .unbounded = !(squares <= PERI_COARSE_NORM_MAX) };
    if (job->op->metric == PERI_INNER_PRODUCT) {
        out->norm = sqrt(squares);
        out->slack = (float)(peri_coarse_slack(job->distances.dim) * out->norm);
    } else if (job->op->metric == PERI_COSINE) {
        out->length = peri_distances_query_length(&job->distances, query);
        out->norm = out->length;
        out->unbounded = !peri_knn_length_usable(out->length);
    }
    if (job->whole) out->unbounded = false;
}

bool peri_knn_norm_usable(float norm) { return norm <= (float)PERI_COARSE_NORM_MAX; }

bool peri_knn_length_usable(float length) {
    return length >= (float)PERI_COARSE_LENGTH_LEAST && length <= (float)PERI_COARSE_LENGTH_MOST;
}

static float float_above(double value) { return -peri_coarse_float_below(-value); }

/* ---- from a bound to scores ---------------------------------------------------------------- */

float peri_knn_least(const peri_knn_job *job, const peri_knn_query *query, float bound) {
    if (query->unbounded || isinf(bound)) return -INFINITY;
    return peri_coarse_least(job->op->metric, job->distances.dim, query->norm, bound);
}

/* Twice a score is |Q|^2 - value or one less, so an even step of the value may be let in too. */
int32_t peri_knn_least_whole(const peri_knn_job *job, const peri_knn_query *query, float bound) {
    double least;
    if (isinf(bound)) return INT32_MIN;
    if (peri_knn_is_squared(job))
        least = floor((query->base - (double)nextafterf(bound, INFINITY)) / 2);
    else
        least = floor(-(double)nextafterf(bound, INFINITY)) - query->base;
    return least <= INT32_MIN ? INT32_MIN : least >= INT32_MAX ? INT32_MAX : (int32_t)least;
}

/* ---- from entries to a bound, and back ------------------------------------------------------ */

float peri_knn_most(const peri_knn_job *job, const peri_knn_query *query, float value) {
    double dim = job->distances.dim, lanes = peri_coarse_lanes(job->distances.dim), v = value;
    if (peri_knn_is_squared(job)) {
        double a = doubt(job);
        double most = (1 + 12 * a) * (query->norm * (1 + 10 * a) + 2 * v) + underflow(job);
        return float_above(most > 0 ? most : 0);
    }
    if (job->op->metric == PERI_INNER_PRODUCT)
        return float_above(v + 8 * U * fabs(v) + underflow(job));
    return float_above(1 + v / query->norm + 2 * (dim + lanes + 24) * U);
}

float peri_knn_cut(const peri_knn_job *job, const peri_knn_query *query, float bound,
                   float longest) {
    double slack = 2.5 * (double)query->slack * longest; /* twice, and what roundings take */
    return float_above(slack - (double)peri_knn_least(job, query, bound));
}
