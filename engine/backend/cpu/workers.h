/* workers.h: how many workers an operation of the cpu backend may use; its scratch has one part
 * for each. */
#ifndef PERI_BACKEND_CPU_WORKERS_H
#define PERI_BACKEND_CPU_WORKERS_H

#include "core/checked.h"
#include "core/threads.h"
#include "perigee_backend.h"

/* The most that any stream of the device may use. */
static inline size_t peri_cpu_workers_max(const peri_device *device) {
    return peri_threads(device->context, device->threads);
}

static inline size_t peri_cpu_workers(const peri_stream *stream) {
    size_t most = peri_cpu_workers_max(stream->device);
    return stream->threads == 0 ? most : peri_min_size(stream->threads, most);
}

/* Cuts `bytes` off the front of `*at` (which may be NULL: then only the sum is wanted) in whole
 * cache lines, so that no two workers share one. */
static inline void *peri_scratch_cut(size_t *at, void *base, size_t bytes) {
    void *part = base == NULL ? NULL : (char *)base + *at;
    *at += peri_round_up(bytes, 64);
    return part;
}

#endif
