/* connect.c: a breadth-first tree from the entry, grown until it holds every row.
 *
 * Normally one pass over the edges finds every row reached and that is all. Else the pieces are
 * joined (bridge.c) and the tree is grown again. What is still outside has edges into the
 * reached part but none out of it: row u is then given an edge from the first of its own
 * neighbours that is reached and has room. When none has room (many rows whose neighbours are
 * the same few hubs, as under the inner product), the nearest reached rows with room are found
 * by exact search, a batch of rows at a time.
 *
 * It ends: an edge of the tree is never displaced, and among the r rows reached there are r - 1
 * tree edges but at least r places to put one (half of a row is displaceable, rounded up), so
 * some row has room. */
#include "graph/connect.h"

#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/memory.h"
#include "core/progress.h"

#define PASSES 4u  /* over the rows outside, before the exact search */
#define BATCH 256u /* rows of one exact search */
#define NEAR 8u    /* candidates of each */
#define ROWS_A_POLL 8192u

typedef struct growth {
    peri_connect *connect;
    peri_links links;
    uint32_t *queue; /* [rows] */
    size_t reached;
    uint64_t *bits;  /* [words] */
    uint32_t *slots; /* [BATCH] */
    int64_t *ids;    /* [BATCH, NEAR] */
    peri_progress progress;
} growth;

/* Everything that can be reached from `row`, whose parent is set now. */
static peri_status spread(growth *g, uint32_t row, uint32_t parent) {
    size_t head = 0, tail = 0;
    uint32_t *parents = g->links.parents;
    parents[row] = parent;
    g->queue[tail++] = row;
    while (head < tail) {
        if (head % ROWS_A_POLL == ROWS_A_POLL - 1)
            PERI_TRY(peri_progress_tell(&g->progress, g->reached + head));
        uint32_t at = g->queue[head++];
        const uint32_t *edges = peri_links_row(&g->links, at);
        for (size_t i = 0; i < g->links.degree && edges[i] != PERI_SLOT_NONE; i++) {
            if (parents[edges[i]] != PERI_SLOT_NONE) continue;
            parents[edges[i]] = at;
            g->queue[tail++] = edges[i];
        }
    }
    g->reached += tail;
    return PERI_OK;
}

static peri_status grow_from_entry(growth *g) {
    memset(g->links.parents, 0xFF, g->links.rows * sizeof *g->links.parents);
    g->reached = 0;
    return spread(g, g->connect->entry, g->connect->entry);
}

/* Gives row u an edge from one of its own neighbours. */
static peri_status attach_by_links(growth *g, uint32_t u, bool *attached) {
    const uint32_t *edges = peri_links_row(&g->links, u);
    for (size_t i = 0; i < g->links.degree && edges[i] != PERI_SLOT_NONE; i++) {
        uint32_t from = edges[i];
        if (g->links.parents[from] == PERI_SLOT_NONE || !peri_links_add(&g->links, from, u))
            continue;
        *attached = true;
        return spread(g, u, from);
    }
    return PERI_OK;
}

static peri_status attach_passes(growth *g) {
    bool attached = true;
    for (size_t pass = 0; pass < PASSES && attached && g->reached < g->links.rows; pass++) {
        attached = false;
        for (uint32_t u = 0; u < g->links.rows; u++)
            if (g->links.parents[u] == PERI_SLOT_NONE) PERI_TRY(attach_by_links(g, u, &attached));
    }
    return PERI_OK;
}

/* The first row that the bits allow: what an exact search that found nothing falls back on. */
static uint32_t any_row(const growth *g) {
    uint32_t row = 0;
    while (!peri_bitset_test(g->bits, row) || !peri_links_room(&g->links, row)) row++;
    return row;
}

/* Finds reached rows with room near to a batch of rows outside, and attaches them there. */
static peri_status attach_by_search(growth *g) {
    size_t n = g->links.rows, words = peri_bitset_words(n), count = 0;
    memset(g->bits, 0, words * sizeof *g->bits);
    for (uint32_t row = 0; row < n; row++) {
        if (g->links.parents[row] == PERI_SLOT_NONE) {
            if (count < BATCH) g->slots[count++] = row;
        } else if (peri_links_room(&g->links, row)) {
            peri_bitset_add(g->bits, row);
        }
    }
    const uint64_t *bits = g->bits;
    PERI_TRY(
        peri_nearest_find(&g->connect->nearest, g->slots, count, &bits, 1, NULL, NEAR, g->ids));
    for (size_t i = 0; i < count; i++) {
        uint32_t u = g->slots[i];
        if (g->links.parents[u] != PERI_SLOT_NONE) continue; /* reached through one before it */
        uint32_t from = PERI_SLOT_NONE;
        for (size_t j = 0; j < NEAR && from == PERI_SLOT_NONE; j++) {
            int64_t id = g->ids[i * NEAR + j];
            if (id >= 0 && peri_links_add(&g->links, (uint32_t)id, u)) from = (uint32_t)id;
        }
        if (from == PERI_SLOT_NONE && i > 0) continue; /* another round */
        if (from == PERI_SLOT_NONE) {
            from = any_row(g);
            (void)peri_links_add(&g->links, from, u);
        }
        PERI_TRY(spread(g, u, from));
    }
    return PERI_OK;
}

static peri_status grow(growth *g) {
    peri_connect *c = g->connect;
    PERI_TRY(grow_from_entry(g));
    if (g->reached == g->links.rows) return PERI_OK;
    peri_links_count(&g->links);
    uint32_t *parents = g->links.parents;
    g->links.parents = NULL; /* the tree is grown anew, so its edges need no care here */
    peri_status status = peri_graph_bridge(&c->nearest, &g->links, c->entry, c->seed);
    g->links.parents = parents;
    PERI_TRY(status);
    PERI_TRY(grow_from_entry(g));
    while (g->reached < g->links.rows) {
        PERI_TRY(attach_passes(g));
        if (g->reached < g->links.rows) PERI_TRY(attach_by_search(g));
    }
    return PERI_OK;
}

peri_status peri_graph_connect(peri_connect *connect) {
    peri_context *context = peri_matrix_context(connect->nearest.rows);
    size_t n = peri_matrix_view(connect->nearest.rows).rows, words = peri_bitset_words(n);
    growth g = { .connect = connect };
    const peri_control *outer = connect->nearest.control;
    g.links = (peri_links){ .graph = connect->graph, .rows = n, .degree = connect->degree };
    peri_progress_init(&g.progress, outer, "connect", n);
    connect->nearest.control = &g.progress.control;
    peri_status status;
    PERI_GO(peri_memory_acquire(context, n, sizeof(uint32_t), &g.links.incoming));
    PERI_GO(peri_memory_acquire(context, n, sizeof(uint32_t), &g.links.parents));
    PERI_GO(peri_memory_acquire(context, n, sizeof *g.queue, &g.queue));
    PERI_GO(peri_memory_acquire(context, words, sizeof *g.bits, &g.bits));
    PERI_GO(peri_memory_acquire(context, BATCH, sizeof *g.slots, &g.slots));
    PERI_GO(peri_memory_acquire(context, BATCH * NEAR, sizeof *g.ids, &g.ids));
    PERI_GO(grow(&g));
    connect->added = g.links.added;
done:
    connect->nearest.control = outer;
    peri_memory_release(context, g.ids, BATCH * NEAR, sizeof *g.ids);
    peri_memory_release(context, g.slots, BATCH, sizeof *g.slots);
    peri_memory_release(context, g.bits, words, sizeof *g.bits);
    peri_memory_release(context, g.queue, n, sizeof *g.queue);
    peri_memory_release(context, g.links.parents, n, sizeof(uint32_t));
    peri_memory_release(context, g.links.incoming, n, sizeof(uint32_t));
    return status;
}
