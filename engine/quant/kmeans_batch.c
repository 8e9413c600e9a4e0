/* kmeans_batch.c: mini-batch k-means: each iteration reads some rows only (Sculley: Web-scale
 * k-means clustering, WWW 2010).
 *
 * A batch is drawn from all over the rows, in ascending order, so rows in a mapped file are read as
 * few pages in one direction. Every centroid is the mean of all rows it ever got; clusters that
 * starve, once there is enough to tell by, move and forget. */
#include "core/checked.h"
#include "core/memory.h"
#include "core/random.h"
#include "quant/kmeans_rounds.h"

#define STARVING 0.25
#define TELLING 8.0 /* rows a cluster on average: before, an empty one means nothing */

enum { SEED_BATCH = 31, SEED_BATCH_START, SEED_BATCH_ROUNDS };

typedef struct batches {
    const peri_kmeans *asked;
    peri_context *context;
    peri_progress progress;
    peri_kmeans part;
    size_t rows, clusters; /* of a batch */
    int64_t *ids;          /* [rows] */
    double *weights;       /* [clusters] rows each got */
    uint32_t *counts;      /* [clusters] */
    size_t repaired;
} batches;

static peri_status take_batch(batches *b, uint32_t number, peri_matrix **out) {
    peri_view view = peri_matrix_view(b->asked->rows);
    uint64_t key = peri_random_mix(b->asked->seed, SEED_BATCH);
    peri_kmeans_sample(view.rows, peri_random_mix(key, number), b->rows, b->ids);
    PERI_TRY(peri_kmeans_gather(b->asked, b->asked->rows, b->ids, b->rows, b->part.control, out));
    peri_status status = peri_matrix_check(*out, b->asked->metric == PERI_COSINE,
                                           "rows drawn for a batch", b->asked->threads,
                                           b->part.control);
    if (status == PERI_OK) status = peri_kmeans_bring(b->asked, out);
    if (status != PERI_OK) peri_matrix_release(*out);
    return status;
}

/* Starving clusters move into this batch's rows. Their weight is what tells, so it goes. */
static peri_status repair(batches *b, peri_kmeans_rounds *r) {
    double threshold = b->asked->balanced ? STARVING : 0, total = 0;
    size_t moved;
    for (size_t c = 0; c < b->clusters; c++) total += b->weights[c];
    double average = total / (double)b->clusters;
    if (average < TELLING) return PERI_OK;
    for (size_t c = 0; c < b->clusters; c++) {
        bool starving = b->weights[c] == 0 || b->weights[c] <= threshold * average;
        /* the repair asks for sizes in this batch */
        b->counts[c] = starving ? 0 : (uint32_t)peri_max_size(1, b->counts[c]);
        if (starving) b->weights[c] = 0;
    }
    PERI_TRY(peri_kmeans_repair(r, 0, b->counts, &moved));
    b->repaired += moved;
    return PERI_OK;
}

static peri_status run_batch(batches *b, uint32_t number, peri_matrix *rows, peri_matrix *centroids,
                             peri_kmeans_report *report) {
    uint64_t key = peri_random_mix(b->asked->seed, SEED_BATCH_ROUNDS);
    bool last = number + 1 == b->asked->n_iters;
    peri_kmeans_rounds r;
    peri_status status;
    PERI_GO(peri_kmeans_rounds_open(&r, &b->part, rows, centroids, peri_random_mix(key, number),
                                    b->part.control));
    PERI_GO(peri_kmeans_rounds_assign(&r));
    PERI_GO(peri_kmeans_rounds_move(&r, b->weights));
    PERI_GO(peri_matrix_read(r.counts, 0, b->clusters, b->counts));
    for (size_t c = 0; c < b->clusters; c++) b->weights[c] += (double)b->counts[c];
    if (!last) PERI_GO(repair(b, &r));
    if (!last || report == NULL) goto done;
    PERI_GO(peri_kmeans_rounds_assign(&r));
    PERI_GO(peri_kmeans_report_of(&r, report));
    report->iterations = b->asked->n_iters;
    report->repaired = b->repaired;
done:
    peri_kmeans_rounds_close(&r);
    return status;
}

static peri_status run_batches(batches *b, peri_matrix **centroids, peri_kmeans_report *report) {
    for (uint32_t i = 0; i < b->asked->n_iters; i++) {
        peri_matrix *rows;
        peri_status status = PERI_OK;
        peri_progress_step(&b->progress, i, 1);
        PERI_TRY(peri_progress_tell(&b->progress, i));
        PERI_TRY(take_batch(b, i, &rows));
        if (i == 0)
            status = peri_kmeans_start(&b->part, rows, b->clusters,
                                       peri_random_mix(b->asked->seed, SEED_BATCH_START),
                                       b->part.control, centroids);
        if (status == PERI_OK) status = peri_kmeans_settle(centroids, peri_matrix_view(rows).place);
        if (status == PERI_OK) status = run_batch(b, i, rows, *centroids, report);
        peri_matrix_release(rows);
        PERI_TRY(status);
    }
    return PERI_OK;
}

peri_status peri_kmeans_train_batches(const peri_kmeans *asked, peri_matrix **centroids,
                                      peri_kmeans_report *report) {
    batches b = { .asked = asked, .part = *asked, .clusters = asked->n_clusters };
    peri_status status;
    b.context = peri_matrix_context(asked->rows);
    b.rows = peri_min_size(asked->batch_rows, peri_matrix_view(asked->rows).rows);
    peri_progress_init(&b.progress, asked->control, "k-means", asked->n_iters);
    b.part.control = &b.progress.control;
    PERI_GO(peri_memory_acquire(b.context, b.rows, sizeof *b.ids, &b.ids));
    PERI_GO(peri_memory_acquire_zeroed(b.context, b.clusters, sizeof *b.weights, &b.weights));
    PERI_GO(peri_memory_acquire(b.context, b.clusters, sizeof *b.counts, &b.counts));
    PERI_GO(run_batches(&b, centroids, report));
done:
    peri_memory_release(b.context, b.ids, b.rows, sizeof *b.ids);
    peri_memory_release(b.context, b.weights, b.clusters, sizeof *b.weights);
    peri_memory_release(b.context, b.counts, b.clusters, sizeof *b.counts);
    return status;
}
