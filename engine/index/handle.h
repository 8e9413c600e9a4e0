/* handle.h: what a user holds of an index: a searcher whose index can be replaced.
 *
 * A search retains the index that it finds in the handle and keeps it to its end, so extending
 * and removing never disturb it: they make the next index aside and put it in place of the one
 * before. Writers of one handle wait for each other. */
#ifndef PERI_INDEX_HANDLE_H
#define PERI_INDEX_HANDLE_H

#include "index/index.h"

/* A handle on an index; takes its reference over, also when it fails. */
peri_status peri_handle_create(peri_index *index, peri_searcher **out);

/* The index that new searches see, retained; NULL when the searcher is a combinator. */
peri_index *peri_handle_take(const peri_searcher *searcher);

/* Keeps other writers out until peri_handle_done. */
void peri_handle_begin(peri_searcher *searcher);
/* Puts `next` (taken over; NULL = nothing changed) in place of the index there is. */
void peri_handle_done(peri_searcher *searcher, peri_index *next);

#endif
