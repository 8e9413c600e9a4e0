/* coarse_wgmma.cuh: the kernel of coarse_wgmma.cu, which tells what it does. Part of that file: its
 * names are its own. In order: who does which units; the warpgroup that copies; values; the
 * warpgroups that compute. What comes of values near enough is in coarse_wgmma_hits.cuh. */
#ifndef PERI_CUDA_COARSE_WGMMA_CUH
#define PERI_CUDA_COARSE_WGMMA_CUH

#include "coarse_masks.cuh"
#include "coarse_parts.cuh"
#include "hopper.cuh"

namespace {

constexpr uint32_t TILE_ROWS = 128;
constexpr uint32_t TILE_QUERIES = 256; /* of a block; half of them a warpgroup */
constexpr uint32_t SLICE = 128;        /* bytes of depth */
constexpr uint32_t BOX = TILE_ROWS * SLICE;
constexpr uint32_t QUERY_SLICE = TILE_QUERIES * SLICE;
constexpr uint32_t THREADS = 384;
constexpr uint32_t STAGES_MAX = 10;
constexpr uint32_t TERM_STAGES = 3;
constexpr uint32_t NORM_WARPS = 2;                   /* that make terms of the rows */
constexpr uint32_t RESIDENT_SLICES = 2;              /* more: queries come through the ring */
constexpr uint32_t RESIDENT_SLICES_FLOAT = 4;        /* of tf32: twice the clocks a byte */
constexpr uint32_t SHARED_BYTES = (64 + 128) * 1024; /* beside shared_state */
constexpr uint32_t BATCHES = TILE_ROWS / 32;
/* beside shared_state */                     /* of 32 rows: 8 of each thread */
constexpr uint32_t TILE_GROUPS = 4 * BATCHES; /* minima of a query: a lane of four, a batch */
constexpr uint32_t GROUPS_MAX = PERI_COARSE_GROUPS_MAX;
constexpr size_t ROWS_SAMPLED_MIN = 512;
constexpr uint32_t HITS = 24;      /* of a warp that wait to be looked at */
constexpr uint32_t HIT_WORDS = 36; /* 32 values, query, row, limit; 16-byte reads miss no bank */
constexpr uint32_t HITS_DUE = 16;  /* looked at then, and each HITS_TILES tiles */
constexpr uint32_t HITS_TILES = 8;
constexpr size_t MINIMA_BYTES_MAX = (size_t)256 << 20;
constexpr size_t ENTRIES_BYTES_MAX = (size_t)512 << 20;

struct pass {
    CUtensorMap queries, rows;
    peri_coarse_lists lists;
    const float *terms;
    uint32_t row_count, row_step; /* rows of the map, each row_step-th of the call's */
    uint32_t slices, slice_columns, stages, most;
    float scale;
    bool resident; /* the queries stay in shared memory */
    bool narrow;   /* tf32: only the first 128 queries are there, and the first warpgroup's */
    bool squared;  /* terms made of the rows are their squared lengths, else 0 */
    peri_coarse_norms *norms;
    peri_filter_view filter; /* tested on values; count 0: none, or where lists are cut */
};

constexpr uint32_t resident_slices(peri_coarse_type type) {
    return type == PERI_COARSE_TF32 ? RESIDENT_SLICES_FLOAT : RESIDENT_SLICES;
}

struct shared_state {
    uint64_t full[STAGES_MAX], empty[STAGES_MAX];
    uint64_t terms_full[TERM_STAGES], terms_empty[TERM_STAGES];
    uint64_t queries_full, queries_empty;
    float terms[TERM_STAGES][TILE_ROWS];
    uint4 hits[8][HITS][HIT_WORDS / 4];
    uint64_t bounds[TILE_QUERIES];
    float limits[TILE_QUERIES];
    size_t room; /* names that a query may collect */
    uint32_t counts[TILE_QUERIES], kept[TILE_QUERIES];
};

static_assert(sizeof(shared_state) + SHARED_BYTES + 1024 <= 227 * 1024, "what a block may have");

#ifdef __CUDA_ARCH_FEAT_SM90_ALL /* code for other architectures is a kernel that does nothing */

/* What a block does of one tile of queries: `steps` row tiles from `begin` on, each share-th; the
 * last may be past `stop`, when the other block of the cluster has one more. */
struct run {
    uint32_t tile, begin, stop, steps, list, segment;
};

struct runs {
    peri_coarse_cut cut;
    uint64_t unit, stop;
    uint32_t tiles, share, block, rank;
    bool sample;

    /* A sample's segments are as many as there are groups for, however few queries there are. */
    __device__ runs(const peri_coarse_lists &lists, bool sample_)
        : cut(lists.cut()), unit(0), stop(0), tiles(lists.tiles), share(lists.share),
          block(blockIdx.x / lists.share), rank(blockIdx.x % lists.share), sample(sample_) {
        if (cut.tiles == 0) return;
        if (sample) cut.segments = lists.segments;
        unit = cut.begin(block);
        stop = cut.begin(block + 1);
    }
    __device__ bool next(run *r) {
        if (unit >= stop) return false;
        r->tile = (uint32_t)(unit / cut.segments);
        r->segment = (uint32_t)(unit % cut.segments);
        uint64_t left = sample ? 1 : stop - unit;
        uint32_t last = left < cut.segments - r->segment ? r->segment + (uint32_t)left
                                                         : cut.segments;
        r->begin = cut.row_tile(r->segment);
        r->stop = cut.row_tile(last);
        r->steps = (r->stop - r->begin + share - 1) / share;
        r->list = (r->segment == 0 ? r->tile : tiles + block) * share + rank;
        unit += last - r->segment;
        return true;
    }
    __device__ uint32_t row_tile(const run &r, uint32_t step) const {
        return r.begin + step * share + rank;
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
    if constexpr (TYPE == PERI_COARSE_TF32)
        FIRST ? peri_wgmma_tf32_first(d, a, b) : peri_wgmma_tf32(d, a, b);
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
    uint32_t query_slice;   /* bytes of a slice of the queries */
    uint32_t bytes;         /* of a stage */
    bool resident;

    __device__ stages(const pass &p, uint32_t base) {
        resident = p.resident;
        queries = base;
        query_slice = p.narrow ? BOX : QUERY_SLICE;
        rows = base + (resident ? p.slices * query_slice : 0);
        bytes = BOX + (resident ? 0 : query_slice);
    }
};

__device__ __forceinline__ int32_t first_query(const pass &p, uint32_t tile) {
    return (int32_t)(p.lists.first_query + (size_t)tile * TILE_QUERIES);
}

/* By one thread. A cluster's blocks have the same queries: each brings half of a slice for both. */
__device__ __forceinline__ void copy_stage(const pass &p, const stages &at, const runs &all,
                                           uint32_t to, uint32_t full, const run &r, uint32_t slice,
                                           uint32_t tile) {
    const int32_t column = (int32_t)(slice * p.slice_columns), query = first_query(p, r.tile);
    peri_copy_box(to, &p.rows, full, column, (int32_t)(tile * TILE_ROWS));
    if (at.resident) return;
    uint32_t half = all.rank;
    if (all.share == 2) {
        peri_copy_box_shared(to + BOX + half * BOX, &p.queries, full, column,
                             query + (int32_t)(half * TILE_QUERIES / 2), 3);
        return;
    }
    for (half = 0; half < (p.narrow ? 1 : 2); half++)
        peri_copy_box(to + BOX + half * BOX, &p.queries, full, column,
                      query + (int32_t)(half * TILE_QUERIES / 2));
}

__device__ __forceinline__ void copy_resident(const pass &p, shared_state &s, const stages &at,
                                              uint32_t tile) {
    uint32_t full = peri_shared(&s.queries_full);
    peri_barrier_expect(full, p.slices * at.query_slice);
    for (uint32_t slice = 0; slice < p.slices; slice++)
        for (uint32_t half = 0; half < (p.narrow ? 1 : 2); half++)
            peri_copy_box(at.queries + slice * at.query_slice + half * BOX, &p.queries, full,
                          (int32_t)(slice * p.slice_columns),
                          first_query(p, tile) + (int32_t)(half * TILE_QUERIES / 2));
}

/* By one thread. */
__device__ __forceinline__ void copy_operands(const pass &p, shared_state &s, const stages &at,
                                              runs all) {
    ring stage = { 0, 0 };
    uint32_t queries_parity = 1;
    run r;
    while (all.next(&r)) {
        if (at.resident) {
            peri_barrier_wait(peri_shared(&s.queries_empty), queries_parity);
            queries_parity ^= 1;
            copy_resident(p, s, at, r.tile);
        }
        for (uint32_t step = 0; step < r.steps; step++) {
            for (uint32_t slice = 0; slice < p.slices; slice++) {
                uint32_t full = peri_shared(&s.full[stage.at]);
                peri_barrier_wait(peri_shared(&s.empty[stage.at]), stage.parity ^ 1);
                peri_barrier_expect(full, at.bytes);
                copy_stage(p, at, all, at.rows + stage.at * at.bytes, full, r, slice,
                           all.row_tile(r, step));
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
        for (uint32_t step = 0; step < r.steps; step++) {
            const uint32_t tile = all.row_tile(r, step);
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

__device__ __forceinline__ float value_of(float sum, float scale, float term) {
    return __fmaf_rn(scale, sum, term);
}
__device__ __forceinline__ float value_of(int32_t sum, float scale, float term) {
    return __fmaf_rn(scale, __int2float_rn(sum), term);
}
__device__ __forceinline__ void put_value(float &sum, float value) { sum = value; }
__device__ __forceinline__ void put_value(int32_t &sum, float value) {
    sum = __float_as_int(value);
}

/* Makes values of the sums of 8 rows, two at each of four places, and gives the least of each of
 * the thread's queries. `terms` begin at the thread's column. */
template <typename T>
__device__ __forceinline__ void batch_least(T (&d)[2][64], uint32_t batch, const float *terms,
                                            float scale, float (&least)[4]) {
    float v[4][4];
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        float2 term = *reinterpret_cast<const float2 *>(terms + (batch * 4 + j) * 8);
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            T *pair = d[q / 2] + (batch * 4 + j) * 4 + q % 2 * 2;
            float x = value_of(pair[0], scale, term.x), y = value_of(pair[1], scale, term.y);
            put_value(pair[0], x);
            put_value(pair[1], y);
            v[q][j] = fminf(x, y);
        }
    }
#pragma unroll
    for (uint32_t q = 0; q < 4; q++)
        least[q] = fminf(fminf(v[q][0], v[q][1]), fminf(v[q][2], v[q][3]));
}

/* The same of the values that pass, in two parts, the least of even and of odd rows, since one
 * minimum waits for another; the `first` batch begins them. A query after the other, so that one
 * instruction makes predicates of seven bits of its mask. */
template <typename T>
__device__ __forceinline__ void batch_least_masked(T (&d)[2][64], uint32_t batch,
                                                   const float *terms, float scale, const masks &m,
                                                   bool first, float (&even)[4], float (&odd)[4]) {
    float2 term[4];
#pragma unroll
    for (uint32_t j = 0; j < 4; j++)
        term[j] = *reinterpret_cast<const float2 *>(terms + (batch * 4 + j) * 8);
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            T *pair = d[q / 2] + (batch * 4 + j) * 4 + q % 2 * 2;
            float x = value_of(pair[0], scale, term[j].x), y = value_of(pair[1], scale, term[j].y);
            put_value(pair[0], x);
            put_value(pair[1], y);
            lower_masked(even[q], x, m.of[q], 8 * batch + 2 * j, first && j == 0);
            lower_masked(odd[q], y, m.of[q], 8 * batch + 2 * j + 1, first && j == 0);
        }
    }
}

/* The least of each of the thread's queries in a tile, of the rows that pass. */
template <bool MASKED, typename T>
__device__ __forceinline__ void tile_least(T (&d)[2][64], const float *terms, float scale,
                                           const masks &m, float (&least)[4]) {
    float other[4];
    if (MASKED) {
#pragma unroll
        for (uint32_t batch = 0; batch < BATCHES; batch++)
            batch_least_masked(d, batch, terms, scale, m, batch == 0, least, other);
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) least[q] = fminf(least[q], other[q]);
        return;
    }
    batch_least(d, 0, terms, scale, least);
#pragma unroll
    for (uint32_t batch = 1; batch < BATCHES; batch++) {
        batch_least(d, batch, terms, scale, other);
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) least[q] = fminf(least[q], other[q]);
    }
}

#endif

} /* namespace */

#include "coarse_wgmma_hits.cuh"

namespace {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <bool MASKED, typename T>
__device__ __forceinline__ void lower_minima(T (&d)[2][64], const float *terms, float scale,
                                             const masks &m, float (&minima)[4][BATCHES]) {
#pragma unroll
    for (uint32_t batch = 0; batch < BATCHES; batch++) {
        float least[4], other[4];
        if (MASKED)
            batch_least_masked(d, batch, terms, scale, m, true, least, other);
        else
            batch_least(d, batch, terms, scale, least);
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            if (MASKED) least[q] = fminf(least[q], other[q]);
            minima[q][batch] = fminf(minima[q][batch], least[q]);
        }
    }
}

/* Writes the minima of a segment. */
__device__ __forceinline__ void put_minima(const pass &p, const seat &me, const runs &all,
                                           const run &r, const float (&minima)[4][BATCHES]) {
    const uint32_t queries = p.lists.queries();
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
        uint32_t query = r.tile * TILE_QUERIES + me.query(q);
        if (query >= queries) continue;
        float *out = p.lists.minima + (size_t)query * p.lists.groups +
                     (r.segment * all.share + all.rank) * TILE_GROUPS;
#pragma unroll
        for (uint32_t batch = 0; batch < BATCHES; batch++)
            out[batch * 4 + me.lane % 4] = minima[q][batch];
    }
}

/* Empty lists, but for keys that the call came with, which the first run of a tile takes in. */
__device__ __forceinline__ void begin_lists(const pass &p, shared_state &s, const seat &me,
                                            const run &r, const keeper &k) {
    const uint32_t wanted = p.lists.wanted, queries = p.lists.queries();
    const uint32_t base = r.tile * TILE_QUERIES;
    bool there = base + me.own < queries, holds = false;
    uint64_t bound = there ? __ldcg(&p.lists.bounds[base + me.own]) : 0;
    s.bounds[me.own] = bound;
    s.limits[me.own] = limit_of(p, bound, k.next_row);
    s.counts[me.own] = s.kept[me.own] = 0;
    const uint64_t *keys = p.lists.keys + (p.lists.first_query + base) * wanted;
    if (p.lists.reach.names != nullptr) {
        __syncwarp();
        return;
    }
    if (there && r.segment == 0 && k.rank == 0)
        holds = keys[(size_t)me.own * wanted] != PERI_KEY_NONE;
    __syncwarp();
    for (unsigned todo = __ballot_sync(PERI_ALL_LANES, holds); todo != 0; todo &= todo - 1) {
        uint32_t query = me.query_of(__ffs((int)todo) - 1);
        uint32_t count = 0;
        for (uint32_t i = me.lane; i < wanted; i += PERI_WARP) {
            uint64_t key = keys[(size_t)query * wanted + i];
            if (key == PERI_KEY_NONE) continue;
            k.list[(size_t)query * p.lists.capacity + i] = key;
            count++;
        }
        count = __reduce_add_sync(PERI_ALL_LANES, count);
        if (me.lane == 0) s.counts[query] = s.kept[query] = count;
    }
    __syncwarp();
}

__device__ __forceinline__ void end_lists(const pass &p, const shared_state &s, const seat &me,
                                          uint32_t list) {
    if (p.lists.reach.names != nullptr) return;
    __syncwarp();
    uint32_t *out = p.lists.counts + 2 * ((size_t)list * TILE_QUERIES + me.own);
    out[0] = s.counts[me.own];
    out[1] = s.kept[me.own];
    __syncwarp();
}

/* A stage was read: told to whoever fills it, in both blocks of a cluster. */
__device__ __forceinline__ void give_back(const pass &p, shared_state &s, const seat &me,
                                          uint32_t stage) {
    const uint32_t barrier = peri_shared(&s.empty[stage]);
    if (p.lists.share == 1) {
        if (me.lane == 0) peri_barrier_arrive(barrier);
    } else if (me.lane < 2) {
        peri_barrier_arrive_at(barrier, me.lane);
    }
}

/* By name. */
__device__ __forceinline__ size_t first_row(const pass &p, uint32_t tile) {
    return p.lists.rows.first + (size_t)tile * TILE_ROWS;
}

/* The filters of the thread's queries; of one that isn't there the last one's. */
__device__ __forceinline__ void begin_sieve(const pass &p, const seat &me, uint32_t tile,
                                            sieve *rows) {
    const uint32_t last = p.lists.queries() - 1;
    size_t queries[4];
#pragma unroll
    for (uint32_t q = 0; q < 4; q++)
        queries[q] = p.lists.first_query + min(tile * TILE_QUERIES + me.query(q), last);
    rows->begin(p.filter, queries);
}

/* The warpgroup's 128 queries by a tile of 128 rows. Stages are given back as they are read;
 * `meanwhile` is done while the last products are under way. */
template <peri_coarse_type TYPE, typename T, typename Meanwhile>
__device__ __forceinline__ void multiply_tile(const pass &p, shared_state &s, const stages &at,
                                              const seat &me, ring *stage, T (&d)[2][64],
                                              Meanwhile meanwhile) {
    const uint32_t offset = me.group * 128 * SLICE;
    const bool turns = TYPE != PERI_COARSE_TF32 && at.resident;
    ring last = *stage;
    if (turns) peri_named_wait(1 + me.group, 256);
    peri_barrier_wait(peri_shared(&s.full[stage->at]), stage->parity);
    uint32_t rows = at.rows + stage->at * at.bytes;
    peri_wgmma_fence();
    multiply_slice<TYPE, true>(d, (at.resident ? at.queries : rows + BOX) + offset, rows);
    peri_wgmma_commit();
    stage->step(p.stages);
    for (uint32_t slice = 1; slice < p.slices; slice++) {
        peri_barrier_wait(peri_shared(&s.full[stage->at]), stage->parity);
        rows = at.rows + stage->at * at.bytes;
        uint32_t queries = at.resident ? at.queries + slice * at.query_slice : rows + BOX;
        peri_wgmma_fence();
        multiply_slice<TYPE, false>(d, queries + offset, rows);
        peri_wgmma_commit();
        peri_wgmma_wait<1>();
        give_back(p, s, me, last.at);
        last = *stage;
        stage->step(p.stages);
    }
    if (turns) peri_named_arrive(2 - me.group, 256);
    meanwhile();
    peri_wgmma_wait<0>();
    peri_wgmma_settle(d[0]);
    peri_wgmma_settle(d[1]);
    give_back(p, s, me, last.at);
}

template <peri_coarse_type TYPE, bool SAMPLE, bool MASKED>
__device__ __forceinline__ void compute(const pass &p, shared_state &s, const stages &at,
                                        runs all) {
    const seat me;
    ring stage = { 0, 0 }, slot = { 0, 0 };
    uint32_t queries_parity = 0;
    typename sums_of<TYPE>::type d[2][64];
    float limits[4], minima[4][BATCHES];
    sieve filters;
    masks m = {};
    run r;
    const bool turns = TYPE != PERI_COARSE_TF32 && at.resident;
    if (turns && me.group == 1) peri_named_arrive(1, 256);
    while (all.next(&r)) {
        keeper k = { p.lists.entries + (size_t)r.list * TILE_QUERIES * p.lists.capacity, r.tile,
                     all.rank, r.begin * TILE_ROWS, 0 };
        if (SAMPLE) {
#pragma unroll
            for (uint32_t i = 0; i < 4 * BATCHES; i++)
                minima[i / BATCHES][i % BATCHES] = __int_as_float(0x7F800000);
        } else {
            begin_lists(p, s, me, r, k);
#pragma unroll
            for (uint32_t q = 0; q < 4; q++) limits[q] = s.limits[me.query(q)];
        }
        if (MASKED) begin_sieve(p, me, r.tile, &filters);
        if (at.resident) peri_barrier_wait(peri_shared(&s.queries_full), queries_parity);
        queries_parity ^= 1;
        for (uint32_t step = 0; step < r.steps; step++) {
            const uint32_t tile = all.row_tile(r, step);
            const bool there = tile < r.stop;
            if (MASKED) filters.ask(p.filter, first_row(p, tile));
            multiply_tile<TYPE>(p, s, at, me, &stage, d, [&] {
                bool due = k.pending >= HITS_DUE || step % HITS_TILES == 0;
                if (!SAMPLE && due && k.pending != 0) take_pending<MASKED>(p, s, me, limits, k);
                /* always so; the branch keeps it between the other's turn and the wait */
                if (MASKED && p.filter.count != 0) m = filters.take();
            });
            peri_barrier_wait(peri_shared(&s.terms_full[slot.at]), slot.parity);
            const float *terms = s.terms[slot.at] + me.column;
            k.next_row = (tile + 1) * TILE_ROWS;
            const bool last = step + 1 == r.steps;
            if (!SAMPLE)
                offer<MASKED>(d, p, s, me, terms, m, limits, k, there, last);
            else if (there)
                lower_minima<MASKED>(d, terms, p.scale, m, minima);
            __syncwarp();
            if (me.lane == 0) peri_barrier_arrive(peri_shared(&s.terms_empty[slot.at]));
            slot.step(TERM_STAGES);
        }
        if (at.resident && me.lane == 0) peri_barrier_arrive(peri_shared(&s.queries_empty));
        if (SAMPLE)
            put_minima(p, me, all, r, minima);
        else
            end_lists(p, s, me, r.list);
    }
    if (turns && me.group == 0) peri_named_wait(1, 256);
}

/* What the whole block shares, by its first thread. */
__device__ __forceinline__ void begin_block(const pass &p, shared_state &s) {
    constexpr uint32_t readers = 8; /* a lane of each warp that computes */
    if (threadIdx.x != 0) return;
    if (p.lists.reach.names != nullptr) s.room = p.lists.room();
    const uint32_t makers = p.norms == nullptr ? 1 : p.narrow ? 4 : NORM_WARPS; /* of terms */
    const uint32_t more = p.norms != nullptr && !p.narrow ? makers : 0;
    for (uint32_t i = 0; i < p.stages; i++) {
        peri_barrier_init(peri_shared(&s.full[i]), 1);
        peri_barrier_init(peri_shared(&s.empty[i]), readers * p.lists.share + more);
    }
    for (uint32_t i = 0; i < TERM_STAGES; i++) {
        peri_barrier_init(peri_shared(&s.terms_full[i]), PERI_WARP * makers);
        peri_barrier_init(peri_shared(&s.terms_empty[i]), readers);
    }
    peri_barrier_init(peri_shared(&s.queries_full), 1);
    peri_barrier_init(peri_shared(&s.queries_empty), readers);
    peri_barrier_init_done();
    peri_copy_prefetch(&p.queries);
    peri_copy_prefetch(&p.rows);
}

#endif

} /* namespace */

#include "coarse_wgmma_terms.cuh"

namespace {

template <peri_coarse_type TYPE, bool SAMPLE, bool MASKED>
__global__ void __launch_bounds__(THREADS, 1) coarse_kernel(const __grid_constant__ pass p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t dynamic[];
    __shared__ shared_state s;
    const stages at(p, (peri_shared(dynamic) + 1023) / 1024 * 1024);
    begin_block(p, s);
    __syncthreads();
    if (p.lists.share > 1) peri_cluster_wait();
    if (threadIdx.x < 128) {
        peri_registers_less<40>();
        if (threadIdx.x == 0) copy_operands(p, s, at, runs(p.lists, SAMPLE));
        const uint32_t warp = threadIdx.x / PERI_WARP;
        if (TYPE == PERI_COARSE_TF32 && p.norms != nullptr) {
            if (warp >= 1 && warp <= NORM_WARPS && !p.narrow)
                make_terms(p, s, at, runs(p.lists, SAMPLE));
        } else if (warp == 1) {
            copy_terms(p, s, runs(p.lists, SAMPLE));
        }
    } else {
        peri_registers_more<232>();
        if (TYPE == PERI_COARSE_TF32 && p.narrow && threadIdx.x >= 256)
            attend(p, s, at, runs(p.lists, SAMPLE));
        else
            compute<TYPE, SAMPLE, MASKED>(p, s, at, runs(p.lists, SAMPLE));
    }
    if (p.lists.share > 1) peri_cluster_wait(); /* none leaves while the other still reaches it */
#endif
}

} /* namespace */

#endif
