/* mend.h: the links of a graph whose rows were renumbered, and some of which left. */
#ifndef PERI_GRAPH_MEND_H
#define PERI_GRAPH_MEND_H

#include "graph/choose.h"

/* What the links were, in the old numbers. */
typedef struct peri_old_links {
    size_t rows, degree;
    /* The links of an old row, `degree` of them; NULL when it had none here. */
    const uint32_t *(*row)(const void *ud, uint32_t slot);
    const void *ud;
} peri_old_links;

/* Writes the rows of `linking` (its graph is empty before) that have links in `old`.
 *
 * groups   [count] group of each row of the graph; NULL = row i is group i
 * members  old slots that group g stands for: members[starts[g] .. starts[g + 1]), those that are
 *          left; links of the first three are joined
 * now      row of the graph of each old slot; PERI_SLOT_NONE = it left
 *
 * A row that linked to one that left chooses anew, among its other links and those of the row
 * that left (FreshDiskANN: Singh et al., arXiv 2105.09613, algorithm 4). When there is none of
 * them, it stays empty. */
peri_status peri_graph_mend(const peri_linking *linking, const peri_old_links *old, size_t count,
                            const uint32_t *groups, const uint32_t *members, const uint32_t *starts,
                            const uint32_t *now);

#endif
