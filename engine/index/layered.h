/* layered.h: what the kinds that are built by insertion share: their sections made anew. */
#ifndef PERI_INDEX_LAYERED_H
#define PERI_INDEX_LAYERED_H

#include "graph/layers.h"
#include "index/index.h"

/* Makes "graph", "first" and "links" of `next` with graph/layers.h: from its rows, those removed
 * left out, and from the sections of `old` (NULL: there are none yet). The caller has set what the
 * kind decides, old_entry and old_level_max too; entry and level_max are told in `layers`. */
peri_status peri_layered_make(const peri_index *old, peri_index *next, peri_layers *layers);

/* For adopt(): counts the removed rows that nothing links to, so that no walk comes to them.
 * Links were checked, `entry` too. */
peri_status peri_layered_count_holes(peri_index *index, size_t entry);

#endif
