/* layers.c: see layers.h.
 *
 * The work is done on one row a group of equal rows (equal_rows.h), renumbered without gaps, and
 * spread over all rows at the end: equal rows and holes are no concern of the insertion.
 *
 *   1. the links there were, renumbered and mended (mend.h); rows without any are new
 *   2. levels: those there were, and drawn ones for new rows
 *   3. new rows of upper levels are inserted at the base, with the old levels to start from
 *   4. each level's new rows are inserted in it
 *   5. the other new rows are inserted at the base, with all levels to start from
 *   6. what can't be reached is connected
 *
 * So every walk starts from a hierarchy whose rows are all in the graph, and the base is never
 * searched before a sixteenth of the rows, spread over all of them, is in it. */
#include "graph/layers.h"

#include <stdlib.h>
#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/lane.h"
#include "core/memory.h"
#include "core/numa.h"
#include "core/random.h"
#include "graph/choose.h"
#include "graph/connect.h"
#include "graph/equal_rows.h"
#include "graph/hierarchy.h"
#include "graph/insert.h"
#include "graph/mend.h"
#include "graph/nearest.h"
#include "core/progress.h"

typedef struct tower {
    peri_layers *job;
    peri_context *context;
    peri_device *device;
    size_t n, old_rows;
    peri_equal_rows equal;
    uint32_t *of;                /* [n] group of a slot; PERI_SLOT_NONE = not present */
    uint32_t *now;               /* [n] row of the layer at hand; likewise */
    peri_matrix *rows, *lengths; /* one row a group, at the place */
    peri_matrix *old_graph, *old_first, *old_links; /* on the host */
    uint8_t *old_levels;                            /* [old_rows] */
    uint32_t level;                                 /* that `old` is asked for */
    uint32_t *graph;                                /* [groups, degree] */
    uint8_t *levels, *fresh;                        /* [groups] */
    uint32_t *first;                                /* [groups] */
    uint32_t *links;                                /* [link_rows, m] groups */
    size_t link_rows;
    uint32_t level_max, entry;
    uint32_t *order; /* [groups] rows to insert */
    size_t count;    /* of them */
} tower;

/* A level, or the base, as a graph of its own. */
typedef struct layer {
    peri_matrix *rows, *lengths;
    uint32_t *nodes; /* [count] groups; NULL = all */
    uint32_t *graph; /* [count, degree] rows of the layer */
    size_t count, degree;
} layer;

/* ---- one row a group ---------------------------------------------------------------------- */

static peri_status gather_groups(const tower *t, peri_matrix *from, const int64_t *slots,
                                 peri_matrix **out) {
    if (from == NULL || t->equal.groups == t->n) {
        if (from != NULL) peri_matrix_retain(from);
        *out = from;
        return PERI_OK;
    }
    return peri_matrix_gather(from, slots, t->equal.groups, out);
}

static peri_status find_groups(tower *t) {
    const peri_layers *job = t->job;
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(job->rows, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    peri_status status = peri_equal_rows_find(t->context, &view, job->threads, job->control,
                                              &t->equal);
    peri_matrix_release(host);
    PERI_TRY(status);
    if (job->present != NULL) PERI_TRY(peri_equal_rows_keep(&t->equal, job->present));
    PERI_TRY(peri_memory_acquire(t->context, t->n, sizeof *t->of, &t->of));
    PERI_TRY(peri_memory_acquire(t->context, t->n, sizeof *t->now, &t->now));
    memset(t->of, 0xFF, t->n * sizeof *t->of);
    for (uint32_t group = 0; group < t->equal.groups; group++)
        for (size_t i = t->equal.starts[group]; i < t->equal.starts[group + 1]; i++)
            t->of[t->equal.order[i]] = group;
    return PERI_OK;
}

/* Lengths for the inner product, which are not kept: only the choice of links wants them. */
static peri_status make_lengths(tower *t) {
    peri_view rows = peri_matrix_view(t->rows);
    PERI_TRY(peri_matrix_create(t->context, rows.rows, 1, PERI_F32, rows.place, &t->lengths));
    peri_op_lengths op = { PERI_OP_LENGTHS, rows, peri_matrix_view(t->lengths).data };
    return peri_progress_run(t->device, (const peri_op *)&op, t->job->control, t->job->threads);
}

static peri_status take_rows(tower *t) {
    size_t groups = t->equal.groups;
    int64_t *slots = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire(t->context, groups, sizeof *slots, &slots));
    for (size_t i = 0; i < groups; i++) slots[i] = t->equal.order[t->equal.starts[i]];
    PERI_GO(gather_groups(t, t->job->rows, slots, &t->rows));
    if (t->job->metric == PERI_COSINE)
        PERI_GO(gather_groups(t, t->job->lengths, slots, &t->lengths));
    else if (t->job->metric == PERI_INNER_PRODUCT && t->job->alpha > 1.0f)
        PERI_GO(make_lengths(t));
done:
    peri_memory_release(t->context, slots, groups, sizeof *slots);
    return status;
}

/* ---- what there was ----------------------------------------------------------------------- */

static const uint32_t *old_row(const void *ud, uint32_t slot) {
    const tower *t = ud;
    if (t->level == 0) {
        peri_view graph = peri_matrix_view(t->old_graph);
        return peri_view_row(&graph, slot);
    }
    if (t->old_levels[slot] < t->level) return NULL;
    peri_view links = peri_matrix_view(t->old_links);
    const uint32_t *first = peri_matrix_view(t->old_first).data;
    return peri_view_row(&links, (size_t)first[slot] + t->level - 1);
}

/* A row's levels end where the next one's begin. */
static void read_old_levels(tower *t) {
    memset(t->old_levels, 0, t->old_rows);
    if (t->job->old_level_max == 0) return;
    const uint32_t *first = peri_matrix_view(t->old_first).data;
    uint32_t end = (uint32_t)peri_matrix_view(t->old_links).rows;
    for (size_t row = t->old_rows; row-- > 0;) {
        if (first[row] == PERI_SLOT_NONE) continue;
        t->old_levels[row] = (uint8_t)(end - first[row]);
        end = first[row];
    }
}

static peri_status take_old(tower *t) {
    const peri_layers *job = t->job;
    if (job->old_graph == NULL) return PERI_OK;
    t->old_rows = peri_matrix_view(job->old_graph).rows;
    PERI_TRY(peri_matrix_move(job->old_graph, PERI_CPU, &t->old_graph));
    if (job->old_level_max > 0) {
        PERI_TRY(peri_matrix_move(job->old_first, PERI_CPU, &t->old_first));
        PERI_TRY(peri_matrix_move(job->old_links, PERI_CPU, &t->old_links));
    }
    PERI_TRY(peri_memory_acquire(t->context, t->old_rows, 1, &t->old_levels));
    read_old_levels(t);
    return PERI_OK;
}

/* ---- a layer ------------------------------------------------------------------------------ */

static peri_linking linking_of(const tower *t, const layer *l, peri_lane *lane) {
    peri_linking linking = { .context = t->context,
                             .lane = lane,
                             .metric = t->job->metric,
                             .rows = peri_matrix_view(l->rows),
                             .alpha = t->job->alpha,
                             .graph = l->graph,
                             .degree = l->degree };
    if (l->lengths != NULL) linking.lengths = peri_matrix_view(l->lengths).data;
    return linking;
}

/* Puts the links of the layer that were there, with `now` set, into it. */
static peri_status mend_layer(tower *t, const layer *l, uint32_t level) {
    peri_lane *lane;
    if (t->old_rows == 0) return PERI_OK;
    size_t degree = peri_matrix_view(level == 0 ? t->old_graph : t->old_links).cols;
    peri_old_links old = { t->old_rows, degree, old_row, t };
    t->level = level;
    PERI_TRY(peri_lane_acquire(t->device, &lane));
    peri_lane_follow(lane, NULL, t->job->threads);
    peri_linking linking = linking_of(t, l, lane);
    peri_status status = peri_graph_mend(&linking, &old, l->count, l->nodes, t->equal.order,
                                         t->equal.starts, t->now);
    peri_lane_close(lane);
    return status;
}

static peri_status insert_layer(const tower *t, const layer *l, peri_insert insert) {
    insert.rows = l->rows;
    insert.lengths = l->lengths;
    insert.metric = t->job->metric;
    insert.graph = l->graph;
    insert.degree = l->degree;
    insert.ef = peri_min_size(t->job->ef, l->count);
    insert.threads = t->job->threads;
    insert.control = t->job->control;
    return peri_graph_insert(&insert);
}

static peri_status connect_layer(const tower *t, const layer *l, uint32_t entry) {
    peri_connect job = { .nearest = { l->rows, l->lengths, t->job->metric, t->job->threads,
                                      t->job->control },
                         .graph = l->graph,
                         .degree = l->degree,
                         .entry = entry,
                         .seed = t->job->seed };
    return l->count < 2 ? PERI_OK : peri_graph_connect(&job);
}

static bool is_empty(const layer *l, size_t row) {
    return l->graph[row * l->degree] == PERI_SLOT_NONE;
}

/* ---- levels ------------------------------------------------------------------------------- */

static void draw_levels(tower *t) {
    const peri_layers *job = t->job;
    for (size_t group = 0; group < t->equal.groups; group++) {
        uint32_t level = 0, slot = t->equal.order[t->equal.starts[group]];
        if (job->m > 0 && t->fresh[group]) level = peri_level_draw(job->seed, slot, job->m);
        for (size_t i = t->equal.starts[group];
             job->m > 0 && !t->fresh[group] && i < t->equal.starts[group + 1]; i++) {
            slot = t->equal.order[i];
            if (slot < t->old_rows && t->old_levels[slot] > level) level = t->old_levels[slot];
        }
        t->levels[group] = (uint8_t)level;
        if (level > t->level_max) t->level_max = level;
        t->first[group] = level == 0 ? PERI_SLOT_NONE : (uint32_t)t->link_rows;
        t->link_rows += level;
    }
}

static peri_status lay_out_levels(tower *t) {
    size_t groups = t->equal.groups, m = t->job->m;
    PERI_TRY(peri_memory_acquire(t->context, groups, 1, &t->levels));
    PERI_TRY(peri_memory_acquire(t->context, groups, sizeof *t->first, &t->first));
    draw_levels(t);
    PERI_TRY(peri_memory_acquire(t->context, t->link_rows * m, sizeof *t->links, &t->links));
    if (t->link_rows > 0) memset(t->links, 0xFF, t->link_rows * m * sizeof *t->links);
    return PERI_OK;
}

static uint32_t *level_links(const tower *t, uint32_t group, uint32_t level) {
    return t->links + ((size_t)t->first[group] + level - 1) * t->job->m;
}

static void close_level(tower *t, layer *l, uint32_t level) {
    for (size_t i = 0; i < l->count; i++) {
        uint32_t *to = level_links(t, l->nodes[i], level);
        const uint32_t *from = l->graph + i * l->degree;
        for (size_t j = 0; j < l->degree; j++)
            to[j] = from[j] == PERI_SLOT_NONE ? PERI_SLOT_NONE : l->nodes[from[j]];
    }
}

static void release_layer(const tower *t, layer *l) {
    peri_memory_release(t->context, l->nodes, l->count, sizeof *l->nodes);
    peri_memory_release(t->context, l->graph, l->count * l->degree, sizeof *l->graph);
    peri_matrix_release(l->rows);
    peri_matrix_release(l->lengths);
}

/* The rows of a level, with the links that the tower has for them; `number` [groups] receives
 * their places in it. */
static peri_status open_level(const tower *t, uint32_t level, uint32_t *number, layer *l) {
    size_t groups = t->equal.groups;
    int64_t *slots = NULL;
    peri_status status;
    *l = (layer){ .degree = t->job->m };
    for (size_t g = 0; g < groups; g++) l->count += t->levels[g] >= level;
    PERI_GO(peri_memory_acquire(t->context, l->count, sizeof *l->nodes, &l->nodes));
    PERI_GO(peri_memory_acquire(t->context, l->count * l->degree, sizeof *l->graph, &l->graph));
    PERI_GO(peri_memory_acquire(t->context, l->count, sizeof *slots, &slots));
    uint32_t next = 0;
    for (uint32_t g = 0; g < groups; g++) {
        number[g] = t->levels[g] >= level ? next : PERI_SLOT_NONE;
        if (number[g] == PERI_SLOT_NONE) continue;
        slots[next] = g;
        l->nodes[next++] = g;
    }
    for (size_t i = 0; i < l->count; i++) {
        const uint32_t *from = level_links(t, l->nodes[i], level);
        for (size_t j = 0; j < l->degree; j++)
            l->graph[i * l->degree + j] = from[j] == PERI_SLOT_NONE ? from[j] : number[from[j]];
    }
    PERI_GO(peri_matrix_gather(t->rows, slots, l->count, &l->rows));
    if (t->lengths != NULL) PERI_GO(peri_matrix_gather(t->lengths, slots, l->count, &l->lengths));
done:
    peri_memory_release(t->context, slots, l->count, sizeof *slots);
    if (status != PERI_OK) release_layer(t, l);
    return status;
}

static peri_status mend_level(tower *t, uint32_t level, uint32_t *number) {
    layer l;
    PERI_TRY(open_level(t, level, number, &l));
    for (size_t slot = 0; slot < t->n; slot++) {
        uint32_t group = t->of[slot];
        bool known = group != PERI_SLOT_NONE && !t->fresh[group];
        t->now[slot] = known ? number[group] : PERI_SLOT_NONE;
    }
    peri_status status = mend_layer(t, &l, level);
    if (status == PERI_OK) close_level(t, &l, level);
    release_layer(t, &l);
    return status;
}

static peri_status insert_level(tower *t, uint32_t level, uint32_t *number) {
    layer l;
    PERI_TRY(open_level(t, level, number, &l));
    peri_status status;
    peri_insert insert = { .m = l.degree, .alpha = t->job->alpha };
    insert.hierarchy.entry = PERI_SLOT_NONE;
    uint32_t *order = NULL;
    PERI_GO(peri_memory_acquire(t->context, l.count, sizeof *order, &order));
    for (uint32_t i = 0; i < l.count; i++)
        if (!is_empty(&l, i) && insert.linked++ == 0) insert.hierarchy.entry = i;
    /* The order of the base, which is drawn, as far as its rows are here. */
    for (size_t i = 0; i < t->count; i++)
        if (number[t->order[i]] != PERI_SLOT_NONE && is_empty(&l, number[t->order[i]]))
            order[insert.count++] = number[t->order[i]];
    if (insert.linked + insert.count < l.count) { /* rows of the base that lost all links here */
        insert.count = 0;
        for (uint32_t i = 0; i < l.count; i++)
            if (is_empty(&l, i)) order[insert.count++] = i;
    }
    if (insert.linked == 0) insert.hierarchy.entry = order[0];
    insert.order = order;
    PERI_GO(insert_layer(t, &l, insert));
    PERI_GO(connect_layer(t, &l, insert.hierarchy.entry));
    close_level(t, &l, level);
done:
    peri_memory_release(t->context, order, l.count, sizeof *order);
    release_layer(t, &l);
    return status;
}

/* ---- the base ----------------------------------------------------------------------------- */

static bool entry_left(const tower *t) {
    return t->job->old_entry >= t->old_rows || t->of[t->job->old_entry] == PERI_SLOT_NONE;
}

/* Where walks begin among the rows that are in the base: on their highest level, preferably where
 * they began before. PERI_SLOT_NONE: there are none. */
static uint32_t find_entry(const tower *t, const uint8_t *out) {
    uint32_t best = PERI_SLOT_NONE, before = PERI_SLOT_NONE;
    if (!entry_left(t)) before = t->of[t->job->old_entry];
    if (before != PERI_SLOT_NONE && (out == NULL || !out[before])) best = before;
    for (uint32_t g = 0; g < t->equal.groups; g++) {
        if (out != NULL && out[g]) continue;
        if (best == PERI_SLOT_NONE || t->levels[g] > t->levels[best]) best = g;
    }
    return best;
}

static peri_status find_medoid(const tower *t, uint32_t *out) {
    peri_nearest nearest = { t->rows, t->lengths, t->job->metric, t->job->threads,
                             t->job->control };
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(t->rows, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    peri_status status = peri_nearest_to_mean(&nearest, &view, t->job->seed, out);
    peri_matrix_release(host);
    return status;
}

typedef struct turn {
    uint64_t key; /* level, descending, then random */
    uint32_t group;
} turn;

static int compare_turns(const void *a, const void *b) {
    const turn *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return (x->group > y->group) - (x->group < y->group);
}

/* The new rows: those of higher levels first, each level in a drawn order, `begin` before all. */
static peri_status make_order(tower *t, uint32_t begin) {
    size_t groups = t->equal.groups;
    turn *turns;
    PERI_TRY(peri_memory_acquire(t->context, groups, sizeof *turns, &turns));
    for (uint32_t g = 0; g < groups; g++) {
        if (!t->fresh[g]) continue;
        uint64_t drawn = peri_random_mix(t->job->seed + 1, t->equal.order[t->equal.starts[g]]) >> 8;
        uint64_t key = (uint64_t)(t->level_max - t->levels[g] + 1u) << 56 | drawn;
        turns[t->count++] = (turn){ g == begin ? 0 : key, g };
    }
    qsort(turns, t->count, sizeof *turns, compare_turns);
    for (size_t i = 0; i < t->count; i++) t->order[i] = turns[i].group;
    peri_memory_release(t->context, turns, groups, sizeof *turns);
    return PERI_OK;
}

/* Inserts order[from .. stop) at the base. */
static peri_status insert_base(tower *t, const layer *base, size_t from, size_t stop,
                               uint32_t entry, uint32_t level_max, bool again, float alpha) {
    peri_insert insert = { .m = t->job->chosen,
                           .alpha = alpha,
                           .order = t->order + from,
                           .count = stop - from,
                           .linked = t->equal.groups - t->count + from,
                           .again = again,
                           .hierarchy_rows = t->link_rows };
    insert.hierarchy = (peri_hierarchy){ .entry = entry,
                                         .level_max = level_max,
                                         .degree = t->job->m,
                                         .first = t->first,
                                         .links = t->links };
    if (again) insert.linked = t->equal.groups;
    return insert_layer(t, base, insert);
}

/* The second pass of Vamana: every row once more, on the graph of the first. */
static peri_status insert_again(tower *t, const layer *base) {
    if (!t->job->twice || t->count < t->equal.groups) return PERI_OK;
    return insert_base(t, base, 0, t->count, t->entry, t->level_max, true, t->job->alpha);
}

static peri_status insert_rows(tower *t, const layer *base, uint32_t *number) {
    size_t upper = 0;
    uint32_t entry = find_entry(t, t->fresh), begin = PERI_SLOT_NONE;
    float alpha = t->job->twice && entry == PERI_SLOT_NONE ? 1.0f : t->job->alpha;
    if (entry == PERI_SLOT_NONE && t->level_max == 0) PERI_TRY(find_medoid(t, &begin));
    PERI_TRY(make_order(t, begin));
    while (upper < t->count && t->levels[t->order[upper]] > 0) upper++;
    uint32_t begins = entry != PERI_SLOT_NONE ? entry : t->count > 0 ? t->order[0] : 0;
    uint32_t above = entry != PERI_SLOT_NONE ? t->levels[entry] : 0;
    PERI_TRY(insert_base(t, base, 0, upper, begins, above, false, alpha));
    for (uint32_t level = t->level_max; level > 0; level--)
        PERI_TRY(insert_level(t, level, number));
    t->entry = t->level_max > 0 ? find_entry(t, NULL) : begins;
    PERI_TRY(insert_base(t, base, upper, t->count, t->entry, t->level_max, false, alpha));
    if (t->level_max == 0 && t->count < t->equal.groups && entry_left(t))
        PERI_TRY(find_medoid(t, &t->entry));
    return insert_again(t, base);
}

static peri_status make_base(tower *t, layer *base) {
    size_t groups = t->equal.groups;
    uint32_t *number = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire(t->context, groups, sizeof *number, &number));
    memcpy(t->now, t->of, t->n * sizeof *t->now);
    PERI_GO(mend_layer(t, base, 0));
    for (size_t g = 0; g < groups; g++) t->fresh[g] = is_empty(base, g);
    PERI_GO(lay_out_levels(t));
    for (uint32_t level = t->job->old_level_max; t->old_rows > 0 && level > 0; level--)
        PERI_GO(mend_level(t, level, number));
    PERI_GO(insert_rows(t, base, number));
    PERI_GO(connect_layer(t, base, t->entry));
done:
    peri_memory_release(t->context, number, groups, sizeof *number);
    return status;
}

/* ---- all rows ----------------------------------------------------------------------------- */

static uint32_t slot_of(const tower *t, uint32_t group) {
    return t->equal.order[t->equal.starts[group]];
}

static peri_status write_graph(tower *t) {
    peri_layers *job = t->job;
    peri_matrix *wide;
    uint32_t *spare = NULL;
    PERI_TRY(peri_matrix_create(t->context, t->n, job->degree, PERI_U32, PERI_CPU, &wide));
    peri_view view = peri_matrix_view(wide);
    memset(view.data, 0xFF, view.rows * view.stride_bytes);
    peri_status status;
    PERI_GO(peri_memory_acquire(t->context, job->degree, sizeof *spare, &spare));
    peri_equal_rows_spread(&t->equal, t->graph, job->degree, &view, spare);
    PERI_GO(peri_matrix_move(wide, peri_matrix_view(job->rows).place, &job->graph));
done:
    peri_memory_release(t->context, spare, job->degree, sizeof *spare);
    peri_matrix_release(wide);
    return status;
}

/* Levels are numbered by slot: the lowest row of a group rises with the group, so they stay in
 * order. */
static peri_status write_levels(tower *t) {
    peri_layers *job = t->job;
    peri_place place = peri_matrix_view(job->rows).place;
    peri_matrix *first = NULL, *links = NULL;
    if (t->level_max == 0) return PERI_OK;
    peri_status status;
    PERI_GO(peri_matrix_create(t->context, t->n, 1, PERI_U32, PERI_CPU, &first));
    PERI_GO(peri_matrix_create(t->context, t->link_rows, job->m, PERI_U32, PERI_CPU, &links));
    uint32_t *begins = peri_matrix_view(first).data, *to = peri_matrix_view(links).data;
    memset(begins, 0xFF, t->n * sizeof *begins);
    for (uint32_t g = 0; g < t->equal.groups; g++) begins[slot_of(t, g)] = t->first[g];
    for (size_t i = 0; i < t->link_rows * job->m; i++)
        to[i] = t->links[i] == PERI_SLOT_NONE ? PERI_SLOT_NONE : slot_of(t, t->links[i]);
    PERI_GO(peri_matrix_move(first, place, &job->first));
    PERI_GO(peri_matrix_move(links, place, &job->links));
done:
    peri_matrix_release(first);
    peri_matrix_release(links);
    return status;
}

static peri_status run(tower *t) {
    peri_layers *job = t->job;
    PERI_TRY(peri_context_device(t->context, peri_matrix_view(job->rows).place, &t->device));
    PERI_TRY(find_groups(t));
    size_t groups = t->equal.groups, links = groups * job->degree;
    PERI_TRY(peri_memory_acquire(t->context, links, sizeof *t->graph, &t->graph));
    if (groups > 0) {
        PERI_TRY(take_rows(t));
        PERI_TRY(take_old(t));
        PERI_TRY(peri_memory_acquire(t->context, groups, 1, &t->fresh));
        PERI_TRY(peri_memory_acquire(t->context, groups, sizeof *t->order, &t->order));
        (void)peri_numa_spread(t->context, t->graph, links * sizeof *t->graph);
        memset(t->graph, 0xFF, links * sizeof *t->graph);
        layer base = { t->rows, t->lengths, NULL, t->graph, groups, job->degree };
        PERI_TRY(make_base(t, &base));
        job->entry = slot_of(t, t->entry);
        job->level_max = t->level_max;
    }
    PERI_TRY(write_graph(t));
    return write_levels(t);
}

peri_status peri_layers_make(peri_layers *layers) {
    tower t = { .job = layers, .context = peri_matrix_context(layers->rows) };
    t.n = peri_matrix_view(layers->rows).rows;
    layers->graph = layers->first = layers->links = NULL;
    layers->entry = layers->level_max = 0;
    peri_status status = run(&t);
    size_t groups = t.equal.groups;
    if (status != PERI_OK) {
        peri_matrix_release(layers->graph);
        peri_matrix_release(layers->first);
        layers->graph = layers->first = NULL;
    }
    peri_memory_release(t.context, t.order, groups, sizeof *t.order);
    peri_memory_release(t.context, t.links, t.link_rows * layers->m, sizeof *t.links);
    peri_memory_release(t.context, t.first, groups, sizeof *t.first);
    peri_memory_release(t.context, t.levels, groups, 1);
    peri_memory_release(t.context, t.fresh, groups, 1);
    peri_memory_release(t.context, t.graph, groups * layers->degree, sizeof *t.graph);
    peri_memory_release(t.context, t.old_levels, t.old_rows, 1);
    peri_matrix_release(t.old_graph);
    peri_matrix_release(t.old_first);
    peri_matrix_release(t.old_links);
    peri_matrix_release(t.rows);
    peri_matrix_release(t.lengths);
    peri_memory_release(t.context, t.now, t.n, sizeof *t.now);
    peri_memory_release(t.context, t.of, t.n, sizeof *t.of);
    peri_equal_rows_reset(&t.equal);
    return status;
}
