/* device_time_test: exact kNN at a place, timed, with its recall against ref beside it; then what
 * time_select.h times.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset). As a test it takes a small set and
 * checks that the recall is 1; PERIGEE_TEST_TIME=1 takes sets of the size that a GPU is for. Rows
 * and queries are uniform random numbers; the time is the median of five runs, from run() to the
 * end of stream_wait(), with the data at the place. The recall is counted by id on the first
 * queries of the batch. */
#include "time_select.h"

#define RUNS 5
#define JUDGED 20 /* queries that ref answers too */

/* Ids of the nearest rows, on the host; the median time of the runs in `seconds`. */
static peri_status nearest(place *p, const peri_view *queries, const peri_view *rows, size_t k,
                           size_t runs, int64_t *ids, double *seconds) {
    double times[RUNS];
    size_t count = queries->rows * k;
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = PERI_SQEUCLIDEAN, .k = k };
    op.queries = place_put_view(p, queries);
    op.rows = place_put_view(p, rows);
    op.ids = place_room(p, count * sizeof *ids);
    op.distances = place_room(p, count * sizeof(float));
    const peri_driver *driver = p->device->driver;
    char reason[256] = "";
    if (!driver->supports(p->device, (const peri_op *)&op, reason, sizeof reason))
        return peri_fail(PERI_E_UNSUPPORTED, "%s", reason);
    size_t bytes = driver->scratch_bytes(p->device, (const peri_op *)&op);
    void *scratch = place_room(p, bytes);
    place_wait(p);
    for (size_t i = 0; i < runs + 1; i++) { /* the first warms up */
        double began = time_now();
        place_must(driver->run(p->stream, (const peri_op *)&op, scratch, bytes), "run");
        place_wait(p);
        if (i > 0) times[i - 1] = time_now() - began;
    }
    qsort(times, runs, sizeof times[0], time_order);
    *seconds = times[runs / 2];
    place_fetch(p, ids, op.ids, count * sizeof *ids);
    return PERI_OK;
}

static void check_shape(place *ref, place *tested, peri_dtype dtype, size_t query_count,
                        size_t row_count, size_t dim, size_t k, size_t runs) {
    char word[32];
    double seconds = 0, ignored = 0;
    peri_view rows = test_matrix(dtype, row_count, dim, 0, 1);
    peri_view queries = test_matrix(peri_query_dtype(dtype), query_count, dim, 0, 2);
    int64_t *found = test_new(query_count * k, sizeof *found);
    int64_t *wanted = test_new(JUDGED * k, sizeof *wanted);
    peri_status status = nearest(tested, &queries, &rows, k, runs, found, &seconds);
    if (status == PERI_E_UNSUPPORTED) {
        check_skip("knn", peri_error_detail());
    } else if (CHECK(status == PERI_OK, "knn: %s", peri_error_detail())) {
        size_t judged = query_count < JUDGED ? query_count : JUDGED, right = 0;
        peri_view few = queries;
        few.rows = judged;
        place_must(nearest(ref, &few, &rows, k, 1, wanted, &ignored), "ref knn");
        for (size_t i = 0; i < judged * k; i++) right += found[i] == wanted[i];
        CHECK(right == judged * k, "%zu of %zu neighbours are right", right, judged * k);
        printf("%s exact kNN, %s, %zu x %zu, %zu queries, k %zu: %.3f ms, %.0f queries/s, "
               "%.2f Gdistances/s, recall %.4f\n",
               peri_place_format(tested->device->place, word, sizeof word), peri_dtype_name(dtype),
               row_count, dim, query_count, k, 1e3 * seconds, (double)query_count / seconds,
               1e-9 * (double)query_count * (double)row_count / seconds,
               (double)right / (double)(judged * k));
    }
    place_clear(ref);
    place_clear(tested);
    free(rows.data);
    free(queries.data);
    free(found);
    free(wanted);
}

int main(void) {
    const char *name = getenv("PERIGEE_TEST_PLACE"), *timed = getenv("PERIGEE_TEST_TIME");
    peri_place at;
    peri_context *context = place_context();
    place ref, tested;
    peri_device *device;
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    place_must(peri_context_device(context, at, &device), "device");
    place_open(&ref, test_device(context, PERI_PLACE_REF));
    place_open(&tested, device);
    if (timed == NULL || strcmp(timed, "1") != 0) {
        for (size_t i = 0; i < TEST_DTYPES; i++)
            check_shape(&ref, &tested, (peri_dtype)i, 30, 3000, 24, 10, 1);
    } else {
        for (size_t i = 0; i < TEST_DTYPES; i++)
            check_shape(&ref, &tested, (peri_dtype)i, 1000, 200000, 128, 10, RUNS);
        check_shape(&ref, &tested, PERI_F32, 1, 1000000, 128, 10, RUNS);
        check_shape(&ref, &tested, PERI_F32, 1000, 200000, 128, 100, RUNS);
    }
    time_selection(&tested, timed != NULL && strcmp(timed, "1") == 0);
    place_close(&ref);
    place_close(&tested);
    peri_context_release(context);
    return check_done();
}
