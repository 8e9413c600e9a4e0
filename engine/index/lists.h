/* lists.h: the inverted lists of an index: one arena, never an allocation a list.
 *
 * Sections
 *   "list_offsets" i64 [n_lists + 1, 1]  where each list begins; the last is the capacity
 *   "list_sizes"   u32 [n_lists, 1]      entries in use
 *   "list_slots"   u32 [capacity, 1]     slot of each entry
 * and the kind's parts, each [capacity, any]: row p is what the entry at position p holds (a row, a
 * code, a length). A kind names its parts in a layout; all that happens to entries happens to all
 * parts.
 *
 * Right after a build, after packing and in files, lists follow each other without room. Who
 * extends an index for the first time moves the lists into an arena with room behind each, a
 * quarter of its size; those that follow write into that room, which no index made before looks
 * at, until a list is full and all move again: n rows that come cost O(n) copies in all. Only the
 * newest index of an arena may write into it (a count that all of them share says which that is);
 * who extends an older one gets an arena of its own.
 *
 * Removing marks at first; when the removed are many, the others move into a new arena without
 * them. Slots stay as holes either way.
 *
 * Groups. A layout with group g > 1 has every list begin at a multiple of g, with capacity to a
 * multiple of g: for codes that are scanned in blocks of g entries. Parts named interleaved have
 * the bytes of the entries of a block mixed (PERI_CODES_GROUP, which is g then): an entry's bytes
 * are its own all the same, so who extends never changes what a search reads. In files, and while
 * an index moves to another place, their rows are plain: packing unmixes them, and who opens calls
 * peri_lists_interleave. */
#ifndef PERI_INDEX_LISTS_H
#define PERI_INDEX_LISTS_H

#include "index/index.h"

#define PERI_LIST_PARTS_MAX 4

typedef struct peri_lists_layout {
    size_t group;                               /* 1, or a power of two: entries a block */
    const char *parts[PERI_LIST_PARTS_MAX + 1]; /* sections; ends with NULL */
    unsigned interleaved;                       /* bit i: part i is, u8 */
} peri_lists_layout;

/* Rows that become entries; everything is at the index's place. */
typedef struct peri_entries {
    peri_matrix *labels;                     /* u32 [m, 1] the list of each */
    size_t first;                            /* slot of the first; the others follow */
    peri_matrix *parts[PERI_LIST_PARTS_MAX]; /* [m, any], in the layout's order, rows in the order
                                                of slots; NULL: this index has no such part */
    size_t threads;
    const peri_control *control;
} peri_entries;

/* Makes the lists of an index from its first entries, which may be none (m = 0, with the columns
 * and dtypes that later ones will have). Entries of a list are in the order of their slots. */
peri_status peri_lists_create(peri_index *index, const peri_lists_layout *layout, size_t n_lists,
                              const peri_entries *entries);

/* The sections of `next`: those of `old` and more entries. */
peri_status peri_lists_extend(const peri_index *old, peri_index *next,
                              const peri_lists_layout *layout, const peri_entries *entries);

/* peri_kind.remove for kinds whose sections the lists are; `next` shares those of `old`. */
peri_status peri_lists_remove(const peri_index *old, peri_index *next,
                              const peri_lists_layout *layout, const peri_loss *loss);

/* peri_kind.pack: an arena without room, nor entries of removed rows. */
peri_status peri_lists_pack(const peri_index *old, peri_index *next,
                            const peri_lists_layout *layout);

/* Checks the sections of an index that was opened or moved: shapes, that no two entries share a
 * slot, that each slot alive has one. Sets index->holes. PERI_E_CORRUPT. */
peri_status peri_lists_check(peri_index *index, const peri_lists_layout *layout, size_t n_lists);

/* Mixes the parts that are to be interleaved, of an index that was opened or moved and checked. */
peri_status peri_lists_interleave(peri_index *index, const peri_lists_layout *layout);

/* The lists as operations take them. */
peri_lists_view peri_lists_of(const peri_index *index);

/* Fields "lists.smallest", "lists.largest", "lists.mean", "lists.empty" and "lists.entries". */
void peri_lists_describe(const peri_index *index, peri_field_fn field, void *ud);

#endif
