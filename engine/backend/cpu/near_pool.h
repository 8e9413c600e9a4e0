/* near_pool.h: the `wanted` nearest of a long stream of (distance, slot), in no order until asked.
 *
 * A heap pays for every entry that enters with a walk of unforeseen branches; a pool appends it,
 * and when it is full keeps the wanted ones by a quickselect whose partition has no branch. What is
 * farther than the worst of those kept costs one comparison. Keys are those of near_list.h, all
 * different, so the result does not depend on the order of the stream. */
#ifndef PERI_BACKEND_CPU_NEAR_POOL_H
#define PERI_BACKEND_CPU_NEAR_POOL_H

#include "backend/cpu/near_list.h"

typedef struct peri_near_pool {
    uint64_t *keys; /* [room + 1] */
    size_t count, wanted, room;
    uint64_t worst; /* no key at or above it can be among the wanted */
} peri_near_pool;

/* Moves the `wanted` smallest of `count` different keys to the front, in any order; wanted <=
 * count. `spare` has room for count. */
void peri_near_select(uint64_t *keys, size_t count, size_t wanted, uint64_t *spare);

/* Sorts many keys; `spare` has room for count. */
void peri_near_sort_many(uint64_t *keys, size_t count, uint64_t *spare);

/* Keeps the wanted ones only. */
void peri_near_pool_settle(peri_near_pool *pool, uint64_t *spare);

/* Offers slots first..first+count-1; count <= room - wanted, `spare` has room for `room`. */
static inline void peri_near_pool_offer(peri_near_pool *pool, const float *distances,
                                        uint32_t first, size_t count, uint64_t *spare) {
    if (pool->count + count > pool->room) peri_near_pool_settle(pool, spare);
    uint64_t *keys = pool->keys, worst = pool->worst;
    size_t at = pool->count;
    for (size_t i = 0; i < count; i++) {
        uint64_t key = peri_near_key(distances[i], first + (uint32_t)i);
        keys[at] = key;
        at += key < worst;
    }
    pool->count = at;
}

#endif
