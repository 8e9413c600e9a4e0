/* graph_build.h: from rows to a graph that can be walked.
 *
 * equal rows are grouped -> one row a group, sorted by cluster where the lists are made that way ->
 * their kNN lists -> detour pruning and reverse edges -> every row reachable from the entry -> the
 * other rows of each group attached. Deterministic: the same rows, parameters and seed give the
 * same graph on any number of threads. */
#ifndef PERI_GRAPH_GRAPH_BUILD_H
#define PERI_GRAPH_GRAPH_BUILD_H

#include "core/matrix.h"

typedef enum peri_graph_algo {
    PERI_GRAPH_AUTO = 0,
    PERI_GRAPH_EXACT = 1,
    PERI_GRAPH_NN_DESCENT = 2,
    PERI_GRAPH_IVF_FLAT = 3,
} peri_graph_algo;

typedef struct peri_graph_build {
    peri_matrix *rows;    /* [n, d] f32 f16 i8 u8; the graph is built at their place */
    peri_matrix *lengths; /* [n, 1] f32; cosine only, else may be NULL */
    peri_metric metric;
    size_t graph_degree;
    size_t intermediate_graph_degree; /* >= graph_degree */
    peri_graph_algo algo;             /* in: what is asked; out: what was done, never AUTO */
    uint32_t nn_descent_niter;
    double termination_threshold;
    size_t list_rows; /* ivf_flat: rows of a list, about; 0 = automatic */
    size_t
        list_probes; /* ivf_flat: lists in which a row's neighbours are looked for; 0 = automatic */
    bool guarantee_connectivity;
    uint64_t seed;
    size_t threads; /* 0 = the context's */
    const peri_control *control;
    /* out */
    peri_matrix **landmarks; /* [m, 1] u32, ascending: rows where walks should begin too, NULL when
                                all rows are one bunch (landmarks.h). NULL here: not wanted */
    size_t groups;           /* rows that differ */
    size_t bridges;          /* edges that connectivity replaced */
} peri_graph_build;

/* Makes the graph: u32 [n, graph_degree] at the rows' place, and the row where a walk begins. A
 * row with fewer links than graph_degree (n is small) ends with PERI_SLOT_NONE: the degree is
 * never lowered. n = 0 gives an empty graph and entry PERI_SLOT_NONE. Errors: PERI_E_MEMORY,
 * PERI_E_UNSUPPORTED (the place), what the control says; nothing is left. */
peri_status peri_graph_make(peri_graph_build *build, peri_matrix **graph, uint32_t *entry);

/* PERI_E_ARGUMENT for an algorithm that a metric has no use for. */
peri_status peri_graph_algo_check(peri_graph_algo algo, peri_metric metric);

/* What PERI_GRAPH_AUTO stands for. */
peri_graph_algo peri_graph_algo_for(peri_graph_algo asked, peri_metric metric, size_t rows);

#endif
