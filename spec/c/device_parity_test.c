/* device_parity_test: every operation that a place supports against ref, bit for bit: dtypes,
 * metrics, shapes around a warp and a tile, strides, ties, filters, k on both sides of the number
 * of rows.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset); what it declines is skipped by name and
 * reason. PERIGEE_TEST_SHAPES=small keeps to the small shapes, for runs under a checker of
 * memory. */
#include "parity_clusters.h"
#include "parity_rows.h"

/* ---- knn ---------------------------------------------------------------------------------- */

/* Filters as a test makes them, on the host. */
typedef struct filters {
    uint32_t count;
    size_t words;
    uint64_t *bits[4];
    uint32_t *lists[4];
    size_t passing[4];
    uint32_t *which; /* may be NULL */
} filters;

/* Filter i keeps: 0 half the rows, 1 one row, 2 none, 3 all. Those of odd number have no list. */
static filters filters_make(uint32_t count, size_t rows, size_t queries) {
    filters f = { .count = count, .words = (rows + 63) / 64 };
    if (count == 0) return f;
    for (uint32_t i = 0; i < count; i++) {
        f.bits[i] = test_new(f.words, sizeof(uint64_t));
        uint32_t *list = test_new(rows, sizeof *list);
        for (size_t r = 0; r < rows; r++) {
            bool keep = i == 0 ? peri_random_mix(9, r) & 1 : i == 1 ? r == rows / 2 : i == 3;
            if (!keep) continue;
            f.bits[i][r / 64] |= UINT64_C(1) << (r % 64);
            list[f.passing[i]++] = (uint32_t)r;
        }
        if (i % 2 == 0)
            f.lists[i] = list;
        else
            free(list);
    }
    if (count > 1) {
        f.which = test_new(queries, sizeof *f.which);
        for (size_t q = 0; q < queries; q++) f.which[q] = peri_random_below(11, q, count);
    }
    return f;
}

static void filters_free(filters *f) {
    for (uint32_t i = 0; i < f->count; i++) {
        free(f->bits[i]);
        free(f->lists[i]);
    }
    free(f->which);
}

/* `passing` is read by host and device: memory of both. */
static peri_filter_view filters_put(place *p, const filters *f, size_t queries) {
    peri_filter_view view = { .count = f->count, .words = f->words };
    if (f->count == 0) return view;
    const uint64_t *bits[4];
    const uint32_t *lists[4];
    for (uint32_t i = 0; i < f->count; i++) {
        bits[i] = place_put(p, f->bits[i], f->words * sizeof(uint64_t));
        lists[i] = place_put(p, f->lists[i], f->passing[i] * sizeof(uint32_t));
    }
    view.bits = place_put(p, bits, f->count * sizeof *bits);
    view.lists = place_put(p, lists, f->count * sizeof *lists);
    view.which = place_put(p, f->which, queries * sizeof *f->which);
    size_t *passing = place_room_of(p, sizeof f->passing, PERI_MEMORY_MAPPED);
    memcpy(passing, f->passing, sizeof f->passing);
    view.passing = passing;
    place_wait(p); /* bits[] and lists[] end with this function */
    return view;
}

typedef struct knn_case {
    peri_metric metric;
    peri_view queries, rows;
    float *lengths;
    filters filters;
    size_t k;
    const char *what;
} knn_case;

static peri_status knn_at(place *p, const knn_case *c, int64_t *ids, float *distances) {
    size_t count = c->queries.rows * c->k;
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = c->metric, .k = c->k };
    op.queries = place_put_view(p, &c->queries);
    op.rows = place_put_view(p, &c->rows);
    if (c->metric == PERI_COSINE)
        op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.filter = filters_put(p, &c->filters, c->queries.rows);
    op.ids = place_room(p, count * sizeof *ids);
    op.distances = place_room(p, count * sizeof *distances);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.ids, count * sizeof *ids);
    place_fetch(p, distances, op.distances, count * sizeof *distances);
    return PERI_OK;
}

static void compare_hits(const char *op, const knn_case *c, const int64_t *wanted,
                         const float *wanted_values, const int64_t *found,
                         const float *found_values) {
    size_t count = c->queries.rows * c->k, i = 0;
    while (i < count && wanted[i] == found[i] &&
           memcmp(&wanted_values[i], &found_values[i], sizeof *found_values) == 0)
        i++;
    size_t at = i < count ? i : 0;
    CHECK(i == count,
          "%s %s: %s %s, %zu x %zu, %zu queries, k %zu, %u filters: query %zu rank %zu is %lld at "
          "%a, wanted %lld at %a",
          op, c->what, peri_dtype_name(c->rows.dtype), peri_metric_name(c->metric), c->rows.rows,
          c->rows.cols, c->queries.rows, c->k, c->filters.count, at / c->k, at % c->k,
          (long long)found[at], (double)found_values[at], (long long)wanted[at],
          (double)wanted_values[at]);
}

static void compare_knn(pair *t, const knn_case *c) {
    size_t count = c->queries.rows * c->k;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    place_must(knn_at(&t->ref, c, wanted, wanted_values), "ref knn");
    if (went(t, PERI_OP_KNN, "knn", knn_at(&t->tested, c, found, found_values)))
        compare_hits("knn", c, wanted, wanted_values, found, found_values);
    clear(t);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

static void check_knn(pair *t, peri_dtype dtype, peri_metric metric, size_t queries, size_t rows,
                      size_t cols, size_t k, uint32_t filter_count, bool coarse) {
    knn_case c = { .metric = metric, .k = k, .what = coarse ? "coarse" : "random" };
    peri_dtype query_dtype = peri_query_dtype(dtype);
    c.queries = coarse ? coarse_matrix(query_dtype, queries, cols, 21)
                       : test_matrix(query_dtype, queries, cols, queries % 2, 21);
    c.rows = coarse ? coarse_matrix(dtype, rows, cols, 22)
                    : test_matrix(dtype, rows, cols, cols % 3, 22);
    c.lengths = test_lengths(&c.rows);
    c.filters = filters_make(filter_count, rows, queries);
    compare_knn(t, &c);
    filters_free(&c.filters);
    free(c.queries.data);
    free(c.rows.data);
    free(c.lengths);
}

/* ---- list scan ---------------------------------------------------------------------------- */

/* Lists of very different sizes, the second one empty, with room behind each; slots are shuffled. */
typedef struct list_case {
    knn_case c; /* rows: of the arena */
    int64_t *probes;
    size_t n_probes;
    peri_lists_view lists;
} list_case;

static int64_t *make_offsets(size_t n_lists, size_t rows, uint32_t *sizes) {
    int64_t *offsets = test_new(n_lists + 1, sizeof *offsets);
    for (size_t left = rows, l = 0; l < n_lists; l++) {
        sizes[l] = l == 1 && n_lists > 2 ? 0 : (uint32_t)(l + 1 == n_lists ? left : left / 3);
        left -= sizes[l];
        offsets[l + 1] = offsets[l] + sizes[l] + (int64_t)(l % 3);
    }
    return offsets;
}

static uint32_t *make_slots(const peri_lists_view *lists, size_t rows) {
    uint32_t *slots = test_new(lists->capacity, sizeof *slots), entry = 0;
    for (size_t i = 0; i < lists->capacity; i++) slots[i] = PERI_SLOT_NONE; /* never read */
    for (size_t l = 0; l < lists->n_lists; l++)
        for (size_t i = 0; i < lists->sizes[l]; i++, entry++) /* 7919 is prime and above all rows */
            slots[(size_t)lists->offsets[l] + i] = (uint32_t)((uint64_t)entry * 7919 % rows);
    return slots;
}

static list_case list_case_make(size_t rows, size_t n_lists, size_t queries, size_t n_probes) {
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

static peri_status list_scan_at(place *p, const list_case *l, int64_t *ids, float *distances,
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

static void compare_list_scan(pair *t, const list_case *l) {
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

/* n_probes 0: all lists. */
static void check_list_scan(pair *t, peri_dtype dtype, peri_metric metric, size_t queries,
                            size_t rows, size_t cols, size_t n_lists, size_t n_probes, size_t k,
                            uint32_t filter_count, bool coarse) {
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
    filters_free(&l.c.filters);
    free(l.c.queries.data);
    free(l.c.rows.data);
    free(l.c.lengths);
    free(l.probes);
    free((void *)(uintptr_t)l.lists.offsets);
    free((void *)(uintptr_t)l.lists.sizes);
    free((void *)(uintptr_t)l.lists.slots);
}

/* ---- refine ------------------------------------------------------------------------------- */

static peri_status refine_at(place *p, const knn_case *c, const int64_t *candidates, size_t columns,
                             int64_t *ids, float *distances) {
    size_t q = c->queries.rows, count = q * (c->k > 0 ? c->k : columns);
    peri_op_refine op = {
        .kind = PERI_OP_REFINE, .metric = c->metric, .columns = columns, .k = c->k
    };
    op.queries = place_put_view(p, &c->queries);
    op.rows = place_put_view(p, &c->rows);
    if (c->metric == PERI_COSINE)
        op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.candidates = place_put(p, candidates, q * columns * sizeof *candidates);
    op.ids = place_room(p, q * c->k * sizeof *ids);
    op.distances = place_room(p, count * sizeof *distances);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.ids, q * c->k * sizeof *ids);
    place_fetch(p, distances, op.distances, count * sizeof *distances);
    return PERI_OK;
}

/* Candidates with repeats and gaps; the first query has none at all. */
static int64_t *make_candidates(size_t queries, size_t columns, size_t rows) {
    int64_t *candidates = test_new(queries * columns, sizeof *candidates);
    for (size_t i = 0; i < queries * columns; i++) {
        uint32_t pick = peri_random_below(31, i, (uint32_t)rows + 3);
        candidates[i] = i < columns || pick >= rows ? PERI_ID_NONE : (int64_t)pick;
    }
    return candidates;
}

static void check_refine(pair *t, peri_dtype dtype, peri_metric metric, size_t queries, size_t rows,
                         size_t cols, size_t columns, size_t k) {
    knn_case c = { .metric = metric, .k = k, .what = "candidates" };
    c.queries = coarse_matrix(peri_query_dtype(dtype), queries, cols, 41);
    c.rows = coarse_matrix(dtype, rows, cols, 42);
    c.lengths = test_lengths(&c.rows);
    int64_t *candidates = make_candidates(queries, columns, rows);
    size_t count = queries * (k > 0 ? k : columns), at = 0;
    int64_t *wanted = test_new(queries * k, sizeof *wanted);
    int64_t *found = test_new(queries * k, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    place_must(refine_at(&t->ref, &c, candidates, columns, wanted, wanted_values), "ref refine");
    if (went(t, PERI_OP_REFINE, "refine",
             refine_at(&t->tested, &c, candidates, columns, found, found_values))) {
        if (k > 0)
            compare_hits("refine", &c, wanted, wanted_values, found, found_values);
        else
            CHECK(test_same_bits(wanted_values, found_values, count, &at),
                  "refine in place: %s %s, %zu x %zu, value %zu is %a, wanted %a",
                  peri_dtype_name(dtype), peri_metric_name(metric), rows, cols, at,
                  (double)found_values[at], (double)wanted_values[at]);
    }
    clear(t);
    free(c.queries.data);
    free(c.rows.data);
    free(c.lengths);
    free(candidates);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

/* ---- graphs ------------------------------------------------------------------------------- */

/* What one iteration of descent leaves, on the host. */
typedef struct lists {
    uint32_t *slots;
    float *distances;
    uint8_t *fresh;
    uint64_t updates;
} lists;

static lists lists_make(size_t count) {
    return (lists){ test_new(count, sizeof(uint32_t)), test_new(count, sizeof(float)),
                    test_new(count, 1), 0 };
}

static void lists_free(lists *l) {
    free(l->slots);
    free(l->distances);
    free(l->fresh);
}

static peri_status descent_at(place *p, const knn_case *c, size_t degree, uint32_t iteration,
                              const lists *in, lists *out) {
    size_t count = c->rows.rows * degree;
    peri_op_graph_descent op = { .kind = PERI_OP_GRAPH_DESCENT,
                                 .metric = c->metric,
                                 .degree = degree,
                                 .iteration = iteration,
                                 .samples = 4,
                                 .seed = 77 };
    op.rows = place_put_view(p, &c->rows);
    op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.slots = place_put(p, in->slots, count * sizeof *in->slots);
    op.distances = place_put(p, in->distances, count * sizeof *in->distances);
    op.fresh = place_put(p, in->fresh, count);
    op.slots_next = place_room(p, count * sizeof *in->slots);
    op.distances_next = place_room(p, count * sizeof *in->distances);
    op.fresh_next = place_room(p, count);
    op.updates = place_room(p, sizeof *op.updates);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, out->slots, op.slots_next, count * sizeof *in->slots);
    place_fetch(p, out->distances, op.distances_next, count * sizeof *in->distances);
    place_fetch(p, out->fresh, op.fresh_next, count);
    place_fetch(p, &out->updates, op.updates, sizeof out->updates);
    return PERI_OK;
}

/* Four iterations; `result` becomes ref's last lists. */
static void check_descent(pair *t, const knn_case *c, size_t degree, lists *result) {
    size_t count = c->rows.rows * degree, at = 0;
    lists wanted = lists_make(count), found = lists_make(count);
    for (uint32_t i = 0; i < 4; i++) {
        place_must(descent_at(&t->ref, c, degree, i, result, &wanted), "ref graph_descent");
        peri_status status = descent_at(&t->tested, c, degree, i, result, &found);
        if (went(t, PERI_OP_GRAPH_DESCENT, "graph_descent", status))
            CHECK(memcmp(wanted.slots, found.slots, count * sizeof *found.slots) == 0 &&
                      test_same_bits(wanted.distances, found.distances, count, &at) &&
                      memcmp(wanted.fresh, found.fresh, count) == 0 &&
                      wanted.updates == found.updates,
                  "graph_descent %s %s, %zu rows, iteration %u", peri_dtype_name(c->rows.dtype),
                  peri_metric_name(c->metric), c->rows.rows, i);
        clear(t);
        lists swap = *result;
        *result = wanted;
        wanted = swap;
    }
    lists_free(&wanted);
    lists_free(&found);
}

static peri_status prune_at(place *p, const uint32_t *knn, size_t rows, size_t knn_degree,
                            size_t degree, uint32_t *graph) {
    peri_op_graph_prune op = {
        .kind = PERI_OP_GRAPH_PRUNE, .rows = rows, .knn_degree = knn_degree, .degree = degree
    };
    op.knn = place_put(p, knn, rows * knn_degree * sizeof *knn);
    op.graph = place_room(p, rows * degree * sizeof *graph);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, graph, op.graph, rows * degree * sizeof *graph);
    return status;
}

/* A choice of links: every third row, among lists with gaps, repeats and the row itself. */
typedef struct link_case {
    float alpha;
    size_t count, columns, degree;
    uint32_t *slots, *candidates;
    float *distances; /* NULL: the operation finds them */
} link_case;

static peri_status link_at(place *p, const knn_case *c, const link_case *l, uint32_t *links,
                           float *distances) {
    size_t items = l->count * l->columns, chosen = l->count * l->degree;
    peri_op_graph_link op = { .kind = PERI_OP_GRAPH_LINK,
                              .metric = c->metric,
                              .alpha = l->alpha,
                              .count = l->count,
                              .columns = l->columns,
                              .degree = l->degree };
    op.rows = place_put_view(p, &c->rows);
    op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.slots = place_put(p, l->slots, l->count * sizeof *l->slots);
    op.candidates = place_put(p, l->candidates, items * sizeof *l->candidates);
    op.distances = place_put(p, l->distances, items * sizeof *l->distances);
    op.links = place_room(p, chosen * sizeof *links);
    op.link_distances = place_room(p, chosen * sizeof *distances);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, links, op.links, chosen * sizeof *links);
    place_fetch(p, distances, op.link_distances, chosen * sizeof *distances);
    return PERI_OK;
}

static void compare_links(pair *t, const knn_case *c, const link_case *l) {
    size_t chosen = l->count * l->degree, at = 0;
    uint32_t *wanted = test_new(chosen, sizeof *wanted), *found = test_new(chosen, sizeof *found);
    float *wanted_values = test_new(chosen, sizeof *wanted_values);
    float *found_values = test_new(chosen, sizeof *found_values);
    place_must(link_at(&t->ref, c, l, wanted, wanted_values), "ref graph_link");
    if (went(t, PERI_OP_GRAPH_LINK, "graph_link", link_at(&t->tested, c, l, found, found_values)))
        CHECK(memcmp(wanted, found, chosen * sizeof *found) == 0 &&
                  test_same_bits(wanted_values, found_values, chosen, &at),
              "graph_link %s %s, alpha %g, %zu candidates, distances %s",
              peri_dtype_name(c->rows.dtype), peri_metric_name(c->metric), (double)l->alpha,
              l->columns, l->distances == NULL ? "not given" : "given");
    clear(t);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

static void check_links(pair *t, const knn_case *c, const lists *knn, size_t columns,
                        size_t degree) {
    size_t rows = c->rows.rows;
    link_case l = { .count = (rows + 2) / 3, .columns = columns, .degree = degree };
    l.slots = test_new(l.count, sizeof *l.slots);
    l.candidates = test_new(l.count * columns, sizeof *l.candidates);
    float *distances = test_new(l.count * columns, sizeof *distances);
    for (size_t i = 0; i < l.count; i++) {
        l.slots[i] = (uint32_t)(3 * i);
        for (size_t j = 0; j < columns; j++) {
            uint32_t pick = peri_random_below(51, i * columns + j, (uint32_t)columns + 2);
            l.candidates[i * columns + j] = pick >= columns ? PERI_SLOT_NONE
                                                            : knn->slots[3 * i * columns + pick];
            distances[i * columns + j] = pick >= columns ? INFINITY
                                                         : knn->distances[3 * i * columns + pick];
        }
    }
    for (int given = 0; given < 2; given++)
        for (int far = 0; far < 2; far++) {
            l.alpha = far ? 1.3f : 1.0f;
            l.distances = given ? distances : NULL;
            compare_links(t, c, &l);
        }
    free(l.slots);
    free(l.candidates);
    free(distances);
}

static peri_status search_at(place *p, const knn_case *c, const uint32_t *graph, size_t degree,
                             int64_t *ids, float *distances, uint32_t *visited) {
    size_t q = c->queries.rows, count = q * c->k;
    peri_op_graph_search op = { .kind = PERI_OP_GRAPH_SEARCH,
                                .metric = c->metric,
                                .degree = degree,
                                .itopk_size = c->k + 9,
                                .search_width = 2,
                                .seeds = 12,
                                .rand_xor_mask = 0x128394,
                                .k = c->k };
    op.hierarchy.entry = PERI_SLOT_NONE;
    op.queries = place_put_view(p, &c->queries);
    op.rows = place_put_view(p, &c->rows);
    op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.graph = place_put(p, graph, c->rows.rows * degree * sizeof *graph);
    op.filter = filters_put(p, &c->filters, q);
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

static void check_search(pair *t, const knn_case *c, const uint32_t *graph, size_t degree) {
    size_t q = c->queries.rows, count = q * c->k;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    uint32_t *wanted_visited = test_new(q, sizeof *wanted_visited);
    uint32_t *found_visited = test_new(q, sizeof *found_visited);
    place_must(search_at(&t->ref, c, graph, degree, wanted, wanted_values, wanted_visited),
               "ref graph_search");
    if (went(t, PERI_OP_GRAPH_SEARCH, "graph_search",
             search_at(&t->tested, c, graph, degree, found, found_values, found_visited))) {
        compare_hits("graph_search", c, wanted, wanted_values, found, found_values);
        CHECK(memcmp(wanted_visited, found_visited, q * sizeof *found_visited) == 0,
              "graph_search %s: distances computed differ", peri_dtype_name(c->rows.dtype));
    }
    clear(t);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
    free(wanted_visited);
    free(found_visited);
}

static void check_graph(pair *t, peri_dtype dtype, peri_metric metric, size_t rows, size_t cols,
                        size_t degree, uint32_t filter_count) {
    size_t kept = (degree + 1) / 2, queries = 7;
    knn_case c = { .metric = metric, .k = 5, .what = "graph" };
    c.rows = test_matrix(dtype, rows, cols, 0, 61);
    c.queries = test_matrix(peri_query_dtype(dtype), queries, cols, 0, 62);
    c.lengths = test_lengths(&c.rows);
    c.filters = filters_make(filter_count, rows, queries);
    lists knn = lists_make(rows * degree);
    check_descent(t, &c, degree, &knn);
    uint32_t *wanted = test_new(rows * kept, sizeof *wanted);
    uint32_t *found = test_new(rows * kept, sizeof *found);
    place_must(prune_at(&t->ref, knn.slots, rows, degree, kept, wanted), "ref graph_prune");
    if (went(t, PERI_OP_GRAPH_PRUNE, "graph_prune",
             prune_at(&t->tested, knn.slots, rows, degree, kept, found)))
        CHECK(memcmp(wanted, found, rows * kept * sizeof *found) == 0, "graph_prune, %zu rows",
              rows);
    clear(t);
    check_links(t, &c, &knn, degree, kept);
    check_links(t, &c, &knn, degree, degree);
    check_search(t, &c, wanted, kept);
    filters_free(&c.filters);
    lists_free(&knn);
    free(c.rows.data);
    free(c.queries.data);
    free(c.lengths);
    free(wanted);
    free(found);
}

/* ---- the sweep ---------------------------------------------------------------------------- */

static void sweep_knn(pair *t) {
    static const struct {
        size_t queries, rows, cols, k;
        uint32_t filters;
    } shapes[] = { { 1, 1, 1, 1, 0 },      { 1, 31, 2, 5, 1 },    { 3, 32, 31, 32, 0 },
                   { 4, 33, 32, 33, 4 },   { 5, 200, 33, 10, 2 }, { 9, 65, 64, 70, 4 },
                   { 2, 130, 130, 129, 3 } };
    for (size_t a = 0; a < TEST_DTYPES; a++)
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++)
            for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                for (int coarse = 0; coarse < 2; coarse++)
                    check_knn(t, dtypes[a], metrics[m], shapes[s].queries, shapes[s].rows,
                              shapes[s].cols, shapes[s].k, shapes[s].filters, coarse != 0);
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        check_knn(t, dtypes[a], PERI_SQEUCLIDEAN, 2, 10, 5, 1025, 0, false);
        if (t->small) continue;
        check_knn(t, dtypes[a], PERI_COSINE, 5, 20000, 16, 10, 0, false);
        check_knn(t, dtypes[a], PERI_INNER_PRODUCT, 1, 20000, 3, 100, 1, true);
        check_knn(t, dtypes[a], PERI_SQEUCLIDEAN, 40, 5000, 96, 600, 4, false);
        check_knn(t, dtypes[a], PERI_SQEUCLIDEAN, 3, 3000, 8, 1024, 0, true);
        check_knn(t, dtypes[a], PERI_INNER_PRODUCT, 2, 70, 4097, 10, 0, false);
    }
    if (!t->small) check_knn(t, PERI_I8, PERI_SQEUCLIDEAN, 8200, 40, 2, 1024, 2, false);
}

static void sweep_lists(pair *t) {
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
                for (int coarse = 0; coarse < 2; coarse++)
                    check_list_scan(t, dtypes[a], metrics[m], shapes[s].queries, shapes[s].rows,
                                    shapes[s].cols, shapes[s].lists, shapes[s].probes, shapes[s].k,
                                    shapes[s].filters, coarse != 0);
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        check_scatter(t, dtypes[a], 50, 33, 20, true);
        check_scatter(t, dtypes[a], 30, 1 + a, 30, false);
        if (t->small) continue;
        check_list_scan(t, dtypes[a], PERI_SQEUCLIDEAN, 100, 5000, 96, 12, 4, 20, 0, false);
        check_list_scan(t, dtypes[a], PERI_INNER_PRODUCT, 100, 5000, 24, 12, 12, 200, 1, false);
        check_list_scan(t, dtypes[a], PERI_COSINE, 70, 5000, 40, 3, 2, 10, 4, false);
    }
    check_scatter(t, PERI_I64, 20, 3, 7, true);
}

static void sweep_refine(pair *t) {
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++) {
            check_refine(t, dtypes[a], metrics[m], 3, 20, 33, 7, 0);
            check_refine(t, dtypes[a], metrics[m], 3, 20, 33, 7, 3);
            check_refine(t, dtypes[a], metrics[m], 5, 100, 2, 150, 60);
            check_refine(t, dtypes[a], metrics[m], 2, 10, 64, 300, 20);
        }
        if (!t->small) check_refine(t, dtypes[a], PERI_COSINE, 4, 3000, 20, 4000, 1000);
    }
}

static void sweep_graphs(pair *t) {
    for (size_t a = 0; a < TEST_DTYPES; a++)
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++)
            check_graph(t, dtypes[a], metrics[m], 60 + 10 * m, 5 + 30 * a, 8 + m, (uint32_t)m);
    if (!t->small) check_graph(t, PERI_F32, PERI_SQEUCLIDEAN, 2000, 24, 32, 4);
}

int main(void) {
    const char *name = getenv("PERIGEE_TEST_PLACE"), *shapes = getenv("PERIGEE_TEST_SHAPES");
    peri_place at;
    pair t = { .context = place_context(),
               .small = shapes != NULL && strcmp(shapes, "small") == 0 };
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    peri_device *device;
    place_must(peri_context_device(t.context, at, &device), "device");
    char word[32];
    printf("%s against ref\n", peri_place_format(at, word, sizeof word));
    place_open(&t.ref, test_device(t.context, PERI_PLACE_REF));
    place_open(&t.tested, device);
    sweep_rows(&t);
    sweep_knn(&t);
    sweep_lists(&t);
    sweep_clusters(&t);
    sweep_refine(&t);
    sweep_graphs(&t);
    place_close(&t.ref);
    place_close(&t.tested);
    peri_context_release(t.context);
    return check_done();
}
