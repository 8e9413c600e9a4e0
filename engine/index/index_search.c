/* index_search.c: one search of an index: plan, enqueue, repair, translate.
 *
 * The plan gives each query a class, from its own filter and the parameters alone (so an answer
 * never depends on the rest of the batch):
 *   exact   a scan of the passing rows: always for flat, and for graphs when so few rows pass that
 *           the scan is cheaper than the walk; for list kinds all lists, when no more rows pass
 *           than a search without a filter looks at;
 *   walk l  a graph walk with a list of itopk_size * 2^l, wide enough for the share that passes;
 *   lists   the lists nearest to the query (class walk 0).
 * Queries of one class form a group, which is one operation. A search that comes home with fewer
 * than min(k, passing) rows is redone exactly in finish(): if k rows match, k rows come back.
 *
 * Everything lives in the lane's arenas, so a search allocates nothing once one of its shape has
 * run. */
#include <math.h>
#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/half.h"
#include "index/handle.h"

#define LEVELS 5 /* lists up to 16 times as wide */
#define CLASSES (LEVELS + 1)
#define CLASS_EXACT 0u

typedef struct group {
    const uint32_t *members; /* query numbers; NULL = all, in order */
    size_t count;
    unsigned class;
    int64_t *ids; /* [count, k] host */
    float *distances;
    uint32_t *visited; /* [count] host; NULL when every passing row is looked at */
} group;

typedef struct plan {
    peri_index *index;         /* retained until the end of the search */
    peri_view queries;         /* host, in the query dtype of the index */
    peri_op_graph_search walk; /* template, class walk 0 */
    double reach;              /* of a list kind: share of the rows in the lists looked at */
    peri_bound **bounds;       /* what is held until the end */
    size_t bound_count;
    uint32_t filter_count; /* distinct filters after joining those of wrappers */
    const uint64_t **bits; /* [filter_count] host */
    size_t *passing;       /* [filter_count] host */
    bool per_query;        /* filter of query i is i, else 0 */
    group groups[CLASSES];
    size_t group_count;
    peri_filter_view placed; /* the filters at the place */
} plan;

/* ---- queries ------------------------------------------------------------------------------ */

static float to_float(const peri_view *view, const void *row, size_t c) {
    switch (view->dtype) {
    case PERI_F32: return ((const float *)row)[c];
    case PERI_F16: return peri_half_to_float(((const uint16_t *)row)[c]);
    case PERI_I8: return ((const int8_t *)row)[c];
    default: return ((const uint8_t *)row)[c];
    }
}

static peri_status convert_row(const peri_view *from, const peri_view *to, size_t r) {
    const void *in = peri_view_row(from, r);
    void *out = peri_view_row(to, r);
    float low = to->dtype == PERI_I8 ? -128.0f : 0.0f,
          high = to->dtype == PERI_I8 ? 127.0f : 255.0f;
    for (size_t c = 0; c < from->cols; c++) {
        float value = to_float(from, in, c);
        if (to->dtype == PERI_F32) {
            ((float *)out)[c] = value;
            continue;
        }
        if (value != rintf(value) || value < low || value > high)
            return peri_fail(PERI_E_INVALID,
                             "queries: row %zu, column %zu is %g, allowed for %s "
                             "rows: whole numbers %g..%g",
                             r, c, (double)value, peri_dtype_name(to->dtype), (double)low,
                             (double)high);
        if (to->dtype == PERI_I8)
            ((int8_t *)out)[c] = (int8_t)value;
        else
            ((uint8_t *)out)[c] = (uint8_t)value;
    }
    return PERI_OK;
}

/* The queries in the dtype that the operations take: as they are, or a converted copy. */
static peri_status prepare_queries(const peri_index *index, peri_lane *lane, const peri_view *from,
                                   peri_view *out) {
    peri_dtype dtype = peri_query_dtype(index->dtype);
    *out = *from;
    if (from->dtype == dtype) return PERI_OK;
    out->dtype = dtype;
    out->stride_bytes = from->cols * peri_dtype_bytes(dtype);
    PERI_TRY(peri_lane_take_host(lane, from->rows, out->stride_bytes, &out->data));
    for (size_t r = 0; r < from->rows; r++) PERI_TRY(convert_row(from, out, r));
    return PERI_OK;
}

/* ---- filters ------------------------------------------------------------------------------ */

static peri_status bind(peri_index *index, plan *p, peri_filter *filter, const peri_bound **out) {
    peri_bound *bound;
    PERI_TRY(peri_filter_bind(filter, index->rows, &index->map, &bound));
    p->bounds[p->bound_count++] = bound;
    *out = bound;
    return PERI_OK;
}

/* The request's filter `i` and those of the wrappers, joined; a copy only when there are
 * several. */
static peri_status join_filters(peri_index *index, peri_search *search, plan *p, uint32_t i) {
    const peri_bound *first = NULL, *bound;
    uint64_t *joined = NULL;
    size_t words = peri_bitset_words(index->rows);
    if (search->filter_count > 0) PERI_TRY(bind(index, p, search->filters[i], &first));
    for (const peri_also *also = search->also; also != NULL; also = also->outer) {
        PERI_TRY(bind(index, p, also->filter, &bound));
        if (first == NULL) {
            first = bound;
            continue;
        }
        if (joined == NULL) {
            PERI_TRY(peri_lane_take_host(search->lane, words, sizeof *joined, &joined));
            if (words > 0) memcpy(joined, first->bits, words * sizeof *joined);
        }
        for (size_t w = 0; w < words; w++) joined[w] &= bound->bits[w];
    }
    p->bits[i] = joined != NULL ? joined : first->bits;
    p->passing[i] = joined != NULL ? peri_bitset_count(joined, index->rows) : first->passing;
    return PERI_OK;
}

static peri_status bind_filters(peri_index *index, peri_search *search, plan *p) {
    size_t also = 0;
    for (const peri_also *a = search->also; a != NULL; a = a->outer) also++;
    if (search->filter_count == 0 && also == 0) return PERI_OK;
    size_t count = peri_max_size(search->filter_count, 1);
    p->per_query = count > 1;
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *p->bits, &p->bits));
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *p->passing, &p->passing));
    PERI_TRY(peri_lane_take_host(search->lane, count * (1 + also), sizeof *p->bounds, &p->bounds));
    for (size_t i = 0; i < count; i++) PERI_TRY(join_filters(index, search, p, (uint32_t)i));
    p->filter_count = (uint32_t)count;
    return PERI_OK;
}

/* The filters where the operations read them. */
static peri_status place_filters(const peri_index *index, peri_search *search, plan *p) {
    if (p->filter_count == 0) return PERI_OK;
    peri_lane *lane = search->lane;
    const uint64_t **bits = p->bits;
    size_t words = peri_bitset_words(index->rows);
    if (!index->device->shares_host) {
        PERI_TRY(peri_lane_take_host(lane, p->filter_count, sizeof *bits, &bits));
        for (uint32_t i = 0; i < p->filter_count; i++)
            PERI_TRY(peri_lane_upload(lane, p->bits[i], words, sizeof **bits, &bits[i]));
    }
    p->placed = (peri_filter_view){ .count = p->filter_count, .words = words };
    PERI_TRY(peri_lane_upload(lane, bits, p->filter_count, sizeof *bits, &p->placed.bits));
    return peri_lane_upload(lane, p->passing, p->filter_count, sizeof *p->passing,
                            &p->placed.passing);
}

static size_t passing_of(const peri_index *index, const plan *p, size_t query) {
    if (p->filter_count == 0) return index->rows - index->holes;
    return p->passing[p->per_query ? query : 0];
}

/* ---- classes ------------------------------------------------------------------------------ */

/* Rows that a walk looks at, by its list and degree: what was measured on the real sets, rounded
 * up. */
static double walk_cost(const peri_op_graph_search *walk, size_t list) {
    return (double)list * (double)walk->degree * 0.35 +
           (double)(walk->seeds + walk->landmark_count);
}

/* The class of a query from the share of rows that pass. A row of the scan costs less than one
 * of the walk (it comes in order): `gain` of them, measured, make up for one. */
static unsigned class_of(const peri_index *index, const plan *p, size_t passing, size_t k) {
    const double gain = p->walk.codes.rows.data == NULL ? 3.0 : 2.0;
    size_t rows = index->rows - index->holes; /* those that a search may meet */
    if (index->kind->scan == NULL && index->kind->walk == NULL) return CLASS_EXACT;
    if ((passing == rows && passing > 0) || p->filter_count == 0) return 1;
    if (index->kind->scan != NULL)
        return (double)passing <= p->reach * (double)rows ? CLASS_EXACT : 1;
    if (passing <= k) return CLASS_EXACT;
    double share = (double)passing / (double)rows;
    unsigned level = 0;
    while (level < LEVELS - 1 && share * (double)(1u << level) < 0.95) level++;
    if ((double)passing <= gain * walk_cost(&p->walk, p->walk.itopk_size << level))
        return CLASS_EXACT;
    /* The widest list still holds too few passing rows. */
    if (share * (double)(1u << level) < 0.5) return CLASS_EXACT;
    return 1 + level;
}

/* Members of each class, ascending, into groups. */
static peri_status make_groups(const peri_index *index, peri_search *search, plan *p) {
    size_t count = search->queries.rows;
    size_t sizes[CLASSES] = { 0 };
    if (!p->per_query) {
        unsigned class = class_of(index, p, passing_of(index, p, 0), search->k);
        p->groups[0] = (group){ .count = count, .class = class };
        p->group_count = 1;
        return PERI_OK;
    }
    uint8_t *classes;
    uint32_t *members;
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *classes, &classes));
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *members, &members));
    for (size_t i = 0; i < count; i++) {
        classes[i] = (uint8_t)class_of(index, p, passing_of(index, p, i), search->k);
        sizes[classes[i]]++;
    }
    for (unsigned c = 0; c < CLASSES; c++) {
        if (sizes[c] == 0) continue;
        group *g = &p->groups[p->group_count++];
        *g = (group){ .members = members, .class = c };
        for (size_t i = 0; i < count; i++)
            if (classes[i] == c) members[g->count++] = (uint32_t)i;
        members += g->count;
    }
    return PERI_OK;
}

/* ---- running a group ---------------------------------------------------------------------- */

/* The group's queries at the place, packed when the group is not the whole batch. */
static peri_status place_queries(peri_search *search, const plan *p, const group *g,
                                 peri_view *out) {
    peri_view host = p->queries;
    if (g->members != NULL) {
        size_t row_bytes = host.cols * peri_dtype_bytes(host.dtype);
        PERI_TRY(peri_lane_take_host(search->lane, g->count, row_bytes, &host.data));
        host.rows = g->count;
        host.stride_bytes = row_bytes;
        for (size_t i = 0; i < g->count; i++)
            memcpy(peri_view_row(&host, i), peri_view_row(&p->queries, g->members[i]), row_bytes);
    }
    return peri_lane_upload_view(search->lane, &host, out);
}

static peri_status place_which(peri_search *search, const plan *p, const group *g,
                               peri_filter_view *filter) {
    uint32_t *which;
    *filter = p->placed;
    if (!p->per_query) return PERI_OK;
    PERI_TRY(peri_lane_take_host(search->lane, g->count, sizeof *which, &which));
    for (size_t i = 0; i < g->count; i++)
        which[i] = g->members == NULL ? (uint32_t)i : g->members[i];
    return peri_lane_upload(search->lane, which, g->count, sizeof *which, &filter->which);
}

static peri_status run_op(const peri_index *index, peri_search *search, const group *g,
                          peri_op_graph_search op, uint32_t *visited) {
    if (index->kind->scan != NULL) {
        peri_scan scan = { search->options,         op.queries, op.filter,    search->k,
                           g->class == CLASS_EXACT, op.ids,     op.distances, visited };
        return index->kind->scan(index, search->lane, &scan);
    }
    if (g->class == CLASS_EXACT) {
        peri_op_knn knn = { PERI_OP_KNN, op.metric, op.queries, op.rows,     op.lengths,
                            op.filter,   search->k, op.ids,     op.distances };
        return peri_lane_run(search->lane, (const peri_op *)&knn);
    }
    op.itopk_size <<= g->class - 1;
    op.rerank <<= g->class - 1;
    op.visited = visited;
    return peri_lane_run(search->lane, (const peri_op *)&op);
}

/* Enqueues one group; its answer is on the host once the stream is done. */
static peri_status run_group(peri_search *search, const plan *p, group *g) {
    const peri_index *index = p->index;
    peri_lane *lane = search->lane;
    size_t items = g->count * search->k;
    peri_op_graph_search op = p->walk;
    uint32_t *visited = NULL;
    if (g->members == NULL) {
        g->ids = search->ids;
        g->distances = search->distances;
    } else {
        PERI_TRY(peri_lane_take_host(lane, items, sizeof *g->ids, &g->ids));
        PERI_TRY(peri_lane_take_host(lane, items, sizeof *g->distances, &g->distances));
    }
    PERI_TRY(place_queries(search, p, g, &op.queries));
    PERI_TRY(place_which(search, p, g, &op.filter));
    PERI_TRY(peri_lane_out(lane, g->ids, items, sizeof *g->ids, &op.ids));
    PERI_TRY(peri_lane_out(lane, g->distances, items, sizeof *g->distances, &op.distances));
    if (g->class != CLASS_EXACT || index->kind->scan != NULL) {
        PERI_TRY(peri_lane_take_host(lane, g->count, sizeof *g->visited, &g->visited));
        PERI_TRY(peri_lane_out(lane, g->visited, g->count, sizeof *g->visited, &visited));
    }
    PERI_TRY(run_op(index, search, g, op, visited));
    PERI_TRY(peri_lane_fetch(lane, g->ids, op.ids, items, sizeof *g->ids));
    PERI_TRY(peri_lane_fetch(lane, g->distances, op.distances, items, sizeof *g->distances));
    if (g->visited == NULL) return PERI_OK;
    return peri_lane_fetch(lane, g->visited, visited, g->count, sizeof *g->visited);
}

/* ---- the two halves ----------------------------------------------------------------------- */

static peri_status fill_rows(const peri_index *index, const peri_search *search, plan *p) {
    peri_matrix *rows = peri_index_section(index, "rows");
    if (rows == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s holds no rows", index->kind->ops.kind);
    p->walk = (peri_op_graph_search){ .kind = PERI_OP_GRAPH_SEARCH,
                                      .metric = index->metric,
                                      .rows = peri_matrix_view(rows),
                                      .lengths = peri_index_lengths(index),
                                      .k = search->k };
    return PERI_OK;
}

/* What the kind needs besides queries and filters. */
static peri_status fill_plan(const peri_index *index, const peri_search *search, plan *p) {
    const peri_kind *kind = index->kind;
    if (kind->scan != NULL) return kind->reach(index, search->options, &p->reach);
    PERI_TRY(fill_rows(index, search, p));
    return kind->walk == NULL ? PERI_OK : kind->walk(index, search->options, search->k, &p->walk);
}

/* Whether removed rows must be kept out: a filter may name them, a search may meet those that are
 * not holes, and where none is alive there is nothing to search. A walk may begin at a hole (a
 * random row), and the scan that repairs a short answer of it meets them all. */
static bool meets_removed(const peri_index *index, const peri_search *search) {
    bool filtered = search->filter_count > 0 || search->also != NULL || index->kind->walk != NULL;
    return index->alive != NULL &&
           (filtered || index->holes < index->removed || index->removed == index->rows);
}

peri_status peri_index_submit(peri_searcher *self, peri_search *search) {
    plan *p;
    PERI_TRY(peri_lane_take_host(search->lane, 1, sizeof *p, &p));
    memset(p, 0, sizeof *p);
    search->state = p;
    peri_index *index = p->index = peri_handle_take(self);
    PERI_TRY(fill_plan(index, search, p));
    PERI_TRY(prepare_queries(index, search->lane, &search->queries, &p->queries));
    const peri_also alive = { index->alive, search->also };
    peri_search joined = *search;
    if (meets_removed(index, search)) joined.also = &alive;
    PERI_TRY(bind_filters(index, &joined, p));
    PERI_TRY(place_filters(index, search, p));
    PERI_TRY(make_groups(index, search, p));
    for (size_t i = 0; i < p->group_count; i++) PERI_TRY(run_group(search, p, &p->groups[i]));
    return PERI_OK;
}

void peri_index_abandon(peri_searcher *self, peri_search *search) {
    plan *p = search->state;
    (void)self;
    if (p == NULL) return;
    for (size_t i = 0; i < p->bound_count; i++) peri_bound_release(p->bounds[i]);
    peri_index_release(p->index);
    search->state = NULL;
}

static size_t member(const group *g, size_t i) { return g->members == NULL ? i : g->members[i]; }

static void scatter(const peri_search *search, const group *g) {
    if (g->members == NULL) return;
    size_t k = search->k;
    for (size_t i = 0; i < g->count; i++) {
        size_t to = g->members[i] * k;
        memcpy(search->ids + to, g->ids + i * k, k * sizeof *g->ids);
        memcpy(search->distances + to, g->distances + i * k, k * sizeof *g->distances);
    }
}

static bool is_short(const peri_index *index, const peri_search *search, const plan *p,
                     size_t query) {
    size_t wanted = peri_min_size(search->k, passing_of(index, p, query));
    return wanted > 0 && search->ids[query * search->k + wanted - 1] == PERI_ID_NONE;
}

/* Walks that found fewer rows than there are: once more, exactly. */
static peri_status repair(const peri_index *index, peri_search *search, const plan *p,
                          size_t *repaired) {
    size_t count = 0;
    for (size_t i = 0; i < search->queries.rows; i++) count += is_short(index, search, p, i);
    *repaired = count;
    if (count == 0) return PERI_OK;
    uint32_t *members;
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *members, &members));
    group g = { .members = members, .class = CLASS_EXACT };
    for (size_t i = 0; i < search->queries.rows; i++)
        if (is_short(index, search, p, i)) members[g.count++] = (uint32_t)i;
    PERI_TRY(run_group(search, p, &g));
    PERI_TRY(peri_lane_wait(search->lane, search->control));
    scatter(search, &g);
    return PERI_OK;
}

static void translate(const peri_index *index, peri_search *search) {
    if (index->ids == NULL) return;
    for (size_t i = 0; i < search->queries.rows * search->k; i++)
        if (search->ids[i] != PERI_ID_NONE) search->ids[i] = index->ids[search->ids[i]];
}

static const char *list_path(bool some, bool all) {
    return !some ? "all lists" : all ? "lists+all lists" : "lists";
}

static void tell(const peri_index *index, peri_search *search, const plan *p, size_t repaired) {
    bool exact = repaired > 0, walked = false;
    double visited = 0, passing = 0;
    size_t queries = search->queries.rows;
    for (size_t i = 0; i < p->group_count; i++) {
        const group *g = &p->groups[i];
        exact = exact || g->class == CLASS_EXACT;
        walked = walked || g->class != CLASS_EXACT;
        for (size_t j = 0; j < g->count; j++) {
            size_t rows = passing_of(index, p, member(g, j));
            visited += g->visited != NULL ? (double)g->visited[j] : (double)rows;
            passing += (double)rows;
        }
    }
    double rows = (double)peri_max_size(index->rows, 1);
    search->info.path = index->kind->scan != NULL ? list_path(walked, exact)
                        : !walked                 ? "exact"
                        : exact                   ? "graph+exact"
                                                  : "graph";
    search->info.place = index->device->place;
    search->info.visited = visited / (double)queries;
    search->info.selectivity = p->filter_count == 0 ? 1.0 : passing / (double)queries / rows;
}

peri_status peri_index_finish(peri_searcher *self, peri_search *search) {
    plan *p = search->state;
    const peri_index *index = p->index;
    size_t repaired = 0;
    for (size_t i = 0; i < p->group_count; i++) scatter(search, &p->groups[i]);
    peri_status status = repair(index, search, p, &repaired);
    if (status == PERI_OK) {
        tell(index, search, p, repaired);
        translate(index, search);
    }
    peri_index_abandon(self, search);
    return status;
}

/* ---- places ------------------------------------------------------------------------------- */

peri_status peri_index_check_place(const peri_index *index) {
    static const peri_options none;
    peri_device *device = index->device;
    char reason[256] = "", place[32];
    plan p;
    memset(&p, 0, sizeof p);
    if (index->kind->check_place != NULL) return index->kind->check_place(index);
    if (index->kind->walk == NULL || index->rows == 0) return PERI_OK;
    peri_search search = { .k = 1 };
    PERI_TRY(fill_rows(index, &search, &p));
    PERI_TRY(index->kind->walk(index, &none, search.k, &p.walk));
    p.walk.queries = p.walk.rows;
    p.walk.queries.rows = 0;
    p.walk.queries.dtype = peri_query_dtype(index->dtype);
    p.walk.queries.stride_bytes = p.walk.rows.cols * peri_dtype_bytes(p.walk.queries.dtype);
    if (device->driver->supports(device, (const peri_op *)&p.walk, reason, sizeof reason))
        return PERI_OK;
    return peri_fail(PERI_E_UNSUPPORTED, "%s: %s",
                     peri_place_format(device->place, place, sizeof place), reason);
}

/* ---- scoring ------------------------------------------------------------------------------ */

static peri_status find_row(const peri_index *index, int64_t id, int64_t *row) {
    *row = id == PERI_ID_NONE ? id : peri_index_find(index, id);
    if (id == PERI_ID_NONE || *row != PERI_ID_NONE) return PERI_OK;
    if (index->ids != NULL || index->removed > 0)
        return peri_fail(PERI_E_ARGUMENT, "ids: %lld given, which no row has", (long long)id);
    return peri_fail(PERI_E_ARGUMENT, "ids: %lld given, allowed: 0..%lld, or -1", (long long)id,
                     (long long)index->rows - 1);
}

static peri_status score_rows(const peri_index *index, peri_search *search, const int64_t *ids,
                              size_t columns, float *distances) {
    peri_lane *lane = search->lane;
    size_t items = search->queries.rows * columns;
    plan p;
    int64_t *rows;
    memset(&p, 0, sizeof p);
    PERI_TRY(fill_rows(index, search, &p));
    PERI_TRY(prepare_queries(index, lane, &search->queries, &p.queries));
    PERI_TRY(peri_lane_take_host(lane, items, sizeof *rows, &rows));
    for (size_t i = 0; i < items; i++) PERI_TRY(find_row(index, ids[i], &rows[i]));
    peri_op_refine op = { .kind = PERI_OP_REFINE,
                          .metric = index->metric,
                          .rows = p.walk.rows,
                          .lengths = p.walk.lengths,
                          .columns = columns };
    PERI_TRY(peri_lane_upload_view(lane, &p.queries, &op.queries));
    PERI_TRY(peri_lane_upload(lane, rows, items, sizeof *rows, &op.candidates));
    PERI_TRY(peri_lane_out(lane, distances, items, sizeof *distances, &op.distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    PERI_TRY(peri_lane_fetch(lane, distances, op.distances, items, sizeof *distances));
    return peri_lane_wait(lane, NULL);
}

peri_status peri_index_score(peri_searcher *self, peri_search *search, const int64_t *ids,
                             size_t columns, float *distances) {
    peri_index *index = peri_handle_take(self);
    peri_status status = score_rows(index, search, ids, columns, distances);
    peri_index_release(index);
    return status;
}
