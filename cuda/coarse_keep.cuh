/* coarse_keep.cuh: the least keys of one query by one warp, in the lists that the coarse pass
 * writes.
 *
 * A list holds `kept` keys, then new entries: the value's bits in order, and the row instead of its
 * name. New ones are appended by whoever finds a value at or under the query's bound; names,
 * filters and rows beyond the last are seen to here, when a list is cut down to what is wanted.
 * What is cut away is above a bound that at least `wanted` keys reach, so nothing that counts is
 * lost, and which rows count depends on no order. The cut is found by bisection over the bits of
 * keys, first of the value, then, where values tie, of the name: some ten passes over a list that
 * the first-level cache holds, which takes few registers from the product beside it. */
#ifndef PERI_CUDA_COARSE_KEEP_CUH
#define PERI_CUDA_COARSE_KEEP_CUH

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

/* How many of a list are at or under `bound`; all lanes get it. */
__device__ __forceinline__ unsigned peri_keep_count(const uint64_t *list, unsigned count,
                                                    uint64_t bound) {
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

/* What is known of a list: how many keys it has, and between which values. */
struct peri_keep_range {
    unsigned total;
    uint32_t low, high;
};

/* Makes keys of the new entries; what doesn't count, or is above `bound`, becomes NONE. */
__device__ __forceinline__ peri_keep_range peri_keep_names(uint64_t *list, unsigned count,
                                                           unsigned kept,
                                                           const peri_keep_rows &rows,
                                                           const uint64_t *bits, uint64_t bound) {
    peri_keep_range r = { 0, PERI_NO_VALUE, 0 };
#pragma unroll 4
    for (unsigned i = threadIdx.x % PERI_WARP; i < count; i += PERI_WARP) {
        uint64_t key = list[i];
        if (i >= kept) key = peri_keep_named(key, rows, bits);
        if (key > bound) key = PERI_KEY_NONE;
        list[i] = key;
        if (key == PERI_KEY_NONE) continue;
        r.total++;
        r.low = min(r.low, (uint32_t)(key >> 32));
        r.high = max(r.high, (uint32_t)(key >> 32));
    }
    __syncwarp();
    r.total = __reduce_add_sync(PERI_ALL_LANES, r.total);
    r.low = __reduce_min_sync(PERI_ALL_LANES, r.low);
    r.high = __reduce_max_sync(PERI_ALL_LANES, r.high);
    return r;
}

/* The key up to which at least `wanted` and at most `most` of the list's keys reach; its greatest
 * when there are no more than `most`. */
__device__ __forceinline__ uint64_t peri_keep_limit(const uint64_t *list, unsigned count,
                                                    peri_keep_range r, unsigned wanted,
                                                    unsigned most) {
    unsigned reached = r.total;
    while (reached > most && r.low < r.high) {
        uint32_t middle = r.low + (r.high - r.low) / 2;
        unsigned n = peri_keep_count(list, count, (uint64_t)middle << 32 | PERI_NO_VALUE);
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
        unsigned n = peri_keep_count(list, count, (uint64_t)r.high << 32 | middle);
        if (n >= wanted) {
            last = middle;
            reached = n;
        } else {
            least = middle + 1;
        }
    }
    return (uint64_t)r.high << 32 | last;
}

/* Cuts `list` down to at most `most` keys (>= wanted) and lowers *bound to the highest of them once
 * there are `wanted`; returns how many are kept. All lanes, the same arguments; the list's entries
 * were made visible to the warp before, and are when it returns. */
__device__ __forceinline__ unsigned peri_keep_cut(uint64_t *list, unsigned count, unsigned kept,
                                                  const peri_keep_rows &rows, const uint64_t *bits,
                                                  unsigned wanted, unsigned most, uint64_t *bound) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    peri_keep_range range = peri_keep_names(list, count, kept, rows, bits, *bound);
    uint64_t limit = peri_keep_limit(list, count, range, wanted, most);
    uint64_t top = 0;
    unsigned at = 0;
    for (unsigned base = 0; base < count; base += PERI_WARP) {
        uint64_t key = base + lane < count ? list[base + lane] : PERI_KEY_NONE;
        bool stays = key <= limit && key != PERI_KEY_NONE;
        unsigned mask = __ballot_sync(PERI_ALL_LANES, stays);
        unsigned place = at + __popc(mask & ((1u << lane) - 1));
        at += __popc(mask);
        if (!stays || place >= most) continue; /* more than `most`: the same key many times */
        list[place] = key;
        top = key > top ? key : top;
    }
    __syncwarp();
    at = min(at, most);
    uint32_t value = __reduce_max_sync(PERI_ALL_LANES, (uint32_t)(top >> 32));
    uint32_t name = __reduce_max_sync(PERI_ALL_LANES,
                                      (uint32_t)(top >> 32) == value ? (uint32_t)top : 0);
    uint64_t now = (uint64_t)value << 32 | name;
    if (at >= wanted && now < *bound) *bound = now;
    return at;
}

#endif
