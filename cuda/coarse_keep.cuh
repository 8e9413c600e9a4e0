/* coarse_keep.cuh: the least keys of one query by one warp, in the lists that the coarse pass
 * writes.
 *
 * A list holds `kept` keys, then new entries: the value's bits in order, and the row instead of its
 * name. New ones are appended by whoever finds a value at or under the query's bound; names,
 * filters and rows beyond the last are seen to here, when a list is cut down to what is wanted.
 * What is cut away is above a bound that at least `wanted` keys reach, so nothing that counts is
 * lost, and which rows count depends on no order. Keys live in registers, K a lane; the cut is
 * found by bisection over their bits, first of the value, then, where values tie, of the name. */
#ifndef PERI_CUDA_COARSE_KEEP_CUH
#define PERI_CUDA_COARSE_KEEP_CUH

#include "select.cuh"

constexpr uint32_t PERI_NO_VALUE = 0xFFFFFFFFu; /* high half of PERI_KEY_NONE; no value has it */
constexpr unsigned PERI_KEEP_LANE_MAX = 32;     /* keys a lane, so 1024 a list */

/* How rows are named, and which may be returned. */
struct peri_keep_rows {
    const uint32_t *names; /* or NULL: first + row */
    uint32_t first;
    uint32_t count;
};

/* Values in their order as unsigned integers; a NaN counts as +infinity. */
__device__ inline uint32_t peri_value_bits(float value) {
    float v = value != value ? __int_as_float(0x7F800000) : value;
    return (uint32_t)(peri_key(v, 0) >> 32);
}

/* The float t that makes "value <= t, or a NaN somewhere" let through all that may be at or under
 * `bound`. `above`: every row to come has a name above the bound's, so that an equal value loses. */
__device__ inline float peri_bound_value(uint64_t bound, bool above) {
    uint32_t bits = (uint32_t)(bound >> 32);
    if (above && bits != PERI_NO_VALUE && bits != 0) bits -= bits == 0x80000000u ? 2 : 1;
    if (bits == 0) return __int_as_float(0xFF800000);
    return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
}

/* A new entry as a key: PERI_KEY_NONE when the row isn't there or may not be returned. */
__device__ inline uint64_t peri_keep_named(uint64_t entry, const peri_keep_rows &rows,
                                           const uint64_t *bits) {
    uint32_t row = (uint32_t)entry;
    if (row >= rows.count) return PERI_KEY_NONE;
    uint32_t name = rows.names == nullptr ? rows.first + row : rows.names[row];
    if (bits != nullptr && (bits[name / 64] >> (name % 64) & 1) == 0) return PERI_KEY_NONE;
    return (entry & 0xFFFFFFFF00000000u) | name;
}

template <int K> struct peri_keep_keys {
    uint32_t value[K], name[K];

    __device__ unsigned at_most(uint32_t bits) const {
        unsigned n = 0;
#pragma unroll
        for (int k = 0; k < K; k++) n += value[k] <= bits;
        return __reduce_add_sync(PERI_ALL_LANES, n);
    }
    __device__ unsigned tied_at_most(uint32_t bits, uint32_t last) const {
        unsigned n = 0;
#pragma unroll
        for (int k = 0; k < K; k++) n += value[k] == bits && name[k] <= last;
        return __reduce_add_sync(PERI_ALL_LANES, n);
    }
};

/* Cuts `list` down to at most `most` keys (>= wanted) and lowers *bound to the highest of them once
 * there are `wanted`; returns how many are kept. All lanes, the same arguments; count <= 32 * K.
 * The list's entries were made visible to the warp before. */
template <int K>
__device__ __forceinline__ unsigned
peri_keep_least(uint64_t *list, unsigned count, unsigned kept, const peri_keep_rows &rows,
                const uint64_t *bits, unsigned wanted, unsigned most, uint64_t *bound) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    peri_keep_keys<K> keys;
    uint32_t low = PERI_NO_VALUE, high = 0;
    unsigned total = 0;
#pragma unroll
    for (int k = 0; k < K; k++) {
        unsigned i = (unsigned)k * PERI_WARP + lane;
        uint64_t key = i < count ? list[i] : PERI_KEY_NONE;
        if (i >= kept && i < count) key = peri_keep_named(key, rows, bits);
        if (key > *bound) key = PERI_KEY_NONE;
        keys.value[k] = (uint32_t)(key >> 32);
        keys.name[k] = (uint32_t)key;
        if (keys.value[k] == PERI_NO_VALUE) continue;
        total++;
        low = min(low, keys.value[k]);
        high = max(high, keys.value[k]);
    }
    total = __reduce_add_sync(PERI_ALL_LANES, total);
    low = __reduce_min_sync(PERI_ALL_LANES, low);
    high = __reduce_max_sync(PERI_ALL_LANES, high);
    uint32_t last = PERI_NO_VALUE; /* the last name that is kept of those with value `high` */
    unsigned reached = total;
    while (reached > most && low < high) {
        uint32_t middle = low + (high - low) / 2;
        unsigned n = keys.at_most(middle);
        if (n >= wanted) {
            high = middle;
            reached = n;
        } else {
            low = middle + 1;
        }
    }
    if (reached > most) { /* ties: the lower names */
        unsigned needed = wanted - (high == 0 ? 0 : keys.at_most(high - 1));
        uint32_t least = 0;
        while (least < last) {
            uint32_t middle = least + (last - least) / 2;
            if (keys.tied_at_most(high, middle) >= needed)
                last = middle;
            else
                least = middle + 1;
        }
    }
    unsigned at = 0;
    uint32_t top = 0, top_name = 0;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < K; k++) {
        bool stays = keys.value[k] != PERI_NO_VALUE &&
                     (keys.value[k] < high || (keys.value[k] == high && keys.name[k] <= last));
        unsigned mask = __ballot_sync(PERI_ALL_LANES, stays);
        unsigned place = at + __popc(mask & ((1u << lane) - 1));
        at += __popc(mask);
        if (!stays || place >= most) continue;
        list[place] = (uint64_t)keys.value[k] << 32 | keys.name[k];
        if (keys.value[k] > top || (keys.value[k] == top && keys.name[k] > top_name)) {
            top = keys.value[k];
            top_name = keys.name[k];
        }
    }
    at = min(at, most);
    uint32_t best = __reduce_max_sync(PERI_ALL_LANES, top);
    top_name = __reduce_max_sync(PERI_ALL_LANES, top == best ? top_name : 0);
    if (at >= wanted) {
        uint64_t now = (uint64_t)best << 32 | top_name;
        if (now < *bound) *bound = now;
    }
    __syncwarp();
    return at;
}

/* The same for any count up to 1024. */
__device__ __forceinline__ unsigned peri_keep_cut(uint64_t *list, unsigned count, unsigned kept,
                                                  const peri_keep_rows &rows, const uint64_t *bits,
                                                  unsigned wanted, unsigned most, uint64_t *bound) {
    if (count <= 4 * PERI_WARP)
        return peri_keep_least<4>(list, count, kept, rows, bits, wanted, most, bound);
    if (count <= 8 * PERI_WARP)
        return peri_keep_least<8>(list, count, kept, rows, bits, wanted, most, bound);
    if (count <= 16 * PERI_WARP)
        return peri_keep_least<16>(list, count, kept, rows, bits, wanted, most, bound);
    return peri_keep_least<32>(list, count, kept, rows, bits, wanted, most, bound);
}

#endif
