/* topk.h: the k nearest of a stream of (distance, id) with the tie rule: equal distances, lower id
 * first.
 *
 * A bounded binary heap with the worst on top in the caller's memory; an offer that is not
 * better than the worst costs one comparison. Sorted at the end. NaN is never offered. */
#ifndef PERI_CORE_TOPK_H
#define PERI_CORE_TOPK_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct peri_topk {
    float *distances; /* [k] heap order until sorted */
    int64_t *ids;     /* [k] */
    size_t k, count;
} peri_topk;

static inline bool peri_nearer(float a, int64_t a_id, float b, int64_t b_id) {
    return a < b || (a == b && a_id < b_id);
}

void peri_topk_init(peri_topk *top, float *distances, int64_t *ids, size_t k);

/* The slow half of an offer: there is room, or (distance, id) is nearer than the worst. */
void peri_topk_insert(peri_topk *top, float distance, int64_t id);

static inline void peri_topk_offer(peri_topk *top, float distance, int64_t id) {
    if (top->count < top->k || peri_nearer(distance, id, top->distances[0], top->ids[0]))
        peri_topk_insert(top, distance, id);
}

/* A distance at or above this one can't enter unless its id is lower: +inf while there is room. */
static inline float peri_topk_bound(const peri_topk *top) {
    return top->count < top->k ? INFINITY : top->distances[0];
}

/* Sorts nearest first and pads with PERI_ID_NONE at +inf up to k. */
void peri_topk_finish(peri_topk *top);

#endif
