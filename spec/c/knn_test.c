/* knn_test: exact search on the cpu backend against ref, bit for bit: dtypes, metrics, instruction
 * sets, dimensions, numbers of rows and queries, k, strides, filters, threads. */
#include "operate.h"

#include "core/bitset.h"

#define THREADS 4

static peri_context *context;
static peri_device *cpu, *ref;

typedef struct trial {
    peri_op_knn op;
    const char *what;
    int64_t *wanted_ids, *ids;
    float *wanted, *found;
    size_t threads;
} trial;

static void describe(const trial *t, peri_isa isa, char *text, size_t size) {
    const peri_op_knn *op = &t->op;
    snprintf(text, size, "%s, %s %s %s: %zu queries, %zu rows x %zu, k %zu, %zu threads", t->what,
             peri_isa_name(isa), peri_dtype_name(op->rows.dtype), peri_metric_name(op->metric),
             op->queries.rows, op->rows.rows, op->rows.cols, op->k, t->threads);
}

static void with_isa(trial *t, peri_isa isa) {
    char name[200];
    size_t count = t->op.queries.rows * t->op.k, at = 0;
    describe(t, isa, name, sizeof name);
    t->op.ids = t->ids;
    t->op.distances = t->found;
    memset(t->ids, 0x5A, count * sizeof *t->ids);
    memset(t->found, 0x5A, count * sizeof *t->found);
    peri_status status = test_run(cpu, &t->op, t->threads, NULL);
    CHECK(status == PERI_OK, "%s: %s", name, peri_error_detail());
    CHECK(test_same_bits(t->found, t->wanted, count, &at), "%s: value %zu is %a, wanted %a", name,
          at, (double)t->found[at], (double)t->wanted[at]);
    for (at = 0; at < count && t->ids[at] == t->wanted_ids[at];) at++;
    CHECK(at == count, "%s: id %zu is %lld, wanted %lld", name, at, (long long)t->ids[at],
          (long long)t->wanted_ids[at]);
}

/* ref once, then every instruction set, on 1..THREADS threads in turn. */
static void check_trial(trial *t) {
    static size_t turn;
    size_t count = t->op.queries.rows * t->op.k;
    t->wanted_ids = test_new(count, sizeof(int64_t));
    t->ids = test_new(count, sizeof(int64_t));
    t->wanted = test_new(count, sizeof(float));
    t->found = test_new(count, sizeof(float));
    float *lengths = test_lengths(&t->op.rows);
    t->op.lengths = t->op.metric == PERI_COSINE ? lengths : NULL;
    t->op.kind = PERI_OP_KNN;
    t->op.ids = t->wanted_ids;
    t->op.distances = t->wanted;
    CHECK(test_run(ref, &t->op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        t->threads = 1 + turn++ % THREADS;
        with_isa(t, (peri_isa)isa);
    }
    peri_isa_force(PERI_ISA_COUNT);
    free(lengths);
    free(t->wanted_ids);
    free(t->ids);
    free(t->wanted);
    free(t->found);
}

static void check_shape(peri_dtype dtype, peri_metric metric, size_t queries, size_t rows,
                        size_t dim, size_t k, const peri_filter_view *filter, const char *what) {
    trial t = { .what = what };
    t.op.metric = metric;
    t.op.queries = test_matrix(peri_query_dtype(dtype), queries, dim, dim % 2, 100 + dim);
    t.op.rows = test_matrix(dtype, rows, dim, rows % 4, 200 + rows);
    t.op.k = k;
    if (filter != NULL) t.op.filter = *filter;
    check_trial(&t);
    free(t.op.queries.data);
    free(t.op.rows.data);
}

/* ---- shapes ------------------------------------------------------------------------------- */

static void check_dims(peri_dtype dtype, peri_metric metric) {
    static const size_t large[] = { 255, 256, 257, 768, 1023, 1536, 4095 };
    for (size_t dim = 1; dim <= 130; dim++)
        check_shape(dtype, metric, 5 + dim % 9, 65 + dim % 40, dim, 3, NULL, "dims");
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        check_shape(dtype, metric, 13, 70, large[i], 5, NULL, "dims");
}

static void check_counts_of_rows(peri_dtype dtype, peri_metric metric) {
    static const size_t rows[] = { 0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000 };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = rows[i], ks[] = { 1, 2, 10, n == 0 ? 7 : n, n + 1 };
        for (size_t j = 0; j < 5; j++) {
            if (n == 1000 && j >= 3 && (dtype != PERI_F32 || metric != PERI_SQEUCLIDEAN)) continue;
            check_shape(dtype, metric, j == 0 ? 1 : 2 + 5 * j, n, 20 + j, ks[j], NULL, "rows");
        }
    }
}

static void check_batches(peri_dtype dtype, peri_metric metric) {
    for (size_t queries = 0; queries <= 37; queries++)
        check_shape(dtype, metric, queries, 150, 24, 4, NULL, "batch");
}

/* ---- filters ------------------------------------------------------------------------------ */

#define FILTERS 7
#define FILTER_ROWS 1000u

static uint64_t *filter_bits[FILTERS];
static uint32_t *filter_lists[FILTERS];
static size_t filter_passing[FILTERS];

static void make_filters(void) {
    static const uint32_t parts_of_1000[FILTERS] = { 1000, 500, 100, 10, 0, 0, 900 };
    for (size_t f = 0; f < FILTERS; f++) {
        filter_bits[f] = test_new(peri_bitset_words(FILTER_ROWS), sizeof(uint64_t));
        filter_lists[f] = test_new(FILTER_ROWS, sizeof(uint32_t));
        for (size_t i = 0; i < FILTER_ROWS; i++)
            if (peri_random_below(f, i, 1000) < parts_of_1000[f])
                peri_bitset_add(filter_bits[f], i);
        if (f == 5) peri_bitset_add(filter_bits[f], 777); /* one bit; number 4 has none */
        for (uint32_t i = 0; i < FILTER_ROWS; i++)
            if (peri_bitset_test(filter_bits[f], i)) filter_lists[f][filter_passing[f]++] = i;
    }
}

static void check_filtered(peri_dtype dtype, peri_metric metric, size_t queries, size_t k,
                           bool lists) {
    const uint64_t *bits[FILTERS];
    const uint32_t *slots[FILTERS];
    uint32_t *which = test_new(queries, sizeof *which);
    for (size_t f = 0; f < FILTERS; f++) bits[f] = filter_bits[f];
    for (size_t f = 0; f < FILTERS; f++) slots[f] = f == 1 ? NULL : filter_lists[f];
    peri_filter_view view = { .count = 1, .words = peri_bitset_words(FILTER_ROWS) };
    for (size_t f = 0; f < FILTERS; f++) {
        view.bits = bits + f;
        view.lists = lists ? slots + f : NULL;
        view.passing = filter_passing + f;
        check_shape(dtype, metric, queries, FILTER_ROWS, 17, k, &view, "filter");
    }
    view = (peri_filter_view){ .count = FILTERS,
                               .words = peri_bitset_words(FILTER_ROWS),
                               .bits = bits,
                               .lists = lists ? slots : NULL,
                               .passing = filter_passing,
                               .which = which };
    for (size_t i = 0; i < queries; i++) which[i] = peri_random_below(5, i, FILTERS);
    check_shape(dtype, metric, queries, FILTER_ROWS, 17, k, &view, "own filters");
    for (size_t i = 0; i < queries; i++) which[i] = 2;
    check_shape(dtype, metric, queries, FILTER_ROWS, 17, k, &view, "the same of many");
    free(which);
}

static void check_filters(peri_dtype dtype, peri_metric metric) {
    static const size_t queries[] = { 1, 3, 30 };
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 1; k <= 10; k += 9)
            for (int lists = 0; lists < 2; lists++)
                check_filtered(dtype, metric, queries[i], k, lists != 0);
}

/* ---- larger ones, threads ----------------------------------------------------------------- */

/* Enough work for many tasks a worker, on each number of threads. */
static void check_threads(peri_dtype dtype, peri_metric metric) {
    for (size_t i = 0; i < 2; i++) /* two instruction sets have the way that is threaded most */
        check_shape(dtype, metric, 100, 5000, 33 + i, 10 + 40 * i, NULL, "threads");
    check_shape(dtype, metric, 1, 20000, 33, 10, NULL, "threads");
}

/* More queries, or more results, than one batch takes; the longest rows there are. */
static void check_limits(void) {
    check_shape(PERI_F32, PERI_SQEUCLIDEAN, 5000, 100, 8, 2, NULL, "two batches");
    check_shape(PERI_U8, PERI_COSINE, 5000, 100, 9, 2, NULL, "two batches");
    check_shape(PERI_F32, PERI_SQEUCLIDEAN, 130, 50, 8, PERI_K_MAX, NULL, "k at its limit");
    for (int dtype = 0; dtype < TEST_DTYPES; dtype++) {
        peri_metric metric = test_metrics[dtype % TEST_METRICS];
        check_shape((peri_dtype)dtype, metric, 8, 70, PERI_DIM_MAX, 3, NULL, "dim at its limit");
        check_shape((peri_dtype)dtype, PERI_EUCLIDEAN, 9, 200, 31, 4, NULL, "euclidean");
    }
}

/* Whole numbers at the ends of their range and longest rows: the largest sums. */
static void check_extremes(peri_dtype dtype, peri_metric metric) {
    trial t = { .what = "extremes" };
    t.op.metric = metric;
    t.op.k = 3;
    t.op.queries = test_matrix(dtype, 8, PERI_DIM_MAX, 0, 1);
    t.op.rows = test_matrix(dtype, 70, PERI_DIM_MAX, 0, 2);
    for (size_t i = 0; i < 8; i++)
        memset(peri_view_row(&t.op.queries, i), i % 2 == 0 ? 0x80 : 0xFF, PERI_DIM_MAX);
    for (size_t i = 0; i < 70; i++) {
        int byte = i % 3 == 0 ? 0x80 : i % 3 == 1 ? 0x7F : dtype == PERI_U8 ? 0xFF : 0x01;
        memset(peri_view_row(&t.op.rows, i), byte, PERI_DIM_MAX - i);
    }
    check_trial(&t);
    free(t.op.queries.data);
    free(t.op.rows.data);
}

/* Rows and queries of bytes drawn from a few values; every `zeros`-th row and query is 0. */
static void check_bytes(peri_dtype dtype, peri_metric metric, const uint8_t *bytes, uint32_t kinds,
                        size_t dim, size_t k, size_t zeros, const char *what) {
    trial t = { .what = what };
    size_t rows = dim > 1000 ? 90 : 2500;
    t.op.metric = metric;
    t.op.k = k;
    t.op.queries = test_matrix(dtype, 20, dim, 0, 1);
    t.op.rows = test_matrix(dtype, rows, dim, 3, 2);
    for (size_t i = 0; i < 20 + rows; i++) {
        uint8_t *row = i < 20 ? peri_view_row(&t.op.queries, i) : peri_view_row(&t.op.rows, i - 20);
        for (size_t j = 0; j < dim; j++)
            row[j] = i % zeros == 0 ? 0 : bytes[peri_random_below(8, i * dim + j, kinds)];
    }
    check_trial(&t);
    free(t.op.queries.data);
    free(t.op.rows.data);
}

/* The ends of the range in every mixture, at the longest rows; many equal distances; equal rows. */
static void check_all_bytes(peri_dtype dtype, peri_metric metric) {
    static const uint8_t ends[] = { 0x80, 0x7F, 0xFF, 0x00 }, small[] = { 0, 1, 2 }, one[] = { 7 };
    for (uint32_t kinds = 1; kinds <= 4; kinds++)
        check_bytes(dtype, metric, ends, kinds, PERI_DIM_MAX, 9, 1000, "ends of the range");
    check_bytes(dtype, metric, ends, 4, 129, 30, 50, "ends of the range");
    for (size_t k = 1; k <= 400; k = 3 * k + 7) {
        check_bytes(dtype, metric, small, 3, 9, k, 40, "ties");
        check_bytes(dtype, metric, one, 1, 5, k, 1000, "equal rows");
        check_bytes(dtype, metric, one, 1, 66, k, 3, "equal rows and zeros");
    }
}

/* What is kept of a query is reduced many times, or never. */
static void check_many_results(peri_dtype dtype, peri_metric metric) {
    static const size_t ks[] = { 17, 100, 640, 999 };
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
        check_shape(dtype, metric, 15, 3000, 12 + i, ks[i], NULL, "many results");
}

/* ---- control ------------------------------------------------------------------------------ */

typedef struct follower {
    size_t calls, last;
    bool cancel, ordered;
} follower;

static peri_status follow(void *ud, const char *stage, size_t done, size_t total) {
    follower *f = ud;
    f->calls++;
    f->ordered = f->ordered && strcmp(stage, "knn") == 0 && done >= f->last && done <= total;
    f->last = done;
    return f->cancel ? PERI_E_CANCELLED : PERI_OK;
}

static void check_control(bool cancel) {
    follower f = { 0, 0, cancel, true };
    peri_control control = { follow, &f };
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = PERI_SQEUCLIDEAN, .k = 10 };
    op.queries = test_matrix(PERI_F32, 1000, 64, 0, 1);
    op.rows = test_matrix(PERI_F32, 20000, 64, 0, 2);
    op.ids = test_new(10000, sizeof *op.ids);
    op.distances = test_new(10000, sizeof *op.distances);
    peri_isa_force(PERI_ISA_SCALAR); /* slow enough to be asked at least once */
    op.queries.rows = 100;
    peri_status status = test_run(cpu, &op, 2, &control);
    peri_isa_force(PERI_ISA_COUNT);
    CHECK(status == (cancel ? PERI_E_CANCELLED : PERI_OK), "status %d", status);
    CHECK(f.calls > 0 && f.ordered, "%zu calls, in order: %d", f.calls, f.ordered);
    free(op.queries.data);
    free(op.rows.data);
    free(op.ids);
    free(op.distances);
}

static void check_refusals(void) {
    char reason[128] = "";
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = PERI_COSINE, .k = 1 };
    op.queries = (peri_view){ NULL, 1, 4, 16, PERI_F32, PERI_CPU };
    op.rows = (peri_view){ NULL, 1, 4, 16, PERI_F32, PERI_CPU };
    bool taken = cpu->driver->supports(cpu, (peri_op *)&op, reason, sizeof reason);
    CHECK(!taken && strstr(reason, "lengths") != NULL, "cosine without lengths: %s", reason);
    op.metric = PERI_SQEUCLIDEAN;
    CHECK(cpu->driver->supports(cpu, (peri_op *)&op, reason, sizeof reason), "plain: %s", reason);
    op.queries.dtype = PERI_I8;
    taken = cpu->driver->supports(cpu, (peri_op *)&op, reason, sizeof reason);
    CHECK(!taken && strstr(reason, "i8") != NULL, "i8 queries on f32 rows: %s", reason);
    op.queries.dtype = PERI_F32;
    op.rows.rows = (size_t)PERI_SLOTS_MAX + 1;
    taken = cpu->driver->supports(cpu, (peri_op *)&op, reason, sizeof reason);
    CHECK(!taken && strstr(reason, "2147483647") != NULL, "too many rows: %s", reason);
    op.rows.rows = 1;
    op.k = PERI_K_MAX + 1;
    taken = cpu->driver->supports(cpu, (peri_op *)&op, reason, sizeof reason);
    CHECK(!taken && strstr(reason, "16385") != NULL, "k past its limit: %s", reason);
}

int main(void) {
    context = test_context(THREADS);
    cpu = test_device(context, PERI_PLACE_CPU);
    ref = test_device(context, PERI_PLACE_REF);
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++)
        if (!peri_isa_present((peri_isa)isa))
            check_skip(peri_isa_name((peri_isa)isa), "this CPU lacks it");
    make_filters();
    for (int dtype = 0; dtype < TEST_DTYPES; dtype++) {
        for (int m = 0; m < TEST_METRICS; m++) {
            check_dims((peri_dtype)dtype, test_metrics[m]);
            check_counts_of_rows((peri_dtype)dtype, test_metrics[m]);
            check_batches((peri_dtype)dtype, test_metrics[m]);
            check_filters((peri_dtype)dtype, test_metrics[m]);
            check_many_results((peri_dtype)dtype, test_metrics[m]);
            if (dtype % 2 == 0) check_threads((peri_dtype)dtype, test_metrics[m]);
        }
    }
    check_limits();
    for (int dtype = 0; dtype < TEST_DTYPES; dtype++)
        for (int m = 0; m < TEST_OTHER_METRICS; m++)
            if (peri_metric_takes(test_other_metrics[m], (peri_dtype)dtype)) {
                check_counts_of_rows((peri_dtype)dtype, test_other_metrics[m]);
                check_batches((peri_dtype)dtype, test_other_metrics[m]);
                check_filters((peri_dtype)dtype, test_other_metrics[m]);
            }
    for (int m = 0; m < TEST_METRICS; m++) {
        check_extremes(PERI_I8, test_metrics[m]);
        check_extremes(PERI_U8, test_metrics[m]);
        check_all_bytes(PERI_I8, test_metrics[m]);
        check_all_bytes(PERI_U8, test_metrics[m]);
    }
    check_control(false);
    check_control(true);
    check_refusals();
    for (size_t f = 0; f < FILTERS; f++) {
        free(filter_bits[f]);
        free(filter_lists[f]);
    }
    peri_context_release(context);
    return check_done();
}
