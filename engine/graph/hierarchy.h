/* hierarchy.h: the upper levels of HNSW over rows that have a base graph already. */
#ifndef PERI_GRAPH_HIERARCHY_H
#define PERI_GRAPH_HIERARCHY_H

#include "core/matrix.h"

typedef struct peri_hierarchy_build {
    peri_matrix *rows;
    peri_matrix *lengths;
    peri_metric metric;
    size_t m;      /* links a row on an upper level; levels are drawn with 1 / ln(m) */
    uint64_t seed;
    size_t threads;
    const peri_control *control;
} peri_hierarchy_build;

/* first [n, 1] and links [., m] u32 at the rows' place as peri_hierarchy has them (PERI_SLOT_NONE in
 * `first`: no upper level), the entry on the top level, and the number of upper levels. level_max 0: both
 * matrices are NULL. */
peri_status peri_hierarchy_make(const peri_hierarchy_build *build, peri_matrix **first,
                                peri_matrix **links, uint32_t *entry, uint32_t *level_max);

#endif
