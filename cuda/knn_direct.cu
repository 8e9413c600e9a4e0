/* knn_direct: the k nearest rows of each query by reading all rows, canonical distances.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | lengths [n] (cosine) | ids, distances [q, k]
 * Scan: a block of 8 warps takes a tile of 1 to 16 queries and every `splits`-th unit of the rows
 * (2048 of them at most). Its warps form `groups` that share the queries: a warp takes 16 rows
 * against its QUERIES (1 or 4), with the loads and the fold of pieces.cuh; the groups read the same
 * rows at about the same time, so that all but one find them in L1. A unit of filtered rows is
 * first compacted in shared memory to those that any query of the tile may return: the others are
 * not read. Each query has a pool in shared memory that the block's warps append to together: a
 * value is compared with the k-th best so far, and few pass. A round is as many steps of 128 /
 * groups rows as the pools have room for if every row passed, so that there is a barrier only
 * every few steps; a pool that has grown is cut down to its k best between rounds, by one warp.
 * With lists a block takes one query, and the rows that its list names.
 * Merge: a block a query takes the splits' lists, which are sorted, rank by rank, until a rank
 * brings nothing.
 *
 * Bound by memory up to some 12 queries of f32: n * d * bytes once for a tile; from there by the
 * two instructions an element and query (17 us a query and 1M x 128 on an H200; 35 when there are
 * thousands). Several tiles read the same rows together from L2. The queries' number may be known
 * on the device alone, so the kernels cut the work themselves. */
#include "knn_direct.cuh"

#include "device.cuh"
#include "pieces.cuh"
#include "pools.cuh"
#include "support.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned ROWS = 4; /* of a group of lanes, at a time */
constexpr unsigned WARP_ROWS = ROWS * PERI_GROUPS;
constexpr unsigned UNIT = 2048; /* rows, at most: a thread takes 8 bits of a filter */
constexpr unsigned UNIT_STEP = WARPS * WARP_ROWS;
constexpr unsigned TILE_MAX = 16;
constexpr size_t POOLS_BYTES_MAX = (size_t)64 << 10; /* of a block */
constexpr size_t SHARED_UNASKED = (size_t)40 << 10;  /* beside the static part */
constexpr size_t SCRATCH_MAX = (size_t)64 << 20;
constexpr size_t EVEN_MAX = (size_t)16 << 20; /* of it, for splits that fill the last round */
constexpr unsigned BLOCKS[2] = { 2, 2 }; /* a multiprocessor's, for one query and for several */

/* Pieces of a row that are loaded together: 4 of them are all of 128 elements. Several queries need
 * the registers. */
__host__ __device__ constexpr unsigned ahead(unsigned queries) { return queries > 1 ? 2 : 4; }

/* How the rows and queries are cut. */
struct cut {
    uint32_t live, tiles, splits, unit;
    size_t units;
};

struct scan {
    const void *queries, *rows;
    size_t query_stride, row_stride, row_count;
    const float *lengths;
    peri_filter_view filter;
    peri_metric metric;
    uint32_t dim;
    uint32_t first, query_count; /* of the chunk */
    const uint32_t *queries_left, *which_queries;
    peri_knn_rows lists; /* with these a block's tile is one query */
    peri_pool_limits limits;
    bool wide; /* rows and queries are aligned to pieces; several queries a warp want it */
    unsigned groups;
    unsigned tile;   /* queries a block */
    unsigned blocks; /* that run at once */
    size_t items;    /* tiles times splits that there is room for, or one split of each tile */
    uint64_t *keys;  /* [splits, tiles * tile, k] */
    int64_t *ids;
    float *distances;
    cut whole; /* for all queries of the chunk */
};

__host__ __device__ inline size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* The rows that a query may have to read. */
__device__ inline size_t rows_most(const scan &s) {
    if (s.lists.names == nullptr) return s.row_count;
    const size_t left = *s.queries_left, room = left == 0 ? 0 : s.lists.entries / left;
    return room < s.row_count ? room : s.row_count;
}

/* Into how many parts the rows go: as many as there are blocks for, and some more where the last
 * round of blocks would be short: with 300 tiles for 264 blocks, nearly half of all. */
__host__ __device__ inline size_t splits_for(const scan &s, size_t tiles) {
    constexpr size_t TRIED = 8;
    size_t best = s.blocks / tiles, share = 0;
    if (best == 0) best = 1;
    if (s.lists.names != nullptr) return best;
    for (size_t splits = best, most = best + TRIED; splits < most; splits++) {
        const size_t items = tiles * splits, rounds = ceil_div(items, s.blocks);
        const size_t now = 1024 * items / (rounds * s.blocks);
        if (items > s.items && share > 0) break;
        if (now > share + share / 32) {
            best = splits;
            share = now;
        }
    }
    return best;
}

/* Units as equal as the rows allow, so that the last round of them is full. */
__host__ __device__ inline cut cut_for(const scan &s, uint32_t live, size_t rows) {
    cut c;
    c.live = live;
    c.tiles = (uint32_t)ceil_div(live, s.tile);
    size_t splits = c.tiles == 0 ? 1 : splits_for(s, c.tiles);
    size_t rounds = ceil_div(rows, splits * UNIT);
    size_t unit = rounds == 0 ? UNIT_STEP : ceil_div(rows, splits * rounds);
    c.unit = (uint32_t)(ceil_div(unit, UNIT_STEP) * UNIT_STEP);
    c.units = ceil_div(rows, c.unit);
    if (splits > c.units) splits = c.units == 0 ? 1 : c.units;
    c.splits = (uint32_t)splits;
    return c;
}

/* The host's, since divisions take a microsecond here, or for the queries that are left. */
__device__ inline cut make_cut(const scan &s) {
    if (s.queries_left == nullptr) return s.whole;
    uint32_t left = *s.queries_left;
    left = left > s.first ? left - s.first : 0;
    return cut_for(s, left < s.query_count ? left : s.query_count, rows_most(s));
}

__device__ inline size_t query_of(const scan &s, uint32_t place) {
    return s.which_queries == nullptr ? s.first + place : s.which_queries[s.first + place];
}

__device__ inline const uint64_t *bits_of(const scan &s, size_t query) {
    if (s.filter.count == 0) return nullptr;
    return s.filter.bits[s.filter.which == nullptr ? 0 : s.filter.which[query]];
}

/* What a block keeps of its tile. */
struct tile_state {
    peri_pool pools[TILE_MAX];
    const void *queries[TILE_MAX]; /* rows of them */
    const uint64_t *bits[TILE_MAX];
    float lengths[TILE_MAX];
    const uint32_t *names; /* of the rows, or NULL: all of them */
    size_t row_count;
    unsigned warp_counts[WARPS];
    uint16_t passing[UNIT]; /* rows of the unit that some query may return */
};

/* By one thread: the rows of a tile, none where a query's list is not complete. */
__device__ inline void begin_rows(const scan &s, uint32_t tile, tile_state *t) {
    t->names = nullptr;
    t->row_count = s.row_count;
    if (s.lists.names == nullptr) return;
    const size_t place = s.first + tile, room = s.lists.entries / *s.queries_left;
    t->names = s.lists.names + place * room;
    t->row_count = s.lists.counts[place] <= room ? s.lists.counts[place] : 0;
}

template <typename T, bool LISTS>
__device__ inline void begin_tile(const scan &s, const cut &c, uint32_t tile, tile_state *t,
                                  uint64_t *keys) {
    using Query = typename peri_row_types<T>::query;
    const unsigned warp = threadIdx.x / PERI_WARP, lane = threadIdx.x % PERI_WARP;
    for (unsigned q = warp; q < s.tile; q += WARPS) {
        /* the last tile repeats its last query and writes it once */
        uint32_t place = tile * s.tile + q < c.live ? tile * s.tile + q : c.live - 1;
        size_t query = query_of(s, place);
        const Query *data = peri_row<Query>(s.queries, s.query_stride, query);
        float length = s.metric == PERI_COSINE ? peri_warp_length(data, s.dim) : 0.0f;
        if (lane == 0) {
            t->queries[q] = data;
            t->bits[q] = bits_of(s, query);
            t->lengths[q] = length;
            t->pools[q] = peri_pool{ keys + (size_t)q * s.limits.capacity, PERI_KEY_NONE, 0 };
        }
    }
    if (LISTS && threadIdx.x == 0) begin_rows(s, tile, t);
    __syncthreads();
}

/* The rows of a unit that pass for some query of the tile, ascending; how many. */
__device__ inline unsigned compact(const scan &s, size_t base, size_t stop, tile_state *t) {
    const unsigned warp = threadIdx.x / PERI_WARP, lane = threadIdx.x % PERI_WARP;
    const size_t row = base + 8 * threadIdx.x;
    unsigned bits = 0;
    if (row < stop) {
        const unsigned filters = s.filter.which == nullptr ? 1 : s.tile;
        for (unsigned q = 0; q < filters; q++)
            bits |= reinterpret_cast<const uint8_t *>(t->bits[q])[row / 8];
        if (stop - row < 8) bits &= (1u << (stop - row)) - 1;
    }
    unsigned before = __popc(bits);
    for (unsigned step = 1; step < PERI_WARP; step *= 2) {
        unsigned other = __shfl_up_sync(PERI_ALL_LANES, before, step);
        if (lane >= step) before += other;
    }
    if (lane == PERI_WARP - 1) t->warp_counts[warp] = before;
    before -= __popc(bits);
    __syncthreads();
    unsigned total = 0;
    for (unsigned w = 0; w < WARPS; w++) {
        if (w == warp) before += total;
        total += t->warp_counts[w];
    }
    for (; bits != 0; bits &= bits - 1)
        t->passing[before++] = (uint16_t)(8 * threadIdx.x + __ffs(bits) - 1);
    __syncthreads();
    return total;
}

/* The row that is an item of a unit. A warp with several queries has no lists, nor registers for
 * them. */
template <unsigned QUERIES>
__device__ inline size_t row_of(const scan &s, const tile_state *t, size_t base, unsigned item,
                                bool filtered) {
    if (QUERIES == 1 && s.lists.names != nullptr) return t->names[base + item];
    return base + (filtered ? t->passing[item] : item);
}

/* 16 rows of a warp against its queries: item `at` of the unit and those after it. */
template <typename T, int SUM, unsigned QUERIES>
__device__ inline void scan_rows(const scan &s, tile_state *t, unsigned query, unsigned live,
                                 size_t base, unsigned at, unsigned count) {
    constexpr unsigned COUNT = QUERIES * ROWS;
    const unsigned lane = threadIdx.x % PERI_WARP;
    const unsigned mine = at + lane / PERI_GROUP * ROWS;
    const bool filtered = s.filter.count > 0;
    const T *rows[ROWS];
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) {
        const unsigned item = mine + r < count ? mine + r : at; /* read twice, pushed once */
        rows[r] = peri_row<T>(s.rows, s.row_stride, row_of<QUERIES>(s, t, base, item, filtered));
    }
    float values[peri_folded(COUNT)];
    if (QUERIES > 1 || s.wide)
        peri_piece_sums<T, SUM, QUERIES, ROWS, ahead(QUERIES)>(t->queries + query, rows, s.dim,
                                                               values);
    else
        peri_narrow_sums<T, SUM, ROWS>(t->queries[query], rows, s.dim, values);
    if (!peri_fold_owner<COUNT>(lane)) return;
    const unsigned first = peri_fold_first<COUNT>(lane % PERI_GROUP);
#pragma unroll
    for (unsigned i = 0; i < peri_folded(COUNT); i++) {
        const unsigned q = query + (first + i) / ROWS, r = (first + i) % ROWS;
        if (q >= live || mine + r >= count) continue;
        const size_t row = row_of<QUERIES>(s, t, base, mine + r, filtered);
        const float length = s.metric == PERI_COSINE ? s.lengths[row] : 0.0f;
        const uint64_t key = peri_key(peri_inside(s.metric, values[i], t->lengths[q], length),
                                      (uint32_t)row);
        if (key >= t->pools[q].bound) continue;
        if (s.filter.which != nullptr && !(t->bits[q][row / 64] >> (row % 64) & 1)) continue;
        peri_pool_push(&t->pools[q], key);
    }
}

/* `steps` are those of the next round, kept from unit to unit. */
template <typename T, int SUM, unsigned QUERIES>
__device__ inline void scan_unit(const scan &s, tile_state *t, unsigned live, size_t base,
                                 size_t stop, unsigned *steps) {
    const unsigned warp = threadIdx.x / PERI_WARP;
    const unsigned group_warps = WARPS / s.groups, step = group_warps * WARP_ROWS;
    const unsigned query = warp / group_warps * QUERIES;
    const unsigned count = s.filter.count > 0 ? compact(s, base, stop, t) : (unsigned)(stop - base);
    for (unsigned begin = 0; begin < count;) {
        const bool first = *steps == 0;
        const unsigned end = begin + (first ? 1 : *steps) * step;
        for (unsigned at = begin + warp % group_warps * WARP_ROWS; at < end && at < count;
             at += step)
            if (query < live) scan_rows<T, SUM, QUERIES>(s, t, query, live, base, at, count);
        begin = end;
        *steps = peri_pools_settle(t->pools, live, s.limits, step, first);
    }
}

template <typename T, int SUM, unsigned QUERIES>
__global__ void __launch_bounds__(THREADS, BLOCKS[QUERIES > 1]) scan_kernel(const scan s) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ tile_state t;
    const cut c = make_cut(s);
    for (uint32_t i = blockIdx.x; i < c.tiles * c.splits; i += gridDim.x) {
        const uint32_t tile = i % c.tiles, split = i / c.tiles;
        const unsigned left = c.live - tile * s.tile, live = left < s.tile ? left : s.tile;
        unsigned steps = 0;
        begin_tile<T, QUERIES == 1>(s, c, tile, &t, shared_keys);
        for (size_t unit = split; unit < c.units; unit += c.splits) {
            const size_t base = unit * c.unit;
            const size_t row_count = QUERIES == 1 ? t.row_count : s.row_count;
            if (QUERIES == 1 && base >= row_count) break;
            const size_t stop = base + c.unit < row_count ? base + c.unit : row_count;
            scan_unit<T, SUM, QUERIES>(s, &t, live, base, stop, &steps);
        }
        peri_pools_write(t.pools, live, s.limits,
                         s.keys + ((size_t)split * c.tiles + tile) * s.tile * s.limits.k);
    }
}

/* Whether a query's list was not complete: then the block says so, once. */
__device__ inline bool is_left(const scan &s, uint32_t place) {
    if (s.lists.names == nullptr ||
        s.lists.counts[s.first + place] <= s.lists.entries / *s.queries_left)
        return false;
    if (threadIdx.x != 0) return true;
    s.lists.which[atomicAdd(s.lists.left, 1u)] = (uint32_t)query_of(s, place);
    if (s.lists.all != nullptr) atomicAdd(s.lists.all, 1u);
    return true;
}

/* T: of the rows, to tell the sign of a zero where only the sum does: -0 and +0 are one key. */
template <typename T>
__global__ void __launch_bounds__(THREADS) merge_kernel(const scan s, unsigned capacity) {
    using Query = typename peri_row_types<T>::query;
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_pool best;
    const cut c = make_cut(s);
    const unsigned k = s.limits.k, lane = threadIdx.x % PERI_WARP;
    for (uint32_t place = blockIdx.x; place < c.live; place += gridDim.x) {
        if (is_left(s, place)) continue;
        const unsigned count = peri_pools_merge(&best, shared_keys, capacity,
                                                s.keys + (size_t)place * k,
                                                (size_t)c.tiles * s.tile * k, c.splits, k);
        const size_t query = query_of(s, place);
        for (unsigned i = threadIdx.x / PERI_WARP; i < k; i += WARPS) {
            const uint64_t key = i < count ? shared_keys[i] : PERI_KEY_NONE;
            float value = peri_pool_value(key);
            if (value == 0.0f && s.metric == PERI_INNER_PRODUCT)
                value = -peri_warp_sum<PERI_SUM_PRODUCTS>(
                    peri_row<Query>(s.queries, s.query_stride, query),
                    peri_row<T>(s.rows, s.row_stride, peri_key_slot(key)), s.dim);
            if (lane == 0) {
                s.ids[query * k + i] = peri_pool_id(key);
                s.distances[query * k + i] = value;
            }
        }
        __syncthreads(); /* the keys are read before the next query clears them */
    }
}

/* ---- the launch --------------------------------------------------------------------------- */

struct plan {
    bool wide;
    unsigned per_warp; /* queries: 1 or 4 */
    unsigned groups, tile, blocks;
    peri_pool_limits limits;
    size_t chunk, items, bytes;
};

/* One filter a query, and few rows pass each: queries read their own rows alone. */
bool few_pass(const peri_op_knn *op) {
    if (op->filter.which == nullptr || op->filter.count < 2 || op->filter.passing == nullptr)
        return false;
    for (uint32_t f = 0; f < op->filter.count; f++)
        if (op->filter.passing[f] > op->rows.rows / 8) return false;
    return true;
}

/* The largest tile whose pools fit, but none larger than the queries need. */
void choose_tile(plan *p, const peri_op_knn *op, bool listed) {
    const size_t want = listed || few_pass(op) ? 1 : op->queries.rows;
    p->per_warp = p->groups = 1;
    p->limits = peri_pool_limits_of(op->k, UNIT_STEP);
    for (unsigned per_warp = p->wide && want > 1 ? 4 : 1, groups = 1; groups <= WARPS;
         groups *= 2) {
        const peri_pool_limits limits = peri_pool_limits_of(op->k, UNIT_STEP / groups);
        const unsigned tile = per_warp * groups;
        if (tile > TILE_MAX || tile * limits.capacity * sizeof(uint64_t) > POOLS_BYTES_MAX) break;
        p->per_warp = per_warp;
        p->groups = groups;
        p->limits = limits;
        if (tile >= want) break;
    }
    p->tile = p->per_warp * p->groups;
}

plan make_plan(const peri_device *device, const peri_op_knn *op, bool listed) {
    plan p;
    const size_t queries = op->queries.rows;
    const size_t row_bytes = peri_cuda_dtype_bytes(op->rows.dtype);
    p.wide = peri_pieces_fit(&op->rows, row_bytes) &&
             peri_pieces_fit(&op->queries, peri_cuda_dtype_bytes(op->queries.dtype));
    choose_tile(&p, op, listed);
    p.blocks = (unsigned)peri_cuda_of(device)->multiprocessors * BLOCKS[p.per_warp > 1];
    const size_t one = op->k * sizeof(uint64_t);
    p.chunk = SCRATCH_MAX / one / p.tile * p.tile;
    if (p.chunk < p.tile) p.chunk = p.tile;
    if (p.chunk > queries) p.chunk = queries;
    const size_t tiles = ceil_div(p.chunk, p.tile);
    p.items = tiles > p.blocks ? tiles : p.blocks;
    const size_t room = EVEN_MAX / (p.tile * one);
    if (!listed && p.items < room) p.items = 8 * p.items < room ? 8 * p.items : room;
    const size_t splits = ceil_div(op->rows.rows, UNIT_STEP); /* at most, of so few rows */
    if (tiles * splits < p.items) p.items = splits == 0 ? tiles : tiles * splits;
    p.bytes = p.items * p.tile * one;
    return p;
}

struct launch {
    peri_stream *stream;
    const plan &p;
    const scan &s;
    peri_status *status;

    template <typename T, int SUM, unsigned QUERIES> cudaError_t begin(size_t bytes) {
        const auto kernel = scan_kernel<T, SUM, QUERIES>;
        if (bytes > SHARED_UNASKED) {
            cudaError_t error = cudaFuncSetAttribute(
                kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
            if (error != cudaSuccess) return error;
        }
        kernel<<<p.blocks, THREADS, bytes, peri_cuda_handle(stream)>>>(s);
        return cudaGetLastError();
    }

    template <typename T> cudaError_t merge() {
        const unsigned capacity = peri_pools_merge_capacity(s.limits.k, THREADS);
        const size_t bytes = sizeof(uint64_t) * capacity;
        const unsigned blocks = s.query_count < p.blocks * 2 ? s.query_count : p.blocks * 2;
        if (bytes > SHARED_UNASKED) {
            cudaError_t error = cudaFuncSetAttribute(
                merge_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
            if (error != cudaSuccess) return error;
        }
        merge_kernel<T><<<blocks, THREADS, bytes, peri_cuda_handle(stream)>>>(s, capacity);
        return cudaGetLastError();
    }

    template <typename T, int SUM> void go() {
        const size_t bytes = (size_t)p.tile * p.limits.capacity * sizeof(uint64_t);
        cudaError_t error;
        if (p.per_warp == 1)
            error = begin<T, SUM, 1>(bytes);
        else
            error = begin<T, SUM, 4>(bytes);
        if (error == cudaSuccess) error = merge<T>();
        if (error != cudaSuccess) *status = peri_cuda_failed(stream->device, error, "knn");
    }
};

} /* namespace */

size_t peri_knn_direct_scratch(const peri_device *device, const peri_op_knn *op) {
    if (op->queries.rows == 0) return 0;
    const size_t all = make_plan(device, op, false).bytes;
    const size_t listed = make_plan(device, op, true).bytes;
    return all > listed ? all : listed;
}

peri_status peri_knn_direct_run(peri_stream *stream, const peri_op_knn *op,
                                const uint32_t *queries_left, const uint32_t *which_queries,
                                const peri_knn_rows *lists, void *scratch, size_t scratch_bytes) {
    if (op->queries.rows == 0) return PERI_OK;
    const plan p = make_plan(stream->device, op, lists != nullptr);
    if (scratch_bytes < p.bytes)
        return stream->device->host->fail(PERI_E_ARGUMENT, "knn: %zu bytes of scratch, %zu needed",
                                          scratch_bytes, p.bytes);
    scan s = {};
    s.queries = op->queries.data;
    s.rows = op->rows.data;
    s.query_stride = op->queries.stride_bytes;
    s.row_stride = op->rows.stride_bytes;
    s.row_count = op->rows.rows;
    s.lengths = op->lengths;
    if (lists != nullptr)
        s.lists = *lists;
    else
        s.filter = op->filter;
    s.metric = op->metric;
    s.dim = (uint32_t)op->rows.cols;
    s.queries_left = queries_left;
    s.which_queries = which_queries;
    s.limits = p.limits;
    s.wide = p.wide;
    s.groups = p.groups;
    s.tile = p.tile;
    s.blocks = p.blocks;
    s.items = p.items;
    s.keys = static_cast<uint64_t *>(scratch);
    s.ids = op->ids;
    s.distances = op->distances;
    for (size_t first = 0; first < op->queries.rows; first += p.chunk) {
        const size_t left = op->queries.rows - first;
        s.first = (uint32_t)first;
        s.query_count = (uint32_t)(p.chunk < left ? p.chunk : left);
        s.whole = cut_for(s, s.query_count, s.row_count);
        peri_status status = PERI_OK;
        peri_dispatch_all(op->rows.dtype, op->metric, launch{ stream, p, s, &status });
        if (status == PERI_OK) status = peri_cuda_launched(stream);
        if (status != PERI_OK) return status;
    }
    return PERI_OK;
}
