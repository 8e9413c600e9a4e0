/* reverse.c: new edges grouped by target, and the targets' lists made again.
 *
 * Grouping is a counting sort over the edges of one batch, on one thread: it is a hundredth of
 * the work of the batch, and its order is then the same on any number of threads. A target that
 * overflows is pruned once for all that came in the batch, where an insertion row by row would
 * prune it for each. */
#include "graph/reverse.h"

#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"

#define PRUNED_A_ROUND 4096u /* bounds the memory of their candidates */

typedef struct edge {
    float distance;
    uint32_t source;
} edge;

peri_status peri_reverse_create(peri_context *context, size_t rows, peri_reverse *out) {
    peri_status status;
    *out = (peri_reverse){ .context = context, .rows = rows };
    PERI_GO(peri_memory_acquire_zeroed(context, rows, sizeof *out->counts, &out->counts));
    PERI_GO(peri_memory_acquire(context, rows, sizeof *out->starts, &out->starts));
    PERI_GO(peri_memory_acquire(context, rows, sizeof *out->touched, &out->touched));
done:
    if (status != PERI_OK) peri_reverse_reset(out);
    return status;
}

void peri_reverse_reset(peri_reverse *r) {
    if (r->context == NULL) return;
    peri_memory_release(r->context, r->counts, r->rows, sizeof *r->counts);
    peri_memory_release(r->context, r->starts, r->rows, sizeof *r->starts);
    peri_memory_release(r->context, r->touched, r->rows, sizeof *r->touched);
    peri_memory_release(r->context, r->sources, r->room, sizeof *r->sources);
    peri_memory_release(r->context, r->distances, r->room, sizeof *r->distances);
    *r = (peri_reverse){ .context = NULL };
}

static peri_status make_room(peri_reverse *r, size_t edges) {
    if (edges <= r->room) return PERI_OK;
    peri_memory_release(r->context, r->sources, r->room, sizeof *r->sources);
    peri_memory_release(r->context, r->distances, r->room, sizeof *r->distances);
    r->sources = NULL;
    r->distances = NULL;
    r->room = 0;
    PERI_TRY(peri_memory_acquire(r->context, edges, sizeof *r->sources, &r->sources));
    peri_status status = peri_memory_acquire(r->context, edges, sizeof *r->distances,
                                             &r->distances);
    if (status == PERI_OK) r->room = edges;
    if (status != PERI_OK) {
        peri_memory_release(r->context, r->sources, edges, sizeof *r->sources);
        r->sources = NULL;
    }
    return status;
}

/* ---- the operation ------------------------------------------------------------------------ */

peri_status peri_links_choose(const peri_linking *linking, const uint32_t *slots, size_t count,
                              const uint32_t *candidates, const float *distances, size_t columns,
                              uint32_t *links, float *link_distances, size_t degree) {
    peri_lane *lane = linking->lane;
    size_t items = count * columns, chosen = count * degree;
    peri_op_graph_link op = { .kind = PERI_OP_GRAPH_LINK,
                              .metric = linking->metric,
                              .rows = linking->rows,
                              .lengths = linking->lengths,
                              .alpha = linking->alpha,
                              .count = count,
                              .columns = columns,
                              .degree = degree };
    peri_lane_rewind(lane);
    PERI_TRY(peri_lane_upload(lane, slots, count, sizeof *slots, &op.slots));
    PERI_TRY(peri_lane_upload(lane, candidates, items, sizeof *candidates, &op.candidates));
    if (distances != NULL)
        PERI_TRY(peri_lane_upload(lane, distances, items, sizeof *distances, &op.distances));
    PERI_TRY(peri_lane_out(lane, links, chosen, sizeof *links, &op.links));
    if (link_distances != NULL)
        PERI_TRY(peri_lane_out(lane, link_distances, chosen, sizeof *link_distances,
                               &op.link_distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    PERI_TRY(peri_lane_fetch(lane, links, op.links, chosen, sizeof *links));
    if (link_distances != NULL)
        PERI_TRY(peri_lane_fetch(lane, link_distances, op.link_distances, chosen,
                                 sizeof *link_distances));
    return peri_lane_wait(lane, NULL);
}

/* ---- grouping ----------------------------------------------------------------------------- */

/* Edges by target; returns how many targets there are. */
static size_t group_edges(peri_reverse *r, const uint32_t *slots, const uint32_t *links,
                          const float *distances, size_t count, size_t m) {
    size_t targets = 0;
    uint32_t next = 0;
    for (size_t i = 0; i < count * m; i++)
        if (links[i] != PERI_SLOT_NONE && r->counts[links[i]]++ == 0)
            r->touched[targets++] = links[i];
    for (size_t i = 0; i < targets; i++) {
        r->starts[r->touched[i]] = next;
        next += r->counts[r->touched[i]];
    }
    for (size_t i = 0; i < count * m; i++) {
        if (links[i] == PERI_SLOT_NONE) continue;
        uint32_t at = r->starts[links[i]]++;
        r->sources[at] = slots[i / m];
        r->distances[at] = distances[i];
    }
    return targets;
}

static size_t link_count(const uint32_t *links, size_t degree) {
    size_t count = 0;
    while (count < degree && links[count] != PERI_SLOT_NONE) count++;
    return count;
}

static bool contains(const uint32_t *list, size_t count, uint32_t value) {
    uint32_t found = 0;
    for (size_t i = 0; i < count; i++) found |= list[i] == value;
    return found != 0;
}

static int compare_edges(const void *a, const void *b) {
    const edge *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return (x->source > y->source) - (x->source < y->source);
}

/* A hub's edges: the nearest `most` of them first. */
static peri_status cut_edges(peri_context *context, uint32_t *sources, const float *distances,
                             size_t count, size_t most) {
    edge *edges;
    PERI_TRY(peri_memory_acquire(context, count, sizeof *edges, &edges));
    for (size_t i = 0; i < count; i++) edges[i] = (edge){ distances[i], sources[i] };
    qsort(edges, count, sizeof *edges, compare_edges);
    for (size_t i = 0; i < most; i++) sources[i] = edges[i].source;
    peri_memory_release(context, edges, count, sizeof *edges);
    return PERI_OK;
}

/* ---- adding ------------------------------------------------------------------------------- */

/* Targets that overflow, gathered until a round is full. */
typedef struct round {
    const peri_linking *linking;
    uint32_t *slots;      /* [PRUNED_A_ROUND] */
    uint32_t *candidates; /* [PRUNED_A_ROUND, columns] */
    uint32_t *links;      /* [PRUNED_A_ROUND, degree] */
    size_t columns, count;
} round;

static peri_status run_round(round *p) {
    size_t degree = p->linking->degree;
    if (p->count == 0) return PERI_OK;
    PERI_TRY(peri_links_choose(p->linking, p->slots, p->count, p->candidates, NULL, p->columns,
                               p->links, NULL, degree));
    for (size_t i = 0; i < p->count; i++)
        memcpy(p->linking->graph + p->slots[i] * degree, p->links + i * degree,
               degree * sizeof *p->links);
    p->count = 0;
    return PERI_OK;
}

/* The edges into one target: appended where there is room, else left for a round. */
static peri_status add_edges(peri_reverse *r, round *p, uint32_t target) {
    size_t degree = p->linking->degree, count = r->counts[target];
    uint32_t *sources = r->sources + r->starts[target] - count;
    uint32_t *row = p->linking->graph + target * degree;
    size_t have = link_count(row, degree), fresh = 0;
    const float *distances = r->distances + r->starts[target] - count;
    r->counts[target] = 0;
    for (size_t i = 0; i < count; i++) fresh += !contains(row, have, sources[i]);
    if (have + fresh <= degree) {
        for (size_t i = 0; i < count; i++)
            if (!contains(row, have, sources[i])) row[have++] = sources[i];
        return PERI_OK;
    }
    size_t room = p->columns - have;
    if (count > room) PERI_TRY(cut_edges(r->context, sources, distances, count, room));
    uint32_t *list = p->candidates + p->count * p->columns;
    memset(list, 0xFF, p->columns * sizeof *list);
    memcpy(list, row, have * sizeof *list);
    memcpy(list + have, sources, peri_min_size(count, room) * sizeof *list);
    p->slots[p->count++] = target;
    return p->count == PRUNED_A_ROUND ? run_round(p) : PERI_OK;
}

peri_status peri_reverse_add(peri_reverse *reverse, const peri_linking *linking,
                             const uint32_t *slots, const uint32_t *links,
                             const float *link_distances, size_t count, size_t m) {
    round p = { .linking = linking, .columns = 2 * linking->degree + 16 };
    peri_context *context = reverse->context;
    peri_status status;
    size_t room = peri_min_size(PRUNED_A_ROUND, peri_min_size(reverse->rows, count * m));
    PERI_TRY(make_room(reverse, count * m));
    PERI_GO(peri_memory_acquire(context, room, sizeof *p.slots, &p.slots));
    PERI_GO(peri_memory_acquire(context, room * p.columns, sizeof *p.candidates, &p.candidates));
    PERI_GO(peri_memory_acquire(context, room * linking->degree, sizeof *p.links, &p.links));
    size_t targets = group_edges(reverse, slots, links, link_distances, count, m);
    for (size_t i = 0; i < targets; i++) PERI_GO(add_edges(reverse, &p, reverse->touched[i]));
    PERI_GO(run_round(&p));
done:
    peri_memory_release(context, p.links, room * linking->degree, sizeof *p.links);
    peri_memory_release(context, p.candidates, room * p.columns, sizeof *p.candidates);
    peri_memory_release(context, p.slots, room, sizeof *p.slots);
    return status;
}
