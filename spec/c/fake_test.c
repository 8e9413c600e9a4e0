/* fake_test: what the fake devices promise beyond the right answers: work is done later and in
 * order, the host can't touch their memory, events order streams of both devices, failures come
 * back with their words at the wait, memory runs out with numbers, threads with streams of their
 * own don't disturb each other, and a fork leaves the child with a clear refusal. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backend/drivers.h"
#include "backend/fake/fake.h"
#include "place.h"

#define THREADS 4
#define ROUNDS 25

static peri_device *fake(peri_context *context, uint16_t number) {
    peri_device *device = NULL;
    place_must(peri_context_device(context, (peri_place){ PERI_PLACE_FAKE, number }, &device),
               "fake device");
    return device;
}

static void pause_ms(long ms) {
    const struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&time, NULL);
}

/* ---- a gate: a notification that holds a queue until the test opens it ---------------------- */

typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open, entered;
} gate;

static void gate_init(gate *g) {
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    g->open = g->entered = false;
}

static void gate_hold(void *ud, peri_status status, const char *detail) {
    gate *g = ud;
    (void)status;
    (void)detail;
    pthread_mutex_lock(&g->lock);
    g->entered = true;
    pthread_cond_broadcast(&g->changed);
    while (!g->open) pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_await(gate *g) {
    pthread_mutex_lock(&g->lock);
    while (!g->entered) pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(gate *g) {
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static peri_status notify(place *p, peri_notify_fn fn, void *ud) {
    return p->device->driver->stream_notify(p->stream, fn, ud);
}

static void up(place *p, void *to, const void *host, size_t bytes) {
    place_must(
        p->device->driver->copy(p->stream, to, bytes, p->device, host, bytes, NULL, 1, bytes),
        "copy up");
}

/* ---- the tests ---------------------------------------------------------------------------- */

/* With the queue held, run() and copy() return; what they do is seen only after it is let go. */
static void check_later(peri_context *context) {
    place p;
    gate g;
    gate_init(&g);
    place_open(&p, fake(context, 0));
    peri_view rows = test_matrix(PERI_F32, 40, 7, 0, 1);
    float *wanted = test_lengths(&rows), found[40];
    memset(found, 0, sizeof found);
    peri_op_lengths op = { PERI_OP_LENGTHS, place_put_view(&p, &rows), NULL };
    op.out = place_room(&p, sizeof found);
    place_wait(&p);
    place_must(notify(&p, gate_hold, &g), "notify");
    gate_await(&g);
    place_must(p.device->driver->run(p.stream, (const peri_op *)&op, NULL, 0), "run");
    op.out = NULL; /* the struct was copied */
    place_must(p.device->driver->copy(p.stream, found, sizeof found, NULL, p.blocks[1]->data,
                                      sizeof found, p.device, 1, sizeof found),
               "copy down");
    pause_ms(20);
    for (size_t i = 0; i < 40; i++) CHECK(found[i] == 0, "row %zu was done before its turn", i);
    gate_open(&g);
    place_wait(&p);
    size_t at = 0;
    CHECK(test_same_bits(wanted, found, 40, &at), "length %zu is %a, wanted %a", at,
          (double)found[at], (double)wanted[at]);
    place_close(&p);
    free(rows.data);
    free(wanted);
}

/* The child's signal; the handlers of a sanitizer are set aside. */
static int signal_of_touch(volatile char *data) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        *data = (char)(*data + 1);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void check_closed(peri_context *context) {
    place p;
    place_open(&p, fake(context, 0));
    char *data = place_room(&p, 5000);
    char bytes[5000];
    place_fetch(&p, bytes, data, sizeof bytes);
    CHECK((unsigned char)bytes[4999] == PLACE_PATTERN, "fill and copy reach the last byte");
    CHECK(signal_of_touch(data) == SIGSEGV, "the first byte can be touched from the host");
    CHECK(signal_of_touch(data + 4999) == SIGSEGV, "the last byte can be touched from the host");
    char *pinned = place_room_of(&p, 100, PERI_MEMORY_PINNED);
    CHECK(signal_of_touch(pinned) == 0, "pinned memory is the host's");
    place_close(&p);
}

/* While one device works, the memory of the other stays closed. */
static void check_other_closed(peri_context *context) {
    place a, b;
    place_open(&a, fake(context, 0));
    place_open(&b, fake(context, 1));
    char *first = place_room(&a, 100), *second = place_room(&b, 100);
    place_wait(&a);
    place_wait(&b);
    peri_fake_memory_open((peri_fake_device *)a.device);
    CHECK(signal_of_touch(first) == 0, "an open device can be touched");
    CHECK(signal_of_touch(second) == SIGSEGV, "the other device opened with it");
    char *late = place_room_of(&a, 100, PERI_MEMORY_DEVICE);
    CHECK(signal_of_touch(late) == 0, "memory acquired while open is open");
    peri_fake_memory_close((peri_fake_device *)a.device);
    CHECK(signal_of_touch(first) == SIGSEGV && signal_of_touch(late) == SIGSEGV,
          "memory stays open after the work");
    place_close(&a);
    place_close(&b);
}

/* Rows at three strides: host, one device, the other, host. */
static void check_copies(peri_context *context) {
    enum { ROWS = 37, BYTES = 13 };
    place a, b;
    place_open(&a, fake(context, 0));
    place_open(&b, fake(context, 1));
    char from[ROWS * 20], to[ROWS * 17];
    for (size_t i = 0; i < sizeof from; i++) from[i] = (char)peri_random_mix(3, i);
    memset(to, 0, sizeof to);
    char *first = place_room(&a, ROWS * 16), *second = place_room(&b, ROWS * 31);
    place_wait(&b);
    const peri_driver *driver = a.device->driver;
    place_must(driver->copy(a.stream, first, 16, a.device, from, 20, NULL, ROWS, BYTES), "up");
    place_must(driver->copy(a.stream, second, 31, b.device, first, 16, a.device, ROWS, BYTES),
               "across");
    place_wait(&a);
    place_must(driver->copy(b.stream, to, 17, NULL, second, 31, b.device, ROWS, BYTES), "down");
    place_wait(&b);
    for (size_t r = 0; r < ROWS; r++) {
        CHECK(memcmp(to + r * 17, from + r * 20, BYTES) == 0, "row %zu", r);
        CHECK(to[r * 17 + BYTES] == 0, "row %zu was copied too far", r);
    }
    place_close(&a);
    place_close(&b);
}

/* A stream of device 1 waits for one of device 0 that is held; streams of one device pass each
 * other. */
static void check_events(peri_context *context) {
    place a, other, b;
    gate g;
    gate_init(&g);
    place_open(&a, fake(context, 0));
    place_open(&b, fake(context, 1));
    place_open(&other, fake(context, 1));
    const peri_driver *driver = a.device->driver;
    peri_event *event = NULL, *unused = NULL;
    place_must(driver->event_open(a.device, &event), "event_open");
    place_must(driver->event_open(a.device, &unused), "event_open");
    int first = 1, second = 2, seen = 0;
    int *shared = place_put(&b, &first, sizeof first);
    place_wait(&b);
    place_must(notify(&a, gate_hold, &g), "notify");
    up(&a, place_room(&a, sizeof second), &second, sizeof second);
    place_must(driver->copy(a.stream, shared, sizeof second, b.device, a.blocks[0]->data,
                            sizeof second, a.device, 1, sizeof second),
               "across");
    place_must(driver->event_record(event, a.stream), "record");
    place_must(driver->event_wait(unused, b.stream), "wait for nothing");
    place_must(driver->event_wait(event, b.stream), "wait");
    place_must(driver->copy(b.stream, &seen, sizeof seen, NULL, shared, sizeof seen, b.device, 1,
                            sizeof seen),
               "down");
    gate_await(&g);
    place_put(&other, &first, sizeof first);
    place_wait(&other); /* the device goes on while its other stream waits */
    CHECK(seen == 0, "a stream went on before its event");
    gate_open(&g);
    place_wait(&b);
    CHECK(seen == 2, "%d was seen after the event, wanted 2", seen);
    place_wait(&a);
    driver->event_close(event);
    driver->event_close(unused);
    place_close(&a);
    place_close(&b);
    place_close(&other);
}

typedef struct told {
    peri_status status;
    char detail[128];
    atomic_int times;
} told;

static void tell(void *ud, peri_status status, const char *detail) {
    told *t = ud;
    t->status = status;
    snprintf(t->detail, sizeof t->detail, "%s", detail);
    atomic_fetch_add(&t->times, 1);
}

static void check_failure(peri_context *context) {
    place p;
    told before = { PERI_OK, "", 0 }, after = { PERI_OK, "", 0 };
    place_open(&p, fake(context, 0));
    int one = 1, two = 2, seen = 0;
    int *data = place_put(&p, &one, sizeof one);
    place_wait(&p);
    peri_fake_fail(p.device, 1);
    place_must(notify(&p, tell, &before), "notify");
    up(&p, data, &two, sizeof two);
    up(&p, data, &two, sizeof two); /* skipped: nothing runs after a failure */
    place_must(notify(&p, tell, &after), "notify");
    peri_fail(PERI_E_IO, "an older failure of this thread");
    peri_status status = p.device->driver->stream_wait(p.stream, NULL);
    CHECK(status == PERI_E_DEVICE, "the wait says %s", peri_status_code(status));
    CHECK(strcmp(peri_error_detail(), "fake:0: failed as it was told to") == 0, "detail: %s",
          peri_error_detail());
    CHECK(before.times == 1 && before.status == PERI_OK && before.detail[0] == '\0',
          "what came before the failure is told so: %s", before.detail);
    CHECK(after.times == 1 && after.status == PERI_E_DEVICE &&
              strcmp(after.detail, "fake:0: failed as it was told to") == 0,
          "what came after the failure is told of it: %s", after.detail);
    place_fetch(&p, &seen, data, sizeof seen);
    CHECK(seen == 1, "%d: work went on after a failure", seen);
    place_close(&p);
}

/* A pointer of the host, or of the other device, is refused, as a GPU would fault. */
static void check_wrong_place(peri_context *context) {
    place a, b;
    place_open(&a, fake(context, 0));
    place_open(&b, fake(context, 1));
    float host[32] = { 0 };
    peri_view view = { host, 4, 8, 32, PERI_F32, a.device->place };
    peri_op_lengths op = { PERI_OP_LENGTHS, view, place_room(&a, 16) };
    const peri_driver *driver = a.device->driver;
    peri_status status = driver->run(a.stream, (const peri_op *)&op, NULL, 0);
    CHECK(status == PERI_E_DEVICE && strstr(peri_error_detail(), "lengths.rows") != NULL,
          "rows on the host: %s", peri_error_detail());
    op.rows.data = place_room(&b, sizeof host);
    CHECK(driver->run(a.stream, (const peri_op *)&op, NULL, 0) == PERI_E_DEVICE,
          "rows on the other device");
    op.rows.data = place_room(&a, sizeof host);
    CHECK(driver->run(a.stream, (const peri_op *)&op, NULL, 0) == PERI_OK, "rows here: %s",
          peri_error_detail());
    op.rows.rows = 5;
    CHECK(driver->run(a.stream, (const peri_op *)&op, NULL, 0) == PERI_E_DEVICE,
          "a row more than the memory holds");
    CHECK(driver->fill(a.stream, host, 0, sizeof host) == PERI_E_DEVICE, "fill of host memory");
    CHECK(driver->copy(a.stream, host, 32, a.device, op.rows.data, 32, a.device, 4, 32) ==
              PERI_E_DEVICE,
          "copy to host memory as the device's");
    place_close(&a);
    place_close(&b);
}

static void check_memory(peri_context *context) {
    peri_device *device = fake(context, 1);
    const peri_driver *driver = device->driver;
    peri_device_info info;
    peri_mem *mem = NULL, *more = NULL;
    place_must(driver->mem_limit(device, 10000), "mem_limit");
    place_must(driver->mem_acquire(device, 6000, PERI_MEMORY_DEVICE, PERI_USE_ROWS, &mem), "6000");
    CHECK((uintptr_t)mem->data % 64 == 0, "memory is not aligned");
    peri_status status = driver->mem_acquire(device, 4001, PERI_MEMORY_DEVICE, PERI_USE_ROWS,
                                             &more);
    CHECK(status == PERI_E_MEMORY && more == NULL, "4001 bytes of 4000: %s",
          peri_status_code(status));
    CHECK(strcmp(peri_error_detail(), "fake:1: 4001 bytes needed, 4000 bytes free") == 0,
          "detail: %s", peri_error_detail());
    place_must(driver->device_stat(device->host, 1, device, &info), "device_stat");
    CHECK(info.bytes_total == 10000 && info.bytes_free == 4000, "%zu of %zu bytes free",
          info.bytes_free, info.bytes_total);
    status = driver->mem_acquire(device, 4000, PERI_MEMORY_DEVICE, PERI_USE_ROWS, &more);
    CHECK(status == PERI_OK, "the last 4000 bytes: %s", peri_error_detail());
    driver->mem_release(more);
    driver->mem_release(mem);
    place_must(driver->device_stat(device->host, 1, device, &info), "device_stat");
    CHECK(info.bytes_free == 10000, "%zu bytes free after all is released", info.bytes_free);
    CHECK(driver->mem_acquire(device, SIZE_MAX - 10, PERI_MEMORY_DEVICE, PERI_USE_ROWS, &mem) ==
                  PERI_E_MEMORY &&
              mem == NULL,
          "bytes that wrap around");
    place_must(driver->mem_limit(device, 0), "mem_limit");
}

static peri_status stop_at_third(void *ud, const char *stage, size_t done, size_t total) {
    int *polls = ud;
    (void)stage;
    (void)done;
    (void)total;
    return ++*polls < 3 ? PERI_OK : peri_fail(PERI_E_CANCELLED, "stopped by the test");
}

static void *open_later(void *ud) {
    pause_ms(200);
    gate_open(ud);
    return NULL;
}

/* A wait that is ended drains the queue, skips what had not begun and leaves the stream usable. */
static void check_control(peri_context *context) {
    place p;
    gate g;
    pthread_t opener;
    int polls = 0, one = 1, two = 2, seen = 0;
    gate_init(&g);
    place_open(&p, fake(context, 0));
    int *data = place_put(&p, &one, sizeof one);
    place_wait(&p);
    place_must(notify(&p, gate_hold, &g), "notify");
    up(&p, data, &two, sizeof two);
    pthread_create(&opener, NULL, open_later, &g);
    const peri_control control = { stop_at_third, &polls };
    peri_status status = p.device->driver->stream_wait(p.stream, &control);
    CHECK(status == PERI_E_CANCELLED && polls == 3, "%s after %d polls", peri_status_code(status),
          polls);
    pthread_join(opener, NULL);
    place_fetch(&p, &seen, data, sizeof seen);
    CHECK(seen == 1, "%d: work that had not begun was done after the end", seen);
    up(&p, data, &two, sizeof two);
    place_fetch(&p, &seen, data, sizeof seen);
    CHECK(seen == 2, "the stream works again");
    place_close(&p);
}

/* ---- threads and forks -------------------------------------------------------------------- */

typedef struct worker {
    peri_device *device;
    uint64_t seed;
    size_t wrong;
} worker;

/* A stream and memory of its own, many rounds of up, convert, lengths, down. */
static void *work(void *ud) {
    worker *w = ud;
    place p;
    place_open(&p, w->device);
    for (size_t round = 0; round < ROUNDS; round++) {
        peri_view rows = test_matrix(PERI_F32, 20, 9, 0, w->seed + round);
        float *wanted = test_lengths(&rows), found[20];
        size_t at = 0;
        peri_op_lengths op = { PERI_OP_LENGTHS, place_put_view(&p, &rows), NULL };
        op.out = place_room(&p, sizeof found);
        place_must(p.device->driver->run(p.stream, (const peri_op *)&op, NULL, 0), "run");
        place_fetch(&p, found, op.out, sizeof found);
        w->wrong += !test_same_bits(wanted, found, 20, &at);
        place_clear(&p);
        free(rows.data);
        free(wanted);
    }
    place_close(&p);
    return NULL;
}

static void check_threads(peri_context *context) {
    pthread_t threads[THREADS];
    worker workers[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        workers[i] = (worker){ fake(context, (uint16_t)(i % 2)), 1000 * i, 0 };
        pthread_create(&threads[i], NULL, work, &workers[i]);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(workers[i].wrong == 0, "thread %zu: %zu of %d rounds are wrong", i, workers[i].wrong,
              ROUNDS);
    }
}

/* Enqueueing allocates nothing once a stream has had as many tasks before. */
static void check_allocation(peri_context *context) {
    place p;
    peri_context_stats before, after;
    char bytes[64] = { 0 };
    place_open(&p, fake(context, 0));
    char *data = place_room(&p, sizeof bytes);
    for (int round = 0; round < 3; round++) {
        peri_context_stat(context, round == 1 ? &before : &after);
        for (int i = 0; i < 50; i++) up(&p, data, bytes, sizeof bytes);
        place_wait(&p);
    }
    peri_context_stat(context, &after);
    CHECK(after.acquired - before.acquired < 50, "%zu allocations for 100 copies",
          (size_t)(after.acquired - before.acquired));
    place_close(&p);
}

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif

#ifndef UNDER_TSAN
/* In the child: what was open says so and can be closed; a new context has devices of its own. */
static int in_child(peri_context *context, place *p) {
    peri_mem *mem = NULL;
    peri_stream *stream = NULL;
    peri_device *device = NULL;
    const peri_driver *driver = p->device->driver;
    if (driver->mem_acquire(p->device, 10, PERI_MEMORY_DEVICE, PERI_USE_ROWS, &mem) != PERI_E_FORK)
        return 1;
    if (driver->stream_open(p->device, &stream) != PERI_E_FORK) return 2;
    if (driver->stream_wait(p->stream, NULL) != PERI_E_FORK) return 3;
    if (driver->fill(p->stream, p->blocks[0]->data, 0, 1) != PERI_E_FORK) return 4;
    if (strstr(peri_error_detail(), "before a fork") == NULL) return 5;
    if (peri_context_device(context, p->device->place, &device) != PERI_E_FORK) return 6;
    driver->mem_release(p->blocks[0]);
    driver->stream_close(p->stream);
    peri_context_release(context);
    place again;
    peri_context *own = test_context(1);
    place_open(&again, fake(own, 0));
    int one = 1, seen = 0;
    place_fetch(&again, &seen, place_put(&again, &one, sizeof one), sizeof seen);
    place_close(&again);
    peri_context_release(own);
    return seen == 1 ? 0 : 7;
}
#endif

static void check_fork(void) {
#ifdef UNDER_TSAN
    check_skip("fork", "ThreadSanitizer starts no threads in a child of threads");
#else
    peri_context *context = test_context(1);
    place p;
    place_open(&p, fake(context, 0));
    place_room(&p, 100);
    place_wait(&p);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(in_child(context, &p));
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child stopped at step %d (signal %d)",
          WEXITSTATUS(status), WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    place_close(&p);
    peri_context_release(context);
#endif
}

int main(void) {
    uint32_t count = 0;
    peri_context *context = test_context(2);
    place_must(peri_device_count(context, PERI_PLACE_FAKE, &count), "device_count");
    CHECK(count == 2, "%u fake devices", count);
    check_later(context);
    check_closed(context);
    check_other_closed(context);
    check_copies(context);
    check_events(context);
    check_failure(context);
    check_wrong_place(context);
    check_memory(context);
    check_control(context);
    check_threads(context);
    check_allocation(context);
    peri_context_release(context);
    check_fork();
    return check_done();
}
