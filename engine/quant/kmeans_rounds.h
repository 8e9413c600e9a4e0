/* kmeans_rounds.h: what the ways to train share: one set of rows and centroids at a place, and the
 * rounds over them. */
#ifndef PERI_QUANT_KMEANS_ROUNDS_H
#define PERI_QUANT_KMEANS_ROUNDS_H

#include "core/lane.h"
#include "core/progress.h"
#include "quant/kmeans.h"

typedef struct peri_kmeans_rounds {
    const peri_kmeans *asked; /* seed, threads, metric */
    peri_context *context;
    peri_device *device;
    peri_lane *lane;
    const peri_control *control; /* of the operations: a part of the whole */
    uint64_t seed;
    peri_metric metric; /* sqeuclidean or cosine */

    peri_device *through;          /* rows are on the host and pass it in chunks; or NULL */
    peri_matrix *rows;             /* [n, d] */
    peri_matrix *lengths;          /* [n, 1]; cosine */
    peri_matrix *centroids;        /* [c, d] f32 */
    peri_matrix *centroid_lengths; /* [c, 1]; cosine */
    peri_matrix *labels;           /* [n, 1] of the last assignment */
    peri_matrix *distances;        /* [n, 1] */
    peri_matrix *counts;           /* [c, 1] of the last sums */
    const float *found;            /* [n] on the host: the distances of the last assignment */
    float *found_room;   /* [n] theirs, where the place does not share the host's memory */
    double *sums;        /* their running sums (kmeans_draw.h) */
    double inertia;      /* of the last assignment */
    uint32_t iterations; /* moves */
    uint32_t assignments;
    size_t repaired;
} peri_kmeans_rounds;

/* Takes references of rows and centroids. `seed` is this run's own. Close also after a failure. */
peri_status peri_kmeans_rounds_open(peri_kmeans_rounds *rounds, const peri_kmeans *asked,
                                    peri_matrix *rows, peri_matrix *centroids, uint64_t seed,
                                    const peri_control *control);
void peri_kmeans_rounds_close(peri_kmeans_rounds *rounds);

/* One assignment; inertia is that of the rows under the centroids as they are. */
peri_status peri_kmeans_rounds_assign(peri_kmeans_rounds *rounds);
/* Centroids to their means; `weights` [c] on the host or NULL. */
peri_status peri_kmeans_rounds_move(peri_kmeans_rounds *rounds, const double *weights);

/* Assigns and moves, n_iters times at most, repairing empty clusters, or with a threshold > 0 those
 * of at most threshold * average rows; then a last assignment. A round that repaired may be
 * followed by one more: `pull_back` of them earn one. With a threshold clusters that starve under
 * the last assignment are moved until none does, or it no longer helps. */
typedef struct peri_kmeans_plan {
    const char *stage;
    uint32_t n_iters;
    double threshold;
    uint32_t pull_back;
} peri_kmeans_plan;
peri_status peri_kmeans_rounds_run(peri_kmeans_rounds *rounds, const peri_kmeans_plan *plan);

/* Rows of every label of the last assignment, on the host. */
peri_status peri_kmeans_rounds_sizes(const peri_kmeans_rounds *rounds, uint32_t *sizes);

/* Moves empty or starving clusters; `sizes` [c] are rows of each before. Sets how many moved. */
peri_status peri_kmeans_repair(peri_kmeans_rounds *rounds, double threshold, const uint32_t *sizes,
                               size_t *out_moved);

/* Rows on the host that were drawn go where it trains, when they fit: the matrix is replaced. */
peri_status peri_kmeans_bring(const peri_kmeans *asked, peri_matrix **rows);
/* Whether these rows pass a device in chunks: labels and centroids are on the host then too. */
bool peri_kmeans_streams(const peri_kmeans *asked, const peri_matrix *rows);
/* The matrix at `place`, in place of itself. */
peri_status peri_kmeans_settle(peri_matrix **matrix, peri_place place);

/* The rows `ids` (in range), copied at their place: as peri_matrix_gather, but followed. */
peri_status peri_kmeans_gather(const peri_kmeans *asked, peri_matrix *rows, const int64_t *ids,
                               size_t count, const peri_control *control, peri_matrix **out);
/* `count` rows of `rows`, f32, of length 1 for cosine, at their place. */
peri_status peri_kmeans_rows_at(peri_matrix *rows, peri_metric metric, const int64_t *ids,
                                size_t count, peri_matrix **out);
/* `count` distinct rows of n, ascending, one of each of `count` equal spans. */
void peri_kmeans_sample(size_t n, uint64_t seed, size_t count, int64_t *ids);
/* The hierarchical way: `rows` are those to train on. */
peri_status peri_kmeans_train_hierarchy(const peri_kmeans *asked, peri_matrix *rows,
                                        peri_matrix **centroids, peri_kmeans_report *report);
/* The way in batches: of asked->rows. */
peri_status peri_kmeans_train_batches(const peri_kmeans *asked, peri_matrix **centroids,
                                      peri_kmeans_report *report);
peri_status peri_kmeans_report_of(const peri_kmeans_rounds *rounds, peri_kmeans_report *report);

/* Where to begin: [n_clusters, d]. */
peri_status peri_kmeans_start(const peri_kmeans *asked, peri_matrix *rows, size_t n_clusters,
                              uint64_t seed, const peri_control *control, peri_matrix **out);

#endif
