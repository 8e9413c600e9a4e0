/* device_lost_test: a device that goes while it is used, and processes that fork: every later call
 * says what happened, at once, nothing hangs, all can be closed, and what does not need the device
 * goes on.
 *
 * Each case is a process of its own that no other has touched the device in. PERIGEE_TEST_PLACE
 * names the place (fake:0 when unset). */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/lane.h"
#include "faulty.h"
#include "place.h"

#define ROWS 3000
#define DIM 16
#define QUERIES 50
#define K 4
#define SECONDS_MAX 60 /* of a case: more is a hang */

static peri_place at;
static peri_context *context;
static peri_device *device;
static bool fake;

static peri_matrix *make_rows(peri_context *of, size_t count, uint64_t seed) {
    peri_matrix *matrix = NULL;
    place_must(peri_matrix_create(of, count, DIM, PERI_F32, PERI_CPU, &matrix), "matrix");
    float *to = peri_matrix_view(matrix).data;
    for (size_t i = 0; i < count * DIM; i++) to[i] = test_uniform(seed, i);
    return matrix;
}

static peri_status build(peri_matrix *rows, peri_place where, peri_searcher **out) {
    peri_build b = PERI_BUILD_INIT;
    b.kind = "flat";
    b.rows = rows;
    b.place = where;
    return peri_searcher_build(&b, out);
}

typedef struct answer {
    int64_t ids[QUERIES * K];
    float distances[QUERIES * K];
} answer;

static peri_status search(peri_searcher *index, peri_matrix *queries, answer *out) {
    peri_request request = PERI_REQUEST_INIT;
    peri_hits hits = { .ids = out->ids, .distances = out->distances };
    memset(out, 0, sizeof *out);
    request.queries = peri_matrix_view(queries);
    request.k = K;
    return peri_searcher_search(index, &request, &hits);
}

static bool same(const answer *a, const answer *b) { return memcmp(a, b, sizeof *a) == 0; }

static void open_place(void) {
    context = place_context_of((peri_allocator){ NULL, faulty_resize });
    place_must(peri_context_device(context, at, &device), "device");
}

/* Nothing of the host's memory is left either. */
static void close_place(void) {
    peri_context_release(context);
    CHECK(faulty.blocks == 0, "%zu blocks of the host are left", (size_t)faulty.blocks);
}

/* ---- a device that is lost ---------------------------------------------------------------- */

/* What a kernel does to a device that reads where nothing is; a pretended one is told. */
static void lose(void) {
    peri_lane *lane = NULL;
    peri_view nowhere = { (void *)(uintptr_t)256, 64, DIM, DIM * 4, PERI_F32, at };
    peri_op_lengths op = { PERI_OP_LENGTHS, nowhere, NULL };
    if (fake) {
        faulty_begin(device);
        faulty_set(FAULTY_LOST, 1);
    }
    peri_status status = peri_lane_acquire(device, &lane);
    if (status == PERI_OK) status = peri_lane_take(lane, 64, sizeof(float), &op.out);
    if (status == PERI_OK) status = peri_lane_run(lane, (const peri_op *)&op);
    if (status == PERI_OK) status = peri_lane_wait(lane, NULL);
    CHECK(status == PERI_E_DEVICE, "the kernel at fault: %s: %s", peri_status_code(status),
          peri_error_detail());
    printf("lost by: %s\n", peri_error_detail());
    peri_lane_release(lane);
}

static void lost(peri_status status, const char *what) {
    bool said = fake || strstr(peri_error_detail(), "is lost to this process since an earlier "
                                                    "failure: ") != NULL;
    CHECK(status == PERI_E_DEVICE && said, "%s: %s: %s", what, peri_status_code(status),
          peri_error_detail());
}

static void check_calls(peri_searcher *index, peri_matrix *rows, peri_matrix *there,
                        peri_matrix *queries) {
    static answer found;
    peri_matrix *m = NULL;
    peri_searcher *other = NULL;
    peri_device_info info;
    struct timespec began, ended;
    float row[DIM];
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int round = 0; round < 3; round++) {
        lost(search(index, queries, &found), "search");
        lost(peri_matrix_create(context, 4, 4, PERI_F32, at, &m), "create");
        lost(peri_matrix_create_pinned(context, 4, 4, PERI_F32, at, &m), "create_pinned");
        lost(peri_matrix_move(rows, at, &m), "move there");
        lost(peri_matrix_move(there, PERI_CPU, &m), "move back");
        lost(peri_matrix_convert(there, PERI_F16, &m), "convert");
        lost(peri_matrix_read(there, 0, 1, row), "read");
        lost(peri_matrix_write(there, 0, 1, row), "write");
        lost(build(rows, at, &other), "build");
        lost(build(there, at, &other), "build there");
        lost(peri_searcher_move(index, PERI_CPU, &other), "move of an index");
        lost(peri_queue_wait(context, at, (peri_queue){ true, NULL }), "a queue");
        if (!fake) lost(peri_device_stat(context, at, &info), "stat");
        CHECK(m == NULL && other == NULL, "something came of it");
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    CHECK(ended.tv_sec - began.tv_sec < 5, "it took %ld s", (long)(ended.tv_sec - began.tv_sec));
}

/* A context that is made after the loss finds the device lost too. */
static void check_another_context(void) {
    peri_context *other = place_context();
    peri_device *again = NULL;
    if (!fake) {
        peri_status status = peri_context_device(other, at, &again);
        CHECK(status == PERI_E_DEVICE && again == NULL, "another context: %s",
              peri_status_code(status));
        printf("another context: %s\n", peri_error_detail());
    }
    peri_context_release(other);
}

static void case_lost(void) {
    static answer wanted, found;
    open_place();
    peri_matrix *rows = make_rows(context, ROWS, 1), *queries = make_rows(context, QUERIES, 2);
    peri_matrix *there = NULL;
    peri_searcher *index = NULL, *here = NULL;
    place_must(peri_matrix_move(rows, at, &there), "move");
    place_must(build(there, at, &index), "build there");
    place_must(build(rows, PERI_CPU, &here), "build here");
    place_must(search(here, queries, &wanted), "search here");
    place_must(search(index, queries, &found), "search there");
    CHECK(same(&wanted, &found), "another answer there");
    lose();
    check_calls(index, rows, there, queries);
    CHECK(search(here, queries, &found) == PERI_OK && same(&wanted, &found), "the cpu: %s",
          peri_error_detail());
    (void)peri_device_trim(context, at);
    peri_searcher_release(index);
    peri_searcher_release(here);
    peri_matrix_release(there);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
    if (fake) faulty_end(device);
    close_place();
    check_another_context();
}

/* ---- a fork ------------------------------------------------------------------------------- */

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif

#ifndef UNDER_TSAN
static void forked(peri_status status, const char *what) {
    CHECK(status == PERI_E_FORK && strstr(peri_error_detail(), "fork") != NULL, "%s: %s: %s", what,
          peri_status_code(status), peri_error_detail());
}

static void in_child(peri_searcher *index, peri_searcher *here, peri_matrix *there,
                     peri_matrix *queries, const answer *wanted) {
    static answer found;
    peri_matrix *m = NULL;
    peri_context *own = NULL;
    peri_device *again = NULL;
    float row[DIM];
    forked(search(index, queries, &found), "search");
    forked(peri_matrix_create(context, 4, 4, PERI_F32, at, &m), "create");
    forked(peri_matrix_read(there, 0, 1, row), "read");
    forked(peri_matrix_move(there, PERI_CPU, &m), "move");
    forked(peri_queue_wait(context, at, (peri_queue){ true, NULL }), "a queue");
    CHECK(search(here, queries, &found) == PERI_OK && same(wanted, &found), "the cpu: %s",
          peri_error_detail());
    own = place_context();
    peri_status status = peri_context_device(own, at, &again);
    CHECK(status == (fake ? PERI_OK : PERI_E_FORK), "a context of the child: %s: %s",
          peri_status_code(status), status == PERI_OK ? "" : peri_error_detail());
    peri_context_release(own);
}

#endif

static int child_status(pid_t child) {
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void case_fork(void) {
#ifdef UNDER_TSAN
    check_skip("fork", "ThreadSanitizer starts no threads in a child of threads");
#else
    static answer wanted, found;
    if (getenv("PERIGEE_TEST_EMULATED") != NULL) {
        check_skip("fork", "the emulator fails in a child of threads");
        return;
    }
    open_place();
    peri_matrix *rows = make_rows(context, ROWS, 1), *queries = make_rows(context, QUERIES, 2);
    peri_matrix *there = NULL;
    peri_searcher *index = NULL, *here = NULL;
    place_must(peri_matrix_move(rows, at, &there), "move");
    place_must(build(there, at, &index), "build there");
    place_must(build(rows, PERI_CPU, &here), "build here");
    place_must(search(index, queries, &wanted), "search there");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS_MAX);
        in_child(index, here, there, queries, &wanted);
    }
    if (child != 0) {
        int status = child_status(child);
        CHECK(status == 0, "the child ended with %d", status);
        place_must(search(index, queries, &found), "search after the fork");
        CHECK(same(&wanted, &found), "another answer after the fork");
    }
    peri_searcher_release(index);
    peri_searcher_release(here);
    peri_matrix_release(there);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
    close_place();
    if (child == 0) {
        fflush(stdout);
        _exit(check_counts.failed == 0 ? 0 : 1);
    }
#endif
}

/* ---- closing while there is work ---------------------------------------------------------- */

/* Holds the default queue, and what comes behind it, until the time is up. */
typedef struct gate {
    struct timespec time;
    atomic_bool left;
} gate;

static void gate_hold(void *ud, peri_status status, const char *detail) {
    gate *g = ud;
    (void)status;
    (void)detail;
    nanosleep(&g->time, NULL);
    atomic_store(&g->left, true);
}

enum { SEARCHES = 6 };

typedef struct left {
    peri_searcher *index;
    peri_filter *filter;
    peri_matrix *queries, *ids[SEARCHES], *distances[SEARCHES];
} left;

static void leave(left *l, size_t i) {
    peri_request request = PERI_REQUEST_INIT;
    peri_hits hits = { .place = at };
    hits.ids = peri_matrix_view(l->ids[i]).data;
    hits.distances = peri_matrix_view(l->distances[i]).data;
    request.queries = peri_matrix_view(l->queries);
    request.k = K;
    request.filters = &l->filter;
    request.filter_count = i % 2;
    request.queue = (peri_queue){ true, NULL };
    place_must(peri_searcher_search(l->index, &request, &hits), "search");
    peri_matrix_share(l->ids[i]);
    peri_matrix_share(l->distances[i]);
}

static void left_open(left *l) {
    peri_matrix *rows = make_rows(context, 8 * ROWS, 1), *queries = make_rows(context, QUERIES, 2);
    place_must(peri_matrix_move(queries, at, &l->queries), "move");
    place_must(build(rows, at, &l->index), "build");
    place_must(peri_filter_range(context, 10, 2000, &l->filter), "filter");
    for (size_t i = 0; i < SEARCHES; i++) {
        place_must(peri_matrix_create(context, QUERIES, K, PERI_I64, at, &l->ids[i]), "ids");
        place_must(peri_matrix_create(context, QUERIES, K, PERI_F32, at, &l->distances[i]),
                   "distances");
    }
    peri_matrix_share(l->queries);
    peri_matrix_release(rows);
    peri_matrix_release(queries);
    leave(l, 0); /* filters come to the place by the first search, which waits for them */
    leave(l, 1);
    place_must(peri_queue_wait(context, at, (peri_queue){ true, NULL }), "the default queue");
}

/* Searches that nobody waited for: their index, queries and filter, their answers' matrices and at
 * last the context go before one of them has begun. */
static void case_close(void) {
    gate g = { { 0, 300000000 }, false };
    peri_stream *plain = NULL;
    left l = { .index = NULL };
    open_place();
    left_open(&l);
    place_must(device->driver->stream_wrap(device, NULL, &plain), "the default queue");
    place_must(device->driver->stream_notify(plain, gate_hold, &g), "a gate");
    device->driver->stream_close(plain);
    for (size_t i = 0; i < SEARCHES; i++) leave(&l, i);
    CHECK(!atomic_load(&g.left), "the searches waited");
    peri_searcher_release(l.index);
    peri_filter_release(l.filter);
    for (size_t i = 0; i < SEARCHES; i++) {
        peri_matrix_release(l.ids[i]);
        peri_matrix_release(l.distances[i]);
    }
    peri_matrix_release(l.queries);
    close_place();
    CHECK(atomic_load(&g.left), "the context went before its work");
}

/* ---- a device that is full ----------------------------------------------------------------- */

#define BLOCKS_MAX 400
#define BLOCK_LEAST ((size_t)64 << 10)

/* Takes all that is free, in ever smaller blocks. */
static size_t fill_up(peri_mem **blocks) {
    size_t count = 0;
    for (size_t bytes = (size_t)1 << 36; bytes >= BLOCK_LEAST && count < BLOCKS_MAX;) {
        peri_status status = device->driver->mem_acquire(device, bytes, PERI_MEMORY_DEVICE,
                                                         PERI_USE_OTHER, &blocks[count]);
        CHECK(status == PERI_OK ||
                  (status == PERI_E_MEMORY && strstr(peri_error_detail(), "bytes needed")),
              "a block of %zu bytes: %s", bytes, peri_error_detail());
        if (status == PERI_OK)
            count++;
        else
            bytes /= 2;
    }
    return count;
}

static peri_status cluster(peri_matrix *rows) {
    static const peri_option clusters = { "n_clusters", { PERI_VALUE_INT, { .i = 60 } } };
    peri_clustering how = PERI_CLUSTERING_INIT;
    peri_clusters found = { .centroids = NULL };
    how.rows = rows;
    how.options = (peri_options){ &clusters, 1 };
    peri_status status = peri_clusters_train(&how, &found);
    peri_clusters_reset(&found);
    return status;
}

static void answered(peri_status status, const char *what) {
    CHECK(status == PERI_OK || status == PERI_E_MEMORY, "%s: %s: %s", what,
          peri_status_code(status), peri_error_detail());
    if (status != PERI_OK) printf("full: %s: %s\n", what, peri_error_detail());
}

/* Nothing is left: what is asked is answered, or told to want memory, kernels that were never
 * launched before among it; and then there is room again. */
static void case_full(void) {
    static peri_mem *blocks[BLOCKS_MAX];
    static answer wanted, found;
    open_place();
    peri_matrix *rows = make_rows(context, ROWS, 1), *queries = make_rows(context, QUERIES, 2);
    peri_matrix *there = NULL, *more = NULL;
    peri_searcher *index = NULL;
    place_must(peri_matrix_move(rows, at, &there), "move");
    place_must(build(there, at, &index), "build there");
    place_must(search(index, queries, &wanted), "search there");
    place_must(peri_device_trim(context, at), "trim");
    size_t count = fill_up(blocks);
    CHECK(count > 0, "nothing was free");
    answered(search(index, queries, &found), "search");
    answered(cluster(there), "k-means");
    answered(peri_matrix_convert(there, PERI_F16, &more), "convert");
    peri_matrix_release(more);
    answered(peri_matrix_create(context, 1 << 20, 64, PERI_F32, at, &more), "256 MiB");
    CHECK(more == NULL, "256 MiB more than there was");
    for (size_t i = 0; i < count; i++) device->driver->mem_release(blocks[i]);
    place_must(search(index, queries, &found), "search with room again");
    CHECK(same(&wanted, &found), "another answer with room again");
    place_must(cluster(there), "k-means with room again");
    peri_searcher_release(index);
    peri_matrix_release(there);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
    close_place();
}

/* Two contexts on one device know nothing of each other, and one goes first. */
static void case_two(void) {
    static answer first, second;
    open_place();
    peri_context *other = place_context();
    peri_matrix *rows[2] = { make_rows(context, ROWS, 1), make_rows(other, ROWS, 1) };
    peri_matrix *queries[2] = { make_rows(context, QUERIES, 2), make_rows(other, QUERIES, 2) };
    peri_searcher *index[2] = { NULL, NULL };
    for (size_t i = 0; i < 2; i++) place_must(build(rows[i], at, &index[i]), "build");
    place_must(search(index[0], queries[0], &first), "search");
    peri_searcher_release(index[0]);
    peri_matrix_release(queries[0]);
    peri_matrix_release(rows[0]);
    close_place();
    place_must(search(index[1], queries[1], &second), "search in the other");
    CHECK(same(&first, &second), "another answer in the other context");
    peri_searcher_release(index[1]);
    peri_matrix_release(queries[1]);
    peri_matrix_release(rows[1]);
    peri_context_release(other);
}

/* ---- each in a process of its own --------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = { { "lost", case_lost },
              { "fork", case_fork },
              { "close", case_close },
              { "full", case_full },
              { "two", case_two } };

static int run_case(size_t c) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS_MAX);
        memset(&check_counts, 0, sizeof check_counts);
        cases[c].run();
        fflush(stdout);
        _exit(check_counts.failed == 0 ? 0 : 1);
    }
    return child_status(child);
}

int main(int argc, char **argv) {
    const char *name = getenv("PERIGEE_TEST_PLACE");
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    fake = at.kind == PERI_PLACE_FAKE;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        if (argc > 1 && strcmp(argv[1], cases[c].name) != 0) continue;
        printf("%s\n", cases[c].name);
        int status = run_case(c);
        CHECK(status == 0, "%s: ended with %d", cases[c].name, status);
    }
    return check_done();
}
