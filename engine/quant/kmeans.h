/* kmeans.h: k-means at the place of its rows: what the list kinds and the quantizers train with.
 *
 * Lloyd's iterations (Least squares quantization in PCM, 1982) over two operations of the seam,
 * ASSIGN and CLUSTER_SUMS. Starts: rows drawn at random, or k-means++ (Arthur & Vassilvitskii,
 * SODA 2007) on a sample. With `balanced`, clusters that starve are moved into large ones; with
 * `hierarchical`, some sqrt(n_clusters) large clusters are found first and each is cut on its own,
 * then all are tuned together, which makes 65 536 clusters a matter of minutes; with batch_rows,
 * each iteration reads that many rows only (Sculley, WWW 2010).
 *
 * The centroids are the same bits for the same rows, parameters and seed, whatever the number of
 * threads. Threads: any number of trainings at once. */
#ifndef PERI_QUANT_KMEANS_H
#define PERI_QUANT_KMEANS_H

#include "core/matrix.h"
#include "perigee_backend.h"

typedef enum peri_kmeans_init { PERI_KMEANS_PLUSPLUS = 0, PERI_KMEANS_RANDOM = 1 } peri_kmeans_init;

typedef struct peri_kmeans {
    peri_matrix *rows;           /* [n, d] f32 f16 i8 u8, finite; trains at their place */
    peri_metric metric;          /* inner_product clusters as sqeuclidean; cosine: unit centroids */
    size_t n_clusters;           /* 1..n of the rows trained on */
    uint32_t n_iters;            /* at most; fewer when nothing improves any more */
    double train_fraction;       /* (0, 1] of the rows: a sample, n_clusters at least */
    size_t max_rows_per_cluster; /* no more rows than this a cluster; 0 = no cap */
    peri_kmeans_init init;
    bool balanced;
    bool hierarchical;
    size_t batch_rows; /* > 0: mini-batch, n_clusters at least; not with hierarchical. Each of the
                          n_iters iterations reads so many rows of all; a report is of the last */
    uint64_t seed;
    size_t threads; /* 0 = the context's */
    const peri_control *control;
    peri_device *through; /* NULL, or where it trains while the rows are on the host: a sample or a
                             batch goes there when it fits; else rows pass it in chunks */
} peri_kmeans;

#define PERI_KMEANS_INIT                                                                           \
    {                                                                                              \
        NULL, PERI_SQEUCLIDEAN, 0, 20, 1.0, 0, PERI_KMEANS_PLUSPLUS, false, false, 0, 137, 0,      \
            NULL, NULL                                                                             \
    }

typedef struct peri_kmeans_report {
    double inertia;           /* sum of distances of the rows trained on, inside: squared L2 or
                                 1 - cos */
    uint32_t iterations;      /* made; hierarchical: over all rows trained on */
    size_t rows;              /* trained on */
    size_t smallest, largest; /* cluster, in rows trained on */
    size_t repaired;          /* clusters that were empty or starving and moved */
} peri_kmeans_report;

/* Makes centroids, f32 [n_clusters, d] at the rows' place, or at that of `through`. Cost: rows
 * trained on x n_clusters x d multiply-adds an iteration; hierarchical: about the square root of
 * n_clusters in place of it, but for the tuning. PERI_E_ARGUMENT (n_clusters,
 * train_fraction, batch_rows, named with what to set), PERI_E_MEMORY, PERI_E_UNSUPPORTED (place),
 * what `control` says. */
peri_status peri_kmeans_train(const peri_kmeans *kmeans, peri_matrix **centroids,
                              peri_kmeans_report *report);

/* The nearest centroid of every row: labels u32 [n, 1] and, unless NULL, distances f32 [n, 1] (the
 * value inside: squared L2, 1 - cos) at the rows' place. inner_product is by squared L2, as in
 * training. */
peri_status peri_kmeans_assign(peri_matrix *rows, peri_matrix *centroids, peri_metric metric,
                               size_t threads, const peri_control *control, peri_matrix **labels,
                               peri_matrix **distances);
/* The same for rows on the host that pass `through` in chunks (NULL: as above); labels and
 * distances are on the host then. */
peri_status peri_kmeans_assign_through(peri_device *through, peri_matrix *rows,
                                       peri_matrix *centroids, peri_metric metric, size_t threads,
                                       const peri_control *control, peri_matrix **labels,
                                       peri_matrix **distances);

#endif
