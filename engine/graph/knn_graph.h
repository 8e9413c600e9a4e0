/* knn_graph.h: the nearest rows of every row. */
#ifndef PERI_GRAPH_KNN_GRAPH_H
#define PERI_GRAPH_KNN_GRAPH_H

#include "graph/graph_build.h"

/* kNN lists u32 [n, degree] at the rows' place, nearest first, without the row itself; degree < n.
 * Of `build`: rows, lengths, metric, algo (not AUTO), niter, threshold, seed, threads, control. */
peri_status peri_knn_graph_make(const peri_graph_build *build, size_t degree, peri_matrix **out);

#endif
