/* coarse_keep.cuh: the least keys of one query by one warp, in the lists that the coarse pass
 * writes.
 *
 * A list holds `kept` keys, then new entries: the value's bits in order, and the row instead of its
 * name. New ones are appended by whoever finds a value at or under the query's bound; names, rows
 * beyond the last, and filters that were not tested on values (coarse_masks.cuh) are seen to here,
 * when a list is cut down to what is wanted.
 * What is cut away is above a bound that at least `wanted` keys reach, so nothing that counts is
 * lost, and which rows count depends on no order. The cut is found by bisection over the bits of
 * keys, first of the value, then, where values tie, of the name: some ten passes over keys in
 * registers, or in the first-level cache where there are many, since the product beside it leaves
 * few registers. */
#ifndef PERI_CUDA_COARSE_KEEP_CUH
#define PERI_CUDA_COARSE_KEEP_CUH

#include "coarse.cuh"
#include "select.cuh"

constexpr uint32_t PERI_NO_VALUE = 0xFFFFFFFFu; /* high half of PERI_KEY_NONE; no value has it */

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
 * `bound`. `above`: every row to come has a name above the bound's, so an equal value loses. */
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

/* Adds a name to those that a query collects; false when there was no room. */
__device__ inline bool peri_reach_add(const peri_coarse_reach &reach, size_t room, size_t query,
                                      uint32_t name) {
    const uint32_t at = atomicAdd(&reach.counts[query], 1u);
    if (at < room) reach.names[query * room + at] = name;
    return at < room;
}

constexpr unsigned PERI_KEEP_SHORT = 8 * PERI_WARP; /* a list's keys that registers hold */

/* The keys of a list as they are looked at again and again: in registers, eight a lane, or, of a
 * longer list, where they are. What doesn't count is NONE. */
struct peri_keep_short {
    uint64_t keys[PERI_KEEP_SHORT / PERI_WARP];

    __device__ __forceinline__ unsigned at_most(uint64_t bound) const {
        unsigned n = 0;
#pragma unroll
        for (unsigned u = 0; u < PERI_KEEP_SHORT / PERI_WARP; u++) n += keys[u] <= bound;
        return __reduce_add_sync(PERI_ALL_LANES, n);
    }
};
struct peri_keep_long {
    const uint64_t *list;
    unsigned count;

    __device__ __forceinline__ unsigned at_most(uint64_t bound) const {
        unsigned n = 0;
        for (unsigned i = threadIdx.x % PERI_WARP; i < count; i += 4 * PERI_WARP) {
#pragma unroll
            for (unsigned u = 0; u < 4; u++) {
                unsigned j = i + u * PERI_WARP;
                n += j < count && list[j] <= bound;
            }
        }
        return __reduce_add_sync(PERI_ALL_LANES, n);
    }
};

/* How many keys a list has, and between which values. */
struct peri_keep_range {
    unsigned total;
    uint32_t low, high;

    __device__ __forceinline__ void add(uint64_t key) {
        if (key == PERI_KEY_NONE) return;
        total++;
        low = min(low, (uint32_t)(key >> 32));
        high = max(high, (uint32_t)(key >> 32));
    }
    __device__ __forceinline__ void fold() {
        total = __reduce_add_sync(PERI_ALL_LANES, total);
        low = __reduce_min_sync(PERI_ALL_LANES, low);
        high = __reduce_max_sync(PERI_ALL_LANES, high);
    }
};

/* The key up to which at least `wanted` and at most `most` keys reach; no less than all of them
 * when there are no more than `most`. */
template <typename Keys>
__device__ __forceinline__ uint64_t peri_keep_limit(const Keys &keys, peri_keep_range r,
                                                    unsigned wanted, unsigned most) {
    unsigned reached = r.total;
    while (reached > most && r.low < r.high) {
        uint32_t middle = r.low + (r.high - r.low) / 2;
        unsigned n = keys.at_most((uint64_t)middle << 32 | PERI_NO_VALUE);
        if (n >= wanted) {
            r.high = middle;
            reached = n;
        } else {
            r.low = middle + 1;
        }
    }
    uint32_t least = 0, last = PERI_NO_VALUE; /* names, of those that tie */
    while (reached > most && least < last) {
        uint32_t middle = least + (last - least) / 2;
        unsigned n = keys.at_most((uint64_t)r.high << 32 | middle);
        if (n >= wanted) {
            last = middle;
            reached = n;
        } else {
            least = middle + 1;
        }
    }
    return (uint64_t)r.high << 32 | last;
}

/* What stays of a list, as it is written. */
struct peri_keep_rest {
    unsigned count;
    uint64_t top;

    /* 32 keys, none of which is in the list below `count`; all lanes. */
    __device__ __forceinline__ void put(uint64_t *list, uint64_t key, uint64_t limit,
                                        unsigned most) {
        bool stays = key <= limit && key != PERI_KEY_NONE;
        unsigned mask = __ballot_sync(PERI_ALL_LANES, stays);
        __syncwarp(); /* all have read what is written over now */
        unsigned place = count + __popc(mask & ((1u << threadIdx.x % PERI_WARP) - 1));
        count += __popc(mask);
        if (!stays || place >= most) return; /* more than `most`: the same key many times */
        list[place] = key;
        top = key > top ? key : top;
    }
    __device__ __forceinline__ unsigned end(unsigned wanted, unsigned most, uint64_t *bound) {
        __syncwarp();
        count = min(count, most);
        uint32_t value = __reduce_max_sync(PERI_ALL_LANES, (uint32_t)(top >> 32));
        uint32_t name = (uint32_t)(top >> 32) == value ? (uint32_t)top : 0;
        uint64_t now = (uint64_t)value << 32 | __reduce_max_sync(PERI_ALL_LANES, name);
        if (count >= wanted && now < *bound) *bound = now;
        return count;
    }
};

/* Entry i of a list as a key; NONE when it doesn't count or is above `bound`. */
__device__ __forceinline__ uint64_t peri_keep_key(const uint64_t *list, unsigned i, unsigned count,
                                                  unsigned kept, const peri_keep_rows &rows,
                                                  const uint64_t *bits, uint64_t bound) {
    if (i >= count) return PERI_KEY_NONE;
    uint64_t key = i < kept ? list[i] : peri_keep_named(list[i], rows, bits);
    return key > bound ? PERI_KEY_NONE : key;
}

/* Cuts `list` down to at most `most` keys (>= wanted) and lowers *bound to the highest of them once
 * there are `wanted`; returns how many are kept. All lanes, the same arguments; the list's entries
 * were made visible to the warp before, and are when it returns. */
__device__ __forceinline__ unsigned peri_keep_cut(uint64_t *list, unsigned count, unsigned kept,
                                                  const peri_keep_rows &rows, const uint64_t *bits,
                                                  unsigned wanted, unsigned most, uint64_t *bound) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    peri_keep_range range = { 0, PERI_NO_VALUE, 0 };
    peri_keep_rest rest = { 0, 0 };
    if (count <= PERI_KEEP_SHORT) {
        peri_keep_short keys;
#pragma unroll
        for (unsigned u = 0; u < PERI_KEEP_SHORT / PERI_WARP; u++) {
            keys.keys[u] = peri_keep_key(list, u * PERI_WARP + lane, count, kept, rows, bits,
                                         *bound);
            range.add(keys.keys[u]);
        }
        range.fold();
        uint64_t limit = peri_keep_limit(keys, range, wanted, most);
#pragma unroll
        for (unsigned u = 0; u < PERI_KEEP_SHORT / PERI_WARP; u++)
            rest.put(list, keys.keys[u], limit, most);
        return rest.end(wanted, most, bound);
    }
    for (unsigned i = lane; i < count; i += PERI_WARP) {
        list[i] = peri_keep_key(list, i, count, kept, rows, bits, *bound);
        range.add(list[i]);
    }
    __syncwarp();
    range.fold();
    uint64_t limit = peri_keep_limit(peri_keep_long{ list, count }, range, wanted, most);
    for (unsigned base = 0; base < count; base += PERI_WARP)
        rest.put(list, base + lane < count ? list[base + lane] : PERI_KEY_NONE, limit, most);
    return rest.end(wanted, most, bound);
}

#endif
