/* parity_clusters.h: assignment to centroids and their sums at a place against ref. */
#ifndef PERIGEE_SPEC_PARITY_CLUSTERS_H
#define PERIGEE_SPEC_PARITY_CLUSTERS_H

#include "parity.h"

/* ---- assign, cluster sums ----------------------------------------------------------------- */

typedef struct cluster_case {
    peri_metric metric;
    peri_view rows, centroids;
    float *lengths;     /* of the centroids */
    uint32_t *labels;   /* [n] */
    float *row_lengths; /* or NULL */
    double *weights;    /* or NULL */
    bool unit;
} cluster_case;

static inline peri_status assign_at(place *p, const cluster_case *c, uint32_t *labels,
                                    float *distances) {
    size_t n = c->rows.rows;
    peri_op_assign op = { .kind = PERI_OP_ASSIGN, .metric = c->metric };
    op.rows = place_put_view(p, &c->rows);
    op.centroids = place_put_view(p, &c->centroids);
    if (c->metric == PERI_COSINE)
        op.lengths = place_put(p, c->lengths, c->centroids.rows * sizeof *c->lengths);
    op.labels = place_room(p, n * sizeof *labels);
    if (distances != NULL) op.distances = place_room(p, n * sizeof *distances);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, labels, op.labels, n * sizeof *labels);
    if (distances != NULL) place_fetch(p, distances, op.distances, n * sizeof *distances);
    return PERI_OK;
}

static inline void compare_assign(pair *t, const cluster_case *c) {
    size_t n = c->rows.rows, at = 0;
    uint32_t *wanted = test_new(n, sizeof *wanted), *found = test_new(n, sizeof *found);
    float *wanted_values = test_new(n, sizeof *wanted_values);
    float *found_values = test_new(n, sizeof *found_values);
    place_must(assign_at(&t->ref, c, wanted, wanted_values), "ref assign");
    if (went(t, PERI_OP_ASSIGN, "assign", assign_at(&t->tested, c, found, found_values))) {
        while (at < n && wanted[at] == found[at] &&
               memcmp(&wanted_values[at], &found_values[at], sizeof *found_values) == 0)
            at++;
        CHECK(at == n, "assign: %s %s, %zu x %zu to %zu: row %zu is %u at %a, wanted %u at %a",
              peri_dtype_name(c->rows.dtype), peri_metric_name(c->metric), n, c->rows.cols,
              c->centroids.rows, at, found[at % n], (double)found_values[at % n], wanted[at % n],
              (double)wanted_values[at % n]);
        place_must(assign_at(&t->tested, c, found, NULL), "assign without distances");
        CHECK(memcmp(wanted, found, n * sizeof *found) == 0, "assign without distances");
    }
    clear(t);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

/* `close`: many ties; otherwise random. */
static inline void check_assign(pair *t, peri_dtype dtype, peri_metric metric, size_t rows,
                                size_t cols, size_t clusters, bool close) {
    cluster_case c = { .metric = metric };
    c.rows = close ? coarse_matrix(dtype, rows, cols, 51) : test_matrix(dtype, rows, cols, 3, 51);
    c.centroids = close ? coarse_matrix(PERI_F32, clusters, cols, 52)
                        : test_matrix(PERI_F32, clusters, cols, 1, 52);
    c.lengths = test_lengths(&c.centroids);
    compare_assign(t, &c);
    free(c.rows.data);
    free(c.centroids.data);
    free(c.lengths);
}

/* Far from the origin, equal rows, values past the range of squares: labels all the same. */
static inline void check_assign_values(pair *t, peri_metric metric, size_t cols) {
    static const float scales[] = { 1e-30f, 1.0f, 1e18f, 1e25f };
    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
        cluster_case c = { .metric = metric };
        c.rows = test_matrix(PERI_F32, 70, cols, 0, 53);
        c.centroids = test_matrix(PERI_F32, 40, cols, 0, 54);
        for (size_t i = 0; i < 70 * cols; i++) ((float *)c.rows.data)[i] *= scales[s];
        for (size_t i = 0; i < 40 * cols; i++)
            ((float *)c.centroids.data)[i] = s == 1 ? 1000 + 1e-3f * ((float *)c.centroids.data)[i]
                                                    : scales[s] * ((float *)c.centroids.data)[i];
        memset(peri_view_row(&c.rows, 5), 0, cols * sizeof(float));
        memcpy(peri_view_row(&c.centroids, 30), peri_view_row(&c.centroids, 3), cols * 4);
        c.lengths = test_lengths(&c.centroids);
        compare_assign(t, &c);
        free(c.rows.data);
        free(c.centroids.data);
        free(c.lengths);
    }
}

static inline peri_status sums_at(place *p, const cluster_case *c, float *centroids,
                                  uint32_t *counts) {
    size_t n = c->rows.rows, clusters = c->centroids.rows, cols = c->centroids.cols;
    peri_op_cluster_sums op = { .kind = PERI_OP_CLUSTER_SUMS, .unit = c->unit };
    op.rows = place_put_view(p, &c->rows);
    op.centroids = place_put_view(p, &c->centroids);
    op.labels = place_put(p, c->labels, n * sizeof *c->labels);
    op.lengths = place_put(p, c->row_lengths, n * sizeof *c->row_lengths);
    op.weights = place_put(p, c->weights, clusters * sizeof *c->weights);
    op.counts = place_room(p, clusters * sizeof *counts);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, centroids, op.centroids.data, clusters * cols * sizeof *centroids);
    place_fetch(p, counts, op.counts, clusters * sizeof *counts);
    return PERI_OK;
}

static inline void compare_sums(pair *t, const cluster_case *c) {
    size_t clusters = c->centroids.rows, count = clusters * c->centroids.cols, at = 0;
    float *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    uint32_t *wanted_counts = test_new(clusters, sizeof *wanted_counts);
    uint32_t *found_counts = test_new(clusters, sizeof *found_counts);
    place_must(sums_at(&t->ref, c, wanted, wanted_counts), "ref cluster_sums");
    if (went(t, PERI_OP_CLUSTER_SUMS, "cluster_sums", sums_at(&t->tested, c, found, found_counts)))
        CHECK(test_same_bits(wanted, found, count, &at) &&
                  memcmp(wanted_counts, found_counts, clusters * sizeof *found_counts) == 0,
              "cluster_sums: %s, %zu x %zu to %zu%s%s%s: element %zu is %a, wanted %a",
              peri_dtype_name(c->rows.dtype), c->rows.rows, c->rows.cols, clusters,
              c->unit ? ", unit" : "", c->weights == NULL ? "" : ", weights",
              c->row_lengths == NULL ? "" : ", lengths", at, (double)found[at], (double)wanted[at]);
    clear(t);
    free(wanted);
    free(found);
    free(wanted_counts);
    free(found_counts);
}

/* Most rows under the first label; the last one has none. */
static inline void check_sums(pair *t, peri_dtype dtype, size_t rows, size_t cols, size_t clusters,
                              int form) {
    cluster_case c = { .unit = (form & 1) != 0 };
    c.rows = test_matrix(dtype, rows, cols, 2, 55);
    c.centroids = test_matrix(PERI_F32, clusters, cols, 0, 56);
    c.labels = test_new(rows, sizeof *c.labels);
    for (size_t i = 0; i < rows; i++)
        c.labels[i] = i % 2 == 0 ? 0 : peri_random_below(57, i, (uint32_t)clusters) * (i % 3 != 0);
    for (size_t i = 0; i < rows; i++) c.labels[i] -= c.labels[i] == clusters - 1 && clusters > 1;
    if (form & 1) c.row_lengths = test_lengths(&c.rows);
    if (form & 2) c.weights = test_new(clusters, sizeof *c.weights);
    for (size_t i = 0; i < clusters && (form & 2); i++) c.weights[i] = (double)(i % 4) * 2.5;
    compare_sums(t, &c);
    free(c.rows.data);
    free(c.centroids.data);
    free(c.labels);
    free(c.row_lengths);
    free(c.weights);
}

static inline void sweep_clusters(pair *t) {
    static const struct {
        size_t rows, cols, clusters;
    } shapes[] = { { 1, 1, 1 },    { 33, 3, 7 },    { 5, 31, 40 },  { 100, 32, 12 },
                   { 65, 33, 13 }, { 64, 130, 97 }, { 300, 17, 64 } };
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            size_t n = shapes[s].rows, d = shapes[s].cols, clusters = shapes[s].clusters;
            for (size_t m = 0; m < PERI_METRIC_COUNT; m++) {
                if (!peri_metric_takes(metrics[m], PERI_F32)) continue; /* what centroids are */
                check_assign(t, dtypes[a], metrics[m], n, d, clusters, false);
                check_assign(t, dtypes[a], metrics[m], n, d, clusters, true);
            }
            for (int form = 0; form < 4; form++) check_sums(t, dtypes[a], n, d, clusters, form);
        }
        if (t->small) continue;
        check_assign(t, dtypes[a], PERI_SQEUCLIDEAN, 3000, 48, 1100, false);
        check_assign(t, dtypes[a], PERI_COSINE, 700, 130, 300, false);
        check_sums(t, dtypes[a], 3000, 50, 3, 0);
        check_sums(t, dtypes[a], 3000, 50, 200, 3);
    }
    for (size_t m = 0; m < PERI_METRIC_COUNT; m++)
        if (peri_metric_takes(metrics[m], PERI_F32)) check_assign_values(t, metrics[m], 20);
    if (t->small) return;
    check_assign(t, PERI_F32, PERI_COSINE, 2500, 96, 1000, false);
    check_assign(t, PERI_F16, PERI_INNER_PRODUCT, 2200, 64, 1001, false);
    check_assign(t, PERI_F32, PERI_SQEUCLIDEAN, 2200, 130, 1000, false);
    check_assign(t, PERI_U8, PERI_SQEUCLIDEAN, 2200, 33, 1000, true);
}

#endif
