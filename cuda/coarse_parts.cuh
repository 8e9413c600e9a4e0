/* coarse_parts.cuh: how the coarse pass is cut among the blocks of a launch, and the steps around
 * the product itself: bounds before it, selection after it.
 *
 * Queries come in tiles, the rows in `segments` ranges; unit u = tile * segments + segment. A block
 * takes a contiguous share of the units, so it does one range of rows after the other for a tile
 * and meets at most one tile that another block began: its first. A run is what one block does of
 * one tile. Each run appends to lists of its own, a list a query: run of a tile's beginning: list
 * tile, any other: list tiles + block. */
#ifndef PERI_CUDA_COARSE_PARTS_CUH
#define PERI_CUDA_COARSE_PARTS_CUH

#include "coarse.cuh"
#include "coarse_keep.cuh"
#include "core/status.h"

constexpr uint32_t PERI_COARSE_GROUPS_MAX = 1024; /* whose minima a query has */

struct peri_coarse_cut {
    uint32_t tiles, segments, row_tiles, blocks;

    __host__ __device__ uint64_t units() const { return (uint64_t)tiles * segments; }
    /* First unit of a block; one past its last is that of the next block. */
    __host__ __device__ uint64_t begin(uint32_t block) const { return units() * block / blocks; }
    __host__ __device__ uint32_t row_tile(uint32_t segment) const {
        return (uint32_t)((uint64_t)row_tiles * segment / segments);
    }
};

/* What the steps share, of one launch's queries: [count] of a call's, from `first_query` on. */
struct peri_coarse_lists {
    const uint32_t *queries_left;
    size_t first_query;
    uint32_t count, tile_queries, tiles; /* tiles of `count` */
    uint32_t segments, row_tiles, blocks, share;
    uint32_t wanted, trigger, capacity; /* a list is cut once it has more than `trigger` entries */
    uint64_t *entries;                  /* [tiles + blocks, share, tile_queries, capacity] */
    uint32_t *counts;           /* [tiles + blocks, share, tile_queries, 2]: entries, kept */
    unsigned long long *bounds; /* [count] */
    float *minima;              /* [count, groups], or NULL */
    uint32_t groups;
    peri_keep_rows rows;
    peri_filter_view filter;
    uint64_t *keys;          /* of the call: [.., wanted] */
    peri_coarse_reach reach; /* of the call; bounds are `bounds` */

    __device__ uint32_t queries() const {
        if (queries_left == nullptr) return count;
        size_t left = *queries_left;
        left = left > first_query ? left - first_query : 0;
        return left < count ? (uint32_t)left : count;
    }
    /* With fewer queries than foreseen, ranges are shorter, so that all blocks still have some. */
    __device__ peri_coarse_cut cut() const {
        uint32_t now = (queries() + tile_queries - 1) / tile_queries;
        uint32_t ranges = segments;
        if (now != 0 && now < tiles) ranges = max(ranges, (4 * blocks + now - 1) / now);
        return peri_coarse_cut{ now, min(ranges, row_tiles), row_tiles, blocks };
    }
    /* Names that a query may collect. */
    __device__ size_t room() const {
        const size_t left = queries_left == nullptr ? first_query + count : *queries_left;
        return left == 0 ? 0 : reach.entries / left;
    }
    __device__ const uint64_t *bits(uint32_t query) const {
        if (filter.count == 0) return nullptr;
        return filter.bits[filter.which == nullptr ? 0 : filter.which[first_query + query]];
    }
};

/* The term of a row of this squared length; raises `longest`, of those that have a bound. */
__device__ inline float peri_coarse_term(bool squared, float squares, float most, float &longest) {
    const float infinity = __int_as_float(0x7F800000);
    const bool known = squares <= PERI_COARSE_NORM_MOST;
    if (known && (squared || squares <= most)) {
        longest = fmaxf(longest, squares);
        return squared ? squares : 0.0f;
    }
    if (squared) return infinity;
    if (!known) longest = infinity;
    return -infinity;
}

/* Ranges of the rows that fill the blocks evenly. */
uint32_t peri_coarse_segments(uint32_t tiles, uint32_t row_tiles, uint32_t blocks);

/* bounds[q] = the lesser of the last key held and of a value that at least `wanted` of the minima
 * reach. */
peri_status peri_coarse_bounds(peri_stream *stream, const peri_coarse_lists *lists);

/* keys = the least of all lists of a query, ascending. */
peri_status peri_coarse_finish(peri_stream *stream, const peri_coarse_lists *lists);

#endif
