/* parity_graphs.h: what makes and walks graphs at a place, against ref. */
#ifndef PERIGEE_SPEC_PARITY_GRAPHS_H
#define PERIGEE_SPEC_PARITY_GRAPHS_H

#include "codes.h"
#include "parity.h"

/* ---- graphs ------------------------------------------------------------------------------- */

/* What one iteration of descent leaves, on the host. */
typedef struct lists {
    uint32_t *slots;
    float *distances;
    uint8_t *fresh;
    uint64_t updates;
} lists;

static inline lists lists_make(size_t count) {
    return (lists){ test_new(count, sizeof(uint32_t)), test_new(count, sizeof(float)),
                    test_new(count, 1), 0 };
}

static inline void lists_free(lists *l) {
    free(l->slots);
    free(l->distances);
    free(l->fresh);
}

static inline peri_status descent_at(place *p, const knn_case *c, size_t degree, uint32_t iteration,
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
static inline void check_descent(pair *t, const knn_case *c, size_t degree, lists *result) {
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

/* Lists of seven rows, the last one of what is left; each row probes its own and two others, the
 * last of which may repeat one. */
static inline peri_status join_at(place *p, const knn_case *c, size_t degree, lists *out) {
    size_t n = c->rows.rows, count = n * degree, list_count = n / 7 + 1;
    uint32_t *starts = test_new(list_count + 1, sizeof *starts);
    uint32_t *probes = test_new(3 * n, sizeof *probes);
    for (size_t l = 0; l < list_count; l++) starts[l] = (uint32_t)(7 * l);
    starts[list_count] = (uint32_t)n;
    for (size_t i = 0; i < 3 * n; i++)
        probes[i] = i % 3 == 0 ? (uint32_t)(i / 3 / 7)
                               : peri_random_below(71, i, (uint32_t)list_count);
    peri_op_list_join op = { .kind = PERI_OP_LIST_JOIN,
                             .metric = c->metric,
                             .lists = list_count,
                             .probe_count = 3,
                             .degree = degree };
    op.rows = place_put_view(p, &c->rows);
    op.lengths = place_put(p, c->lengths, n * sizeof *c->lengths);
    op.starts = place_put(p, starts, (list_count + 1) * sizeof *starts);
    op.probes = place_put(p, probes, 3 * n * sizeof *probes);
    op.slots = place_room(p, count * sizeof *op.slots);
    op.distances = place_room(p, count * sizeof *op.distances);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) {
        place_fetch(p, out->slots, op.slots, count * sizeof *out->slots);
        place_fetch(p, out->distances, op.distances, count * sizeof *out->distances);
    }
    place_wait(p); /* starts and probes end with this function */
    free(starts);
    free(probes);
    return status;
}

static inline void check_join(pair *t, const knn_case *c, size_t degree) {
    size_t count = c->rows.rows * degree, at = 0;
    lists wanted = lists_make(count), found = lists_make(count);
    place_must(join_at(&t->ref, c, degree, &wanted), "ref list_join");
    if (went(t, PERI_OP_LIST_JOIN, "list_join", join_at(&t->tested, c, degree, &found)))
        CHECK(memcmp(wanted.slots, found.slots, count * sizeof *found.slots) == 0 &&
                  test_same_bits(wanted.distances, found.distances, count, &at),
              "list_join %s %s, %zu rows, degree %zu", peri_dtype_name(c->rows.dtype),
              peri_metric_name(c->metric), c->rows.rows, degree);
    clear(t);
    lists_free(&wanted);
    lists_free(&found);
}

static inline peri_status prune_at(place *p, const uint32_t *knn, size_t rows, size_t knn_degree,
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

static inline peri_status link_at(place *p, const knn_case *c, const link_case *l, uint32_t *links,
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

static inline void compare_links(pair *t, const knn_case *c, const link_case *l) {
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

static inline void check_links(pair *t, const knn_case *c, const lists *knn, size_t columns,
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

static inline peri_codes_view codes_put(place *p, const peri_codes_view *codes, size_t dim,
                                        size_t degree) {
    peri_codes_view there = *codes;
    if (codes->rows.data == NULL) return there;
    there.rows = place_put_view(p, &codes->rows);
    if (codes->bits != 0) {
        size_t block = peri_packed_block(codes->dim, codes->bits, degree);
        there.center = place_put(p, codes->center, codes->dim * sizeof *codes->center);
        there.signs = place_put(p, codes->signs, 4 * codes->dim * sizeof *codes->signs);
        if (codes->linked != NULL)
            there.linked = place_put(p, codes->linked, codes->rows.rows * block);
        return there;
    }
    there.low = place_put(p, codes->low, dim * sizeof *codes->low);
    there.step = place_put(p, codes->step, dim * sizeof *codes->step);
    there.scale = place_put(p, codes->scale, dim * sizeof *codes->scale);
    return there;
}

static inline peri_status search_at(place *p, const knn_case *c, const uint32_t *graph,
                                    size_t degree, const peri_codes_view *codes, int64_t *ids,
                                    float *distances, uint32_t *visited) {
    size_t q = c->queries.rows, count = q * c->k;
    peri_op_graph_search op = { .kind = PERI_OP_GRAPH_SEARCH,
                                .metric = c->metric,
                                .degree = degree,
                                .itopk_size = c->k + 9,
                                .rerank = c->k + 4,
                                .search_width = 2,
                                .seeds = 12,
                                .rand_xor_mask = 0x128394,
                                .k = c->k };
    op.hierarchy.entry = PERI_SLOT_NONE;
    op.queries = place_put_view(p, &c->queries);
    op.rows = place_put_view(p, &c->rows);
    op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.graph = place_put(p, graph, c->rows.rows * degree * sizeof *graph);
    op.codes = codes_put(p, codes, c->rows.cols, degree);
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

static inline void check_search(pair *t, const knn_case *c, const uint32_t *graph, size_t degree,
                                const peri_codes_view *codes) {
    size_t q = c->queries.rows, count = q * c->k;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    uint32_t *wanted_visited = test_new(q, sizeof *wanted_visited);
    uint32_t *found_visited = test_new(q, sizeof *found_visited);
    place_must(search_at(&t->ref, c, graph, degree, codes, wanted, wanted_values, wanted_visited),
               "ref graph_search");
    if (went(t, PERI_OP_GRAPH_SEARCH, "graph_search",
             search_at(&t->tested, c, graph, degree, codes, found, found_values, found_visited))) {
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

static inline void check_graph(pair *t, peri_dtype dtype, peri_metric metric, size_t rows,
                               size_t cols, size_t degree, uint32_t filter_count) {
    size_t kept = (degree + 1) / 2, queries = 7;
    knn_case c = { .metric = metric, .k = 5, .what = "graph" };
    c.rows = test_matrix(dtype, rows, cols, 0, 61);
    c.queries = test_matrix(peri_query_dtype(dtype), queries, cols, 0, 62);
    c.lengths = test_lengths(&c.rows);
    c.filters = filters_make(filter_count, rows, queries);
    lists knn = lists_make(rows * degree);
    check_descent(t, &c, degree, &knn);
    check_join(t, &c, degree);
    check_join(t, &c, 30); /* more than some rows meet */
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
    peri_codes_view codes = { .low = NULL };
    check_search(t, &c, wanted, kept, &codes);
    if ((dtype == PERI_F32 || dtype == PERI_F16) && peri_metric_by_products(metric)) {
        codes = test_codes(&c.rows, metric, c.lengths);
        check_search(t, &c, wanted, kept, &codes);
        test_codes_free(&codes);
    }
    for (uint32_t bits = 1; bits <= 4 && peri_metric_by_products(metric); bits *= 2)
        for (int linked = 0; linked < 2; linked++) {
            codes = test_packed_codes(&c.rows, bits, linked ? wanted : NULL, kept);
            check_search(t, &c, wanted, kept, &codes);
            test_codes_free(&codes);
        }
    filters_free(&c.filters);
    lists_free(&knn);
    free(c.rows.data);
    free(c.queries.data);
    free(c.lengths);
    free(wanted);
    free(found);
}

#endif
