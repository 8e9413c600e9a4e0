/* ring.c: two page-locked blocks a worker. A worker fills one while the other is on its way, and no
 * worker waits for another.
 *
 * All copies are enqueued on one stream, which keeps the link busier than a stream a block does
 * (50.3 of 55 GB/s in place of 49.0; down 49.9, 45.7), and a block has a stream of its own that
 * only awaits its last copy: waiting for a block is waiting for that. Blocks of 4 MiB cost 5 % of
 * the link between copies, those of 2 MiB 8 %; 12 threads copy as much as 16. Stores past the
 * caches lost a third. (Medians on an H200 with 16 cores of one Xeon, memory and mapped files
 * alike; page-locking the rows themselves gives 55 GB/s, and takes as long as a copy.)
 *
 * Who may touch what: the pool's list is guarded by the context's lock; a ring belongs to one
 * transfer, and in it a block to one worker, and the one stream to who has its lock. */
#include "core/ring.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/threads.h"

#define WORKERS 12 /* as many fill the link: one copies some 6 GB/s, it takes 55 */
#define BLOCKS (2 * WORKERS)
#define BLOCK_BYTES PERI_RING_ROW_BYTES_MAX
#define BLOCK_BYTES_LEAST ((size_t)256 << 10) /* of small transfers: all workers have some */

typedef struct block {
    peri_mem *mem;
    peri_event *event;   /* behind its last copy */
    peri_stream *stream; /* awaits that */
    bool busy;           /* a copy was enqueued since the last wait */
    /* of a download: where its rows go once they are here */
    char *to;
    size_t rows;
} block;

struct peri_ring {
    peri_device *device;
    peri_stream *stream; /* of all copies */
    peri_event *event;   /* behind those that a lane waits for */
    pthread_mutex_t lock;
    block blocks[BLOCKS]; /* worker w has 2 w and 2 w + 1 */
    size_t turn[WORKERS];
    peri_ring *following;
};

/* ---- the pool ----------------------------------------------------------------------------- */

static void ring_free(peri_ring *ring) {
    const peri_driver *driver = ring->device->driver;
    for (size_t i = 0; i < BLOCKS; i++) {
        if (ring->blocks[i].event != NULL) driver->event_close(ring->blocks[i].event);
        driver->stream_close(ring->blocks[i].stream);
        driver->mem_release(ring->blocks[i].mem);
    }
    if (ring->event != NULL) driver->event_close(ring->event);
    driver->stream_close(ring->stream);
    pthread_mutex_destroy(&ring->lock);
    peri_memory_release(ring->device->context, ring, 1, sizeof *ring);
}

static peri_status ring_create(peri_device *device, peri_ring **out) {
    const peri_driver *driver = device->driver;
    peri_ring *ring;
    PERI_TRY(peri_memory_acquire_zeroed(device->context, 1, sizeof *ring, &ring));
    ring->device = device;
    pthread_mutex_init(&ring->lock, NULL);
    peri_status status;
    PERI_GO(driver->stream_open(device, &ring->stream));
    PERI_GO(driver->event_open(device, &ring->event));
    for (size_t i = 0; i < BLOCKS; i++) {
        block *b = &ring->blocks[i];
        PERI_GO(driver->mem_acquire(device, BLOCK_BYTES, PERI_MEMORY_PINNED, PERI_USE_STAGING,
                                    &b->mem));
        PERI_GO(driver->stream_open(device, &b->stream));
        PERI_GO(driver->event_open(device, &b->event));
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

/* ---- transfers ---------------------------------------------------------------------------- */

static peri_status wait_block(peri_ring *ring, block *b) {
    if (!b->busy) return PERI_OK;
    b->busy = false;
    return ring->device->driver->stream_wait(b->stream, NULL);
}

/* A copy that failed is known to the stream that it was on. */
peri_status peri_ring_wait(peri_ring *ring) {
    peri_status status = ring->device->driver->stream_wait(ring->stream, NULL);
    for (size_t i = 0; i < BLOCKS; i++) {
        peri_status waited = wait_block(ring, &ring->blocks[i]);
        if (status == PERI_OK) status = waited;
    }
    return status;
}

peri_status peri_ring_before(peri_ring *ring, peri_lane *lane) {
    const peri_driver *driver = ring->device->driver;
    PERI_TRY(driver->event_record(ring->event, ring->stream));
    return driver->event_wait(ring->event, peri_lane_stream(lane));
}

/* The block of a worker whose turn it is. */
static block *next_block(peri_ring *ring, size_t worker) {
    return &ring->blocks[2 * worker + ring->turn[worker]++ % 2];
}

static void move_rows(char *to, size_t to_stride, const char *from, size_t from_stride, size_t rows,
                      size_t row_bytes) {
    if (to_stride == row_bytes && from_stride == row_bytes) {
        memcpy(to, from, rows * row_bytes);
        return;
    }
    for (size_t r = 0; r < rows; r++) memcpy(to + r * to_stride, from + r * from_stride, row_bytes);
}

typedef struct transfer {
    peri_ring *ring;
    char *to;
    const char *from;
    size_t to_stride, from_stride, rows, row_bytes;
    size_t step; /* rows of a block */
} transfer;

/* Enqueues a copy between a block and the device, and what waits for it. */
static peri_status enqueue(const transfer *t, block *b, void *to, size_t to_stride,
                           const void *from, size_t from_stride, size_t rows, bool up) {
    peri_ring *ring = t->ring;
    const peri_driver *driver = ring->device->driver;
    peri_device *to_device = up ? ring->device : NULL, *from_device = up ? NULL : ring->device;
    pthread_mutex_lock(&ring->lock);
    peri_status status = driver->copy(ring->stream, to, to_stride, to_device, from, from_stride,
                                      from_device, rows, t->row_bytes);
    if (status == PERI_OK) status = driver->event_record(b->event, ring->stream);
    pthread_mutex_unlock(&ring->lock);
    b->busy = true;
    return status == PERI_OK ? driver->event_wait(b->event, b->stream) : status;
}

static peri_status upload_task(void *ud, size_t task, size_t worker) {
    const transfer *t = ud;
    size_t first = task * t->step, count = peri_min_size(t->step, t->rows - first);
    block *b = next_block(t->ring, worker);
    PERI_TRY(wait_block(t->ring, b));
    move_rows(b->mem->data, t->row_bytes, t->from + first * t->from_stride, t->from_stride, count,
              t->row_bytes);
    return enqueue(t, b, t->to + first * t->to_stride, t->to_stride, b->mem->data, t->row_bytes,
                   count, true);
}

/* Waits for the rows that come to a block and hands them on. */
static peri_status empty_block(const transfer *t, block *b) {
    if (!b->busy) return PERI_OK;
    PERI_TRY(wait_block(t->ring, b));
    move_rows(b->to, t->to_stride, b->mem->data, t->row_bytes, b->rows, t->row_bytes);
    return PERI_OK;
}

/* Asks for the rows of this task, then hands on those that the worker asked for before. */
static peri_status download_task(void *ud, size_t task, size_t worker) {
    const transfer *t = ud;
    size_t first = task * t->step;
    block *b = next_block(t->ring, worker), *before = &t->ring->blocks[2 * worker];
    if (before == b) before++;
    b->to = t->to + first * t->to_stride;
    b->rows = peri_min_size(t->step, t->rows - first);
    PERI_TRY(enqueue(t, b, b->mem->data, t->row_bytes, t->from + first * t->from_stride,
                     t->from_stride, b->rows, false));
    return empty_block(t, before);
}

static peri_status empty_task(void *ud, size_t task, size_t worker) {
    const transfer *t = ud;
    (void)worker;
    return empty_block(t, &t->ring->blocks[task]);
}

static size_t threads_of(const peri_ring *ring, const peri_ring_way *way) {
    size_t most = way->threads == 0 ? WORKERS : peri_min_size(way->threads, WORKERS);
    return peri_threads(ring->device->context, most);
}

/* Rows of a block: as many as fit, fewer where that leaves workers without any. */
static size_t step_of(const peri_ring *ring, size_t rows, size_t row_bytes,
                      const peri_ring_way *way) {
    size_t each = peri_ceil_div(rows, 2 * threads_of(ring, way));
    size_t least = peri_max_size(BLOCK_BYTES_LEAST / row_bytes, 1);
    return peri_min_size(peri_max_size(each, least), BLOCK_BYTES / row_bytes);
}

/* On the workers of the pool; on this thread alone when it is one of them. */
static peri_status run(peri_ring *ring, peri_task_fn fn, transfer *t, size_t tasks,
                       const peri_ring_way *way) {
    if (!peri_inside_task() && tasks > 1) {
        peri_loop loop = { way->stage == NULL ? "copy" : way->stage, threads_of(ring, way),
                           way->control };
        return peri_parallel(ring->device->context, &loop, tasks, fn, t);
    }
    for (size_t i = 0; i < tasks; i++) PERI_TRY(fn(t, i, 0));
    return PERI_OK;
}

peri_status peri_ring_upload(peri_ring *ring, void *to, size_t to_stride, const void *from,
                             size_t from_stride, size_t rows, size_t row_bytes,
                             const peri_ring_way *way) {
    PERI_ASSERT(row_bytes > 0 && row_bytes <= BLOCK_BYTES);
    transfer t = { ring,        to,   from,      to_stride,
                   from_stride, rows, row_bytes, step_of(ring, rows, row_bytes, way) };
    return run(ring, upload_task, &t, peri_ceil_div(rows, t.step), way);
}

peri_status peri_ring_download(peri_ring *ring, void *to, size_t to_stride, const void *from,
                               size_t from_stride, size_t rows, size_t row_bytes,
                               const peri_ring_way *way) {
    const peri_ring_way rest = { way->threads, NULL, way->stage };
    PERI_ASSERT(row_bytes > 0 && row_bytes <= BLOCK_BYTES);
    PERI_TRY(peri_ring_wait(ring));
    transfer t = { ring,        to,   from,      to_stride,
                   from_stride, rows, row_bytes, step_of(ring, rows, row_bytes, way) };
    PERI_TRY(run(ring, download_task, &t, peri_ceil_div(rows, t.step), way));
    PERI_TRY(run(ring, empty_task, &t, BLOCKS, &rest));
    return peri_ring_wait(ring);
}
