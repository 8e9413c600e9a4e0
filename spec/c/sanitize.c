/* sanitize: every code path of a device's kernels once, at sizes that a checker of memory has time
 * for (at most 2 200 rows of 7, 96 or 128 columns), each answer compared with ref.
 *
 *     compute-sanitizer --tool memcheck|initcheck|synccheck sanitize
 *     compute-sanitizer --tool racecheck sanitize races
 *                          without the kernel whose bulk copies a lane hands back for its warp,
 *                          which that tool takes for a race
 *     sanitize repeat      what works by matrix products 100 times, to the same bits: a checker of
 *                          races sees little of asynchronous products and bulk copies
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset). What the place declines is skipped by
 * name and reason. */
#include "parity_clusters.h"
#include "parity_codes.h"
#include "parity_knn.h"
#include "parity_rows.h"
#include "parity_select.h"

#define REPEATS 100

static const size_t widths[] = { 7, 96, 128 };
#define WIDTHS (sizeof widths / sizeof widths[0])

static void cover_rows(pair *t) {
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        for (size_t b = 0; b < TEST_DTYPES; b++)
            check_convert(t, dtypes[a], dtypes[b], 33, widths[a % WIDTHS], 1, 100);
        check_lengths(t, dtypes[a], 70, widths[a % WIDTHS]);
        check_gather(t, dtypes[a], 50, widths[a % WIDTHS], 65, a % 2);
        check_scatter(t, dtypes[a], 50, widths[a % WIDTHS], 33, true);
        check_refine(t, dtypes[a], metrics[a % 4], 9, 300, widths[a % WIDTHS], 40, 10);
        check_refine(t, dtypes[a], metrics[a % 4], 9, 300, widths[a % WIDTHS], 40, 0);
        for (unsigned how = 0; how < 4; how++)
            check_rotate(t, dtypes[a], 40, widths[a % WIDTHS], how);
    }
}

static void cover_selection(pair *t) {
    static const size_t ks[] = { 1, 10, 64, 256, 300, 1500 };
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++) {
        check_select(t, (row_form)(i % 3), 5, 2000, ks[i], i % 2, i % 2 == 1);
        check_merge(t, 5, 1 + i, ks[i], ks[i], i % 2 == 1, i % 3 == 1);
    }
    check_select(t, FORM_COARSE, 20, 50, 10, 1, true); /* a warp a row: three widths */
    check_select(t, FORM_EQUAL, 20, 200, 10, 0, false);
    check_select(t, FORM_RANDOM, 20, 1000, 100, 0, false);
    check_select(t, FORM_RANDOM, 1, 40000, 10, 1, false); /* several blocks a row */
    check_select(t, FORM_FALLING, 2, 40000, 600, 0, false);
    check_merge(t, 2, 40, 10, 10, true, true); /* two levels */
    for (size_t a = 0; a < TEST_DTYPES; a++)
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++)
            if (peri_metric_takes(metrics[m], dtypes[a]))
                check_pairwise(t, dtypes[a], metrics[m], 17, 70, widths[m % WIDTHS], m % 2);
}

/* Few queries are scanned, many go through a coarse pass. */
static void cover_knn(pair *t) {
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++) {
            if (!peri_metric_takes(metrics[m], dtypes[a])) continue;
            check_knn(t, dtypes[a], metrics[m], 3, 1000, widths[m % WIDTHS], 10, 0, m % 2 == 0);
            check_knn(t, dtypes[a], metrics[m], 70, 2100, widths[(m + 1) % WIDTHS], 10, 0,
                      m % 2 == 1);
        }
        check_knn(t, dtypes[a], PERI_SQEUCLIDEAN, 70, 2100, 96, 100, 4, false);
        check_knn(t, dtypes[a], PERI_SQEUCLIDEAN, 70, 2100, 128, 10, 1, false);
        check_knn(t, dtypes[a], PERI_SQEUCLIDEAN, 3, 2000, 7, 10, 4, false);
        check_knn(t, dtypes[a], PERI_SQEUCLIDEAN, 2, 2000, 7, 1200, 0, false);
    }
    sweep_knn_doubt(t);
}

static void cover_clusters(pair *t, bool races) {
    for (size_t a = 0; a < TEST_DTYPES; a++) {
        check_assign(t, dtypes[a], PERI_SQEUCLIDEAN, 300, widths[a % WIDTHS], 20, false);
        if (!races) check_assign(t, dtypes[a], PERI_COSINE, 2000, 128, 1100, false);
        for (int form = 0; form < 4; form++) check_sums(t, dtypes[a], 700, 96, 13, form);
    }
}

/* ---- the same bits each time ---------------------------------------------------------------- */

typedef enum repeated { RANDOM, TIES, TWINS } repeated;

/* Random rows are proved by the coarse pass, those with many ties or in tight clusters are done
 * once more. There are as many rows as that pass wants. */
static void repeat_knn(pair *t, peri_dtype dtype, size_t cols, size_t k, repeated kind) {
    knn_case c = { .metric = PERI_SQEUCLIDEAN, .k = k, .what = "repeated" };
    peri_dtype query_dtype = peri_query_dtype(dtype);
    size_t count = 200 * k;
    knn_counts redone;
    c.queries = kind == TIES    ? coarse_matrix(query_dtype, 200, cols, 51)
                : kind == TWINS ? doubt_matrix(query_dtype, DOUBT_CLUSTERS, 200, cols, true)
                                : test_matrix(query_dtype, 200, cols, 0, 51);
    c.rows = kind == TIES    ? coarse_matrix(dtype, 2100, cols, 52)
             : kind == TWINS ? doubt_matrix(dtype, DOUBT_CLUSTERS, 2100, cols, false)
                             : test_matrix(dtype, 2100, cols, 0, 52);
    c.lengths = test_lengths(&c.rows);
    int64_t *first = test_new(count, sizeof *first), *again = test_new(count, sizeof *again);
    float *first_values = test_new(count, sizeof *first_values);
    float *again_values = test_new(count, sizeof *again_values);
    if (compare_knn(t, &c).redone <= 200) {
        place_must(knn_at(&t->tested, &c, first, first_values, &redone), "knn");
        clear(t);
        for (int i = 1; i < REPEATS; i++) {
            place_must(knn_at(&t->tested, &c, again, again_values, &redone), "knn");
            clear(t);
            CHECK(memcmp(first, again, count * sizeof *again) == 0 &&
                      memcmp(first_values, again_values, count * sizeof *again_values) == 0,
                  "run %d of %s, %zu columns, k %zu differs", i, peri_dtype_name(dtype), cols, k);
        }
    }
    free(first);
    free(again);
    free(first_values);
    free(again_values);
    free(c.queries.data);
    free(c.rows.data);
    free(c.lengths);
}

static void repeat_assign(pair *t, peri_dtype dtype, size_t cols) {
    enum { N = 2000 };
    cluster_case c = { .metric = PERI_SQEUCLIDEAN };
    uint32_t *first = test_new(N, sizeof *first), *again = test_new(N, sizeof *again);
    c.rows = test_matrix(dtype, N, cols, 0, 61);
    c.centroids = test_matrix(PERI_F32, 1100, cols, 0, 62);
    if (went(t, PERI_OP_ASSIGN, "assign", assign_at(&t->tested, &c, first, NULL))) {
        compare_assign(t, &c);
        for (int i = 1; i < REPEATS; i++) {
            place_must(assign_at(&t->tested, &c, again, NULL), "assign");
            clear(t);
            CHECK(memcmp(first, again, N * sizeof *again) == 0, "run %d of assign %s differs", i,
                  peri_dtype_name(dtype));
        }
    }
    clear(t);
    free(c.rows.data);
    free(c.centroids.data);
    free(first);
    free(again);
}

static void repeat(pair *t) {
    for (size_t w = 0; w < WIDTHS; w++) repeat_assign(t, dtypes[w], widths[w]);
    for (size_t a = 0; a < TEST_DTYPES; a++)
        for (size_t w = 0; w < WIDTHS; w++) {
            repeat_knn(t, dtypes[a], widths[w], w == 1 ? 100 : 10, RANDOM);
            repeat_knn(t, dtypes[a], widths[w], w == 1 ? 10 : 64, TIES);
            if (a < 2) repeat_knn(t, dtypes[a], widths[w], w == 1 ? 10 : 64, TWINS);
        }
}

int main(int count, char **words) {
    const char *name = getenv("PERIGEE_TEST_PLACE");
    peri_place at;
    peri_device *device;
    pair t = { .context = place_context(), .small = true };
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    place_must(peri_context_device(t.context, at, &device), "device");
    place_open(&t.ref, test_device(t.context, PERI_PLACE_REF));
    place_open(&t.tested, device);
    if (count > 1 && strcmp(words[1], "repeat") == 0) {
        repeat(&t);
    } else {
        bool races = count > 1 && strcmp(words[1], "races") == 0;
        cover_rows(&t);
        cover_selection(&t);
        cover_knn(&t);
        cover_clusters(&t, races);
    }
    place_close(&t.ref);
    place_close(&t.tested);
    peri_context_release(t.context);
    return check_done();
}
