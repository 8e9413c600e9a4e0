/* device_parity_test: every operation that a place supports against ref, bit for bit: dtypes,
 * metrics, shapes around a warp and a tile, strides, ties, filters, k on both sides of the number
 * of rows.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset); what it declines is skipped by name and
 * reason. PERIGEE_TEST_SHAPES=small keeps to the small shapes, for runs under a checker of
 * memory. */
#include "codes.h"
#include "parity_clusters.h"
#include "parity_code_scan.h"
#include "parity_codes.h"
#include "parity_lists.h"
#include "parity_pq.h"

/* ---- convert, lengths, gather ------------------------------------------------------------- */

/* Runs convert at a place and brings back what `out`'s rows became, spare elements included. */
static peri_status convert_at(place *p, const peri_view *in, const peri_view *out, void *result) {
    peri_op_convert op = { PERI_OP_CONVERT, place_put_view(p, in), *out };
    size_t bytes = out->rows * out->stride_bytes;
    op.out.place = p->device->place;
    op.out.data = place_room(p, bytes);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, bytes);
    return status;
}

static void check_convert(pair *t, peri_dtype from, peri_dtype to, size_t rows, size_t cols,
                          size_t spare, float scale) {
    peri_view in = test_matrix(from, rows, cols, spare, cols + 7);
    if (from == PERI_F32)
        for (size_t i = 0; i < rows * (cols + spare); i++) ((float *)in.data)[i] *= scale;
    size_t stride = (cols + 1) * peri_dtype_bytes(to);
    peri_view out = { NULL, rows, cols, stride, to, PERI_CPU };
    void *wanted = test_new(rows, stride), *found = test_new(rows, stride);
    place_must(convert_at(&t->ref, &in, &out, wanted), "ref convert");
    if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &in, &out, found)))
        CHECK(memcmp(wanted, found, rows * stride) == 0, "convert %s to %s, %zu x %zu, scale %g",
              peri_dtype_name(from), peri_dtype_name(to), rows, cols, (double)scale);
    clear(t);
    free(in.data);
    free(wanted);
    free(found);
}

/* Every half, then floats that round, saturate, underflow and are not finite. */
static void check_convert_values(pair *t) {
    static const float special[] = { 0.0f,       -0.0f,     0.5f,     1.5f,      2.5f,     -0.5f,
                                     127.5f,     128.5f,    -128.5f,  255.5f,    1e30f,    -1e30f,
                                     65504.0f,   65519.0f,  65520.0f, 0x1p-14f,  0x1p-24f, 0x1p-25f,
                                     0x1.8p-25f, 0x1p-149f, INFINITY, -INFINITY, NAN,      -NAN };
    size_t count = sizeof special / sizeof special[0];
    peri_view in = { test_new(65536, 2), 256, 256, 512, PERI_F16, PERI_CPU };
    for (size_t i = 0; i < 65536; i++) ((uint16_t *)in.data)[i] = (uint16_t)i;
    for (size_t to = 0; to < TEST_DTYPES; to++) {
        size_t bytes = 65536 * peri_dtype_bytes(dtypes[to]);
        peri_view out = { NULL, 256, 256, bytes / 256, dtypes[to], PERI_CPU };
        peri_view few = {
            (void *)(uintptr_t)special, 1, count, sizeof special, PERI_F32, PERI_CPU
        };
        peri_view few_out = { NULL,       1,       count, count * peri_dtype_bytes(dtypes[to]),
                              dtypes[to], PERI_CPU };
        char *wanted = test_new(1, bytes), *found = test_new(1, bytes);
        place_must(convert_at(&t->ref, &in, &out, wanted), "ref convert");
        if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &in, &out, found)))
            CHECK(memcmp(wanted, found, bytes) == 0, "convert every f16 to %s",
                  peri_dtype_name(dtypes[to]));
        place_must(convert_at(&t->ref, &few, &few_out, wanted), "ref convert");
        if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &few, &few_out, found)))
            for (size_t i = 0; i < count; i++)
                CHECK(memcmp(wanted + i * few_out.stride_bytes / count,
                             found + i * few_out.stride_bytes / count,
                             few_out.stride_bytes / count) == 0,
                      "convert %g to %s", (double)special[i], peri_dtype_name(dtypes[to]));
        clear(t);
        free(wanted);
        free(found);
    }
    free(in.data);
}

static peri_status lengths_at(place *p, const peri_view *rows, float *result) {
    peri_op_lengths op = { PERI_OP_LENGTHS, place_put_view(p, rows), NULL };
    op.out = place_room(p, rows->rows * sizeof *op.out);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out, rows->rows * sizeof *op.out);
    return status;
}

static void check_lengths(pair *t, peri_dtype dtype, size_t rows, size_t cols) {
    peri_view in = test_matrix(dtype, rows, cols, rows % 2, 3 * cols);
    float *wanted = test_new(rows, sizeof *wanted), *found = test_new(rows, sizeof *found);
    size_t at = 0;
    place_must(lengths_at(&t->ref, &in, wanted), "ref lengths");
    if (went(t, PERI_OP_LENGTHS, "lengths", lengths_at(&t->tested, &in, found)))
        CHECK(test_same_bits(wanted, found, rows, &at), "lengths of %s, %zu x %zu, row %zu",
              peri_dtype_name(dtype), rows, cols, at);
    clear(t);
    free(in.data);
    free(wanted);
    free(found);
}

static peri_status gather_at(place *p, const peri_view *rows, const int64_t *slots, size_t count,
                             void *result, size_t stride) {
    peri_op_gather op = { PERI_OP_GATHER, place_put_view(p, rows), NULL, *rows };
    op.slots = place_put(p, slots, count * sizeof *slots);
    op.out.rows = count;
    op.out.stride_bytes = stride;
    op.out.data = place_room(p, count * stride);
    op.out.place = p->device->place;
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, count * stride);
    return status;
}

static void check_gather(pair *t, peri_dtype dtype, size_t rows, size_t cols, size_t count,
                         size_t spare) {
    size_t bytes = peri_dtype_bytes(dtype), in_stride = (cols + spare) * bytes;
    size_t stride = (cols + spare) * bytes;
    peri_view in = { test_new(rows, in_stride), rows, cols, in_stride, dtype, PERI_CPU };
    for (size_t i = 0; i < rows * in_stride; i++)
        ((uint8_t *)in.data)[i] = (uint8_t)peri_random_mix(5, i);
    int64_t *slots = test_new(count, sizeof *slots);
    for (size_t i = 0; i < count; i++) slots[i] = peri_random_below(6, i, (uint32_t)rows);
    void *wanted = test_new(count, stride), *found = test_new(count, stride);
    place_must(gather_at(&t->ref, &in, slots, count, wanted, stride), "ref gather");
    if (went(t, PERI_OP_GATHER, "gather", gather_at(&t->tested, &in, slots, count, found, stride)))
        CHECK(memcmp(wanted, found, count * stride) == 0, "gather %zu of %zu x %zu %s, spare %zu",
              count, rows, cols, peri_dtype_name(dtype), spare);
    clear(t);
    free(in.data);
    free(slots);
    free(wanted);
    free(found);
}

static peri_status scatter_at(place *p, const peri_view *rows, const int64_t *from,
                              const int64_t *to, size_t count, size_t room, void *result) {
    size_t stride = rows->stride_bytes;
    peri_op_scatter op = { .kind = PERI_OP_SCATTER, .rows = place_put_view(p, rows), .out = *rows };
    op.from = place_put(p, from, count * sizeof *from);
    op.to = place_put(p, to, count * sizeof *to);
    op.count = count;
    op.out.rows = room;
    op.out.data = place_room(p, room * stride); /* what is not written keeps the pattern */
    op.out.place = p->device->place;
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, room * stride);
    return status;
}

/* Every second row of the room, from the last one down. */
static void check_scatter(pair *t, peri_dtype dtype, size_t rows, size_t cols, size_t count,
                          bool named) {
    peri_view in = test_matrix(dtype, rows, cols, 1, 8);
    size_t room = 2 * count, bytes = room * in.stride_bytes;
    int64_t *from = named ? test_new(count, sizeof *from) : NULL;
    int64_t *to = test_new(count, sizeof *to);
    for (size_t i = 0; i < count; i++) {
        to[i] = (int64_t)(room - 1 - 2 * i);
        if (named) from[i] = peri_random_below(6, i, (uint32_t)rows);
    }
    void *wanted = test_new(1, bytes), *found = test_new(1, bytes);
    place_must(scatter_at(&t->ref, &in, from, to, count, room, wanted), "ref scatter");
    if (went(t, PERI_OP_SCATTER, "scatter",
             scatter_at(&t->tested, &in, from, to, count, room, found)))
        CHECK(memcmp(wanted, found, bytes) == 0, "scatter %zu of %zu x %zu %s%s", count, rows, cols,
              peri_dtype_name(dtype), named ? "" : ", all");
    clear(t);
    free(in.data);
    free(from);
    free(to);
    free(wanted);
    free(found);
}

/* ---- knn ---------------------------------------------------------------------------------- */

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

/* Lists of seven rows, the last one of what is left; each row probes its own and two others, the
 * last of which may repeat one. */
static peri_status join_at(place *p, const knn_case *c, size_t degree, lists *out) {
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

static void check_join(pair *t, const knn_case *c, size_t degree) {
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

static peri_codes_view codes_put(place *p, const peri_codes_view *codes, size_t dim,
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

static peri_status search_at(place *p, const knn_case *c, const uint32_t *graph, size_t degree,
                             const peri_codes_view *codes, int64_t *ids, float *distances,
                             uint32_t *visited) {
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

static void check_search(pair *t, const knn_case *c, const uint32_t *graph, size_t degree,
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

/* ---- the sweep ---------------------------------------------------------------------------- */

static void sweep_rows(pair *t) {
    static const size_t dims[] = { 1, 31, 32, 33, 100, 130, 257 };
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        check_scatter(t, dtypes[a], 50, 33, 20, true);
        check_scatter(t, dtypes[a], 30, 1 + a, 30, false);
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
            check_lengths(t, dtypes[a], 9, dims[d]);
            check_gather(t, dtypes[a], 50, dims[d], 33, d % 3);
            for (size_t b = 0; b < TEST_DTYPES; b++)
                check_convert(t, dtypes[a], dtypes[b], 5, dims[d], d % 2, d % 2 == 0 ? 1 : 300);
        }
    }
    check_scatter(t, PERI_I64, 20, 3, 7, true);
    check_gather(t, PERI_I64, 20, 3, 7, 0);
    check_gather(t, PERI_U32, 20, 4, 70, 0);
    check_convert(t, PERI_I32, PERI_I32, 3, 5, 1, 1);
    check_convert_values(t);
}

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
                for (int coarse = 0; coarse < 2 && peri_metric_takes(metrics[m], dtypes[a]);
                     coarse++)
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

static void sweep_refine(pair *t) {
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++) {
            if (!peri_metric_takes(metrics[m], dtypes[a])) continue;
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
            if (peri_metric_takes(metrics[m], dtypes[a]))
                check_graph(t, dtypes[a], metrics[m], 60 + 10 * m, 5 + 30 * a, 8 + m,
                            (uint32_t)(m % 4));
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
    sweep_pq(&t);
    sweep_code_scan(&t);
    sweep_clusters(&t);
    sweep_codes(&t);
    sweep_refine(&t);
    sweep_graphs(&t);
    place_close(&t.ref);
    place_close(&t.tested);
    peri_context_release(t.context);
    return check_done();
}
