/* device_streamed_test: work on rows that pass a device in chunks, with little memory, with faults
 * and stopped anywhere: the CPU's bits or a clear refusal, and nothing is left on the device.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset). */
#include "backend/fake/fake.h"
#include "core/lane.h"
#include "place.h"

#define ROWS 700
#define DIM 20
#define QUERIES 9
#define K 6
#define CLUSTERS 7
#define BYTES ((size_t)1 << 20) /* of one result, at most */

static peri_context *context;
static peri_device *device;
static peri_matrix *rows;
static bool fake;

typedef struct result {
    size_t bytes;
    unsigned char data[BYTES];
} result;

/* ---- the works ---------------------------------------------------------------------------- */

typedef struct work {
    const char *name;
    peri_status (*run)(const peri_place *at, const peri_control *control, result *out);
} work;

static peri_status keep(result *out, peri_matrix *matrix) {
    peri_matrix *host = NULL;
    PERI_TRY(peri_matrix_move(matrix, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    size_t bytes = view.rows * view.stride_bytes;
    if (out->bytes + bytes <= BYTES) memcpy(out->data + out->bytes, view.data, bytes);
    out->bytes += bytes;
    peri_matrix_release(host);
    return PERI_OK;
}

static peri_status run_kmeans(const peri_place *at, const peri_control *control, result *out) {
    const peri_option list[] = {
        { "n_clusters", { .type = PERI_VALUE_INT, .as.i = CLUSTERS } },
        { "n_iters", { .type = PERI_VALUE_INT, .as.i = 3 } },
    };
    peri_clustering asked = PERI_CLUSTERING_INIT;
    peri_clusters found;
    peri_status status;
    asked.rows = rows;
    asked.options = (peri_options){ list, 2 };
    asked.place = at;
    asked.residence = PERI_RESIDENCE_HOST;
    asked.control = control;
    PERI_TRY(peri_clusters_train(&asked, &found));
    PERI_GO(keep(out, found.centroids));
    PERI_GO(keep(out, found.labels));
    PERI_GO(keep(out, found.distances));
done:
    peri_clusters_reset(&found);
    return status;
}

static peri_status run_graph(const peri_place *at, const peri_control *control, result *out) {
    const peri_option exact = { "build_algo", { .type = PERI_VALUE_TEXT, .as.text = "exact" } };
    peri_knn_graph asked = PERI_KNN_GRAPH_INIT;
    peri_knn_lists found;
    peri_status status;
    asked.rows = rows;
    asked.k = K;
    asked.options = (peri_options){ &exact, 1 };
    asked.place = at;
    asked.residence = PERI_RESIDENCE_HOST;
    asked.control = control;
    PERI_TRY(peri_knn_graph_build(&asked, &found));
    PERI_GO(keep(out, found.neighbors));
    PERI_GO(keep(out, found.distances));
done:
    peri_knn_lists_reset(&found);
    return status;
}

static peri_status run_pairwise(const peri_place *at, const peri_control *control, result *out) {
    peri_pairwise_options asked = PERI_PAIRWISE_OPTIONS_INIT;
    peri_matrix *found = NULL, *some = NULL;
    peri_status status;
    PERI_GO(peri_matrix_slice(rows, 0, 100, &some));
    asked.a = some;
    asked.b = rows;
    asked.metric = PERI_EUCLIDEAN;
    asked.place = at;
    asked.residence = PERI_RESIDENCE_HOST;
    asked.control = control;
    PERI_GO(peri_pairwise(&asked, &found));
    PERI_GO(keep(out, found));
done:
    peri_matrix_release(found);
    peri_matrix_release(some);
    return status;
}

/* Of a flat index: the nearest, and all within a distance. */
static peri_status run_flat(const peri_place *at, const peri_control *control, result *out) {
    const peri_option host = { "residence", { .type = PERI_VALUE_TEXT, .as.text = "host" } };
    peri_build build = PERI_BUILD_INIT;
    peri_request request = PERI_REQUEST_INIT;
    peri_range_hits range = { NULL, NULL, NULL };
    peri_searcher *index = NULL;
    int64_t ids[QUERIES * K];
    float distances[QUERIES * K];
    peri_hits hits = { .ids = ids, .distances = distances };
    peri_status status;
    build.kind = "flat";
    build.rows = rows;
    build.place = at == NULL ? PERI_CPU : *at;
    build.options = (peri_options){ &host, 1 };
    PERI_GO(peri_searcher_build(&build, &index));
    request.queries = peri_matrix_view(rows);
    request.queries.rows = QUERIES;
    request.k = K;
    request.control = control;
    PERI_GO(peri_searcher_search(index, &request, &hits));
    memcpy(out->data, ids, sizeof ids);
    memcpy(out->data + sizeof ids, distances, sizeof distances);
    out->bytes = sizeof ids + sizeof distances;
    request.k = 0;
    PERI_GO(peri_searcher_range(index, &request, 1.5f, &range));
    PERI_GO(keep(out, range.offsets));
    PERI_GO(keep(out, range.ids));
    PERI_GO(keep(out, range.distances));
done:
    peri_matrix_release(range.offsets);
    peri_matrix_release(range.ids);
    peri_matrix_release(range.distances);
    peri_searcher_release(index);
    return status;
}

static const work works[] = { { "flat", run_flat },
                              { "k-means", run_kmeans },
                              { "knn_graph", run_graph },
                              { "pairwise", run_pairwise } };

/* ---- checks ------------------------------------------------------------------------------- */

static size_t held(void) {
    peri_device_info info;
    size_t bytes = 0;
    place_must(peri_device_trim(context, device->place), "trim");
    place_must(peri_device_stat(context, device->place, &info), "stat");
    for (int use = 0; use < PERI_USE_COUNT; use++) bytes += info.bytes_held[use];
    return bytes;
}

/* One run with something in its way: `allowed` or the result wanted. */
static bool check_run(const work *w, const result *wanted, const peri_control *control,
                      peri_status allowed, size_t before, const char *what, size_t step) {
    static result found;
    found.bytes = 0;
    peri_status status = w->run(&device->place, control, &found);
    if (fake) peri_fake_short(device, 0);
    if (fake) peri_fake_fail(device, 0);
    place_must(peri_device_limit(context, device->place, 0), "no limit");
    bool same = found.bytes == wanted->bytes && !memcmp(found.data, wanted->data, found.bytes);
    CHECK(status == PERI_OK || status == allowed, "%s, %s %zu: %s: %s", w->name, what, step,
          peri_status_code(status), peri_error_detail());
    CHECK(status != PERI_OK || same, "%s, %s %zu: another result", w->name, what, step);
    CHECK(held() == before, "%s, %s %zu: bytes stay on the device", w->name, what, step);
    return status == PERI_OK;
}

/* From too little memory to enough of it; the blocks of 64 rows are 5 KiB. */
static void check_limits(const work *w, const result *wanted, size_t before) {
    size_t fine = 0, failed = 0;
    size_t unit = fake ? 4096 : (size_t)1 << 20;
    for (size_t step = 1; step < 200 && fine < 4; step += 1 + step / 4) {
        place_must(peri_device_limit(context, device->place, before + step * unit), "limit");
        bool ok = check_run(w, wanted, NULL, PERI_E_MEMORY, before, "limit", step);
        fine += ok;
        failed += !ok;
    }
    CHECK(fine >= 4 && (failed > 0 || !fake), "%s: %zu fine, %zu failed", w->name, fine, failed);
}

/* The memory or a task that is number `step` fails, and from there all. */
static void check_faults(const work *w, const result *wanted, size_t before, bool memory) {
    size_t fine = 0, failed = 0;
    for (size_t step = 1; step < 2000 && fine < 2; step += 1 + step / 3) {
        if (memory)
            peri_fake_short(device, step);
        else
            peri_fake_fail(device, step);
        bool ok = check_run(w, wanted, NULL, memory ? PERI_E_MEMORY : PERI_E_DEVICE, before,
                            memory ? "memory" : "task", step);
        fine += ok;
        failed += !ok;
    }
    CHECK(fine >= 2 && failed > 1, "%s: %zu fine, %zu failed", w->name, fine, failed);
}

static size_t polls_left;

static peri_status stop_later(void *ud, const char *stage, size_t done, size_t total) {
    (void)ud;
    CHECK(total == 0 || done <= total, "%s: %zu of %zu", stage, done, total);
    if (polls_left > 0) polls_left--;
    return polls_left == 0 ? PERI_E_CANCELLED : PERI_OK;
}

static void check_stops(const work *w, const result *wanted, size_t before) {
    const peri_control control = { stop_later, NULL };
    size_t fine = 0;
    for (size_t step = 1; step < 5000 && fine < 2; step += 1 + step / 4) {
        polls_left = step;
        fine += check_run(w, wanted, &control, PERI_E_CANCELLED, before, "poll", step);
    }
    CHECK(fine >= 2, "%s: %zu fine", w->name, fine);
}

static void check_work(const work *w) {
    static result wanted;
    wanted.bytes = 0;
    place_must(w->run(NULL, NULL, &wanted), w->name);
    CHECK(wanted.bytes > 0 && wanted.bytes <= BYTES, "%s: %zu bytes", w->name, wanted.bytes);
    size_t before = held();
    check_run(w, &wanted, NULL, PERI_OK, before, "nothing", 0);
    check_limits(w, &wanted, before);
    check_stops(w, &wanted, before);
    if (!fake) return;
    check_faults(w, &wanted, before, true);
    check_faults(w, &wanted, before, false);
}

int main(void) {
    const char *word = getenv("PERIGEE_TEST_PLACE");
    peri_place at;
    context = place_context();
    place_must(peri_place_parse(word == NULL || !strcmp(word, "cpu") ? "fake:0" : word, &at),
               "PERIGEE_TEST_PLACE");
    place_must(peri_context_device(context, at, &device), "device");
    fake = at.kind == PERI_PLACE_FAKE;
    place_must(peri_matrix_create(context, ROWS, DIM, PERI_F32, PERI_CPU, &rows), "rows");
    float *values = peri_matrix_view(rows).data;
    for (size_t i = 0; i < (size_t)ROWS * DIM; i++)
        values[i] = (float)(peri_random_mix(5, i) >> 40) * 0x1p-24f;
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) check_work(&works[i]);
    peri_matrix_release(rows);
    peri_context_release(context);
    return check_done();
}
