/* near_list.h: the best `capacity` of a stream of (distance, slot), always sorted, each with a
 * mark.
 *
 * An entry is one 64-bit key: the distance as an integer of the same order, the slot, and in the
 * lowest bit the mark (what the walk calls closed and NN-descent calls kept), so that an order
 * with ties is one comparison and a move is one store. A slot takes 31 bits: PERI_SLOTS_MAX sees
 * to that. -0 and 0 are equal distances and get one key, so whoever needs the sign of a zero
 * must ask for the distance anew.
 *
 * Offers come in batches (the links of a row): nearly all are worse than the worst and cost one
 * comparison without a branch, the few others are sorted and merged from the back in one pass,
 * so a batch moves an entry at most once. The caller sees to it that a slot is offered once and
 * that no distance is NaN (distances.h). */
#ifndef PERI_BACKEND_CPU_NEAR_LIST_H
#define PERI_BACKEND_CPU_NEAR_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PERI_NEAR_MARK UINT64_C(1)

typedef struct peri_near_list {
    uint64_t *keys; /* [capacity] ascending */
    size_t count, capacity;
} peri_near_list;

static inline uint64_t peri_near_key(float distance, uint32_t slot) {
    float plain = distance + 0.0f; /* -0 becomes 0 */
    uint32_t bits;
    memcpy(&bits, &plain, sizeof bits);
    bits ^= (bits >> 31) != 0 ? UINT32_MAX : UINT32_C(0x80000000);
    return (uint64_t)bits << 32 | (uint64_t)slot << 1;
}

static inline uint32_t peri_near_slot(uint64_t key) { return (uint32_t)key >> 1; }

static inline float peri_near_distance(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    bits ^= (bits >> 31) != 0 ? UINT32_C(0x80000000) : UINT32_MAX;
    float distance;
    memcpy(&distance, &bits, sizeof distance);
    return distance;
}

/* Sorts a few keys. */
static inline void peri_near_sort(uint64_t *keys, size_t count) {
    for (size_t i = 1; i < count; i++) {
        uint64_t key = keys[i];
        size_t at = i;
        for (; at > 0 && keys[at - 1] > key; at--) keys[at] = keys[at - 1];
        keys[at] = key;
    }
}

/* Sorts `kept` keys, all nearer than the worst of a full list, and merges them into the list. */
static inline size_t peri_near_merge(peri_near_list *list, uint64_t *spare, size_t kept) {
    size_t old = list->count, capacity = list->capacity, lowest = capacity, to = old + kept;
    uint64_t *keys = list->keys;
    peri_near_sort(spare, kept);
    list->count = to < capacity ? to : capacity;
    for (; to > capacity; to--) { /* the farthest of both leave */
        if (old > 0 && (kept == 0 || keys[old - 1] > spare[kept - 1]))
            old--;
        else
            kept--;
    }
    while (kept > 0) {
        uint64_t key = spare[--kept];
        for (; old > 0 && keys[old - 1] > key; old--) keys[--to] = keys[old - 1];
        keys[--to] = key;
        lowest = to;
    }
    return lowest;
}

/* Offers a batch; `spare` has room for `count` keys. What enters is not marked. Returns the lowest
 * position at which something entered, or the capacity when nothing did. */
static inline size_t peri_near_offer(peri_near_list *list, const float *distances,
                                     const uint32_t *slots, size_t count, uint64_t *spare) {
    size_t kept = 0;
    uint64_t worst = list->count == list->capacity ? list->keys[list->count - 1] : UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        uint64_t key = peri_near_key(distances[i], slots[i]);
        spare[kept] = key;
        kept += key < worst;
    }
    return peri_near_merge(list, spare, kept);
}

#endif
