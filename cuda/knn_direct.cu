/* knn_direct: the k nearest rows of each query by reading all rows, canonical distances.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | lengths [n] (cosine) | ids, distances [q, k]
 * Scan: a block of 8 warps takes a tile of 1 to 16 queries and every `splits`-th unit of the rows
 * (2048 of them at most). Its warps form `groups` that share the queries: a warp takes 16 rows
 * against its QUERIES (1 or 4), with the loads and the fold of pieces.cuh; the groups read the same
 * rows at about the same time, so that all but one find them in L1. A unit of filtered rows is
 * first compacted in shared memory to those that any query of the tile may return: the others are
 * not read. Each query keeps its k best in shared memory (select.cuh), the block's warps append to
 * it together; a sum is compared with the k-th best so far, and few pass. One barrier a round of
 * 128 / groups rows.
 * Merge: a block a query takes the splits' lists, which are sorted, rank by rank, until a rank
 * brings nothing.
 *
 * Bound by memory up to some 12 queries of f32: n * d * bytes once for a tile; from there by the
 * two instructions an element and query (17 us a query and 1M x 128 on an H200). Several tiles read
 * the same rows together from L2. The queries' number may be known on the device alone, so the
 * kernels cut the work themselves. */
#include "knn_direct.cuh"

#include "device.cuh"
#include "pieces.cuh"
#include "select.cuh"
#include "support.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned ROWS = 4; /* of a group of lanes, at a time */
constexpr unsigned WARP_ROWS = ROWS * PERI_GROUPS;
constexpr unsigned UNIT = 2048; /* rows, at most: a thread takes 8 bits of a filter */
constexpr unsigned UNIT_STEP = WARPS * WARP_ROWS;
constexpr unsigned TILE_MAX = 16;
constexpr unsigned CAPACITY_MIN = 64;
constexpr unsigned MERGE_CAPACITY_MIN = 512; /* twice the threads */
constexpr size_t SELECT_BYTES_MAX = (size_t)64 << 10; /* of a block */
constexpr size_t SCRATCH_MAX = (size_t)64 << 20;
#ifndef DIRECT_AHEAD
#define DIRECT_AHEAD 2
#define DIRECT_BLOCKS 3
#endif
/* Pieces of a row in flight, and blocks a multiprocessor, for tiles of one query and of several. */
constexpr unsigned AHEAD[2] = { DIRECT_AHEAD, 2 };
constexpr unsigned BLOCKS[2] = { DIRECT_BLOCKS, 2 };

struct scan {
    const void *queries, *rows;
    size_t query_stride, row_stride, row_count;
    const float *lengths;
    peri_filter_view filter;
    peri_metric metric;
    uint32_t dim;
    uint32_t first, query_count; /* of the chunk */
    const uint32_t *queries_left, *which_queries;
    unsigned k, capacity, groups;
    unsigned tile;   /* queries a block */
    unsigned blocks; /* that run at once */
    uint64_t *keys;  /* [splits, tiles * tile, k] */
    int64_t *ids;
    float *distances;
};

/* How the rows and queries are cut. */
struct cut {
    uint32_t live, tiles, splits, unit;
    size_t units;
};

__host__ __device__ inline size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* Units as equal as the rows allow, so that the last round of them is full. */
__device__ inline cut make_cut(const scan &s) {
    cut c;
    c.live = s.query_count;
    if (s.queries_left != nullptr) {
        uint32_t left = *s.queries_left;
        left = left > s.first ? left - s.first : 0;
        if (left < c.live) c.live = left;
    }
    c.tiles = (uint32_t)ceil_div(c.live, s.tile);
    size_t splits = c.tiles == 0 ? 1 : s.blocks / c.tiles;
    if (splits == 0) splits = 1;
    size_t rounds = ceil_div(s.row_count, splits * UNIT);
    size_t unit = rounds == 0 ? UNIT_STEP : ceil_div(s.row_count, splits * rounds);
    c.unit = (uint32_t)(ceil_div(unit, UNIT_STEP) * UNIT_STEP);
    c.units = ceil_div(s.row_count, c.unit);
    if (splits > c.units) splits = c.units == 0 ? 1 : c.units;
    c.splits = (uint32_t)splits;
    return c;
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
    peri_select selects[TILE_MAX];
    const void *queries[TILE_MAX];
    const uint64_t *bits[TILE_MAX];
    float lengths[TILE_MAX];
    unsigned warp_counts[WARPS];
    uint16_t passing[UNIT]; /* rows of the unit that some query may return */
};

template <typename T>
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
        }
    }
    for (unsigned q = 0; q < s.tile; q++)
        peri_select_begin(&t->selects[q], keys + (size_t)q * 2 * s.capacity, s.capacity, s.k);
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

/* Sums of QUERIES queries and a lane's ROWS rows; `there` rows exist. */
template <typename T, int SUM, unsigned QUERIES, bool WIDE>
__device__ inline void tile_sums(const scan &s, const void *const *queries, const T *const *rows,
                                 float *values) {
    using Query = typename peri_row_types<T>::query;
    using S = typename peri_row_types<T>::sum;
    constexpr unsigned PARTS = peri_piece<T>::PARTS, DEEP = AHEAD[QUERIES > 1];
    S sums[QUERIES * ROWS][PARTS];
#pragma unroll
    for (unsigned i = 0; i < QUERIES * ROWS * PARTS; i++) sums[i / PARTS][i % PARTS] = 0;
    const unsigned first = threadIdx.x % PERI_GROUP * PERI_PIECE;
    for (uint32_t at = first; at < s.dim; at += DEEP * PERI_GROUP * PERI_PIECE) {
        typename peri_piece<T>::raw x[DEEP][ROWS];
#pragma unroll
        for (unsigned a = 0; a < DEEP; a++)
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++)
                x[a][r] = peri_load_piece<WIDE>(rows[r], at + a * PERI_GROUP * PERI_PIECE, s.dim);
#pragma unroll
        for (unsigned a = 0; a < DEEP; a++)
#pragma unroll
            for (unsigned q = 0; q < QUERIES; q++) {
                const auto y = peri_load_piece<WIDE>(static_cast<const Query *>(queries[q]),
                                                     at + a * PERI_GROUP * PERI_PIECE, s.dim);
#pragma unroll
                for (unsigned r = 0; r < ROWS; r++)
                    peri_piece_step<SUM, T>(sums[q * ROWS + r], y, x[a][r]);
            }
    }
    peri_fold_pieces<QUERIES * ROWS>(sums, values);
}

/* 16 rows of a warp against its queries: item `at` of the unit and those after it. Returns whether
 * a selection may not take another round. */
template <typename T, int SUM, unsigned QUERIES, bool WIDE>
__device__ inline bool scan_rows(const scan &s, tile_state *t, unsigned query, unsigned live,
                                 size_t base, unsigned at, unsigned count, unsigned round) {
    constexpr unsigned COUNT = QUERIES * ROWS;
    const unsigned lane = threadIdx.x % PERI_WARP;
    const unsigned mine = at + lane / PERI_GROUP * ROWS;
    const bool filtered = s.filter.count > 0;
    uint32_t offsets[ROWS];
    const T *rows[ROWS];
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) {
        const unsigned item = mine + r < count ? mine + r : at; /* read twice, pushed once */
        offsets[r] = filtered ? t->passing[item] : item;
        rows[r] = peri_row<T>(s.rows, s.row_stride, base + offsets[r]);
    }
    float values[peri_folded(COUNT)];
    tile_sums<T, SUM, QUERIES, WIDE>(s, t->queries + query, rows, values);
    if (!peri_fold_owner<COUNT>(lane)) return false;
    bool full = false;
    const unsigned first = peri_fold_first<COUNT>(lane % PERI_GROUP);
#pragma unroll
    for (unsigned i = 0; i < peri_folded(COUNT); i++) {
        const unsigned q = query + (first + i) / ROWS, r = (first + i) % ROWS;
        if (q >= live || mine + r >= count) continue;
        const size_t row = base + (filtered ? t->passing[mine + r] : mine + r);
        const float length = s.metric == PERI_COSINE ? s.lengths[row] : 0.0f;
        const uint64_t key = peri_key(peri_inside(s.metric, values[i], t->lengths[q], length),
                                      (uint32_t)row);
        peri_select *select = &t->selects[q];
        if (key >= select->bound) continue;
        if (s.filter.which != nullptr && !(t->bits[q][row / 64] >> (row % 64) & 1)) continue;
        const unsigned place = atomicAdd(&select->count, 1u);
        select->keys[s.capacity + place] = key;
        full |= place + 1 + round > s.capacity;
    }
    return full;
}

template <typename T, int SUM, unsigned QUERIES, bool WIDE>
__device__ inline void scan_unit(const scan &s, tile_state *t, unsigned live, size_t base,
                                 size_t stop) {
    const unsigned warp = threadIdx.x / PERI_WARP;
    const unsigned group_warps = WARPS / s.groups, round = group_warps * WARP_ROWS;
    const unsigned query = warp / group_warps * QUERIES;
    const unsigned count = s.filter.count > 0 ? compact(s, base, stop, t)
                                              : (unsigned)(stop - base);
    for (unsigned begin = 0; begin < count; begin += round) {
        const unsigned at = begin + warp % group_warps * WARP_ROWS;
        bool full = false;
        if (at < count && query < live)
            full = scan_rows<T, SUM, QUERIES, WIDE>(s, t, query, live, base, at, count, round);
        if (!__syncthreads_or(full)) continue;
        for (unsigned q = 0; q < live; q++)
            if (peri_select_full(&t->selects[q], round)) peri_select_flush(&t->selects[q], false);
        __syncthreads(); /* nobody pushes while another still reads a count */
    }
}

template <typename T, int SUM, unsigned QUERIES, bool WIDE>
__global__ void __launch_bounds__(THREADS, BLOCKS[QUERIES > 1]) scan_kernel(const scan s) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ tile_state t;
    const cut c = make_cut(s);
    for (uint32_t i = blockIdx.x; i < c.tiles * c.splits; i += gridDim.x) {
        const uint32_t tile = i % c.tiles, split = i / c.tiles;
        const unsigned left = c.live - tile * s.tile, live = left < s.tile ? left : s.tile;
        begin_tile<T>(s, c, tile, &t, shared_keys);
        for (size_t unit = split; unit < c.units; unit += c.splits) {
            const size_t base = unit * c.unit;
            const size_t stop = base + c.unit < s.row_count ? base + c.unit : s.row_count;
            scan_unit<T, SUM, QUERIES, WIDE>(s, &t, live, base, stop);
        }
        __syncthreads();
        for (unsigned q = 0; q < live; q++) {
            peri_select_flush(&t.selects[q], false);
            uint64_t *out = s.keys + (((size_t)split * c.tiles + tile) * s.tile + q) * s.k;
            for (unsigned at = threadIdx.x; at < s.k; at += THREADS) out[at] = t.selects[q].keys[at];
        }
        __syncthreads();
    }
}

/* The lists of a query's splits are sorted: key `rank` of all of them, then the next rank. Once as
 * many keys as there are lists have brought nothing, what is left can't either. */
template <typename T, int SUM>
__global__ void __launch_bounds__(THREADS) merge_kernel(const scan s, unsigned capacity) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_select select;
    const cut c = make_cut(s);
    const size_t stride = (size_t)c.tiles * s.tile * s.k;
    for (uint32_t place = blockIdx.x; place < c.live; place += gridDim.x) {
        const uint64_t *keys = s.keys + (size_t)place * s.k;
        const size_t total = (size_t)c.splits * s.k;
        peri_select_begin(&select, shared_keys, capacity, s.k);
        __syncthreads();
        unsigned idle = 0;
        for (size_t at = 0; at < total && idle < c.splits; at += THREADS) {
            const size_t mine = at + threadIdx.x;
            uint64_t key = PERI_KEY_NONE;
            if (mine < total) key = keys[mine % c.splits * stride + mine / c.splits];
            const bool passes = key < select.bound;
            if (passes) select.keys[capacity + atomicAdd(&select.count, 1u)] = key;
            idle = __syncthreads_or(passes) ? 0 : idle + THREADS;
            const unsigned full = peri_select_full(&select, THREADS);
            __syncthreads();
            if (full != 0) peri_select_flush(&select, false);
        }
        __syncthreads();
        peri_select_flush(&select, false);
        const size_t query = query_of(s, place);
        peri_select_write<T, SUM>(&select, peri_row<char>(s.queries, s.query_stride, query),
                                  s.rows, s.row_stride, s.lengths, s.dim, s.metric,
                                  s.ids + query * s.k, s.distances + query * s.k);
        __syncthreads(); /* the buffer is read before the next query clears it */
    }
}

/* ---- the launch --------------------------------------------------------------------------- */

struct plan {
    bool wide;
    unsigned per_warp; /* queries: 1 or 4 */
    unsigned groups, tile, capacity, blocks;
    size_t chunk, bytes;
};

/* One filter a query, and few rows pass each: queries read their own rows alone. */
bool few_pass(const peri_op_knn *op) {
    if (op->filter.which == nullptr || op->filter.count < 2 || op->filter.passing == nullptr)
        return false;
    for (uint32_t f = 0; f < op->filter.count; f++)
        if (op->filter.passing[f] > op->rows.rows / 8) return false;
    return true;
}

plan make_plan(const peri_device *device, const peri_op_knn *op) {
    plan p;
    const size_t queries = op->queries.rows;
    const size_t query_bytes = op->rows.dtype == PERI_F16 ? 4 : peri_cuda_dtype_bytes(op->rows.dtype);
    p.wide = peri_pieces_fit(&op->rows, peri_cuda_dtype_bytes(op->rows.dtype)) &&
             peri_pieces_fit(&op->queries, query_bytes);
    const size_t select = 2 * sizeof(uint64_t) * peri_select_capacity(op->k, CAPACITY_MIN);
    const size_t fit = SELECT_BYTES_MAX / select;
    const size_t want = few_pass(op) ? 1 : queries < fit ? queries : fit;
    p.per_warp = p.wide && want > 1 && fit >= 4 ? 4 : 1;
    p.groups = 1;
    while (p.groups * p.per_warp < want && p.groups * 2 * p.per_warp <= TILE_MAX &&
           p.groups < WARPS && p.groups * 2 * p.per_warp <= fit)
        p.groups *= 2;
    p.tile = p.groups * p.per_warp;
    const unsigned round = UNIT_STEP / p.groups;
    p.capacity = peri_select_capacity(op->k, round > CAPACITY_MIN ? round : CAPACITY_MIN);
    p.blocks = (unsigned)peri_cuda_of(device)->multiprocessors * BLOCKS[p.per_warp > 1];
    const size_t one = op->k * sizeof(uint64_t);
    p.chunk = SCRATCH_MAX / one / p.tile * p.tile;
    if (p.chunk < p.tile) p.chunk = p.tile;
    if (p.chunk > queries) p.chunk = queries;
    const size_t tiles = ceil_div(p.chunk, p.tile);
    p.bytes = (tiles > p.blocks ? tiles : p.blocks) * p.tile * one;
    return p;
}

struct launch {
    peri_stream *stream;
    const plan &p;
    const scan &s;
    peri_status *status;

    template <typename T, int SUM, unsigned QUERIES, bool WIDE> cudaError_t begin(size_t bytes) {
        const auto kernel = scan_kernel<T, SUM, QUERIES, WIDE>;
        if (bytes + sizeof(tile_state) > ((size_t)48 << 10)) {
            cudaError_t error = cudaFuncSetAttribute(
                kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
            if (error != cudaSuccess) return error;
        }
        kernel<<<p.blocks, THREADS, bytes, peri_cuda_handle(stream)>>>(s);
        return cudaGetLastError();
    }

    template <typename T, int SUM> cudaError_t merge() {
        const unsigned capacity = peri_select_capacity(s.k, MERGE_CAPACITY_MIN);
        const size_t bytes = 2 * sizeof(uint64_t) * capacity;
        const unsigned most = p.blocks * 2;
        if (bytes > ((size_t)47 << 10)) {
            cudaError_t error = cudaFuncSetAttribute(
                merge_kernel<T, SUM>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
            if (error != cudaSuccess) return error;
        }
        merge_kernel<T, SUM><<<s.query_count < most ? s.query_count : most, THREADS, bytes,
                               peri_cuda_handle(stream)>>>(s, capacity);
        return cudaGetLastError();
    }

    template <typename T, int SUM> void go() {
        const size_t bytes = (size_t)p.tile * 2 * p.capacity * sizeof(uint64_t);
        cudaError_t error;
        if (!p.wide)
            error = begin<T, SUM, 1, false>(bytes);
        else if (p.per_warp == 1)
            error = begin<T, SUM, 1, true>(bytes);
        else
            error = begin<T, SUM, 4, true>(bytes);
        if (error == cudaSuccess) error = merge<T, SUM>();
        if (error != cudaSuccess) *status = peri_cuda_failed(stream->device, error, "knn");
    }
};

} /* namespace */

size_t peri_knn_direct_scratch(const peri_device *device, const peri_op_knn *op) {
    return op->queries.rows == 0 ? 0 : make_plan(device, op).bytes;
}

peri_status peri_knn_direct_run(peri_stream *stream, const peri_op_knn *op,
                                const uint32_t *queries_left, const uint32_t *which_queries,
                                void *scratch, size_t scratch_bytes) {
    if (op->queries.rows == 0) return PERI_OK;
    const plan p = make_plan(stream->device, op);
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
    s.filter = op->filter;
    s.metric = op->metric;
    s.dim = (uint32_t)op->rows.cols;
    s.queries_left = queries_left;
    s.which_queries = which_queries;
    s.k = (unsigned)op->k;
    s.capacity = p.capacity;
    s.groups = p.groups;
    s.tile = p.tile;
    s.blocks = p.blocks;
    s.keys = static_cast<uint64_t *>(scratch);
    s.ids = op->ids;
    s.distances = op->distances;
    for (size_t first = 0; first < op->queries.rows; first += p.chunk) {
        const size_t left = op->queries.rows - first;
        s.first = (uint32_t)first;
        s.query_count = (uint32_t)(p.chunk < left ? p.chunk : left);
        peri_status status = PERI_OK;
        peri_dispatch_all(op->rows.dtype, op->metric, launch{ stream, p, s, &status });
        if (status == PERI_OK) status = peri_cuda_launched(stream);
        if (status != PERI_OK) return status;
    }
    return PERI_OK;
}
