/* links.h: editing a graph of fixed degree on the host: which edge may make room for another.
 *
 * The first half of a row (rounded down) is what pruning chose as its best edges and stays. Of
 * the others, the edge whose target has the most edges into it is missed least. An edge that
 * carries the tree of `parents` (x was reached from parents[x]) is never displaced: what it
 * reaches would be lost. */
#ifndef PERI_GRAPH_LINKS_H
#define PERI_GRAPH_LINKS_H

#include "core/status.h"

typedef struct peri_links {
    uint32_t *graph; /* [rows, degree] PERI_SLOT_NONE ends a short row */
    size_t rows, degree;
    uint32_t *incoming; /* [rows] edges into a row */
    uint32_t *parents;  /* [rows] PERI_SLOT_NONE = not reached; NULL = no tree yet */
    size_t added;       /* edges put in so far */
} peri_links;

static inline uint32_t *peri_links_row(const peri_links *links, size_t row) {
    return links->graph + row * links->degree;
}

/* Counts the edges into every row. */
void peri_links_count(peri_links *links);

/* Whether an edge could be added to `from`. */
bool peri_links_room(const peri_links *links, uint32_t from);

/* Adds from -> to, displacing the least useful edge when the row is full. True also when the
 * edge was there; false when every edge of the row must stay. */
bool peri_links_add(peri_links *links, uint32_t from, uint32_t to);

#endif
