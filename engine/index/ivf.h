/* ivf.h: what the kinds on inverted lists share: parameters, the coarse quantizer and its probes.
 *
 * The rows are clustered once, by balanced k-means (quant/kmeans.h), into the section "centroids",
 * f32 [n_lists, dim]; a row is an entry of the list of its nearest centroid (lists.h), and a search
 * looks at the n_probes lists whose centroids are nearest to the query. Names and defaults are
 * those of cuVS, so that settings carry over. Under inner_product rows are clustered by their
 * squared L2 and lists are probed by inner product; under cosine centroids are of length 1. */
#ifndef PERI_INDEX_IVF_H
#define PERI_INDEX_IVF_H

#include "core/params.h"
#include "index/lists.h"

/* The first parameters of every such kind: its list begins with them, in this order, so that its
 * struct begins with a peri_ivf_params. */
#define PERI_IVF_PARAMS(X, S)                                                                      \
    X(S, CHOICE, metric, 0, 0, 3, "sqeuclidean|euclidean|inner_product|cosine", NULL,              \
      "what near means")                                                                           \
    X(S, INT, n_lists, 1024, 1, 16777216, NULL, NULL,                                              \
      "lists that rows are divided into; no more than there are rows")                             \
    X(S, INT, kmeans_n_iters, 20, 1, 100000, NULL, NULL, "iterations of k-means at most")          \
    X(S, REAL, kmeans_trainset_fraction, 0.5, 0.000001, 1, NULL, NULL,                             \
      "share of the rows that k-means trains on; n_lists rows at least")                           \
    X(S, FLAG, add_data_on_build, 1, 0, 1, NULL, NULL, "false: train only, rows come by extend")   \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the random choices")

PERI_PARAMS_STRUCT(peri_ivf_params, PERI_IVF_PARAMS)

#define PERI_IVF_SEARCH_PARAMS(X, S)                                                               \
    X(S, INT, n_probes, 20, 1, 16384, NULL, NULL,                                                  \
      "lists looked at: more is slower and finds more; n_lists or more is all of them")

PERI_PARAMS_STRUCT(peri_ivf_search_params, PERI_IVF_SEARCH_PARAMS)

/* The parameters that an index has in common with the others. */
peri_ivf_params peri_ivf_params_of(const peri_index *index);

/* Trains on `rows` (at the index's place) and adds "centroids". PERI_E_ARGUMENT when there are
 * fewer rows than lists, or ids for rows that are not to be added. */
peri_status peri_ivf_train(peri_index *index, peri_matrix *rows, size_t threads,
                           const peri_control *control);

/* The list of every row: u32 [m, 1] at the place. */
peri_status peri_ivf_label(const peri_index *index, peri_matrix *rows, size_t threads,
                           const peri_control *control, peri_matrix **labels);

/* The lists that a search looks at. */
typedef struct peri_ivf_probes {
    const int64_t *lists; /* [q, n_probes] at the place, nearest first; NULL = all lists */
    size_t n_probes;
    const float *distances; /* [q, n_probes] inside: squared L2, or -<query, centroid> */
    peri_view queries;      /* f32 [q, dim], at the place */
} peri_ivf_probes;

/* Enqueues the choice of lists. */
peri_status peri_ivf_probe(const peri_index *index, peri_lane *lane, const peri_scan *scan,
                           peri_ivf_probes *out);

/* peri_kind.reach. */
peri_status peri_ivf_reach(const peri_index *index, const peri_options *options, double *out);

/* Checks "centroids" of an index that was opened or moved. PERI_E_CORRUPT. */
peri_status peri_ivf_check(const peri_index *index);

/* Whether the place takes an operation; PERI_E_UNSUPPORTED with its reason. */
peri_status peri_ivf_check_op(const peri_index *index, const void *op);

#endif
