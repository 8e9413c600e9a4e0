/* faulty.h: a device whose calls fail when they are told to: the n-th of a sort, or all from the
 * n-th on. It stands before the slots of any driver, so that what is told of a pretended device
 * holds for a GPU too; and before the allocator of a context.
 *
 *     faulty_begin(device);                 from now on its calls are counted
 *     faulty_set(FAULTY_MEMORY, 3);         the third block of it that is asked for is not given
 *     ... faulty_hits() ...                 how often that happened
 *     faulty_set(FAULTY_NONE, 0);
 *
 * Counting is atomic: workers copy too. One device a program. */
#ifndef PERIGEE_SPEC_FAULTY_H
#define PERIGEE_SPEC_FAULTY_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"
#include "perigee_backend.h"

typedef enum faulty_kind {
    FAULTY_NONE,
    FAULTY_MEMORY, /* a block of the device's memory, or of page-locked memory for it */
    FAULTY_HOST,   /* a block of host memory */
    FAULTY_SHORT,  /* any other call, which finds no memory: PERI_E_MEMORY */
    FAULTY_CALL,   /* any other call: PERI_E_DEVICE */
    FAULTY_LOST,   /* that call and all that follow */
} faulty_kind;

static struct {
    const peri_driver *real;
    peri_driver driver;
    atomic_int kind;
    size_t at;
    atomic_size_t seen, hits;
    atomic_size_t blocks; /* of the host that are alive */
} faulty;

/* Whether this call of the kind is the one. */
static inline bool faulty_now(faulty_kind kind) {
    if (atomic_load(&faulty.kind) != (int)kind) return false;
    size_t seen = atomic_fetch_add(&faulty.seen, 1) + 1;
    if (kind == FAULTY_LOST ? seen < faulty.at : seen != faulty.at) return false;
    atomic_fetch_add(&faulty.hits, 1);
    return true;
}

static inline void faulty_set(faulty_kind kind, size_t at) {
    atomic_store(&faulty.kind, FAULTY_NONE);
    faulty.at = at;
    atomic_store(&faulty.seen, 0);
    atomic_store(&faulty.hits, 0);
    atomic_store(&faulty.kind, (int)kind);
}

static inline size_t faulty_hits(void) { return atomic_load(&faulty.hits); }

static inline bool faulty_call(peri_status *status) {
    if (faulty_now(FAULTY_SHORT)) {
        *status = peri_fail(PERI_E_MEMORY, "a call found no memory, as it was told to");
        return true;
    }
    if (!faulty_now(FAULTY_CALL) && !faulty_now(FAULTY_LOST)) return false;
    *status = peri_fail(PERI_E_DEVICE, "a call failed as it was told to");
    return true;
}

/* ---- the slots ---------------------------------------------------------------------------- */

static peri_status faulty_mem_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                      peri_memory_use use, peri_mem **out) {
    *out = NULL;
    if (faulty_now(FAULTY_MEMORY))
        return peri_fail(PERI_E_MEMORY, "%zu bytes needed, 0 bytes free, as it was told to", bytes);
    if (faulty_now(FAULTY_LOST)) return peri_fail(PERI_E_DEVICE, "lost as it was told to");
    return faulty.real->mem_acquire(device, bytes, kind, use, out);
}

static peri_status faulty_mem_wrap(peri_device *device, void *data, size_t bytes, peri_mem **out) {
    peri_status status;
    *out = NULL;
    if (faulty_call(&status)) return status;
    return faulty.real->mem_wrap(device, data, bytes, out);
}

static peri_status faulty_stream_open(peri_device *device, peri_stream **out) {
    peri_status status;
    *out = NULL;
    if (faulty_call(&status)) return status;
    return faulty.real->stream_open(device, out);
}

static peri_status faulty_stream_wrap(peri_device *device, void *foreign, peri_stream **out) {
    peri_status status;
    *out = NULL;
    if (faulty_call(&status)) return status;
    return faulty.real->stream_wrap(device, foreign, out);
}

/* What was enqueued is waited for all the same, as a driver does that tells of a failure. */
static peri_status faulty_stream_wait(peri_stream *stream, const peri_control *control) {
    peri_status status, waited = faulty.real->stream_wait(stream, control);
    return faulty_call(&status) ? status : waited;
}

static peri_status faulty_copy(peri_stream *stream, void *to, size_t to_stride,
                               peri_device *to_device, const void *from, size_t from_stride,
                               peri_device *from_device, size_t rows, size_t row_bytes) {
    peri_status status;
    if (faulty_call(&status)) return status;
    return faulty.real->copy(stream, to, to_stride, to_device, from, from_stride, from_device, rows,
                             row_bytes);
}

static peri_status faulty_fill(peri_stream *stream, void *to, int byte, size_t bytes) {
    peri_status status;
    return faulty_call(&status) ? status : faulty.real->fill(stream, to, byte, bytes);
}

static peri_status faulty_run(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes) {
    peri_status status;
    return faulty_call(&status) ? status : faulty.real->run(stream, op, scratch, bytes);
}

static peri_status faulty_event_open(peri_device *device, peri_event **out) {
    peri_status status;
    *out = NULL;
    return faulty_call(&status) ? status : faulty.real->event_open(device, out);
}

static peri_status faulty_event_record(peri_event *event, peri_stream *stream) {
    peri_status status;
    return faulty_call(&status) ? status : faulty.real->event_record(event, stream);
}

static peri_status faulty_event_wait(peri_event *event, peri_stream *stream) {
    peri_status status;
    return faulty_call(&status) ? status : faulty.real->event_wait(event, stream);
}

static inline void faulty_begin(peri_device *device) {
    faulty.real = device->driver;
    faulty.driver = *device->driver;
    faulty.driver.mem_acquire = faulty_mem_acquire;
    faulty.driver.mem_wrap = faulty_mem_wrap;
    faulty.driver.stream_open = faulty_stream_open;
    faulty.driver.stream_wrap = faulty_stream_wrap;
    faulty.driver.stream_wait = faulty_stream_wait;
    faulty.driver.copy = faulty_copy;
    faulty.driver.fill = faulty_fill;
    faulty.driver.run = faulty_run;
    faulty.driver.event_open = faulty_event_open;
    faulty.driver.event_record = faulty_event_record;
    faulty.driver.event_wait = faulty_event_wait;
    device->driver = &faulty.driver;
}

static inline void faulty_end(peri_device *device) {
    faulty_set(FAULTY_NONE, 0);
    device->driver = faulty.real;
}

/* ---- host memory -------------------------------------------------------------------------- */

static void *faulty_resize(void *ud, void *p, size_t old_bytes, size_t new_bytes, size_t align) {
    (void)ud;
    if (new_bytes == 0) {
        if (p != NULL) atomic_fetch_sub(&faulty.blocks, 1);
        free(p);
        return NULL;
    }
    if (faulty_now(FAULTY_HOST)) return NULL;
    size_t bytes = (new_bytes + align - 1) / align * align;
    void *block = aligned_alloc(align < sizeof(void *) ? sizeof(void *) : align, bytes);
    if (block != NULL && p != NULL) {
        memcpy(block, p, old_bytes < new_bytes ? old_bytes : new_bytes);
        free(p);
    } else if (block != NULL) {
        atomic_fetch_add(&faulty.blocks, 1);
    }
    return block;
}

#endif
