/* chunks.c: the one loop in which rows pass a device.
 *
 * Step i: the work on chunk i is enqueued, behind its copy and behind the work on chunk i - 1; that
 * is waited for, and taken; then chunk i + 1 goes into the buffer that it leaves. So the link and
 * the device are both busy, and neither waits at the border of chunks for what is still on its way.
 * Lanes are rewound once their work was waited for, which is why there are two. */
#include "core/chunks.h"

#include "core/checked.h"

#define CHUNK_BYTES_MAX                                                                            \
    ((size_t)256 << 20) /* 5 ms of a link of 55 GB/s: waits are small beside it */
#define SHARE 6         /* of what is free, each buffer; the two lanes have the rest */

/* What a step has under way. */
typedef struct step {
    peri_chunk chunk;
    bool under_way;
} step;

static peri_lane *lane_of(const peri_chunks *c, const peri_chunk *chunk) {
    return c->lanes[c->lanes[1] == NULL ? 0 : chunk->turn];
}

static bool rows_there(const peri_chunks *c) {
    return peri_place_equal(c->all.place, c->device->place);
}

/* The work on a chunk asks too, but what counts is the rows that are done. */
static peri_status poll_quietly(void *ud, const char *stage, size_t done, size_t total) {
    peri_chunks *c = ud;
    (void)stage;
    (void)done;
    (void)total;
    return c->progress->control.poll(c->progress->control.ud, NULL, 0, 0);
}

static size_t steps(const peri_chunks *c, size_t rows) { return rows * (c->each ? c->each : 1); }

/* ---- one chunk ---------------------------------------------------------------------------- */

static peri_chunk chunk_at(const peri_chunks *c, size_t first, size_t turn) {
    size_t count = peri_min_size(c->chunk_rows, c->all.rows - first);
    peri_chunk chunk = { .rows = c->all, .first = first, .turn = turn };
    peri_mem *buffer = c->buffers[turn];
    size_t held = rows_there(c) ? 0 : c->chunk_rows * c->row_bytes;
    chunk.rows.rows = count;
    if (c->out_bytes > 0) chunk.out = (char *)buffer->data + held;
    if (rows_there(c)) {
        chunk.rows.data = peri_view_row(&c->all, first);
        return chunk;
    }
    chunk.rows.data = buffer->data;
    chunk.rows.stride_bytes = c->row_bytes;
    chunk.rows.place = c->device->place;
    return chunk;
}

/* The host rows were read when it returns, or are read by the driver in the lane's order; what is
 * enqueued on the lane comes after them. */
static peri_status send(peri_chunks *c, const peri_chunk *chunk) {
    const char *from = (const char *)c->all.data + chunk->first * c->all.stride_bytes;
    peri_lane *lane = lane_of(c, chunk);
    if (rows_there(c)) return PERI_OK;
    if (c->ring == NULL || peri_matrix_pinned(c->rows))
        return peri_lane_copy_in(lane, chunk->rows.data, c->row_bytes, from, c->all.stride_bytes,
                                 chunk->rows.rows, c->row_bytes);
    const peri_ring_way way = { c->threads, &c->progress->control, c->progress->stage };
    PERI_TRY(peri_ring_upload(c->ring, chunk->rows.data, c->row_bytes, from, c->all.stride_bytes,
                              chunk->rows.rows, c->row_bytes, &way));
    return peri_ring_before(c->ring, lane);
}

static peri_status run(peri_chunks *c, step *s, bool follows) {
    peri_lane *lane = lane_of(c, &s->chunk);
    if (follows) PERI_TRY(peri_lane_after(lane, peri_lane_stream(c->lanes[1 - s->chunk.turn])));
    PERI_TRY(c->run(c->ud, lane, &s->chunk));
    s->under_way = true;
    return PERI_OK;
}

/* Waits for the work on a chunk and has it taken. */
static peri_status settle(peri_chunks *c, step *s) {
    peri_lane *lane = lane_of(c, &s->chunk);
    if (!s->under_way) return PERI_OK;
    s->under_way = false;
    c->broken = true; /* what fails in between is not asked again */
    PERI_TRY(peri_lane_wait(lane, &c->quiet));
    if (c->take != NULL) PERI_TRY(c->take(c->ud, lane, &s->chunk));
    c->broken = false;
    peri_lane_rewind(lane);
    c->done = s->chunk.first + s->chunk.rows.rows;
    return PERI_OK;
}

/* ---- all of them -------------------------------------------------------------------------- */

/* Those that are not done yet. `last` is what is still under way at the end or after a failure. */
static peri_status run_chunks(peri_chunks *c, step *last) {
    size_t all = c->all.rows, turn = 0;
    step next = { .chunk = chunk_at(c, c->done, turn) };
    peri_progress_step(c->progress, c->base + steps(c, c->done), 0);
    PERI_TRY(send(c, &next.chunk));
    for (;;) {
        size_t first = next.chunk.first, stop = first + next.chunk.rows.rows;
        if (c->lanes[1] == NULL) PERI_TRY(settle(c, last));
        peri_status status = run(c, &next, last->under_way);
        peri_progress_step(c->progress, c->base + steps(c, first), steps(c, next.chunk.rows.rows));
        peri_status settled = settle(c, last);
        if (next.under_way) *last = next;
        PERI_TRY(settled);
        PERI_TRY(status);
        PERI_TRY(peri_progress_tell(c->progress, c->base + steps(c, c->done)));
        if (stop == all) return PERI_OK;
        turn = 1 - turn;
        next = (step){ .chunk = chunk_at(c, stop, turn) };
        PERI_TRY(send(c, &next.chunk));
    }
}

/* Nothing is under way afterwards, and what was done before a failure is taken. */
static peri_status run_and_settle(peri_chunks *c) {
    step last = { .under_way = false };
    peri_status status = run_chunks(c, &last);
    if (!c->broken && (status == PERI_OK || status == PERI_E_MEMORY)) {
        peri_status settled = settle(c, &last);
        if (settled != PERI_OK) status = settled;
    }
    if (c->ring != NULL) {
        peri_status waited = peri_ring_wait(c->ring);
        if (status == PERI_OK) status = waited;
    }
    for (size_t i = 0; i < 2 && c->lanes[i] != NULL; i++) {
        peri_status waited = peri_lane_wait(c->lanes[i], NULL);
        if (status == PERI_OK) status = waited;
        peri_lane_rewind(c->lanes[i]);
    }
    return status;
}

/* ---- memory ------------------------------------------------------------------------------- */

static size_t buffer_bytes(const peri_chunks *c) {
    return (rows_there(c) ? 0 : c->row_bytes) + c->out_bytes;
}

static peri_status open_buffers(peri_chunks *c) {
    size_t bytes = c->chunk_rows * buffer_bytes(c);
    for (size_t i = 0; i < 2 && bytes > 0; i++)
        PERI_TRY(peri_device_acquire(c->device, bytes, PERI_MEMORY_DEVICE, PERI_USE_STAGING,
                                     &c->buffers[i]));
    return PERI_OK;
}

static void close_buffers(peri_chunks *c) {
    for (size_t i = 0; i < 2; i++) {
        if (c->buffers[i] != NULL) c->device->driver->mem_release(c->buffers[i]);
        c->buffers[i] = NULL;
    }
}

static peri_status first_chunk_rows(peri_chunks *c) {
    peri_device_info info;
    size_t units = peri_ceil_div(c->all.rows, PERI_CHUNK_ROWS_UNIT), bytes = buffer_bytes(c);
    PERI_TRY(peri_device_stat(c->device->context, c->device->place, &info));
    if (bytes > 0) {
        size_t most = peri_min_size(info.bytes_free / SHARE, CHUNK_BYTES_MAX);
        units = peri_min_size(units, most / bytes / PERI_CHUNK_ROWS_UNIT);
    }
    c->chunk_rows = peri_max_size(units, 1) * PERI_CHUNK_ROWS_UNIT;
    return PERI_OK;
}

/* Fresh ones: what an arena keeps may be what is missing. */
static peri_status open_lanes(peri_chunks *c, size_t count) {
    for (size_t i = 0; i < 2; i++) {
        peri_lane_close(c->lanes[i]);
        c->lanes[i] = NULL;
    }
    for (size_t i = 0; i < count; i++) {
        PERI_TRY(peri_lane_acquire(c->device, &c->lanes[i]));
        peri_lane_follow(c->lanes[i], &c->quiet, c->threads);
    }
    return PERI_OK;
}

/* Where the work finds no memory: one at a time first, then smaller chunks. */
static peri_status ask_less(peri_chunks *c) {
    size_t units = c->chunk_rows / 4 / PERI_CHUNK_ROWS_UNIT;
    if (c->lanes[1] == NULL) c->chunk_rows = peri_max_size(units, 1) * PERI_CHUNK_ROWS_UNIT;
    PERI_TRY(open_lanes(c, 0));
    (void)peri_lanes_trim(c->device);
    return open_lanes(c, 1);
}

static peri_status pass(peri_chunks *c) {
    PERI_TRY(open_lanes(c, 2));
    PERI_TRY(first_chunk_rows(c));
    for (;;) {
        bool least = c->lanes[1] == NULL && c->chunk_rows == PERI_CHUNK_ROWS_UNIT;
        peri_status status = open_buffers(c);
        if (status == PERI_OK) status = run_and_settle(c);
        close_buffers(c);
        if (status != PERI_E_MEMORY || c->broken || least) return status;
        PERI_TRY(ask_less(c));
    }
}

peri_status peri_chunks_pass(peri_chunks *c) {
    peri_status status;
    c->all = peri_matrix_view(c->rows);
    c->row_bytes = c->all.cols * peri_dtype_bytes(c->all.dtype);
    c->done = 0;
    c->quiet = (peri_control){ c->progress->control.poll == NULL ? NULL : poll_quietly, c };
    PERI_ASSERT(!c->device->shares_host);
    if (c->all.rows == 0) return PERI_OK;
    if (!rows_there(c) && c->row_bytes <= PERI_RING_ROW_BYTES_MAX)
        PERI_GO(peri_ring_acquire(c->device, &c->ring));
    PERI_GO(pass(c));
done:
    peri_ring_release(c->ring);
    for (size_t i = 0; i < 2; i++) {
        (c->keeps ? peri_lane_release : peri_lane_close)(c->lanes[i]);
        c->lanes[i] = NULL;
    }
    c->ring = NULL;
    return status;
}

peri_status peri_chunks_fetch(peri_chunks *c, peri_lane *lane, void *to, size_t to_stride,
                              const void *from, size_t from_stride, size_t rows, size_t row_bytes) {
    const peri_ring_way way = { c->threads, &c->quiet, NULL };
    if (c->ring != NULL && row_bytes <= PERI_RING_ROW_BYTES_MAX)
        return peri_ring_download(c->ring, to, to_stride, from, from_stride, rows, row_bytes, &way);
    PERI_TRY(peri_lane_copy_out(lane, to, to_stride, from, from_stride, rows, row_bytes));
    return peri_lane_wait(lane, &c->quiet);
}

/* ---- where rows go ------------------------------------------------------------------------ */

peri_status peri_chunks_fit(peri_device *device, size_t bytes, bool *out) {
    peri_device_info info;
    PERI_TRY(peri_device_trim(device->context, device->place));
    PERI_TRY(peri_device_stat(device->context, device->place, &info));
    *out = bytes <= info.bytes_free - info.bytes_free / 8;
    return PERI_OK;
}

peri_status peri_chunks_choose(peri_device *device, const peri_view *rows, peri_residence residence,
                               size_t more_bytes, bool *out) {
    bool there = peri_place_equal(rows->place, device->place), fits;
    size_t bytes = rows->rows * rows->cols * peri_dtype_bytes(rows->dtype); /* a matrix: no wrap */
    *out = false;
    if (device->shares_host || residence == PERI_RESIDENCE_DEVICE) return PERI_OK;
    *out = true;
    if (residence == PERI_RESIDENCE_HOST) return PERI_OK;
    if (there) bytes = 0;
    if (!peri_add_fits(bytes, more_bytes, &bytes)) return PERI_OK;
    *out = false;
    if (bytes == 0) return PERI_OK;
    PERI_TRY(peri_chunks_fit(device, bytes, &fits));
    *out = !fits;
    return PERI_OK;
}
