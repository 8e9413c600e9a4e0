/* ring.c: three page-locked blocks, each with a queue of its own: waiting for a block is waiting
 * for its queue. Who may touch what: the pool's list is guarded by the context's lock; a ring
 * itself belongs to one thread. */
#include "core/ring.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/threads.h"

#define BLOCKS 3
#define BLOCK_BYTES PERI_RING_ROW_BYTES_MAX /* 150 us at 55 GB/s, ten times what a start takes */
#define PIECE_BYTES ((size_t)256 << 10)     /* of a block, one task of a worker */

typedef struct block {
    peri_mem *mem;
    peri_stream *stream;
    bool busy; /* a copy was enqueued since the last wait */
    /* of a download: where its rows go once they are here */
    char *to;
    size_t to_stride, rows;
} block;

struct peri_ring {
    peri_device *device;
    block blocks[BLOCKS];
    size_t turn;
    peri_ring *following;
};

/* ---- the pool ----------------------------------------------------------------------------- */

static void ring_free(peri_ring *ring) {
    const peri_driver *driver = ring->device->driver;
    for (size_t i = 0; i < BLOCKS; i++) {
        driver->stream_close(ring->blocks[i].stream);
        driver->mem_release(ring->blocks[i].mem);
    }
    peri_memory_release(ring->device->context, ring, 1, sizeof *ring);
}

static peri_status ring_create(peri_device *device, peri_ring **out) {
    peri_ring *ring;
    PERI_TRY(peri_memory_acquire_zeroed(device->context, 1, sizeof *ring, &ring));
    ring->device = device;
    peri_status status;
    for (size_t i = 0; i < BLOCKS; i++) {
        PERI_GO(device->driver->mem_acquire(device, BLOCK_BYTES, PERI_MEMORY_PINNED,
                                            PERI_USE_STAGING, &ring->blocks[i].mem));
        PERI_GO(device->driver->stream_open(device, &ring->blocks[i].stream));
    }
    *out = ring;
    return PERI_OK;
done:
    ring_free(ring);
    return status;
}

peri_status peri_ring_acquire(peri_device *device, peri_ring **out) {
    *out = NULL;
    if (device->shares_host) return PERI_OK;
    pthread_mutex_lock(&device->context->lock);
    peri_ring *ring = device->rings;
    if (ring != NULL) device->rings = ring->following;
    pthread_mutex_unlock(&device->context->lock);
    *out = ring;
    if (ring != NULL) return PERI_OK;
    peri_status status = ring_create(device, out);
    return status == PERI_E_MEMORY ? PERI_OK : status; /* page-locked memory is often limited */
}

void peri_ring_release(peri_ring *ring) {
    if (ring == NULL) return;
    peri_device *device = ring->device;
    (void)peri_ring_wait(ring);
    pthread_mutex_lock(&device->context->lock);
    ring->following = device->rings;
    device->rings = ring;
    pthread_mutex_unlock(&device->context->lock);
}

bool peri_rings_trim(peri_device *device) {
    pthread_mutex_lock(&device->context->lock);
    peri_ring *ring = device->rings;
    bool some = ring != NULL;
    device->rings = NULL;
    pthread_mutex_unlock(&device->context->lock);
    while (ring != NULL) {
        peri_ring *following = ring->following;
        ring_free(ring);
        ring = following;
    }
    return some;
}

/* ---- host to host, on all threads --------------------------------------------------------- */

typedef struct move {
    char *to;
    const char *from;
    size_t to_stride, from_stride, rows, row_bytes;
    size_t task_rows;
} move;

static peri_status move_task(void *ud, size_t task, size_t worker) {
    const move *m = ud;
    size_t first = task * m->task_rows, stop = peri_min_size(m->rows, first + m->task_rows);
    (void)worker;
    if (m->to_stride == m->row_bytes && m->from_stride == m->row_bytes) {
        memcpy(m->to + first * m->row_bytes, m->from + first * m->row_bytes,
               (stop - first) * m->row_bytes);
        return PERI_OK;
    }
    for (size_t r = first; r < stop; r++)
        memcpy(m->to + r * m->to_stride, m->from + r * m->from_stride, m->row_bytes);
    return PERI_OK;
}

static peri_status move_rows(const peri_ring *ring, move m, const peri_ring_way *way) {
    m.task_rows = peri_max_size(1, PIECE_BYTES / m.row_bytes);
    size_t tasks = peri_ceil_div(m.rows, m.task_rows);
    if (!peri_inside_task() && tasks > 1) {
        peri_loop loop = { NULL, way->threads, NULL };
        return peri_parallel(ring->device->context, &loop, tasks, move_task, &m);
    }
    for (size_t t = 0; t < tasks; t++) PERI_TRY(move_task(&m, t, 0));
    return PERI_OK;
}

/* ---- transfers ---------------------------------------------------------------------------- */

static peri_status poll(const peri_ring_way *way, size_t rows) {
    const peri_control *control = way->control;
    if (control == NULL || control->poll == NULL) return PERI_OK;
    return control->poll(control->ud, way->stage == NULL ? "copy" : way->stage, way->done + rows,
                         way->total);
}

static peri_status wait_block(peri_ring *ring, block *b) {
    if (!b->busy) return PERI_OK;
    b->busy = false;
    return ring->device->driver->stream_wait(b->stream, NULL);
}

peri_status peri_ring_wait(peri_ring *ring) {
    peri_status status = PERI_OK;
    for (size_t i = 0; i < BLOCKS; i++) {
        peri_status waited = wait_block(ring, &ring->blocks[i]);
        if (status == PERI_OK) status = waited;
    }
    return status;
}

static block *next_block(peri_ring *ring) { return &ring->blocks[ring->turn++ % BLOCKS]; }

peri_status peri_ring_upload(peri_ring *ring, void *to, size_t to_stride, const void *from,
                             size_t from_stride, size_t rows, size_t row_bytes,
                             const peri_ring_way *way) {
    const peri_driver *driver = ring->device->driver;
    PERI_ASSERT(row_bytes > 0 && row_bytes <= BLOCK_BYTES);
    size_t step = BLOCK_BYTES / row_bytes;
    for (size_t first = 0; first < rows; first += step) {
        size_t count = peri_min_size(step, rows - first);
        block *b = next_block(ring);
        move m = { b->mem->data,
                   (const char *)from + first * from_stride,
                   row_bytes,
                   from_stride,
                   count,
                   row_bytes,
                   0 };
        PERI_TRY(poll(way, first));
        PERI_TRY(wait_block(ring, b));
        PERI_TRY(move_rows(ring, m, way));
        b->busy = true;
        PERI_TRY(driver->copy(b->stream, (char *)to + first * to_stride, to_stride, ring->device,
                              b->mem->data, row_bytes, NULL, count, row_bytes));
    }
    return PERI_OK;
}

/* Waits for the rows that come to a block and hands them on. */
static peri_status empty_block(peri_ring *ring, block *b, size_t row_bytes,
                               const peri_ring_way *way) {
    if (!b->busy) return PERI_OK;
    PERI_TRY(wait_block(ring, b));
    move m = { b->to, b->mem->data, b->to_stride, row_bytes, b->rows, row_bytes, 0 };
    return move_rows(ring, m, way);
}

peri_status peri_ring_download(peri_ring *ring, void *to, size_t to_stride, const void *from,
                               size_t from_stride, size_t rows, size_t row_bytes,
                               const peri_ring_way *way) {
    const peri_driver *driver = ring->device->driver;
    PERI_ASSERT(row_bytes > 0 && row_bytes <= BLOCK_BYTES);
    PERI_TRY(peri_ring_wait(ring));
    size_t step = BLOCK_BYTES / row_bytes;
    for (size_t first = 0; first < rows; first += step) {
        block *b = next_block(ring);
        PERI_TRY(poll(way, first));
        PERI_TRY(empty_block(ring, b, row_bytes, way));
        b->to = (char *)to + first * to_stride;
        b->to_stride = to_stride;
        b->rows = peri_min_size(step, rows - first);
        b->busy = true;
        PERI_TRY(driver->copy(b->stream, b->mem->data, row_bytes, NULL,
                              (const char *)from + first * from_stride, from_stride, ring->device,
                              b->rows, row_bytes));
    }
    for (size_t i = 0; i < BLOCKS; i++)
        PERI_TRY(empty_block(ring, next_block(ring), row_bytes, way));
    return PERI_OK;
}
