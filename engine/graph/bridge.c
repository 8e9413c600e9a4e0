/* bridge.c: joins the pieces of a graph, as Boruvka joins trees (1926): in every round each piece but the
 * largest finds rows near to it outside, so the number of pieces at least halves.
 *
 * Several rows of a piece look for their nearest outside, and edges go both ways: one bridge would be
 * enough to reach the piece, but a walk must also happen to see it. Exact search with a filter "not this
 * piece"; pieces are rare and large, or the graph is degenerate and small. */
#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/memory.h"
#include "core/random.h"
#include "graph/connect.h"

#define PIECES_A_SEARCH 32u  /* each has a bitset of all rows */
#define MEMBERS_MAX 8u       /* rows of a piece that look outside */
#define MEMBERS_ALL 2048u    /* of all pieces together, as long as each has one */

typedef struct pieces {
    const peri_nearest *nearest;
    peri_links *links;
    uint64_t seed;
    uint32_t *roots;   /* [rows] union-find; a root is the lowest row of its piece */
    uint32_t *order;   /* [rows] by piece, ascending in each */
    uint32_t *starts;  /* [count + 1], allocated for rows + 1 */
    uint32_t *numbers; /* [rows] of a root: its piece */
    size_t count, largest;
    uint64_t *bits;    /* [PIECES_A_SEARCH, words] */
    uint32_t *slots, *which; /* [PIECES_A_SEARCH * MEMBERS_MAX] */
    int64_t *ids;
} pieces;

static uint32_t find_root(uint32_t *roots, uint32_t row) {
    while (roots[row] != row) {
        roots[row] = roots[roots[row]];
        row = roots[row];
    }
    return row;
}

static void join(uint32_t *roots, uint32_t a, uint32_t b) {
    a = find_root(roots, a);
    b = find_root(roots, b);
    if (a < b) roots[b] = a;
    else roots[a] = b;
}

static void join_edges(pieces *p) {
    const peri_links *links = p->links;
    for (size_t row = 0; row < links->rows; row++) p->roots[row] = (uint32_t)row;
    for (size_t row = 0; row < links->rows; row++) {
        const uint32_t *edges = peri_links_row(links, row);
        for (size_t i = 0; i < links->degree && edges[i] != PERI_SLOT_NONE; i++)
            join(p->roots, (uint32_t)row, edges[i]);
    }
}

/* Numbers the pieces by their lowest row and sorts the rows by piece. */
static void list_pieces(pieces *p) {
    size_t n = p->links->rows;
    p->count = 0;
    for (uint32_t row = 0; row < n; row++)
        if (find_root(p->roots, row) == row) p->numbers[row] = (uint32_t)p->count++;
    memset(p->starts, 0, (p->count + 1) * sizeof *p->starts);
    for (uint32_t row = 0; row < n; row++) p->starts[p->numbers[find_root(p->roots, row)] + 1]++;
    p->largest = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (p->starts[i + 1] > p->starts[p->largest + 1]) p->largest = i;
    }
    for (size_t i = 0; i < p->count; i++) p->starts[i + 1] += p->starts[i];
    for (uint32_t row = 0; row < n; row++)
        p->order[p->starts[p->numbers[find_root(p->roots, row)]]++] = row;
    for (size_t i = p->count; i > 0; i--) p->starts[i] = p->starts[i - 1];
    p->starts[0] = 0;
}

/* Rows of one piece, drawn at random, and the bits of all rows outside it. */
static size_t draw_members(pieces *p, size_t piece, size_t filter, size_t wanted, size_t count) {
    size_t n = p->links->rows, words = peri_bitset_words(n);
    uint64_t *bits = p->bits + filter * words;
    const uint32_t *members = p->order + p->starts[piece];
    uint32_t size = p->starts[piece + 1] - p->starts[piece];
    memset(bits, 0, words * sizeof *bits);
    peri_bitset_add_range(bits, 0, n);
    for (size_t i = 0; i < size; i++) peri_bitset_remove(bits, members[i]);
    uint64_t key = peri_random_mix(p->seed, members[0]);
    for (size_t i = 0; i < peri_min_size(wanted, size); i++) {
        p->slots[count] = size <= wanted ? members[i] : members[peri_random_below(key, i, size)];
        p->which[count++] = (uint32_t)filter;
    }
    return count;
}

/* Pieces first..stop-1 look outside and are joined. */
static peri_status join_pieces(pieces *p, size_t first, size_t stop) {
    size_t words = peri_bitset_words(p->links->rows), count = 0, filters = 0;
    size_t wanted = peri_max_size(1, peri_min_size(MEMBERS_MAX, MEMBERS_ALL / p->count));
    const uint64_t *bits[PIECES_A_SEARCH];
    for (size_t piece = first; piece < stop; piece++) {
        if (piece == p->largest) continue;
        bits[filters] = p->bits + filters * words;
        count = draw_members(p, piece, filters++, wanted, count);
    }
    if (count == 0) return PERI_OK;
    PERI_TRY(peri_nearest_find(p->nearest, p->slots, count, bits, filters, p->which, 1, p->ids));
    for (size_t i = 0; i < count; i++) {
        if (p->ids[i] < 0) continue;
        uint32_t other = (uint32_t)p->ids[i];
        (void)peri_links_add(p->links, p->slots[i], other);
        (void)peri_links_add(p->links, other, p->slots[i]);
        join(p->roots, p->slots[i], other);
    }
    return PERI_OK;
}

static peri_status join_rounds(pieces *p) {
    join_edges(p);
    for (list_pieces(p); p->count > 1; list_pieces(p)) {
        for (size_t first = 0; first < p->count; first += PIECES_A_SEARCH)
            PERI_TRY(join_pieces(p, first, peri_min_size(p->count, first + PIECES_A_SEARCH)));
    }
    return PERI_OK;
}

peri_status peri_graph_bridge(const peri_nearest *nearest, peri_links *links, uint64_t seed) {
    peri_context *context = peri_matrix_context(nearest->rows);
    pieces p = { .nearest = nearest, .links = links, .seed = seed };
    size_t n = links->rows, bits = PIECES_A_SEARCH * peri_bitset_words(n);
    size_t queries = PIECES_A_SEARCH * MEMBERS_MAX;
    peri_status status;
    PERI_GO(peri_memory_acquire(context, n, sizeof *p.roots, &p.roots));
    PERI_GO(peri_memory_acquire(context, n, sizeof *p.order, &p.order));
    PERI_GO(peri_memory_acquire(context, n + 1, sizeof *p.starts, &p.starts));
    PERI_GO(peri_memory_acquire(context, n, sizeof *p.numbers, &p.numbers));
    PERI_GO(peri_memory_acquire(context, bits, sizeof *p.bits, &p.bits));
    PERI_GO(peri_memory_acquire(context, queries, sizeof *p.slots, &p.slots));
    PERI_GO(peri_memory_acquire(context, queries, sizeof *p.which, &p.which));
    PERI_GO(peri_memory_acquire(context, queries, sizeof *p.ids, &p.ids));
    PERI_GO(join_rounds(&p));
done:
    peri_memory_release(context, p.ids, queries, sizeof *p.ids);
    peri_memory_release(context, p.which, queries, sizeof *p.which);
    peri_memory_release(context, p.slots, queries, sizeof *p.slots);
    peri_memory_release(context, p.bits, bits, sizeof *p.bits);
    peri_memory_release(context, p.numbers, n, sizeof *p.numbers);
    peri_memory_release(context, p.starts, n + 1, sizeof *p.starts);
    peri_memory_release(context, p.order, n, sizeof *p.order);
    peri_memory_release(context, p.roots, n, sizeof *p.roots);
    return status;
}
