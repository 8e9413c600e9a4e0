/* landmarks.h: rows from which no bunch of near rows is far. */
#ifndef PERI_GRAPH_LANDMARKS_H
#define PERI_GRAPH_LANDMARKS_H

#include "core/matrix.h"

/* One row of each bunch: rows are of one bunch when a chain of nearest neighbours joins them.
 *
 * knn   [n, degree] u32, host; nearest first; PERI_SLOT_NONE ends a short list
 * out   [count] u32 slots, ascending; count 0 when all rows are one bunch. Of more than
 *       8 sqrt(n) bunches the largest are taken. Release with count as peri_memory_release has it.
 * Cost  O(n). Errors: PERI_E_MEMORY. */
peri_status peri_landmarks_find(peri_context *context, const peri_view *knn, uint32_t **out,
                                size_t *count);

#endif
