/* pools.cuh: the k best of queries that a block scans rows for, in shared memory.
 *
 * The warps of a block append to a query's pool together, without waiting for each other: a round
 * is as many steps as every pool has room for if all rows of a step passed. A key enters only when
 * it is below the bound, the k-th best when the pool was last cut down; so after the first step,
 * after which pools are cut at once, few do. Between rounds a warp cuts a pool that has grown down
 * to its k best (coarse_select.cuh); above KEEP_MAX keys the block sorts it. */
#ifndef PERI_CUDA_POOLS_CUH
#define PERI_CUDA_POOLS_CUH

#include "coarse_select.cuh"

constexpr unsigned PERI_POOL_STEPS = 7;       /* of a round; beside 128 keys they fit KEEP_MAX */
constexpr unsigned PERI_POOL_KEEP_MAX = 1024; /* keys that one warp cuts down */
constexpr unsigned PERI_POOL_SORT_MAX = 256;  /* and that it sorts */
constexpr unsigned PERI_POOL_K_SMALL = 128;
constexpr unsigned PERI_POOL_GROWN_MIN = 64; /* keys beyond k that are worth a cut; taste */

struct peri_pool {
    uint64_t *keys; /* [capacity] */
    uint64_t bound; /* the k-th best when the pool was last cut down */
    unsigned count;
};

struct peri_pool_limits {
    unsigned k, capacity;
    unsigned grown; /* keys of a pool that is cut down */
};

/* For pushes of at most `step` keys a step; a power of two where the block sorts. */
static inline peri_pool_limits peri_pool_limits_of(size_t k, unsigned step) {
    peri_pool_limits limits;
    limits.k = (unsigned)k;
    limits.capacity = limits.k + PERI_POOL_STEPS * step;
    if (k > PERI_POOL_K_SMALL) limits.capacity = peri_select_capacity(k + 4 * step, 2);
    unsigned grown = limits.k + (limits.k > PERI_POOL_GROWN_MIN ? limits.k : PERI_POOL_GROWN_MIN);
    unsigned most = limits.capacity - 2 * step;
    limits.grown = grown < most ? grown : most;
    return limits;
}

__device__ inline void peri_pool_push(peri_pool *p, uint64_t key) {
    p->keys[atomicAdd(&p->count, 1u)] = key;
}

/* Leaves the k best, in any order; by one warp. */
__device__ inline void peri_pool_cut(peri_pool *p, unsigned k) {
    const unsigned count = p->count;
    __syncwarp();
    if (count < k) return;
    const uint64_t bound = peri_warp_keep_shared(p->keys, count, k);
    if (threadIdx.x % PERI_WARP == 0) {
        p->count = k;
        p->bound = bound;
    }
    __syncwarp();
}

/* Leaves the k best, sorted; by the block; capacity >= the next power of two of count. */
__device__ inline void peri_pool_sort(peri_pool *p, unsigned k) {
    const unsigned count = p->count;
    unsigned room = 2;
    while (room < count) room *= 2;
    for (unsigned i = count + threadIdx.x; i < room; i += blockDim.x) p->keys[i] = PERI_KEY_NONE;
    __syncthreads();
    peri_bitonic_sort(p->keys, room);
    if (threadIdx.x == 0 && count >= k) {
        p->count = k;
        p->bound = p->keys[k - 1];
    }
    __syncthreads();
}

/* Sorts a pool of at most k keys; by one warp. */
__device__ inline void peri_pool_sort_few(peri_pool *p, unsigned k) {
    const unsigned count = p->count;
    unsigned room = 2;
    while (room < k) room *= 2;
    for (unsigned i = count + threadIdx.x % PERI_WARP; i < room; i += PERI_WARP)
        p->keys[i] = PERI_KEY_NONE;
    __syncwarp();
    peri_warp_sort(p->keys, room);
}

/* Between rounds: cuts down the `live` pools that have grown, all with more than k keys after the
 * `first` step. Returns the steps that the fullest then has room for. All threads. */
__device__ inline unsigned peri_pools_settle(peri_pool *pools, unsigned live,
                                             const peri_pool_limits &limits, unsigned step,
                                             bool first) {
    unsigned most = 0, due = 0;
    __syncthreads();
    for (unsigned q = 0; q < live; q++) {
        const unsigned count = pools[q].count;
        if (count >= limits.grown || (first && count > limits.k))
            due |= 1u << q;
        else
            most = count > most ? count : most;
    }
    __syncthreads(); /* nobody pushes while another still reads a count */
    if (due != 0) {
        most = most > limits.k ? most : limits.k;
        if (limits.capacity <= PERI_POOL_KEEP_MAX) {
            for (unsigned q = threadIdx.x / PERI_WARP; q < live; q += blockDim.x / PERI_WARP)
                if (due >> q & 1u) peri_pool_cut(&pools[q], limits.k);
            __syncthreads();
        } else {
            for (unsigned q = 0; q < live; q++)
                if (due >> q & 1u) peri_pool_sort(&pools[q], limits.k);
        }
    }
    const unsigned steps = (limits.capacity - most) / step;
    return steps < PERI_POOL_STEPS ? steps : PERI_POOL_STEPS;
}

/* The k best of each pool, sorted and padded, to out [live, k]. All threads, after a barrier; ends
 * with one. */
__device__ inline void peri_pools_write(peri_pool *pools, unsigned live,
                                        const peri_pool_limits &limits, uint64_t *out) {
    const unsigned k = limits.k;
    const bool by_warp = limits.capacity <= PERI_POOL_KEEP_MAX && k <= PERI_POOL_SORT_MAX;
    const unsigned first = by_warp ? threadIdx.x / PERI_WARP : 0;
    const unsigned stride = by_warp ? blockDim.x / PERI_WARP : 1;
    const unsigned place = by_warp ? threadIdx.x % PERI_WARP : threadIdx.x;
    for (unsigned q = first; q < live; q += stride) {
        peri_pool *p = &pools[q];
        if (by_warp) {
            peri_pool_cut(p, k);
            peri_pool_sort_few(p, k);
        } else {
            peri_pool_sort(p, k);
        }
        const unsigned count = p->count;
        for (unsigned i = place; i < k; i += by_warp ? PERI_WARP : blockDim.x)
            out[(size_t)q * k + i] = i < count ? p->keys[i] : PERI_KEY_NONE;
    }
    __syncthreads();
}

/* What a key says of a hit; PERI_KEY_NONE is none at +inf. */
__device__ inline float peri_pool_value(uint64_t key) {
    return key == PERI_KEY_NONE ? __int_as_float(0x7F800000) : peri_key_value(key);
}
__device__ inline int64_t peri_pool_id(uint64_t key) {
    return key == PERI_KEY_NONE ? PERI_ID_NONE : (int64_t)peri_key_slot(key);
}

constexpr unsigned PERI_POOLS_AHEAD = 2; /* keys that a thread loads at once */

/* Keys that the pool of peri_pools_merge holds, a power of two. */
static inline unsigned peri_pools_merge_capacity(size_t k, unsigned threads) {
    return peri_select_capacity(k + PERI_POOLS_AHEAD * threads, 2);
}

/* The k best of `lists` sorted lists of k, list i at keys + i * stride, sorted in best->keys; how
 * many there are. Rank by rank; once as many keys as there are lists have brought nothing, what is
 * left can't either. A warp's cut takes a tenth of the time of the block's sort. All threads; ends
 * with a barrier. */
__device__ inline unsigned peri_pools_merge(peri_pool *best, uint64_t *room, unsigned capacity,
                                            const uint64_t *keys, size_t stride, unsigned lists,
                                            unsigned k) {
    const uint32_t total = lists * k; /* 32 bits: a division of 64 costs more than the load */
    const unsigned batch = PERI_POOLS_AHEAD * blockDim.x;
    const bool first_warp = threadIdx.x < PERI_WARP;
    if (threadIdx.x == 0) *best = peri_pool{ room, PERI_KEY_NONE, 0 };
    __syncthreads();
    for (uint32_t at = 0, idle = 0; at < total && idle < lists; at += batch) {
        uint64_t mine[PERI_POOLS_AHEAD];
        bool passes = false;
#pragma unroll
        for (unsigned i = 0; i < PERI_POOLS_AHEAD; i++) {
            const uint32_t place = at + i * blockDim.x + threadIdx.x;
            mine[i] = place < total ? keys[place % lists * stride + place / lists] : PERI_KEY_NONE;
        }
#pragma unroll
        for (unsigned i = 0; i < PERI_POOLS_AHEAD; i++)
            if (mine[i] < best->bound) {
                peri_pool_push(best, mine[i]);
                passes = true;
            }
        idle = __syncthreads_or(passes) ? 0 : idle + batch;
        const unsigned count = best->count;
        __syncthreads();
        if (count > k && k <= PERI_POOL_K_SMALL && count <= PERI_POOL_KEEP_MAX + k) {
            if (first_warp) peri_pool_cut(best, k);
            __syncthreads();
        } else if (count + batch > capacity) {
            peri_pool_sort(best, k);
        }
    }
    if (k <= PERI_POOL_K_SMALL && best->count <= k) {
        if (first_warp) peri_pool_sort_few(best, k);
        __syncthreads();
    } else {
        peri_pool_sort(best, k);
    }
    return best->count < k ? best->count : k;
}

#endif
