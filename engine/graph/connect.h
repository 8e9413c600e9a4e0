/* connect.h: every row reachable from the entry along directed edges. */
#ifndef PERI_GRAPH_CONNECT_H
#define PERI_GRAPH_CONNECT_H

#include "graph/links.h"
#include "graph/nearest.h"

typedef struct peri_connect {
    peri_nearest nearest; /* the rows of the graph; `control` is the caller's */
    uint32_t *graph;      /* host [rows, degree], changed in place; degree >= 1 */
    size_t degree;
    uint32_t entry;
    uint64_t seed;
    size_t added; /* out: edges put in */
} peri_connect;

/* Makes every row reachable. O(n * degree) when nothing is missing, which is the normal case.
 * Replaced are edges of the second half of a row only, those whose target has the most edges
 * into it. */
peri_status peri_graph_connect(peri_connect *connect);

/* Joins the pieces that no edge, either way, connects: random rows of each piece get edges from
 * and to their nearest rows outside it, until there is one piece. bridge.c. */
peri_status peri_graph_bridge(const peri_nearest *nearest, peri_links *links, uint32_t entry,
                              uint64_t seed);

#endif
