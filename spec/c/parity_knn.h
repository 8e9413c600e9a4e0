/* parity_knn.h: exact search of a place against ref: shapes large enough for a coarse pass, and
 * rows made so that such a pass proves nothing. */
#ifndef PERIGEE_SPEC_PARITY_KNN_H
#define PERIGEE_SPEC_PARITY_KNN_H

#include <math.h>

#include "parity.h"

/* Queries that cost a second look, and a scan of all rows. */
typedef struct knn_counts {
    uint32_t redone, scanned;
} knn_counts;

static inline peri_status knn_at(place *p, const knn_case *c, int64_t *ids, float *distances,
                                 knn_counts *counts) {
    size_t count = c->queries.rows * c->k;
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = c->metric, .k = c->k };
    op.queries = place_put_view(p, &c->queries);
    op.rows = place_put_view(p, &c->rows);
    if (c->metric == PERI_COSINE)
        op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.filter = filters_put(p, &c->filters, c->queries.rows);
    op.ids = place_room(p, count * sizeof *ids);
    op.distances = place_room(p, count * sizeof *distances);
    op.redone = place_room(p, sizeof *op.redone);
    op.scanned = place_room(p, sizeof *op.scanned);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.ids, count * sizeof *ids);
    place_fetch(p, distances, op.distances, count * sizeof *distances);
    place_fetch(p, &counts->redone, op.redone, sizeof *op.redone);
    place_fetch(p, &counts->scanned, op.scanned, sizeof *op.scanned);
    return PERI_OK;
}

/* Counts are more than there are queries when the place declined. */
static inline knn_counts compare_knn(pair *t, const knn_case *c) {
    knn_counts none, redone = { UINT32_MAX, UINT32_MAX };
    size_t count = c->queries.rows * c->k;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    place_must(knn_at(&t->ref, c, wanted, wanted_values, &none), "ref knn");
    if (went(t, PERI_OP_KNN, "knn", knn_at(&t->tested, c, found, found_values, &redone))) {
        compare_hits("knn", c, wanted, wanted_values, found, found_values);
        CHECK(redone.scanned <= redone.redone && redone.redone <= c->queries.rows,
              "%u of %zu queries done twice, %u of these scanned", redone.redone, c->queries.rows,
              redone.scanned);
    }
    clear(t);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
    return redone;
}

static inline void check_knn(pair *t, peri_dtype dtype, peri_metric metric, size_t queries,
                             size_t rows, size_t cols, size_t k, uint32_t filter_count,
                             bool coarse) {
    knn_case c = { .metric = metric, .k = k, .what = coarse ? "coarse" : "random" };
    peri_dtype query_dtype = peri_query_dtype(dtype);
    c.queries = coarse ? coarse_matrix(query_dtype, queries, cols, 21)
                       : test_matrix(query_dtype, queries, cols, queries % 2, 21);
    c.rows = coarse ? coarse_matrix(dtype, rows, cols, 22)
                    : test_matrix(dtype, rows, cols, cols % 3, 22);
    c.lengths = test_lengths(&c.rows);
    c.filters = filters_make(filter_count, rows, queries);
    (void)compare_knn(t, &c);
    filters_free(&c.filters);
    free(c.queries.data);
    free(c.rows.data);
    free(c.lengths);
}

/* ---- others ------------------------------------------------------------------------------- */

typedef struct other_lists {
    uint32_t *slots;
    int64_t *ids;
    float *distances;
} other_lists;

static inline other_lists other_lists_make(size_t items) {
    return (other_lists){ test_new(items, sizeof(uint32_t)), test_new(items, sizeof(int64_t)),
                          test_new(items, sizeof(float)) };
}

static inline void other_lists_free(other_lists *l) {
    free(l->slots);
    free(l->ids);
    free(l->distances);
}

static inline peri_status others_at(place *p, const int64_t *ids, const float *distances,
                                    size_t count, size_t degree, size_t first,
                                    const other_lists *out) {
    size_t items = count * degree;
    peri_op_others op = {
        .kind = PERI_OP_OTHERS, .count = count, .degree = degree, .first = first
    };
    op.ids = place_put(p, ids, (items + count) * sizeof *ids);
    op.distances = place_put(p, distances, (items + count) * sizeof *distances);
    op.slots = place_room(p, items * sizeof *op.slots);
    op.other_ids = place_room(p, items * sizeof *op.other_ids);
    op.other_distances = place_room(p, items * sizeof *op.other_distances);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, out->slots, op.slots, items * sizeof *op.slots);
    place_fetch(p, out->ids, op.other_ids, items * sizeof *op.other_ids);
    place_fetch(p, out->distances, op.other_distances, items * sizeof *op.other_distances);
    return PERI_OK;
}

/* Row i's own slot is at place i of its answer, when it has that many; every seventh answer is
 * short. */
static inline void check_others(pair *t, size_t count, size_t degree, size_t first) {
    int64_t *ids = test_new(count * (degree + 1), sizeof *ids);
    float *distances = test_new(count * (degree + 1), sizeof *distances);
    other_lists wanted = other_lists_make(count * degree), found = other_lists_make(count * degree);
    for (size_t i = 0; i < count * (degree + 1); i++) {
        size_t row = i / (degree + 1), rank = i % (degree + 1);
        ids[i] = rank == row                         ? (int64_t)(first + row)
                 : row % 7 == 3 && rank > degree / 2 ? PERI_ID_NONE
                                                     : (int64_t)(1000 + rank);
        distances[i] = ids[i] == PERI_ID_NONE ? INFINITY : (float)i;
    }
    place_must(others_at(&t->ref, ids, distances, count, degree, first, &wanted), "ref others");
    if (went(t, PERI_OP_OTHERS, "others",
             others_at(&t->tested, ids, distances, count, degree, first, &found)))
        CHECK(memcmp(wanted.slots, found.slots, count * degree * sizeof *found.slots) == 0 &&
                  memcmp(wanted.ids, found.ids, count * degree * sizeof *found.ids) == 0 &&
                  memcmp(wanted.distances, found.distances,
                         count * degree * sizeof *found.distances) == 0,
              "others, %zu lists of %zu", count, degree);
    clear(t);
    free(ids);
    free(distances);
    other_lists_free(&wanted);
    other_lists_free(&found);
}

static inline void sweep_others(pair *t) {
    check_others(t, 1, 1, 0);
    check_others(t, 100, 64, 5);
    check_others(t, 70, 33, 100000);
    check_others(t, 40, 31, 0);
}

/* Batches that a device may take another way than large ones: f32 rows, no filter. */
static inline void sweep_knn_batches(pair *t) {
    static const size_t queries[] = { 4, 19, 20, 128, 129, 257 };
    static const size_t widths[] = { 1, 31, 100, 128, 129, 260 };
    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++)
        for (int coarse = 0; coarse < 2; coarse++)
            check_knn(t, PERI_F32, i % 2 == 0 ? PERI_SQEUCLIDEAN : PERI_INNER_PRODUCT, queries[i],
                      2400, widths[i], 1 + 7 * i, 0, coarse != 0);
    check_knn(t, PERI_F32, PERI_SQEUCLIDEAN, 30, 20000, 768, 10, 0, false);
    check_knn(t, PERI_F32, PERI_SQEUCLIDEAN, 30, 5000, 128, 330, 0, false);
}

/* Enough queries and rows for a coarse pass of a device. */
static inline void sweep_knn_coarse(pair *t) {
    static const struct {
        size_t queries, rows, cols, k;
        uint32_t filters;
    } shapes[] = { { 300, 3000, 128, 10, 1 }, { 33, 3000, 7, 100, 4 },  { 64, 2100, 200, 1, 0 },
                   { 40, 2300, 768, 10, 2 },  { 35, 2500, 64, 500, 0 }, { 129, 2049, 65, 33, 3 },
                   { 30, 40001, 24, 10, 4 } };
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++)
            if (peri_metric_takes(metrics[m], dtypes[a]))
                for (int coarse = 0; coarse < 2; coarse++)
                    check_knn(t, dtypes[a], metrics[m], 40, 2500, 96, 10, 0, coarse != 0);
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            check_knn(t, dtypes[a], s % 2 == 0 ? PERI_SQEUCLIDEAN : PERI_INNER_PRODUCT,
                      shapes[s].queries, shapes[s].rows, shapes[s].cols, shapes[s].k,
                      shapes[s].filters, false);
        check_knn(t, dtypes[a], PERI_COSINE, 50, 3000, 50, 20, 1, false);
        check_knn(t, dtypes[a], PERI_COSINE, 50, 3000, 50, 20, 4, false);
    }
}

/* ---- rows that are hard to tell apart ------------------------------------------------------ */

typedef enum doubt {
    DOUBT_NONE,
    DOUBT_WHOLE,    /* small whole numbers: ties everywhere, but sums are exact */
    DOUBT_CLUSTERS, /* tight, far from each other and the origin */
    DOUBT_REPEATS,  /* each row many times */
    DOUBT_EQUAL,    /* all rows the same */
    DOUBT_FAR_ROW,  /* one row far from all others, one query too */
    DOUBT_FAR,      /* all far from the origin */
    DOUBT_SMALL,    /* squares underflow */
    DOUBT_LARGE,    /* squares overflow */
    DOUBT_ZEROS,    /* some rows and queries of zeros */
    DOUBT_LENGTHS,  /* from short to long, over many orders of magnitude */
    DOUBT_COUNT
} doubt;

static const char *const doubts[] = { "plain", "whole", "clusters", "repeats", "equal",  "far row",
                                      "far",   "small", "large",    "zeros",   "lengths" };

static inline float doubt_value(doubt kind, size_t i, size_t j, size_t cols, bool query) {
    uint64_t seed = query ? 91 : 92;
    float value = test_uniform(seed, i * cols + j);
    switch (kind) {
    case DOUBT_WHOLE: return rintf(1.4f * value);
    case DOUBT_CLUSTERS: return 1000 * test_uniform(93, i % 5 * cols + j) + 0.01f * value;
    case DOUBT_REPEATS: return test_uniform(92, i % 17 * cols + j);
    case DOUBT_EQUAL: return query ? value : test_uniform(92, j);
    case DOUBT_FAR_ROW: return i == 30 ? 1e6f * value : value;
    case DOUBT_FAR: return 3000 + value;
    case DOUBT_SMALL: return 1e-22f * value;
    case DOUBT_LARGE: return 1e19f * value;
    case DOUBT_ZEROS: return i % 10 == 3 ? 0 : value;
    case DOUBT_LENGTHS: return value * powf(10, 10 * test_uniform(94, i));
    default: return value;
    }
}

static inline peri_view doubt_matrix(peri_dtype dtype, doubt kind, size_t rows, size_t cols,
                                     bool query) {
    peri_view view = test_matrix(dtype, rows, cols, 0, 1);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            float value = doubt_value(kind, i, j, cols, query);
            if (dtype == PERI_F16) value = fminf(fmaxf(value, -60000.0f), 60000.0f);
            test_store(dtype, peri_view_row(&view, i), j, value);
        }
    return view;
}

/* The answer is ref's whatever the rows; plain ones, and whole numbers, are proved by the coarse
 * pass alone. */
static inline void sweep_knn_doubt(pair *t) {
    static const peri_metric few[] = { PERI_SQEUCLIDEAN, PERI_INNER_PRODUCT, PERI_COSINE };
    for (size_t a = 0; a < 2; a++)
        for (size_t m = 0; m < 3; m++) {
            printf("knn %s %s, queries done twice of 36:", peri_dtype_name(dtypes[a]),
                   peri_metric_name(few[m]));
            for (doubt kind = 0; kind < DOUBT_COUNT; kind++) {
                knn_case c = { .metric = few[m], .k = 10, .what = doubts[kind] };
                c.queries = doubt_matrix(PERI_F32, kind, 36, 40, true);
                c.rows = doubt_matrix(dtypes[a], kind, 2200, 40, false);
                c.lengths = test_lengths(&c.rows);
                uint32_t redone = compare_knn(t, &c).redone;
                printf(" %s %d", doubts[kind], (int)redone);
                bool proved = kind == DOUBT_NONE || (kind == DOUBT_WHOLE && few[m] != PERI_COSINE);
                CHECK(!proved || redone == 0, "%u %s queries done twice", redone, doubts[kind]);
                free(c.queries.data);
                free(c.rows.data);
                free(c.lengths);
            }
            printf("\n");
        }
}

#endif
