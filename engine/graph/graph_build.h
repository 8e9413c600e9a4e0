/* graph_build.h: from rows to a graph of fixed degree: equal rows grouped, nearest rows found, edges pruned,
 * every row made reachable, equal rows attached again. */
#ifndef PERI_GRAPH_GRAPH_BUILD_H
#define PERI_GRAPH_GRAPH_BUILD_H

#include "core/matrix.h"

typedef enum peri_graph_algo {
    PERI_GRAPH_AUTO,       /* whichever is cheaper for these rows at this place */
    PERI_GRAPH_EXACT,      /* every pair, by the knn operation */
    PERI_GRAPH_NN_DESCENT, /* Dong, Charikar, Li 2011 */
} peri_graph_algo;

typedef struct peri_graph_build {
    peri_matrix *rows;    /* [n, dim] n >= 1; the graph is made at their place */
    peri_matrix *lengths; /* [n, 1] f32 at the same place; NULL unless the metric is cosine */
    peri_metric metric;
    size_t graph_degree;
    size_t intermediate_graph_degree;
    peri_graph_algo algo; /* AUTO is replaced by what was chosen */
    uint32_t nn_descent_niter;
    double termination_threshold;
    bool guarantee_connectivity;
    uint64_t seed;
    size_t threads;
    const peri_control *control;
} peri_graph_build;

/* graph [n, graph_degree] u32 at the rows' place, PERI_SLOT_NONE ends a short row; entry: a row from which
 * every row can be reached (with guarantee_connectivity). The same for any number of threads. */
peri_status peri_graph_make(peri_graph_build *build, peri_matrix **graph, uint32_t *entry);

#endif
