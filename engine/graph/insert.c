/* insert.c: batches of rows searched for on the graph as it is, linked, and linked back.
 *
 * A batch is a few operations: a walk for each row on the frozen graph, the heuristic on what it
 * found, and the edges back (reverse.c). Batches grow with the rows inserted (prefix doubling:
 * Manohar et al., ParlayANN, PPoPP 2024). Rows of one batch do not see each other; as long as a
 * batch is much of what was inserted, and may hold most of a row's neighbours, its rows are also
 * searched for within the batch, exactly. Later a batch is a thirty-second of the rows before it,
 * and that would cost a seventh of the build for 0.001 of recall. No locks, no races: the graph
 * depends on the order of the rows alone. */
#include "graph/insert.h"

#include <string.h>

#include "core/checked.h"
#include "core/distance.h"
#include "core/memory.h"
#include "core/progress.h"
#include "graph/reverse.h"

#define BATCH_MAX 2048u
#define BATCH_FIRST 512u
#define EARLY_ROWS 4096u /* until then batches are large, and searched within */
#define EARLY_SHARE 2u   /* a batch is this part of the rows before it */
#define LATE_SHARE 32u
#define NEAR_ROWS 16u /* of a batch that a row of it meets */

typedef struct inserting {
    const peri_insert *insert;
    peri_context *context;
    peri_linking linking;
    peri_reverse reverse;
    peri_progress progress;
    size_t batch, near, columns;  /* rows, candidates of the batch, candidates in all */
    int64_t *slots;               /* [batch] */
    uint32_t *targets;            /* [batch] the same */
    int64_t *walk_ids, *near_ids; /* [batch, ef], [batch, near] */
    float *walk_distances, *near_distances;
    uint32_t *candidates; /* [batch, columns] */
    float *distances;     /* [batch, columns] */
    uint32_t *links;      /* [batch, m] */
    float *link_distances;
} inserting;

/* ---- one batch ---------------------------------------------------------------------------- */

/* The batch as rows, packed; and as queries, which f16 is widened for. */
static peri_status gather_batch(inserting *s, size_t count, peri_view *rows, peri_view *queries,
                                const float **lengths) {
    peri_lane *lane = s->linking.lane;
    peri_op_gather gather = { PERI_OP_GATHER, s->linking.rows, NULL, s->linking.rows };
    gather.out.rows = count;
    gather.out.stride_bytes = gather.out.cols * peri_dtype_bytes(gather.out.dtype);
    PERI_TRY(peri_lane_upload(lane, s->slots, count, sizeof *s->slots, &gather.slots));
    PERI_TRY(peri_lane_take(lane, count, gather.out.stride_bytes, &gather.out.data));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&gather));
    *rows = *queries = gather.out;
    *lengths = NULL;
    if (s->linking.metric == PERI_COSINE) {
        peri_op_gather some = gather;
        some.rows = peri_matrix_view(s->insert->lengths);
        some.out = some.rows;
        some.out.rows = count;
        some.out.stride_bytes = sizeof(float);
        PERI_TRY(peri_lane_take(lane, count, sizeof(float), &some.out.data));
        PERI_TRY(peri_lane_run(lane, (const peri_op *)&some));
        *lengths = some.out.data;
    }
    peri_dtype dtype = peri_query_dtype(rows->dtype);
    if (dtype == rows->dtype) return PERI_OK;
    peri_op_convert convert = { PERI_OP_CONVERT, *rows, *rows };
    convert.out.dtype = dtype;
    convert.out.stride_bytes = rows->cols * peri_dtype_bytes(dtype);
    PERI_TRY(peri_lane_take(lane, count, convert.out.stride_bytes, &convert.out.data));
    *queries = convert.out;
    return peri_lane_run(lane, (const peri_op *)&convert);
}

/* The levels at the place. */
static peri_status place_hierarchy(inserting *s, peri_hierarchy *out) {
    const peri_insert *insert = s->insert;
    peri_lane *lane = s->linking.lane;
    size_t n = s->linking.rows.rows, items = insert->hierarchy_rows * insert->hierarchy.degree;
    *out = insert->hierarchy;
    if (out->level_max == 0) return PERI_OK;
    PERI_TRY(peri_lane_upload(lane, out->first, n, sizeof *out->first, &out->first));
    return peri_lane_upload(lane, out->links, items, sizeof *out->links, &out->links);
}

static peri_status walk(inserting *s, const peri_view *queries) {
    const peri_insert *insert = s->insert;
    peri_lane *lane = s->linking.lane;
    size_t n = s->linking.rows.rows, items = queries->rows * insert->ef;
    peri_op_graph_search op = { .kind = PERI_OP_GRAPH_SEARCH,
                                .metric = insert->metric,
                                .queries = *queries,
                                .rows = s->linking.rows,
                                .lengths = s->linking.lengths,
                                .degree = insert->degree,
                                .itopk_size = insert->ef,
                                .search_width = 1,
                                .k = insert->ef };
    PERI_TRY(place_hierarchy(s, &op.hierarchy));
    PERI_TRY(
        peri_lane_upload(lane, insert->graph, n * insert->degree, sizeof *op.graph, &op.graph));
    PERI_TRY(peri_lane_out(lane, s->walk_ids, items, sizeof *op.ids, &op.ids));
    PERI_TRY(peri_lane_out(lane, s->walk_distances, items, sizeof *op.distances, &op.distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    PERI_TRY(peri_lane_fetch(lane, s->walk_ids, op.ids, items, sizeof *op.ids));
    return peri_lane_fetch(lane, s->walk_distances, op.distances, items, sizeof *op.distances);
}

/* The nearest rows of the batch within the batch. */
static peri_status search_batch(inserting *s, const peri_view *rows, const peri_view *queries,
                                const float *lengths, size_t near) {
    peri_lane *lane = s->linking.lane;
    size_t items = rows->rows * near;
    peri_op_knn op = { .kind = PERI_OP_KNN,
                       .metric = s->linking.metric,
                       .queries = *queries,
                       .rows = *rows,
                       .lengths = lengths,
                       .k = near };
    if (near == 0) return PERI_OK;
    PERI_TRY(peri_lane_out(lane, s->near_ids, items, sizeof *op.ids, &op.ids));
    PERI_TRY(peri_lane_out(lane, s->near_distances, items, sizeof *op.distances, &op.distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    PERI_TRY(peri_lane_fetch(lane, s->near_ids, op.ids, items, sizeof *op.ids));
    return peri_lane_fetch(lane, s->near_distances, op.distances, items, sizeof *op.distances);
}

/* Slots and distances of a list of results, appended. */
static size_t append(uint32_t *slots, float *distances, size_t at, const int64_t *ids,
                     const float *values, size_t count, const uint32_t *targets) {
    for (size_t i = 0; i < count && ids[i] != PERI_ID_NONE; i++, at++) {
        slots[at] = targets == NULL ? (uint32_t)ids[i] : targets[ids[i]];
        distances[at] = values[i];
    }
    return at;
}

/* Candidates of row i of the batch: what the walk found, and the batch or the links it has. */
static void join_candidates(inserting *s, size_t i, size_t walked, size_t near) {
    const peri_insert *insert = s->insert;
    uint32_t *slots = s->candidates + i * s->columns;
    float *distances = s->distances + i * s->columns;
    size_t at = append(slots, distances, 0, s->walk_ids + i * insert->ef,
                       s->walk_distances + i * insert->ef, walked, NULL);
    at = append(slots, distances, at, s->near_ids + i * near, s->near_distances + i * near, near,
                s->targets);
    if (insert->again) {
        const uint32_t *row = insert->graph + (size_t)s->targets[i] * insert->degree;
        for (size_t j = 0; j < insert->degree && row[j] != PERI_SLOT_NONE; j++)
            slots[at++] = row[j];
    }
    while (at < s->columns) slots[at++] = PERI_SLOT_NONE;
}

static peri_status insert_batch(inserting *s, size_t first, size_t count, size_t near) {
    const peri_insert *insert = s->insert;
    peri_view rows, queries;
    const float *lengths = NULL;
    size_t m = insert->m;
    bool walked = insert->linked > 0 || first > 0;
    for (size_t i = 0; i < count; i++) {
        s->targets[i] = insert->order[first + i];
        s->slots[i] = s->targets[i];
    }
    peri_lane_rewind(s->linking.lane);
    PERI_TRY(gather_batch(s, count, &rows, &queries, &lengths));
    if (walked) PERI_TRY(walk(s, &queries));
    PERI_TRY(search_batch(s, &rows, &queries, lengths, near));
    PERI_TRY(peri_lane_wait(s->linking.lane, NULL));
    for (size_t i = 0; i < count; i++) join_candidates(s, i, walked ? insert->ef : 0, near);
    PERI_TRY(peri_links_choose(&s->linking, s->targets, count, s->candidates,
                               insert->again ? NULL : s->distances, s->columns, s->links,
                               s->link_distances, m));
    for (size_t i = 0; i < count; i++) {
        uint32_t *row = insert->graph + (size_t)s->targets[i] * insert->degree;
        memset(row, 0xFF, insert->degree * sizeof *row);
        memcpy(row, s->links + i * m, m * sizeof *row);
    }
    return peri_reverse_add(&s->reverse, &s->linking, s->targets, s->links, s->link_distances,
                            count, m);
}

/* ---- all batches -------------------------------------------------------------------------- */

/* Rows of the next batch when `done` have been inserted. */
static size_t batch_size(const peri_insert *insert, size_t done) {
    size_t size = done / (done < EARLY_ROWS ? EARLY_SHARE : LATE_SHARE);
    if (insert->again) return BATCH_MAX;
    return peri_min_size(BATCH_MAX, peri_max_size(size, done < EARLY_ROWS ? BATCH_FIRST : 1));
}

static peri_status insert_all(inserting *s) {
    const peri_insert *insert = s->insert;
    peri_lane_follow(s->linking.lane, &s->progress.control, insert->threads);
    for (size_t first = 0; first < insert->count;) {
        size_t count = peri_min_size(batch_size(insert, first), insert->count - first);
        bool within = !insert->again && first < EARLY_ROWS;
        peri_progress_step(&s->progress, first, count);
        PERI_TRY(peri_progress_tell(&s->progress, first));
        PERI_TRY(insert_batch(s, first, count, within ? peri_min_size(NEAR_ROWS, count) : 0));
        first += count;
    }
    return PERI_OK;
}

static peri_status make_room(inserting *s) {
    const peri_insert *insert = s->insert;
    peri_context *context = s->context;
    size_t b = s->batch, ef = insert->ef;
    PERI_TRY(peri_reverse_create(context, s->linking.rows.rows, &s->reverse));
    PERI_TRY(peri_memory_acquire(context, b, sizeof *s->slots, &s->slots));
    PERI_TRY(peri_memory_acquire(context, b, sizeof *s->targets, &s->targets));
    PERI_TRY(peri_memory_acquire(context, b * ef, sizeof *s->walk_ids, &s->walk_ids));
    PERI_TRY(peri_memory_acquire(context, b * ef, sizeof(float), &s->walk_distances));
    PERI_TRY(peri_memory_acquire(context, b * s->near, sizeof *s->near_ids, &s->near_ids));
    PERI_TRY(peri_memory_acquire(context, b * s->near, sizeof(float), &s->near_distances));
    PERI_TRY(peri_memory_acquire(context, b * s->columns, sizeof(uint32_t), &s->candidates));
    PERI_TRY(peri_memory_acquire(context, b * s->columns, sizeof(float), &s->distances));
    PERI_TRY(peri_memory_acquire(context, b * insert->m, sizeof(uint32_t), &s->links));
    return peri_memory_acquire(context, b * insert->m, sizeof(float), &s->link_distances);
}

static void release_room(inserting *s) {
    peri_context *context = s->context;
    size_t b = s->batch, ef = s->insert->ef, m = s->insert->m;
    peri_reverse_reset(&s->reverse);
    peri_memory_release(context, s->slots, b, sizeof *s->slots);
    peri_memory_release(context, s->targets, b, sizeof *s->targets);
    peri_memory_release(context, s->walk_ids, b * ef, sizeof *s->walk_ids);
    peri_memory_release(context, s->walk_distances, b * ef, sizeof(float));
    peri_memory_release(context, s->near_ids, b * s->near, sizeof *s->near_ids);
    peri_memory_release(context, s->near_distances, b * s->near, sizeof(float));
    peri_memory_release(context, s->candidates, b * s->columns, sizeof(uint32_t));
    peri_memory_release(context, s->distances, b * s->columns, sizeof(float));
    peri_memory_release(context, s->links, b * m, sizeof(uint32_t));
    peri_memory_release(context, s->link_distances, b * m, sizeof(float));
}

peri_status peri_graph_insert(const peri_insert *insert) {
    inserting s = { .insert = insert, .context = peri_matrix_context(insert->rows) };
    peri_device *device;
    peri_status status;
    if (insert->count == 0) return PERI_OK;
    s.linking = (peri_linking){ .context = s.context,
                                .metric = insert->metric,
                                .rows = peri_matrix_view(insert->rows),
                                .alpha = insert->alpha,
                                .graph = insert->graph,
                                .degree = insert->degree };
    if (insert->lengths != NULL) s.linking.lengths = peri_matrix_view(insert->lengths).data;
    s.batch = peri_min_size(BATCH_MAX, insert->count);
    s.near = insert->again ? 0 : NEAR_ROWS;
    s.columns = insert->ef + (insert->again ? insert->degree : NEAR_ROWS);
    peri_progress_init(&s.progress, insert->control, "insert", insert->count);
    PERI_GO(peri_context_device(s.context, s.linking.rows.place, &device));
    PERI_GO(peri_lane_acquire(device, &s.linking.lane));
    PERI_GO(make_room(&s));
    PERI_GO(insert_all(&s));
done:
    if (s.linking.lane != NULL) peri_lane_close(s.linking.lane);
    release_room(&s);
    return status;
}
