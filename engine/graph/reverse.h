/* reverse.h: edges back to rows that were just linked (the second half of an insertion). */
#ifndef PERI_GRAPH_REVERSE_H
#define PERI_GRAPH_REVERSE_H

#include "graph/choose.h"

/* What grouping by target needs; sized for n rows. */
typedef struct peri_reverse {
    peri_context *context;
    size_t rows, room;
    uint32_t *counts;  /* [rows] edges into a row; 0 between two calls */
    uint32_t *starts;  /* [rows] where a row's edges end in `sources` */
    uint32_t *touched; /* [rows] targets, in the order they were met */
    uint32_t *sources; /* [room] */
    float *distances;  /* [room] */
} peri_reverse;

peri_status peri_reverse_create(peri_context *context, size_t rows, peri_reverse *out);
void peri_reverse_reset(peri_reverse *reverse);

/* Gives every target of new edges the edges back. Row `slots[i]` was given links[i, 0..m), which
 * are in the graph already, at link_distances. A target with room takes what comes; one without
 * chooses anew among its links and all that come, by the heuristic (GRAPH_LINK). Order decides
 * nothing but ties of room: sources come in the order of `slots`. */
peri_status peri_reverse_add(peri_reverse *reverse, const peri_linking *linking,
                             const uint32_t *slots, const uint32_t *links,
                             const float *link_distances, size_t count, size_t m);

#endif
