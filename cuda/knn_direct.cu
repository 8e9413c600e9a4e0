/* knn_direct: the k nearest rows of each query, exact.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | lengths [n] (cosine) | ids, distances [q, k]
 * Scan: a block of 8 warps takes Q queries (1 or 4) and one of `splits` ranges of the rows; a
 * warp takes 4 rows at a time, lanes stride the columns, so that an element of a row is read once
 * for Q queries. Each query keeps its k best in shared memory (select.cuh: 2 * capacity * 8
 * bytes, 16 KiB at most for Q = 1, 32 KiB for Q = 4) and writes them to scratch.
 * Merge: a block a query selects among the splits' keys. Rows are split when there are too few
 * queries to fill the device. Queries go in chunks, so that scratch is bounded.
 * A filter is read as its bitset: a row that no query of the block may return is skipped unread.
 * Its list of slots, when there is one, says the same and is not used.
 * Work 2 * q * n * d flop. Bound by the loads of rows from L2, q / Q * n * d * bytes in all:
 * plain, the correct path for any architecture; a tiled matrix product is the fast one. */
#include "device.cuh"
#include "distance.cuh"
#include "knn_direct.cuh"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned ROWS = 4;               /* a warp, at a time */
constexpr unsigned TILE = WARPS * ROWS;    /* a block, at a time: pushes a round */
constexpr unsigned SCAN_CAPACITY_MIN = 64; /* >= TILE, so that a round fits after a flush */
constexpr unsigned MERGE_CAPACITY_MIN = 512;
constexpr size_t SPLIT_ROWS_MIN = 4096;  /* below, the merge costs more than it gains; taste */
constexpr size_t SPLIT_KEYS_MAX = 65536; /* keys of one query to merge */
constexpr size_t BLOCKS_A_UNIT = 4;      /* blocks wanted for each multiprocessor */
constexpr size_t SCRATCH_MAX = (size_t)64 << 20;

/* How the queries of a launch are cut: the same on host and device, where their number may be
 * known first. */
struct cut {
    unsigned tiles, splits;
    size_t split_rows;
};

__host__ __device__ size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
__host__ __device__ size_t least(size_t a, size_t b) { return a < b ? a : b; }
__host__ __device__ size_t most(size_t a, size_t b) { return a > b ? a : b; }

__host__ __device__ cut make_cut(size_t queries, size_t rows, unsigned tile, unsigned blocks,
                                 size_t k) {
    cut c;
    size_t tiles = ceil_div(queries, tile);
    size_t splits = least(blocks / most(tiles, 1), ceil_div(rows, SPLIT_ROWS_MIN));
    splits = most(least(splits, SPLIT_KEYS_MAX / k), 1);
    c.split_rows = most(ceil_div(ceil_div(rows, splits), TILE) * TILE, TILE);
    c.splits = (unsigned)splits;
    c.tiles = (unsigned)tiles;
    return c;
}

struct plan {
    unsigned tile;   /* queries a block */
    unsigned blocks; /* wanted at the least */
    size_t chunk;    /* queries a launch */
    size_t bytes;    /* scratch: [chunk or blocks * tile, k] keys: tiles * splits <= blocks, or
                        splits is 1 */
};

plan make_plan(const peri_device *device, const peri_op_knn *op) {
    plan p;
    size_t queries = op->queries.rows;
    unsigned capacity = peri_select_capacity(op->k, SCAN_CAPACITY_MIN);
    p.tile = queries >= 4 && capacity <= 512 ? 4 : 1;
    p.chunk = least(queries, most(SCRATCH_MAX / (op->k * sizeof(uint64_t)), p.tile));
    p.blocks = (unsigned)peri_cuda_of(device)->multiprocessors * BLOCKS_A_UNIT;
    p.bytes = most(p.chunk, (size_t)p.blocks * p.tile) * op->k * sizeof(uint64_t);
    return p;
}

struct scan {
    const void *queries, *rows;
    size_t query_stride, row_stride, query_count, row_count;
    const uint32_t *left, *which; /* queries there are, and their numbers; or NULL */
    unsigned blocks;
    const float *lengths;
    peri_filter_view filter;
    size_t first; /* query of the chunk, or place in `which` */
    peri_metric metric;
    uint32_t dim;
    unsigned k, capacity;
    uint64_t *keys; /* [chunk, splits, k] */
};

/* Queries of this launch. */
__device__ size_t queries_of(const scan &s) {
    if (s.left == nullptr) return s.query_count;
    size_t left = *s.left;
    return left > s.first ? least(left - s.first, s.query_count) : 0;
}

__device__ size_t query_of(const scan &s, size_t i) {
    return s.which == nullptr ? s.first + i : s.which[s.first + i];
}

/* Bit r: row base + r is below `stop` and may be returned. `bits` NULL: all may. */
__device__ unsigned passing(const uint64_t *bits, size_t base, size_t stop) {
    unsigned mask = 0;
    for (unsigned r = 0; r < ROWS; r++) {
        size_t row = base + r;
        if (row < stop && (bits == nullptr || (bits[row / 64] >> (row % 64) & 1))) mask |= 1u << r;
    }
    return mask;
}

/* ROWS rows against Q queries by one warp; lane q * ROWS + r pushes pair (q, r). */
template <typename T, bool DOT, unsigned Q>
__device__ void scan_rows(const scan &s, const typename peri_row_types<T>::query *const *queries,
                          const float *query_lengths, peri_select *selects, const unsigned *masks,
                          size_t base, size_t stop) {
    using S = typename peri_row_types<T>::sum;
    const unsigned lane = threadIdx.x % PERI_WARP;
    const T *rows[ROWS];
    S sums[Q][ROWS];
    for (unsigned r = 0; r < ROWS; r++) {
        size_t row = base + r < stop ? base + r : base; /* read twice, pushed once */
        rows[r] = peri_row<T>(s.rows, s.row_stride, row);
        for (unsigned q = 0; q < Q; q++) sums[q][r] = 0;
    }
    for (uint32_t j = lane; j < s.dim; j += PERI_WARP) {
        S x[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) x[r] = peri_widen(rows[r][j]);
#pragma unroll
        for (unsigned q = 0; q < Q; q++) {
            S y = peri_widen(queries[q][j]);
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++) sums[q][r] = peri_step<DOT>(sums[q][r], y, x[r]);
        }
    }
    S mine = 0;
    unsigned wanted = 0;
#pragma unroll
    for (unsigned q = 0; q < Q; q++) {
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            S sum = peri_fold(sums[q][r]);
            if (lane == q * ROWS + r) {
                mine = sum;
                wanted = masks[q] >> r & 1u;
            }
        }
    }
    if (wanted == 0) return;
    unsigned q = lane / ROWS;
    size_t row = base + lane % ROWS;
    float row_length = s.metric == PERI_COSINE ? s.lengths[row] : 0.0f;
    float value = peri_inside(s.metric, peri_sum_value(mine), query_lengths[q], row_length);
    peri_select_push(&selects[q], peri_key(value, (uint32_t)row));
}

/* One tile of queries against one range of rows. */
template <typename T, bool DOT, unsigned Q>
__device__ void scan_tile(const scan &s, const cut &c, size_t queries_here, unsigned tile_number,
                          unsigned split, uint64_t *shared_keys, peri_select *selects,
                          float *query_lengths) {
    using Query = typename peri_row_types<T>::query;
    const unsigned warp = threadIdx.x / PERI_WARP;
    const size_t tile = (size_t)tile_number * Q;
    const Query *queries[Q];
    const uint64_t *bits[Q];
    for (unsigned q = 0; q < Q; q++) {
        /* the last tile repeats its last query and writes it once */
        size_t query = query_of(s, tile + q < queries_here ? tile + q : queries_here - 1);
        queries[q] = peri_row<Query>(s.queries, s.query_stride, query);
        uint32_t which = s.filter.which == nullptr ? 0 : s.filter.which[query];
        bits[q] = s.filter.count == 0 ? nullptr : s.filter.bits[which];
        peri_select_begin(&selects[q], shared_keys + (size_t)q * 2 * s.capacity, s.capacity, s.k);
        if (warp == q % WARPS) {
            float length = s.metric == PERI_COSINE ? peri_warp_length(queries[q], s.dim) : 0.0f;
            if (threadIdx.x % PERI_WARP == 0) query_lengths[q] = length;
        }
    }
    __syncthreads();
    size_t begin = (size_t)split * c.split_rows;
    size_t stop = begin + c.split_rows < s.row_count ? begin + c.split_rows : s.row_count;
    for (size_t at = begin; at < stop; at += TILE) {
        size_t base = at + (size_t)warp * ROWS;
        unsigned masks[Q], any = 0;
        for (unsigned q = 0; q < Q; q++) any |= masks[q] = passing(bits[q], base, stop);
        if (any != 0) scan_rows<T, DOT, Q>(s, queries, query_lengths, selects, masks, base, stop);
        unsigned full = 0;
        __syncthreads();
        for (unsigned q = 0; q < Q; q++) full |= peri_select_full(&selects[q], TILE) << q;
        __syncthreads(); /* nobody pushes while another still reads a count */
        for (unsigned q = 0; q < Q; q++)
            if (full >> q & 1u) peri_select_flush(&selects[q], false);
    }
    __syncthreads();
    for (unsigned q = 0; q < Q; q++) {
        peri_select_flush(&selects[q], false);
        if (tile + q >= queries_here) continue;
        uint64_t *out = s.keys + ((tile + q) * c.splits + split) * s.k;
        for (unsigned i = threadIdx.x; i < s.k; i += THREADS) out[i] = selects[q].keys[i];
    }
    __syncthreads(); /* the buffers are read before the next tile clears them */
}

template <typename T, bool DOT, unsigned Q>
__global__ void __launch_bounds__(THREADS) scan_kernel(scan s) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_select selects[Q];
    __shared__ float query_lengths[Q];
    const size_t queries = queries_of(s);
    const cut c = make_cut(queries, s.row_count, Q, s.blocks, s.k);
    for (size_t item = blockIdx.x; item < (size_t)c.tiles * c.splits; item += gridDim.x)
        scan_tile<T, DOT, Q>(s, c, queries, (unsigned)(item % c.tiles), (unsigned)(item / c.tiles),
                             shared_keys, selects, query_lengths);
}

template <typename T, bool DOT>
__global__ void __launch_bounds__(THREADS)
    merge_kernel(scan s, unsigned tile, int64_t *__restrict__ ids, float *__restrict__ distances) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_select select;
    const size_t queries = queries_of(s);
    const size_t total = (size_t)make_cut(queries, s.row_count, tile, s.blocks, s.k).splits * s.k;
    for (size_t query = blockIdx.x; query < queries; query += gridDim.x) {
        const uint64_t *keys = s.keys + query * total;
        peri_select_begin(&select, shared_keys, s.capacity, s.k);
        __syncthreads();
        for (size_t at = 0; at < total; at += THREADS) {
            if (at + threadIdx.x < total) peri_select_push(&select, keys[at + threadIdx.x]);
            peri_select_round(&select, THREADS, false);
        }
        __syncthreads();
        peri_select_flush(&select, false);
        size_t its = query_of(s, query), out = its * s.k;
        peri_select_write<T, DOT>(&select, peri_row<char>(s.queries, s.query_stride, its), s.rows,
                                  s.row_stride, s.lengths, s.dim, s.metric, ids + out,
                                  distances + out);
        __syncthreads(); /* the buffer is read before the next query clears it */
    }
}

struct launch {
    peri_stream *stream;
    const peri_op_knn *op;
    const plan &p;
    scan s;

    template <typename T, bool DOT> void go() {
        cudaStream_t handle = peri_cuda_handle(stream);
        const cut c = make_cut(s.query_count, s.row_count, p.tile, p.blocks, s.k);
        size_t items = (size_t)c.tiles * c.splits;
        /* with fewer queries left there are more splits */
        unsigned grid = s.left == nullptr ? (unsigned)items : p.blocks;
        size_t shared = (size_t)p.tile * 2 * s.capacity * sizeof(uint64_t);
        if (p.tile == 4)
            scan_kernel<T, DOT, 4><<<grid, THREADS, shared, handle>>>(s);
        else
            scan_kernel<T, DOT, 1><<<grid, THREADS, shared, handle>>>(s);
        scan merge = s;
        merge.capacity = peri_select_capacity(op->k, MERGE_CAPACITY_MIN);
        merge_kernel<T, DOT><<<s.left == nullptr ? peri_blocks(s.query_count, 1) : p.blocks,
                               THREADS, 2 * merge.capacity * sizeof(uint64_t), handle>>>(
            merge, p.tile, op->ids, op->distances);
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
    plan p = make_plan(stream->device, op);
    if (scratch_bytes < p.bytes)
        return stream->device->host->fail(PERI_E_ARGUMENT, "knn: %zu bytes of scratch, %zu needed",
                                          scratch_bytes, p.bytes);
    scan s = {};
    s.queries = op->queries.data;
    s.rows = op->rows.data;
    s.query_stride = op->queries.stride_bytes;
    s.row_stride = op->rows.stride_bytes;
    s.row_count = op->rows.rows;
    s.left = queries_left;
    s.which = which_queries;
    s.blocks = p.blocks;
    s.lengths = op->lengths;
    s.filter = op->filter;
    s.metric = op->metric;
    s.dim = (uint32_t)op->rows.cols;
    s.k = (unsigned)op->k;
    s.capacity = peri_select_capacity(op->k, SCAN_CAPACITY_MIN);
    s.keys = static_cast<uint64_t *>(scratch);
    for (s.first = 0; s.first < op->queries.rows; s.first += p.chunk) {
        s.query_count = least(p.chunk, op->queries.rows - s.first);
        peri_dispatch(op->rows.dtype, op->metric, launch{ stream, op, p, s });
        peri_status status = peri_cuda_launched(stream);
        if (status != PERI_OK) return status;
    }
    return PERI_OK;
}
