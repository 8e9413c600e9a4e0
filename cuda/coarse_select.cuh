/* coarse_select.cuh: the least keys of a buffer, by one warp, in registers: what a sweep over rows
 * does when the buffer of a query has filled up.
 *
 * The bound is found by halving the range of keys until exactly as many lie at or below it as are
 * wanted, some ten rounds of compare and count for keys of continuous values, 64 at most; what is
 * kept moves to the front by prefix counts, and is not sorted. Cheaper than a sort, since the
 * order is wanted only once, at the end. */
#ifndef PERI_CUDA_COARSE_SELECT_CUH
#define PERI_CUDA_COARSE_SELECT_CUH

#include "select.cuh"

__device__ inline uint64_t peri_warp_min(uint64_t key) {
    uint32_t high = (uint32_t)(key >> 32);
    uint32_t least = __reduce_min_sync(PERI_ALL_LANES, high);
    uint32_t low = high == least ? (uint32_t)key : UINT32_MAX;
    return (uint64_t)least << 32 | __reduce_min_sync(PERI_ALL_LANES, low);
}
__device__ inline uint64_t peri_warp_max(uint64_t key) { return ~peri_warp_min(~key); }

/* Moves the `wanted` least of `count` keys to the front, in any order; count > wanted, both the
 * same in all lanes, count <= 32 * EACH. Returns the greatest of them. Equal keys are one and the
 * same, so which of them stay does not show. */
template <unsigned EACH>
__device__ __noinline__ uint64_t peri_warp_keep(uint64_t *keys, unsigned count, unsigned wanted) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    uint64_t mine[EACH], least = PERI_KEY_NONE, most = 0;
#pragma unroll
    for (unsigned e = 0; e < EACH; e++) {
        unsigned at = e * PERI_WARP + lane;
        mine[e] = at < count ? keys[at] : PERI_KEY_NONE;
        least = mine[e] < least ? mine[e] : least;
        if (at < count && mine[e] > most) most = mine[e];
    }
    uint64_t below = peri_warp_min(least) - 1, bound = peri_warp_max(most);
    while (bound - below > 1) { /* fewer than wanted are <= below, at least wanted <= bound */
        uint64_t middle = below + (bound - below) / 2;
        unsigned here = 0;
#pragma unroll
        for (unsigned e = 0; e < EACH; e++) here += mine[e] <= middle;
        here = __reduce_add_sync(PERI_ALL_LANES, here);
        if (here < wanted) {
            below = middle;
        } else {
            bound = middle;
            if (here == wanted) break;
        }
    }
    unsigned kept = 0;
    uint64_t last = 0;
#pragma unroll
    for (unsigned e = 0; e < EACH; e++) {
        bool stays = mine[e] <= bound && e * PERI_WARP + lane < count;
        unsigned lanes = __ballot_sync(PERI_ALL_LANES, stays);
        unsigned at = kept + __popc(lanes & ((1u << lane) - 1));
        if (stays && at < wanted) {
            keys[at] = mine[e];
            last = mine[e] > last ? mine[e] : last;
        }
        kept += __popc(lanes);
    }
    return peri_warp_max(last);
}

/* The same of keys in shared memory, any number of them and at least `wanted`, with few
 * registers. */
__device__ __noinline__ inline uint64_t peri_warp_keep_shared(uint64_t *keys, unsigned count,
                                                              unsigned wanted) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    uint64_t least = PERI_KEY_NONE, most = 0;
    for (unsigned at = lane; at < count; at += PERI_WARP) {
        least = keys[at] < least ? keys[at] : least;
        most = keys[at] > most ? keys[at] : most;
    }
    uint64_t below = peri_warp_min(least) - 1, bound = peri_warp_max(most);
    while (count > wanted && bound - below > 1) {
        const uint64_t middle = below + (bound - below) / 2;
        unsigned here = 0;
#pragma unroll 4
        for (unsigned at = lane; at < count; at += PERI_WARP) here += keys[at] <= middle;
        here = __reduce_add_sync(PERI_ALL_LANES, here);
        if (here < wanted) {
            below = middle;
        } else {
            bound = middle;
            if (here == wanted) break;
        }
    }
    unsigned kept = 0;
    uint64_t last = 0;
    for (unsigned base = 0; base < count && kept < wanted; base += PERI_WARP) {
        const uint64_t key = base + lane < count ? keys[base + lane] : PERI_KEY_NONE;
        const bool stays = key <= bound && base + lane < count;
        const unsigned lanes = __ballot_sync(PERI_ALL_LANES, stays);
        const unsigned at = kept + __popc(lanes & ((1u << lane) - 1));
        __syncwarp(); /* what is written was read: at <= base + lane */
        if (stays && at < wanted) {
            keys[at] = key;
            last = key > last ? key : last;
        }
        kept += __popc(lanes);
    }
    __syncwarp();
    return peri_warp_max(last);
}

/* Sorts `count` keys, a power of two, by one warp. */
__device__ inline void peri_warp_sort(uint64_t *keys, unsigned count) {
    for (unsigned size = 2; size <= count; size *= 2) {
        for (unsigned stride = size / 2; stride > 0; stride /= 2) {
            for (unsigned i = threadIdx.x % PERI_WARP; i < count / 2; i += PERI_WARP) {
                unsigned low = 2 * i - (i & (stride - 1)), high = low + stride;
                uint64_t a = keys[low], b = keys[high];
                if ((a > b) == ((low & size) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            __syncwarp();
        }
    }
}

#endif
