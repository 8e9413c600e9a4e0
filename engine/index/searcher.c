/* searcher.c: the edge of every search: checks, the two halves, reporting; and the tree of
 * searchers. */
#include "index/searcher.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/memory.h"

#define LAYERS_MAX 16

void peri_searcher_init(peri_searcher *searcher, const peri_searcher_ops *ops,
                        peri_context *context, peri_searcher *inner) {
    atomic_init(&searcher->references, 1);
    searcher->ops = ops;
    searcher->context = context;
    searcher->inner = inner;
    peri_context_retain(context);
    if (inner == NULL) return;
    peri_searcher_retain(inner);
    searcher->device = inner->device;
    searcher->metric = inner->metric;
    searcher->dim = inner->dim;
}

void peri_searcher_retain(peri_searcher *searcher) { atomic_fetch_add(&searcher->references, 1); }

void peri_searcher_release(peri_searcher *searcher) {
    while (searcher != NULL && atomic_fetch_sub(&searcher->references, 1) == 1) {
        peri_searcher *inner = searcher->inner;
        peri_context *context = searcher->context;
        searcher->ops->release(searcher);
        peri_context_release(context);
        searcher = inner;
    }
}

const char *peri_searcher_kind(const peri_searcher *searcher) { return searcher->ops->kind; }
peri_context *peri_searcher_context(const peri_searcher *searcher) { return searcher->context; }
size_t peri_searcher_rows(const peri_searcher *searcher) {
    while (searcher->inner != NULL) searcher = searcher->inner;
    return atomic_load(&searcher->rows);
}
uint32_t peri_searcher_dim(const peri_searcher *searcher) { return searcher->dim; }
peri_metric peri_searcher_metric(const peri_searcher *searcher) { return searcher->metric; }

/* ---- what a request may be ---------------------------------------------------------------- */

static bool on_host(peri_place place) {
    return place.kind == PERI_PLACE_CPU || place.kind == PERI_PLACE_REF;
}

static peri_status wrong_place(const char *what, peri_place given, peri_place allowed) {
    char a[32], b[32];
    peri_place_format(given, a, sizeof a);
    peri_place_format(allowed, b, sizeof b);
    return peri_fail(PERI_E_ARGUMENT, "%s: on %s given, allowed: on the host%s%s", what, a,
                     on_host(allowed) ? "" : " or on ", on_host(allowed) ? "" : b);
}

/* Memory that a caller says is the device's: a kernel that found it is not would take the device
 * with it. */
static peri_status check_placed(const peri_searcher *self, const void *data, size_t bytes) {
    peri_device *device = self->device;
    if (bytes == 0 || device->driver->mem_check == NULL) return PERI_OK;
    return device->driver->mem_check(device, data, bytes);
}

static peri_status check_query_rows(const peri_searcher *self, const peri_view *queries) {
    size_t row_bytes = queries->cols * peri_dtype_bytes(queries->dtype), bytes;
    if (queries->rows == 0) return PERI_OK;
    if (queries->data == NULL || queries->stride_bytes < row_bytes ||
        !peri_mul_fits(queries->rows, queries->stride_bytes, &bytes))
        return peri_fail(PERI_E_ARGUMENT,
                         "queries: %zu rows at %p every %zu bytes given, allowed: %zu bytes and "
                         "more apart",
                         queries->rows, queries->data, queries->stride_bytes, row_bytes);
    if (!on_host(queries->place))
        return check_placed(self, queries->data, bytes - queries->stride_bytes + row_bytes);
    return peri_view_check(queries, self->metric == PERI_COSINE, "queries");
}

static peri_status check_queries(const peri_searcher *self, const peri_view *queries) {
    if (!on_host(queries->place) && !peri_place_equal(queries->place, self->device->place))
        return wrong_place("queries", queries->place, self->device->place);
    if (queries->dtype > PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "queries: dtype %s given, allowed: f32 f16 i8 u8",
                         peri_dtype_name(queries->dtype));
    if (self->metric == PERI_HAMMING && queries->dtype != PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "queries: dtype %s given, allowed under hamming: u8",
                         peri_dtype_name(queries->dtype));
    if (queries->cols != self->dim)
        return peri_fail(PERI_E_ARGUMENT, "queries: %zu columns given, the index has dim %u",
                         queries->cols, self->dim);
    return check_query_rows(self, queries);
}

/* For what reads queries on the host alone. */
static peri_status check_host_queries(const peri_searcher *self, const peri_view *queries) {
    if (!on_host(queries->place))
        return peri_fail(PERI_E_ARGUMENT, "queries: on a device given, allowed here: on the host");
    return check_queries(self, queries);
}

static peri_status check_options(const peri_searcher *self, const peri_options *options) {
    const peri_param_table *tables[LAYERS_MAX];
    size_t count = 0;
    for (const peri_searcher *s = self; s != NULL && count < LAYERS_MAX; s = s->inner)
        if (s->ops->search_table != NULL) tables[count++] = s->ops->search_table;
    return peri_options_check(options, tables, count);
}

static peri_status check_request(const peri_searcher *self, const peri_request *request,
                                 size_t k_least) {
    if (request->size != sizeof *request)
        return peri_fail(PERI_E_ARGUMENT, "request.size: %u given, this library takes %zu",
                         request->size, sizeof *request);
    if (k_least > 0 && (request->k < k_least || request->k > PERI_K_MAX))
        return peri_fail(PERI_E_ARGUMENT, "k: %zu given, allowed: 1..%u", request->k, PERI_K_MAX);
    size_t count = request->filter_count;
    if (count > 1 && count != request->queries.rows)
        return peri_fail(PERI_E_ARGUMENT,
                         "filter: %zu given for %zu queries, allowed: one for the "
                         "batch, or one for each query",
                         count, request->queries.rows);
    size_t items;
    if (k_least > 0 &&
        (!peri_mul_fits(request->queries.rows, request->k, &items) || items > SIZE_MAX / 64))
        return peri_fail(PERI_E_ARGUMENT, "k: %zu for %zu queries is more than memory can hold",
                         request->k, request->queries.rows);
    PERI_TRY(check_options(self, &request->options));
    return check_queries(self, &request->queries);
}

/* ---- searching ---------------------------------------------------------------------------- */

static bool takes_placed(const peri_searcher *self) {
    for (; self != NULL; self = self->inner)
        if (!self->ops->placed) return false;
    return true;
}

/* Queries at the place for a searcher that reads them on the host. */
static peri_status fetch_queries(peri_searcher *self, peri_search *search) {
    peri_lane *lane = search->lane;
    peri_view there = search->queries, *here = &search->queries;
    if (on_host(there.place) || takes_placed(self)) return PERI_OK;
    size_t row_bytes = there.cols * peri_dtype_bytes(there.dtype);
    if (there.stride_bytes != row_bytes)
        return peri_fail(PERI_E_ARGUMENT,
                         "queries: rows every %zu bytes on a device given, allowed "
                         "for %s: every %zu",
                         there.stride_bytes, self->ops->kind, row_bytes);
    here->place = PERI_CPU;
    PERI_TRY(peri_lane_take_host(lane, there.rows, row_bytes, &here->data));
    PERI_TRY(peri_lane_fetch(lane, here->data, there.data, there.rows, row_bytes));
    PERI_TRY(peri_lane_wait(lane, search->control));
    return peri_view_check(here, self->metric == PERI_COSINE, "queries");
}

/* An answer that is wanted at the place but comes to the host first has room there. */
static peri_status begin(peri_searcher *self, peri_search *search) {
    size_t items = search->queries.rows * search->k;
    if (search->caller != NULL) PERI_TRY(peri_lane_after(search->lane, search->caller));
    PERI_TRY(fetch_queries(self, search));
    if (search->placed_ids == NULL) return PERI_OK;
    PERI_TRY(peri_lane_take_host(search->lane, items, sizeof *search->ids, &search->ids));
    return peri_lane_take_host(search->lane, items, sizeof(float), &search->distances);
}

static peri_status send_answer(peri_searcher *self, peri_search *search) {
    peri_lane *lane = search->lane;
    size_t items = search->queries.rows * search->k;
    if (search->placed_ids == NULL || search->left) return PERI_OK;
    peri_metric_report(self->metric, search->distances, items);
    PERI_TRY(peri_lane_send(lane, search->placed_ids, search->ids, items, sizeof *search->ids));
    PERI_TRY(peri_lane_send(lane, search->placed_distances, search->distances, items,
                            sizeof *search->distances));
    return peri_lane_wait(lane, search->control);
}

static peri_status run_search(peri_searcher *self, peri_search *search) {
    peri_status status = peri_lane_acquire(self->device, &search->lane);
    if (status != PERI_OK) return status;
    peri_lane_follow(search->lane, search->control, search->threads);
    search->left = false;
    status = begin(self, search);
    if (status == PERI_OK) status = self->ops->submit(self, search);
    if (status == PERI_OK && search->left && search->caller != NULL) {
        status = peri_lane_before(search->lane, search->caller);
        peri_lane_park(search->lane, search->let_go, search->let_go_ud);
        return status;
    }
    peri_status waited = peri_lane_wait(search->lane, search->control);
    if (status == PERI_OK) status = waited;
    if (status == PERI_OK)
        status = self->ops->finish(self, search);
    else
        self->ops->abandon(self, search);
    if (status == PERI_OK) status = send_answer(self, search);
    peri_lane_release(search->lane);
    return status;
}

/* Of two parts of a batch; a part that was answered in another way makes it both ways. */
static const char *join_paths(const char *a, const char *b) {
    if (strcmp(a, b) == 0) return a;
    return strstr(a, "lists") != NULL ? "lists+all lists" : "graph+exact";
}

static void join_info(peri_hits_info *info, const peri_hits_info *rest, double share) {
    info->path = join_paths(info->path, rest->path);
    info->visited = info->visited * share + rest->visited * (1 - share);
    info->selectivity = info->selectivity * share + rest->selectivity * (1 - share);
    info->redone += rest->redone;
    info->scanned += rest->scanned;
}

/* Queries [first, first + count) of a search, as a search. */
static peri_search part_of(const peri_search *search, size_t first, size_t count) {
    peri_search part = *search;
    part.queries.data = (char *)search->queries.data + first * search->queries.stride_bytes;
    part.queries.rows = count;
    if (search->placed_ids != NULL) {
        part.placed_ids += first * search->k;
        part.placed_distances += first * search->k;
    } else {
        part.ids += first * search->k;
        part.distances += first * search->k;
    }
    if (search->filter_count > 1) {
        part.filters += first;
        part.filter_count = count;
    }
    part.lane = NULL;
    part.state = NULL;
    return part;
}

/* A batch whose scratch does not fit is answered in halves: an answer does not depend on the rest
 * of its batch. */
static peri_status search_parts(peri_searcher *self, peri_search *search) {
    size_t rows = search->queries.rows, half = rows / 2;
    peri_status status = run_search(self, search);
    if (status != PERI_E_MEMORY || half == 0) return status;
    peri_search left = part_of(search, 0, half), right = part_of(search, half, rows - half);
    PERI_TRY(search_parts(self, &left));
    PERI_TRY(search_parts(self, &right));
    search->info = left.info;
    join_info(&search->info, &right.info, (double)half / (double)rows);
    return PERI_OK;
}

/* The device may have been opened before a fork: ask again by place. */
static peri_status check_device(const peri_searcher *self) {
    peri_device *device;
    return peri_context_device(self->context, self->device->place, &device);
}

static peri_status check_hits(const peri_searcher *self, const peri_hits *hits, size_t items) {
    if (items > 0 && (hits->ids == NULL || hits->distances == NULL))
        return peri_fail(PERI_E_ARGUMENT, "hits: no room given for %s",
                         hits->ids == NULL ? "ids" : "distances");
    if (on_host(hits->place)) return PERI_OK;
    if (!peri_place_equal(hits->place, self->device->place))
        return wrong_place("hits", hits->place, self->device->place);
    PERI_TRY(check_placed(self, hits->ids, items * sizeof *hits->ids));
    return check_placed(self, hits->distances, items * sizeof *hits->distances);
}

static void report(const peri_searcher *self, const peri_search *search, peri_hits *hits) {
    size_t items = search->queries.rows * search->k;
    hits->info = search->info;
    hits->info.missing = 0;
    if (search->placed_ids != NULL) return;
    for (size_t i = 0; i < items; i++) hits->info.missing += hits->ids[i] == PERI_ID_NONE;
    peri_metric_report(self->metric, hits->distances, items);
}

peri_status peri_searcher_search(peri_searcher *self, const peri_request *request,
                                 peri_hits *hits) {
    PERI_TRY(check_request(self, request, 1));
    PERI_TRY(check_device(self));
    PERI_TRY(check_hits(self, hits, request->queries.rows * request->k));
    peri_search search = { .queries = request->queries,
                           .k = request->k,
                           .filters = request->filters,
                           .filter_count = request->filter_count,
                           .options = &request->options,
                           .threads = request->threads,
                           .control = request->control,
                           .info = {
                               .path = "exact", .place = self->device->place, .selectivity = 1 } };
    if (on_host(hits->place)) {
        search.ids = hits->ids;
        search.distances = hits->distances;
    } else {
        search.placed_ids = hits->ids;
        search.placed_distances = hits->distances;
    }
    if (request->queue.given)
        PERI_TRY(peri_queue_open(self->device, request->queue, &search.caller));
    peri_status status = request->queries.rows > 0 ? search_parts(self, &search) : PERI_OK;
    if (search.caller != NULL) self->device->driver->stream_close(search.caller);
    if (status == PERI_OK) report(self, &search, hits);
    return status;
}

/* The largest value inside whose reported one is `radius` or nearer. */
static float radius_inside(peri_metric metric, float radius) {
    if (metric == PERI_INNER_PRODUCT) return -radius;
    if (metric != PERI_EUCLIDEAN || isinf(radius)) return radius;
    if (radius < 0) return -INFINITY;
    float inside = radius * radius;
    while (sqrtf(inside) <= radius) inside = nextafterf(inside, INFINITY);
    while (sqrtf(inside) > radius) inside = nextafterf(inside, 0);
    return inside;
}

peri_status peri_searcher_range(peri_searcher *self, const peri_request *request, float radius,
                                peri_range_hits *hits) {
    *hits = (peri_range_hits){ NULL, NULL, NULL };
    PERI_TRY(check_request(self, request, 0));
    PERI_TRY(check_host_queries(self, &request->queries));
    if (isnan(radius)) return peri_fail(PERI_E_ARGUMENT, "radius: NaN given, allowed: numbers");
    if (self->ops->range == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s is not searched by distance", self->ops->kind);
    PERI_TRY(check_device(self));
    peri_search search = { .queries = request->queries,
                           .k = request->k,
                           .filters = request->filters,
                           .filter_count = request->filter_count,
                           .options = &request->options,
                           .threads = request->threads,
                           .control = request->control };
    PERI_TRY(peri_lane_acquire(self->device, &search.lane));
    peri_lane_follow(search.lane, search.control, search.threads);
    peri_status status = self->ops->range(self, &search, radius_inside(self->metric, radius), hits);
    peri_lane_release(search.lane);
    if (status != PERI_OK) return status;
    peri_view distances = peri_matrix_view(hits->distances);
    peri_metric_report(self->metric, distances.data, distances.rows);
    return PERI_OK;
}

peri_status peri_searcher_score(peri_searcher *self, const peri_view *queries, const int64_t *ids,
                                size_t columns, float *distances) {
    if (self->ops->score == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s holds no rows to score with", self->ops->kind);
    PERI_TRY(check_host_queries(self, queries));
    PERI_TRY(check_device(self));
    size_t items;
    if (!peri_mul_fits(queries->rows, columns, &items))
        return peri_fail(PERI_E_ARGUMENT, "ids: %zu columns is more than memory can hold", columns);
    if (items == 0) return PERI_OK;
    peri_search search = { .queries = *queries };
    PERI_TRY(peri_lane_acquire(self->device, &search.lane));
    peri_status status = self->ops->score(self, &search, ids, columns, distances);
    peri_lane_release(search.lane);
    if (status == PERI_OK) peri_metric_report(self->metric, distances, items);
    return status;
}

/* ---- describing --------------------------------------------------------------------------- */

void peri_field_int(peri_field_fn field, void *ud, const char *key, int64_t value) {
    field(ud, key, &(peri_value){ PERI_VALUE_INT, { .i = value } });
}
void peri_field_real(peri_field_fn field, void *ud, const char *key, double value) {
    field(ud, key, &(peri_value){ PERI_VALUE_REAL, { .r = value } });
}
void peri_field_flag(peri_field_fn field, void *ud, const char *key, bool value) {
    field(ud, key, &(peri_value){ PERI_VALUE_FLAG, { .flag = value } });
}
void peri_field_text(peri_field_fn field, void *ud, const char *key, const char *value) {
    field(ud, key, &(peri_value){ PERI_VALUE_TEXT, { .text = value } });
}

void peri_field_params(peri_field_fn field, void *ud, const peri_param_table *table,
                       const void *params) {
    for (size_t i = 0; i < table->count; i++) {
        char key[80], word[48];
        peri_value value = peri_param_value(&table->list[i], params, word, sizeof word);
        snprintf(key, sizeof key, "params.%s", table->list[i].name);
        field(ud, key, &value);
    }
}

typedef struct prefixed {
    peri_field_fn field;
    void *ud;
} prefixed;

static void inner_field(void *ud, const char *key, const peri_value *value) {
    const prefixed *outer = ud;
    char longer[160];
    snprintf(longer, sizeof longer, "inner.%s", key);
    outer->field(outer->ud, longer, value);
}

void peri_searcher_describe(const peri_searcher *self, peri_field_fn field, void *ud) {
    char place[32];
    peri_field_text(field, ud, "kind", self->ops->kind);
    peri_field_int(field, ud, "rows", (int64_t)peri_searcher_rows(self));
    peri_field_int(field, ud, "dim", self->dim);
    peri_field_text(field, ud, "metric", peri_metric_name(self->metric));
    peri_field_text(field, ud, "place",
                    peri_place_format(self->device->place, place, sizeof place));
    self->ops->describe(self, field, ud);
    if (self->inner == NULL) return;
    prefixed outer = { field, ud };
    peri_searcher_describe(self->inner, inner_field, &outer);
}

bool peri_searcher_explain(const peri_searcher *self, size_t depth, char *line, size_t size) {
    for (; depth > 0 && self != NULL; depth--) self = self->inner;
    if (self == NULL) return false;
    self->ops->line(self, line, size);
    return true;
}
