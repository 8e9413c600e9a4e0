/* device_queue_test: searches whose queries and answers lie on a device, and callers' queues:
 * the same answers as on the host, in the order of the queue, and without a wait where nothing has
 * to come back.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset). */
#include <pthread.h>

#include "backend/fake/fake.h"
#include "core/lane.h"
#include "place.h"

#define ROWS 700
#define DIM 17
#define QUERIES 37
#define K 9
#define ITEMS ((size_t)QUERIES * K)

static peri_context *context;
static peri_device *device;
static const peri_driver *driver;

typedef struct answer {
    int64_t ids[ITEMS];
    float distances[ITEMS];
} answer;

static bool same(const answer *a, const answer *b) {
    return memcmp(a->ids, b->ids, sizeof a->ids) == 0 &&
           memcmp(a->distances, b->distances, sizeof a->distances) == 0;
}

static peri_matrix *make_rows(size_t rows, peri_dtype dtype, uint64_t seed) {
    peri_matrix *matrix = NULL;
    place_must(peri_matrix_create(context, rows, DIM, dtype, PERI_CPU, &matrix), "matrix");
    peri_view view = peri_matrix_view(matrix);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < DIM; c++)
            test_store(dtype, peri_view_row(&view, r), c, test_uniform(seed, r * DIM + c));
    return matrix;
}

static peri_searcher *build(peri_matrix *rows, const char *kind, const char *metric, bool ids) {
    const peri_option options[] = { { "metric", { PERI_VALUE_TEXT, { .text = metric } } },
                                    { "n_lists", { PERI_VALUE_INT, { .i = 20 } } } };
    peri_searcher *index = NULL;
    peri_build b = PERI_BUILD_INIT;
    peri_matrix *names = NULL;
    b.kind = kind;
    b.rows = rows;
    b.place = device->place;
    b.options = (peri_options){ options, strcmp(kind, "ivf_flat") == 0 ? 2 : 1 };
    if (ids) {
        place_must(peri_matrix_create(context, ROWS, 1, PERI_I64, PERI_CPU, &names), "ids");
        for (size_t i = 0; i < ROWS; i++)
            ((int64_t *)peri_matrix_view(names).data)[i] = (int64_t)(3 * i + 1);
        b.ids = names;
    }
    peri_status status = peri_searcher_build(&b, &index);
    peri_matrix_release(names);
    if (status == PERI_E_UNSUPPORTED) return NULL;
    place_must(status, "build");
    return index;
}

static peri_request request_of(peri_matrix *queries, peri_filter **filter) {
    peri_request request = PERI_REQUEST_INIT;
    request.queries = peri_matrix_view(queries);
    request.k = K;
    request.filters = filter;
    request.filter_count = *filter != NULL;
    return request;
}

/* ids and distances at the place. */
typedef struct there {
    peri_matrix *ids, *distances;
} there;

static there there_make(void) {
    there t = { NULL, NULL };
    place_must(peri_matrix_create(context, QUERIES, K, PERI_I64, device->place, &t.ids), "ids");
    place_must(peri_matrix_create(context, QUERIES, K, PERI_F32, device->place, &t.distances),
               "distances");
    return t;
}

static void there_release(there *t) {
    peri_matrix_release(t->ids);
    peri_matrix_release(t->distances);
}

static peri_hits hits_there(const there *t) {
    return (peri_hits){ .ids = peri_matrix_view(t->ids).data,
                        .distances = peri_matrix_view(t->distances).data,
                        .place = device->place };
}

static bool there_is(const there *t, const answer *wanted) {
    answer found;
    place_must(peri_matrix_read(t->ids, 0, QUERIES, found.ids), "read");
    place_must(peri_matrix_read(t->distances, 0, QUERIES, found.distances), "read");
    return same(&found, wanted);
}

/* ---- sides -------------------------------------------------------------------------------- */

/* Queries and answers on either side give what both on the host give. */
static void check_sides(peri_searcher *index, peri_matrix *queries, peri_filter *filter,
                        const char *what) {
    answer wanted, found;
    peri_matrix *moved = NULL;
    peri_hits hits = { .ids = wanted.ids, .distances = wanted.distances };
    peri_request request = request_of(queries, &filter);
    place_must(peri_searcher_search(index, &request, &hits), what);
    size_t missing = hits.info.missing;
    place_must(peri_matrix_move(queries, device->place, &moved), "move");
    hits = (peri_hits){ .ids = found.ids, .distances = found.distances };
    peri_request placed = request_of(moved, &filter);
    place_must(peri_searcher_search(index, &placed, &hits), what);
    CHECK(same(&wanted, &found) && hits.info.missing == missing, "%s: queries on the device", what);
    there t = there_make();
    hits = hits_there(&t);
    place_must(peri_searcher_search(index, &request, &hits), what);
    CHECK(there_is(&t, &wanted), "%s: the answer on the device", what);
    there_release(&t);
    t = there_make();
    hits = hits_there(&t);
    placed.queue = (peri_queue){ true, NULL };
    place_must(peri_searcher_search(index, &placed, &hits), what);
    place_must(peri_queue_wait(context, device->place, placed.queue), "the default queue");
    CHECK(there_is(&t, &wanted), "%s: both, and a queue", what);
    there_release(&t);
    peri_matrix_release(moved);
}

static void check_all_sides(void) {
    static const char *const metrics[] = { "sqeuclidean", "euclidean", "inner_product", "cosine" };
    static const peri_dtype dtypes[] = { PERI_F32, PERI_F16, PERI_I8 };
    peri_filter *filter = NULL;
    char what[80];
    place_must(peri_filter_range(context, 5, 300, &filter), "filter");
    for (size_t m = 0; m < 4; m++)
        for (size_t d = 0; d < 3; d++) {
            peri_matrix *rows = make_rows(ROWS, dtypes[d], 1),
                        *queries = make_rows(QUERIES, dtypes[d], 2);
            peri_searcher *index = build(rows, "flat", metrics[m], m == 1), *wrapped = NULL;
            snprintf(what, sizeof what, "flat %s %s", metrics[m], peri_dtype_name(dtypes[d]));
            check_sides(index, queries, m == 2 ? filter : NULL, what);
            place_must(peri_searcher_filtered(index, filter, &wrapped), "filtered");
            snprintf(what, sizeof what, "filtered %s %s", metrics[m], peri_dtype_name(dtypes[d]));
            check_sides(wrapped, queries, NULL, what);
            peri_searcher_release(wrapped);
            peri_searcher_release(index);
            peri_matrix_release(queries);
            peri_matrix_release(rows);
        }
    peri_filter_release(filter);
}

/* Graphs and what re-ranks: where the answer is looked at on the host. */
static void check_other_kinds(void) {
    static const char *const kinds[] = { "cagra", "ivf_flat" };
    peri_matrix *rows = make_rows(ROWS, PERI_F32, 3), *queries = make_rows(QUERIES, PERI_F32, 4);
    for (size_t i = 0; i < 2; i++) {
        peri_searcher *index = build(rows, kinds[i], "inner_product", i == 0), *refined = NULL;
        if (index == NULL) {
            check_skip(kinds[i], peri_error_detail());
            continue;
        }
        check_sides(index, queries, NULL, kinds[i]);
        place_must(peri_searcher_refined(index, rows, (peri_options){ NULL, 0 }, &refined),
                   "refined");
        check_sides(refined, queries, NULL, "refined");
        peri_searcher_release(refined);
        peri_searcher_release(index);
    }
    peri_matrix_release(queries);
    peri_matrix_release(rows);
}

static void check_refused(void) {
    peri_matrix *rows = make_rows(ROWS, PERI_U8, 5), *queries = make_rows(QUERIES, PERI_F32, 6);
    peri_matrix *moved = NULL;
    peri_filter *none = NULL;
    peri_searcher *index = build(rows, "flat", "sqeuclidean", false);
    answer found;
    peri_hits hits = { .ids = found.ids, .distances = found.distances };
    place_must(peri_matrix_move(queries, device->place, &moved), "move");
    peri_request request = request_of(moved, &none);
    peri_status status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "f32 on a device") != NULL,
          "floats on a device for rows of u8: %s", peri_error_detail());
    request.queries.place = (peri_place){ PERI_PLACE_FAKE, 1 };
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "fake:1") != NULL,
          "queries on another device: %s", peri_error_detail());
    request.queries = peri_matrix_view(queries);
    hits.place = (peri_place){ PERI_PLACE_FAKE, 1 };
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "hits") != NULL,
          "hits on another device: %s", peri_error_detail());
    hits.place = device->place; /* the host's own, told as the device's */
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "memory") != NULL,
          "hits of the host as the device's: %s: %s", peri_status_code(status),
          peri_error_detail());
    request.queries.place = device->place;
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "memory") != NULL,
          "queries of the host as the device's: %s: %s", peri_status_code(status),
          peri_error_detail());
    request.queries = peri_matrix_view(moved);
    request.queries.dtype = PERI_U8; /* as the rows are; and more than there are */
    request.queries.rows = (size_t)1 << 36;
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "memory") != NULL,
          "more queries than there is memory of: %s: %s", peri_status_code(status),
          peri_error_detail());
    request.queries = peri_matrix_view(queries);
    request.queries.stride_bytes = DIM * 4 - 1;
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "every 67 bytes") != NULL,
          "rows that overlap: %s", peri_error_detail());
    request.queries = peri_matrix_view(queries);
    request.queries.data = NULL;
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT, "no queries: %s", peri_status_code(status));
    request.queries = peri_matrix_view(queries);
    hits = (peri_hits){ .ids = found.ids };
    status = peri_searcher_search(index, &request, &hits);
    CHECK(status == PERI_E_ARGUMENT && strstr(peri_error_detail(), "distances") != NULL,
          "no room for distances: %s", peri_error_detail());
    status = peri_queue_wait(context, PERI_CPU, (peri_queue){ true, NULL });
    CHECK(status == PERI_E_UNSUPPORTED, "a queue of the cpu: %s", peri_status_code(status));
    peri_matrix_release(moved);
    peri_searcher_release(index);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
}

/* ---- order -------------------------------------------------------------------------------- */

typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open;
} gate;

static void gate_hold(void *ud, peri_status status, const char *detail) {
    gate *g = ud;
    (void)status;
    (void)detail;
    pthread_mutex_lock(&g->lock);
    while (!g->open) pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(gate *g) {
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* The queries come to the device behind a closed gate in the caller's queue; the searches return
 * all the same, the index is closed, and the answers are right once the gate is open. The fake
 * device does nothing at all behind the gate: its one thread holds it. */
static void check_order(void) {
    enum { SEARCHES = 12 };
    peri_matrix *rows = make_rows(ROWS, PERI_F32, 7), *queries = make_rows(QUERIES, PERI_F32, 8);
    peri_matrix *moved = NULL;
    peri_filter *none = NULL;
    peri_searcher *index = build(rows, "flat", "euclidean", false);
    answer wanted;
    there t[SEARCHES];
    gate g = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false };
    peri_stream *owner = NULL;
    peri_hits hits = { .ids = wanted.ids, .distances = wanted.distances };
    peri_request request = request_of(queries, &none);
    place_must(peri_searcher_search(index, &request, &hits), "search");
    place_must(peri_matrix_create(context, QUERIES, DIM, PERI_F32, device->place, &moved), "moved");
    place_must(driver->stream_open(device, &owner), "stream");
    for (size_t i = 0; i < SEARCHES; i++) t[i] = there_make();
    peri_view to = peri_matrix_view(moved), from = peri_matrix_view(queries);
    place_must(driver->stream_notify(owner, gate_hold, &g), "notify");
    place_must(driver->copy(owner, to.data, to.stride_bytes, device, from.data, from.stride_bytes,
                            NULL, QUERIES, DIM * sizeof(float)),
               "copy");
    request = request_of(moved, &none);
    bool fake = device->place.kind == PERI_PLACE_FAKE;
    request.queue = (peri_queue){ true, owner };
    if (!fake) request.queue.handle = NULL; /* the default queue: the gate is not in it */
    for (size_t i = 0; i < SEARCHES; i++) {
        if (i == 6 || !fake) gate_open(&g); /* more than are left at once wait for the first */
        if (!fake) place_must(driver->stream_wait(owner, NULL), "wait");
        hits = hits_there(&t[i]);
        place_must(peri_searcher_search(index, &request, &hits), "search");
        peri_matrix_share(t[i].ids);
    }
    peri_searcher_release(index);
    place_must(peri_queue_wait(context, device->place, request.queue), "the caller's queue");
    for (size_t i = 0; i < SEARCHES; i++) {
        CHECK(there_is(&t[i], &wanted), "search %zu", i);
        there_release(&t[i]);
    }
    driver->stream_close(owner);
    peri_matrix_release(moved);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
}

int main(void) {
    const char *name = getenv("PERIGEE_TEST_PLACE");
    peri_place at;
    context = place_context();
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    place_must(peri_context_device(context, at, &device), "device");
    driver = device->driver;
    check_all_sides();
    check_other_kinds();
    check_refused();
    check_order();
    peri_context_release(context);
    return check_done();
}
