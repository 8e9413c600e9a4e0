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

/* The edges into one target: appended where there is room, else chosen among. */
static peri_status add_edges(peri_reverse *r, peri_choices *choices, uint32_t target) {
    const peri_linking *linking = choices->linking;
    size_t degree = linking->degree, count = r->counts[target];
    uint32_t *sources = r->sources + r->starts[target] - count;
    const float *distances = r->distances + r->starts[target] - count;
    uint32_t *row = peri_linking_row(linking, target);
    size_t have = peri_links_length(row, degree), fresh = 0;
    r->counts[target] = 0;
    for (size_t i = 0; i < count; i++) fresh += !peri_links_contain(row, have, sources[i]);
    if (have + fresh <= degree) {
        for (size_t i = 0; i < count; i++)
            if (!peri_links_contain(row, have, sources[i])) row[have++] = sources[i];
        return PERI_OK;
    }
    size_t room = choices->columns - have;
    if (count > room) PERI_TRY(cut_edges(r->context, sources, distances, count, room));
    uint32_t *list = peri_choices_next(choices, target);
    memcpy(list, row, have * sizeof *list);
    memcpy(list + have, sources, peri_min_size(count, room) * sizeof *list);
    return peri_choices_run(choices, false);
}

peri_status peri_reverse_add(peri_reverse *reverse, const peri_linking *linking,
                             const uint32_t *slots, const uint32_t *links,
                             const float *link_distances, size_t count, size_t m) {
    peri_choices choices = { .linking = NULL };
    size_t columns = 2 * linking->degree + 16; /* a hub's nearest as many again, and some */
    peri_status status;
    PERI_GO(make_room(reverse, count * m));
    PERI_GO(peri_choices_open(&choices, linking, columns, peri_min_size(reverse->rows, count * m)));
    size_t targets = group_edges(reverse, slots, links, link_distances, count, m);
    for (size_t i = 0; i < targets; i++) PERI_GO(add_edges(reverse, &choices, reverse->touched[i]));
    PERI_GO(peri_choices_run(&choices, true));
done:
    peri_choices_reset(&choices);
    return status;
}
