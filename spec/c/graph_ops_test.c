/* graph_ops_test: NN-descent, pruning and the walk on the cpu backend against ref, bit for bit:
 * every dtype and metric, random, clustered and repeated rows, awkward sizes, filters,
 * hierarchies, codes in place of the rows, 1..4 threads and every instruction set; and what must
 * hold of their results whatever the backend. */
#include "codes.h"
#include "core/bitset.h"

#define THREADS 4
#define DIM 24

typedef enum data_kind { RANDOM, CLUSTERED, REPEATED, DATA_KINDS } data_kind;
static const char *const data_names[] = { "random", "clustered", "repeated" };

static peri_context *context;
static peri_device *cpu, *ref;
static size_t turn;

/* The next run on the cpu takes another number of threads and another instruction set. */
static size_t following_threads(void) {
    turn++;
    if (!peri_isa_force((peri_isa)(turn % PERI_ISA_COUNT))) peri_isa_force(PERI_ISA_COUNT);
    return 1 + turn % THREADS;
}

static peri_view make_rows(data_kind kind, peri_dtype dtype, size_t n, uint64_t seed) {
    peri_view rows = test_matrix(dtype, n, DIM, n % 3, seed);
    for (size_t i = 0; i < n && kind != RANDOM; i++)
        for (size_t j = 0; j < DIM; j++) {
            uint64_t group = peri_random_below(seed, 1000000 + i, 5);
            float centre = test_uniform(seed + 77, group * DIM + j) * 0.7f;
            float own = kind == CLUSTERED ? test_uniform(seed, i * DIM + j) * 0.05f : 0.0f;
            test_store(dtype, peri_view_row(&rows, i), j, centre + own);
        }
    return rows;
}

/* ---- NN-descent --------------------------------------------------------------------------- */

typedef struct lists {
    uint32_t *slots;
    float *distances;
    uint8_t *fresh;
} lists;

static lists lists_new(size_t n, size_t degree) {
    lists l = { test_new(n * degree, 4), test_new(n * degree, 4), test_new(n * degree, 1) };
    return l;
}

static void lists_free(lists *l) {
    free(l->slots);
    free(l->distances);
    free(l->fresh);
}

static void set_out(peri_op_graph_descent *op, const lists *out, uint64_t *updates) {
    op->slots_next = out->slots;
    op->distances_next = out->distances;
    op->fresh_next = out->fresh;
    op->updates = updates;
}

/* Sorted, no self, no repeats, in range. */
static bool list_is_good(const uint32_t *slots, const float *distances, size_t degree, size_t n,
                         size_t row) {
    for (size_t i = 0; i < degree; i++) {
        if (slots[i] == PERI_SLOT_NONE) return distances[i] == INFINITY;
        if (slots[i] >= n || slots[i] == row) return false;
        for (size_t j = 0; j < i; j++)
            if (slots[j] == slots[i]) return false;
        if (i > 0 && (distances[i] < distances[i - 1] ||
                      (distances[i] == distances[i - 1] && slots[i] < slots[i - 1])))
            return false;
    }
    return true;
}

/* Iterations 0..last on both; the lists of the last one are left in `wanted`. */
static void compare_descent(peri_op_graph_descent *op, uint32_t last, lists *wanted,
                            const char *what) {
    size_t n = op->rows.rows, all = n * op->degree;
    lists before = lists_new(n, op->degree), got = lists_new(n, op->degree);
    *wanted = lists_new(n, op->degree);
    for (op->iteration = 0; op->iteration <= last; op->iteration++) {
        uint64_t updates = 1, wanted_updates = 2;
        op->slots = before.slots;
        op->distances = before.distances;
        op->fresh = before.fresh;
        set_out(op, wanted, &wanted_updates);
        CHECK(test_run(ref, op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
        set_out(op, &got, &updates);
        CHECK(test_run(cpu, op, following_threads(), NULL) == PERI_OK, "%s", peri_error_detail());
        bool same = updates == wanted_updates && memcmp(got.slots, wanted->slots, all * 4) == 0 &&
                    memcmp(got.distances, wanted->distances, all * 4) == 0 &&
                    memcmp(got.fresh, wanted->fresh, all) == 0;
        CHECK(same, "descent differs: %s %s %s n %zu degree %zu iteration %u", what,
              peri_dtype_name(op->rows.dtype), peri_metric_name(op->metric), n, op->degree,
              op->iteration);
        size_t bad = 0;
        for (size_t u = 0; u < n; u++)
            bad += !list_is_good(got.slots + u * op->degree, got.distances + u * op->degree,
                                 op->degree, n, u);
        CHECK(bad == 0, "%zu lists of %s n %zu are not in order", bad, what, n);
        memcpy(before.slots, wanted->slots, all * 4);
        memcpy(before.distances, wanted->distances, all * 4);
        memcpy(before.fresh, wanted->fresh, all);
    }
    lists_free(&before);
    lists_free(&got);
}

/* ---- the join of lists --------------------------------------------------------------------- */

/* Lists of 0 to 2 n / lists rows; rows probe some of them, some twice, some none at all. */
static void make_lists(size_t n, size_t count, size_t probe_count, uint32_t *starts,
                       uint32_t *probes, uint64_t seed) {
    for (size_t l = 1; l < count; l++) {
        size_t wanted = starts[l - 1] + peri_random_below(seed, l, (uint32_t)(2 * n / count + 1));
        starts[l] = (uint32_t)(wanted < n ? wanted : n);
    }
    starts[count] = (uint32_t)n;
    for (size_t i = 0; i < n * probe_count; i++) {
        uint32_t list = peri_random_below(seed, 1000 + i, (uint32_t)count + 1);
        probes[i] = list == count ? PERI_SLOT_NONE : list;
    }
}

static void compare_join(const peri_view *rows, const float *lengths, peri_metric metric,
                         size_t list_count, size_t probe_count, size_t degree, const char *what) {
    size_t n = rows->rows, all = n * degree, bad = 0;
    uint32_t *starts = test_new(list_count + 1, 4), *probes = test_new(n * probe_count, 4);
    uint32_t *wanted = test_new(all, 4), *got = test_new(all, 4);
    float *wanted_values = test_new(all, 4), *got_values = test_new(all, 4);
    make_lists(n, list_count, probe_count, starts, probes, n + degree);
    peri_op_list_join op = { PERI_OP_LIST_JOIN, metric, *rows,       lengths, starts,
                             list_count,        probes, probe_count, degree,  wanted,
                             wanted_values };
    CHECK(test_run(ref, &op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    op.slots = got;
    op.distances = got_values;
    CHECK(test_run(cpu, &op, following_threads(), NULL) == PERI_OK, "%s", peri_error_detail());
    CHECK(memcmp(got, wanted, all * 4) == 0 && memcmp(got_values, wanted_values, all * 4) == 0,
          "join differs: %s %s %s n %zu lists %zu probes %zu degree %zu", what,
          peri_dtype_name(rows->dtype), peri_metric_name(metric), n, list_count, probe_count,
          degree);
    op.distances = NULL;
    memset(got, 0, all * 4);
    CHECK(test_run(cpu, &op, following_threads(), NULL) == PERI_OK, "%s", peri_error_detail());
    CHECK(memcmp(got, wanted, all * 4) == 0, "join without distances differs: %s n %zu", what, n);
    for (size_t u = 0; u < n; u++)
        bad += !list_is_good(got + u * degree, got_values + u * degree, degree, n, u);
    CHECK(bad == 0, "%zu joined lists of %s n %zu are not in order", bad, what, n);
    free(starts);
    free(probes);
    free(wanted);
    free(got);
    free(wanted_values);
    free(got_values);
}

/* Counted by hand on a line: 0 1 3 in list 0, 7 in list 1; row 2 names list 0 twice. */
static void check_join_by_hand(void) {
    static const float line[] = { 0, 1, 3, 7 };
    static const uint32_t starts[] = { 0, 3, 4 }, probes[] = { 0, 1, 0, 1, 0, 0, 1, 1 };
    static const uint32_t wanted[] = { 1, 2, /**/ 0, 2, /**/ 1, 0, /**/ UINT32_MAX, UINT32_MAX };
    uint32_t slots[8];
    float values[8];
    peri_op_list_join op = {
        PERI_OP_LIST_JOIN, PERI_SQEUCLIDEAN, { 0 }, NULL, starts, 2, probes, 2, 2, slots, values
    };
    op.rows = (peri_view){ (void *)(uintptr_t)line, 4, 1, sizeof *line, PERI_F32, PERI_CPU };
    CHECK(test_run(cpu, &op, 0, NULL) == PERI_OK, "%s", peri_error_detail());
    CHECK(memcmp(slots, wanted, sizeof wanted) == 0, "line: %u %u, %u %u, %u %u, %u %u", slots[0],
          slots[1], slots[2], slots[3], slots[4], slots[5], slots[6], slots[7]);
    CHECK(values[1] == 9 && values[7] == INFINITY, "line: %g %g", (double)values[1],
          (double)values[7]);
}

/* ---- pruning ------------------------------------------------------------------------------ */

static uint32_t *compare_prune(peri_op_graph_prune *op, const char *what) {
    uint32_t *wanted = test_new(op->rows * op->degree, 4),
             *got = test_new(op->rows * op->degree, 4);
    op->graph = wanted;
    CHECK(test_run(ref, op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    op->graph = got;
    CHECK(test_run(cpu, op, following_threads(), NULL) == PERI_OK, "%s", peri_error_detail());
    CHECK(memcmp(wanted, got, op->rows * op->degree * 4) == 0,
          "prune differs: %s, %zu rows, %zu to %zu", what, op->rows, op->knn_degree, op->degree);
    free(got);
    return wanted;
}

/* Counted by hand. Detours: of 0 -> 2 one (by 1), of 0 -> 3 two (by 1 and 2), so row 0 keeps 1
 * 2; likewise 1: 2 0, 2: 1 0, 3: 2 1. Half of a row is one edge. Reverse edges of row 2: from 1,
 * which is there, and from 3, which displaces 0. */
static void check_prune_by_hand(void) {
    static const uint32_t knn[] = { 1, 2, 3, /**/ 2, 0, 3, /**/ 1, 0, 3, /**/ 2, 1, 0 };
    static const uint32_t wanted[] = { 1, 2, /**/ 2, 0, /**/ 1, 3, /**/ 2, 1 };
    peri_op_graph_prune op = { PERI_OP_GRAPH_PRUNE, 4, knn, 3, NULL, 2 };
    uint32_t *graph = compare_prune(&op, "four rows");
    CHECK(memcmp(graph, wanted, sizeof wanted) == 0, "four rows: %u %u, %u %u, %u %u, %u %u",
          graph[0], graph[1], graph[2], graph[3], graph[4], graph[5], graph[6], graph[7]);
    free(graph);
}

/* ---- the walk ----------------------------------------------------------------------------- */

typedef struct results {
    int64_t *ids;
    float *distances;
    uint32_t *visited;
} results;

static results results_new(size_t queries, size_t k) {
    results r = { test_new(queries * k, 8), test_new(queries * k, 4), test_new(queries, 4) };
    return r;
}

static void results_free(results *r) {
    free(r->ids);
    free(r->distances);
    free(r->visited);
}

static void compare_search(peri_op_graph_search *op, const char *what) {
    size_t q = op->queries.rows, all = q * op->k;
    results wanted = results_new(q, op->k), got = results_new(q, op->k);
    op->ids = wanted.ids;
    op->distances = wanted.distances;
    op->visited = wanted.visited;
    CHECK(test_run(ref, op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    op->ids = got.ids;
    op->distances = got.distances;
    op->visited = got.visited;
    CHECK(test_run(cpu, op, following_threads(), NULL) == PERI_OK, "%s", peri_error_detail());
    bool same = memcmp(wanted.ids, got.ids, all * 8) == 0 &&
                memcmp(wanted.distances, got.distances, all * 4) == 0 &&
                memcmp(wanted.visited, got.visited, q * 4) == 0;
    CHECK(
        same,
        "search differs: %s %s %s n %zu itopk %zu width %zu seeds %zu k %zu filters %u rerank %zu",
        what, peri_dtype_name(op->rows.dtype), peri_metric_name(op->metric), op->rows.rows,
        op->itopk_size, op->search_width, op->seeds, op->k, op->filter.count, op->rerank);
    size_t outside = 0;
    for (size_t i = 0; i < all && op->filter.count > 0; i++) {
        size_t of = op->filter.which == NULL ? 0 : op->filter.which[i / op->k];
        outside += got.ids[i] >= 0 && !peri_bitset_test(op->filter.bits[of], (size_t)got.ids[i]);
    }
    CHECK(outside == 0, "%zu rows outside the filter were returned", outside);
    results_free(&wanted);
    results_free(&got);
}

/* Two filters, one of which passes next to nothing. */
static void compare_filtered(peri_op_graph_search *op, const char *what) {
    size_t n = op->rows.rows, words = peri_bitset_words(n), passing[2] = { 0, 0 };
    uint64_t *half = test_new(words, 8), *few = test_new(words, 8);
    uint32_t *which = test_new(op->queries.rows, 4);
    for (size_t r = 0; r < n; r++) {
        if (peri_random_below(3, r, 2) == 0) peri_bitset_add(half, r), passing[0]++;
        if (peri_random_below(4, r, 40) == 0) peri_bitset_add(few, r), passing[1]++;
    }
    for (size_t i = 0; i < op->queries.rows; i++) which[i] = i % 3 == 0;
    const uint64_t *bits[] = { half, few };
    op->filter = (peri_filter_view){ 1, words, bits, NULL, passing, NULL };
    compare_search(op, what);
    op->filter = (peri_filter_view){ 2, words, bits, NULL, passing, which };
    compare_search(op, what);
    op->filter = (peri_filter_view){ .count = 0 };
    free(half);
    free(few);
    free(which);
}

/* Three levels of random links; every eighth link row is short. */
static void compare_hierarchy(peri_op_graph_search *op, const char *what) {
    size_t n = op->rows.rows, degree = 5, next = 0;
    uint32_t *first = test_new(n, 4), *links = test_new(3 * n * degree, 4), *level = test_new(n, 4);
    for (size_t r = 0; r < n; r++) {
        level[r] = r == n / 2 ? 3 : peri_random_below(9, r, 4) == 0 ? 1 + (uint32_t)(r % 2) : 0;
        first[r] = level[r] == 0 ? PERI_SLOT_NONE : (uint32_t)next;
        next += level[r];
    }
    memset(links, 0xFF, 3 * n * degree * 4);
    for (size_t r = 0; r < n; r++)
        for (uint32_t l = 1; l <= level[r]; l++)
            for (size_t j = 0, at = 0; j < 4 * degree && at < degree - (r % 8 == 0); j++) {
                uint32_t to = peri_random_below(r * 3 + l, j, (uint32_t)n);
                if (level[to] >= l && to != r) links[(first[r] + l - 1) * degree + at++] = to;
            }
    peri_hierarchy before = op->hierarchy;
    op->hierarchy = (peri_hierarchy){ (uint32_t)(n / 2), 3, degree, first, links };
    compare_search(op, what);
    op->hierarchy = before;
    free(first);
    free(links);
    free(level);
}

/* Every third row, more than a batch of them when there are so many, the entry among them. */
static void compare_landmarks(peri_op_graph_search *op, const char *what) {
    size_t count = (op->rows.rows + 2) / 3;
    uint32_t *landmarks = test_new(count, 4);
    for (size_t i = 0; i < count; i++) landmarks[i] = (uint32_t)(3 * i);
    op->landmarks = landmarks;
    op->landmark_count = count;
    compare_search(op, what);
    op->landmarks = NULL;
    op->landmark_count = 0;
    free(landmarks);
}

static void compare_searches(peri_op_graph_search *op, const char *what) {
    static const struct {
        size_t itopk, width, most, least, seeds, k;
    } plans[] = {
        { 16, 1, 0, 0, 16, 10 },    { 10, 4, 0, 0, 3, 10 }, { 32, 2, 3, 1, 100, 1 },
        { 200, 1, 0, 0, 200, 150 }, { 8, 1, 1, 5, 0, 8 },   { 1, 1, 0, 0, 1, 1 },
    };
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        op->itopk_size = plans[i].itopk;
        op->search_width = plans[i].width;
        op->max_iterations = plans[i].most;
        op->min_iterations = plans[i].least;
        op->seeds = plans[i].seeds;
        op->k = plans[i].k;
        op->hierarchy = (peri_hierarchy){ .entry = i % 2 == 0 ? PERI_SLOT_NONE : 0 };
        size_t middle = (op->k + op->itopk_size) / 2;
        op->rerank = i % 3 == 0 ? op->itopk_size : i % 3 == 1 ? op->k : middle;
        compare_search(op, what);
        compare_landmarks(op, what);
        if (i < 3) compare_filtered(op, what);
        if (i < 2) compare_hierarchy(op, what);
    }
}

/* The same query alone, last in a batch or among others has the same answer. */
static void check_batches(peri_op_graph_search *op) {
    size_t q = op->queries.rows;
    op->k = op->itopk_size = 12;
    op->search_width = 1;
    op->max_iterations = op->min_iterations = 0;
    op->seeds = 12;
    results all = results_new(q, op->k), one = results_new(1, op->k);
    op->ids = all.ids;
    op->distances = all.distances;
    op->visited = NULL;
    CHECK(test_run(cpu, op, 3, NULL) == PERI_OK, "%s", peri_error_detail());
    peri_view queries = op->queries;
    op->queries.rows = 1;
    op->ids = one.ids;
    op->distances = one.distances;
    for (size_t i = 0; i < q; i++) {
        op->queries.data = peri_view_row(&queries, i);
        CHECK(test_run(cpu, op, 1, NULL) == PERI_OK, "%s", peri_error_detail());
        CHECK(memcmp(one.ids, all.ids + i * op->k, op->k * 8) == 0, "query %zu differs alone", i);
    }
    op->queries = queries;
    results_free(&all);
    results_free(&one);
}

/* The same walks by codes of the rows. */
static void compare_coded(peri_op_graph_search *op, const char *what) {
    if (op->rows.dtype != PERI_F32 && op->rows.dtype != PERI_F16) return;
    if (!peri_metric_by_products(op->metric)) return;
    op->codes = test_codes(&op->rows, op->metric, op->lengths);
    compare_searches(op, what);
    op->rerank = 12;
    if (op->rows.rows > 100) check_batches(op);
    test_codes_free(&op->codes);
    op->codes.rows.data = NULL;
}

/* ---- all together ------------------------------------------------------------------------- */

static void check_case(data_kind kind, peri_dtype dtype, peri_metric metric, size_t n,
                       size_t degree) {
    const char *what = data_names[kind];
    uint64_t seed = n * 131 + (uint64_t)kind;
    peri_view rows = make_rows(kind, dtype, n, seed);
    peri_view queries = make_rows(kind, peri_query_dtype(dtype), 9, seed + 1);
    float *lengths = test_lengths(&rows);
    degree = degree < n ? degree : n - 1;
    uint32_t *graph = NULL;
    size_t pruned = (degree + 1) / 2;
    if (degree > 0) {
        lists knn;
        peri_op_graph_descent descent = { .kind = PERI_OP_GRAPH_DESCENT,
                                          .metric = metric,
                                          .rows = rows,
                                          .lengths = lengths,
                                          .degree = degree,
                                          .samples = 1 + (uint32_t)(n % 7),
                                          .seed = seed };
        compare_descent(&descent, 3, &knn, what);
        compare_join(&rows, lengths, metric, 1 + n / 9, 1 + n % (1 + n / 9) % 5, degree, what);
        peri_op_graph_prune prune = { PERI_OP_GRAPH_PRUNE, n, knn.slots, degree, NULL, pruned };
        graph = compare_prune(&prune, what);
        lists_free(&knn);
    } else {
        graph = test_new(n, 4); /* one row without links */
        graph[0] = PERI_SLOT_NONE;
        pruned = 1;
    }
    peri_op_graph_search search = { .kind = PERI_OP_GRAPH_SEARCH,
                                    .metric = metric,
                                    .queries = queries,
                                    .rows = rows,
                                    .lengths = lengths,
                                    .graph = graph,
                                    .degree = pruned,
                                    .rand_xor_mask = 7 };
    compare_searches(&search, what);
    if (n > 100) check_batches(&search);
    compare_coded(&search, what);
    free(graph);
    free(lengths);
    free(queries.data);
    free(rows.data);
}

static void check_every_kind(void) {
    for (int dtype = 0; dtype < TEST_DTYPES; dtype++)
        for (size_t metric = 0; metric < TEST_METRICS; metric++)
            for (int kind = 0; kind < DATA_KINDS; kind++)
                check_case((data_kind)kind, (peri_dtype)dtype, test_metrics[metric], 240, 20);
    for (int dtype = 0; dtype < TEST_DTYPES; dtype++)
        for (int m = 0; m < TEST_OTHER_METRICS; m++)
            if (peri_metric_takes(test_other_metrics[m], (peri_dtype)dtype))
                check_case(dtype % 2 == 0 ? RANDOM : CLUSTERED, (peri_dtype)dtype,
                           test_other_metrics[m], 240, 20);
}

static void check_sizes(void) {
    for (size_t n = 1; n <= 70; n++)
        check_case((data_kind)(n % DATA_KINDS), PERI_F32, PERI_SQEUCLIDEAN, n, 1 + n % 17);
    for (size_t m = 1; m <= 24; m += m < 4 ? 1 : 10) /* n around multiples of the degree */
        for (size_t n = 16 * m - 1; n <= 16 * m + 1; n++)
            check_case(RANDOM, PERI_U8, PERI_SQEUCLIDEAN, n, 16);
    check_case(CLUSTERED, PERI_F32, PERI_COSINE, 700, 140); /* rows of links past one batch */
}

static peri_status stop_now(void *ud, const char *stage, size_t done, size_t total) {
    (void)stage, (void)done, (void)total;
    return *(size_t *)ud += 1, PERI_E_CANCELLED;
}

/* A control that says stop ends each long operation with its status. */
static void check_cancel(void) {
    size_t polls = 0;
    peri_control control = { stop_now, &polls };
    peri_view rows = make_rows(RANDOM, PERI_F32, 20000, 5);
    lists out = lists_new(rows.rows, 96);
    uint64_t updates;
    peri_op_graph_descent op = { .kind = PERI_OP_GRAPH_DESCENT,
                                 .metric = PERI_SQEUCLIDEAN,
                                 .rows = rows,
                                 .degree = 96,
                                 .samples = 8 };
    set_out(&op, &out, &updates);
    CHECK(test_run(cpu, &op, 1, &control) == PERI_E_CANCELLED && polls == 1, "%zu polls", polls);
    lists_free(&out);
    free(rows.data);
}

int main(void) {
    context = test_context(THREADS);
    cpu = test_device(context, PERI_PLACE_CPU);
    ref = test_device(context, PERI_PLACE_REF);
    check_prune_by_hand();
    check_join_by_hand();
    check_sizes();
    check_every_kind();
    check_cancel();
    peri_isa_force(PERI_ISA_COUNT);
    peri_context_release(context);
    return check_done();
}
