/* device: times operations at a place, with the data there, and judges what they answer.
 *
 *     device place=cuda:0 folder=DIR [plugin=DIR] [only=WORD] [rounds=5] [seconds=0.05]
 *
 * DIR holds base-SET.fbin and queries-SET.fbin, written by synthetic, and truth-SET-DTYPE.i64, the
 * exact neighbours of the first queries by another program. Each case prints one line of key=value
 * words between tabs. A time is the median of `rounds`; one round enqueues a run again and again
 * until `seconds` have passed, waits, and divides: what a stream of work costs on the device,
 * without the way there and back. Trainings and graphs are timed whole, from call to answer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/context.h"
#include "core/matrix.h"
#include "core/random.h"
#include "perigee_backend.h"
#include "quant/kmeans.h"

#define TRUTH_K 10
#define OWN_FILTERS 100 /* that differ, where each query names its own */

typedef struct bench {
    const char *place, *folder, *only;
    int rounds;
    double seconds;
    peri_context *context;
    peri_device *device;
    peri_stream *stream;
} bench;

static void must(peri_status status, const char *what) {
    if (status == PERI_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, peri_status_code(status), peri_error_detail());
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool wanted(const bench *b, const char *name) {
    return b->only == NULL || strstr(name, b->only) != NULL;
}

/* ---- data ----------------------------------------------------------------------------------- */

/* `what`-`set`.fbin at the place, in a dtype; i8 and u8 are scaled to their range, alike for rows
 * and queries. */
static peri_matrix *load(const bench *b, const char *what, const char *set, peri_dtype dtype) {
    char path[4096];
    peri_matrix *host, *placed;
    peri_place at;
    peri_load_options options = PERI_LOAD_OPTIONS_INIT;
    snprintf(path, sizeof path, "%s/%s-%s.fbin", b->folder, what, set);
    must(peri_matrix_load(b->context, path, &options, &host), path);
    if (dtype == PERI_I8) {
        peri_view view = peri_matrix_view(host);
        peri_matrix *scaled;
        must(peri_matrix_create(b->context, view.rows, view.cols, PERI_F32, PERI_CPU, &scaled),
             "create");
        float *to = peri_matrix_view(scaled).data;
        for (size_t i = 0; i < view.rows; i++) {
            const float *from = (const float *)(const void *)((const char *)view.data +
                                                              i * view.stride_bytes);
            for (size_t j = 0; j < view.cols; j++) to[i * view.cols + j] = from[j] * 40.0f;
        }
        peri_matrix_release(host);
        host = scaled;
    }
    if (dtype != PERI_F32) {
        peri_matrix *converted;
        must(peri_matrix_convert(host, dtype, &converted), "convert");
        peri_matrix_release(host);
        host = converted;
    }
    must(peri_place_parse(b->place, &at), "place");
    must(peri_matrix_move(host, at, &placed), "move");
    peri_matrix_release(host);
    return placed;
}

static peri_mem *room(const bench *b, size_t bytes, void *out) {
    peri_mem *mem;
    must(b->device->driver->mem_acquire(b->device, bytes == 0 ? 64 : bytes, PERI_MEMORY_DEVICE,
                                        PERI_USE_OTHER, &mem),
         "memory");
    memcpy(out, &mem->data, sizeof mem->data);
    return mem;
}

static peri_mem *put(const bench *b, const void *host, size_t bytes, void *out) {
    peri_mem *mem = room(b, bytes, out);
    must(b->device->driver->copy(b->stream, mem->data, bytes, b->device, host, bytes, NULL, 1,
                                 bytes),
         "copy");
    must(b->device->driver->stream_wait(b->stream, NULL), "wait");
    return mem;
}

/* ---- timing --------------------------------------------------------------------------------- */

#define TURNS_MAX 2

/* One of the operations that are timed in turns. */
typedef struct timed {
    const peri_op *op;
    peri_mem *mem;
    void *scratch;
    size_t bytes;
    int repeat;
    double times[64];
} timed;

static double run_times(const bench *b, const timed *t, int count) {
    const peri_driver *driver = b->device->driver;
    double began = now();
    for (int i = 0; i < count; i++)
        must(driver->run(b->stream, t->op, t->scratch, t->bytes), "run");
    must(driver->stream_wait(b->stream, NULL), "wait");
    return (now() - began) / count;
}

static bool begin_timed(const bench *b, const peri_op *op, timed *t) {
    const peri_driver *driver = b->device->driver;
    char reason[256] = "";
    t->op = op;
    t->mem = NULL;
    if (!driver->supports(b->device, op, reason, sizeof reason)) {
        printf("declined=%s\n", reason);
        return false;
    }
    t->bytes = driver->scratch_bytes(b->device, op);
    t->mem = room(b, t->bytes, &t->scratch);
    double once = (run_times(b, t, 1) + run_times(b, t, 1)) / 2;
    t->repeat = (int)fmin(fmax(b->seconds / once, 1), 2000);
    return true;
}

/* Seconds of one run of each, in turns, since a chip that has been busy for a while is slower; or
 * negative numbers when the place declines one. */
static void time_turns(const bench *b, const peri_op *const *ops, size_t count, double *seconds) {
    timed all[TURNS_MAX];
    bool taken = true;
    for (size_t i = 0; i < count; i++) taken = begin_timed(b, ops[i], all + i) && taken;
    for (int round = 0; taken && round < b->rounds; round++)
        for (size_t i = 0; i < count; i++)
            all[i].times[round] = run_times(b, all + i, all[i].repeat);
    for (size_t i = 0; i < count; i++) {
        b->device->driver->mem_release(all[i].mem);
        seconds[i] = -1;
        if (!taken) continue;
        qsort(all[i].times, (size_t)b->rounds, sizeof all[i].times[0], by_value);
        seconds[i] = all[i].times[b->rounds / 2];
    }
}

static double time_op(const bench *b, const peri_op *op) {
    double seconds;
    time_turns(b, &op, 1, &seconds);
    return seconds;
}

/* ---- exact search --------------------------------------------------------------------------- */

typedef struct knn_case {
    const char *name, *set;
    peri_dtype dtype;
    size_t queries, k;
    double passing; /* share of the rows; 1: no filter */
    bool own;       /* each query names its filter */
} knn_case;

static double recall(const bench *b, const knn_case *c, const int64_t *ids, size_t queries) {
    char path[4096];
    int64_t truth[TRUTH_K];
    size_t right = 0, judged = 0;
    snprintf(path, sizeof path, "%s/truth-%s-%s.i64", b->folder, c->set, peri_dtype_name(c->dtype));
    FILE *file = fopen(path, "rb");
    if (file == NULL || c->passing < 1 || c->k < TRUTH_K) {
        if (file != NULL) fclose(file);
        return -1;
    }
    while (judged < queries && fread(truth, sizeof truth, 1, file) == 1) {
        for (size_t i = 0; i < TRUTH_K; i++)
            for (size_t j = 0; j < TRUTH_K; j++) right += truth[i] == ids[judged * c->k + j];
        judged++;
    }
    fclose(file);
    return judged == 0 ? -1 : (double)right / (double)(judged * TRUTH_K);
}

/* Bitsets of rows drawn at random: `count` of them, which the queries take in turn. */
static peri_mem *make_filters(const bench *b, size_t count, size_t queries, size_t rows,
                              double share, peri_filter_view *out, peri_mem **tables) {
    size_t words = (rows + 63) / 64;
    uint64_t *bits = calloc(count * words, sizeof *bits);
    const uint64_t **names = malloc(count * sizeof *names);
    size_t *passing = calloc(count, sizeof *passing);
    uint32_t *which = malloc(queries * sizeof *which);
    for (size_t f = 0; f < count; f++)
        for (size_t i = 0; i < rows; i++)
            if ((double)(peri_random_mix(f + 9, i) >> 40) < share * 16777216.0) {
                bits[f * words + i / 64] |= UINT64_C(1) << i % 64;
                passing[f]++;
            }
    uint64_t *placed;
    peri_mem *mem = put(b, bits, count * words * sizeof *bits, &placed);
    for (size_t f = 0; f < count; f++) names[f] = placed + f * words;
    *out = (peri_filter_view){ .count = (uint32_t)count, .words = words };
    tables[0] = put(b, names, count * sizeof *names, &out->bits);
    for (size_t i = 0; i < queries; i++) which[i] = (uint32_t)(i % count);
    tables[1] = NULL;
    if (count > 1) tables[1] = put(b, which, queries * sizeof *which, &out->which);
    must(b->device->driver->mem_acquire(b->device, count * sizeof *passing, PERI_MEMORY_MAPPED,
                                        PERI_USE_OTHER, &tables[2]),
         "memory");
    memcpy(tables[2]->data, passing, count * sizeof *passing);
    out->passing = tables[2]->data; /* host and device read it */
    free(passing);
    free(bits);
    free(names);
    free(which);
    return mem;
}

static void run_knn(const bench *b, const knn_case *c) {
    if (!wanted(b, c->name)) return;
    peri_matrix *rows = load(b, "base", c->set, c->dtype);
    peri_dtype dtype = c->dtype == PERI_F16 ? PERI_F32 : c->dtype;
    peri_matrix *queries = load(b, "queries", c->set, dtype);
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = PERI_SQEUCLIDEAN, .k = c->k };
    peri_mem *filters[4] = { 0 };
    op.rows = peri_matrix_view(rows);
    op.queries = peri_matrix_view(queries);
    if (c->queries < op.queries.rows) op.queries.rows = c->queries;
    size_t items = op.queries.rows * c->k;
    peri_mem *ids_mem = room(b, items * sizeof(int64_t), &op.ids);
    peri_mem *distances_mem = room(b, items * sizeof(float), &op.distances);
    const peri_op_knn plain = op; /* the same search without a filter */
    const peri_op *both[TURNS_MAX] = { (const peri_op *)&op, (const peri_op *)&plain };
    double times[TURNS_MAX] = { 0 };
    if (c->passing < 1)
        filters[3] = make_filters(b, c->own ? OWN_FILTERS : 1, op.queries.rows, op.rows.rows,
                                  c->passing, &op.filter, filters);
    time_turns(b, both, c->passing < 1 ? 2 : 1, times);
    double seconds = times[0];
    int64_t *ids = malloc(items * sizeof *ids);
    must(b->device->driver->copy(b->stream, ids, items * sizeof *ids, NULL, op.ids,
                                 items * sizeof *ids, b->device, 1, items * sizeof *ids),
         "copy");
    must(b->device->driver->stream_wait(b->stream, NULL), "wait");
    printf("what=knn\tcase=%s\tset=%s\tdtype=%s\trows=%zu\tdim=%zu\tqueries=%zu\tk=%zu\t"
           "passing=%g\tms=%.4f\tqps=%.0f\trecall=%.4f\tplain_ms=%.4f\n",
           c->name, c->set, peri_dtype_name(c->dtype), op.rows.rows, op.rows.cols, op.queries.rows,
           c->k, c->passing, 1e3 * seconds, (double)op.queries.rows / seconds,
           recall(b, c, ids, op.queries.rows), 1e3 * times[1]);
    fflush(stdout);
    free(ids);
    for (size_t i = 0; i < 4; i++) b->device->driver->mem_release(filters[i]);
    b->device->driver->mem_release(ids_mem);
    b->device->driver->mem_release(distances_mem);
    peri_matrix_release(rows);
    peri_matrix_release(queries);
}

static const knn_case knn_cases[] = {
    { "f32", "16x128", PERI_F32, 10000, 10, 1, false },
    { "f32-harder", "32x128", PERI_F32, 10000, 10, 1, false },
    { "f16", "16x128", PERI_F16, 10000, 10, 1, false },
    { "i8", "16x128", PERI_I8, 10000, 10, 1, false },
    { "f16-768", "16x768", PERI_F16, 10000, 10, 1, false },
    { "f32-one", "16x128", PERI_F32, 1, 10, 1, false },
    { "f16-one", "16x128", PERI_F16, 1, 10, 1, false },
    { "f32-16", "16x128", PERI_F32, 16, 10, 1, false },
    { "f32-32", "16x128", PERI_F32, 32, 10, 1, false },
    { "f32-64", "16x128", PERI_F32, 64, 10, 1, false },
    { "f32-128", "16x128", PERI_F32, 128, 10, 1, false },
    { "f32-256", "16x128", PERI_F32, 256, 10, 1, false },
    { "f32-1024", "16x128", PERI_F32, 1024, 10, 1, false },
    { "f32-k100", "16x128", PERI_F32, 10000, 100, 1, false },
    { "f32-shared-0.9", "16x128", PERI_F32, 10000, 10, 0.9, false },
    { "f32-shared-0.5", "16x128", PERI_F32, 10000, 10, 0.5, false },
    { "f32-shared-0.01", "16x128", PERI_F32, 10000, 10, 0.01, false },
    { "f32-own-0.9", "16x128", PERI_F32, 10000, 10, 0.9, true },
    { "f32-own-0.5", "16x128", PERI_F32, 10000, 10, 0.5, true },
    { "f32-own-0.1", "16x128", PERI_F32, 10000, 10, 0.1, true },
    { "f32-own-0.01", "16x128", PERI_F32, 10000, 10, 0.01, true },
    { "f16-shared-0.5", "16x128", PERI_F16, 10000, 10, 0.5, false },
};

/* ---- selection ------------------------------------------------------------------------------ */

static void run_select(const bench *b, size_t rows, size_t columns, size_t k) {
    char name[64];
    snprintf(name, sizeof name, rows == 1 ? "select-one-%zu" : "select-%zu", k);
    if (!wanted(b, name)) return;
    peri_op_select_k op = { .kind = PERI_OP_SELECT_K, .k = k };
    float *values = malloc(rows * columns * sizeof *values);
    for (size_t i = 0; i < rows * columns; i++)
        values[i] = (float)(peri_random_mix(7, i) >> 40) * 0x1p-24f;
    op.values = (peri_view){ NULL,     rows,
                             columns,  columns * sizeof(float),
                             PERI_F32, b->device->place };
    peri_mem *in = put(b, values, rows * columns * sizeof *values, &op.values.data);
    peri_mem *ids = room(b, rows * k * sizeof(int64_t), &op.best_ids);
    peri_mem *out = room(b, rows * k * sizeof(float), &op.best_values);
    double seconds = time_op(b, (const peri_op *)&op);
    printf("what=select\tcase=%s\trows=%zu\tcolumns=%zu\tk=%zu\tms=%.4f\n", name, rows, columns, k,
           1e3 * seconds);
    fflush(stdout);
    free(values);
    b->device->driver->mem_release(in);
    b->device->driver->mem_release(ids);
    b->device->driver->mem_release(out);
}

/* ---- tables of distances -------------------------------------------------------------------- */

static void run_pairwise(const bench *b, const char *name, peri_dtype dtype, peri_metric metric) {
    const size_t queries = 10000, rows = 100000, dim = 128, each = peri_dtype_bytes(dtype);
    const peri_place at = b->device->place;
    if (!wanted(b, name)) return;
    const size_t count = (queries + rows) * dim;
    unsigned char *values = malloc(count * each);
    for (size_t i = 0; i < count; i++) {
        const uint64_t random = peri_random_mix(9, i);
        if (dtype == PERI_F32)
            ((float *)(void *)values)[i] = (float)(random >> 40) * 0x1p-24f;
        else
            values[i] = (unsigned char)random;
    }
    peri_op_pairwise op = { .kind = PERI_OP_PAIRWISE, .metric = metric };
    op.queries = (peri_view){ NULL, queries, dim, dim * each, dtype, at };
    op.rows = (peri_view){ NULL, rows, dim, dim * each, dtype, at };
    op.out = (peri_view){ NULL, queries, rows, rows * sizeof(float), PERI_F32, at };
    peri_mem *a = put(b, values, queries * dim * each, &op.queries.data);
    peri_mem *x = put(b, values + queries * dim * each, rows * dim * each, &op.rows.data);
    peri_mem *out = room(b, queries * rows * sizeof(float), &op.out.data);
    double seconds = time_op(b, (const peri_op *)&op);
    printf("what=pairwise\tcase=%s\tdtype=%s\tqueries=%zu\trows=%zu\tdim=%zu\tms=%.4f\n", name,
           peri_dtype_name(dtype), queries, rows, dim, 1e3 * seconds);
    fflush(stdout);
    free(values);
    b->device->driver->mem_release(a);
    b->device->driver->mem_release(x);
    b->device->driver->mem_release(out);
}

/* ---- trainings and graphs ------------------------------------------------------------------- */

static void run_kmeans(const bench *b) {
    if (!wanted(b, "kmeans")) return;
    peri_kmeans kmeans = PERI_KMEANS_INIT;
    peri_kmeans_report report;
    peri_matrix *rows = load(b, "base", "16x128", PERI_F32), *centroids;
    double times[64];
    kmeans.rows = rows;
    kmeans.n_clusters = 16384;
    kmeans.n_iters = 20;
    kmeans.init = PERI_KMEANS_RANDOM;
    for (int round = 0; round < 3; round++) {
        double began = now();
        must(peri_kmeans_train(&kmeans, &centroids, &report), "kmeans");
        times[round] = now() - began;
        peri_matrix_release(centroids);
    }
    qsort(times, 3, sizeof times[0], by_value);
    peri_view view = peri_matrix_view(rows);
    printf("what=kmeans\tcase=kmeans\trows=%zu\tdim=%zu\tclusters=%zu\titerations=%u\tms=%.1f\t"
           "inertia=%.6g\tsmallest=%zu\n",
           view.rows, view.cols, kmeans.n_clusters, report.iterations, 1e3 * times[1],
           report.inertia, report.smallest);
    fflush(stdout);
    peri_matrix_release(rows);
}

static void run_graph(const bench *b) {
    if (!wanted(b, "graph")) return;
    peri_matrix *rows = load(b, "base", "16x128", PERI_F32);
    peri_knn_graph asked = PERI_KNN_GRAPH_INIT;
    peri_option exact = { "build_algo", { PERI_VALUE_TEXT, { .text = "exact" } } };
    peri_knn_lists lists;
    double times[64];
    asked.rows = rows;
    asked.k = 64;
    asked.options = (peri_options){ &exact, 1 };
    for (int round = 0; round < 3; round++) {
        double began = now();
        must(peri_knn_graph_build(&asked, &lists), "graph");
        times[round] = now() - began;
        peri_knn_lists_reset(&lists);
    }
    qsort(times, 3, sizeof times[0], by_value);
    peri_view view = peri_matrix_view(rows);
    printf("what=graph\tcase=graph\tset=16x128\tdtype=f32\trows=%zu\tdim=%zu\tk=64\tms=%.1f\n",
           view.rows, view.cols, 1e3 * times[1]);
    fflush(stdout);
    peri_matrix_release(rows);
}

/* ---- rows on the host ----------------------------------------------------------------------- */

#define LINK_BYTES ((size_t)256 << 20)

/* GB/s of page-locked memory on its way to the device, nothing else going on. */
static double time_link(const bench *b) {
    const peri_driver *driver = b->device->driver;
    peri_mem *from, *to;
    double times[64];
    must(driver->mem_acquire(b->device, LINK_BYTES, PERI_MEMORY_PINNED, PERI_USE_OTHER, &from),
         "pinned");
    must(driver->mem_acquire(b->device, LINK_BYTES, PERI_MEMORY_DEVICE, PERI_USE_OTHER, &to),
         "memory");
    memset(from->data, 1, LINK_BYTES);
    for (int round = 0; round < b->rounds; round++) {
        double began = now();
        must(driver->copy(b->stream, to->data, LINK_BYTES, b->device, from->data, LINK_BYTES, NULL,
                          1, LINK_BYTES),
             "copy");
        must(driver->stream_wait(b->stream, NULL), "wait");
        times[round] = now() - began;
    }
    qsort(times, (size_t)b->rounds, sizeof times[0], by_value);
    driver->mem_release(to);
    driver->mem_release(from);
    return (double)LINK_BYTES / times[b->rounds / 2] / 1e9;
}

/* Exact search of rows that stay on the host, one transfer of them a batch. */
static void run_streamed(const bench *b, size_t queries) {
    if (!wanted(b, "streamed") || b->device->shares_host) return;
    bench host = *b;
    host.place = "cpu";
    peri_matrix *rows = load(&host, "base", "16x128", PERI_F32);
    peri_matrix *asked = load(&host, "queries", "16x128", PERI_F32);
    peri_option residence = { "residence", { PERI_VALUE_TEXT, { .text = "host" } } };
    peri_build build = PERI_BUILD_INIT;
    peri_request request = PERI_REQUEST_INIT;
    peri_searcher *index;
    peri_matrix *ids, *distances;
    double times[64], link = time_link(b);
    peri_view view = peri_matrix_view(rows);
    build.kind = "flat";
    build.rows = rows;
    build.place = b->device->place;
    build.options = (peri_options){ &residence, 1 };
    must(peri_searcher_build(&build, &index), "flat");
    request.queries = peri_matrix_view(asked);
    request.queries.rows = queries;
    request.k = TRUTH_K;
    must(peri_matrix_create(b->context, queries, TRUTH_K, PERI_I64, PERI_CPU, &ids), "ids");
    must(peri_matrix_create(b->context, queries, TRUTH_K, PERI_F32, PERI_CPU, &distances), "f32");
    peri_hits hits = { .ids = peri_matrix_view(ids).data,
                       .distances = peri_matrix_view(distances).data };
    must(peri_searcher_search(index, &request, &hits), "search"); /* scratch is there then */
    for (int round = 0; round < b->rounds; round++) {
        double began = now();
        must(peri_searcher_search(index, &request, &hits), "search");
        times[round] = now() - began;
    }
    qsort(times, (size_t)b->rounds, sizeof times[0], by_value);
    double seconds = times[b->rounds / 2], bytes = (double)view.rows * (double)view.cols * 4;
    printf(
        "what=streamed\tcase=streamed-%zu\tset=16x128\tdtype=f32\trows=%zu\tdim=%zu\tqueries=%zu\t"
        "ms=%.3f\tgbps=%.1f\tlink=%.1f\n",
        queries, view.rows, view.cols, queries, 1e3 * seconds, bytes / seconds / 1e9, link);
    fflush(stdout);
    peri_matrix_release(distances);
    peri_matrix_release(ids);
    peri_searcher_release(index);
    peri_matrix_release(asked);
    peri_matrix_release(rows);
}

/* ---- */

static const char *word(int count, char **words, const char *key, const char *fallback) {
    size_t length = strlen(key);
    for (int i = 1; i < count; i++)
        if (strncmp(words[i], key, length) == 0 && words[i][length] == '=')
            return words[i] + length + 1;
    return fallback;
}

int main(int count, char **words) {
    bench b = { 0 };
    peri_place at;
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    b.place = word(count, words, "place", "cuda:0");
    b.folder = word(count, words, "folder", ".");
    b.only = word(count, words, "only", NULL);
    b.rounds = atoi(word(count, words, "rounds", "5"));
    b.seconds = atof(word(count, words, "seconds", "0.05"));
    options.plugin_path = word(count, words, "plugin", NULL);
    must(peri_context_create(&options, &b.context), "context");
    must(peri_place_parse(b.place, &at), "place");
    must(peri_context_device(b.context, at, &b.device), "device");
    must(b.device->driver->stream_open(b.device, &b.stream), "stream");
    for (size_t i = 0; i < sizeof knn_cases / sizeof *knn_cases; i++) run_knn(&b, &knn_cases[i]);
    run_select(&b, 1000, 1000000, 10);
    run_select(&b, 1000, 1000000, 64);
    run_select(&b, 1000, 1000000, 256);
    run_pairwise(&b, "pairwise-f32", PERI_F32, PERI_SQEUCLIDEAN);
    run_pairwise(&b, "pairwise-f32-ip", PERI_F32, PERI_INNER_PRODUCT);
    run_pairwise(&b, "pairwise-u8", PERI_U8, PERI_SQEUCLIDEAN);
    run_kmeans(&b);
    run_graph(&b);
    run_streamed(&b, 1);
    run_streamed(&b, 10000);
    b.device->driver->stream_close(b.stream);
    peri_context_release(b.context);
    return 0;
}
