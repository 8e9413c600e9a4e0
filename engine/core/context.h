/* context.h: what a context holds. Who may touch what: the counters are atomic; `lock` guards
 * the list of devices; the pool has its own lock (threads.c). */
#ifndef PERI_CORE_CONTEXT_H
#define PERI_CORE_CONTEXT_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/numa.h"
#include "core/status.h"
#include "perigee_backend.h"

#define PERI_DEVICES_MAX 32

typedef struct peri_pool peri_pool;

struct peri_context {
    atomic_size_t references;
    peri_allocator allocator;
    size_t bytes_limit;
    atomic_size_t bytes, bytes_peak, blocks;
    atomic_uint_fast64_t acquired;
    uint32_t threads;
    peri_numa numa;  /* as it was when the context was made */
    peri_pool *pool; /* made on first use */
    pthread_mutex_t lock;
    peri_device *devices[PERI_DEVICES_MAX]; /* opened so far, kept until the context goes */
    size_t device_count;
    void *tensors; /* of others that matrices hold (core/dlpack.c), under the lock */
    char plugin_path[1024];
    peri_context *following; /* in the process's list of contexts */
};

/* The open device of a place, opened now if it was not. PERI_E_FORK when it was opened before a
 * fork, PERI_E_DEVICE when there is none such. Stays valid as long as the context. */
peri_status peri_context_device(peri_context *context, peri_place place, peri_device **out);

/* The driver of a kind, its plug-in loaded on first use; PERI_E_DEVICE says why there is none. */
peri_status peri_driver_find(peri_context *context, peri_place_kind kind, const peri_driver **out);

extern const peri_host peri_engine_host;

#endif
