/* select_pool.cuh: the k least 64-bit keys of a stream, by one block.
 *
 * Keys below a bound go into a pool in shared memory, in any order. When it is full, counting finds
 * a new bound that `least` keys and hardly more don't exceed, by bisection between the least and
 * the largest: each step is one comparison a key, in registers, one sum over the block and one
 * barrier, and as more than `least` may stay, few steps do. What is above the bound leaves.
 * Nothing is sorted until the end. After the first rounds few keys pass and the pool is rarely
 * full. Keys are distinct. */
#ifndef PERI_CUDA_SELECT_POOL_CUH
#define PERI_CUDA_SELECT_POOL_CUH

#include "select.cuh"

/* In shared memory. */
struct peri_pool_state {
    uint64_t bound;     /* k keys at least are not above it: what is above can't be among the k */
    unsigned count;     /* keys pushed; those past the capacity were refused */
    unsigned counts[3]; /* of sum(): in turns, so that one barrier does */
    unsigned lowest, highest;
};

/* Functions are called by all threads of the block with the same arguments, but for take() and
 * push(). */
template <unsigned THREADS, unsigned KEYS> struct peri_pool {
    static constexpr unsigned SIZE = THREADS; /* of the block */
    static constexpr unsigned CAPACITY = THREADS * KEYS;
    static constexpr unsigned RANKED_MOST = 384; /* above, a bitonic sort is faster */

    uint64_t *keys; /* [CAPACITY] in shared memory */
    peri_pool_state *state;

    /* The caller synchronises behind it. */
    __device__ void begin() const;

    /* Room for `wanted` keys: the place of the first. What is at CAPACITY and beyond is refused. */
    __device__ unsigned take(unsigned wanted) const { return atomicAdd(&state->count, wanted); }

    /* False when the pool is full. */
    __device__ bool push(uint64_t key) const;

    __device__ unsigned count() const { return state->count < CAPACITY ? state->count : CAPACITY; }

    /* Keeps the `least` least keys, and no more than `most`. After a barrier; ends with one. */
    __device__ void flush(unsigned least, unsigned most) const;

    /* Of N numbers a thread (~0: none), `total` in all, one that `least` to `most` don't exceed, or
     * the least-th where ties let no such one be. */
    template <unsigned N>
    __device__ unsigned bound_of(const unsigned (&numbers)[N], unsigned total, unsigned least,
                                 unsigned most) const;

    /* Calls write(rank, key) for the ranks below k, in no order; padded with PERI_KEY_NONE. After
     * flush(). */
    template <typename Write> __device__ void answer(unsigned k, Write write) const;

  private:
    __device__ unsigned sum(unsigned mine, unsigned *turn) const;
    __device__ void range(unsigned *low, unsigned *high) const;
    __device__ void shrink(unsigned total, unsigned least, unsigned most) const;
    __device__ void keep(uint64_t key, bool kept) const;
};

template <unsigned THREADS, unsigned KEYS> __device__ void peri_pool<THREADS, KEYS>::begin() const {
    if (threadIdx.x != 0) return;
    *state = {};
    state->bound = PERI_KEY_NONE;
    state->lowest = ~0u;
}

template <unsigned THREADS, unsigned KEYS>
__device__ bool peri_pool<THREADS, KEYS>::push(uint64_t key) const {
    unsigned at = take(1);
    if (at >= CAPACITY) return false;
    keys[at] = key;
    return true;
}

template <unsigned THREADS, unsigned KEYS>
__device__ void peri_pool<THREADS, KEYS>::flush(unsigned least, unsigned most) const {
    unsigned total = count();
    if (total > most) shrink(total, least, most);
    __syncthreads();
}

/* By bisection. */
template <unsigned THREADS, unsigned KEYS>
template <unsigned N>
__device__ unsigned peri_pool<THREADS, KEYS>::bound_of(const unsigned (&numbers)[N], unsigned total,
                                                       unsigned least, unsigned most) const {
    unsigned low = ~0u, high = 0, turn = 0;
#pragma unroll
    for (unsigned i = 0; i < N; i++) {
        low = min(low, numbers[i]);
        if (numbers[i] != ~0u) high = max(high, numbers[i]);
    }
    range(&low, &high);
    while (total > most && low < high) {
        unsigned middle = low + (high - low) / 2, here = 0;
#pragma unroll
        for (unsigned i = 0; i < N; i++) here += numbers[i] <= middle;
        here = sum(here, &turn);
        if (here >= least) {
            high = middle;
            total = here;
        } else {
            low = middle + 1;
        }
    }
    return high;
}

template <unsigned THREADS, unsigned KEYS>
template <typename Write>
__device__ void peri_pool<THREADS, KEYS>::answer(unsigned k, Write write) const {
    unsigned total = count();
    for (unsigned i = total + threadIdx.x; i < k; i += THREADS) write(i, PERI_KEY_NONE);
    if (total <= RANKED_MOST) {
        for (unsigned i = threadIdx.x; i < total; i += THREADS) {
            uint64_t key = keys[i];
            unsigned rank = 0;
#pragma unroll 4
            for (unsigned j = 0; j < total; j++) rank += keys[j] < key;
            if (rank < k) write(rank, key);
        }
        return;
    }
    unsigned room = 1u << (32 - __clz((int)(total - 1)));
    for (unsigned i = total + threadIdx.x; i < room; i += THREADS) keys[i] = PERI_KEY_NONE;
    __syncthreads();
    peri_bitonic_sort(keys, room);
    for (unsigned i = threadIdx.x; i < min(total, k); i += THREADS) write(i, keys[i]);
}

/* The sum over the block; `turn` is 0 after range(). */
template <unsigned THREADS, unsigned KEYS>
__device__ unsigned peri_pool<THREADS, KEYS>::sum(unsigned mine, unsigned *turn) const {
    unsigned now = *turn, next = now == 2 ? 0 : now + 1;
    mine = __reduce_add_sync(PERI_ALL_LANES, mine);
    if (threadIdx.x % PERI_WARP == 0 && mine != 0) atomicAdd(&state->counts[now], mine);
    if (threadIdx.x == 0) state->counts[next] = 0;
    __syncthreads();
    *turn = next;
    return state->counts[now];
}

/* The least of what threads bring as low, and the largest of what they bring as high. */
template <unsigned THREADS, unsigned KEYS>
__device__ void peri_pool<THREADS, KEYS>::range(unsigned *low, unsigned *high) const {
    unsigned lowest = __reduce_min_sync(PERI_ALL_LANES, *low);
    unsigned highest = __reduce_max_sync(PERI_ALL_LANES, *high);
    if (threadIdx.x % PERI_WARP == 0) {
        atomicMin(&state->lowest, lowest);
        atomicMax(&state->highest, highest);
    }
    __syncthreads();
    *low = state->lowest;
    *high = state->highest;
    if (threadIdx.x < 3) state->counts[threadIdx.x] = 0;
    __syncthreads();
    if (threadIdx.x != 0) return;
    state->lowest = ~0u;
    state->highest = 0;
}

/* flush() of more than `most` keys, up to its barrier. */
template <unsigned THREADS, unsigned KEYS>
__device__ void peri_pool<THREADS, KEYS>::shrink(unsigned total, unsigned least,
                                                 unsigned most) const {
    uint64_t mine[KEYS];
    unsigned low = ~0u, high = 0, turn = 0;
    const unsigned held = (total + THREADS - 1) / THREADS; /* keys a thread */
#pragma unroll
    for (unsigned i = 0; i < KEYS; i++) {
        unsigned at = i * THREADS + threadIdx.x;
        mine[i] = at < total ? keys[at] : PERI_KEY_NONE;
        if (at >= total) continue;
        low = min(low, (unsigned)(mine[i] >> 32));
        high = max(high, (unsigned)(mine[i] >> 32));
    }
    range(&low, &high);
    if (threadIdx.x == 0) state->count = 0;
    uint64_t from = (uint64_t)low << 32, to = (uint64_t)high << 32 | 0xFFFFFFFFu;
    while (total > most) { /* at least once */
        uint64_t middle = from + (to - from) / 2;
        unsigned here = 0;
#pragma unroll
        for (unsigned i = 0; i < KEYS; i++) {
            if (i == held) break;
            here += mine[i] <= middle;
        }
        here = sum(here, &turn);
        if (here >= least) {
            to = middle;
            total = here;
        } else {
            from = middle + 1;
        }
    }
    if (threadIdx.x == 0) state->bound = to;
#pragma unroll
    for (unsigned i = 0; i < KEYS; i++) {
        if (i == held) break;
        keep(mine[i], mine[i] <= to);
    }
}

/* push() by whole warps. */
template <unsigned THREADS, unsigned KEYS>
__device__ void peri_pool<THREADS, KEYS>::keep(uint64_t key, bool kept) const {
    unsigned lane = threadIdx.x % PERI_WARP, base = 0;
    unsigned lanes = __ballot_sync(PERI_ALL_LANES, kept);
    if (lane == 0 && lanes != 0) base = take((unsigned)__popc(lanes));
    base = __shfl_sync(PERI_ALL_LANES, base, 0);
    if (kept) keys[base + (unsigned)__popc(lanes & ((1u << lane) - 1))] = key;
}

#endif
