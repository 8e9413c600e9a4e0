/* graph_test: what engine/graph promises: every row reachable, equal rows included, at any size;
 * the same graph on any number of threads and on ref; kNN lists by NN-descent near the exact
 * ones; recall of a walk; levels that hold; damage refused; a cancelled build that leaves
 * nothing. */
#include "graph/equal_rows.h"
#include "graph/graph_build.h"
#include "graph/graph_check.h"
#include "graph/hierarchy.h"
#include "graph/knn_graph.h"
#include "operate.h"

#define THREADS 4

static peri_context *context;

static peri_matrix *matrix_new(size_t rows, size_t cols, peri_dtype dtype, peri_place_kind kind) {
    peri_matrix *matrix = NULL;
    peri_place place = { (uint16_t)kind, 0 };
    if (peri_matrix_create(context, rows, cols, dtype, place, &matrix) != PERI_OK) exit(2);
    return matrix;
}

/* Clusters of `spread` around centres in [-1, 1); `repeats` > 0: only so many rows differ. */
typedef struct shape {
    size_t rows, cols, clusters, repeats;
    float spread, scale; /* scale: rows are stretched up to 2^scale, for the inner product */
    peri_dtype dtype;
} shape;

static peri_matrix *make_rows(const shape *s, peri_place_kind kind, uint64_t seed) {
    peri_matrix *matrix = matrix_new(s->rows, s->cols, s->dtype, kind);
    peri_view view = peri_matrix_view(matrix);
    for (size_t r = 0; r < s->rows; r++) {
        size_t i = s->repeats == 0 ? r : peri_random_below(seed + 3, r, (uint32_t)s->repeats);
        size_t c = peri_random_below(seed + 1, i, (uint32_t)s->clusters);
        float stretch = exp2f(s->scale * fabsf(test_uniform(seed + 4, i)));
        for (size_t j = 0; j < s->cols; j++) {
            float centre = s->clusters == 1 ? 0 : test_uniform(seed + 2, c * s->cols + j);
            float own = test_uniform(seed, i * s->cols + j) * s->spread;
            float value = (centre + own) * stretch;
            if (s->dtype != PERI_F32) value = fmaxf(-0.99f, fminf(0.99f, value / 2));
            test_store(s->dtype, peri_view_row(&view, r), j, value);
        }
    }
    return matrix;
}

static peri_matrix *lengths_of(peri_matrix *rows) {
    peri_view view = peri_matrix_view(rows);
    peri_matrix *lengths = matrix_new(view.rows, 1, PERI_F32, PERI_PLACE_CPU);
    for (size_t r = 0; r < view.rows; r++)
        ((float *)peri_matrix_view(lengths).data)[r] = peri_canonical_length(
            view.dtype, peri_view_row(&view, r), (uint32_t)view.cols);
    return lengths;
}

static peri_graph_build build_of(peri_matrix *rows, peri_metric metric, size_t degree,
                                 peri_graph_algo algo) {
    peri_graph_build build = { .rows = rows,
                               .metric = metric,
                               .graph_degree = degree,
                               .intermediate_graph_degree = 2 * degree,
                               .algo = algo,
                               .nn_descent_niter = 20,
                               .termination_threshold = 1e-4,
                               .guarantee_connectivity = true,
                               .list_rows = 12, /* so that few rows make many lists */
                               .list_probes = 5,
                               .seed = 137 };
    if (metric == PERI_COSINE) build.lengths = lengths_of(rows);
    return build;
}

/* Builds, checks the graph and that all is reached; the caller releases. */
static peri_matrix *make_graph(peri_graph_build *build, uint32_t *entry, const char *what) {
    peri_matrix *graph = NULL;
    size_t n = peri_matrix_view(build->rows).rows, reached = 0;
    peri_status status = peri_graph_make(build, &graph, entry);
    if (!CHECK(status == PERI_OK, "%s n %zu: %s", what, n, peri_error_detail())) exit(1);
    CHECK(peri_graph_check(graph, n) == PERI_OK, "%s: %s", what, peri_error_detail());
    CHECK(peri_matrix_view(graph).cols == build->graph_degree, "%s: degree", what);
    CHECK(peri_graph_reachable(graph, *entry, &reached) == PERI_OK && reached == n,
          "%s n %zu degree %zu: %zu rows reached", what, n, build->graph_degree, reached);
    return graph;
}

static void check_reached(const shape *s, peri_metric metric, size_t degree, peri_graph_algo algo,
                          const char *what) {
    peri_matrix *rows = make_rows(s, PERI_PLACE_CPU, s->rows + degree);
    peri_graph_build build = build_of(rows, metric, degree, algo);
    uint32_t entry;
    peri_matrix_release(make_graph(&build, &entry, what));
    peri_matrix_release(build.lengths);
    peri_matrix_release(rows);
}

/* ---- sizes and kinds of data -------------------------------------------------------------- */

static void check_sizes(void) {
    static const size_t degrees[] = { 1, 2, 3, 4, 5, 16 };
    for (size_t n = 1; n <= 70; n++)
        for (size_t d = 0; d < sizeof degrees / sizeof *degrees; d++) {
            peri_graph_algo algo = (peri_graph_algo)(1 + (n + d) % 3);
            shape plain = { n, 8, 1, 0, 1, 0, PERI_F32 }, same = { n, 8, 1, 1, 1, 0, PERI_F32 };
            shape few = { n, 8, 1, 3, 1, 0, PERI_U8 };
            check_reached(&plain, PERI_SQEUCLIDEAN, degrees[d], algo, "random");
            check_reached(&same, PERI_SQEUCLIDEAN, degrees[d], algo, "all equal");
            check_reached(&few, PERI_SQEUCLIDEAN, degrees[d], algo, "three rows repeated");
        }
    for (size_t m = 1; m <= 30; m += 7)
        for (size_t n = 16 * m - 1; n <= 16 * m + 1; n++) {
            shape plain = { n, 8, 1, 0, 1, 0, PERI_F32 };
            check_reached(&plain, PERI_SQEUCLIDEAN, 16, PERI_GRAPH_NN_DESCENT, "multiple");
        }
}

static void check_kinds(void) {
    for (size_t metric = 0; metric < TEST_METRICS; metric++)
        for (int dtype = 0; dtype < TEST_DTYPES; dtype++) {
            shape clusters = { 900, 12, 30, 0, 0.02f, 0, (peri_dtype)dtype };
            shape repeated = { 900, 12, 9, 40, 0.2f, 0, (peri_dtype)dtype };
            shape stretched = { 900, 12, 1, 0, 1, 6, (peri_dtype)dtype };
            peri_metric m = test_metrics[metric];
            check_reached(&clusters, m, 8, PERI_GRAPH_EXACT, "apart");
            check_reached(&clusters, m, 8, PERI_GRAPH_IVF_FLAT, "apart, by lists");
            check_reached(&repeated, m, 8, PERI_GRAPH_IVF_FLAT, "repeated, by lists");
            check_reached(&stretched, m, 8, PERI_GRAPH_IVF_FLAT, "stretched, by lists");
            check_reached(&repeated, m, 8, PERI_GRAPH_NN_DESCENT, "repeated");
            check_reached(&stretched, m, 8, PERI_GRAPH_EXACT, "stretched");
            check_reached(&stretched, m, 2, PERI_GRAPH_EXACT, "stretched");
        }
    shape hubs = { 3000, 16, 1, 0, 1, 12, PERI_F32 };
    check_reached(&hubs, PERI_INNER_PRODUCT, 16, PERI_GRAPH_EXACT, "a few rows near to all");
}

static void check_empty(void) {
    peri_matrix *rows = matrix_new(0, 4, PERI_F32, PERI_PLACE_CPU), *graph = NULL;
    peri_graph_build build = build_of(rows, PERI_SQEUCLIDEAN, 8, PERI_GRAPH_AUTO);
    uint32_t entry = 0;
    CHECK(peri_graph_make(&build, &graph, &entry) == PERI_OK && entry == PERI_SLOT_NONE, "%s",
          peri_error_detail());
    CHECK(graph != NULL && peri_matrix_view(graph).cols == 8, "no rows");
    peri_matrix_release(graph);
    peri_matrix_release(rows);
}

static void check_equal_rows(void) {
    shape s = { 1000, 7, 1, 37, 1, 0, PERI_I8 };
    peri_matrix *rows = make_rows(&s, PERI_PLACE_CPU, 5);
    peri_view view = peri_matrix_view(rows);
    peri_equal_rows equal;
    CHECK(peri_equal_rows_find(context, &view, 0, NULL, &equal) == PERI_OK, "equal rows");
    CHECK(equal.groups == 37, "%zu groups", equal.groups);
    size_t bad = 0;
    for (size_t g = 0; g < equal.groups; g++)
        for (size_t i = equal.starts[g]; i < equal.starts[g + 1]; i++) {
            const uint32_t *order = equal.order;
            bad += i > equal.starts[g] && order[i] <= order[i - 1];
            bad += g > 0 && order[equal.starts[g]] <= order[equal.starts[g - 1]];
            bad += memcmp(peri_view_row(&view, order[i]),
                          peri_view_row(&view, order[equal.starts[g]]), 7) != 0;
        }
    CHECK(bad == 0 && equal.starts[equal.groups] == 1000, "%zu rows in the wrong group", bad);
    peri_equal_rows_reset(&equal);
    peri_matrix_release(rows);
}

/* ---- the same graph ----------------------------------------------------------------------- */

static bool same_matrix(peri_matrix *a, peri_matrix *b) {
    peri_view x = peri_matrix_view(a), y = peri_matrix_view(b);
    return x.rows == y.rows && x.cols == y.cols &&
           memcmp(x.data, y.data, x.rows * x.stride_bytes) == 0;
}

static void check_same(peri_graph_algo algo) {
    shape s = { 1500, 10, 20, 1400, 0.05f, 0, PERI_F32 };
    peri_matrix *rows = make_rows(&s, PERI_PLACE_CPU, 9), *wanted = NULL;
    peri_graph_build build = build_of(rows, PERI_SQEUCLIDEAN, 10, algo);
    uint32_t entry, wanted_entry;
    build.threads = 1;
    wanted = make_graph(&build, &wanted_entry, "one thread");
    for (build.threads = 2; build.threads <= THREADS; build.threads++) {
        peri_matrix *graph = make_graph(&build, &entry, "threads");
        CHECK(same_matrix(graph, wanted) && entry == wanted_entry, "%zu threads differ",
              build.threads);
        peri_matrix_release(graph);
    }
    peri_matrix_release(rows);
    build.rows = make_rows(&s, PERI_PLACE_REF, 9);
    peri_matrix *graph = make_graph(&build, &entry, "ref");
    CHECK(same_matrix(graph, wanted) && entry == wanted_entry, "ref makes another graph");
    peri_matrix_release(graph);
    peri_matrix_release(build.rows);
    peri_matrix_release(wanted);
}

/* ---- quality ------------------------------------------------------------------------------ */

static double list_recall(peri_matrix *got, peri_matrix *wanted) {
    peri_view a = peri_matrix_view(got), b = peri_matrix_view(wanted);
    size_t hits = 0;
    for (size_t r = 0; r < a.rows; r++) {
        const uint32_t *x = peri_view_row(&a, r), *y = peri_view_row(&b, r);
        for (size_t i = 0; i < a.cols; i++)
            for (size_t j = 0; j < a.cols; j++) hits += x[i] == y[j];
    }
    return (double)hits / (double)(a.rows * a.cols);
}

/* n a multiple of the degree is where lists drawn at a stride fall into short cycles. */
static void check_descent_recall(size_t n, size_t degree) {
    shape s = { n, 32, 25, 0, 0.3f, 0, PERI_F32 };
    peri_matrix *rows = make_rows(&s, PERI_PLACE_CPU, n), *exact = NULL, *lists = NULL;
    peri_graph_build build = build_of(rows, PERI_SQEUCLIDEAN, degree, PERI_GRAPH_EXACT);
    CHECK(peri_knn_graph_make(&build, NULL, degree, &exact) == PERI_OK, "%s", peri_error_detail());
    build.algo = PERI_GRAPH_NN_DESCENT;
    CHECK(peri_knn_graph_make(&build, NULL, degree, &lists) == PERI_OK, "%s", peri_error_detail());
    double recall = list_recall(lists, exact);
    CHECK(recall >= 0.95, "n %zu degree %zu: recall of the lists is %.4f", n, degree, recall);
    peri_matrix_release(exact);
    peri_matrix_release(lists);
    peri_matrix_release(rows);
}

/* Lists of a join against the exact ones of the same rows: more probes find more, all find all. */
static void check_joined_recall(void) {
    static const struct {
        size_t probes;
        double least;
    } cases[] = { { 4, 0.5 }, { 16, 0.9 }, { SIZE_MAX, 1.0 } };
    enum { DEGREE = 20, ROWS = 3000 };
    shape s = { ROWS, 24, 40, 0, 0.3f, 0, PERI_F32 };
    peri_matrix *rows = make_rows(&s, PERI_PLACE_CPU, 9), *sorted, *exact, *joined;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        peri_graph_build build = build_of(rows, PERI_SQEUCLIDEAN, DEGREE, PERI_GRAPH_IVF_FLAT);
        peri_cluster_lists lists;
        build.list_rows = 60;
        build.list_probes = cases[i].probes;
        CHECK(peri_cluster_lists_make(&build, &lists) == PERI_OK, "%s", peri_error_detail());
        CHECK(peri_matrix_gather(rows, lists.order, ROWS, &sorted) == PERI_OK, "order");
        build.rows = sorted;
        CHECK(peri_knn_graph_make(&build, &lists, DEGREE, &joined) == PERI_OK, "%s",
              peri_error_detail());
        build.algo = PERI_GRAPH_EXACT;
        CHECK(peri_knn_graph_make(&build, NULL, DEGREE, &exact) == PERI_OK, "%s",
              peri_error_detail());
        double recall = list_recall(joined, exact);
        CHECK(recall >= cases[i].least, "%zu probes: recall of the lists is %.4f", cases[i].probes,
              recall);
        peri_matrix_release(joined);
        peri_matrix_release(exact);
        peri_matrix_release(sorted);
        peri_cluster_lists_reset(&lists);
    }
    peri_matrix_release(rows);
}

/* Recall@10 of the walk against the exact operation; ids differ by ties only if values do. */
static double walk_recall(peri_matrix *rows, peri_matrix *queries, peri_op_graph_search *op) {
    enum { K = 10 };
    peri_device *device = test_device(context, PERI_PLACE_CPU);
    size_t q = peri_matrix_view(queries).rows, hits = 0;
    int64_t *ids = test_new(q * K, 8);
    float *wanted = test_new(q * K, 4), *got = test_new(q * K, 4);
    peri_op_knn knn = { .kind = PERI_OP_KNN,
                        .metric = op->metric,
                        .rows = peri_matrix_view(rows),
                        .queries = peri_matrix_view(queries),
                        .k = K,
                        .ids = ids,
                        .distances = wanted };
    CHECK(test_run(device, &knn, 0, NULL) == PERI_OK, "%s", peri_error_detail());
    op->kind = PERI_OP_GRAPH_SEARCH;
    op->rows = knn.rows;
    op->queries = knn.queries;
    op->search_width = 1;
    op->k = K;
    op->ids = ids;
    op->distances = got;
    CHECK(test_run(device, op, 0, NULL) == PERI_OK, "%s", peri_error_detail());
    for (size_t i = 0; i < q; i++)
        for (size_t j = 0; j < K; j++) hits += got[i * K + j] <= wanted[i * K + K - 1];
    free(ids);
    free(wanted);
    free(got);
    return (double)hits / (double)(q * K);
}

static void check_walk_recall(peri_graph_algo algo, size_t clusters, float spread) {
    shape s = { 5000, 32, clusters, 0, spread, 0, PERI_F32 }, some = s;
    some.rows = 300;
    peri_matrix *rows = make_rows(&s, PERI_PLACE_CPU, 1);
    /* The same seed gives the same centres; the first rows of the base are not the queries. */
    peri_matrix *queries = make_rows(&some, PERI_PLACE_CPU, 1);
    peri_view view = peri_matrix_view(queries);
    for (size_t i = 0; i < view.rows * view.cols; i++)
        ((float *)view.data)[i] += 0.3f * spread * test_uniform(99, i);
    peri_graph_build build = build_of(rows, PERI_SQEUCLIDEAN, 64, algo);
    uint32_t entry;
    peri_matrix *graph = make_graph(&build, &entry, "clustered");
    peri_op_graph_search op = { .metric = PERI_SQEUCLIDEAN,
                                .itopk_size = 64,
                                .seeds = 64,
                                .graph = peri_matrix_view(graph).data,
                                .degree = 64,
                                .rand_xor_mask = 0x128394,
                                .hierarchy = { .entry = entry } };
    double recall = walk_recall(rows, queries, &op);
    CHECK(recall >= 0.97, "%zu clusters of %.2f: recall %.4f", clusters, (double)spread, recall);
    peri_matrix_release(graph);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
}

/* ---- levels ------------------------------------------------------------------------------- */

static bool levels_ok(peri_matrix *first, peri_matrix *links, size_t n, uint32_t entry,
                      uint32_t level_max) {
    return peri_hierarchy_check(first, links, n, entry, level_max) == PERI_OK;
}

/* One field after another is made wrong and must be refused. */
static void damage_levels(peri_matrix *first, peri_matrix *links, size_t n, uint32_t entry,
                          uint32_t top) {
    uint32_t *f = peri_matrix_view(first).data, *l = peri_matrix_view(links).data, kept;
    size_t with = 0, without = 0;
    while (f[with] == PERI_SLOT_NONE) with++;
    while (f[without] != PERI_SLOT_NONE) without++;
    CHECK(levels_ok(first, links, n, entry, top), "%s", peri_error_detail());
    CHECK(!levels_ok(first, links, n + 1, entry, top), "rows + 1");
    CHECK(!levels_ok(first, links, n, (uint32_t)without, top), "entry below");
    CHECK(!levels_ok(first, links, n, (uint32_t)n, top), "entry past the rows");
    CHECK(!levels_ok(first, links, n, entry, top - 1), "fewer levels");
    CHECK(!levels_ok(NULL, links, n, entry, top) && !levels_ok(first, NULL, n, entry, top), "NULL");
    static const uint32_t wrong[] = { 0x7FFFFFFF, 0xFFFFFFFE, 1 };
    for (size_t i = 0; i < 3; i++) {
        kept = f[with], f[with] = wrong[i];
        CHECK(!levels_ok(first, links, n, entry, top), "first %u", wrong[i]);
        f[with] = kept;
    }
    uint32_t links_wrong[] = { (uint32_t)n, (uint32_t)without, (uint32_t)with, 0xFFFFFFFE };
    for (size_t i = 0; i < 4; i++) {
        kept = l[f[with]], l[f[with] * peri_matrix_view(links).cols] = links_wrong[i];
        CHECK(!levels_ok(first, links, n, entry, top), "link %u", links_wrong[i]);
        l[f[with] * peri_matrix_view(links).cols] = kept;
    }
}

static void check_levels(void) {
    shape s = { 4000, 16, 40, 3500, 0.1f, 0, PERI_F32 }, few = { 3, 4, 1, 0, 1, 0, PERI_F32 };
    peri_matrix *rows = make_rows(&s, PERI_PLACE_CPU, 2), *first, *links;
    uint32_t entry, top;
    peri_hierarchy_build build = { .rows = rows, .metric = PERI_SQEUCLIDEAN, .m = 8, .seed = 137 };
    CHECK(peri_hierarchy_make(&build, &first, &links, &entry, &top) == PERI_OK, "%s",
          peri_error_detail());
    size_t upper = 0;
    for (size_t r = 0; r < 4000; r++)
        upper += ((uint32_t *)peri_matrix_view(first).data)[r] != PERI_SLOT_NONE;
    CHECK(top >= 2 && upper > 200 && upper < 650, "%u levels, %zu rows above the base", top, upper);
    damage_levels(first, links, 4000, entry, top);
    peri_matrix_release(first);
    peri_matrix_release(links);
    peri_matrix_release(rows);
    build.rows = make_rows(&few, PERI_PLACE_CPU, 2);
    build.m = 64;
    CHECK(peri_hierarchy_make(&build, &first, &links, &entry, &top) == PERI_OK && top == 0 &&
              first == NULL && links == NULL,
          "three rows have levels");
    peri_matrix_release(build.rows);
}

/* ---- damage and cancelling ---------------------------------------------------------------- */

static void check_damage(void) {
    peri_matrix *graph = matrix_new(6, 3, PERI_U32, PERI_PLACE_CPU);
    uint32_t *links = peri_matrix_view(graph).data;
    for (uint32_t i = 0; i < 18; i++) links[i] = (i / 3 + 1 + i % 3) % 6;
    CHECK(peri_graph_check(graph, 6) == PERI_OK, "%s", peri_error_detail());
    static const uint32_t wrong[] = { 6, 0xFFFFFFFE, 3 /* itself */, 5 /* twice */,
                                      PERI_SLOT_NONE };
    for (size_t i = 0; i < 5; i++) {
        uint32_t kept = links[9];
        links[9] = wrong[i];
        CHECK(peri_graph_check(graph, 6) == PERI_E_CORRUPT, "link %u passed", wrong[i]);
        links[9] = kept;
    }
    CHECK(peri_graph_check(graph, 5) == PERI_E_CORRUPT, "rows");
    CHECK(peri_graph_check(NULL, 5) == PERI_E_CORRUPT, "NULL");
    peri_matrix_release(graph);
}

typedef struct countdown {
    size_t left, polls;
} countdown;

static peri_status count_down(void *ud, const char *stage, size_t done, size_t total) {
    countdown *c = ud;
    c->polls++;
    CHECK(stage != NULL && total > 0 && done <= total, "progress %zu of %zu", done, total);
    return c->left-- == 0 ? PERI_E_CANCELLED : PERI_OK;
}

static void check_cancel(peri_graph_algo algo) {
    shape s = { 30000, 16, 20, 0, 0.05f, 0, PERI_F32 };
    peri_matrix *rows = make_rows(&s, PERI_PLACE_CPU, 4), *graph;
    uint32_t entry;
    peri_context_stats before, after;
    for (size_t left = 0; left < 12; left += 3) {
        peri_graph_build build = build_of(rows, PERI_SQEUCLIDEAN, 16, algo);
        countdown count = { left, 0 };
        peri_control control = { count_down, &count };
        build.control = &control;
        peri_matrix *some = matrix_new(1, 1, PERI_F32, PERI_PLACE_CPU);
        peri_context_stat(context, &before);
        peri_status status = peri_graph_make(&build, &graph, &entry);
        peri_context_stat(context, &after);
        /* A fast machine may be done before the later polls. */
        bool finished = status == PERI_OK && left > 0 && count.polls <= left;
        if (finished) peri_matrix_release(graph);
        CHECK(finished || (status == PERI_E_CANCELLED && graph == NULL && count.polls > left),
              "poll %zu of %zu: status %d", left, count.polls, status);
        /* The arenas of lanes stay, at most two blocks each. */
        CHECK(after.blocks <= before.blocks + 8, "%zu blocks became %zu", before.blocks,
              after.blocks);
        peri_matrix_release(some);
    }
    peri_matrix_release(rows);
}

int main(void) {
    context = test_context(THREADS);
    check_equal_rows();
    check_empty();
    check_sizes();
    check_kinds();
    check_same(PERI_GRAPH_EXACT);
    check_same(PERI_GRAPH_NN_DESCENT);
    check_same(PERI_GRAPH_IVF_FLAT);
    check_joined_recall();
    check_descent_recall(5000, 64);
    check_descent_recall(64 * 40, 64);
    check_descent_recall(64 * 40 + 1, 64);
    check_walk_recall(PERI_GRAPH_EXACT, 25, 0.3f);
    check_walk_recall(PERI_GRAPH_NN_DESCENT, 25, 0.3f);
    check_walk_recall(PERI_GRAPH_IVF_FLAT, 25, 0.3f);
    check_walk_recall(PERI_GRAPH_IVF_FLAT, 25, 0.03f);
    check_walk_recall(PERI_GRAPH_EXACT, 25, 0.03f); /* clusters far apart: pieces to be joined */
    check_levels();
    check_damage();
    check_cancel(PERI_GRAPH_EXACT);
    check_cancel(PERI_GRAPH_NN_DESCENT);
    check_cancel(PERI_GRAPH_IVF_FLAT);
    peri_context_release(context);
    return check_done();
}
