/* union_find.h: which rows are of one piece. A root is the lowest row of its piece.
 *
 * Union by the lower root with path halving; near O(1) a call.
 * Source: Tarjan & van Leeuwen, Worst-case analysis of set union algorithms, 1984. */
#ifndef PERI_GRAPH_UNION_FIND_H
#define PERI_GRAPH_UNION_FIND_H

#include <stddef.h>
#include <stdint.h>

/* Every row a piece of its own. */
static inline void peri_union_init(uint32_t *roots, size_t rows) {
    for (size_t row = 0; row < rows; row++) roots[row] = (uint32_t)row;
}

static inline uint32_t peri_union_root(uint32_t *roots, uint32_t row) {
    while (roots[row] != row) {
        roots[row] = roots[roots[row]];
        row = roots[row];
    }
    return row;
}

static inline void peri_union_join(uint32_t *roots, uint32_t a, uint32_t b) {
    a = peri_union_root(roots, a);
    b = peri_union_root(roots, b);
    if (a < b)
        roots[b] = a;
    else
        roots[a] = b;
}

#endif
