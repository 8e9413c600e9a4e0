/* pairs.h: what operations over pairs of rows share: lengths, rows as queries, and the values that
 * a matrix of them reports. */
#ifndef PERI_GRAPH_PAIRS_H
#define PERI_GRAPH_PAIRS_H

#include "core/lane.h"
#include "core/matrix.h"

/* Lengths of rows for a metric, f32 [n, 1] at their place: NULL but for cosine. */
peri_status peri_pairs_lengths(peri_matrix *rows, peri_metric metric, size_t threads,
                               const peri_control *control, peri_matrix **out);

/* Rows first..first+count-1 of a view at the lane's place as queries of `dtype`: themselves, or
 * converted into the lane's scratch. */
peri_status peri_pairs_queries(peri_lane *lane, const peri_view *rows, size_t first, size_t count,
                               peri_dtype dtype, peri_view *out);

/* Values inside to what the API reports, in place, anywhere; the matrix is packed. */
peri_status peri_pairs_report(peri_matrix *values, peri_metric metric);

#endif
