/* near_pool.c: see near_pool.h. */
#include "backend/cpu/near_pool.h"

#include "core/checked.h"

#define FEW 16u /* sorted by insertion */

/* The middle one of three. */
static uint64_t middle_of(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Those up to the pivot come first; returns how many. The pivot is neither the first nor the last
 * in order, so neither side is empty. */
static size_t partition(uint64_t *keys, size_t count, uint64_t *spare) {
    uint64_t pivot = middle_of(keys[0], keys[count / 2], keys[count - 1]);
    size_t low = 0, high = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t key = keys[i];
        spare[low] = key;
        keys[high] = key;
        low += key <= pivot;
        high += key > pivot;
    }
    memmove(keys + low, keys, high * sizeof *keys);
    memcpy(keys, spare, low * sizeof *keys);
    return low;
}

void peri_near_select(uint64_t *keys, size_t count, size_t wanted, uint64_t *spare) {
    while (count > FEW && wanted > 0 && wanted < count) {
        size_t low = partition(keys, count, spare);
        if (low > wanted) {
            count = low;
        } else {
            keys += low;
            count -= low;
            wanted -= low;
        }
    }
    if (wanted > 0 && wanted < count) peri_near_sort(keys, count);
}

static void merge(const uint64_t *a, size_t a_count, const uint64_t *b, size_t b_count,
                  uint64_t *out) {
    const uint64_t *a_stop = a + a_count, *b_stop = b + b_count;
    while (a < a_stop && b < b_stop) {
        bool second = *b < *a;
        *out++ = second ? *b : *a;
        b += second;
        a += !second;
    }
    memcpy(out, a, (size_t)(a_stop - a) * sizeof *a);
    memcpy(out + (a_stop - a), b, (size_t)(b_stop - b) * sizeof *b);
}

void peri_near_sort_many(uint64_t *keys, size_t count, uint64_t *spare) {
    uint64_t *from = keys, *to = spare;
    for (size_t i = 0; i < count; i += FEW) peri_near_sort(keys + i, peri_min_size(FEW, count - i));
    for (size_t run = FEW; run < count; run *= 2) {
        for (size_t i = 0; i < count; i += 2 * run) {
            size_t left = peri_min_size(run, count - i);
            size_t right = peri_min_size(run, count - i - left);
            merge(from + i, left, from + i + left, right, to + i);
        }
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys) memcpy(keys, from, count * sizeof *keys);
}

void peri_near_pool_settle(peri_near_pool *pool, uint64_t *spare) {
    if (pool->count < pool->wanted) return;
    peri_near_select(pool->keys, pool->count, pool->wanted, spare);
    pool->count = pool->wanted;
    pool->worst = 0;
    for (size_t i = 0; i < pool->count; i++)
        if (pool->keys[i] > pool->worst) pool->worst = pool->keys[i];
    pool->bound = peri_near_distance(pool->worst);
}
