/* coarse_mma: the coarse pass by mma.sync, for every architecture from sm_80 on.
 *
 * queries [q, depth] | rows [n, columns] f16 bf16 tf32 i8 u8 | keys [q, wanted]
 * A block of 4 warps takes 128 queries and sweeps a range of the rows, 128 at a time: a warp holds
 * 64 x 64 sums in 128 registers, fed by ldmatrix from slices of 128 bytes of depth that cp.async
 * brings three stages ahead (chunks of 16 bytes XORed by the row, so that no bank is hit twice).
 * Queries stay in shared memory for the whole sweep while they are at most three slices deep.
 * Shared memory 99 KiB a block, all that an sm_86 has; two blocks a multiprocessor where it
 * fits, so that one's selection hides behind the other's products.
 *
 * Selection: each query has a bound, the `wanted`-th least key so far; a sum is only compared with
 * it (one multiply-add, one compare). What passes is appended to the query's buffer in scratch,
 * which stays in L2; when another tile may not fit there, a warp keeps the `wanted` least
 * (coarse_select.cuh) and the bound falls. Ranges of rows that run at the same time share bounds.
 * Where queries collect all rows near enough (`reach`) bounds stay and there are no buffers.
 * Blocks are numbered so that those that run together sweep the same rows: these come from L2.
 *
 * Work 2 * q * n * depth flop, bound by ldmatrix and the tensor cores alike: 1/64 byte of shared
 * memory a flop. Scratch: buffers of the blocks that run at once, and the kept keys of each range
 * when the rows are split. */
#include "coarse_keep.cuh"
#include "coarse_select.cuh"
#include "device.cuh"

namespace {

constexpr unsigned THREADS = 128;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned TILE = 128;  /* queries and rows of a block's tile */
constexpr unsigned PART = 64;   /* of both, a warp's */
constexpr unsigned SLICE = 128; /* bytes of depth a stage */
constexpr unsigned CHUNK = 16;  /* bytes a copy */
constexpr unsigned STEP = 32;   /* bytes of depth an instruction */
constexpr unsigned STAGES = 3;
constexpr unsigned COPY_ROWS = THREADS * CHUNK / SLICE; /* that the block copies at once */
constexpr unsigned SLICE_BYTES = TILE * SLICE;
constexpr unsigned RING_BYTES = 2 * STAGES * SLICE_BYTES;
constexpr unsigned TERMS_BYTES = STAGES * TILE * sizeof(float);
constexpr unsigned SHARED_BYTES = RING_BYTES + TERMS_BYTES +
                                  TILE * (sizeof(uint64_t) + sizeof(unsigned)); /* 99 KiB */
constexpr unsigned QUEUE = 32;
constexpr unsigned GROWTH = 64; /* keys beyond the wanted that are worth a cut: an estimate */
constexpr unsigned BLOCKS_A_UNIT = 2;
constexpr unsigned SPLIT_TILES_MIN = 8; /* below, a range's first keys are most of its work */
constexpr size_t PARTS_BYTES = (size_t)32 << 20;
constexpr unsigned MERGE_THREADS = 128;

constexpr uint64_t NO_BOUND = (uint64_t)0x007FFFFF << 32; /* the key of -inf, which none is below */

struct sweep {
    const char *queries, *rows;
    size_t row_stride;
    uint32_t query_count, row_count;
    const uint32_t *queries_left;
    uint32_t depth_bytes, row_bytes;
    const float *terms;
    float scale;
    uint32_t first;
    const uint32_t *names;
    peri_filter_view filter;
    uint32_t wanted, capacity;
    uint32_t grown;  /* keys of a buffer that is cut down: another tile's must fit */
    uint32_t splits; /* 0: as many as the queries that are left leave room for */
    uint32_t units;  /* blocks that run at once */
    uint64_t *keys;
    uint64_t *buffers; /* [gridDim.x, TILE, capacity] */
    uint64_t *bounds;  /* [query_count] */
    uint64_t *parts;   /* [splits, query_count rounded up, wanted] when there are several */
    peri_coarse_reach reach;
};

/* How the work is cut: by the host, or on the device when only it knows how many are left. */
struct cut {
    uint32_t tiles, splits, split_tiles;
};

__host__ __device__ inline uint32_t ceil_div(uint32_t a, uint32_t b) {
    return a / b + (a % b != 0);
}

__host__ __device__ inline cut make_cut(uint32_t queries, uint32_t rows, uint32_t splits,
                                        uint32_t units) {
    cut c;
    c.tiles = ceil_div(queries, TILE);
    uint32_t row_tiles = ceil_div(rows, TILE);
    if (splits == 0) {
        uint32_t fit = row_tiles / SPLIT_TILES_MIN;
        splits = c.tiles == 0 ? 1 : units / c.tiles;
        if (splits > fit) splits = fit;
        if (splits == 0) splits = 1;
    }
    c.split_tiles = ceil_div(row_tiles, splits);
    c.splits = c.split_tiles == 0 ? 1 : ceil_div(row_tiles, c.split_tiles);
    return c;
}

__device__ inline uint32_t live_queries(const sweep &s) {
    if (s.queries_left == nullptr) return s.query_count;
    uint32_t left = *s.queries_left;
    return left < s.query_count ? left : s.query_count;
}

/* ---- products ----------------------------------------------------------------------------- */

template <peri_coarse_type TYPE> struct sum_type { using type = int; };
template <> struct sum_type<PERI_COARSE_F16> { using type = float; };
template <> struct sum_type<PERI_COARSE_BF16> { using type = float; };
template <> struct sum_type<PERI_COARSE_TF32> { using type = float; };

#define MMA_FLOAT(shape)                                                                           \
    asm volatile("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "       \
                 "{%0, %1, %2, %3};"                                                               \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define MMA_WHOLE(shape)                                                                           \
    asm volatile("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "       \
                 "{%0, %1, %2, %3};"                                                               \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

template <peri_coarse_type TYPE>
__device__ inline void multiply(float *d, const uint32_t *a, const uint32_t *b) {
    if (TYPE == PERI_COARSE_F16)
        MMA_FLOAT("m16n8k16.row.col.f32.f16.f16.f32");
    else if (TYPE == PERI_COARSE_TF32) /* four bytes are an element where they were two */
        MMA_FLOAT("m16n8k8.row.col.f32.tf32.tf32.f32");
    else
        MMA_FLOAT("m16n8k16.row.col.f32.bf16.bf16.f32");
}
template <peri_coarse_type TYPE>
__device__ inline void multiply(int *d, const uint32_t *a, const uint32_t *b) {
    if (TYPE == PERI_COARSE_S8)
        MMA_WHOLE("m16n8k32.row.col.s32.s8.s8.s32");
    else
        MMA_WHOLE("m16n8k32.row.col.s32.u8.u8.s32");
}

/* Four 8 x 16-byte matrices; lanes 0-7 give the addresses of the rows of the first, and so on. */
__device__ inline void load_matrices(uint32_t *r, uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

__device__ inline uint32_t chunk_offset(unsigned row, unsigned chunk) {
    return row * SLICE + ((chunk ^ (row & 7)) * CHUNK);
}

/* One slice of both sides; sums of a warp's 64 x 64. */
template <peri_coarse_type TYPE, typename S>
__device__ inline void multiply_slice(S sums[4][8][4], uint32_t queries, uint32_t rows) {
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    const unsigned query = warp / 2 * PART + lane % 16, query_chunk = lane / 16;
    const unsigned row = warp % 2 * PART + lane % 8 + lane / 16 * 8, row_chunk = lane / 8 % 2;
#pragma unroll
    for (unsigned step = 0; step < SLICE / STEP; step++) {
        uint32_t a[4][4], b[4][4];
#pragma unroll
        for (unsigned m = 0; m < 4; m++)
            load_matrices(a[m], queries + chunk_offset(query + m * 16, step * 2 + query_chunk));
#pragma unroll
        for (unsigned n = 0; n < 4; n++)
            load_matrices(b[n], rows + chunk_offset(row + n * 16, step * 2 + row_chunk));
#pragma unroll
        for (unsigned m = 0; m < 4; m++)
#pragma unroll
            for (unsigned n = 0; n < 8; n++) multiply<TYPE>(sums[m][n], a[m], b[n / 2] + n % 2 * 2);
    }
}

/* ---- copies ------------------------------------------------------------------------------- */

/* 16 bytes, of which the first `bytes` are read and the rest is 0. */
__device__ inline void copy_chunk(uint32_t to, const char *from, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

/* Rows base .. base + 127 of `data`, the slice at byte `at` of each, of which `row_bytes` exist. */
__device__ inline void copy_slice(uint32_t to, const char *data, size_t stride, uint32_t base,
                                  uint32_t count, uint32_t at, uint32_t row_bytes) {
    const unsigned chunk = threadIdx.x % (SLICE / CHUNK), begin = at + chunk * CHUNK;
    const unsigned there = begin >= row_bytes          ? 0
                           : row_bytes - begin < CHUNK ? row_bytes - begin
                                                       : CHUNK;
    const unsigned row = threadIdx.x / (SLICE / CHUNK);
    const char *from = data + (size_t)(base + row) * stride + begin;
    to += chunk_offset(row, chunk);
#pragma unroll
    for (unsigned i = 0; i < TILE / COPY_ROWS; i++) {
        const unsigned bytes = base + row + i * COPY_ROWS < count ? there : 0;
        copy_chunk(to + i * COPY_ROWS * SLICE, bytes > 0 ? from : data, bytes);
        from += COPY_ROWS * stride;
    }
}

/* A thread's term: of `row`, 0 where there is none. */
__device__ inline void copy_term(uint32_t to, const sweep &s, uint32_t row) {
    const unsigned bytes = s.terms != nullptr && row < s.row_count ? sizeof(float) : 0;
    const void *from = bytes > 0 ? (const void *)(s.terms + row) : (const void *)s.queries;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                     to + threadIdx.x * (unsigned)sizeof(float)),
                 "l"(from), "r"(bytes));
}

__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;"); }
template <unsigned PENDING> __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
}

/* ---- selection ---------------------------------------------------------------------------- */

/* A block's view of its queries' selections. */
struct selections {
    uint64_t *bounds; /* [TILE] shared */
    unsigned *counts; /* [TILE] shared: keys in the buffer */
    uint64_t *buffer; /* [TILE, capacity] */
    size_t room;      /* names that a query may collect */
};

__device__ inline bool passes(const sweep &s, uint32_t query, uint32_t name) {
    if (s.filter.count == 0) return true;
    uint32_t which = s.filter.which == nullptr ? 0 : s.filter.which[query];
    return s.filter.bits[which][name / 64] >> (name % 64) & 1;
}

__device__ inline void append(const sweep &s, const selections &to, uint32_t tile, unsigned local,
                              uint32_t row, float value) {
    if (row >= s.row_count || tile + local >= s.query_count) return;
    uint32_t name = s.names == nullptr ? s.first + row : s.names[row];
    uint64_t key = peri_key(value != value ? __int_as_float(0x7F800000) : value, name);
    if (key >= to.bounds[local] || !passes(s, tile + local, name)) return;
    if (s.reach.names != nullptr) {
        if (!peri_reach_add(s.reach, to.room, tile + local, name)) to.bounds[local] = NO_BOUND;
        return;
    }
    to.buffer[(size_t)local * s.capacity + atomicAdd(&to.counts[local], 1u)] = key;
}

/* Values of a lane that passed, until they are appended: in local memory, where an index may be
 * computed. */
struct queue {
    float values[QUEUE];
    unsigned places[QUEUE]; /* 256 * (8 queries further) + rows further */
    unsigned count;
};

__device__ inline void drain(const sweep &s, const selections &to, queue *q, uint32_t tile,
                             unsigned local, uint32_t column) {
    for (; q->count > 0; q->count--) {
        const unsigned place = q->places[q->count - 1];
        append(s, to, tile, local + place / 256 * 8, column + place % 256, q->values[q->count - 1]);
    }
}

/* A warp's sums: all are compared with the bounds of their queries, what passes is appended. Hits
 * are rare but for the first tiles; they are queued, since what it takes to append one would
 * otherwise stand behind each group of sums. NaN fails no comparison, so that it counts as +inf. */
template <typename S>
__device__ inline void choose(const sweep &s, const selections &to, const S sums[4][8][4],
                              const float *row_terms, uint32_t tile, uint32_t base) {
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    const unsigned side = warp % 2 * PART + lane % 4 * 2;
    const unsigned local = warp / 2 * PART + lane / 4;
    queue found;
    float terms[8][2];
    found.count = 0;
#pragma unroll
    for (unsigned n = 0; n < 8; n++) {
        const float2 pair = *reinterpret_cast<const float2 *>(row_terms + side + n * 8);
        terms[n][0] = pair.x;
        terms[n][1] = pair.y;
    }
#pragma unroll
    for (unsigned group = 0; group < 8; group++) {
        const unsigned m = group / 2, half = group % 2 * 2;
        const float bound = peri_key_value(to.bounds[local + group * 8]);
        bool near = false;
#pragma unroll
        for (unsigned i = 0; i < 16; i++)
            near |= !(__fmaf_rn(s.scale, (float)sums[m][i / 2][half + i % 2], terms[i / 2][i % 2]) >
                      bound);
        if (!near) continue;
#pragma unroll
        for (unsigned i = 0; i < 16; i++) {
            const float value = __fmaf_rn(s.scale, (float)sums[m][i / 2][half + i % 2],
                                          terms[i / 2][i % 2]);
            if (!(value > bound)) {
                found.values[found.count] = value;
                found.places[found.count++] = group * 256 + i / 2 * 8 + i % 2;
            }
        }
        if (found.count > QUEUE - 16) drain(s, to, &found, tile, local, base + side);
    }
    drain(s, to, &found, tile, local, base + side);
}

/* Keeps the least `wanted` of one query's buffer, when there are more; by one warp. */
__device__ inline void keep(const sweep &s, const selections &to, unsigned local) {
    const unsigned count = to.counts[local];
    __syncwarp();
    if (count <= s.wanted) return;
    uint64_t *buffer = to.buffer + (size_t)local * s.capacity, bound;
    if (s.capacity == 256)
        bound = peri_warp_keep<8>(buffer, count, s.wanted);
    else if (s.capacity == 512)
        bound = peri_warp_keep<16>(buffer, count, s.wanted);
    else
        bound = peri_warp_keep<32>(buffer, count, s.wanted);
    if (threadIdx.x % PERI_WARP == 0) {
        to.counts[local] = s.wanted;
        if (bound < to.bounds[local]) to.bounds[local] = bound;
    }
    __syncwarp();
}

/* A lane's bound is everybody's who takes the same query. */
__device__ inline void share_bound(const sweep &s, const selections &to, uint32_t tile,
                                   unsigned local) {
    unsigned long long *all = (unsigned long long *)&s.bounds[tile + local];
    const uint64_t before = atomicMin(all, (unsigned long long)to.bounds[local]);
    if (before < to.bounds[local]) to.bounds[local] = before;
}

/* After a tile: room for another one in each buffer. */
__device__ inline void settle(const sweep &s, const selections &to, uint32_t tile, bool share) {
    const unsigned lane = threadIdx.x % PERI_WARP, local = threadIdx.x;
    unsigned full = __ballot_sync(PERI_ALL_LANES, to.counts[local] > s.grown);
    const unsigned changed = full;
    while (full != 0) {
        keep(s, to, threadIdx.x - lane + __ffs(full) - 1);
        full &= full - 1;
    }
    if (share && (changed >> lane & 1u)) share_bound(s, to, tile, local);
}

/* All that a tile needs to collect what its queries reach. */
__device__ inline void begin_reach(const sweep &s, const selections &to, uint32_t tile,
                                   uint32_t live) {
    const uint32_t query = tile + threadIdx.x;
    const uint64_t bound = query < live ? s.reach.bounds[query] : 0;
    to.bounds[threadIdx.x] = bound == 0 ? NO_BOUND : bound;
    to.counts[threadIdx.x] = 0;
}

/* The selections of a tile begin: with the keys of earlier calls when the rows are not split. A
 * query that is not there has a bound that only -inf does not pass. */
__device__ inline void begin(const sweep &s, const selections &to, uint32_t tile, uint32_t live,
                             bool split) {
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    for (unsigned i = 0; i < PERI_WARP; i++) {
        const unsigned local = warp * PERI_WARP + i;
        const uint32_t query = tile + local;
        unsigned count = 0;
        uint64_t bound = NO_BOUND;
        if (query < live) {
            const uint64_t *before = s.keys + (size_t)query * s.wanted;
            bound = before[s.wanted - 1];
            for (unsigned at = lane; !split && at < s.wanted; at += PERI_WARP) {
                uint64_t key = before[at];
                to.buffer[(size_t)local * s.capacity + at] = key;
                count += key != PERI_KEY_NONE;
            }
            count = __reduce_add_sync(PERI_ALL_LANES, count);
            if (split && s.bounds[query] < bound) bound = s.bounds[query];
        }
        if (lane == 0) {
            to.bounds[local] = bound;
            to.counts[local] = count;
        }
    }
}

/* The kept keys of a tile's queries: sorted into place, or as they are beside the other ranges'. */
__device__ inline void finish(const sweep &s, const selections &to, uint32_t tile, uint32_t live,
                              uint64_t *sorted, uint64_t *parts) {
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    unsigned room = PERI_WARP;
    while (room < s.wanted) room *= 2;
    for (unsigned i = 0; i < PERI_WARP; i++) {
        const unsigned local = warp * PERI_WARP + i;
        const uint32_t query = tile + local;
        if (query >= live) return;
        keep(s, to, local);
        if (parts != nullptr && lane == 0) share_bound(s, to, tile, local);
        const uint64_t *buffer = to.buffer + (size_t)local * s.capacity;
        const unsigned count = to.counts[local];
        if (parts != nullptr) {
            uint64_t *out = parts + (size_t)query * s.wanted;
            for (unsigned at = lane; at < s.wanted; at += PERI_WARP)
                out[at] = at < count ? buffer[at] : PERI_KEY_NONE;
            continue;
        }
        for (unsigned at = lane; at < room; at += PERI_WARP)
            sorted[at] = at < count ? buffer[at] : PERI_KEY_NONE;
        __syncwarp();
        peri_warp_sort(sorted, room);
        uint64_t *out = s.keys + (size_t)query * s.wanted;
        for (unsigned at = lane; at < s.wanted; at += PERI_WARP) out[at] = sorted[at];
        __syncwarp();
    }
}

/* ---- the sweep ---------------------------------------------------------------------------- */

/* An item: a tile of queries and a range of rows. */
struct item {
    uint32_t tile;                 /* first query */
    uint32_t first_row, row_tiles; /* of the range */
    uint32_t slices;
    bool resident; /* the queries' slices stay */
};

/* A step of an item's stream: a slice of a tile of rows, and where in the ring it goes. */
struct cursor {
    uint32_t tile, slice, slot;
};

__device__ inline void advance(cursor *at, uint32_t slices) {
    at->slot = at->slot + 1 == STAGES ? 0 : at->slot + 1;
    if (++at->slice < slices) return;
    at->slice = 0;
    at->tile++;
}

__device__ inline void fetch(const sweep &s, const item &it, uint32_t ring, cursor *at) {
    if (at->tile < it.row_tiles) {
        const uint32_t base = it.first_row + at->tile * TILE, begin = at->slice * SLICE;
        copy_slice(ring + (STAGES + at->slot) * SLICE_BYTES, s.rows, s.row_stride, base,
                   s.row_count, begin, s.row_bytes);
        if (at->slice == 0)
            copy_term(ring + RING_BYTES + at->tile % STAGES * TILE * (uint32_t)sizeof(float), s,
                      base + threadIdx.x);
        if (!it.resident || at->tile == 0)
            copy_slice(ring + (it.resident ? at->slice : at->slot) * SLICE_BYTES, s.queries,
                       s.depth_bytes, it.tile, s.query_count, begin, s.depth_bytes);
    }
    copies_commit(); /* an empty group keeps the count */
    advance(at, it.slices);
}

template <peri_coarse_type TYPE>
__device__ inline void sweep_item(const sweep &s, const item &it, uint32_t ring, const float *terms,
                                  const selections &to, bool split) {
    using S = typename sum_type<TYPE>::type;
    cursor ahead = { 0, 0, 0 };
    uint32_t slot = 0;
    for (unsigned i = 0; i < STAGES - 1; i++) fetch(s, it, ring, &ahead);
    for (uint32_t tile = 0; tile < it.row_tiles; tile++) {
        S sums[4][8][4];
#pragma unroll
        for (unsigned i = 0; i < 4 * 8 * 4; i++) sums[i / 32][i / 4 % 8][i % 4] = 0;
        for (uint32_t slice = 0; slice < it.slices; slice++) {
            copies_wait<STAGES - 2>();
            __syncthreads(); /* the slice is everybody's, and the one before it is read */
            fetch(s, it, ring, &ahead);
            multiply_slice<TYPE>(sums, ring + (it.resident ? slice : slot) * SLICE_BYTES,
                                 ring + (STAGES + slot) * SLICE_BYTES);
            slot = slot + 1 == STAGES ? 0 : slot + 1;
        }
        choose(s, to, sums, terms + tile % STAGES * TILE, it.tile, it.first_row + tile * TILE);
        __syncthreads();
        settle(s, to, it.tile, split);
    }
    copies_wait<0>();
    __syncthreads();
}

template <peri_coarse_type TYPE>
__global__ void __launch_bounds__(THREADS, BLOCKS_A_UNIT) sweep_kernel(const sweep s) {
    extern __shared__ __align__(1024) char shared[];
    const uint32_t ring = (uint32_t)__cvta_generic_to_shared(shared);
    const uint32_t live = live_queries(s);
    const cut c = make_cut(live, s.row_count, s.splits, s.units);
    selections to;
    const float *terms = (const float *)(shared + RING_BYTES);
    to.bounds = (uint64_t *)(shared + RING_BYTES + TERMS_BYTES);
    to.counts = (unsigned *)(to.bounds + TILE);
    to.buffer = s.buffers + (size_t)blockIdx.x * TILE * s.capacity;
    to.room = live == 0 ? 0 : s.reach.entries / live;
    for (uint32_t i = blockIdx.x; i < c.tiles * c.splits; i += gridDim.x) {
        const uint32_t split = i / c.tiles;
        const uint32_t row_tiles = ceil_div(s.row_count, TILE), first = split * c.split_tiles;
        item it;
        it.tile = i % c.tiles * TILE;
        it.first_row = first * TILE;
        it.row_tiles = row_tiles - first < c.split_tiles ? row_tiles - first : c.split_tiles;
        it.slices = s.depth_bytes / SLICE;
        it.resident = it.slices <= STAGES;
        if (s.reach.names == nullptr)
            begin(s, to, it.tile, live, c.splits > 1);
        else
            begin_reach(s, to, it.tile, live);
        __syncthreads();
        sweep_item<TYPE>(s, it, ring, terms, to, c.splits > 1);
        if (s.reach.names != nullptr) continue;
        const unsigned warp = threadIdx.x / PERI_WARP;
        finish(s, to, it.tile, live, (uint64_t *)(shared + warp * (RING_BYTES / WARPS)),
               c.splits > 1 ? s.parts + (size_t)split * c.tiles * TILE * s.wanted : nullptr);
        __syncthreads();
    }
}

/* The keys of all ranges and those of earlier calls, for a query each block. */
__global__ void __launch_bounds__(MERGE_THREADS) merge_kernel(const sweep s, unsigned capacity) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_select select;
    const uint32_t live = live_queries(s);
    const cut c = make_cut(live, s.row_count, s.splits, s.units);
    if (c.splits == 1) return; /* they are in place */
    const size_t part = (size_t)c.tiles * TILE * s.wanted;
    for (uint32_t query = blockIdx.x; query < live; query += gridDim.x) {
        uint64_t *keys = s.keys + (size_t)query * s.wanted;
        peri_select_begin(&select, shared_keys, capacity, s.wanted);
        __syncthreads();
        for (uint32_t at = 0; at < (c.splits + 1) * s.wanted; at += MERGE_THREADS) {
            const uint32_t mine = at + threadIdx.x, from = mine / s.wanted;
            if (from < c.splits)
                peri_select_push(&select,
                                 s.parts[from * part + (size_t)query * s.wanted + mine % s.wanted]);
            else if (from == c.splits)
                peri_select_push(&select, keys[mine % s.wanted]);
            peri_select_round(&select, MERGE_THREADS, false);
        }
        __syncthreads();
        peri_select_flush(&select, false);
        for (unsigned i = threadIdx.x; i < s.wanted; i += MERGE_THREADS) keys[i] = select.keys[i];
        __syncthreads();
    }
}

/* ---- the launch --------------------------------------------------------------------------- */

struct plan {
    uint32_t splits, units, blocks, capacity;
    size_t buffers, bounds, parts; /* bytes */
};

size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

/* The splits that leave the least of the last round of blocks idle. */
uint32_t best_splits(uint32_t tiles, uint32_t row_tiles, uint32_t units, uint32_t items_max) {
    uint32_t best = 1, most = row_tiles / SPLIT_TILES_MIN;
    double best_share = 0;
    for (uint32_t splits = 1; splits <= (most > 0 ? most : 1); splits++) {
        uint32_t items = tiles * splits;
        if (splits > 1 && items > items_max) break;
        double share = (double)items / ((double)ceil_div(items, units) * units);
        if (share > best_share + 0.02) best = splits, best_share = share;
    }
    return best;
}

plan make_plan(const peri_device *device, const peri_coarse *coarse) {
    plan p;
    const uint32_t tiles = ceil_div((uint32_t)coarse->query_count, TILE);
    const uint32_t row_tiles = ceil_div((uint32_t)coarse->row_count, TILE);
    const size_t item = (size_t)TILE * coarse->wanted * sizeof(uint64_t);
    p.units = (uint32_t)peri_cuda_of(device)->multiprocessors * BLOCKS_A_UNIT;
    p.capacity = coarse->wanted <= 64 ? 256 : coarse->wanted <= 256 ? 512 : 1024;
    const uint32_t items_max = PARTS_BYTES / item > p.units ? (uint32_t)(PARTS_BYTES / item)
                                                            : p.units;
    p.splits = coarse->queries_left != nullptr ? 0
                                               : best_splits(tiles, row_tiles, p.units, items_max);
    const uint32_t items = p.splits == 0 ? p.units : tiles * p.splits;
    p.blocks = items < p.units ? items : p.units;
    p.buffers = rounded((size_t)p.blocks * TILE * p.capacity * sizeof(uint64_t));
    p.bounds = p.splits == 1 ? 0 : rounded((size_t)tiles * TILE * sizeof(uint64_t));
    p.parts = p.splits == 1 ? 0 : rounded((size_t)items * item);
    if (coarse->reach.names != nullptr) p.buffers = p.bounds = p.parts = 0;
    return p;
}

template <peri_coarse_type TYPE> cudaError_t launch(peri_stream *stream, const sweep &s, plan p) {
    cudaError_t error = cudaFuncSetAttribute(
        sweep_kernel<TYPE>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES);
    if (error == cudaSuccess)
        sweep_kernel<TYPE><<<p.blocks, THREADS, SHARED_BYTES, peri_cuda_handle(stream)>>>(s);
    return error;
}

} /* namespace */

size_t peri_coarse_mma_scratch(const peri_device *device, const peri_coarse *coarse) {
    if (coarse->query_count == 0 || coarse->row_count == 0) return 0;
    plan p = make_plan(device, coarse);
    return p.buffers + p.bounds + p.parts;
}

peri_status peri_coarse_mma_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                                size_t scratch_bytes) {
    if (coarse->query_count == 0 || coarse->row_count == 0) return PERI_OK;
    const plan p = make_plan(stream->device, coarse);
    const uint32_t bytes = (uint32_t)peri_coarse_type_bytes(coarse->type);
    if (scratch_bytes < p.buffers + p.bounds + p.parts)
        return stream->device->host->fail(PERI_E_ARGUMENT,
                                          "coarse: %zu bytes of scratch, %zu needed", scratch_bytes,
                                          p.buffers + p.bounds + p.parts);
    sweep s = {};
    s.queries = (const char *)coarse->queries;
    s.rows = (const char *)coarse->rows;
    s.depth_bytes = coarse->depth * bytes;
    s.row_stride = coarse->row_stride_bytes != 0 ? coarse->row_stride_bytes : s.depth_bytes;
    s.row_bytes = (coarse->columns != 0 ? coarse->columns : coarse->depth) * bytes;
    s.query_count = (uint32_t)coarse->query_count;
    s.row_count = (uint32_t)coarse->row_count;
    s.queries_left = coarse->queries_left;
    s.terms = coarse->terms;
    s.scale = coarse->scale;
    s.first = coarse->first;
    s.names = coarse->names;
    s.filter = coarse->filter;
    s.wanted = coarse->wanted;
    s.capacity = p.capacity;
    s.grown = s.wanted + GROWTH < p.capacity - TILE ? s.wanted + GROWTH : p.capacity - TILE;
    s.splits = p.splits;
    s.units = p.units;
    s.keys = coarse->keys;
    s.reach = coarse->reach;
    s.buffers = (uint64_t *)scratch;
    s.bounds = (uint64_t *)((char *)scratch + p.buffers);
    s.parts = (uint64_t *)((char *)scratch + p.buffers + p.bounds);
    if (p.bounds > 0)
        CU_TRY(stream->device, cudaMemsetAsync(s.bounds, 0xFF, p.bounds, peri_cuda_handle(stream)));
    cudaError_t error = cudaSuccess;
    switch (coarse->type) {
    case PERI_COARSE_F16: error = launch<PERI_COARSE_F16>(stream, s, p); break;
    case PERI_COARSE_BF16: error = launch<PERI_COARSE_BF16>(stream, s, p); break;
    case PERI_COARSE_TF32: error = launch<PERI_COARSE_TF32>(stream, s, p); break;
    case PERI_COARSE_S8: error = launch<PERI_COARSE_S8>(stream, s, p); break;
    case PERI_COARSE_U8: error = launch<PERI_COARSE_U8>(stream, s, p); break;
    }
    CU_TRY(stream->device, error);
    if (p.splits != 1 && coarse->reach.names == nullptr) {
        unsigned capacity = peri_select_capacity(s.wanted, MERGE_THREADS);
        unsigned blocks = peri_blocks(s.query_count, 1);
        if (blocks > p.units * 8) blocks = p.units * 8;
        merge_kernel<<<blocks, MERGE_THREADS, 2 * capacity * sizeof(uint64_t),
                       peri_cuda_handle(stream)>>>(s, capacity);
    }
    return peri_cuda_launched(stream);
}
