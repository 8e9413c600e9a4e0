/* graph_check.h: whether a graph is one: what opening a file and the tests ask. */
#ifndef PERI_GRAPH_GRAPH_CHECK_H
#define PERI_GRAPH_GRAPH_CHECK_H

#include "core/matrix.h"

/* `graph` (any place, may be NULL: PERI_E_CORRUPT) is [rows, degree] u32 with links below `rows`, no link
 * to oneself, nothing behind PERI_SLOT_NONE. PERI_E_CORRUPT names the row. */
peri_status peri_graph_check(peri_matrix *graph, size_t rows);

/* first [rows, 1] and links [., m] of peri_hierarchy: levels within the table, links to rows that have the
 * level, the entry on level_max. */
peri_status peri_hierarchy_check(peri_matrix *first, peri_matrix *links, size_t rows,
                                 uint32_t entry, uint32_t level_max);

/* Rows that can be reached from `entry` along links, itself counted; graph on the host. */
peri_status peri_graph_reachable(peri_matrix *graph, uint32_t entry, size_t *out);

#endif
