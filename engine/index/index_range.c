/* index_range.c: a search by distance: count, make room, find, sort.
 *
 * How much is found is not known before, so the kind scans twice; what it finds comes in any order
 * and is sorted here, so the answer does not depend on threads. */
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/threads.h"
#include "core/topk.h"
#include "index/asked.h"
#include "index/handle.h"
#include "index/streamed.h"

/* A search under way. */
typedef struct ranging {
    peri_asked asked;
    peri_search *search;
    peri_range_scan scan;
    int64_t *counts;              /* [q] host */
    int64_t *offsets;             /* [q + 1] host: of what was found, then of what is kept */
    int64_t *found;               /* [q + 1] host: of what was found */
    peri_matrix *ids, *distances; /* host, all that was found */
} ranging;

typedef struct item {
    float distance;
    int64_t id; /* the slot */
} item;

static peri_status open_scan(ranging *r) {
    peri_lane *lane = r->search->lane;
    size_t queries = r->search->queries.rows;
    uint32_t *which;
    r->scan.options = r->search->options;
    r->scan.filter = r->asked.placed;
    PERI_TRY(peri_lane_upload_view(lane, &r->asked.queries, &r->scan.queries));
    if (r->asked.per_query) {
        PERI_TRY(peri_lane_take_host(lane, queries, sizeof *which, &which));
        for (size_t i = 0; i < queries; i++) which[i] = (uint32_t)i;
        PERI_TRY(peri_lane_upload(lane, which, queries, sizeof *which, &r->scan.filter.which));
    }
    PERI_TRY(peri_lane_take_host(lane, queries, sizeof *r->counts, &r->counts));
    PERI_TRY(peri_lane_take_host(lane, queries + 1, sizeof *r->offsets, &r->offsets));
    PERI_TRY(peri_lane_take_host(lane, queries + 1, sizeof *r->found, &r->found));
    return peri_lane_out(lane, r->counts, queries, sizeof *r->counts, &r->scan.counts);
}

/* One scan; what it counted is on the host then. */
static peri_status run_scan(ranging *r) {
    const peri_index *index = r->asked.index;
    peri_lane *lane = r->search->lane;
    size_t queries = r->search->queries.rows;
    PERI_TRY(index->kind->range(index, lane, &r->scan));
    PERI_TRY(peri_lane_fetch(lane, r->counts, r->scan.counts, queries, sizeof *r->counts));
    return peri_lane_wait(lane, r->search->control);
}

static peri_status add_up(const int64_t *counts, size_t queries, int64_t *offsets) {
    size_t total = 0;
    offsets[0] = 0;
    for (size_t i = 0; i < queries; i++) {
        if (!peri_add_fits(total, (size_t)counts[i], &total) || total > INT64_MAX)
            return peri_fail(PERI_E_MEMORY, "more rows are found than memory can hold");
        offsets[i + 1] = (int64_t)total;
    }
    return PERI_OK;
}

static peri_status make_room(const ranging *r, size_t count, peri_matrix **ids,
                             peri_matrix **distances) {
    peri_context *context = r->asked.index->context;
    PERI_TRY(peri_matrix_create(context, count, 1, PERI_I64, PERI_CPU, ids));
    return peri_matrix_create(context, count, 1, PERI_F32, PERI_CPU, distances);
}

/* The second scan, into room for what the first one counted. */
static peri_status find(ranging *r) {
    peri_lane *lane = r->search->lane;
    size_t queries = r->search->queries.rows, total = (size_t)r->found[queries];
    PERI_TRY(make_room(r, total, &r->ids, &r->distances));
    if (total == 0) return PERI_OK;
    int64_t *ids = peri_matrix_view(r->ids).data;
    float *distances = peri_matrix_view(r->distances).data;
    r->scan.room = total;
    PERI_TRY(peri_lane_upload(lane, r->found, queries, sizeof *r->found, &r->scan.offsets));
    PERI_TRY(peri_lane_out(lane, ids, total, sizeof *ids, &r->scan.ids));
    PERI_TRY(peri_lane_out(lane, distances, total, sizeof *distances, &r->scan.distances));
    PERI_TRY(run_scan(r));
    PERI_TRY(peri_lane_fetch(lane, ids, r->scan.ids, total, sizeof *ids));
    PERI_TRY(peri_lane_fetch(lane, distances, r->scan.distances, total, sizeof *distances));
    return peri_lane_wait(lane, r->search->control);
}

/* ---- sorting ------------------------------------------------------------------------------ */

typedef struct sorting {
    const ranging *r;
    item *items; /* [found] */
    int64_t *ids;
    float *distances;
} sorting;

static int compare_items(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Sorts what one query found and keeps the nearest of it, by the ids of the user. */
static peri_status sort_query(void *ud, size_t query, size_t worker) {
    const sorting *s = ud;
    const ranging *r = s->r;
    const peri_index *index = r->asked.index;
    const int64_t *ids = peri_matrix_view(r->ids).data;
    const float *distances = peri_matrix_view(r->distances).data;
    size_t first = (size_t)r->found[query], count = (size_t)r->found[query + 1] - first;
    size_t to = (size_t)r->offsets[query], kept = (size_t)r->offsets[query + 1] - to;
    (void)worker;
    if (count == 0) return PERI_OK;
    item *items = s->items + first;
    for (size_t i = 0; i < count; i++) items[i] = (item){ distances[first + i], ids[first + i] };
    qsort(items, count, sizeof *items, compare_items);
    for (size_t i = 0; i < kept; i++) {
        s->distances[to + i] = items[i].distance;
        s->ids[to + i] = index->ids == NULL ? items[i].id : index->ids[items[i].id];
    }
    return PERI_OK;
}

/* From what was found to the answer. */
static peri_status answer(ranging *r, peri_range_hits *hits) {
    peri_context *context = r->asked.index->context;
    size_t queries = r->search->queries.rows, most = r->search->k;
    size_t found = (size_t)r->found[queries];
    for (size_t i = 0; i < queries && most > 0; i++)
        if ((size_t)r->counts[i] > most) r->counts[i] = (int64_t)most;
    PERI_TRY(add_up(r->counts, queries, r->offsets));
    PERI_TRY(peri_matrix_create(context, queries + 1, 1, PERI_I64, PERI_CPU, &hits->offsets));
    PERI_TRY(peri_matrix_write(hits->offsets, 0, queries + 1, r->offsets));
    PERI_TRY(make_room(r, (size_t)r->offsets[queries], &hits->ids, &hits->distances));
    sorting s = { r, NULL, peri_matrix_view(hits->ids).data,
                  peri_matrix_view(hits->distances).data };
    PERI_TRY(peri_memory_acquire(context, found, sizeof *s.items, &s.items));
    peri_loop loop = { NULL, r->search->threads, r->search->control };
    peri_status status = peri_parallel(context, &loop, queries, sort_query, &s);
    peri_memory_release(context, s.items, found, sizeof *s.items);
    return status;
}

/* Rows that stay on the host pass once, and what they hold is kept as it is found. */
static peri_status stream(ranging *r) {
    size_t queries = r->search->queries.rows;
    const peri_streaming streaming = { .asked = &r->asked, .queries = r->scan.queries };
    memset(r->found, 0, (queries + 1) * sizeof *r->found);
    if (queries == 0) return find(r);
    PERI_TRY(peri_streamed_range(r->search, &streaming, r->scan.radius, r->found, &r->ids,
                                 &r->distances));
    for (size_t i = 0; i < queries; i++) r->counts[i] = r->found[i + 1] - r->found[i];
    return PERI_OK;
}

static peri_status run(ranging *r, peri_index *index, peri_range_hits *hits) {
    PERI_TRY(peri_asked_open(&r->asked, index, r->search));
    if (index->kind->range == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s is not searched by distance",
                         index->kind->ops.kind);
    PERI_TRY(open_scan(r));
    if (index->streamed) {
        PERI_TRY(stream(r));
        return answer(r, hits);
    }
    if (r->search->queries.rows > 0) PERI_TRY(run_scan(r));
    PERI_TRY(add_up(r->counts, r->search->queries.rows, r->found));
    PERI_TRY(find(r));
    return answer(r, hits);
}

peri_status peri_index_range(peri_searcher *self, peri_search *search, float radius,
                             peri_range_hits *hits) {
    ranging r = { .search = search, .scan = { .radius = radius } };
    peri_status status = run(&r, peri_handle_take(self), hits);
    if (status != PERI_OK) peri_lane_wait(search->lane, NULL); /* what is freed is not in use */
    peri_asked_close(&r.asked);
    peri_matrix_release(r.ids);
    peri_matrix_release(r.distances);
    if (status == PERI_OK) return status;
    peri_matrix_release(hits->offsets);
    peri_matrix_release(hits->ids);
    peri_matrix_release(hits->distances);
    *hits = (peri_range_hits){ NULL, NULL, NULL };
    return status;
}
