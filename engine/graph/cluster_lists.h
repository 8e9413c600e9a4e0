/* cluster_lists.h: rows put into lists by k-means, and the lists in which the nearest rows of each
 * are looked for: what a clustered kNN graph joins (PERI_OP_LIST_JOIN). */
#ifndef PERI_GRAPH_CLUSTER_LISTS_H
#define PERI_GRAPH_CLUSTER_LISTS_H

#include "graph/graph_build.h"

typedef struct peri_cluster_lists {
    peri_context *context;
    size_t rows;
    int64_t *order; /* host [rows] the row at each place of the sorted order; ascending within a
                            list */
    peri_matrix *starts; /* u32 [lists + 1, 1] at the rows' place */
    peri_matrix *probes; /* u32 [rows, .] at the rows' place, of the rows as sorted */
} peri_cluster_lists;

/* Makes them. Of `build`: rows (n >= 1), metric, list_rows, list_probes, seed, threads, control.
 * Cost: k-means on a sample and n x lists distances. Deterministic. */
peri_status peri_cluster_lists_make(const peri_graph_build *build, peri_cluster_lists *out);
void peri_cluster_lists_reset(peri_cluster_lists *lists);

#endif
