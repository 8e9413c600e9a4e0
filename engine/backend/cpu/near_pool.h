/* near_pool.h: the `wanted` nearest of a long stream of (distance, slot), in no order until asked.
 *
 * A heap pays for every entry that enters with a walk of unforeseen branches; a pool appends it,
 * and when it is full keeps the wanted ones by a quickselect whose partition has no branch. What is
 * farther than the worst of those kept costs a lane of a comparison. Keys are those of near_list.h,
 * all different, so the result does not depend on the order of the stream.
 */
#ifndef PERI_BACKEND_CPU_NEAR_POOL_H
#define PERI_BACKEND_CPU_NEAR_POOL_H

#include <math.h>

#include "backend/cpu/near_list.h"
#include "backend/cpu/select.h"

typedef struct peri_near_pool {
    uint64_t *keys; /* [room + 1] */
    size_t count, wanted, room;
    uint64_t worst; /* no key at or above it can be among the wanted */
    float bound;    /* its distance, +inf while there is none */
} peri_near_pool;

/* What is offered at once; a multiple of 16. */
#define PERI_NEAR_POOL_BATCH 64u

typedef struct peri_near_batch {
    float distances[PERI_NEAR_POOL_BATCH];
    uint32_t slots[PERI_NEAR_POOL_BATCH];
} peri_near_batch;

/* Moves the `wanted` smallest of `count` different keys to the front, in any order; wanted <=
 * count. `spare` has room for count. */
void peri_near_select(uint64_t *keys, size_t count, size_t wanted, uint64_t *spare);

/* Sorts many keys; `spare` has room for count. */
void peri_near_sort_many(uint64_t *keys, size_t count, uint64_t *spare);

/* Keeps the wanted ones only. */
void peri_near_pool_settle(peri_near_pool *pool, uint64_t *spare);

static inline peri_near_pool peri_near_pool_open(uint64_t *keys, size_t wanted, size_t room) {
    return (peri_near_pool){ keys, 0, wanted, room, UINT64_MAX, INFINITY };
}

/* Offers slots first..first+count-1 at batch->distances, which are overwritten; `except` is left
 * out. count <= PERI_NEAR_POOL_BATCH <= room - wanted; `spare` has room for `room`. */
static inline void peri_near_pool_offer(peri_near_pool *pool, const peri_select_kernels *kernels,
                                        peri_near_batch *batch, uint32_t first, size_t count,
                                        uint32_t except, uint64_t *spare) {
    if (pool->count + count > pool->room) peri_near_pool_settle(pool, spare);
    for (size_t i = 0; i < PERI_NEAR_POOL_BATCH; i++) batch->slots[i] = first + (uint32_t)i;
    size_t near = kernels->filter(batch->distances, batch->slots, count, pool->bound);
    uint64_t *keys = pool->keys, worst = pool->worst;
    size_t at = pool->count;
    for (size_t i = 0; i < near; i++) {
        uint64_t key = peri_near_key(batch->distances[i], batch->slots[i]);
        keys[at] = key;
        at += key < worst && batch->slots[i] != except;
    }
    pool->count = at;
}

#endif
