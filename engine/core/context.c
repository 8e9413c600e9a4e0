/* context.c: contexts, their devices, and the drivers of the process.
 *
 * Locks, in the order in which they are taken: `contexts_lock` (list of contexts), a context's
 * `lock` (devices, lanes, pool pointer), `driver_lock` (the plug-in). The prepare handler of a
 * fork takes all of them in this order, so that a child finds none held. */
#include "core/context.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "backend/drivers.h"
#include "core/checked.h"
#include "core/lane.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/ring.h"
#include "core/threads.h"

#define THREADS_MAX 1024u

static pthread_mutex_t contexts_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static peri_context *contexts;

const peri_host peri_engine_host = { PERI_BACKEND_ABI, peri_fail, peri_memory_host_resize,
                                     peri_process_generation };

/* ---- fork --------------------------------------------------------------------------------- */

static void before_fork(void) {
    pthread_mutex_lock(&contexts_lock);
    for (peri_context *c = contexts; c != NULL; c = c->following) pthread_mutex_lock(&c->lock);
    pthread_mutex_lock(&driver_lock);
}

static void after_fork(void) {
    pthread_mutex_unlock(&driver_lock);
    for (peri_context *c = contexts; c != NULL; c = c->following) pthread_mutex_unlock(&c->lock);
    pthread_mutex_unlock(&contexts_lock);
}

static void after_fork_child(void) {
    peri_process_forked();
    after_fork();
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork, after_fork_child); }

/* ---- contexts ----------------------------------------------------------------------------- */

static uint32_t cpu_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : (uint32_t)count;
}

/* The folder of the shared object that holds the engine. */
static void own_folder(char *path, size_t size) {
    Dl_info info;
    path[0] = '\0';
    if (dladdr((const void *)&peri_engine_host, &info) == 0 || info.dli_fname == NULL) return;
    const char *slash = strrchr(info.dli_fname, '/');
    if (slash == NULL)
        snprintf(path, size, ".");
    else
        snprintf(path, size, "%.*s", (int)(slash - info.dli_fname), info.dli_fname);
}

static peri_status check_options(const peri_context_options *options) {
    if (options->size != sizeof *options)
        return peri_fail(PERI_E_ARGUMENT, "options.size: %u given, this library takes %zu",
                         options->size, sizeof *options);
    if (options->threads > THREADS_MAX)
        return peri_fail(PERI_E_ARGUMENT, "threads: %u given, allowed: 0..%u", options->threads,
                         THREADS_MAX);
    return PERI_OK;
}

peri_status peri_context_create(const peri_context_options *options, peri_context **out) {
    static const peri_context_options plain = PERI_CONTEXT_OPTIONS_INIT;
    *out = NULL;
    if (options == NULL) options = &plain;
    PERI_TRY(check_options(options));
    pthread_once(&fork_once, watch_forks);
    peri_allocator allocator = options->allocator.resize == NULL ? peri_library_allocator
                                                                 : options->allocator;
    peri_context *context = allocator.resize(allocator.ud, NULL, 0, sizeof *context, PERI_ALIGN);
    if (context == NULL) return peri_fail(PERI_E_MEMORY, "no memory for a context");
    memset(context, 0, sizeof *context);
    atomic_init(&context->references, 1);
    context->allocator = allocator;
    context->bytes_limit = options->memory_bytes;
    context->threads = options->threads == 0 ? cpu_count() : options->threads;
    peri_numa_find(&context->numa);
    pthread_mutex_init(&context->lock, NULL);
    if (options->plugin_path != NULL)
        snprintf(context->plugin_path, sizeof context->plugin_path, "%s", options->plugin_path);
    else
        own_folder(context->plugin_path, sizeof context->plugin_path);
    pthread_mutex_lock(&contexts_lock);
    context->following = contexts;
    contexts = context;
    pthread_mutex_unlock(&contexts_lock);
    *out = context;
    return PERI_OK;
}

void peri_context_retain(peri_context *context) { atomic_fetch_add(&context->references, 1); }

static void context_free(peri_context *context) {
    pthread_mutex_lock(&contexts_lock);
    peri_context **slot = &contexts;
    while (*slot != context) slot = &(*slot)->following;
    *slot = context->following;
    pthread_mutex_unlock(&contexts_lock);
    for (size_t i = 0; i < context->device_count; i++) {
        peri_device *device = context->devices[i];
        peri_lanes_close(device);
        (void)peri_rings_trim(device);
        device->driver->device_close(device);
    }
    peri_pool_close(context);
    pthread_mutex_destroy(&context->lock);
    peri_allocator allocator = context->allocator;
    PERI_ASSERT(atomic_load(&context->blocks) == 0);
    allocator.resize(allocator.ud, context, sizeof *context, 0, PERI_ALIGN);
}

void peri_context_release(peri_context *context) {
    if (context != NULL && atomic_fetch_sub(&context->references, 1) == 1) context_free(context);
}

void peri_context_stat(const peri_context *context, peri_context_stats *out) {
    *out = (peri_context_stats){ .bytes = atomic_load(&context->bytes),
                                 .bytes_peak = atomic_load(&context->bytes_peak),
                                 .bytes_limit = context->bytes_limit,
                                 .blocks = atomic_load(&context->blocks),
                                 .acquired = atomic_load(&context->acquired),
                                 .threads = context->threads,
                                 .numa_nodes = context->numa.nodes };
}

/* ---- drivers and devices ------------------------------------------------------------------ */

/* A driver that does not say what it is asked for is none; nothing but its head is read. */
static const peri_driver *check_plugin(const peri_driver *driver, char *reason, size_t size) {
    if (driver == NULL) {
        const char *why = peri_error_detail();
        snprintf(reason, size, "the CUDA plug-in declined: %.400s",
                 why[0] == '\0' ? "it gave no reason" : why);
        return NULL;
    }
    if (driver->abi != PERI_BACKEND_ABI) {
        snprintf(reason, size,
                 "the CUDA plug-in is of interface %u, this library of %u: build both together",
                 driver->abi, PERI_BACKEND_ABI);
        return NULL;
    }
    if (driver->kind == PERI_PLACE_CUDA) return driver;
    snprintf(reason, size, "the CUDA plug-in is for another kind of place, %d", (int)driver->kind);
    return NULL;
}

/* The CUDA plug-in, opened once a process; under driver_lock. */
static peri_status load_plugin(const char *folder, const peri_driver **out) {
    static const peri_driver *loaded;
    static char reason[512];
    if (loaded == NULL && reason[0] == '\0') {
        char path[1200];
        snprintf(path, sizeof path, "%s/perigee_cuda.so", folder);
        void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        peri_plugin_fn open = NULL;
        if (object != NULL) *(void **)&open = dlsym(object, PERI_PLUGIN_SYMBOL);
        if (open == NULL) {
            snprintf(reason, sizeof reason, "no CUDA plug-in: %.400s", dlerror());
        } else {
            (void)peri_fail(PERI_E_DEVICE, "%s", ""); /* what it says is its own */
            loaded = check_plugin(open(PERI_BACKEND_ABI, &peri_engine_host), reason, sizeof reason);
        }
    }
    *out = loaded;
    return loaded == NULL ? peri_fail(PERI_E_DEVICE, "%s", reason) : PERI_OK;
}

peri_status peri_driver_find(peri_context *context, peri_place_kind kind, const peri_driver **out) {
    switch (kind) {
    case PERI_PLACE_CPU: *out = &peri_cpu_driver; return PERI_OK;
    case PERI_PLACE_REF: *out = &peri_ref_driver; return PERI_OK;
    case PERI_PLACE_FAKE: *out = &peri_fake_driver; return PERI_OK;
    case PERI_PLACE_CUDA: break;
    }
    pthread_mutex_lock(&driver_lock);
    peri_status status = load_plugin(context->plugin_path, out);
    pthread_mutex_unlock(&driver_lock);
    return status;
}

static peri_device *find_open(peri_context *context, peri_place place) {
    for (size_t i = 0; i < context->device_count; i++) {
        peri_place at = context->devices[i]->place;
        if (at.kind == place.kind && at.number == place.number) return context->devices[i];
    }
    return NULL;
}

/* Whether the driver has the device of a place; says why not. */
static peri_status check_place(const peri_driver *driver, peri_place place) {
    char name[32];
    uint32_t count = 0;
    PERI_TRY(driver->device_count(&peri_engine_host, &count));
    peri_place_format(place, name, sizeof name);
    if (count == 0) return peri_fail(PERI_E_DEVICE, "%s: %s", name, peri_error_detail());
    if (place.number >= count)
        return peri_fail(PERI_E_DEVICE, "place: '%s' given, there are %u such devices, 0..%u", name,
                         count, count - 1);
    return PERI_OK;
}

/* Opens a device under the context's lock. */
static peri_status open_device(peri_context *context, const peri_driver *driver, peri_place place,
                               peri_device **out) {
    PERI_TRY(check_place(driver, place));
    if (context->device_count == PERI_DEVICES_MAX)
        return peri_fail(PERI_E_DEVICE, "more than %d devices opened", PERI_DEVICES_MAX);
    peri_device *device;
    PERI_TRY(
        driver->device_open(&peri_engine_host, context, place.number, context->threads, &device));
    device->driver = driver;
    device->host = &peri_engine_host;
    device->context = context;
    device->place = place;
    device->generation = peri_process_generation();
    device->lanes = NULL;
    device->parked = NULL;
    device->rings = NULL;
    context->devices[context->device_count++] = device;
    *out = device;
    return PERI_OK;
}

peri_status peri_context_device(peri_context *context, peri_place place, peri_device **out) {
    *out = NULL;
    const peri_driver *driver;
    PERI_TRY(peri_driver_find(context, (peri_place_kind)place.kind, &driver));
    peri_status status = PERI_OK;
    pthread_mutex_lock(&context->lock);
    peri_device *device = find_open(context, place);
    if (device == NULL) PERI_GO(open_device(context, driver, place, &device));
    if (!device->shares_host && device->generation != peri_process_generation()) {
        char name[32];
        status = peri_fail(PERI_E_FORK, "%s was opened before a fork",
                           peri_place_format(place, name, sizeof name));
        goto done;
    }
    *out = device;
done:
    pthread_mutex_unlock(&context->lock);
    return status;
}

peri_status peri_device_count(peri_context *context, peri_place_kind kind, uint32_t *out) {
    const peri_driver *driver;
    *out = 0;
    if (peri_driver_find(context, kind, &driver) != PERI_OK) return PERI_OK;
    peri_status status = driver->device_count(&peri_engine_host, out);
    return status == PERI_E_FORK ? PERI_OK : status; /* none, and the detail says why */
}

peri_status peri_device_stat(peri_context *context, peri_place place, peri_device_info *out) {
    const peri_driver *driver;
    memset(out, 0, sizeof *out);
    PERI_TRY(peri_driver_find(context, (peri_place_kind)place.kind, &driver));
    PERI_TRY(check_place(driver, place));
    pthread_mutex_lock(&context->lock);
    peri_device *device = find_open(context, place);
    peri_status status = driver->device_stat(&peri_engine_host, place.number, device, out);
    pthread_mutex_unlock(&context->lock);
    return status;
}
