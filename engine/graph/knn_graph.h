/* knn_graph.h: the nearest rows of every row. */
#ifndef PERI_GRAPH_KNN_GRAPH_H
#define PERI_GRAPH_KNN_GRAPH_H

#include "graph/cluster_lists.h"

/* kNN lists u32 [n, degree] at the rows' place, nearest first, without the row itself; degree < n.
 * Of `build`: rows, lengths, metric, algo, niter, threshold, seed, threads, control. The algo is
 * EXACT or NN_DESCENT, or IVF_FLAT with `lists` (else NULL): then the rows are in their order, and
 * a list ends early when a row probes fewer rows. */
peri_status peri_knn_graph_make(const peri_graph_build *build, const peri_cluster_lists *lists,
                                size_t degree, peri_matrix **out);

/* The exact lists with their canonical distances (values inside): ids i64 and distances f32, both
 * [n, degree] at the rows' place. Of `build`: rows, lengths, metric, threads, control. */
peri_status peri_knn_graph_exact(const peri_graph_build *build, size_t degree, peri_matrix *ids,
                                 peri_matrix *distances);

/* The same where the device has no room for the rows, or for the lists: rows on the host, or on the
 * device; ids and distances [n, degree] on the host, the latter as the metric reports them.
 * `lengths` is not used. Any degree: a list of fewer rows ends with PERI_ID_NONE at +inf. Cost: a
 * transfer of the rows for each block of them, of 65 536 rows where there is memory for as many. */
peri_status peri_knn_graph_streamed(const peri_graph_build *build, peri_device *device,
                                    size_t degree, peri_matrix *ids, peri_matrix *distances);

#endif
