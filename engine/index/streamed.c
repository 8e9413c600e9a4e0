/* streamed.c: searches over rows that stay on the host, in one pass of chunks each (core/chunks.h).
 *
 * The nearest rows: lists are merged as chunks pass (graph/knn_chunks.h). All rows within a
 * distance: what a chunk holds is counted, then named, and comes home while the next one passes.
 *
 * Chunks begin at multiples of 64 rows: the part of a bitset that is theirs begins with a word. */
#include "index/streamed.h"

#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/memory.h"
#include "graph/knn_chunks.h"

peri_status peri_streamed_choose(const peri_index *index, const peri_matrix *rows,
                                 int64_t residence, bool *out) {
    peri_view view = peri_matrix_view(rows);
    bool there = peri_place_equal(view.place, index->device->place);
    *out = false;
    if (view.rows == 0 || (there && residence == PERI_RESIDENCE_AUTO)) return PERI_OK;
    return peri_chunks_choose(index->device, &view, (peri_residence)residence, 0, out);
}

peri_status peri_streamed_check_place(const peri_index *index) {
    return peri_knn_chunks_check(index->device);
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

/* ---- filters ------------------------------------------------------------------------------ */

/* Of a pass: whole bitsets are on the device. */
typedef struct filtering {
    const peri_asked *asked;
    const uint32_t *which; /* [q] on the device, or NULL */
} filtering;

static peri_status place_which(const peri_streaming *streaming, peri_lane *lane, filtering *out) {
    size_t count = streaming->queries.rows;
    uint32_t *which;
    *out = (filtering){ .asked = streaming->asked };
    if (streaming->asked->filter_count == 0 || !streaming->asked->per_query) return PERI_OK;
    PERI_TRY(peri_lane_take_host(lane, count, sizeof *which, &which));
    for (size_t i = 0; i < count; i++)
        which[i] = streaming->members == NULL ? (uint32_t)i : streaming->members[i];
    return peri_lane_upload(lane, which, count, sizeof *which, &out->which);
}

/* What of the filters is the chunk's. */
static peri_status chunk_filter(void *ud, peri_lane *lane, size_t first, size_t count,
                                peri_filter_view *out) {
    const filtering *filters = ud;
    const peri_asked *asked = filters->asked;
    const uint64_t **bits;
    size_t *passing;
    *out = (peri_filter_view){ .count = asked->filter_count };
    if (asked->filter_count == 0) return PERI_OK;
    PERI_TRY(peri_lane_take_host(lane, asked->filter_count, sizeof *bits, &bits));
    PERI_TRY(peri_lane_take_host(lane, asked->filter_count, sizeof *passing, &passing));
    for (uint32_t i = 0; i < asked->filter_count; i++) {
        bits[i] = asked->placed_bits[i] + first / 64;
        passing[i] = peri_bitset_count(asked->bits[i] + first / 64, count);
    }
    out->words = peri_bitset_words(count);
    out->passing = passing;
    out->which = filters->which;
    return peri_lane_upload(lane, bits, asked->filter_count, sizeof *bits, &out->bits);
}

/* ---- the nearest -------------------------------------------------------------------------- */

static peri_chunks chunks_of(const peri_search *search, const peri_index *index,
                             peri_progress *progress) {
    const peri_matrix *rows = peri_index_section(index, "rows");
    peri_progress_init(progress, search->control, "search", index->rows);
    return (peri_chunks){
        .device = index->device,
        .rows = rows,
        .keeps = true,
        .threads = search->threads,
        .progress = progress,
    };
}

peri_status peri_streamed_search(peri_search *search, const peri_streaming *streaming) {
    const peri_index *index = streaming->asked->index;
    peri_lane *lane = search->lane;
    size_t items = streaming->queries.rows * search->k;
    peri_progress progress;
    peri_chunks chunks = chunks_of(search, index, &progress);
    filtering filters;
    peri_knn_chunks knn = { .metric = index->metric,
                            .queries = streaming->queries,
                            .lengths = peri_index_lengths(index),
                            .k = search->k,
                            .ud = &filters,
                            .filter = chunk_filter };
    PERI_TRY(peri_knn_chunks_open(&knn, lane));
    PERI_TRY(place_which(streaming, lane, &filters));
    PERI_TRY(peri_lane_wait(lane, search->control)); /* queries and filters are there */
    PERI_TRY(peri_knn_chunks_pass(&knn, &chunks));
    PERI_TRY(peri_lane_fetch(lane, streaming->ids, knn.best_ids, items, sizeof(int64_t)));
    PERI_TRY(peri_lane_fetch(lane, streaming->distances, knn.best_distances, items, sizeof(float)));
    return peri_lane_wait(lane, search->control);
}

/* ---- within a distance -------------------------------------------------------------------- */

/* What a chunk held: of query i, found[offsets[i]] .. found[offsets[i + 1] - 1]. */
typedef struct found {
    struct found *following;
    size_t total, queries;
    int64_t *offsets; /* [queries + 1] */
    int64_t *ids;     /* [total] slots */
    float *distances;
} found;

typedef struct ranging {
    const peri_index *index;
    peri_op_range_scan op; /* of a chunk: template */
    filtering filters;
    peri_op_range_scan asked[2]; /* of the chunks under way: where `counts` are */
    int64_t *counts[2];          /* [q] host */
    found *first, **last;
} ranging;

static void free_found(peri_context *context, found *f) {
    peri_memory_release(context, f->offsets, f->queries + 1, sizeof *f->offsets);
    peri_memory_release(context, f->ids, f->total, sizeof *f->ids);
    peri_memory_release(context, f->distances, f->total, sizeof *f->distances);
    peri_memory_release(context, f, 1, sizeof *f);
}

/* Room for what was counted, behind that of the chunks before. */
static peri_status add_found(ranging *r, const int64_t *counts, found **out) {
    peri_context *context = r->index->context;
    size_t queries = r->op.queries.rows;
    found *f;
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof *f, &f));
    *r->last = *out = f;
    r->last = &f->following;
    f->queries = queries;
    PERI_TRY(peri_memory_acquire_zeroed(context, queries + 1, sizeof *f->offsets, &f->offsets));
    for (size_t i = 0; i < queries; i++) f->offsets[i + 1] = f->offsets[i] + counts[i];
    f->total = (size_t)f->offsets[queries]; /* at most q * rows of a chunk, which were looked at */
    PERI_TRY(peri_memory_acquire(context, f->total, sizeof *f->ids, &f->ids));
    return peri_memory_acquire(context, f->total, sizeof *f->distances, &f->distances);
}

/* A chunk is one list, whose slots are its positions. */
static peri_status place_list(peri_lane *lane, size_t count, peri_lists_view *out) {
    int64_t *offsets;
    uint32_t *sizes;
    PERI_TRY(peri_lane_take_host(lane, 2, sizeof *offsets, &offsets));
    PERI_TRY(peri_lane_take_host(lane, 1, sizeof *sizes, &sizes));
    offsets[0] = 0;
    offsets[1] = (int64_t)count;
    sizes[0] = (uint32_t)count;
    *out = (peri_lists_view){ .n_lists = 1, .capacity = count };
    PERI_TRY(peri_lane_upload(lane, offsets, 2, sizeof *offsets, &out->offsets));
    return peri_lane_upload(lane, sizes, 1, sizeof *sizes, &out->sizes);
}

static peri_status count_chunk(void *ud, peri_lane *lane, const peri_chunk *chunk) {
    ranging *r = ud;
    size_t queries = r->op.queries.rows;
    peri_op_range_scan *op = &r->asked[chunk->turn];
    *op = r->op;
    op->rows = chunk->rows;
    if (op->lengths != NULL) op->lengths += chunk->first;
    PERI_TRY(place_list(lane, chunk->rows.rows, &op->lists));
    PERI_TRY(chunk_filter(&r->filters, lane, chunk->first, chunk->rows.rows, &op->filter));
    PERI_TRY(peri_lane_take(lane, queries, sizeof *op->counts, &op->counts));
    PERI_TRY(peri_lane_take_host(lane, queries, sizeof(int64_t), &r->counts[chunk->turn]));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)op));
    return peri_lane_fetch(lane, r->counts[chunk->turn], op->counts, queries, sizeof(int64_t));
}

/* The same operation for some queries only; `room` is for what they find. */
static peri_op_range_scan scan_of(const peri_op_range_scan *all, size_t first, size_t count,
                                  const peri_mem *room, size_t total) {
    peri_op_range_scan op = *all;
    op.queries.data = peri_view_row(&all->queries, first);
    op.queries.rows = count;
    op.counts += first;
    if (op.filter.which != NULL) op.filter.which += first;
    op.room = total;
    op.ids = room->data;
    op.distances = (float *)(op.ids + total);
    return op;
}

static peri_status find_in(peri_lane *lane, peri_op_range_scan *op, const found *f, size_t first) {
    size_t count = op->queries.rows, at = (size_t)f->offsets[first];
    int64_t *offsets;
    PERI_TRY(peri_lane_take_host(lane, count, sizeof *offsets, &offsets));
    for (size_t i = 0; i < count; i++) offsets[i] = f->offsets[first + i] - f->offsets[first];
    PERI_TRY(peri_lane_upload(lane, offsets, count, sizeof *offsets, &op->offsets));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)op));
    PERI_TRY(peri_lane_fetch(lane, f->ids + at, op->ids, op->room, sizeof *f->ids));
    PERI_TRY(
        peri_lane_fetch(lane, f->distances + at, op->distances, op->room, sizeof *f->distances));
    return peri_lane_wait(lane, NULL);
}

/* On a lane of its own, whose scratch is given back when it is run for other queries. */
static peri_status find_with(const ranging *r, const peri_op_range_scan *all, const found *f,
                             size_t first, size_t count) {
    peri_device *device = r->index->device;
    size_t total = (size_t)(f->offsets[first + count] - f->offsets[first]), bytes;
    peri_mem *room = NULL;
    peri_lane *lane = NULL;
    peri_status status;
    if (!peri_mul_fits(total, sizeof *f->ids + sizeof *f->distances, &bytes)) bytes = SIZE_MAX;
    PERI_TRY(peri_lane_acquire(device, &lane));
    PERI_GO(peri_device_acquire(device, bytes, PERI_MEMORY_DEVICE, PERI_USE_SCRATCH, &room));
    peri_op_range_scan op = scan_of(all, first, count, room, total);
    PERI_GO(find_in(lane, &op, f, first));
done:
    peri_lane_release(lane);
    device->driver->mem_release(room);
    return status;
}

/* What was counted of some queries, by name: half of them at a time where there is no room. */
static peri_status find_some(const ranging *r, const peri_op_range_scan *all, const found *f,
                             size_t first, size_t count) {
    size_t half = count / 2;
    if (f->offsets[first + count] == f->offsets[first]) return PERI_OK;
    peri_status status = find_with(r, all, f, first, count);
    if (status != PERI_E_MEMORY || half == 0) return status;
    PERI_TRY(find_some(r, all, f, first, half));
    return find_some(r, all, f, first + half, count - half);
}

static peri_status find_chunk(void *ud, peri_lane *lane, const peri_chunk *chunk) {
    ranging *r = ud;
    found *f;
    PERI_TRY(add_found(r, r->counts[chunk->turn], &f));
    (void)lane;
    PERI_TRY(find_some(r, &r->asked[chunk->turn], f, 0, f->queries));
    for (size_t i = 0; i < f->total; i++) f->ids[i] += (int64_t)chunk->first;
    return PERI_OK;
}

static peri_status add_up(const ranging *r, int64_t *offsets) {
    size_t queries = r->op.queries.rows, total = 0;
    offsets[0] = 0;
    for (size_t i = 0; i < queries; i++) {
        for (const found *f = r->first; f != NULL; f = f->following)
            if (!peri_add_fits(total, (size_t)(f->offsets[i + 1] - f->offsets[i]), &total))
                return peri_fail(PERI_E_MEMORY, "more rows are found than memory can hold");
        offsets[i + 1] = (int64_t)total;
    }
    return PERI_OK;
}

/* Query after query, of each chunk after chunk. */
static void put_together(const ranging *r, int64_t *ids, float *distances) {
    for (size_t i = 0, to = 0; i < r->op.queries.rows; i++) {
        for (const found *f = r->first; f != NULL; f = f->following) {
            size_t from = (size_t)f->offsets[i], count = (size_t)f->offsets[i + 1] - from;
            if (count == 0) continue;
            memcpy(ids + to, f->ids + from, count * sizeof *ids);
            memcpy(distances + to, f->distances + from, count * sizeof *distances);
            to += count;
        }
    }
}

static peri_status gather_found(const ranging *r, int64_t *offsets, peri_matrix **ids,
                                peri_matrix **distances) {
    peri_context *context = r->index->context;
    PERI_TRY(add_up(r, offsets));
    size_t total = (size_t)offsets[r->op.queries.rows];
    PERI_TRY(peri_matrix_create(context, total, 1, PERI_I64, PERI_CPU, ids));
    PERI_TRY(peri_matrix_create(context, total, 1, PERI_F32, PERI_CPU, distances));
    put_together(r, peri_matrix_view(*ids).data, peri_matrix_view(*distances).data);
    return PERI_OK;
}

peri_status peri_streamed_range(peri_search *search, const peri_streaming *streaming, float radius,
                                int64_t *offsets, peri_matrix **ids, peri_matrix **distances) {
    const peri_index *index = streaming->asked->index;
    peri_progress progress;
    peri_chunks chunks = chunks_of(search, index, &progress);
    ranging r = { .index = index,
                  .op = { .kind = PERI_OP_RANGE_SCAN,
                          .metric = index->metric,
                          .queries = streaming->queries,
                          .lengths = peri_index_lengths(index),
                          .radius = radius } };
    peri_status status;
    r.last = &r.first;
    chunks.ud = &r;
    chunks.run = count_chunk;
    chunks.take = find_chunk;
    PERI_GO(place_which(streaming, search->lane, &r.filters));
    PERI_GO(peri_lane_wait(search->lane, search->control));
    PERI_GO(peri_chunks_pass(&chunks));
    PERI_GO(gather_found(&r, offsets, ids, distances));
done:
    while (r.first != NULL) {
        found *following = r.first->following;
        free_found(index->context, r.first);
        r.first = following;
    }
    return status;
}
