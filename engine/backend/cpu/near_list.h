/* near_list.h: the best `capacity` of a stream of (distance, slot), always sorted, each with a mark.
 *
 * What the walk calls open and NN-descent calls fresh is the mark: 1 on whatever entered. Offers come in
 * batches (the links of a row): nearly all are worse than the worst and cost one comparison, the few
 * others are sorted and merged from the back in one pass, so a batch moves an entry at most once.
 * The caller sees to it that a slot is offered once. */
#ifndef PERI_BACKEND_CPU_NEAR_LIST_H
#define PERI_BACKEND_CPU_NEAR_LIST_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct peri_near_list {
    float *distances; /* [capacity] */
    uint32_t *slots;
    uint8_t *marks;
    size_t count, capacity;
} peri_near_list;

static inline bool peri_near_before(float a, uint32_t a_slot, float b, uint32_t b_slot) {
    return a < b || (a == b && a_slot < b_slot);
}

/* Keeps those of the batch that enter, sorted, at its front; a NaN becomes +inf. */
static inline size_t peri_near_accept(const peri_near_list *list, float *distances,
                                      uint32_t *slots, size_t count) {
    size_t kept = 0;
    bool full = list->count == list->capacity;
    float worst = full ? list->distances[list->count - 1] : INFINITY;
    uint32_t worst_slot = full ? list->slots[list->count - 1] : UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        float d = distances[i];
        if (!(d <= worst)) {
            if (!(d != d)) continue;
            d = INFINITY;
        }
        uint32_t slot = slots[i];
        if (!peri_near_before(d, slot, worst, worst_slot)) continue;
        size_t at = kept++;
        while (at > 0 && peri_near_before(d, slot, distances[at - 1], slots[at - 1])) {
            distances[at] = distances[at - 1];
            slots[at] = slots[at - 1];
            at--;
        }
        distances[at] = d;
        slots[at] = slot;
    }
    return kept;
}

/* Offers a batch, whose arrays are overwritten. Returns the lowest position at which one entered, or
 * the capacity when none did. */
static inline size_t peri_near_offer(peri_near_list *list, float *distances, uint32_t *slots,
                                     size_t count) {
    size_t kept = peri_near_accept(list, distances, slots, count);
    size_t old = list->count, to = old + kept, lowest = list->capacity;
    list->count = to < list->capacity ? to : list->capacity;
    while (kept > 0) {
        to--;
        bool is_old = old > 0 && peri_near_before(distances[kept - 1], slots[kept - 1],
                                                  list->distances[old - 1], list->slots[old - 1]);
        if (is_old) {
            old--;
            if (to >= list->capacity) continue;
            list->distances[to] = list->distances[old];
            list->slots[to] = list->slots[old];
            list->marks[to] = list->marks[old];
        } else {
            kept--;
            if (to >= list->capacity) continue;
            list->distances[to] = distances[kept];
            list->slots[to] = slots[kept];
            list->marks[to] = 1;
            lowest = to;
        }
    }
    return lowest;
}

#endif
