/* device_parity_test: every operation that a place supports against ref, bit for bit: dtypes,
 * metrics, shapes around a warp and a tile, strides, ties, filters, k on both sides of the number
 * of rows.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset); what it declines is skipped by name and
 * reason. PERIGEE_TEST_SHAPES=small keeps to the small shapes, for runs under a checker of
 * memory. */
#include "parity_clusters.h"
#include "parity_code_scan.h"
#include "parity_codes.h"
#include "parity_graphs.h"
#include "parity_knn.h"
#include "parity_lists.h"
#include "parity_pq.h"
#include "parity_rows.h"
#include "parity_select.h"

/* ---- the sweep ---------------------------------------------------------------------------- */

static void sweep_rows(pair *t) {
    static const size_t dims[] = { 1, 31, 32, 33, 100, 130, 257 };
    for (size_t m = 0; m < PERI_METRIC_COUNT; m++) {
        check_report(t, (peri_metric)m, 1);
        check_report(t, (peri_metric)m, 1000);
    }
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
    sweep_select(&t);
    sweep_merge(&t);
    sweep_pairwise(&t);
    sweep_knn(&t);
    if (!t.small) sweep_knn_coarse(&t);
    sweep_knn_batches(&t);
    sweep_knn_doubt(&t);
    sweep_others(&t);
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
