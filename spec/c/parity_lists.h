/* parity_lists.h: the scans of inverted lists at a place against ref: lists of very
 * different sizes, empty ones, room behind them, probes that name no list. */
#ifndef PERIGEE_SPEC_PARITY_LISTS_H
#define PERIGEE_SPEC_PARITY_LISTS_H

#include "core/topk.h"
#include "parity.h"

/* ---- list scan ---------------------------------------------------------------------------- */

/* Lists of very different sizes, the second one empty, with room behind each; shuffled slots. */
typedef struct list_case {
    knn_case c; /* rows: of the arena */
    int64_t *probes;
    size_t n_probes;
    peri_lists_view lists;
} list_case;

static inline int64_t *make_offsets(size_t n_lists, size_t rows, uint32_t *sizes) {
    int64_t *offsets = test_new(n_lists + 1, sizeof *offsets);
    for (size_t left = rows, l = 0; l < n_lists; l++) {
        sizes[l] = l == 1 && n_lists > 2 ? 0 : (uint32_t)(l + 1 == n_lists ? left : left / 3);
        left -= sizes[l];
        offsets[l + 1] = offsets[l] + sizes[l] + (int64_t)(l % 3);
    }
    return offsets;
}

static inline uint32_t *make_slots(const peri_lists_view *lists, size_t rows) {
    uint32_t *slots = test_new(lists->capacity, sizeof *slots), entry = 0;
    for (size_t i = 0; i < lists->capacity; i++) slots[i] = PERI_SLOT_NONE; /* never read */
    for (size_t l = 0; l < lists->n_lists; l++)
        for (size_t i = 0; i < lists->sizes[l]; i++, entry++) /* 7919 is prime and above all rows */
            slots[(size_t)lists->offsets[l] + i] = (uint32_t)((uint64_t)entry * 7919 % rows);
    return slots;
}

static inline list_case list_case_make(size_t rows, size_t n_lists, size_t queries,
                                       size_t n_probes) {
    list_case l = { .n_probes = n_probes };
    uint32_t *sizes = test_new(n_lists, sizeof *sizes);
    l.lists = (peri_lists_view){ .n_lists = n_lists, .sizes = sizes };
    l.lists.offsets = make_offsets(n_lists, rows, sizes);
    l.lists.capacity = (size_t)l.lists.offsets[n_lists];
    l.lists.slots = make_slots(&l.lists, rows);
    if (n_probes == 0) return l;
    l.probes = test_new(queries * n_probes, sizeof *l.probes);
    for (size_t q = 0; q < queries; q++)
        for (size_t p = 0; p < n_probes; p++) /* the last one of some is none */
            l.probes[q * n_probes + p] = p > 0 && p + 1 == n_probes && q % 3 == 0
                                             ? PERI_ID_NONE
                                             : (int64_t)((q * 5 + p) % n_lists);
    return l;
}

static inline peri_status list_scan_at(place *p, const list_case *l, int64_t *ids, float *distances,
                                       uint32_t *visited) {
    size_t q = l->c.queries.rows, count = q * l->c.k;
    peri_op_list_scan op = { .kind = PERI_OP_LIST_SCAN, .metric = l->c.metric, .k = l->c.k };
    op.queries = place_put_view(p, &l->c.queries);
    op.rows = place_put_view(p, &l->c.rows);
    op.probes = place_put(p, l->probes, q * l->n_probes * sizeof *l->probes);
    op.n_probes = l->n_probes;
    op.lists = l->lists;
    op.lists.offsets = place_put(p, l->lists.offsets, (l->lists.n_lists + 1) * sizeof(int64_t));
    op.lists.sizes = place_put(p, l->lists.sizes, l->lists.n_lists * sizeof(uint32_t));
    op.lists.slots = place_put(p, l->lists.slots, l->lists.capacity * sizeof(uint32_t));
    if (l->c.metric == PERI_COSINE)
        op.lengths = place_put(p, l->c.lengths, l->c.rows.rows * sizeof *l->c.lengths);
    op.filter = filters_put(p, &l->c.filters, q);
    op.ids = place_room(p, count * sizeof *ids);
    op.distances = place_room(p, count * sizeof *distances);
    op.visited = place_room(p, q * sizeof *visited);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.ids, count * sizeof *ids);
    place_fetch(p, distances, op.distances, count * sizeof *distances);
    place_fetch(p, visited, op.visited, q * sizeof *visited);
    return PERI_OK;
}

static inline void compare_list_scan(pair *t, const list_case *l) {
    size_t q = l->c.queries.rows, count = q * l->c.k;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    uint32_t *wanted_visited = test_new(q, sizeof *wanted_visited);
    uint32_t *found_visited = test_new(q, sizeof *found_visited);
    place_must(list_scan_at(&t->ref, l, wanted, wanted_values, wanted_visited), "ref list_scan");
    if (went(t, PERI_OP_LIST_SCAN, "list_scan",
             list_scan_at(&t->tested, l, found, found_values, found_visited))) {
        compare_hits("list_scan", &l->c, wanted, wanted_values, found, found_values);
        CHECK(memcmp(wanted_visited, found_visited, q * sizeof *found_visited) == 0,
              "list_scan: %zu lists, %zu probes: entries looked at differ", l->lists.n_lists,
              l->n_probes);
    }
    clear(t);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
    free(wanted_visited);
    free(found_visited);
}

/* ---- within a distance -------------------------------------------------------------------- */

typedef struct range_found {
    int64_t *counts, *offsets, *ids;
    float *distances;
    size_t room;
} range_found;

static inline peri_op_range_scan range_op(place *p, const list_case *l, float radius) {
    size_t q = l->c.queries.rows;
    peri_op_range_scan op = { .kind = PERI_OP_RANGE_SCAN, .metric = l->c.metric, .radius = radius };
    op.queries = place_put_view(p, &l->c.queries);
    op.rows = place_put_view(p, &l->c.rows);
    op.probes = place_put(p, l->probes, q * l->n_probes * sizeof *l->probes);
    op.n_probes = l->n_probes;
    op.lists = l->lists;
    op.lists.offsets = place_put(p, l->lists.offsets, (l->lists.n_lists + 1) * sizeof(int64_t));
    op.lists.sizes = place_put(p, l->lists.sizes, l->lists.n_lists * sizeof(uint32_t));
    op.lists.slots = place_put(p, l->lists.slots, l->lists.capacity * sizeof(uint32_t));
    if (l->c.metric == PERI_COSINE)
        op.lengths = place_put(p, l->c.lengths, l->c.rows.rows * sizeof *l->c.lengths);
    op.filter = filters_put(p, &l->c.filters, q);
    op.counts = place_room(p, q * sizeof *op.counts);
    return op;
}

typedef struct range_item {
    float distance;
    int64_t id;
} range_item;

static inline int compare_range_items(const void *a, const void *b) {
    const range_item *x = a, *y = b;
    return peri_nearer(x->distance, x->id, y->distance, y->id) ? -1 : x->id != y->id;
}

/* By (distance, slot): the order within a query is free. */
static inline void sort_found(range_found *f, size_t query) {
    size_t count = (size_t)f->counts[query], first = (size_t)f->offsets[query];
    range_item *items = test_new(count, sizeof *items);
    for (size_t i = 0; i < count; i++)
        items[i] = (range_item){ f->distances[first + i], f->ids[first + i] };
    qsort(items, count, sizeof *items, compare_range_items);
    for (size_t i = 0; i < count; i++) {
        f->distances[first + i] = items[i].distance;
        f->ids[first + i] = items[i].id;
    }
    free(items);
}

static inline peri_status range_at(place *p, const list_case *l, float radius, range_found *f) {
    size_t q = l->c.queries.rows;
    peri_op_range_scan op = range_op(p, l, radius);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, f->counts, op.counts, q * sizeof *f->counts);
    f->room = 0;
    for (size_t i = 0; i < q; i++) {
        f->offsets[i] = (int64_t)f->room;
        f->room += (size_t)f->counts[i];
    }
    f->ids = test_new(f->room, sizeof *f->ids);
    f->distances = test_new(f->room, sizeof *f->distances);
    if (f->room == 0) return PERI_OK;
    op.offsets = place_put(p, f->offsets, q * sizeof *f->offsets);
    op.room = f->room;
    op.ids = place_room(p, f->room * sizeof *f->ids);
    op.distances = place_room(p, f->room * sizeof *f->distances);
    status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, f->counts, op.counts, q * sizeof *f->counts);
    place_fetch(p, f->ids, op.ids, f->room * sizeof *f->ids);
    place_fetch(p, f->distances, op.distances, f->room * sizeof *f->distances);
    for (size_t i = 0; i < q; i++) sort_found(f, i);
    return PERI_OK;
}

static inline void found_free(range_found *f) {
    free(f->counts);
    free(f->offsets);
    free(f->ids);
    free(f->distances);
}

static inline void compare_range(pair *t, const list_case *l, float radius) {
    size_t q = l->c.queries.rows, at = 0;
    range_found wanted = { test_new(q, 8), test_new(q, 8), NULL, NULL, 0 };
    range_found found = { test_new(q, 8), test_new(q, 8), NULL, NULL, 0 };
    place_must(range_at(&t->ref, l, radius, &wanted), "ref range_scan");
    if (went(t, PERI_OP_RANGE_SCAN, "range_scan", range_at(&t->tested, l, radius, &found)))
        CHECK(found.room == wanted.room && memcmp(found.counts, wanted.counts, q * 8) == 0 &&
                  memcmp(found.ids, wanted.ids, found.room * sizeof *found.ids) == 0 &&
                  test_same_bits(found.distances, wanted.distances, found.room, &at),
              "range_scan %s %s, %zu x %zu, radius %g: %zu found, wanted %zu",
              peri_dtype_name(l->c.rows.dtype), peri_metric_name(l->c.metric), l->c.rows.rows,
              l->c.rows.cols, (double)radius, found.room, wanted.room);
    clear(t);
    found_free(&wanted);
    found_free(&found);
}

/* A radius that lets some through: the distance of the first query to a row amid all. */
static inline float some_radius(const list_case *l) {
    uint32_t dim = (uint32_t)l->c.rows.cols;
    float length = peri_canonical_length(l->c.queries.dtype, l->c.queries.data, dim);
    size_t row = l->c.rows.rows / 2;
    return peri_canonical_distance(l->c.metric, l->c.rows.dtype, l->c.queries.data,
                                   peri_view_row(&l->c.rows, row), dim, length, l->c.lengths[row]);
}

/* ---- both --------------------------------------------------------------------------------- */

/* n_probes 0: all lists. */
static inline void check_list_scan(pair *t, peri_dtype dtype, peri_metric metric, size_t queries,
                                   size_t rows, size_t cols, size_t n_lists, size_t n_probes,
                                   size_t k, uint32_t filter_count, bool coarse) {
    list_case l = list_case_make(rows, n_lists, queries, n_probes);
    peri_dtype query_dtype = peri_query_dtype(dtype);
    l.c = (knn_case){ .metric = metric, .k = k, .what = coarse ? "coarse" : "random" };
    l.c.queries = coarse ? coarse_matrix(query_dtype, queries, cols, 23)
                         : test_matrix(query_dtype, queries, cols, queries % 2, 23);
    l.c.rows = coarse ? coarse_matrix(dtype, l.lists.capacity, cols, 24)
                      : test_matrix(dtype, l.lists.capacity, cols, cols % 3, 24);
    l.c.lengths = test_lengths(&l.c.rows);
    l.c.filters = filters_make(filter_count, rows, queries);
    compare_list_scan(t, &l);
    compare_range(t, &l, some_radius(&l));
    compare_range(t, &l, -INFINITY);
    filters_free(&l.c.filters);
    free(l.c.queries.data);
    free(l.c.rows.data);
    free(l.c.lengths);
    free(l.probes);
    free((void *)(uintptr_t)l.lists.offsets);
    free((void *)(uintptr_t)l.lists.sizes);
    free((void *)(uintptr_t)l.lists.slots);
}

static inline void sweep_lists(pair *t) {
    static const struct {
        size_t queries, rows, cols, lists, probes, k;
        uint32_t filters;
    } shapes[] = { { 1, 1, 1, 1, 1, 1, 0 },        { 1, 31, 2, 4, 2, 5, 1 },
                   { 3, 300, 31, 9, 4, 32, 0 },    { 14, 133, 32, 5, 3, 33, 4 },
                   { 40, 700, 33, 7, 3, 10, 2 },   { 9, 65, 64, 6, 0, 70, 4 },
                   { 30, 2000, 20, 10, 0, 10, 0 }, { 2, 130, 130, 130, 9, 129, 3 } };
    for (size_t a = 0; a < TEST_DTYPES; a++)
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++)
            for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                for (int coarse = 0; coarse < 2 && peri_metric_takes(metrics[m], dtypes[a]);
                     coarse++)
                    check_list_scan(t, dtypes[a], metrics[m], shapes[s].queries, shapes[s].rows,
                                    shapes[s].cols, shapes[s].lists, shapes[s].probes, shapes[s].k,
                                    shapes[s].filters, coarse != 0);
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        if (t->small) continue;
        check_list_scan(t, dtypes[a], PERI_SQEUCLIDEAN, 100, 5000, 96, 12, 4, 20, 0, false);
        check_list_scan(t, dtypes[a], PERI_INNER_PRODUCT, 100, 5000, 24, 12, 12, 200, 1, false);
        check_list_scan(t, dtypes[a], PERI_COSINE, 70, 5000, 40, 3, 2, 10, 4, false);
    }
}

#endif
