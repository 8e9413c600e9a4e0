/* links.c: see links.h. */
#include "graph/links.h"

#include <string.h>

void peri_links_count(peri_links *links) {
    memset(links->incoming, 0, links->rows * sizeof *links->incoming);
    for (size_t i = 0; i < links->rows * links->degree; i++)
        if (links->graph[i] != PERI_SLOT_NONE) links->incoming[links->graph[i]]++;
}

/* The position where a new edge of `from` may go, or the degree. */
static size_t position_for(const peri_links *links, uint32_t from) {
    const uint32_t *row = peri_links_row(links, from);
    size_t best = links->degree;
    if (row[links->degree - 1] == PERI_SLOT_NONE) { /* a short row has room at its end */
        for (best = 0; row[best] != PERI_SLOT_NONE;) best++;
        return best;
    }
    for (size_t at = links->degree / 2; at < links->degree; at++) {
        if (links->parents != NULL && links->parents[row[at]] == from) continue;
        if (best == links->degree || links->incoming[row[at]] >= links->incoming[row[best]])
            best = at;
    }
    return best;
}

bool peri_links_room(const peri_links *links, uint32_t from) {
    return position_for(links, from) < links->degree;
}

bool peri_links_add(peri_links *links, uint32_t from, uint32_t to) {
    uint32_t *row = peri_links_row(links, from);
    for (size_t i = 0; i < links->degree; i++)
        if (row[i] == to) return true;
    size_t at = position_for(links, from);
    if (at == links->degree) return false;
    if (row[at] != PERI_SLOT_NONE) links->incoming[row[at]]--;
    row[at] = to;
    links->incoming[to]++;
    links->added++;
    return true;
}
