/* coarse_wgmma_hits.cuh: values that are near enough, and the lists they go into: part of
 * coarse_wgmma.cuh.
 *
 * A hit waits in shared memory with the other values of its thread and query; a lane looks at each
 * while the tensor cores are at a later tile, and puts what is under the query's limit into the
 * query's list. A list past the trigger is cut (coarse_keep.cuh), which lowers the limit. With a
 * reach names are collected in place of lists. */
#ifndef PERI_CUDA_COARSE_WGMMA_HITS_CUH
#define PERI_CUDA_COARSE_WGMMA_HITS_CUH

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace {

__device__ __forceinline__ uint2 words_of(const float *d) {
    return make_uint2(__float_as_uint(d[0]), __float_as_uint(d[1]));
}
__device__ __forceinline__ uint2 words_of(const int32_t *d) {
    return make_uint2((uint32_t)d[0], (uint32_t)d[1]);
}

__device__ __forceinline__ float limit_of(const pass &p, uint64_t bound, uint32_t next_row) {
    const peri_keep_rows &rows = p.lists.rows;
    return peri_bound_value(bound,
                            rows.names == nullptr && (uint32_t)bound < rows.first + next_row);
}

/* What a warp does with its lists; `list` is the first of the block's 256. */
struct keeper {
    uint64_t *list;
    uint32_t tile;     /* of queries */
    uint32_t rank;     /* of the block in its cluster */
    uint32_t next_row; /* rows to come are this one and later ones */
    uint32_t pending;  /* hits that wait */
};

/* Cuts the warp's lists that are past the trigger and lowers their limits. */
template <bool MASKED>
__device__ __forceinline__ void cut_lists(const pass &p, shared_state &s, const seat &me,
                                          const keeper &k) {
    const uint32_t queries = p.lists.queries();
    __syncwarp();
    unsigned todo = __ballot_sync(PERI_ALL_LANES, s.counts[me.own] > p.lists.trigger);
    for (; todo != 0; todo &= todo - 1) {
        uint32_t query = me.query_of(__ffs((int)todo) - 1), there = k.tile * TILE_QUERIES + query;
        uint64_t bound = s.bounds[query];
        const uint64_t *bits = nullptr;
        if (there < queries) {
            uint64_t others = __ldcg(&p.lists.bounds[there]);
            bound = others < bound ? others : bound;
            if (!MASKED) bits = p.lists.bits(there);
        }
        unsigned count = peri_keep_cut(k.list + (size_t)query * p.lists.capacity, s.counts[query],
                                       s.kept[query], p.lists.rows, bits, p.lists.wanted, p.most,
                                       &bound);
        if (me.lane == 0) {
            if (there < queries) atomicMin(&p.lists.bounds[there], (unsigned long long)bound);
            s.bounds[query] = bound;
            s.limits[query] = limit_of(p, bound, k.next_row);
            s.counts[query] = s.kept[query] = count;
        }
        __syncwarp();
    }
}

/* A row for the names that a query collects. True when there are too many: then it takes no more.
 * Only a row without a bound, whose term is -inf, has a value as low as no limit. */
__device__ __forceinline__ bool collect(const pass &p, shared_state &s, const keeper &k,
                                        uint32_t query, uint32_t row) {
    const uint32_t there = k.tile * TILE_QUERIES + query;
    const uint64_t key = peri_keep_named(row, p.lists.rows, p.lists.bits(there));
    if (key == PERI_KEY_NONE ||
        peri_reach_add(p.lists.reach, s.room, p.lists.first_query + there, (uint32_t)key))
        return false;
    s.bounds[query] = 0;
    s.limits[query] = -__int_as_float(0x7F800000);
    return true;
}

/* A lane's hit, of which `mask` are values at or under the limit it was found with. True when some
 * query takes no more. */
__device__ __forceinline__ bool collect_hits(const pass &p, shared_state &s, const keeper &k,
                                             const uint4 *hit, uint32_t mask) {
    const uint4 about = hit[8];
    bool full = false;
    for (; mask != 0; mask &= mask - 1) {
        const uint32_t i = (uint32_t)__ffs((int)mask) - 1;
        const uint32_t bits = peri_value_bits(reinterpret_cast<const float *>(hit)[i]);
        if (bits <= (uint32_t)(s.bounds[about.x] >> 32))
            full |= collect(p, s, k, about.x, about.y + i / 2 * 8 + i % 2);
    }
    __syncwarp();
    return __any_sync(PERI_ALL_LANES, full);
}

/* Looks at `count` hits, a lane a hit, and appends what is at or under the bounds; after each round
 * of at most one entry a lane, lists past their trigger are cut. True if one was. */
template <bool MASKED>
__device__ __forceinline__ bool take_hits(const pass &p, shared_state &s, const seat &me,
                                          const keeper &k, uint32_t count) {
    const uint4 *hit = s.hits[threadIdx.x / PERI_WARP - 4][me.lane < count ? me.lane : 0];
    const uint4 about = hit[8];
    const float limit = __uint_as_float(about.z);
    uint64_t *list = k.list + (size_t)about.x * p.lists.capacity;
    uint32_t mask = 0;
    bool cut = false;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        uint4 v = hit[i];
        mask |= (uint32_t) !(__uint_as_float(v.x) > limit) << (4 * i) |
                (uint32_t) !(__uint_as_float(v.y) > limit) << (4 * i + 1) |
                (uint32_t) !(__uint_as_float(v.z) > limit) << (4 * i + 2) |
                (uint32_t) !(__uint_as_float(v.w) > limit) << (4 * i + 3);
    }
    if (MASKED) mask &= about.w;
    if (me.lane >= count) mask = 0;
    if (p.lists.reach.names != nullptr) return collect_hits(p, s, k, hit, mask);
    while (__any_sync(PERI_ALL_LANES, mask != 0)) {
        bool full = false;
        if (mask != 0) {
            uint32_t i = (uint32_t)__ffs((int)mask) - 1;
            uint32_t bits = peri_value_bits(reinterpret_cast<const float *>(hit)[i]);
            if (bits <= (uint32_t)(s.bounds[about.x] >> 32)) {
                uint32_t at = atomicAdd(&s.counts[about.x], 1u);
                list[at] = (uint64_t)bits << 32 | (about.y + i / 2 * 8 + i % 2);
                full = at >= p.lists.trigger;
            }
            mask &= mask - 1;
        }
        if (!__any_sync(PERI_ALL_LANES, full)) continue;
        cut_lists<MASKED>(p, s, me, k);
        cut = true;
    }
    __syncwarp();
    return cut;
}

/* All hits that wait. */
template <bool MASKED>
__device__ __forceinline__ void take_pending(const pass &p, shared_state &s, const seat &me,
                                             float (&limits)[4], keeper &k) {
    __syncwarp();
    bool cut = take_hits<MASKED>(p, s, me, k, k.pending);
    k.pending = 0;
    if (!cut) return;
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) limits[q] = s.limits[me.query(q)];
}

/* Offers the tile's values, if the tile is there: a hit is a thread's 32 values of one query,
 * one of which is at or under the query's limit. Hits wait to be looked at, a lane each, while the
 * tensor cores are at a later tile, unless there is no room for more or this tile is the last. */
template <bool MASKED, typename T>
__device__ __forceinline__ void offer(T (&d)[2][64], const pass &p, shared_state &s, const seat &me,
                                      const float *terms, const masks &m, float (&limits)[4],
                                      keeper &k, bool there, bool last) {
    float least[4];
    tile_least<MASKED>(d, terms, p.scale, m, least);
    int32_t place[4];
    uint32_t total = k.pending;
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
        bool hit = there && !(least[q] > limits[q]);
        if (MASKED) hit = hit && m.of[q] != 0;
        unsigned mask = __ballot_sync(PERI_ALL_LANES, hit);
        place[q] = hit ? (int32_t)(total + __popc(mask & ((1u << me.lane) - 1))) : -1;
        total += __popc(mask);
    }
    bool cut = false;
    for (;;) {
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            if (place[q] < 0 || place[q] >= (int32_t)HITS) continue;
            uint2 *to = reinterpret_cast<uint2 *>(s.hits[threadIdx.x / PERI_WARP - 4][place[q]]);
#pragma unroll
            for (uint32_t j = 0; j < 16; j++) to[j] = words_of(d[q / 2] + j * 4 + q % 2 * 2);
            to[16] = make_uint2(me.query(q), k.next_row - TILE_ROWS + me.column);
            to[17] = make_uint2(__float_as_uint(limits[q]), MASKED ? m.of[q] : 0);
        }
        if (total <= HITS && (!last || total == 0)) break;
        __syncwarp();
        cut |= take_hits<MASKED>(p, s, me, k, min(total, HITS));
        if (total <= HITS) {
            total = 0;
            break;
        }
        total -= HITS;
#pragma unroll
        for (uint32_t q = 0; q < 4; q++)
            place[q] = place[q] < (int32_t)HITS ? -1 : place[q] - (int32_t)HITS;
    }
    k.pending = total;
    if (!cut) return;
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) limits[q] = s.limits[me.query(q)];
}

} /* namespace */

#endif

#endif
