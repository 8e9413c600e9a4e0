/* list_keep.h: the entries that a scan of lists keeps of a query until its k nearest are known.
 *
 * They are appended as they come. When the room, about 2 k, is full, those that can't be among the
 * k nearest are dropped, and the bound falls (select.h). So an entry costs a few cycles whatever k
 * is, where a heap costs log k branches that nothing predicts: half the time of a search for 40
 * candidates on codes of 4 bits. What is kept in the end does not depend on the order. */
#ifndef PERI_BACKEND_CPU_LIST_KEEP_H
#define PERI_BACKEND_CPU_LIST_KEEP_H

#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/select.h"

typedef struct peri_list_keep {
    float *values;   /* [room] */
    uint32_t *slots; /* [room] */
    uint32_t count, room, k;
    float bound;    /* the k-th value is not above it */
    uint32_t known; /* entries when the bound was found */
} peri_list_keep;

/* Entries to have room for. */
size_t peri_list_keep_room(size_t k);

void peri_list_keep_init(peri_list_keep *keep, float *values, uint32_t *slots, size_t k);

/* Drops what can't be among the k nearest. Cost: the entries, about eight times, by vectors. */
void peri_list_keep_reduce(peri_list_keep *keep);

/* Not of NaN. */
static inline void peri_list_keep_offer(peri_list_keep *keep, float value, uint32_t slot) {
    if (value > keep->bound) return;
    keep->values[keep->count] = value;
    keep->slots[keep->count++] = slot;
    if (keep->count == keep->room) peri_list_keep_reduce(keep);
}

/* The bound by what is there: at a quarter of k of new entries, else the one before. */
static inline float peri_list_keep_bound(peri_list_keep *keep) {
    if (keep->count >= keep->k && keep->count >= keep->known + keep->k / 4 + 1)
        peri_list_keep_reduce(keep);
    return keep->bound;
}

/* Sorts the k nearest into distances and ids [k], padded with PERI_ID_NONE at +inf; `keys` has room
 * for 2 k. */
void peri_list_keep_finish(peri_list_keep *keep, float *distances, int64_t *ids, uint64_t *keys);

#endif
