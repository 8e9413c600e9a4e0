/* graph_check.h: whether a graph, or the levels above one, may be walked. Nothing in it is
 * trusted. */
#ifndef PERI_GRAPH_GRAPH_CHECK_H
#define PERI_GRAPH_GRAPH_CHECK_H

#include "core/matrix.h"

/* u32 [rows, degree]: links in range, none to the row itself, none twice, PERI_SLOT_NONE only at
 * the end of a row. PERI_E_CORRUPT names row and link. `graph` may be NULL (then it is missing)
 * and anywhere. */
peri_status peri_graph_check(peri_matrix *graph, size_t rows);

/* Rows that can be reached from `entry` along directed edges, the entry counted. */
peri_status peri_graph_reachable(peri_matrix *graph, uint32_t entry, size_t *out);

#endif
