/* lane.c: pooled streams with arenas.
 *
 * An arena is a short list of blocks. It grows by doubling while a lane is in use; when the lane
 * goes back and more than one block was needed, they are replaced by a single one of their sum,
 * so the next search of that shape takes everything from one block. Who may touch what: the
 * pool's list is guarded by the context's lock; a lane itself belongs to one thread. */
#include "core/lane.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"

#define ARENA_BLOCKS 24
#define ARENA_BYTES_MIN 65536u
#define ARENA_BYTES_KEPT ((size_t)256 << 20)
#define PARKED_MAX 8u /* lanes of a device that are left with work under way */

typedef struct arena {
    struct {
        char *data;
        size_t bytes;
        peri_mem *mem; /* NULL: host memory of the context */
    } blocks[ARENA_BLOCKS];
    size_t count, used; /* used: bytes of the last block */
    size_t bytes;       /* of all blocks */
} arena;

/* Small operands and answers go through page-locked memory of the lane: a copy to or from pageable
 * memory makes the host wait, each by itself. */
#define STAGE_BYTES ((size_t)64 << 10)
#define STAGED_BYTES_MAX ((size_t)8 << 10)
#define PENDING_MAX 8u

typedef struct stage {
    peri_mem *mem;
    bool missing; /* none could be had */
    size_t used;
    size_t pending_count;
    struct {
        void *to;
        const void *from; /* in `mem` */
        size_t bytes;
    } pending[PENDING_MAX]; /* answers, which a wait hands on */
} stage;

struct peri_lane {
    peri_device *device;
    peri_stream *stream;
    arena place, host;
    stage stage;
    bool dirty;               /* something was enqueued since the last wait */
    peri_event *event;        /* orders callers' queues; opened when there is one */
    void (*let_go)(void *ud); /* of a parked lane */
    void *let_go_ud;
    peri_lane *following;
};

/* ---- arenas ------------------------------------------------------------------------------- */

static peri_status arena_grow(peri_lane *lane, arena *a, size_t bytes) {
    if (a->count == ARENA_BLOCKS)
        return peri_fail(PERI_E_MEMORY, "scratch of one search passes %zu bytes", a->bytes);
    char *data = NULL;
    peri_mem *mem = NULL;
    if (a == &lane->host) {
        PERI_TRY(peri_memory_acquire(lane->device->context, bytes, 1, &data));
    } else {
        PERI_TRY(
            peri_device_acquire(lane->device, bytes, PERI_MEMORY_DEVICE, PERI_USE_SCRATCH, &mem));
        data = mem->data;
    }
    a->blocks[a->count].data = data;
    a->blocks[a->count].bytes = bytes;
    a->blocks[a->count].mem = mem;
    a->count++;
    a->used = 0;
    a->bytes += bytes;
    return PERI_OK;
}

static void arena_clear(peri_lane *lane, arena *a) {
    for (size_t i = 0; i < a->count; i++) {
        if (a->blocks[i].mem != NULL)
            lane->device->driver->mem_release(a->blocks[i].mem);
        else
            peri_memory_release(lane->device->context, a->blocks[i].data, a->blocks[i].bytes, 1);
    }
    *a = (arena){ .count = 0 };
}

/* One block in place of several; none when memory is short, which is no failure here. What one
 * very large search took is given back rather than kept. */
static void arena_settle(peri_lane *lane, arena *a) {
    a->used = 0;
    if (a->bytes > ARENA_BYTES_KEPT) arena_clear(lane, a);
    if (a->count < 2) return;
    size_t bytes = a->bytes;
    arena_clear(lane, a);
    (void)arena_grow(lane, a, bytes);
}

static peri_status arena_take(peri_lane *lane, arena *a, size_t count, size_t size, void *out) {
    void **slot = (void **)out;
    size_t bytes;
    *slot = NULL;
    if (!peri_mul_fits(count, size, &bytes) || bytes > SIZE_MAX / 4)
        return peri_fail(PERI_E_MEMORY, "%zu items of %zu bytes are more than memory can hold",
                         count, size);
    if (bytes == 0) return PERI_OK;
    bytes = peri_round_up(bytes, PERI_ALIGN);
    if (a->count == 0 || a->blocks[a->count - 1].bytes - a->used < bytes) {
        size_t wanted = peri_max_size(peri_max_size(bytes, a->bytes), ARENA_BYTES_MIN);
        peri_status status = arena_grow(lane, a, wanted);
        if (status == PERI_E_MEMORY && wanted > bytes) status = arena_grow(lane, a, bytes);
        if (status != PERI_OK) return status;
    }
    *slot = a->blocks[a->count - 1].data + a->used;
    a->used += bytes;
    return PERI_OK;
}

/* ---- lanes -------------------------------------------------------------------------------- */

static peri_status lane_create(peri_device *device, peri_lane **out) {
    peri_lane *lane;
    PERI_TRY(peri_memory_acquire_zeroed(device->context, 1, sizeof *lane, &lane));
    lane->device = device;
    peri_status status = device->driver->stream_open(device, &lane->stream);
    if (status != PERI_OK) {
        peri_memory_release(device->context, lane, 1, sizeof *lane);
        return status;
    }
    *out = lane;
    return PERI_OK;
}

static void lane_free(peri_lane *lane) {
    peri_device *device = lane->device;
    arena_clear(lane, &lane->place);
    arena_clear(lane, &lane->host);
    if (lane->event != NULL) device->driver->event_close(lane->event);
    if (lane->stage.mem != NULL) device->driver->mem_release(lane->stage.mem);
    device->driver->stream_close(lane->stream);
    peri_memory_release(device->context, lane, 1, sizeof *lane);
}

/* Waits for a parked lane; it is then as good as a new one. */
static void settle(peri_lane *lane) {
    void (*let_go)(void *ud) = lane->let_go;
    (void)peri_lane_wait(lane, NULL);
    lane->let_go = NULL;
    if (let_go != NULL) let_go(lane->let_go_ud);
    peri_lane_rewind(lane);
}

/* Takes the lane that was parked first, when there are as many as there may be. Under the
 * context's lock. */
static peri_lane *take_parked(peri_device *device) {
    void **slot = &device->parked;
    size_t count = 0;
    for (peri_lane *l = device->parked; l != NULL; l = l->following) count++;
    if (count < PARKED_MAX) return NULL;
    while (((peri_lane *)*slot)->following != NULL)
        slot = (void **)&((peri_lane *)*slot)->following;
    peri_lane *lane = *slot;
    *slot = NULL;
    return lane;
}

peri_status peri_lane_acquire(peri_device *device, peri_lane **out) {
    *out = NULL;
    pthread_mutex_lock(&device->context->lock);
    peri_lane *lane = device->lanes, *parked = NULL;
    if (lane != NULL)
        device->lanes = lane->following;
    else
        parked = take_parked(device);
    pthread_mutex_unlock(&device->context->lock);
    if (parked != NULL) {
        settle(parked);
        lane = parked;
    }
    if (lane == NULL) return lane_create(device, out);
    lane->following = NULL;
    *out = lane;
    return PERI_OK;
}

void peri_lane_release(peri_lane *lane) {
    if (lane == NULL) return;
    peri_device *device = lane->device;
    if (lane->dirty) (void)peri_lane_wait(lane, NULL);
    peri_lane_follow(lane, NULL, 0);
    peri_lane_rewind(lane);
    pthread_mutex_lock(&device->context->lock);
    lane->following = device->lanes;
    device->lanes = lane;
    pthread_mutex_unlock(&device->context->lock);
}

void peri_lane_park(peri_lane *lane, void (*let_go)(void *ud), void *ud) {
    peri_device *device = lane->device;
    lane->let_go = let_go;
    lane->let_go_ud = ud;
    peri_lane_follow(lane, NULL, 0);
    pthread_mutex_lock(&device->context->lock);
    lane->following = device->parked;
    device->parked = lane;
    pthread_mutex_unlock(&device->context->lock);
}

void peri_lanes_settle(peri_device *device) {
    pthread_mutex_lock(&device->context->lock);
    peri_lane *lane = device->parked;
    device->parked = NULL;
    pthread_mutex_unlock(&device->context->lock);
    while (lane != NULL) {
        peri_lane *following = lane->following;
        settle(lane);
        peri_lane_release(lane);
        lane = following;
    }
}

void peri_lane_rewind(peri_lane *lane) {
    PERI_ASSERT(!lane->dirty);
    arena_settle(lane, &lane->place);
    arena_settle(lane, &lane->host);
}

void peri_lane_close(peri_lane *lane) {
    if (lane == NULL) return;
    if (lane->dirty) (void)peri_lane_wait(lane, NULL);
    lane_free(lane);
}

bool peri_lanes_trim(peri_device *device) {
    peri_lanes_settle(device);
    pthread_mutex_lock(&device->context->lock);
    peri_lane *lane = device->lanes;
    bool some = lane != NULL;
    device->lanes = NULL;
    pthread_mutex_unlock(&device->context->lock);
    while (lane != NULL) {
        peri_lane *following = lane->following;
        lane_free(lane);
        lane = following;
    }
    return some;
}

void peri_lanes_close(peri_device *device) { (void)peri_lanes_trim(device); }

peri_stream *peri_lane_stream(peri_lane *lane) { return lane->stream; }
peri_device *peri_lane_device(peri_lane *lane) { return lane->device; }

void peri_lane_follow(peri_lane *lane, const peri_control *control, size_t threads) {
    lane->stream->control = control;
    lane->stream->threads = threads;
}

peri_status peri_lane_take(peri_lane *lane, size_t count, size_t size, void *out) {
    return arena_take(lane, &lane->place, count, size, out);
}

peri_status peri_lane_take_host(peri_lane *lane, size_t count, size_t size, void *out) {
    return arena_take(lane, &lane->host, count, size, out);
}

/* ---- callers' queues ---------------------------------------------------------------------- */

peri_status peri_queue_open(peri_device *device, peri_queue queue, peri_stream **out) {
    char place[32];
    *out = NULL;
    if (device->driver->stream_wrap == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "stream: %p given, %s has no queues", queue.handle,
                         peri_place_format(device->place, place, sizeof place));
    return device->driver->stream_wrap(device, queue.handle, out);
}

peri_status peri_queue_wait(peri_context *context, peri_place place, peri_queue queue) {
    peri_device *device;
    peri_stream *stream;
    if (!queue.given) return PERI_OK;
    PERI_TRY(peri_context_device(context, place, &device));
    PERI_TRY(peri_queue_open(device, queue, &stream));
    peri_status status = device->driver->stream_wait(stream, NULL);
    device->driver->stream_close(stream);
    return status;
}

static peri_status order(peri_lane *lane, peri_stream *first, peri_stream *second) {
    const peri_driver *driver = lane->device->driver;
    if (lane->event == NULL) PERI_TRY(driver->event_open(lane->device, &lane->event));
    PERI_TRY(driver->event_record(lane->event, first));
    return driver->event_wait(lane->event, second);
}

peri_status peri_lane_after(peri_lane *lane, peri_stream *caller) {
    lane->dirty = true;
    return order(lane, caller, lane->stream);
}

peri_status peri_lane_before(peri_lane *lane, peri_stream *caller) {
    return order(lane, lane->stream, caller);
}

/* ---- moving operands ---------------------------------------------------------------------- */

/* Page-locked room until the next wait, or NULL. */
static void *stage_take(peri_lane *lane, size_t bytes) {
    stage *s = &lane->stage;
    if (bytes > STAGED_BYTES_MAX || s->missing || s->used + bytes > STAGE_BYTES) return NULL;
    if (s->mem == NULL)
        s->missing = lane->device->driver->mem_acquire(lane->device, STAGE_BYTES,
                                                       PERI_MEMORY_PINNED, PERI_USE_STAGING,
                                                       &s->mem) != PERI_OK;
    if (s->missing) return NULL;
    void *room = (char *)s->mem->data + s->used;
    s->used += peri_round_up(bytes, PERI_ALIGN);
    return room;
}

/* What came, to those who wait for it; `status` is how the wait went. */
static void stage_settle(peri_lane *lane, peri_status status) {
    stage *s = &lane->stage;
    for (size_t i = 0; i < s->pending_count && status == PERI_OK; i++)
        memcpy(s->pending[i].to, s->pending[i].from, s->pending[i].bytes);
    s->pending_count = s->used = 0;
}

static peri_status enqueue_copy(peri_lane *lane, void *to, size_t to_stride, peri_device *to_device,
                                const void *from, size_t from_stride, peri_device *from_device,
                                size_t rows, size_t row_bytes) {
    if (rows == 0 || row_bytes == 0) return PERI_OK;
    lane->dirty = true;
    return lane->device->driver->copy(lane->stream, to, to_stride, to_device, from, from_stride,
                                      from_device, rows, row_bytes);
}

peri_status peri_lane_upload(peri_lane *lane, const void *host, size_t count, size_t size,
                             void *out) {
    if (lane->device->shares_host || host == NULL) {
        *(const void **)out = host;
        return PERI_OK;
    }
    PERI_TRY(peri_lane_take(lane, count, size, out));
    return peri_lane_send(lane, *(void **)out, host, count, size);
}

peri_status peri_lane_upload_view(peri_lane *lane, const peri_view *host, peri_view *out) {
    peri_place place = lane->device->place;
    *out = *host;
    out->place = place;
    if (lane->device->shares_host) return PERI_OK;
    if (host->place.kind == place.kind && host->place.number == place.number) return PERI_OK;
    size_t row_bytes = host->cols * peri_dtype_bytes(host->dtype);
    PERI_TRY(peri_lane_take(lane, host->rows, row_bytes, &out->data));
    out->stride_bytes = row_bytes;
    if (host->stride_bytes == row_bytes || host->rows == 1)
        return peri_lane_send(lane, out->data, host->data, host->rows, row_bytes);
    return enqueue_copy(lane, out->data, row_bytes, lane->device, host->data, host->stride_bytes,
                        NULL, host->rows, row_bytes);
}

peri_status peri_lane_out(peri_lane *lane, void *host, size_t count, size_t size, void *out) {
    if (lane->device->shares_host) {
        *(void **)out = host;
        return PERI_OK;
    }
    return peri_lane_take(lane, count, size, out);
}

peri_status peri_lane_fetch(peri_lane *lane, void *host, const void *place, size_t count,
                            size_t size) {
    if (lane->device->shares_host && host == place) return PERI_OK;
    size_t bytes = count * size;
    stage *s = &lane->stage;
    void *room = lane->device->shares_host || bytes == 0 || s->pending_count == PENDING_MAX
                     ? NULL
                     : stage_take(lane, bytes);
    if (room != NULL) {
        s->pending[s->pending_count].to = host;
        s->pending[s->pending_count].from = room;
        s->pending[s->pending_count++].bytes = bytes;
        host = room;
    }
    return enqueue_copy(lane, host, bytes, NULL, place, bytes, lane->device, 1, bytes);
}

peri_status peri_lane_send(peri_lane *lane, void *place, const void *host, size_t count,
                           size_t size) {
    size_t bytes = count * size;
    void *room = lane->device->shares_host || bytes == 0 ? NULL : stage_take(lane, bytes);
    if (room != NULL) host = memcpy(room, host, bytes);
    return enqueue_copy(lane, place, bytes, lane->device, host, bytes, NULL, 1, bytes);
}

peri_status peri_lane_copy_in(peri_lane *lane, void *place, size_t place_stride, const void *host,
                              size_t host_stride, size_t rows, size_t row_bytes) {
    return enqueue_copy(lane, place, place_stride, lane->device, host, host_stride, NULL, rows,
                        row_bytes);
}

peri_status peri_lane_copy_out(peri_lane *lane, void *host, size_t host_stride, const void *place,
                               size_t place_stride, size_t rows, size_t row_bytes) {
    return enqueue_copy(lane, host, host_stride, NULL, place, place_stride, lane->device, rows,
                        row_bytes);
}

peri_status peri_lane_run(peri_lane *lane, const peri_op *op) {
    const peri_driver *driver = lane->device->driver;
    char reason[256] = "";
    if (!driver->supports(lane->device, op, reason, sizeof reason)) {
        char place[32];
        peri_place_format(lane->device->place, place, sizeof place);
        return peri_fail(PERI_E_UNSUPPORTED, "%s: %s", place, reason);
    }
    size_t bytes = driver->scratch_bytes(lane->device, op);
    void *scratch;
    PERI_TRY(peri_lane_take(lane, bytes, 1, &scratch));
    lane->dirty = true;
    return driver->run(lane->stream, op, scratch, bytes);
}

peri_status peri_lane_wait(peri_lane *lane, const peri_control *control) {
    lane->dirty = false;
    peri_status status = lane->device->driver->stream_wait(lane->stream, control);
    stage_settle(lane, status);
    return status;
}
