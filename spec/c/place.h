/* place.h: operations at any place, for tests that compare places: memory there, copies there and
 * back.
 *
 * Operations are enqueued one by one, or each as a plan: PERIGEE_TEST_PLAN=1. Blocks live until
 * place_clear(). New blocks are filled with a pattern, so that what an
 * operation did not write shows; there is a guard behind the scratch. A failed slot fails a check
 * and ends the program, since nothing that follows would mean anything. */
#ifndef PERIGEE_SPEC_PLACE_H
#define PERIGEE_SPEC_PLACE_H

#include <unistd.h>

#include "operate.h"

#define PLACE_BLOCKS 64
#define PLACE_PATTERN 0xA5
#define PLACE_GUARD 256

typedef struct place {
    peri_device *device;
    peri_stream *stream;
    peri_mem *blocks[PLACE_BLOCKS];
    size_t count;
} place;

static inline void place_must(peri_status status, const char *what) {
    if (status == PERI_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, peri_status_code(status), peri_error_detail());
    exit(1);
}

/* A context with the plug-in of the build that this program is of: its own folder is
 * build/spec/c. With an allocator, or with none: then the library's. */
static inline peri_context *place_context_of(peri_allocator allocator) {
    static char folder[1100];
    ssize_t length = readlink("/proc/self/exe", folder, 1000);
    if (length < 0) length = 0;
    folder[length] = '\0';
    char *slash = strrchr(folder, '/');
    strcpy(slash == NULL ? folder : slash, "/../../lib/perigee");
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    peri_context *context = NULL;
    options.threads = 2;
    options.plugin_path = folder;
    options.allocator = allocator;
    place_must(peri_context_create(&options, &context), "context");
    return context;
}

static inline peri_context *place_context(void) {
    return place_context_of((peri_allocator){ NULL, NULL });
}

static inline void place_open(place *p, peri_device *device) {
    memset(p, 0, sizeof *p);
    p->device = device;
    place_must(device->driver->stream_open(device, &p->stream), "stream_open");
}

static inline void place_wait(place *p) {
    place_must(p->device->driver->stream_wait(p->stream, NULL), "stream_wait");
}

static inline void place_clear(place *p) {
    place_wait(p);
    for (size_t i = 0; i < p->count; i++) p->device->driver->mem_release(p->blocks[i]);
    p->count = 0;
}

static inline void place_close(place *p) {
    place_clear(p);
    p->device->driver->stream_close(p->stream);
}

static inline void *place_room_of(place *p, size_t bytes, peri_memory_kind kind) {
    if (p->count == PLACE_BLOCKS) exit(2);
    peri_mem **mem = &p->blocks[p->count];
    place_must(p->device->driver->mem_acquire(p->device, bytes == 0 ? 1 : bytes, kind,
                                              PERI_USE_OTHER, mem),
               "mem_acquire");
    p->count++;
    return (*mem)->data;
}

static inline void *place_room(place *p, size_t bytes) {
    void *data = place_room_of(p, bytes, PERI_MEMORY_DEVICE);
    if (bytes > 0)
        place_must(p->device->driver->fill(p->stream, data, PLACE_PATTERN, bytes), "fill");
    return data;
}

/* A copy at the place of host memory, which must stay until the next wait. NULL stays NULL. */
static inline void *place_put(place *p, const void *host, size_t bytes) {
    if (host == NULL) return NULL;
    void *data = place_room(p, bytes);
    if (bytes > 0)
        place_must(
            p->device->driver->copy(p->stream, data, bytes, p->device, host, bytes, NULL, 1, bytes),
            "copy");
    return data;
}

/* Rows at the same stride, so that spare elements between rows are there too. */
static inline peri_view place_put_view(place *p, const peri_view *host) {
    peri_view view = *host;
    view.place = p->device->place;
    view.data = place_put(p, host->data, host->rows * host->stride_bytes);
    return view;
}

/* Copies back and waits. */
static inline void place_fetch(place *p, void *host, const void *data, size_t bytes) {
    if (bytes == 0) return;
    place_must(
        p->device->driver->copy(p->stream, host, bytes, NULL, data, bytes, p->device, 1, bytes),
        "copy");
    place_wait(p);
}

/* As a plan of its own when PERIGEE_TEST_PLAN is set, where the place has any. */
static inline peri_status place_enqueue(place *p, const peri_op *op, void *scratch, size_t bytes) {
    const peri_driver *driver = p->device->driver;
    void *plan = NULL;
    if (getenv("PERIGEE_TEST_PLAN") == NULL || driver->plan_compile == NULL)
        return driver->run(p->stream, op, scratch, bytes);
    peri_status status = driver->plan_compile(p->stream, &op, &scratch, 1, &plan);
    if (status != PERI_OK) return status;
    status = driver->plan_run(p->stream, plan);
    peri_status waited = driver->stream_wait(p->stream, NULL); /* the plan must be idle */
    driver->plan_close(plan);
    return status == PERI_OK ? waited : status;
}

/* Runs an operation and waits. PERI_E_UNSUPPORTED with the reason when the place declines. */
static inline peri_status place_run(place *p, const void *operation) {
    const peri_driver *driver = p->device->driver;
    const peri_op *op = operation;
    char reason[256] = "";
    if (!driver->supports(p->device, op, reason, sizeof reason))
        return peri_fail(PERI_E_UNSUPPORTED, "%s", reason);
    size_t bytes = driver->scratch_bytes(p->device, op);
    unsigned char *scratch = place_room(p, bytes + PLACE_GUARD), guard[PLACE_GUARD];
    peri_status status = place_enqueue(p, op, scratch, bytes);
    peri_status waited = driver->stream_wait(p->stream, NULL);
    place_fetch(p, guard, scratch + bytes, sizeof guard);
    size_t touched = 0;
    for (size_t i = 0; i < sizeof guard; i++) touched += guard[i] != PLACE_PATTERN;
    CHECK(touched == 0, "%zu bytes behind %zu bytes of scratch were written", touched, bytes);
    return status == PERI_OK ? waited : status;
}

#endif
