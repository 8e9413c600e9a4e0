/* streamed.c: rows larger than the device.
 *
 * Two buffers on the device take chunks of rows in turn. A chunk is searched on a lane of its own
 * while the host copies the next one into page-locked blocks and sends it; then the lane is waited
 * for. The best so far and the best of a chunk lie behind each other on the device, as operation
 * MERGE takes them, and only the end comes to the host. Distances are canonical and rows come in
 * order, so the answer is that of one scan to the bit.
 *
 * Chunks begin at multiples of 64 rows: the part of a bitset that is theirs begins with a word. */
#include "index/streamed.h"

#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/progress.h"
#include "core/ring.h"

#define CHUNK_ROWS_UNIT ((size_t)64)
#define CHUNK_BYTES_MAX                                                                            \
    ((size_t)256 << 20) /* 5 ms of a link of 55 GB/s: waits are small beside it */

peri_status peri_streamed_choose(const peri_index *index, const peri_matrix *rows,
                                 int64_t residence, bool *out) {
    enum { AUTO, DEVICE, HOST };
    peri_view view = peri_matrix_view(rows);
    peri_device *device = index->device;
    peri_device_info info;
    *out = false;
    bool there = peri_place_equal(view.place, device->place);
    if (device->shares_host || residence == DEVICE || (there && residence == AUTO)) return PERI_OK;
    *out = true;
    if (residence == HOST) return PERI_OK;
    PERI_TRY(peri_device_trim(index->context, device->place));
    PERI_TRY(peri_device_stat(index->context, device->place, &info));
    size_t bytes = view.rows * view.cols * peri_dtype_bytes(view.dtype); /* those of a matrix fit */
    *out = bytes > info.bytes_free - info.bytes_free / 8;
    return PERI_OK;
}

peri_status peri_streamed_check_place(const peri_index *index) {
    const peri_op_merge merge = {
        .kind = PERI_OP_MERGE, .queries = 1, .parts = 2, .part_k = 1, .k = 1
    };
    char reason[256] = "", place[32];
    if (index->device->driver->supports(index->device, (const peri_op *)&merge, reason,
                                        sizeof reason))
        return PERI_OK;
    return peri_fail(PERI_E_UNSUPPORTED, "%s: the rows do not fit and can't be streamed: %s",
                     peri_place_format(index->device->place, place, sizeof place), reason);
}

peri_status peri_streamed_pick(const peri_index *index, peri_lane *lane, const int64_t *rows,
                               size_t count, peri_op_refine *op) {
    peri_view all = peri_matrix_view(peri_index_section(index, "rows")), picked = all;
    int64_t *candidates;
    picked.rows = count;
    picked.stride_bytes = all.cols * peri_dtype_bytes(all.dtype);
    PERI_TRY(peri_lane_take_host(lane, count, picked.stride_bytes, &picked.data));
    PERI_TRY(peri_lane_take_host(lane, count, sizeof *candidates, &candidates));
    for (size_t i = 0; i < count; i++) {
        bool none = rows[i] == PERI_ID_NONE;
        candidates[i] = none ? PERI_ID_NONE : (int64_t)i;
        memcpy(peri_view_row(&picked, i), peri_view_row(&all, none ? 0 : (size_t)rows[i]),
               picked.stride_bytes);
    }
    PERI_TRY(peri_lane_upload_view(lane, &picked, &op->rows));
    PERI_TRY(peri_lane_upload(lane, candidates, count, sizeof *candidates, &op->candidates));
    if (op->metric != PERI_COSINE) return PERI_OK;
    peri_op_lengths lengths = { PERI_OP_LENGTHS, op->rows, NULL };
    PERI_TRY(peri_lane_take(lane, count, sizeof(float), &lengths.out));
    op->lengths = lengths.out;
    return peri_lane_run(lane, (const peri_op *)&lengths);
}

/* ---- one pass over the rows --------------------------------------------------------------- */

typedef struct pass {
    peri_search *search;
    const peri_streaming *streaming;
    const peri_index *index;
    peri_view rows; /* host */
    size_t row_bytes, chunk_rows;
    peri_device *device;
    peri_ring *ring; /* NULL: the driver copies */
    peri_lane *work;
    peri_mem *buffers[2];
    /* Best so far and best of a chunk, [2, q, k]: a merge reads pair `turn`, begins the other. */
    int64_t *ids[2];
    float *distances[2];
    size_t turn;
    size_t done;           /* rows that the best so far is of */
    uint64_t *const *bits; /* [filters] host: whole bitsets on the device */
    const uint32_t *which; /* [q] on the device, or NULL */
    peri_progress progress;
    peri_control quiet;
} pass;

/* The scan of a chunk asks too, but what counts is the rows sent behind it. */
static peri_status poll_quietly(void *ud, const char *stage, size_t done, size_t total) {
    pass *p = ud;
    (void)stage;
    (void)done;
    (void)total;
    return p->progress.control.poll(p->progress.control.ud, NULL, 0, 0);
}

static size_t items(const pass *p) { return p->streaming->queries.rows * p->search->k; }

/* Rows to a buffer; returns once they were read and are there. */
static peri_status send_chunk(pass *p, const peri_mem *buffer, size_t first, size_t count) {
    const char *from = (const char *)p->rows.data + first * p->rows.stride_bytes;
    const peri_control *control = &p->progress.control;
    if (p->ring == NULL) {
        peri_stream *stream = peri_lane_stream(p->search->lane);
        PERI_TRY(p->device->driver->copy(stream, buffer->data, p->row_bytes, p->device, from,
                                         p->rows.stride_bytes, NULL, count, p->row_bytes));
        return p->device->driver->stream_wait(stream, control);
    }
    const peri_ring_way way = { p->search->threads, control, "search" };
    PERI_TRY(peri_ring_upload(p->ring, buffer->data, p->row_bytes, from, p->rows.stride_bytes,
                              count, p->row_bytes, &way));
    return peri_ring_wait(p->ring);
}

/* What of the filters is the chunk's. */
static peri_status chunk_filter(pass *p, size_t first, size_t count, peri_filter_view *out) {
    const peri_asked *asked = p->streaming->asked;
    uint32_t filters = asked->filter_count;
    const uint64_t **bits;
    size_t *passing;
    *out = (peri_filter_view){ .count = filters };
    if (filters == 0) return PERI_OK;
    PERI_TRY(peri_lane_take_host(p->work, filters, sizeof *bits, &bits));
    PERI_TRY(peri_lane_take_host(p->work, filters, sizeof *passing, &passing));
    for (uint32_t i = 0; i < filters; i++) {
        bits[i] = p->bits[i] + first / 64;
        passing[i] = peri_bitset_count(asked->bits[i] + first / 64, count);
    }
    out->words = peri_bitset_words(count);
    out->passing = passing;
    out->which = p->which;
    return peri_lane_upload(p->work, bits, filters, sizeof *bits, &out->bits);
}

/* Enqueues the merge of the best so far with that of rows from `first` on. */
static peri_status merge_chunk(pass *p, size_t first) {
    int64_t *bases;
    peri_op_merge op = { .kind = PERI_OP_MERGE,
                         .queries = p->streaming->queries.rows,
                         .parts = 2,
                         .part_k = p->search->k,
                         .ids = p->ids[p->turn],
                         .distances = p->distances[p->turn],
                         .k = p->search->k,
                         .best_ids = p->ids[1 - p->turn],
                         .best_distances = p->distances[1 - p->turn] };
    PERI_TRY(peri_lane_take_host(p->work, 2, sizeof *bases, &bases));
    bases[0] = 0;
    bases[1] = (int64_t)first;
    PERI_TRY(peri_lane_upload(p->work, bases, 2, sizeof *bases, &op.bases));
    return peri_lane_run(p->work, (const peri_op *)&op);
}

/* Enqueues the scan of rows [first, first + count), which are in a buffer. */
static peri_status search_chunk(pass *p, const peri_mem *buffer, size_t first, size_t count) {
    const float *lengths = peri_index_lengths(p->index);
    size_t skip = first == 0 ? 0 : items(p);
    peri_op_knn op = { .kind = PERI_OP_KNN,
                       .metric = p->index->metric,
                       .queries = p->streaming->queries,
                       .rows = { buffer->data, count, p->rows.cols, p->row_bytes, p->rows.dtype,
                                 p->device->place },
                       .lengths = lengths == NULL ? NULL : lengths + first,
                       .k = p->search->k,
                       .ids = p->ids[p->turn] + skip,
                       .distances = p->distances[p->turn] + skip };
    PERI_TRY(chunk_filter(p, first, count, &op.filter));
    PERI_TRY(peri_lane_run(p->work, (const peri_op *)&op));
    return first == 0 ? PERI_OK : merge_chunk(p, first);
}

/* All rows that are not done yet. After a failure the best so far is still that of `done` rows. */
static peri_status run_chunks(pass *p) {
    size_t all = p->rows.rows, step = p->chunk_rows, b = 0;
    peri_progress_step(&p->progress, p->done, 0);
    PERI_TRY(send_chunk(p, p->buffers[b], p->done, peri_min_size(step, all - p->done)));
    while (p->done < all) {
        size_t first = p->done, count = peri_min_size(step, all - first), next = first + count;
        peri_status status = search_chunk(p, p->buffers[b], first, count);
        b = 1 - b;
        peri_progress_step(&p->progress, first, count);
        if (status == PERI_OK && next < all)
            status = send_chunk(p, p->buffers[b], next, peri_min_size(step, all - next));
        peri_status waited = peri_lane_wait(p->work, &p->quiet);
        if (status == PERI_OK) status = waited;
        peri_lane_rewind(p->work);
        if (status != PERI_OK) return status;
        if (first > 0) p->turn = 1 - p->turn;
        p->done = next;
    }
    return PERI_OK;
}

/* ---- one search --------------------------------------------------------------------------- */

static peri_status open_buffers(pass *p) {
    for (size_t i = 0; i < 2; i++)
        if (p->buffers[i] == NULL)
            PERI_TRY(peri_device_acquire(p->device, p->chunk_rows * p->row_bytes,
                                         PERI_MEMORY_DEVICE, PERI_USE_STAGING, &p->buffers[i]));
    return PERI_OK;
}

static void close_buffers(pass *p) {
    for (size_t i = 0; i < 2; i++) {
        p->device->driver->mem_release(p->buffers[i]);
        p->buffers[i] = NULL;
    }
}

/* Everything but the buffers, which depend on the size of the chunks. */
static peri_status open_pass(pass *p) {
    const peri_asked *asked = p->streaming->asked;
    peri_lane *lane = p->search->lane;
    uint32_t *which;
    size_t count = p->streaming->queries.rows;
    for (size_t i = 0; i < 2; i++) {
        PERI_TRY(peri_lane_take(lane, 2 * items(p), sizeof(int64_t), &p->ids[i]));
        PERI_TRY(peri_lane_take(lane, 2 * items(p), sizeof(float), &p->distances[i]));
    }
    if (asked->filter_count > 0) {
        p->bits = asked->placed_bits;
        if (asked->per_query) {
            PERI_TRY(peri_lane_take_host(lane, count, sizeof *which, &which));
            for (size_t i = 0; i < count; i++)
                which[i] = p->streaming->members == NULL ? (uint32_t)i : p->streaming->members[i];
            PERI_TRY(peri_lane_upload(lane, which, count, sizeof *which, &p->which));
        }
    }
    PERI_TRY(peri_lane_wait(lane, p->search->control)); /* queries and filters are there */
    PERI_TRY(peri_ring_acquire(p->device, &p->ring));
    PERI_TRY(peri_lane_acquire(p->device, &p->work));
    peri_lane_follow(p->work, &p->quiet, p->search->threads);
    return PERI_OK;
}

/* A quarter of what is free each, so that the scan has a half. */
static peri_status first_chunk_rows(pass *p) {
    peri_device_info info;
    PERI_TRY(peri_device_stat(p->index->context, p->device->place, &info));
    size_t bytes = peri_min_size(info.bytes_free / 4, CHUNK_BYTES_MAX);
    size_t units = bytes / (p->row_bytes * CHUNK_ROWS_UNIT);
    p->chunk_rows = peri_max_size(units, 1) * CHUNK_ROWS_UNIT;
    return PERI_OK;
}

/* Smaller chunks where a scan finds no memory; at the end the caller asks for fewer queries. */
static peri_status run_pass(pass *p) {
    PERI_TRY(first_chunk_rows(p));
    for (;;) {
        peri_status status = open_buffers(p);
        if (status == PERI_OK) status = run_chunks(p);
        if (p->ring != NULL) (void)peri_ring_wait(p->ring);
        close_buffers(p);
        if (status != PERI_E_MEMORY || p->chunk_rows == CHUNK_ROWS_UNIT) return status;
        p->chunk_rows = peri_max_size(p->chunk_rows / 4 / CHUNK_ROWS_UNIT, 1) * CHUNK_ROWS_UNIT;
    }
}

peri_status peri_streamed_search(peri_search *search, const peri_streaming *streaming) {
    pass p = { .search = search, .streaming = streaming, .index = streaming->asked->index };
    peri_status status;
    p.device = p.index->device;
    p.rows = peri_matrix_view(peri_index_section(p.index, "rows"));
    p.row_bytes = p.rows.cols * peri_dtype_bytes(p.rows.dtype);
    peri_progress_init(&p.progress, search->control, "search", p.rows.rows);
    p.quiet = (peri_control){ p.progress.control.poll == NULL ? NULL : poll_quietly, &p };
    PERI_GO(open_pass(&p));
    PERI_GO(run_pass(&p));
    PERI_GO(
        peri_lane_fetch(search->lane, streaming->ids, p.ids[p.turn], items(&p), sizeof(int64_t)));
    PERI_GO(peri_lane_fetch(search->lane, streaming->distances, p.distances[p.turn], items(&p),
                            sizeof(float)));
    PERI_GO(peri_lane_wait(search->lane, search->control));
done:
    peri_lane_release(p.work);
    peri_ring_release(p.ring);
    return status;
}
