/* perigee_clusters.h: a part of perigee.h, which includes it: k-means, and rows against rows. */
#ifndef PERIGEE_CLUSTERS_H
#define PERIGEE_CLUSTERS_H

#include "perigee.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- clustering --------------------------------------------------------------------------- */

/* k-means (kmeans++ or random starts; balanced, hierarchical, mini-batch: see the table "train" of
 * "kmeans"), at the place of the rows or another; or the nearest of centroids that are there
 * already. Rows that stay on the host pass the device in chunks, once an iteration, and the result
 * is the same to the bit; sums of clusters are then the host's. */
typedef struct peri_clustering {
    uint32_t size;
    peri_matrix *rows;      /* [n, dim] f32 f16 i8 u8 */
    peri_matrix *centroids; /* [n_clusters, dim] f32: given, nothing is trained; NULL = trained */
    bool labels;            /* also assign all rows to the centroids */
    peri_options options;   /* table "kmeans.train"; with centroids, metric alone */
    size_t threads;         /* 0 = the context's */
    const peri_control *control;
    const peri_place *place;  /* where it runs; NULL = where the rows are */
    peri_residence residence; /* with another place than theirs: of rows, labels and distances */
} peri_clustering;

#define PERI_CLUSTERING_INIT                                                                       \
    {                                                                                              \
        (uint32_t)sizeof(peri_clustering), NULL, NULL, true, { NULL, 0 }, 0, NULL, NULL,           \
            PERI_RESIDENCE_AUTO                                                                    \
    }

/* Labels, distances and sizes are NULL without `labels`; sizes and inertia are then those of the
 * rows trained on. */
typedef struct peri_clusters {
    peri_matrix *centroids; /* [n_clusters, dim] f32 where it ran */
    peri_matrix *labels; /* [n, 1] u32 where it ran, or on the host with rows that stayed there */
    peri_matrix *distances; /* [n, 1] f32 there: to the centroid of the label */
    peri_matrix *sizes;     /* [n_clusters, 1] u32 on the host */
    double inertia;         /* sum of squared L2 distances; of 1 - cosine */
    size_t smallest, largest;
    size_t trained_rows; /* 0 when nothing was trained */
    size_t iterations;   /* made; hierarchical: over all rows trained on */
    size_t repaired;     /* clusters that were empty or starving and moved */
    peri_metric metric;
} peri_clusters;

/* Trains and assigns. The same rows, options and seed give the same bits on any number of threads.
 * Rows of length 1 suit inner_product. PERI_E_ARGUMENT (options, shapes, n_clusters),
 * PERI_E_INVALID (NaN, Inf, a zero vector under cosine, with row and column), PERI_E_MEMORY,
 * PERI_E_UNSUPPORTED (place), PERI_E_CANCELLED, PERI_E_INTERRUPTED; `out` is empty then. */
PERI_API peri_status peri_clusters_train(const peri_clustering *clustering, peri_clusters *out);
/* Releases what `clusters` holds and clears it. */
PERI_API void peri_clusters_reset(peri_clusters *clusters);

/* ---- rows against rows ---------------------------------------------------------------------- */

typedef struct peri_pairwise_options {
    uint32_t size;
    peri_matrix *a; /* [n, dim] f32 f16 i8 u8 */
    peri_matrix *b; /* [m, dim] at the same place; i8 and u8: the dtype of a too */
    peri_metric metric;
    size_t threads; /* 0 = the context's */
    const peri_control *control;
    const peri_place *place;  /* where it runs; NULL = where the rows are */
    peri_residence residence; /* of the result, and of rows that come from the host */
} peri_pairwise_options;

#define PERI_PAIRWISE_OPTIONS_INIT                                                                 \
    {                                                                                              \
        (uint32_t)sizeof(peri_pairwise_options), NULL, NULL, PERI_SQEUCLIDEAN, 0, NULL, NULL,      \
            PERI_RESIDENCE_AUTO                                                                    \
    }

/* out[i, j] = the distance of row i of `a` to row j of `b`, f32 [n, m] where it ran, in the units
 * of the metric: to the bit what a search reports. What a device has no room for is made in tiles,
 * which come to the host while the next is made; the result is on the host then. O(n m dim); in
 * tiles, 4 bytes a pair of the link. PERI_E_ARGUMENT (shapes, dtypes, places), PERI_E_INVALID (NaN,
 * Inf, a zero vector under cosine), PERI_E_MEMORY, PERI_E_UNSUPPORTED (place), PERI_E_CANCELLED,
 * PERI_E_INTERRUPTED. */
PERI_API peri_status peri_pairwise(const peri_pairwise_options *options, peri_matrix **out);

typedef struct peri_knn_graph {
    uint32_t size;
    peri_matrix *rows;    /* [n, dim] f32 f16 i8 u8 */
    size_t k;             /* 1..1024 */
    peri_options options; /* table "knn_graph.build" */
    size_t threads;       /* 0 = the context's */
    const peri_control *control;
    const peri_place *place;  /* where it runs; NULL = where the rows are */
    peri_residence residence; /* of the answer, and of rows that come from the host; HOST is for the
                                 exact way, and AUTO falls to it */
} peri_knn_graph;

#define PERI_KNN_GRAPH_INIT                                                                        \
    { (uint32_t)sizeof(peri_knn_graph), NULL, 0, { NULL, 0 }, 0, NULL, NULL, PERI_RESIDENCE_AUTO }

/* Both where it ran, or on the host when there is no room (exact lists only); a row of fewer
 * neighbours (n <= k, or an approximate way that found no more) ends with PERI_ID_NONE at the worst
 * value. */
typedef struct peri_knn_lists {
    peri_matrix *neighbors; /* [n, k] i64: row numbers, nearest first, never the row itself */
    peri_matrix *distances; /* [n, k] f32 in the units of the metric, canonical */
} peri_knn_lists;

/* The k nearest other rows of every row: exactly (O(n^2 dim)), by NN-descent (Dong, Charikar, Li:
 * Efficient k-nearest neighbor graph construction, WWW 2011), or among the rows of near clusters.
 * The same on any number of threads. Errors as peri_pairwise; `out` is empty then. */
PERI_API peri_status peri_knn_graph_build(const peri_knn_graph *graph, peri_knn_lists *out);
/* Releases what `lists` holds and clears it. */
PERI_API void peri_knn_lists_reset(peri_knn_lists *lists);

#ifdef __cplusplus
}
#endif
#endif
