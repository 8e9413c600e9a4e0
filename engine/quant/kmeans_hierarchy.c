/* kmeans_hierarchy.c: many clusters: large ones first, each cut on its own, then tuned together.
 *
 * Some sqrt(c) balanced mesoclusters are found; each gets a number of clusters in proportion to its
 * rows and trains them on these; a few rounds over all rows smooth the borders between them. (The
 * scheme of the coarse quantizers of GPU libraries.) The rows are put in the order of their
 * mesoclusters once, so that each is a slice; where rows pass a device in chunks, that copy is on
 * the host.
 *
 * The rounds over all cost rows x clusters x columns each, nearly all of the time. Comparing a row
 * with the clusters of near mesoclusters only was tried in their place: with 64 mesoclusters of
 * data of 16 intrinsic dimensions so many are near that a tenth of the inertia was lost. */
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/random.h"
#include "quant/kmeans_rounds.h"

#define TUNING_STARVING 0.2
#define TUNING_PULL_BACK 5u
#define TUNING_LEAST 2u /* rounds that move the centroids */
#define MESO_ROWS 1024u /* a mesocluster's rows to train on: more do not move it */

enum { SEED_MESO = 11, SEED_FINE, SEED_TUNING };

/* Steps of the progress, about in proportion to the time. */
enum { STEP_MESO = 0, STEP_FINE = 20, STEP_TUNING = 60, STEP_END = 100 };

typedef struct hierarchy {
    const peri_kmeans *asked;
    peri_context *context;
    peri_progress progress;
    peri_kmeans part;    /* what is asked, with the control of the part at hand */
    peri_matrix *rows;   /* as given */
    peri_matrix *sorted; /* by mesocluster */
    peri_matrix *meso;   /* [groups, d] */
    float *fine;         /* [clusters, d] on the host */
    size_t clusters, n, cols;
    size_t groups;  /* mesoclusters */
    size_t *starts; /* [groups + 1] sorted rows of each */
    size_t *quotas; /* [groups] clusters of each */
    size_t repaired;
} hierarchy;

static size_t root_of(size_t value) {
    size_t root = 1;
    while (root * root < value) root++;
    return root;
}

static void step(hierarchy *h, size_t from, size_t to) {
    peri_progress_step(&h->progress, from, to - from);
}

/* ---- mesoclusters ------------------------------------------------------------------------- */

static peri_status train_meso(hierarchy *h) {
    peri_kmeans meso = h->part;
    peri_kmeans_report report;
    meso.rows = h->rows;
    meso.n_clusters = h->groups;
    meso.train_fraction = 1;
    meso.max_rows_per_cluster = MESO_ROWS;
    meso.balanced = true;
    meso.hierarchical = false;
    meso.seed = peri_random_mix(h->asked->seed, SEED_MESO);
    PERI_TRY(peri_kmeans_train(&meso, &h->meso, &report));
    h->repaired += report.repaired;
    return PERI_OK;
}

/* Rows by mesocluster: starts, and the order of all rows. */
static peri_status order_rows(hierarchy *h, const uint32_t *labels, int64_t *order) {
    size_t *starts = h->starts, *at;
    PERI_TRY(peri_memory_acquire(h->context, h->groups, sizeof *at, &at));
    memset(starts, 0, (h->groups + 1) * sizeof *starts);
    for (size_t i = 0; i < h->n; i++) starts[labels[i] + 1]++;
    for (size_t g = 0; g < h->groups; g++) {
        starts[g + 1] += starts[g];
        at[g] = starts[g];
    }
    for (size_t i = 0; i < h->n; i++) order[at[labels[i]]++] = (int64_t)i;
    peri_memory_release(h->context, at, h->groups, sizeof *at);
    return PERI_OK;
}

static peri_status sort_rows(hierarchy *h) {
    peri_matrix *labels = NULL, *host = NULL;
    int64_t *order = NULL;
    peri_status status;
    PERI_GO(peri_kmeans_assign_through(h->asked->through, h->rows, h->meso, h->asked->metric,
                                       h->asked->threads, &h->progress.control, &labels, NULL));
    PERI_GO(peri_matrix_move(labels, PERI_CPU, &host));
    PERI_GO(peri_memory_acquire(h->context, h->n, sizeof *order, &order));
    PERI_GO(order_rows(h, peri_matrix_view(host).data, order));
    PERI_GO(peri_kmeans_gather(h->asked, h->rows, order, h->n, h->part.control, &h->sorted));
done:
    peri_matrix_release(labels);
    peri_matrix_release(host);
    peri_memory_release(h->context, order, h->n, sizeof *order);
    return status;
}

/* ---- clusters of each --------------------------------------------------------------------- */

static size_t group_rows(const hierarchy *h, size_t g) { return h->starts[g + 1] - h->starts[g]; }

/* In proportion to the rows, 1 at least where there are rows, no more than rows; what rounding
 * leaves goes to the groups in turn that have most rows a cluster. */
static void share_out(hierarchy *h) {
    size_t given = 0;
    for (size_t g = 0; g < h->groups; g++) {
        size_t rows = group_rows(h, g);
        double exact = (double)rows * (double)h->clusters / (double)h->n;
        h->quotas[g] = rows == 0 ? 0 : peri_min_size(rows, peri_max_size(1, (size_t)exact));
        given += h->quotas[g];
    }
    for (; given != h->clusters; given += given < h->clusters ? 1 : (size_t)-1) {
        size_t best = 0;
        double most = 0;
        for (size_t g = 0; g < h->groups; g++) {
            size_t rows = group_rows(h, g), quota = h->quotas[g];
            double need = given < h->clusters ? (quota < rows ? (double)rows / (double)quota : 0)
                                              : (quota > 1 ? (double)quota / (double)rows : 0);
            if (!(need > most)) continue;
            most = need;
            best = g;
        }
        h->quotas[best] += given < h->clusters ? 1 : (size_t)-1;
    }
}

static peri_status train_group(hierarchy *h, size_t g, float *out) {
    peri_kmeans fine = h->part;
    peri_kmeans_report report;
    peri_matrix *centroids = NULL;
    peri_status status;
    fine.rows = NULL;
    fine.n_clusters = h->quotas[g];
    fine.init = PERI_KMEANS_RANDOM; /* balancing does what a better start would */
    fine.train_fraction = 1;
    fine.max_rows_per_cluster = 0;
    fine.balanced = true;
    fine.hierarchical = false;
    fine.seed = peri_random_mix(peri_random_mix(h->asked->seed, SEED_FINE), g);
    PERI_GO(peri_matrix_slice(h->sorted, h->starts[g], h->starts[g + 1], &fine.rows));
    PERI_GO(peri_kmeans_bring(&fine, &fine.rows));
    PERI_GO(peri_kmeans_train(&fine, &centroids, &report));
    PERI_GO(peri_matrix_read(centroids, 0, h->quotas[g], out));
    h->repaired += report.repaired;
done:
    peri_matrix_release(fine.rows);
    peri_matrix_release(centroids);
    return status;
}

static peri_status train_groups(hierarchy *h) {
    peri_progress inner;
    const peri_control *outer = h->part.control;
    size_t done = 0;
    peri_status status = PERI_OK;
    peri_progress_init(&inner, outer, "k-means", h->groups);
    h->part.control = &inner.control;
    for (size_t g = 0; g < h->groups && status == PERI_OK; g++) {
        peri_progress_step(&inner, g, 1);
        status = peri_progress_tell(&inner, g);
        if (h->quotas[g] == 0 || status != PERI_OK) continue;
        status = train_group(h, g, h->fine + done * h->cols);
        done += h->quotas[g];
    }
    h->part.control = outer;
    return status;
}

/* ---- all together ------------------------------------------------------------------------- */

static peri_status tune(hierarchy *h, peri_matrix *centroids, peri_kmeans_report *report) {
    uint32_t rounds = (uint32_t)peri_max_size(h->asked->n_iters / 10, TUNING_LEAST);
    peri_kmeans_plan plan = { "k-means", rounds, TUNING_STARVING, TUNING_PULL_BACK };
    peri_kmeans_rounds r;
    peri_status status;
    PERI_GO(peri_kmeans_rounds_open(&r, &h->part, h->sorted, centroids,
                                    peri_random_mix(h->asked->seed, SEED_TUNING), h->part.control));
    PERI_GO(peri_kmeans_rounds_run(&r, &plan));
    r.repaired += h->repaired;
    PERI_GO(peri_kmeans_report_of(&r, report));
done:
    peri_kmeans_rounds_close(&r);
    return status;
}

static peri_status acquire(hierarchy *h) {
    h->groups = root_of(h->clusters);
    PERI_TRY(peri_memory_acquire(h->context, h->groups + 1, sizeof *h->starts, &h->starts));
    PERI_TRY(peri_memory_acquire(h->context, h->groups, sizeof *h->quotas, &h->quotas));
    return peri_memory_acquire(h->context, h->clusters, h->cols * sizeof *h->fine, &h->fine);
}

static void release(hierarchy *h) {
    peri_memory_release(h->context, h->starts, h->groups + 1, sizeof *h->starts);
    peri_memory_release(h->context, h->quotas, h->groups, sizeof *h->quotas);
    peri_memory_release(h->context, h->fine, h->clusters, h->cols * sizeof *h->fine);
    peri_matrix_release(h->meso);
    peri_matrix_release(h->sorted);
}

peri_status peri_kmeans_train_hierarchy(const peri_kmeans *asked, peri_matrix *rows,
                                        peri_matrix **centroids, peri_kmeans_report *report) {
    peri_view view = peri_matrix_view(rows);
    hierarchy h = { .asked = asked,
                    .context = peri_matrix_context(rows),
                    .part = *asked,
                    .rows = rows,
                    .clusters = asked->n_clusters,
                    .n = view.rows,
                    .cols = view.cols };
    peri_status status;
    peri_progress_init(&h.progress, asked->control, "k-means", STEP_END);
    h.part.control = &h.progress.control;
    PERI_GO(acquire(&h));
    step(&h, STEP_MESO, STEP_FINE);
    PERI_GO(train_meso(&h));
    PERI_GO(sort_rows(&h));
    share_out(&h);
    step(&h, STEP_FINE, STEP_TUNING);
    PERI_GO(train_groups(&h));
    PERI_GO(peri_matrix_create(h.context, h.clusters, h.cols, PERI_F32, view.place, centroids));
    PERI_GO(peri_matrix_write(*centroids, 0, h.clusters, h.fine));
    step(&h, STEP_TUNING, STEP_END);
    PERI_GO(tune(&h, *centroids, report));
done:
    release(&h);
    return status;
}
