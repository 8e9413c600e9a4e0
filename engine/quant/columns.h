/* columns.h: statistics of each column of a sample, columns in parallel. */
#ifndef PERI_QUANT_COLUMNS_H
#define PERI_QUANT_COLUMNS_H

#include "core/matrix.h"

/* Called once a column with its values, packed, which it may reorder. */
typedef void (*peri_column_fn)(void *ud, size_t column, float *values, size_t count);

/* sample [m, d] f32 on the host, m > 0. Columns are independent, so any number of threads gives
 * the same. */
peri_status peri_each_column(peri_matrix *sample, size_t threads, const peri_control *control,
                             peri_column_fn fn, void *ud);

/* The value of this rank, 0 = the smallest; reorders. O(count) on average. */
float peri_column_select(float *values, size_t count, size_t rank);

/* The mean, summed in f64 in order. */
float peri_column_mean(const float *values, size_t count);

#endif
