/* equal_rows.h: which rows are equal, bit for bit, and what links they get for that. */
#ifndef PERI_GRAPH_EQUAL_ROWS_H
#define PERI_GRAPH_EQUAL_ROWS_H

#include "core/context.h"

/* Groups in the order of their lowest row (until permuted); every row is in one, alone or not. */
typedef struct peri_equal_rows {
    peri_context *context;
    size_t rows, groups;
    uint32_t *order;  /* [rows] by group, ascending in each: the first of a group represents it */
    uint32_t *starts; /* [groups + 1] where a group begins in `order` (allocated for rows + 1) */
} peri_equal_rows;

/* Finds them by hashing and comparing, O(n). `rows` is on the host. */
peri_status peri_equal_rows_find(peri_context *context, const peri_view *rows, size_t threads,
                                 const peri_control *control, peri_equal_rows *out);
/* Leaves the rows whose bit is set; groups go by their lowest row that is left, and a group
 * without any is gone. */
peri_status peri_equal_rows_keep(peri_equal_rows *equal, const uint64_t *bits);
/* The links of all rows from those of one row a group: families.c.
 *
 * links  [groups, degree] numbers of groups, PERI_SLOT_NONE ends a short row
 * out    [rows, cols] slots, cols >= degree; the rows of the groups are written
 * spare  [cols] */
void peri_equal_rows_spread(const peri_equal_rows *equal, const uint32_t *links, size_t degree,
                            const peri_view *out, uint32_t *spare);
/* Puts the groups into another order: group order[i] becomes number i. PERI_E_MEMORY leaves them as
 * they were. */
peri_status peri_equal_rows_permute(peri_equal_rows *equal, const int64_t *order);

void peri_equal_rows_reset(peri_equal_rows *equal);

#endif
