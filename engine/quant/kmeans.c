/* kmeans.c: what is asked is checked, the rows to train on are sampled, and one of the ways is
 * taken: rounds over all of them (kmeans_rounds.c), large clusters first (kmeans_hierarchy.c) or
 * batches (kmeans_batch.c). */
#include "quant/kmeans.h"

#include "core/checked.h"
#include "core/chunks.h"
#include "core/memory.h"
#include "core/random.h"
#include "quant/kmeans_chunks.h"
#include "quant/kmeans_rounds.h"

#define STARVING 0.25 /* of the average size: below, a cluster of a balanced training moves */
#define PULL_BACK 2u
#define WORK_BYTES ((size_t)1 << 20) /* that small scratch takes in all */
#define HIERARCHY_CLUSTERS_LEAST 16u

enum { SEED_SAMPLE = 1, SEED_START, SEED_ROUNDS };

static peri_status check(const peri_kmeans *asked) {
    peri_view rows = peri_matrix_view(asked->rows);
    if (!(asked->train_fraction > 0) || asked->train_fraction > 1)
        return peri_fail(PERI_E_ARGUMENT, "train_fraction: %g given, allowed: above 0, up to 1",
                         asked->train_fraction);
    if (asked->n_iters == 0)
        return peri_fail(PERI_E_ARGUMENT, "n_iters: 0 given, allowed: 1 and more");
    if (asked->n_clusters == 0)
        return peri_fail(PERI_E_ARGUMENT, "n_clusters: 0 given, allowed: 1 and more");
    if (asked->n_clusters > rows.rows)
        return peri_fail(PERI_E_ARGUMENT,
                         "n_clusters: %zu given for %zu rows, set it to %zu or less or give more "
                         "rows",
                         asked->n_clusters, rows.rows, rows.rows);
    if (asked->batch_rows > 0 && asked->hierarchical)
        return peri_fail(PERI_E_ARGUMENT,
                         "batch_rows: %zu given, allowed: 0 with hierarchical; "
                         "set train_fraction to read fewer rows",
                         asked->batch_rows);
    if (asked->batch_rows > 0 && asked->batch_rows < asked->n_clusters)
        return peri_fail(PERI_E_ARGUMENT,
                         "batch_rows: %zu given, allowed: 0, or n_clusters = %zu and more",
                         asked->batch_rows, asked->n_clusters);
    return PERI_OK;
}

/* How many rows to train on. */
static size_t train_rows(const peri_kmeans *asked) {
    size_t n = peri_matrix_view(asked->rows).rows, capped;
    size_t wanted = (size_t)(asked->train_fraction * (double)n);
    if (asked->max_rows_per_cluster > 0 &&
        peri_mul_fits(asked->n_clusters, asked->max_rows_per_cluster, &capped))
        wanted = peri_min_size(wanted, capped);
    return peri_min_size(n, peri_max_size(wanted, asked->n_clusters));
}

/* The rows to train on: those given, or a sample. */
static peri_status take_rows(const peri_kmeans *asked, peri_matrix **out) {
    peri_context *context = peri_matrix_context(asked->rows);
    size_t n = peri_matrix_view(asked->rows).rows, count = train_rows(asked);
    int64_t *ids;
    *out = NULL;
    if (count == n) {
        peri_matrix_retain(asked->rows);
        *out = asked->rows;
        return PERI_OK;
    }
    PERI_TRY(peri_memory_acquire(context, count, sizeof *ids, &ids));
    peri_kmeans_sample(n, peri_random_mix(asked->seed, SEED_SAMPLE), count, ids);
    peri_status status = peri_kmeans_gather(asked, asked->rows, ids, count, asked->control, out);
    peri_memory_release(context, ids, count, sizeof *ids);
    if (status == PERI_OK) status = peri_kmeans_bring(asked, out);
    if (status == PERI_OK) return PERI_OK;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

bool peri_kmeans_streams(const peri_kmeans *asked, const peri_matrix *rows) {
    return asked->through != NULL && peri_matrix_view(rows).place.kind == PERI_PLACE_CPU;
}

peri_status peri_kmeans_settle(peri_matrix **matrix, peri_place place) {
    peri_matrix *moved;
    PERI_TRY(peri_matrix_move(*matrix, place, &moved));
    peri_matrix_release(*matrix);
    *matrix = moved;
    return PERI_OK;
}

/* With as much again for scratch, and some times the centroids. */
peri_status peri_kmeans_bring(const peri_kmeans *asked, peri_matrix **rows) {
    peri_view view = peri_matrix_view(*rows);
    size_t row_bytes = view.cols * sizeof(float), work;
    bool stays;
    if (!peri_kmeans_streams(asked, *rows)) return PERI_OK;
    if (!peri_add_fits(view.rows, 4 * asked->n_clusters, &work) ||
        !peri_mul_fits(work, row_bytes, &work) || !peri_add_fits(work, WORK_BYTES, &work))
        return PERI_OK;
    PERI_TRY(peri_chunks_choose(asked->through, &view, PERI_RESIDENCE_AUTO, work, &stays));
    return stays ? PERI_OK : peri_kmeans_settle(rows, asked->through->place);
}

peri_status peri_kmeans_report_of(const peri_kmeans_rounds *r, peri_kmeans_report *report) {
    size_t clusters = peri_matrix_view(r->centroids).rows;
    uint32_t *sizes;
    if (report == NULL) return PERI_OK;
    PERI_TRY(peri_memory_acquire(r->context, clusters, sizeof *sizes, &sizes));
    peri_status status = peri_kmeans_rounds_sizes(r, sizes);
    *report = (peri_kmeans_report){ .inertia = r->inertia,
                                    .iterations = r->iterations,
                                    .rows = peri_matrix_view(r->rows).rows,
                                    .smallest = SIZE_MAX,
                                    .repaired = r->repaired };
    for (size_t c = 0; c < clusters && status == PERI_OK; c++) {
        report->smallest = peri_min_size(report->smallest, sizes[c]);
        report->largest = peri_max_size(report->largest, sizes[c]);
    }
    peri_memory_release(r->context, sizes, clusters, sizeof *sizes);
    return status;
}

static peri_status train_flat(const peri_kmeans *asked, peri_matrix *rows, peri_matrix **centroids,
                              peri_kmeans_report *report) {
    peri_kmeans_plan plan = { "k-means", asked->n_iters, asked->balanced ? STARVING : 0,
                              PULL_BACK };
    peri_kmeans_rounds r = { .asked = NULL };
    peri_status status;
    PERI_TRY(peri_kmeans_start(asked, rows, asked->n_clusters,
                               peri_random_mix(asked->seed, SEED_START), asked->control,
                               centroids));
    PERI_GO(peri_kmeans_settle(centroids, peri_matrix_view(rows).place));
    PERI_GO(peri_kmeans_rounds_open(&r, asked, rows, *centroids,
                                    peri_random_mix(asked->seed, SEED_ROUNDS), asked->control));
    PERI_GO(peri_kmeans_rounds_run(&r, &plan));
    PERI_GO(peri_kmeans_report_of(&r, report));
done:
    peri_kmeans_rounds_close(&r);
    return status;
}

static peri_status train(const peri_kmeans *asked, peri_matrix **centroids,
                         peri_kmeans_report *report) {
    bool large = asked->hierarchical && asked->n_clusters >= HIERARCHY_CLUSTERS_LEAST;
    peri_matrix *rows;
    PERI_TRY(check(asked));
    if (asked->batch_rows > 0) return peri_kmeans_train_batches(asked, centroids, report);
    PERI_TRY(take_rows(asked, &rows));
    peri_status status = (large ? peri_kmeans_train_hierarchy : train_flat)(asked, rows, centroids,
                                                                            report);
    peri_matrix_release(rows);
    return status;
}

peri_status peri_kmeans_train(const peri_kmeans *asked, peri_matrix **centroids,
                              peri_kmeans_report *report) {
    *centroids = NULL;
    peri_status status = train(asked, centroids, report);
    if (status == PERI_OK && asked->through != NULL)
        status = peri_kmeans_settle(centroids, asked->through->place);
    if (status == PERI_OK) return PERI_OK;
    peri_matrix_release(*centroids);
    *centroids = NULL;
    return status;
}

/* ---- assigning ---------------------------------------------------------------------------- */

typedef struct assigning {
    peri_matrix *rows, *centroids, *lengths, *labels, *distances;
    peri_metric metric;
    size_t threads;
    const peri_control *control;
} assigning;

static peri_status run_assign(assigning *a, peri_lane *lane) {
    peri_op_assign op = { .kind = PERI_OP_ASSIGN, .metric = a->metric };
    op.rows = peri_matrix_view(a->rows);
    op.centroids = peri_matrix_view(a->centroids);
    op.labels = peri_matrix_view(a->labels).data;
    op.distances = peri_matrix_view(a->distances).data;
    peri_lane_follow(lane, a->control, a->threads);
    if (a->metric == PERI_COSINE) {
        peri_op_lengths lengths = { PERI_OP_LENGTHS, op.centroids, NULL };
        PERI_TRY(peri_lane_take(lane, op.centroids.rows, sizeof *lengths.out, &lengths.out));
        PERI_TRY(peri_lane_run(lane, (const peri_op *)&lengths));
        op.lengths = lengths.out;
    }
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    return peri_lane_wait(lane, a->control);
}

static peri_status check_shapes(const peri_view *rows, const peri_view *centroids) {
    if (centroids->dtype != PERI_F32 || centroids->cols != rows->cols || centroids->rows == 0)
        return peri_fail(
            PERI_E_ARGUMENT,
            "centroids: %zu x %zu %s given, allowed: f32 of %zu columns, 1 row or more",
            centroids->rows, centroids->cols, peri_dtype_name(centroids->dtype), rows->cols);
    return PERI_OK;
}

peri_status peri_kmeans_assign(peri_matrix *rows, peri_matrix *centroids, peri_metric metric,
                               size_t threads, const peri_control *control, peri_matrix **labels,
                               peri_matrix **distances) {
    return peri_kmeans_assign_through(NULL, rows, centroids, metric, threads, control, labels,
                                      distances);
}

/* Rows that are where the operation runs. */
static peri_status assign_there(assigning *a) {
    peri_device *device;
    peri_lane *lane = NULL;
    peri_view view = peri_matrix_view(a->rows);
    PERI_TRY(peri_context_device(peri_matrix_context(a->rows), view.place, &device));
    PERI_TRY(peri_kmeans_settle(&a->centroids, view.place));
    PERI_TRY(peri_lane_acquire(device, &lane));
    peri_status status = run_assign(a, lane);
    peri_lane_release(lane);
    return status;
}

static peri_status assign_chunks(const assigning *a, peri_device *through) {
    const peri_assign_chunks chunks = { through,
                                        a->rows,
                                        a->centroids,
                                        a->metric,
                                        peri_matrix_view(a->labels).data,
                                        peri_matrix_view(a->distances).data,
                                        a->threads,
                                        a->control };
    return peri_assign_chunks_pass(&chunks);
}

static peri_status assign(assigning *a, peri_device *through) {
    peri_context *context = peri_matrix_context(a->rows);
    peri_view view = peri_matrix_view(a->rows), centroids = peri_matrix_view(a->centroids);
    PERI_TRY(check_shapes(&view, &centroids));
    PERI_TRY(peri_matrix_create(context, view.rows, 1, PERI_U32, view.place, &a->labels));
    PERI_TRY(peri_matrix_create(context, view.rows, 1, PERI_F32, view.place, &a->distances));
    bool streams = through != NULL && view.place.kind == PERI_PLACE_CPU;
    return streams ? assign_chunks(a, through) : assign_there(a);
}

peri_status peri_kmeans_assign_through(peri_device *through, peri_matrix *rows,
                                       peri_matrix *centroids, peri_metric metric, size_t threads,
                                       const peri_control *control, peri_matrix **labels,
                                       peri_matrix **distances) {
    assigning a = { .rows = rows, .centroids = centroids, .threads = threads, .control = control };
    a.metric = metric == PERI_COSINE ? PERI_COSINE : PERI_SQEUCLIDEAN;
    *labels = NULL;
    if (distances != NULL) *distances = NULL;
    peri_matrix_retain(centroids);
    peri_status status = assign(&a, through);
    peri_matrix_release(a.centroids);
    if (status == PERI_OK) {
        *labels = a.labels;
        a.labels = NULL;
        if (distances != NULL) {
            *distances = a.distances;
            a.distances = NULL;
        }
    }
    peri_matrix_release(a.labels);
    peri_matrix_release(a.distances);
    return status;
}
