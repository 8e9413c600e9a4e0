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

#include "core/checked.h"
#include "core/distance.h"
#include "index/asked.h"
#include "index/handle.h"
#include "index/streamed.h"

#define LEVELS 5 /* lists up to 16 times as wide */
#define CLASSES (LEVELS + 1)
#define CLASS_EXACT 0u
#define REDONE_QUERIES_MIN 32u /* below, one more copy from a device is felt */

typedef struct group {
    const uint32_t *members; /* query numbers; NULL = all, in order */
    size_t count;
    unsigned class;
    int64_t *ids; /* [count, k] host */
    float *distances;
    uint32_t *visited; /* [count] host; NULL when every passing row is looked at */
    uint32_t *redone;  /* [2] host: done twice, and scanned; NULL when it is not asked for */
} group;

typedef struct plan {
    peri_asked asked;          /* until the end of the search */
    peri_op_graph_search walk; /* template, class walk 0 */
    double reach;              /* of a list kind: share of the rows in the lists looked at */
    group groups[CLASSES];
    size_t group_count;
} plan;

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
    if ((passing == rows && passing > 0) || p->asked.filter_count == 0) return 1;
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
    if (!p->asked.per_query) {
        unsigned class = class_of(index, p, peri_asked_passing(&p->asked, 0), search->k);
        p->groups[0] = (group){ .count = count, .class = class };
        p->group_count = 1;
        return PERI_OK;
    }
    uint8_t *classes;
    uint32_t *members;
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *classes, &classes));
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *members, &members));
    for (size_t i = 0; i < count; i++) {
        classes[i] = (uint8_t)class_of(index, p, peri_asked_passing(&p->asked, i), search->k);
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

/* Some of the queries at the place, where all of them are. */
static peri_status pick_queries(peri_search *search, const plan *p, const group *g,
                                peri_view *out) {
    peri_op_gather op = { PERI_OP_GATHER, p->asked.queries, NULL, p->asked.queries };
    int64_t *slots;
    PERI_TRY(peri_lane_take_host(search->lane, g->count, sizeof *slots, &slots));
    for (size_t i = 0; i < g->count; i++) slots[i] = g->members[i];
    op.out.rows = g->count;
    op.out.stride_bytes = op.out.cols * peri_dtype_bytes(op.out.dtype);
    PERI_TRY(peri_lane_take(search->lane, g->count, op.out.stride_bytes, &op.out.data));
    PERI_TRY(peri_lane_upload(search->lane, slots, g->count, sizeof *slots, &op.slots));
    *out = op.out;
    return peri_lane_run(search->lane, (const peri_op *)&op);
}

/* The group's queries at the place, packed when the group is not the whole batch. */
static peri_status place_queries(peri_search *search, const plan *p, const group *g,
                                 peri_view *out) {
    peri_view host = p->asked.queries;
    bool placed = !p->asked.index->device->shares_host &&
                  peri_place_equal(host.place, p->asked.index->device->place);
    if (g->members != NULL && placed) return pick_queries(search, p, g, out);
    if (g->members != NULL) {
        size_t row_bytes = host.cols * peri_dtype_bytes(host.dtype);
        PERI_TRY(peri_lane_take_host(search->lane, g->count, row_bytes, &host.data));
        host.rows = g->count;
        host.stride_bytes = row_bytes;
        for (size_t i = 0; i < g->count; i++)
            memcpy(peri_view_row(&host, i), peri_view_row(&p->asked.queries, g->members[i]),
                   row_bytes);
    }
    return peri_lane_upload_view(search->lane, &host, out);
}

static peri_status place_which(peri_search *search, const plan *p, const group *g,
                               peri_filter_view *filter) {
    uint32_t *which;
    *filter = p->asked.placed;
    if (!p->asked.per_query) return PERI_OK;
    PERI_TRY(peri_lane_take_host(search->lane, g->count, sizeof *which, &which));
    for (size_t i = 0; i < g->count; i++)
        which[i] = g->members == NULL ? (uint32_t)i : g->members[i];
    return peri_lane_upload(search->lane, which, g->count, sizeof *which, &filter->which);
}

static peri_status run_op(const peri_index *index, peri_search *search, const group *g,
                          peri_op_graph_search op, uint32_t *visited, uint32_t *redone) {
    if (index->kind->scan != NULL) {
        peri_scan scan = { search->options,         op.queries, op.filter,    search->k,
                           g->class == CLASS_EXACT, op.ids,     op.distances, visited };
        return index->kind->scan(index, search->lane, &scan);
    }
    if (g->class == CLASS_EXACT) {
        peri_op_knn knn = { .kind = PERI_OP_KNN,
                            .metric = op.metric,
                            .queries = op.queries,
                            .rows = op.rows,
                            .lengths = op.lengths,
                            .filter = op.filter,
                            .k = search->k,
                            .ids = op.ids,
                            .distances = op.distances,
                            .redone = redone,
                            .scanned = redone == NULL ? NULL : redone + 1 };
        return peri_lane_run(search->lane, (const peri_op *)&knn);
    }
    op.itopk_size <<= g->class - 1;
    op.rerank <<= g->class - 1;
    op.visited = visited;
    return peri_lane_run(search->lane, (const peri_op *)&op);
}

/* Enqueues one group; its answer is on the host once the stream is done. */
static peri_status run_group(peri_search *search, const plan *p, group *g) {
    const peri_index *index = p->asked.index;
    peri_lane *lane = search->lane;
    size_t items = g->count * search->k;
    peri_op_graph_search op = p->walk;
    uint32_t *visited = NULL, *redone = NULL;
    if (g->members == NULL) {
        g->ids = search->ids;
        g->distances = search->distances;
    } else {
        PERI_TRY(peri_lane_take_host(lane, items, sizeof *g->ids, &g->ids));
        PERI_TRY(peri_lane_take_host(lane, items, sizeof *g->distances, &g->distances));
    }
    PERI_TRY(place_queries(search, p, g, &op.queries));
    if (index->streamed) {
        const peri_streaming streaming = { &p->asked, op.queries, g->members, g->ids,
                                           g->distances };
        return peri_streamed_search(search, &streaming);
    }
    PERI_TRY(place_which(search, p, g, &op.filter));
    PERI_TRY(peri_lane_out(lane, g->ids, items, sizeof *g->ids, &op.ids));
    PERI_TRY(peri_lane_out(lane, g->distances, items, sizeof *g->distances, &op.distances));
    if (g->class != CLASS_EXACT || index->kind->scan != NULL) {
        PERI_TRY(peri_lane_take_host(lane, g->count, sizeof *g->visited, &g->visited));
        PERI_TRY(peri_lane_out(lane, g->visited, g->count, sizeof *g->visited, &visited));
    }
    if (g->class == CLASS_EXACT && index->kind->scan == NULL && g->count >= REDONE_QUERIES_MIN) {
        PERI_TRY(peri_lane_take_host(lane, 2, sizeof *g->redone, &g->redone));
        PERI_TRY(peri_lane_out(lane, g->redone, 2, sizeof *g->redone, &redone));
    }
    PERI_TRY(run_op(index, search, g, op, visited, redone));
    PERI_TRY(peri_lane_fetch(lane, g->ids, op.ids, items, sizeof *g->ids));
    PERI_TRY(peri_lane_fetch(lane, g->distances, op.distances, items, sizeof *g->distances));
    if (g->redone != NULL) PERI_TRY(peri_lane_fetch(lane, g->redone, redone, 2, sizeof *g->redone));
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

static void tell(const peri_index *index, peri_search *search, const plan *p, size_t repaired);

static void let_go(void *ud) { peri_asked_close(ud); }

/* Whether the answer is what one scan of the rows finds, with nothing left to do on the host. */
static bool stays(const peri_index *index, const peri_search *search, const plan *p) {
    return search->placed_ids != NULL && index->ids == NULL && index->kind->scan == NULL &&
           !index->streamed && p->group_count == 1 && p->groups[0].class == CLASS_EXACT;
}

/* Enqueues the scan with its answer where the caller wants it. */
static peri_status run_there(peri_search *search, plan *p) {
    const peri_index *index = p->asked.index;
    peri_op_graph_search op = p->walk;
    PERI_TRY(place_queries(search, p, &p->groups[0], &op.queries));
    PERI_TRY(place_which(search, p, &p->groups[0], &op.filter));
    op.ids = search->placed_ids;
    op.distances = search->placed_distances;
    PERI_TRY(run_op(index, search, &p->groups[0], op, NULL, NULL));
    const peri_op_report report = { PERI_OP_REPORT, index->metric, op.distances,
                                    search->queries.rows * search->k };
    PERI_TRY(peri_lane_run(search->lane, (const peri_op *)&report));
    tell(index, search, p, 0);
    search->left = true;
    search->let_go = let_go;
    search->let_go_ud = &p->asked;
    return PERI_OK;
}

peri_status peri_index_submit(peri_searcher *self, peri_search *search) {
    plan *p;
    PERI_TRY(peri_lane_take_host(search->lane, 1, sizeof *p, &p));
    memset(p, 0, sizeof *p);
    search->state = p;
    PERI_TRY(peri_asked_open(&p->asked, peri_handle_take(self), search));
    const peri_index *index = p->asked.index;
    PERI_TRY(fill_plan(index, search, p));
    PERI_TRY(make_groups(index, search, p));
    if (stays(index, search, p)) return run_there(search, p);
    for (size_t i = 0; i < p->group_count; i++) PERI_TRY(run_group(search, p, &p->groups[i]));
    return PERI_OK;
}

void peri_index_abandon(peri_searcher *self, peri_search *search) {
    plan *p = search->state;
    (void)self;
    if (p == NULL) return;
    peri_asked_close(&p->asked);
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

static bool is_short(const peri_search *search, const plan *p, size_t query) {
    size_t wanted = peri_min_size(search->k, peri_asked_passing(&p->asked, query));
    return wanted > 0 && search->ids[query * search->k + wanted - 1] == PERI_ID_NONE;
}

/* Walks that found fewer rows than there are: once more, exactly. */
static peri_status repair(peri_search *search, const plan *p, size_t *repaired) {
    size_t count = 0;
    for (size_t i = 0; i < search->queries.rows; i++) count += is_short(search, p, i);
    *repaired = count;
    if (count == 0) return PERI_OK;
    uint32_t *members;
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *members, &members));
    group g = { .members = members, .class = CLASS_EXACT };
    for (size_t i = 0; i < search->queries.rows; i++)
        if (is_short(search, p, i)) members[g.count++] = (uint32_t)i;
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
    search->info.redone = search->info.scanned = 0;
    for (size_t i = 0; i < p->group_count; i++) {
        const group *g = &p->groups[i];
        if (g->redone != NULL) {
            search->info.redone += g->redone[0];
            search->info.scanned += g->redone[1];
        }
        exact = exact || g->class == CLASS_EXACT;
        walked = walked || g->class != CLASS_EXACT;
        for (size_t j = 0; j < g->count; j++) {
            size_t rows = peri_asked_passing(&p->asked, member(g, j));
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
    search->info.selectivity = p->asked.filter_count == 0 ? 1.0 : passing / (double)queries / rows;
}

peri_status peri_index_finish(peri_searcher *self, peri_search *search) {
    plan *p = search->state;
    const peri_index *index = p->asked.index;
    size_t repaired = 0;
    peri_status status = PERI_OK;
    for (size_t i = 0; i < p->group_count && !search->left; i++) scatter(search, &p->groups[i]);
    if (!search->left) status = repair(search, p, &repaired);
    if (status == PERI_OK && !search->left) {
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
    if (index->rows == 0) return PERI_OK;
    peri_search search = { .k = 1 };
    PERI_TRY(fill_rows(index, &search, &p));
    if (index->kind->walk != NULL) PERI_TRY(index->kind->walk(index, &none, search.k, &p.walk));
    p.walk.queries = p.walk.rows;
    p.walk.queries.rows = 0;
    p.walk.queries.dtype = peri_query_dtype(index->dtype);
    p.walk.queries.stride_bytes = p.walk.rows.cols * peri_dtype_bytes(p.walk.queries.dtype);
    const peri_op_knn knn = { .kind = PERI_OP_KNN,
                              .metric = p.walk.metric,
                              .queries = p.walk.queries,
                              .rows = p.walk.rows,
                              .lengths = p.walk.lengths,
                              .k = search.k };
    if (index->streamed) PERI_TRY(peri_streamed_check_place(index));
    const peri_op *op = index->kind->walk != NULL ? (const peri_op *)&p.walk
                                                  : (const peri_op *)&knn;
    if (device->driver->supports(device, op, reason, sizeof reason)) return PERI_OK;
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
    peri_view queries;
    int64_t *rows;
    memset(&p, 0, sizeof p);
    PERI_TRY(fill_rows(index, search, &p));
    PERI_TRY(peri_queries_prepare(index, lane, &search->queries, &queries));
    PERI_TRY(peri_lane_take_host(lane, items, sizeof *rows, &rows));
    for (size_t i = 0; i < items; i++) PERI_TRY(find_row(index, ids[i], &rows[i]));
    peri_op_refine op = { .kind = PERI_OP_REFINE,
                          .metric = index->metric,
                          .rows = p.walk.rows,
                          .lengths = p.walk.lengths,
                          .columns = columns };
    PERI_TRY(peri_lane_upload_view(lane, &queries, &op.queries));
    if (index->streamed)
        PERI_TRY(peri_streamed_pick(index, lane, rows, items, &op));
    else
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
