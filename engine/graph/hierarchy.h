/* hierarchy.h: the upper levels of HNSW over a graph (Malkov & Yashunin 2018). */
#ifndef PERI_GRAPH_HIERARCHY_H
#define PERI_GRAPH_HIERARCHY_H

#include "core/matrix.h"

typedef struct peri_hierarchy_build {
    peri_matrix *rows;    /* [n, d] */
    peri_matrix *lengths; /* [n, 1] f32; cosine */
    peri_metric metric;
    size_t m; /* links of a row on an upper level; levels are drawn with 1 / ln(m) */
    uint64_t seed;
    size_t threads; /* 0 = the context's */
    const peri_control *control;
} peri_hierarchy_build;

/* Makes the levels at the rows' place:
 *   first  u32 [n, 1]  row of `links` that holds level 1 of a row, PERI_SLOT_NONE for a row
 *   without
 *                      upper levels; ascending by row, so a row's levels end where the next
 *                      one's begin
 *   links  u32 [., m]  level l of a row is row first + l - 1 and the entry, a row of the top
 *   level. level_max 0 (too few rows): both matrices are NULL. */
peri_status peri_hierarchy_make(const peri_hierarchy_build *build, peri_matrix **first,
                                peri_matrix **links, uint32_t *entry, uint32_t *level_max);

/* The level of a row as HNSW draws it: 0 and more, with 1 / ln(m). */
uint8_t peri_level_draw(uint64_t seed, size_t row, size_t m);

/* Whether such levels may be walked: shapes, order, every link in range, on its level, not to
 * itself, and the entry on the top level. PERI_E_CORRUPT; the matrices may be NULL (missing) and
 * anywhere. */
peri_status peri_hierarchy_check(peri_matrix *first, peri_matrix *links, size_t rows,
                                 uint32_t entry, uint32_t level_max);

#endif
