/* kmeans_test: k-means against a naive one with many restarts; the same bits for any number of
 * threads and on another place; awkward rows; every refusal by its name. */
#include <stdlib.h>

#include "place.h"
#include "quant/kmeans.h"

static peri_context *shared;

static peri_matrix *matrix_at(peri_context *context, const peri_view *view, peri_place where) {
    peri_matrix *matrix;
    size_t row_bytes = view->cols * peri_dtype_bytes(view->dtype);
    char *packed = test_new(view->rows, row_bytes);
    for (size_t i = 0; i < view->rows; i++)
        memcpy(packed + i * row_bytes, peri_view_row(view, i), row_bytes);
    place_must(peri_matrix_create(context, view->rows, view->cols, view->dtype, where, &matrix),
               "matrix");
    place_must(peri_matrix_write(matrix, 0, view->rows, packed), "write");
    free(packed);
    return matrix;
}

static float *read_f32(const peri_matrix *matrix) {
    peri_view view = peri_matrix_view(matrix);
    float *out = test_new(view.rows * view.cols, sizeof *out);
    place_must(peri_matrix_read(matrix, 0, view.rows, out), "read");
    return out;
}

/* Rows around `blobs` centres that lie apart, `spread` wide; blob b has about b + 1 shares. */
static peri_view blobs_of(peri_dtype dtype, size_t rows, size_t cols, size_t blobs, float spread,
                          uint64_t seed) {
    peri_view view = test_matrix(dtype, rows, cols, 0, seed);
    size_t shares = blobs * (blobs + 1) / 2;
    for (size_t i = 0; i < rows; i++) {
        uint32_t share = peri_random_below(seed + 1, i, (uint32_t)shares);
        size_t blob = 0;
        for (uint32_t left = share; left > blob; left -= (uint32_t)++blob) {}
        for (size_t j = 0; j < cols; j++) {
            float centre = test_uniform(seed + 2, blob * cols + j);
            float noise = test_uniform(seed + 3, i * cols + j) +
                          test_uniform(seed + 4, i * cols + j);
            test_store(dtype, peri_view_row(&view, i), j,
                       fminf(1, fmaxf(-1, 0.7f * centre + spread * noise)));
        }
    }
    return view;
}

/* ---- the naive one ------------------------------------------------------------------------ */

static double naive_assign(const peri_view *rows, const double *centroids, size_t clusters,
                           size_t *labels) {
    double inertia = 0;
    for (size_t i = 0; i < rows->rows; i++) {
        const float *row = peri_view_row(rows, i);
        double best = INFINITY;
        for (size_t c = 0; c < clusters; c++) {
            double sum = 0;
            for (size_t j = 0; j < rows->cols; j++) {
                double t = (double)row[j] - centroids[c * rows->cols + j];
                sum += t * t;
            }
            if (sum < best) {
                best = sum;
                labels[i] = c;
            }
        }
        inertia += best;
    }
    return inertia;
}

static void naive_move(const peri_view *rows, double *centroids, size_t clusters,
                       const size_t *labels) {
    for (size_t c = 0; c < clusters; c++) {
        double *to = test_new(rows->cols, sizeof *to), count = 0;
        for (size_t i = 0; i < rows->rows; i++) {
            if (labels[i] != c) continue;
            count++;
            for (size_t j = 0; j < rows->cols; j++)
                to[j] += (double)((const float *)peri_view_row(rows, i))[j];
        }
        for (size_t j = 0; j < rows->cols && count > 0; j++)
            centroids[c * rows->cols + j] = to[j] / count;
        free(to);
    }
}

/* The least inertia of `restarts` runs from random rows. */
static double naive_kmeans(const peri_view *rows, size_t clusters, size_t restarts) {
    double *centroids = test_new(clusters * rows->cols, sizeof *centroids), best = INFINITY;
    size_t *labels = test_new(rows->rows, sizeof *labels);
    for (size_t run = 0; run < restarts; run++) {
        for (size_t c = 0; c < clusters; c++) {
            size_t i = peri_random_below(run, c, (uint32_t)rows->rows);
            for (size_t j = 0; j < rows->cols; j++)
                centroids[c * rows->cols + j] = (double)((const float *)peri_view_row(rows, i))[j];
        }
        double inertia = 0;
        for (size_t round = 0; round < 25; round++) {
            inertia = naive_assign(rows, centroids, clusters, labels);
            naive_move(rows, centroids, clusters, labels);
        }
        if (inertia < best) best = inertia;
    }
    free(centroids);
    free(labels);
    return best;
}

static void check_quality(size_t rows, size_t cols, size_t clusters, float spread) {
    peri_view view = blobs_of(PERI_F32, rows, cols, clusters, spread, 5);
    peri_matrix *matrix = matrix_at(shared, &view, PERI_CPU), *centroids;
    double naive = naive_kmeans(&view, clusters, 40);
    for (uint64_t seed = 0; seed < 5; seed++) {
        peri_kmeans asked = PERI_KMEANS_INIT;
        peri_kmeans_report report;
        asked.rows = matrix;
        asked.n_clusters = clusters;
        asked.n_iters = 30;
        asked.seed = seed;
        place_must(peri_kmeans_train(&asked, &centroids, &report), "train");
        CHECK(report.inertia <= 1.04 * naive,
              "%zu x %zu to %zu, spread %g, seed %d: inertia %g, the naive one has %g", rows, cols,
              clusters, (double)spread, (int)seed, report.inertia, naive);
        CHECK(report.smallest > 0 && report.largest < rows, "sizes %zu..%zu of %zu",
              report.smallest, report.largest, rows);
        peri_matrix_release(centroids);
    }
    peri_matrix_release(matrix);
    free(view.data);
}

/* ---- the same bits ------------------------------------------------------------------------ */

static float *train_bits(peri_context *context, const peri_view *view, peri_place where,
                         peri_kmeans asked, peri_kmeans_report *report) {
    peri_matrix *centroids;
    asked.rows = matrix_at(context, view, where);
    place_must(peri_kmeans_train(&asked, &centroids, report), "train");
    float *bits = read_f32(centroids);
    peri_matrix_release(centroids);
    peri_matrix_release(asked.rows);
    return bits;
}

static void check_same(const char *what, peri_dtype dtype, peri_kmeans asked) {
    peri_view view = blobs_of(dtype, 1300, 21, 12, 0.1f, 11);
    size_t count = asked.n_clusters * view.cols, at = 0;
    peri_kmeans_report report, other;
    float *wanted = train_bits(shared, &view, PERI_CPU, asked, &report);
    for (size_t i = 0; i < count; i++)
        if (!CHECK(isfinite(wanted[i]), "%s: centroid element %zu is %g", what, i,
                   (double)wanted[i]))
            break;
    for (uint32_t threads = 1; threads <= 8; threads += threads == 1 ? 2 : 5) {
        peri_context *context = test_context(threads);
        float *found = train_bits(context, &view, PERI_CPU, asked, &other);
        CHECK(test_same_bits(wanted, found, count, &at) && report.inertia == other.inertia,
              "%s, %s: %u threads, element %zu differs", what, peri_dtype_name(dtype), threads, at);
        free(found);
        peri_context_release(context);
    }
    float *found = train_bits(shared, &view, (peri_place){ PERI_PLACE_FAKE, 0 }, asked, &other);
    CHECK(test_same_bits(wanted, found, count, &at) && report.inertia == other.inertia,
          "%s, %s: on fake:0 element %zu differs", what, peri_dtype_name(dtype), at);
    free(found);
    free(wanted);
    free(view.data);
}

static void check_ways(void) {
    static const peri_dtype dtypes[] = { PERI_F32, PERI_F16, PERI_I8, PERI_U8 };
    peri_kmeans asked = PERI_KMEANS_INIT;
    asked.n_iters = 4;
    asked.n_clusters = 40;
    for (size_t a = 0; a < TEST_DTYPES; a++) check_same("plain", dtypes[a], asked);
    asked.batch_rows = 700;
    check_same("batches", PERI_U8, asked);
    asked.balanced = true;
    check_same("balanced batches", PERI_F32, asked);
    asked.batch_rows = 0;
    check_same("balanced", PERI_F32, asked);
    asked.hierarchical = true;
    check_same("hierarchical", PERI_F32, asked);
    asked.metric = PERI_COSINE;
    check_same("hierarchical cosine", PERI_I8, asked);
    asked.hierarchical = false;
    asked.metric = PERI_COSINE;
    check_same("balanced cosine", PERI_F16, asked);
    asked.init = PERI_KMEANS_RANDOM;
    asked.train_fraction = 0.3;
    check_same("random start on a sample", PERI_F32, asked);
}

/* ---- the operation on each instruction set ------------------------------------------------ */

static void compare_assign(peri_dtype dtype, peri_metric metric, size_t n, size_t cols,
                           size_t clusters, peri_isa isa) {
    peri_device *cpu = test_device(shared, PERI_PLACE_CPU);
    peri_device *ref = test_device(shared, PERI_PLACE_REF);
    peri_op_assign op = { .kind = PERI_OP_ASSIGN, .metric = metric };
    op.rows = test_matrix(dtype, n, cols, 1, 71);
    op.centroids = test_matrix(PERI_F32, clusters, cols, 0, 72);
    /* every third centroid once more: ties; every fifth nearly */
    for (size_t c = 5; c < clusters; c += c % 3 == 0 ? 3 : 1) {
        float *to = peri_view_row(&op.centroids, c);
        if (c % 3 == 0 || c % 5 == 0) memcpy(to, peri_view_row(&op.centroids, c / 2), cols * 4);
        if (c % 5 == 0) to[0] = nextafterf(to[0], 2);
    }
    op.lengths = test_lengths(&op.centroids);
    uint32_t *wanted = test_new(n, sizeof *wanted), *found = test_new(n, sizeof *found);
    float *wanted_values = test_new(n, sizeof *wanted_values);
    float *found_values = test_new(n, sizeof *found_values);
    size_t at = 0;
    op.labels = wanted;
    op.distances = wanted_values;
    place_must(test_run(ref, &op, 0, NULL), "ref assign");
    op.labels = found;
    op.distances = found_values;
    place_must(test_run(cpu, &op, 0, NULL), "assign");
    CHECK(memcmp(wanted, found, n * sizeof *found) == 0 &&
              test_same_bits(wanted_values, found_values, n, &at),
          "assign with %s: %s %s, %zu x %zu to %zu", peri_isa_name(isa), peri_dtype_name(dtype),
          peri_metric_name(metric), n, cols, clusters);
    free(op.rows.data);
    free(op.centroids.data);
    free((void *)(uintptr_t)op.lengths);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

static void compare_assigns(peri_isa isa, void *ud) {
    static const peri_dtype dtypes[] = { PERI_F32, PERI_F16, PERI_I8, PERI_U8 };
    (void)ud;
    for (size_t a = 0; a < TEST_DTYPES; a++)
        for (size_t m = 0; m < TEST_METRICS; m++)
            compare_assign(dtypes[a], test_metrics[m], 75, 37, 50, isa);
    compare_assign(PERI_F32, PERI_SQEUCLIDEAN, 70000, 3, 12, isa);  /* two batches */
    compare_assign(PERI_U8, PERI_SQEUCLIDEAN, 40, 128, 4096, isa);  /* two segments */
    compare_assign(PERI_F32, PERI_INNER_PRODUCT, 33, 5000, 9, isa); /* long rows, small blocks */
}

/* ---- awkward rows ------------------------------------------------------------------------- */

static void check_awkward(const char *what, const peri_view *view, peri_kmeans asked) {
    for (unsigned form = 0; form < 12; form++) {
        peri_kmeans_report report;
        asked.balanced = (form & 1) != 0;
        asked.init = (form & 2) != 0 ? PERI_KMEANS_RANDOM : PERI_KMEANS_PLUSPLUS;
        asked.hierarchical = form >= 4 && form < 8;
        asked.batch_rows = form < 8 ? 0 : asked.n_clusters + 3;
        float *bits = train_bits(shared, view, PERI_CPU, asked, &report);
        size_t bad = 0;
        for (size_t i = 0; i < asked.n_clusters * view->cols; i++) bad += isfinite(bits[i]) ? 0 : 1;
        CHECK(bad == 0, "%s, form %u: %zu elements are not finite", what, form, bad);
        CHECK(isfinite(report.inertia) && report.inertia >= -1e-3, "%s: inertia %g", what,
              report.inertia);
        CHECK(report.largest >= 1 && report.largest <= view->rows, "%s: largest %zu", what,
              report.largest);
        free(bits);
    }
}

static void check_awkwards(void) {
    peri_kmeans asked = PERI_KMEANS_INIT;
    peri_view view = test_matrix(PERI_F32, 50, 7, 0, 3);
    asked.n_clusters = 1;
    check_awkward("one cluster", &view, asked);
    asked.n_clusters = 50;
    check_awkward("as many clusters as rows", &view, asked);
    asked.n_clusters = 17;
    for (size_t i = 0; i < 50; i++) ((float *)peri_view_row(&view, i))[2] = 1.5f;
    check_awkward("a constant column", &view, asked);
    for (size_t i = 0; i < 50; i++)
        memcpy(peri_view_row(&view, i), peri_view_row(&view, i % 3), 7 * sizeof(float));
    check_awkward("three different rows", &view, asked);
    for (size_t i = 0; i < 50; i++)
        memcpy(peri_view_row(&view, i), peri_view_row(&view, 0), 7 * sizeof(float));
    check_awkward("equal rows", &view, asked);
    asked.metric = PERI_COSINE;
    check_awkward("equal rows, cosine", &view, asked);
    memset(view.data, 0, 50 * view.stride_bytes);
    asked.metric = PERI_INNER_PRODUCT;
    check_awkward("zeros", &view, asked);
    view.rows = 1;
    asked.n_clusters = 1;
    check_awkward("one row", &view, asked);
    free(view.data);
}

/* ---- refusals and control ----------------------------------------------------------------- */

static void check_refused(peri_kmeans asked, const char *word) {
    peri_matrix *centroids;
    peri_status status = peri_kmeans_train(&asked, &centroids, NULL);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), word) != NULL,
          "wanted '%s', got %s: %s", word, peri_status_code(status), peri_error_detail());
    CHECK(centroids == NULL, "centroids after a refusal");
}

static peri_status stop_at_once(void *ud, const char *stage, size_t done, size_t total) {
    (void)stage;
    (void)done;
    (void)total;
    ++*(size_t *)ud;
    return PERI_E_CANCELLED;
}

static void check_refusals(void) {
    peri_view view = test_matrix(PERI_F32, 60000, 32, 0, 3);
    peri_matrix *matrix = matrix_at(shared, &view, PERI_CPU), *centroids;
    peri_kmeans asked = PERI_KMEANS_INIT;
    asked.rows = matrix;
    check_refused(asked, "n_clusters: 0");
    asked.n_clusters = 60001;
    check_refused(asked, "set it to 60000 or less");
    asked.n_clusters = 500;
    asked.train_fraction = 0;
    check_refused(asked, "train_fraction");
    asked.train_fraction = 1;
    asked.n_iters = 0;
    check_refused(asked, "n_iters");
    asked.n_iters = 100;
    asked.batch_rows = 499;
    check_refused(asked, "batch_rows: 499");
    asked.batch_rows = 600;
    asked.hierarchical = true;
    check_refused(asked, "train_fraction");
    asked.batch_rows = 0;
    asked.hierarchical = false;
    size_t polls = 0, blocks, blocks_after;
    peri_control control = { stop_at_once, &polls };
    peri_context_stats stats;
    peri_context_stat(shared, &stats);
    blocks = stats.blocks;
    asked.control = &control;
    peri_status status = peri_kmeans_train(&asked, &centroids, NULL);
    CHECK(status == PERI_E_CANCELLED && polls > 0 && centroids == NULL, "cancelled: %s after %zu",
          peri_status_code(status), polls);
    peri_context_stat(shared, &stats);
    blocks_after = stats.blocks;
    /* the pool of lanes may keep one lane: its struct, stream and arenas */
    CHECK(blocks_after <= blocks + 6, "%zu blocks before, %zu after", blocks, blocks_after);
    peri_matrix_release(matrix);
    free(view.data);
}

int main(void) {
    shared = place_context();
    check_quality(600, 2, 5, 0.08f);
    check_quality(1000, 8, 12, 0.12f);
    check_quality(800, 3, 20, 0.3f);
    check_ways();
    test_each_isa(compare_assigns, NULL);
    check_awkwards();
    check_refusals();
    peri_context_release(shared);
    return check_done();
}
