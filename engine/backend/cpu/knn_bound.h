/* knn_bound.h: what a coarse score says about the canonical value, and the other way round. */
#ifndef PERI_BACKEND_CPU_KNN_BOUND_H
#define PERI_BACKEND_CPU_KNN_BOUND_H

#include "backend/cpu/knn_plan.h"

/* Of a query with that sum of squares (centred, when there is a centre). */
void peri_knn_describe(const peri_knn_job *job, const void *query, double squares,
                       peri_knn_query *out);

/* Whether a squared length, or a length under cosine, is in the range of the bound. */
bool peri_knn_norm_usable(float norm);
bool peri_knn_length_usable(float length);

/* A row whose canonical value is at most `bound` has this score at least. Inner product: less
 * slack * (a length that no row of the panel exceeds). */
float peri_knn_least(const peri_knn_job *job, const peri_knn_query *query, float bound);
/* The same for the integer scores of i8 and u8; exact, or less by a rounding of `bound`. */
int32_t peri_knn_least_whole(const peri_knn_job *job, const peri_knn_query *query, float bound);

/* The canonical value of an entry of the coarse pass is at most this. */
float peri_knn_most(const peri_knn_job *job, const peri_knn_query *query, float value);
/* An entry of the coarse pass whose canonical value is at most `bound` has this value at most;
 * `longest` as above, of all panels that entries came from. */
float peri_knn_cut(const peri_knn_job *job, const peri_knn_query *query, float bound,
                   float longest);

#endif
