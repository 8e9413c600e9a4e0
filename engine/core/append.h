/* append.h: a matrix with more rows behind it, without copying what is there each time.
 *
 * The result shares one growing store with those it came from: a matrix is the first rows of it.
 * Who appends to the longest of them writes into the room behind it; who appends to a shorter one,
 * or finds no room, gets a store of its own, half as large again. So n appended rows cost O(n)
 * copies in all, and a matrix that someone still reads never changes. */
#ifndef PERI_CORE_APPEND_H
#define PERI_CORE_APPEND_H

#include "core/matrix.h"

/* `base` and then `tail`, at the place of base; same columns and dtype (checked). Any number of
 * threads may append to one base. PERI_E_ARGUMENT, PERI_E_MEMORY, PERI_E_DEVICE. */
peri_status peri_matrix_append(peri_matrix *base, peri_matrix *tail, peri_matrix **out);

#endif
