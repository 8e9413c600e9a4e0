/* coarse_wgmma: the coarse pass on sm_90a: the bulk copy engine, wgmma, a selection in registers.
 *
 * queries [q, depth], rows [n, depth] f16 bf16 s8 u8 | keys [q, wanted] in and out
 * One block a multiprocessor: a warpgroup that copies and two that compute, each 128 queries
 * against 128 rows at a time in 128 registers a thread of f32 (or s32) sums. A block keeps its 256
 * queries in shared memory (depth up to 256 bytes, 64 KiB) for all rows of its run, and rows come
 * through a ring of 16 KiB stages, one 128-byte slice of 128 rows each; so L2 gives 16 bytes a
 * clock and multiprocessor at the full rate of the tensor cores. The two warpgroups take turns: one
 * looks at its sums while the other multiplies. With more depth the slices of the queries come
 * through the ring too, 48 KiB a stage, and both multiply at the same time.
 *
 * Selection: a thread holds 4 queries' sums for 32 rows. An element costs one fused multiply-add
 * and one minimum; the minimum of 8 is compared to the query's bound, and what is at or under it is
 * appended to the query's list in global memory. Between two tiles a warp cuts each of its 32 lists
 * that is past its trigger (coarse_keep.cuh) and so lowers the bound. First bounds come from a pass
 * of the same kernel over each f-th row that only keeps minima of groups (coarse.cu, bounds). The
 * same instructions make an element's value in both passes, so a bound is never off by a rounding.
 *
 * Bound: 2 * q * n * depth flop at the tensor cores' rate. Of the epilogue's two instructions an
 * element a minimum runs at half rate: 256 clocks a warp and tile, while the other warpgroup's
 * product takes 1024 at depth 128.
 * Sources: NVIDIA, Parallel Thread Execution ISA 8.0, asynchronous warpgroup instructions; Thakkar
 * et al., CUTLASS 3 (the pingpong schedule); Johnson, Douze, Jegou, Billion-scale similarity search
 * with GPUs, 2017 (selection fused into the product). */
#include "coarse_parts.cuh"
#include "device.cuh"
#include "hopper.cuh"

namespace {

constexpr uint32_t TILE_ROWS = 128;
constexpr uint32_t TILE_QUERIES = 256; /* of a block; half of them a warpgroup */
constexpr uint32_t SLICE = 128;        /* bytes of depth */
constexpr uint32_t BOX = TILE_ROWS * SLICE;
constexpr uint32_t QUERY_SLICE = TILE_QUERIES * SLICE;
constexpr uint32_t THREADS = 384;
constexpr uint32_t STAGES_MAX = 10;
constexpr uint32_t TERM_STAGES = 4;
constexpr uint32_t RESIDENT_SLICES = 2; /* more: queries come through the ring */
constexpr uint32_t SHARED_BYTES = (64 + 128) * 1024;
constexpr uint32_t BATCHES = TILE_ROWS / 32;  /* of 32 rows: 8 of each thread */
constexpr uint32_t TILE_GROUPS = 4 * BATCHES; /* minima of a query: a lane of four, a batch */
constexpr uint32_t GROUPS_MAX = 1024;
constexpr uint32_t HITS = 16;      /* places of a warp to look at a thread's sums */
constexpr uint32_t HIT_WORDS = 36; /* 32 sums, two words about them, and a shift of banks */
constexpr size_t MINIMA_BYTES_MAX = (size_t)256 << 20;
constexpr size_t ENTRIES_BYTES_MAX = (size_t)512 << 20;

struct pass {
    CUtensorMap queries, rows;
    peri_coarse_lists lists;
    const float *terms;
    uint32_t row_count, row_step; /* rows of the map, each row_step-th of the call's */
    uint32_t slices, slice_columns, stages, most;
    float scale;
};

struct shared_state {
    uint64_t full[STAGES_MAX], empty[STAGES_MAX];
    uint64_t terms_full[TERM_STAGES], terms_empty[TERM_STAGES];
    uint64_t queries_full, queries_empty;
    float terms[TERM_STAGES][TILE_ROWS];
    uint2 hits[8][HITS][HIT_WORDS / 2];
    uint64_t bounds[TILE_QUERIES];
    uint32_t counts[TILE_QUERIES], kept[TILE_QUERIES];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL /* code for other architectures is a kernel that does nothing */

/* What a block does of one tile of queries: row tiles [begin, stop), segments likewise. */
struct run {
    uint32_t tile, begin, stop, list, segment, segment_stop;
};

struct runs {
    peri_coarse_cut cut;
    uint64_t unit, stop;
    uint32_t tiles;

    /* The sample's segments are as many as there are groups for, however few queries there are. */
    __device__ runs(const peri_coarse_lists &lists, bool sample)
        : cut(lists.cut()), unit(0), stop(0), tiles(lists.tiles) {
        if (cut.tiles == 0) return;
        if (sample) cut.segments = lists.segments;
        unit = cut.begin(blockIdx.x);
        stop = cut.begin(blockIdx.x + 1);
    }
    __device__ bool next(run *r) {
        if (unit >= stop) return false;
        r->tile = (uint32_t)(unit / cut.segments);
        r->segment = (uint32_t)(unit % cut.segments);
        uint64_t left = stop - unit;
        r->segment_stop = left < cut.segments - r->segment ? r->segment + (uint32_t)left
                                                           : cut.segments;
        r->begin = cut.row_tile(r->segment);
        r->stop = cut.row_tile(r->segment_stop);
        r->list = r->segment == 0 ? r->tile : tiles + blockIdx.x;
        unit += r->segment_stop - r->segment;
        return true;
    }
};

/* A place in a ring and how often it was gone round, as a parity. */
struct ring {
    uint32_t at, parity;
    __device__ void step(uint32_t size) {
        if (++at == size) {
            at = 0;
            parity ^= 1;
        }
    }
};

template <peri_coarse_type TYPE> struct sums_of { using type = float; };
template <> struct sums_of<PERI_COARSE_S8> { using type = int32_t; };
template <> struct sums_of<PERI_COARSE_U8> { using type = int32_t; };

template <peri_coarse_type TYPE, bool FIRST, typename T>
__device__ __forceinline__ void multiply(T (&d)[64], uint64_t a, uint64_t b) {
    if constexpr (TYPE == PERI_COARSE_F16)
        FIRST ? peri_wgmma_f16_first(d, a, b) : peri_wgmma_f16(d, a, b);
    if constexpr (TYPE == PERI_COARSE_BF16)
        FIRST ? peri_wgmma_bf16_first(d, a, b) : peri_wgmma_bf16(d, a, b);
    if constexpr (TYPE == PERI_COARSE_S8)
        FIRST ? peri_wgmma_s8_first(d, a, b) : peri_wgmma_s8(d, a, b);
    if constexpr (TYPE == PERI_COARSE_U8)
        FIRST ? peri_wgmma_u8_first(d, a, b) : peri_wgmma_u8(d, a, b);
}

/* One slice of depth: 128 queries at `a` by 128 rows at `b`. */
template <peri_coarse_type TYPE, bool FIRST, typename T>
__device__ __forceinline__ void multiply_slice(T (&d)[2][64], uint32_t a, uint32_t b) {
    uint64_t rows = peri_wgmma_tile(b);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint64_t queries = peri_wgmma_tile(a + (uint32_t)half * 64 * SLICE);
        multiply<TYPE, FIRST>(d[half], queries, rows);
#pragma unroll
        for (int k = 1; k < 4; k++)
            multiply<TYPE, false>(d[half], queries + 2 * (uint64_t)k, rows + 2 * (uint64_t)k);
    }
}

/* ---- the warpgroup that copies */

struct stages {
    uint32_t queries, rows; /* shared memory: of the resident queries, of stage 0 */
    uint32_t bytes;         /* of a stage */
    bool resident;

    __device__ stages(const pass &p, uint32_t base) {
        resident = p.slices <= RESIDENT_SLICES;
        queries = base;
        rows = base + (resident ? p.slices * QUERY_SLICE : 0);
        bytes = BOX + (resident ? 0 : QUERY_SLICE);
    }
};

__device__ __forceinline__ void copy_queries(const pass &p, uint32_t to, uint32_t full,
                                             uint32_t slice, uint32_t tile) {
    int32_t query = (int32_t)(p.lists.first_query + (size_t)tile * TILE_QUERIES);
    for (uint32_t half = 0; half < 2; half++)
        peri_copy_box(to + half * BOX, &p.queries, full, (int32_t)(slice * p.slice_columns),
                      query + (int32_t)(half * TILE_QUERIES / 2));
}

/* By one thread. */
__device__ __forceinline__ void copy_operands(const pass &p, shared_state &s, const stages &at,
                                              runs all) {
    ring stage = { 0, 0 };
    uint32_t queries_parity = 1;
    run r;
    while (all.next(&r)) {
        if (at.resident) {
            uint32_t full = peri_shared(&s.queries_full);
            peri_barrier_wait(peri_shared(&s.queries_empty), queries_parity);
            queries_parity ^= 1;
            peri_barrier_expect(full, p.slices * QUERY_SLICE);
            for (uint32_t slice = 0; slice < p.slices; slice++)
                copy_queries(p, at.queries + slice * QUERY_SLICE, full, slice, r.tile);
        }
        for (uint32_t tile = r.begin; tile < r.stop; tile++) {
            for (uint32_t slice = 0; slice < p.slices; slice++) {
                uint32_t full = peri_shared(&s.full[stage.at]);
                uint32_t to = at.rows + stage.at * at.bytes;
                peri_barrier_wait(peri_shared(&s.empty[stage.at]), stage.parity ^ 1);
                peri_barrier_expect(full, at.bytes);
                peri_copy_box(to, &p.rows, full, (int32_t)(slice * p.slice_columns),
                              (int32_t)(tile * TILE_ROWS));
                if (!at.resident) copy_queries(p, to + BOX, full, slice, r.tile);
                stage.step(p.stages);
            }
        }
    }
}

/* By one warp. A row that isn't there has the term +infinity: it is no group's minimum, and is
 * offered only while nothing is known of a bound. */
__device__ __forceinline__ void copy_terms(const pass &p, shared_state &s, runs all) {
    const uint32_t lane = threadIdx.x % PERI_WARP;
    ring slot = { 0, 0 };
    run r;
    while (all.next(&r)) {
        for (uint32_t tile = r.begin; tile < r.stop; tile++) {
            float terms[BATCHES];
#pragma unroll
            for (uint32_t i = 0; i < BATCHES; i++) {
                uint32_t row = tile * TILE_ROWS + i * PERI_WARP + lane;
                terms[i] = __int_as_float(0x7F800000);
                if (row < p.row_count)
                    terms[i] = p.terms == nullptr ? 0.0f : p.terms[(size_t)row * p.row_step];
            }
            peri_barrier_wait(peri_shared(&s.terms_empty[slot.at]), slot.parity ^ 1);
#pragma unroll
            for (uint32_t i = 0; i < BATCHES; i++)
                s.terms[slot.at][i * PERI_WARP + lane] = terms[i];
            peri_barrier_arrive(peri_shared(&s.terms_full[slot.at]));
            slot.step(TERM_STAGES);
        }
    }
}

/* ---- the warpgroups that compute */

/* Where a thread stands: its sums d[half][4 j + 2 high + c] are those of its query
 * first + 64 half + 8 high and row 8 j + column + c of the tile. */
struct seat {
    uint32_t group, lane;
    uint32_t first, column;
    uint32_t own; /* the query of the warp's 32 that this lane sees to */

    __device__ seat() {
        uint32_t warp = threadIdx.x / PERI_WARP % 4;
        group = threadIdx.x / 128 - 1;
        lane = threadIdx.x % PERI_WARP;
        first = group * 128 + warp * 16 + lane / 4;
        column = lane % 4 * 2;
        own = query_of(lane);
    }
    __device__ uint32_t query_of(uint32_t i) const {
        return threadIdx.x / 128 * 128 - 128 + i / 16 * 64 + threadIdx.x / PERI_WARP % 4 * 16 +
               i % 16;
    }
    __device__ uint32_t query(uint32_t i) const { return first + i / 2 * 64 + i % 2 * 8; }
};

/* The least value of each of the thread's queries among 8 of its rows: two at each of four
 * places. `terms` begin at the thread's column. */
template <typename T>
__device__ __forceinline__ void batch_least(const T (&d)[2][64], uint32_t batch, const float *terms,
                                            float scale, float (&least)[4]) {
    float v[4][4];
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        float2 term = *reinterpret_cast<const float2 *>(terms + (batch * 4 + j) * 8);
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            uint32_t i = (batch * 4 + j) * 4 + q % 2 * 2;
            v[q][j] = fminf(__fmaf_rn(scale, (float)d[q / 2][i], term.x),
                            __fmaf_rn(scale, (float)d[q / 2][i + 1], term.y));
        }
    }
#pragma unroll
    for (uint32_t q = 0; q < 4; q++)
        least[q] = fminf(fminf(v[q][0], v[q][1]), fminf(v[q][2], v[q][3]));
}

__device__ __forceinline__ uint2 words_of(const float *d) {
    return make_uint2(__float_as_uint(d[0]), __float_as_uint(d[1]));
}
__device__ __forceinline__ uint2 words_of(const int32_t *d) {
    return make_uint2((uint32_t)d[0], (uint32_t)d[1]);
}
__device__ __forceinline__ float sum_of(uint32_t word, const float *) {
    return __uint_as_float(word);
}
__device__ __forceinline__ float sum_of(uint32_t word, const int32_t *) {
    return __int2float_rn((int32_t)word);
}

/* Four hits at a time by the whole warp, a lane a row: what is at or under the limit is appended. */
template <typename T>
__device__ __forceinline__ void append_hits(const pass &p, shared_state &s, const seat &me,
                                            uint64_t *entries, const float *terms, uint32_t row,
                                            uint32_t count) {
    const uint32_t(*hits)[HIT_WORDS] = reinterpret_cast<const uint32_t(*)[HIT_WORDS]>(
        s.hits[threadIdx.x / PERI_WARP - 4]);
    const uint32_t place = me.lane / 2 * 8 + me.lane % 2;
    for (uint32_t hit = 0; hit < count; hit += 4) {
        float v[4];
        uint32_t at[4], about[4];
        bool passes[4];
#pragma unroll
        for (uint32_t u = 0; u < 4; u++) {
            const uint32_t *words = hits[hit + u < count ? hit + u : hit];
            about[u] = words[32];
            v[u] = __fmaf_rn(p.scale, sum_of(words[me.lane], static_cast<const T *>(nullptr)),
                             terms[place + (about[u] >> 16)]);
            passes[u] = hit + u < count && !(v[u] > __uint_as_float(words[33]));
        }
#pragma unroll
        for (uint32_t u = 0; u < 4; u++)
            if (passes[u]) at[u] = atomicAdd(&s.counts[about[u] & 0xFFFF], 1u);
#pragma unroll
        for (uint32_t u = 0; u < 4; u++)
            if (passes[u])
                entries[(size_t)(about[u] & 0xFFFF) * p.lists.capacity + at[u]] =
                    (uint64_t)peri_value_bits(v[u]) << 32 | (row + place + (about[u] >> 16));
    }
}

/* Appends what may be at or under the limits. A hit is a thread's 32 rows of one query, one of
 * which is: few, so all lanes look at each together. At most 128 entries a query and tile, so that
 * a list which was not past its trigger has room. */
template <typename T>
__device__ __forceinline__ void offer(const T (&d)[2][64], const pass &p, shared_state &s,
                                      const seat &me, uint64_t *entries, const float *terms,
                                      const float (&limits)[4], uint32_t row) {
    float least[4];
    batch_least(d, 0, terms + me.column, p.scale, least);
#pragma unroll
    for (uint32_t batch = 1; batch < BATCHES; batch++) {
        float other[4];
        batch_least(d, batch, terms + me.column, p.scale, other);
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) least[q] = fminf(least[q], other[q]);
    }
    uint32_t place[4], count = 0;
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
        bool hit = !(least[q] > limits[q]);
        unsigned mask = __ballot_sync(PERI_ALL_LANES, hit);
        place[q] = hit ? count + __popc(mask & ((1u << me.lane) - 1)) : UINT32_MAX;
        count += __popc(mask);
    }
    for (uint32_t done = 0; done < count; done += HITS) {
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            if (place[q] - done >= HITS) continue;
            uint2 *to = s.hits[threadIdx.x / PERI_WARP - 4][place[q] - done];
#pragma unroll
            for (uint32_t j = 0; j < 16; j++) to[j] = words_of(d[q / 2] + j * 4 + q % 2 * 2);
            to[16] = make_uint2(me.query(q) | me.column << 16, __float_as_uint(limits[q]));
        }
        __syncwarp();
        append_hits<T>(p, s, me, entries, terms, row, min(count - done, HITS));
        __syncwarp();
    }
}

template <typename T>
__device__ __forceinline__ void lower_minima(const T (&d)[2][64], const float *terms, float scale,
                                             float (&minima)[4][BATCHES]) {
#pragma unroll
    for (uint32_t batch = 0; batch < BATCHES; batch++) {
        float least[4];
        batch_least(d, batch, terms, scale, least);
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) minima[q][batch] = fminf(minima[q][batch], least[q]);
    }
}

/* Writes the minima of a segment and begins anew. */
__device__ __forceinline__ void put_minima(const pass &p, const seat &me, uint32_t tile,
                                           uint32_t segment, float (&minima)[4][BATCHES]) {
    const uint32_t queries = p.lists.queries();
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
        uint32_t query = tile * TILE_QUERIES + me.query(q);
        float *out = p.lists.minima + (size_t)query * p.lists.groups + segment * TILE_GROUPS;
#pragma unroll
        for (uint32_t batch = 0; batch < BATCHES; batch++) {
            if (query < queries) out[batch * 4 + me.lane % 4] = minima[q][batch];
            minima[q][batch] = __int_as_float(0x7F800000);
        }
    }
}

__device__ __forceinline__ void read_limits(const pass &p, const shared_state &s, const seat &me,
                                            uint32_t next_row, float (&limits)[4]) {
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
        uint64_t bound = s.bounds[me.query(q)];
        bool above = p.lists.rows.names == nullptr &&
                     (uint32_t)bound < p.lists.rows.first + next_row;
        limits[q] = peri_bound_value(bound, above);
    }
}

/* Empty lists, but for keys that the call came with, which the first run of a tile takes in. */
__device__ __forceinline__ void begin_lists(const pass &p, shared_state &s, const seat &me,
                                            const run &r, uint64_t *entries) {
    const uint32_t wanted = p.lists.wanted, queries = p.lists.queries();
    const uint32_t base = r.tile * TILE_QUERIES;
    bool there = base + me.own < queries, holds = false;
    s.bounds[me.own] = there ? __ldcg(&p.lists.bounds[base + me.own]) : 0;
    s.counts[me.own] = s.kept[me.own] = 0;
    const uint64_t *keys = p.lists.keys + (p.lists.first_query + base) * wanted;
    if (there && r.segment == 0) holds = keys[(size_t)me.own * wanted] != PERI_KEY_NONE;
    __syncwarp();
    for (unsigned todo = __ballot_sync(PERI_ALL_LANES, holds); todo != 0; todo &= todo - 1) {
        uint32_t query = me.query_of(__ffs((int)todo) - 1);
        uint32_t count = 0;
        for (uint32_t i = me.lane; i < wanted; i += PERI_WARP) {
            uint64_t key = keys[(size_t)query * wanted + i];
            if (key == PERI_KEY_NONE) continue;
            entries[(size_t)query * p.lists.capacity + i] = key;
            count++;
        }
        count = __reduce_add_sync(PERI_ALL_LANES, count);
        if (me.lane == 0) s.counts[query] = s.kept[query] = count;
    }
    __syncwarp();
}

/* Cuts the warp's lists that are past the trigger; true if there was one. */
__device__ __forceinline__ bool cut_lists(const pass &p, shared_state &s, const seat &me,
                                          uint32_t tile, uint64_t *entries) {
    __syncwarp();
    unsigned todo = __ballot_sync(PERI_ALL_LANES, s.counts[me.own] > p.lists.trigger);
    if (todo == 0) return false;
    const uint32_t queries = p.lists.queries();
    for (; todo != 0; todo &= todo - 1) {
        uint32_t query = me.query_of(__ffs((int)todo) - 1), there = tile * TILE_QUERIES + query;
        uint64_t bound = s.bounds[query];
        const uint64_t *bits = nullptr;
        if (there < queries) {
            uint64_t others = __ldcg(&p.lists.bounds[there]);
            bound = others < bound ? others : bound;
            bits = p.lists.bits(there);
        }
        unsigned count = peri_keep_cut(entries + (size_t)query * p.lists.capacity, s.counts[query],
                                       s.kept[query], p.lists.rows, bits, p.lists.wanted, p.most,
                                       &bound);
        if (me.lane == 0) {
            if (there < queries) atomicMin(&p.lists.bounds[there], (unsigned long long)bound);
            s.bounds[query] = bound;
            s.counts[query] = s.kept[query] = count;
        }
        __syncwarp();
    }
    return true;
}

__device__ __forceinline__ void end_lists(const pass &p, const shared_state &s, const seat &me,
                                          uint32_t list) {
    __syncwarp();
    uint32_t *out = p.lists.counts + 2 * ((size_t)list * TILE_QUERIES + me.own);
    out[0] = s.counts[me.own];
    out[1] = s.kept[me.own];
    __syncwarp();
}

/* The warpgroup's 128 queries by a tile of 128 rows. Stages are given back as they are read. */
template <peri_coarse_type TYPE, typename T>
__device__ __forceinline__ void multiply_tile(const pass &p, shared_state &s, const stages &at,
                                              const seat &me, ring *stage, T (&d)[2][64]) {
    const uint32_t offset = me.group * 128 * SLICE;
    ring last = *stage;
    if (at.resident) peri_named_wait(1 + me.group, 256);
    peri_barrier_wait(peri_shared(&s.full[stage->at]), stage->parity);
    uint32_t rows = at.rows + stage->at * at.bytes;
    peri_wgmma_fence();
    multiply_slice<TYPE, true>(d, (at.resident ? at.queries : rows + BOX) + offset, rows);
    peri_wgmma_commit();
    stage->step(p.stages);
    for (uint32_t slice = 1; slice < p.slices; slice++) {
        peri_barrier_wait(peri_shared(&s.full[stage->at]), stage->parity);
        rows = at.rows + stage->at * at.bytes;
        uint32_t queries = at.resident ? at.queries + slice * QUERY_SLICE : rows + BOX;
        peri_wgmma_fence();
        multiply_slice<TYPE, false>(d, queries + offset, rows);
        peri_wgmma_commit();
        peri_wgmma_wait<1>();
        if (me.lane == 0) peri_barrier_arrive(peri_shared(&s.empty[last.at]));
        last = *stage;
        stage->step(p.stages);
    }
    if (at.resident) peri_named_arrive(2 - me.group, 256);
    peri_wgmma_wait<0>();
    peri_wgmma_settle(d[0]);
    peri_wgmma_settle(d[1]);
    if (me.lane == 0) peri_barrier_arrive(peri_shared(&s.empty[last.at]));
}

template <peri_coarse_type TYPE, bool SAMPLE>
__device__ __forceinline__ void compute(const pass &p, shared_state &s, const stages &at,
                                        runs all) {
    const seat me;
    ring stage = { 0, 0 }, slot = { 0, 0 };
    uint32_t queries_parity = 0;
    typename sums_of<TYPE>::type d[2][64];
    float limits[4], minima[4][BATCHES];
    run r;
    if (at.resident && me.group == 1) peri_named_arrive(1, 256);
    while (all.next(&r)) {
        uint64_t *entries = p.lists.entries + (size_t)r.list * TILE_QUERIES * p.lists.capacity;
        uint32_t segment = r.segment, segment_end = all.cut.row_tile(segment + 1);
        if (SAMPLE) {
#pragma unroll
            for (uint32_t i = 0; i < 4 * BATCHES; i++)
                minima[i / BATCHES][i % BATCHES] = __int_as_float(0x7F800000);
        } else {
            begin_lists(p, s, me, r, entries);
            read_limits(p, s, me, r.begin * TILE_ROWS, limits);
        }
        if (at.resident) peri_barrier_wait(peri_shared(&s.queries_full), queries_parity);
        queries_parity ^= 1;
        for (uint32_t tile = r.begin; tile < r.stop; tile++) {
            multiply_tile<TYPE>(p, s, at, me, &stage, d);
            peri_barrier_wait(peri_shared(&s.terms_full[slot.at]), slot.parity);
            const float *terms = s.terms[slot.at];
            if (SAMPLE)
                lower_minima(d, terms + me.column, p.scale, minima);
            else
                offer(d, p, s, me, entries, terms, limits, tile * TILE_ROWS);
            __syncwarp();
            if (me.lane == 0) peri_barrier_arrive(peri_shared(&s.terms_empty[slot.at]));
            slot.step(TERM_STAGES);
            if (SAMPLE && tile + 1 == segment_end) {
                put_minima(p, me, r.tile, segment, minima);
                segment_end = all.cut.row_tile(++segment + 1);
            }
            if (!SAMPLE && cut_lists(p, s, me, r.tile, entries))
                read_limits(p, s, me, (tile + 1) * TILE_ROWS, limits);
        }
        if (at.resident && me.lane == 0) peri_barrier_arrive(peri_shared(&s.queries_empty));
        if (!SAMPLE) end_lists(p, s, me, r.list);
    }
    if (at.resident && me.group == 0) peri_named_wait(1, 256);
}

__device__ __forceinline__ void begin_barriers(const pass &p, shared_state &s) {
    constexpr uint32_t readers = 8; /* a lane of each warp that computes */
    if (threadIdx.x != 0) return;
    for (uint32_t i = 0; i < p.stages; i++) {
        peri_barrier_init(peri_shared(&s.full[i]), 1);
        peri_barrier_init(peri_shared(&s.empty[i]), readers);
    }
    for (uint32_t i = 0; i < TERM_STAGES; i++) {
        peri_barrier_init(peri_shared(&s.terms_full[i]), PERI_WARP);
        peri_barrier_init(peri_shared(&s.terms_empty[i]), readers);
    }
    peri_barrier_init(peri_shared(&s.queries_full), 1);
    peri_barrier_init(peri_shared(&s.queries_empty), readers);
    peri_barrier_init_done();
    peri_copy_prefetch(&p.queries);
    peri_copy_prefetch(&p.rows);
}

#endif

template <peri_coarse_type TYPE, bool SAMPLE>
__global__ void __launch_bounds__(THREADS, 1) coarse_kernel(const __grid_constant__ pass p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t dynamic[];
    __shared__ shared_state s;
    const stages at(p, (peri_shared(dynamic) + 1023) / 1024 * 1024);
    begin_barriers(p, s);
    __syncthreads();
    if (threadIdx.x < 128) {
        peri_registers_less<40>();
        if (threadIdx.x == 0) copy_operands(p, s, at, runs(p.lists, SAMPLE));
        if (threadIdx.x / PERI_WARP == 1) copy_terms(p, s, runs(p.lists, SAMPLE));
    } else {
        peri_registers_more<232>();
        compute<TYPE, SAMPLE>(p, s, at, runs(p.lists, SAMPLE));
    }
#endif
}

/* ---- the host's side */

/* How a call is cut into launches. */
struct shape {
    uint32_t blocks, chunk; /* queries of a launch */
    uint32_t trigger, most, capacity;
    uint32_t row_step, samples, groups; /* row_step 0: no sample */
    uint32_t groups_most; /* of any number of rows: so scratch never shrinks with it */
    size_t entries, counts, bounds, minima, bytes;
};

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }
size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* A sample that gives a bound of some 64 times `wanted` rows; none where it would be a large part
 * of the work, or where a filter decides which rows count. */
void make_sample(const peri_coarse *coarse, shape *s) {
    size_t least = coarse->row_count / 64, wanted = coarse->wanted;
    if (least < 32 * wanted) least = 32 * wanted;
    if (least < 1024) least = 1024;
    size_t step = coarse->row_count / least;
    size_t query_tiles = ceil_div(coarse->query_count, TILE_QUERIES);
    size_t segments = ceil_div(4 * wanted, TILE_GROUPS);
    size_t busy = ceil_div(2 * (size_t)s->blocks, query_tiles);
    if (segments < busy) segments = busy;
    if (segments > GROUPS_MAX / TILE_GROUPS) segments = GROUPS_MAX / TILE_GROUPS;
    s->groups_most = (uint32_t)(segments * TILE_GROUPS);
    if (step < 4 || coarse->filter.count != 0) return;
    s->row_step = (uint32_t)step;
    s->samples = (uint32_t)ceil_div(coarse->row_count, step);
    size_t tiles = ceil_div(s->samples, TILE_ROWS);
    if (segments > tiles) segments = tiles;
    s->groups = (uint32_t)(segments * TILE_GROUPS);
}

shape make_shape(const peri_device *device, const peri_coarse *coarse) {
    shape s = {};
    const uint32_t wanted = coarse->wanted;
    s.blocks = (uint32_t)peri_cuda_of(device)->multiprocessors;
    s.most = wanted + wanted / 8;
    s.trigger = 2 * wanted < 96 ? 96 : 2 * wanted;
    if (s.trigger > 1024 - TILE_ROWS) s.trigger = 1024 - TILE_ROWS;
    s.capacity = s.trigger + TILE_ROWS;
    make_sample(coarse, &s);
    size_t tile_bytes = (size_t)TILE_QUERIES * s.capacity * sizeof(uint64_t);
    size_t tiles = ceil_div(coarse->query_count, TILE_QUERIES);
    size_t most = ENTRIES_BYTES_MAX / tile_bytes;
    most = most > s.blocks ? most - s.blocks : 0;
    size_t other = MINIMA_BYTES_MAX / ((size_t)TILE_QUERIES * s.groups_most * sizeof(float));
    if (other < most) most = other;
    most = most / s.blocks * s.blocks; /* whole rounds */
    if (most == 0) most = s.blocks;
    if (tiles > most) tiles = most;
    s.chunk = (uint32_t)(tiles * TILE_QUERIES);
    size_t lists = tiles + s.blocks;
    s.entries = lists * tile_bytes;
    s.counts = round_up(lists * TILE_QUERIES * 2 * sizeof(uint32_t), 256);
    s.bounds = round_up((size_t)s.chunk * sizeof(uint64_t), 256);
    s.minima = round_up((size_t)s.chunk * s.groups_most * sizeof(float), 256);
    s.bytes = s.entries + s.counts + s.bounds + s.minima;
    return s;
}

using encode_fn = decltype(&cuTensorMapEncodeTiled);

peri_status find_encode(const peri_device *device, encode_fn *out) {
    static void *found;
    void *call = __atomic_load_n(&found, __ATOMIC_ACQUIRE);
    if (call == nullptr) {
        cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
        CU_TRY(device, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &call, 12000,
                                                        cudaEnableDefault, &result));
        if (result != cudaDriverEntryPointSuccess || call == nullptr)
            return device->host->fail(PERI_E_DEVICE, "the driver has no cuTensorMapEncodeTiled");
        __atomic_store_n(&found, call, __ATOMIC_RELEASE);
    }
    *out = reinterpret_cast<encode_fn>(call);
    return PERI_OK;
}

/* Boxes of 128 rows by 128 bytes of [rows, columns], swizzled; zeros outside. */
peri_status make_map(const peri_device *device, peri_coarse_type type, const void *data,
                     size_t rows, size_t columns, size_t stride, CUtensorMap *map) {
    encode_fn encode = nullptr;
    peri_status status = find_encode(device, &encode);
    if (status != PERI_OK) return status;
    size_t element = peri_coarse_type_bytes(type);
    const cuuint64_t sizes[2] = { columns, rows }, strides[1] = { stride };
    const cuuint32_t box[2] = { (cuuint32_t)(SLICE / element), TILE_ROWS }, steps[2] = { 1, 1 };
    CUresult result = encode(
        map, element == 2 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
        const_cast<void *>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return PERI_OK;
    return device->host->fail(PERI_E_DEVICE,
                              "cuTensorMapEncodeTiled: error %d for %zu rows of %zu at %zu bytes",
                              (int)result, rows, columns, stride);
}

template <peri_coarse_type TYPE, bool SAMPLE>
peri_status launch(peri_stream *stream, const pass &p) {
    constexpr uint32_t bytes = SHARED_BYTES + 1024; /* to begin at a multiple of 1024 */
    CU_TRY(stream->device,
           cudaFuncSetAttribute(coarse_kernel<TYPE, SAMPLE>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    coarse_kernel<TYPE, SAMPLE><<<p.lists.blocks, THREADS, bytes, peri_cuda_handle(stream)>>>(p);
    return peri_cuda_launched(stream);
}

template <bool SAMPLE>
peri_status launch_type(peri_stream *stream, peri_coarse_type type, const pass &p) {
    switch (type) {
    case PERI_COARSE_F16: return launch<PERI_COARSE_F16, SAMPLE>(stream, p);
    case PERI_COARSE_BF16: return launch<PERI_COARSE_BF16, SAMPLE>(stream, p);
    case PERI_COARSE_S8: return launch<PERI_COARSE_S8, SAMPLE>(stream, p);
    case PERI_COARSE_U8: return launch<PERI_COARSE_U8, SAMPLE>(stream, p);
    }
    return stream->device->host->fail(PERI_E_ARGUMENT, "coarse: no type %d", (int)type);
}

/* All of a call that is the same for each launch. */
peri_status make_passes(const peri_device *device, const peri_coarse *coarse, const shape &s,
                        void *scratch, pass *all, pass *sample) {
    const size_t element = peri_coarse_type_bytes(coarse->type);
    const size_t columns = coarse->columns == 0 ? coarse->depth : coarse->columns;
    const size_t stride = coarse->row_stride_bytes == 0 ? coarse->depth * element
                                                        : coarse->row_stride_bytes;
    uint8_t *at = static_cast<uint8_t *>(scratch);
    peri_coarse_lists *lists = &all->lists;
    all->terms = coarse->terms;
    all->row_count = (uint32_t)coarse->row_count;
    all->row_step = 1;
    all->slices = (uint32_t)(coarse->depth * element / SLICE);
    all->slice_columns = (uint32_t)(SLICE / element);
    bool resident = all->slices <= RESIDENT_SLICES;
    all->stages = (SHARED_BYTES - (resident ? all->slices * QUERY_SLICE : 0)) /
                  (resident ? BOX : BOX + QUERY_SLICE);
    if (all->stages > STAGES_MAX) all->stages = STAGES_MAX;
    all->most = s.most;
    all->scale = coarse->scale;
    lists->queries_left = coarse->queries_left;
    lists->tile_queries = TILE_QUERIES;
    lists->row_tiles = (uint32_t)ceil_div(coarse->row_count, TILE_ROWS);
    lists->blocks = s.blocks;
    lists->wanted = coarse->wanted;
    lists->trigger = s.trigger;
    lists->capacity = s.capacity;
    lists->entries = reinterpret_cast<uint64_t *>(at);
    lists->counts = reinterpret_cast<uint32_t *>(at + s.entries);
    lists->bounds = reinterpret_cast<unsigned long long *>(at + s.entries + s.counts);
    lists->minima = s.row_step == 0
                        ? nullptr
                        : reinterpret_cast<float *>(at + s.entries + s.counts + s.bounds);
    lists->groups = s.groups;
    lists->rows = peri_keep_rows{ coarse->names, coarse->first, (uint32_t)coarse->row_count };
    lists->filter = coarse->filter;
    lists->keys = coarse->keys;
    PERI_TRY(make_map(device, coarse->type, coarse->queries, coarse->query_count, coarse->depth,
                      coarse->depth * element, &all->queries));
    PERI_TRY(make_map(device, coarse->type, coarse->rows, coarse->row_count, columns, stride,
                      &all->rows));
    *sample = *all;
    if (s.row_step == 0) return PERI_OK;
    sample->row_count = s.samples;
    sample->row_step = s.row_step;
    sample->lists.row_tiles = (uint32_t)ceil_div(s.samples, TILE_ROWS);
    sample->lists.segments = s.groups / TILE_GROUPS;
    return make_map(device, coarse->type, coarse->rows, s.samples, columns, stride * s.row_step,
                    &sample->rows);
}

} /* namespace */

size_t peri_coarse_wgmma_scratch(const peri_device *device, const peri_coarse *coarse) {
    return make_shape(device, coarse).bytes;
}

peri_status peri_coarse_wgmma_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                                  size_t scratch_bytes) {
    shape s = make_shape(stream->device, coarse);
    if (scratch_bytes < s.bytes)
        return stream->device->host->fail(
            PERI_E_ARGUMENT, "coarse: %zu bytes of scratch, %zu needed", scratch_bytes, s.bytes);
    pass all = {}, sample = {};
    PERI_TRY(make_passes(stream->device, coarse, s, scratch, &all, &sample));
    for (size_t first = 0; first < coarse->query_count; first += s.chunk) {
        size_t count = coarse->query_count - first < s.chunk ? coarse->query_count - first
                                                             : s.chunk;
        all.lists.first_query = sample.lists.first_query = first;
        all.lists.count = sample.lists.count = (uint32_t)count;
        all.lists.tiles = sample.lists.tiles = (uint32_t)ceil_div(count, TILE_QUERIES);
        all.lists.segments = peri_coarse_segments(all.lists.tiles, all.lists.row_tiles, s.blocks);
        if (s.row_step != 0) PERI_TRY(launch_type<true>(stream, coarse->type, sample));
        PERI_TRY(peri_coarse_bounds(stream, &all.lists));
        PERI_TRY(launch_type<false>(stream, coarse->type, all));
        PERI_TRY(peri_coarse_finish(stream, &all.lists));
    }
    return PERI_OK;
}
