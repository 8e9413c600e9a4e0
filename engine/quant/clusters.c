/* clusters.c: k-means for users: options by name, data checked, values as the API reports them. */
#include "quant/clusters.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/chunks.h"
#include "core/distance.h"
#include "core/memory.h"
#include "core/params.h"
#include "quant/kmeans.h"

#define KMEANS_PARAMS(X, S)                                                                        \
    X(S, CHOICE, metric, 0, 0, 3, "sqeuclidean|euclidean|inner_product|cosine", NULL,              \
      "what near means; inner_product clusters by squared L2, cosine gives centroids of length 1") \
    X(S, INT, n_clusters, 0, 0, 2147483646, NULL, "the square root of the number of rows",         \
      "clusters, no more than rows to train on")                                                   \
    X(S, INT, n_iters, 20, 1, 1000000, NULL, NULL,                                                 \
      "iterations at most, or batches; it ends before when nothing improves")                      \
    X(S, CHOICE, init, 0, 0, 1, "kmeans++|random", NULL, "where it begins")                        \
    X(S, FLAG, balanced, 0, 0, 1, NULL, NULL,                                                      \
      "clusters below a quarter of the average size are moved into large ones")                    \
    X(S, FLAG, hierarchical, 0, 0, 1, NULL, NULL,                                                  \
      "large clusters first, then each is cut: for thousands of clusters; balanced")               \
    X(S, REAL, train_fraction, 1, 0, 1, NULL, NULL, "share of the rows to train on, above 0")      \
    X(S, INT, max_rows_per_cluster, 0, 0, 2147483646, NULL, NULL,                                  \
      "rows to train on are no more than this a cluster; 0 is no limit")                           \
    X(S, INT, batch_rows, 0, 0, 2147483646, NULL, NULL,                                            \
      "mini-batch: rows that each iteration reads, at least n_clusters; 0 is all")                 \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the random choices")

PERI_PARAMS_STRUCT(kmeans_params, KMEANS_PARAMS)
static const peri_param kmeans_rows[] = { PERI_PARAMS_ROWS(kmeans_params, KMEANS_PARAMS) };
const peri_param_table peri_kmeans_table = { "kmeans.train", kmeans_rows,
                                             sizeof kmeans_rows / sizeof *kmeans_rows };

#define LABELLED_BYTES 12u /* a row: label, distance and length */

/* One way to run it. */
typedef struct way {
    const peri_clustering *asked;
    const kmeans_params *params;
    peri_matrix *rows;    /* where they lie meanwhile */
    peri_device *through; /* rows are on the host and pass it; or NULL */
} way;

/* ---- checks ------------------------------------------------------------------------------- */

static peri_status check_rows(const peri_clustering *asked) {
    if (asked->rows == NULL) return peri_fail(PERI_E_ARGUMENT, "rows: none given");
    peri_view view = peri_matrix_view(asked->rows);
    if (view.rows == 0) return peri_fail(PERI_E_ARGUMENT, "rows: 0 given, allowed: 1 and more");
    if (view.dtype > PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "rows: %s given, allowed: f32 f16 i8 u8",
                         peri_dtype_name(view.dtype));
    return PERI_OK;
}

static peri_status check_centroids(const peri_clustering *asked) {
    const peri_options *options = &asked->options;
    for (size_t i = 0; i < options->count; i++)
        if (strcmp(options->list[i].key, "metric") != 0)
            return peri_fail(PERI_E_ARGUMENT,
                             "option '%.48s': given with centroids, which are not trained again",
                             options->list[i].key);
    return peri_matrix_check(asked->centroids, false, "centroids", asked->threads, asked->control);
}

static peri_status read_options(const peri_clustering *asked, kmeans_params *params) {
    const peri_param_table *table = &peri_kmeans_table;
    if (asked->size != sizeof *asked)
        return peri_fail(PERI_E_ARGUMENT, "clustering.size: %u given, this library takes %zu",
                         asked->size, sizeof *asked);
    PERI_TRY(check_rows(asked));
    peri_params_default(table, params);
    PERI_TRY(peri_options_check(&asked->options, &table, 1));
    return peri_params_read(table, &asked->options, params);
}

/* ---- training ----------------------------------------------------------------------------- */

static size_t clusters_of(const kmeans_params *params, size_t rows) {
    if (params->n_clusters > 0) return (size_t)params->n_clusters;
    return peri_max_size(1, (size_t)sqrt((double)rows));
}

static peri_status train(const way *w, peri_clusters *out) {
    const peri_clustering *asked = w->asked;
    const kmeans_params *params = w->params;
    peri_kmeans kmeans = { .rows = w->rows,
                           .metric = (peri_metric)params->metric,
                           .n_clusters = clusters_of(params, peri_matrix_view(asked->rows).rows),
                           .n_iters = (uint32_t)params->n_iters,
                           .train_fraction = params->train_fraction,
                           .max_rows_per_cluster = (size_t)params->max_rows_per_cluster,
                           .init = (peri_kmeans_init)params->init,
                           .balanced = params->balanced != 0,
                           .hierarchical = params->hierarchical != 0,
                           .batch_rows = (size_t)params->batch_rows,
                           .seed = (uint64_t)params->seed,
                           .threads = asked->threads,
                           .control = asked->control,
                           .through = w->through };
    peri_kmeans_report report;
    PERI_TRY(peri_kmeans_train(&kmeans, &out->centroids, &report));
    out->iterations = report.iterations;
    out->trained_rows = report.rows;
    out->repaired = report.repaired;
    out->inertia = report.inertia;
    out->smallest = report.smallest;
    out->largest = report.largest;
    return PERI_OK;
}

/* ---- labels of all rows ------------------------------------------------------------------- */

static peri_status count_sizes(peri_clusters *out) {
    peri_context *context = peri_matrix_context(out->labels);
    size_t clusters = peri_matrix_view(out->centroids).rows;
    peri_matrix *host;
    PERI_TRY(peri_matrix_create(context, clusters, 1, PERI_U32, PERI_CPU, &out->sizes));
    PERI_TRY(peri_matrix_move(out->labels, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    const uint32_t *labels = view.data;
    uint32_t *sizes = peri_matrix_view(out->sizes).data;
    for (size_t i = 0; i < view.rows; i++) sizes[labels[i]]++;
    out->smallest = view.rows;
    out->largest = 0;
    for (size_t c = 0; c < clusters; c++) {
        out->smallest = peri_min_size(out->smallest, sizes[c]);
        out->largest = peri_max_size(out->largest, sizes[c]);
    }
    peri_matrix_release(host);
    return PERI_OK;
}

/* The inertia from the values inside; then the values as the metric reports them. */
static peri_status report_distances(peri_metric metric, peri_clusters *out) {
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(out->distances, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    float *distances = view.data;
    peri_status status = PERI_OK;
    out->inertia = 0;
    for (size_t i = 0; i < view.rows; i++) out->inertia += (double)distances[i];
    if (metric == PERI_EUCLIDEAN) {
        peri_metric_report(metric, distances, view.rows);
        if (host != out->distances)
            status = peri_matrix_write(out->distances, 0, view.rows, distances);
    }
    peri_matrix_release(host);
    return status;
}

static peri_status label(const way *w, peri_clusters *out) {
    PERI_TRY(peri_kmeans_assign_through(w->through, w->rows, out->centroids, out->metric,
                                        w->asked->threads, w->asked->control, &out->labels,
                                        &out->distances));
    PERI_TRY(count_sizes(out));
    return report_distances(out->metric, out);
}

/* ---- where it runs ------------------------------------------------------------------------ */

static peri_status run(const way *w, peri_clusters *out) {
    const peri_clustering *asked = w->asked;
    peri_place place = w->through == NULL ? peri_matrix_view(w->rows).place : w->through->place;
    if (asked->centroids == NULL)
        PERI_TRY(train(w, out));
    else
        PERI_TRY(peri_matrix_move(asked->centroids, place, &out->centroids));
    return asked->labels || asked->centroids != NULL ? label(w, out) : PERI_OK;
}

static void clear(peri_clusters *out) {
    peri_metric metric = out->metric;
    peri_clusters_reset(out);
    out->metric = metric;
}

/* Whether batches are all that is read, and less than all rows: then only they go there. */
static bool reads_little(const way *w) {
    const kmeans_params *params = w->params;
    double read = (double)params->batch_rows * (double)params->n_iters;
    return params->batch_rows > 0 && !w->asked->labels && w->asked->centroids == NULL &&
           w->asked->residence == PERI_RESIDENCE_AUTO &&
           read < (double)peri_matrix_view(w->asked->rows).rows;
}

/* There, or when that takes too much, with the rows on the host. */
static peri_status run_at(way *w, peri_device *device, peri_clusters *out) {
    const peri_clustering *asked = w->asked;
    peri_view view = peri_matrix_view(asked->rows);
    bool streams = false, from_host = view.place.kind == PERI_PLACE_CPU && !device->shares_host;
    if (from_host && reads_little(w))
        streams = true;
    else if (from_host)
        PERI_TRY(peri_chunks_choose(device, &view, asked->residence, view.rows * LABELLED_BYTES,
                                    &streams));
    if (!streams) {
        peri_status status = peri_matrix_move(asked->rows, device->place, &w->rows);
        if (status == PERI_OK) status = run(w, out);
        peri_matrix_release(w->rows);
        bool again = from_host && asked->residence == PERI_RESIDENCE_AUTO;
        if (status != PERI_E_MEMORY || !again) return status;
        clear(out);
    }
    w->rows = asked->rows;
    w->through = device;
    return run(w, out);
}

/* ---- the calls ---------------------------------------------------------------------------- */

static peri_status make(const peri_clustering *asked, peri_clusters *out) {
    kmeans_params params;
    peri_device *device;
    PERI_TRY(read_options(asked, &params));
    out->metric = (peri_metric)params.metric;
    /* batches are checked as they are read, so that the others stay where they are */
    if (params.batch_rows == 0 || asked->labels)
        PERI_TRY(peri_matrix_check(asked->rows, out->metric == PERI_COSINE, "rows", asked->threads,
                                   asked->control));
    if (asked->centroids != NULL) PERI_TRY(check_centroids(asked));
    peri_place place = asked->place != NULL ? *asked->place : peri_matrix_view(asked->rows).place;
    PERI_TRY(peri_context_device(peri_matrix_context(asked->rows), place, &device));
    way w = { .asked = asked, .params = &params };
    return run_at(&w, device, out);
}

peri_status peri_clusters_train(const peri_clustering *asked, peri_clusters *out) {
    *out = (peri_clusters){ 0 };
    peri_status status = make(asked, out);
    if (status != PERI_OK) peri_clusters_reset(out);
    return status;
}

void peri_clusters_reset(peri_clusters *clusters) {
    peri_matrix_release(clusters->centroids);
    peri_matrix_release(clusters->labels);
    peri_matrix_release(clusters->distances);
    peri_matrix_release(clusters->sizes);
    *clusters = (peri_clusters){ 0 };
}
