/* pairwise, many pairs of f32 or f16 rows: a thread holds pairs, not partial sums of pairs.
 *
 * queries [q, d] f32 | rows [n, d] f32 f16 | lengths [n] (cosine) | out [q, n] f32
 * The canonical order has 32 partial sums a pair and folds them as a tree. Walked depth first (sum
 * 0, sum 16, fold; 8, 24, fold, fold; ..) the tree needs 6 numbers a pair and no exchange between
 * lanes: the 31 additions of the fold are all that it costs. So the loop is that of a plain product
 * of matrices: 8 queries and 4 rows a thread, 32 x 32 pairs a warp, each column of both read from
 * shared memory once for 32 pairs. Three of the 6 are in registers; the upper levels, which wait
 * for a quarter of the columns and longer, are in shared memory.
 * For that, columns have to come in the tree's order, and one column of 64 rows has to be 64 words
 * in a row: a first kernel packs both sides so in scratch, f16 widened, as [tiles of 64][columns]
 * [64], with each partial sum filled up to the same number of columns. A block of 4 warps takes 64
 * queries and 64 rows; columns come a stage at a time, STAGES ahead. Blocks that run at once share
 * rows; the packed queries of a launch stay in L2.
 * Registers 144 to 153; shared memory 72 KiB, so 12 warps a multiprocessor. Bound by the rate of
 * FP32, 2 d + 31 operations a pair (d + 31 for dot products): on an H200 66 %, 73 % and 81 % of it
 * (at 1.83 GHz) at d = 96, 128 and 768 for squares, 56 %, 59 % and 64 % for products.
 * Tried: 5 levels in registers (255 of them, 8 warps): a third slower; 4 levels in registers: a
 * twentieth; a loop over 2 partial sums in place of 4, for the sake of the instruction cache: a
 * tenth. */
#include "pairwise_tiles.cuh"

#include <cuda_pipeline.h>

#include "device.cuh"
#include "distance.cuh"

namespace {

constexpr unsigned TILE = 64; /* rows of a packed tile */
constexpr unsigned STAGES = 3;
constexpr unsigned KEPT = 3;              /* levels of the tree that wait in shared memory */
constexpr unsigned BLOCKS = 3;            /* of a multiprocessor, where it has room */
constexpr unsigned QUERIES = 8, ROWS = 4; /* of a thread */
constexpr unsigned PAIRS = QUERIES * ROWS;
constexpr unsigned THREADS = 128;
constexpr size_t QUERY_BYTES = (size_t)16 << 20; /* of packed queries: a part of L2 */
constexpr size_t ROW_BYTES = (size_t)192 << 20;
constexpr size_t PAIRS_MIN = (size_t)1 << 15;
constexpr size_t SIDE_MIN = 40; /* below, more than a third of a tile is empty */

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ---- packing ------------------------------------------------------------------------------ */

constexpr unsigned PACK_THREADS = 256, PACK_COLUMNS = 64;

/* Columns of a partial sum, those that fill up included. */
__host__ __device__ uint32_t depth_of(uint32_t dim) { return (dim + PERI_WARP - 1) / PERI_WARP; }

/* Column j of row i goes to packed[i / TILE][its place in the tree's order][i % TILE]. What fills
 * up is `pad`: 0 of queries and -0 of rows change no sum, not even one that is -0. */
template <typename T>
__global__ void __launch_bounds__(PACK_THREADS)
    pack(const void *rows, size_t stride, size_t count, uint32_t dim, float pad, float *packed) {
    __shared__ float block[TILE][PACK_COLUMNS + 1];
    const size_t first = (size_t)blockIdx.x * TILE;
    const uint32_t from = blockIdx.y * PACK_COLUMNS, depth = depth_of(dim);
    for (unsigned i = threadIdx.x / PACK_COLUMNS; i < TILE; i += PACK_THREADS / PACK_COLUMNS) {
        const unsigned j = threadIdx.x % PACK_COLUMNS;
        const bool there = first + i < count && from + j < dim;
        block[i][j] = there ? peri_widen(peri_row<T>(rows, stride, first + i)[from + j]) : pad;
    }
    __syncthreads();
    for (unsigned j = threadIdx.x / TILE; j < PACK_COLUMNS; j += PACK_THREADS / TILE) {
        const uint32_t column = from + j;
        if (column >= depth * PERI_WARP) break;
        const uint32_t at = __brev(column % PERI_WARP) >> 27; /* which sum in the tree's order */
        const size_t place = (size_t)at * depth + column / PERI_WARP;
        packed[((size_t)blockIdx.x * depth * PERI_WARP + place) * TILE + threadIdx.x % TILE] =
            block[threadIdx.x % TILE][j];
    }
}

__global__ void __launch_bounds__(PACK_THREADS)
    query_lengths(const void *queries, size_t stride, size_t count, uint32_t dim, float *lengths) {
    const size_t query = ((size_t)blockIdx.x * PACK_THREADS + threadIdx.x) / PERI_WARP;
    if (query >= count) return;
    const float length = peri_warp_length(peri_row<float>(queries, stride, query), dim);
    if (threadIdx.x % PERI_WARP == 0) lengths[query] = length;
}

/* ---- the table ---------------------------------------------------------------------------- */

struct table {
    const float *queries, *rows; /* packed */
    const float *query_lengths, *row_lengths;
    size_t query_count, row_count;
    unsigned query_tiles;
    uint32_t dim, depth; /* depth: columns of a partial sum */
    peri_metric metric;
    float *out;
    size_t out_stride; /* in bytes */
    bool wide;         /* rows of out are aligned to 16 bytes */
};

/* The columns of a block's tile, one after the other. */
template <unsigned STAGE> struct columns {
    static constexpr unsigned SLOT = STAGE * 2 * TILE;     /* words */
    static constexpr unsigned STEP = THREADS / (TILE / 4); /* columns that all threads ask for */
    static constexpr unsigned ROUNDS = (STAGE + STEP - 1) / STEP;
    const float *queries, *rows; /* what this thread asks for next */
    float *to;                   /* and where it goes */
    unsigned asked;              /* columns that are not asked for yet */
    unsigned slot, left;         /* stages until the ring turns; columns of the stage not read */
    const float *query, *row;    /* where this thread reads next */

    __device__ void ask() {
        const unsigned column = threadIdx.x / (TILE / 4);
#pragma unroll
        for (unsigned i = 0; i < ROUNDS; i++) {
            if (column + i * STEP >= asked || column + i * STEP >= STAGE) break;
            __pipeline_memcpy_async(to + i * STEP * 2 * TILE, queries + i * STEP * TILE, 16);
            __pipeline_memcpy_async(to + i * STEP * 2 * TILE + TILE, rows + i * STEP * TILE, 16);
        }
        __pipeline_commit();
        queries += STAGE * TILE;
        rows += STAGE * TILE;
        asked = asked > STAGE ? asked - STAGE : 0;
    }
    __device__ void begin(float *shared, unsigned count, unsigned thread_query,
                          unsigned thread_row) {
        const unsigned column = threadIdx.x / (TILE / 4), at = threadIdx.x % (TILE / 4) * 4;
        queries += column * TILE + at;
        rows += column * TILE + at;
        to = shared + column * 2 * TILE + at;
        asked = count;
        left = 0;
        slot = STAGES;
        for (unsigned i = 0; i + 1 < STAGES; i++) {
            ask();
            to += SLOT;
        }
        query = shared + thread_query;
        row = shared + TILE + thread_row;
    }
    /* Before columns of one stage are read. */
    __device__ void turn() {
        if (left != 0) return;
        __pipeline_wait_prior(STAGES - 2);
        __syncthreads(); /* all of the stage is there, and none reads the one before */
        ask();
        to += SLOT;
        if (slot == STAGES) to -= STAGES * SLOT; /* the last slot is filled, the first is next */
        if (slot == 0) {
            query -= STAGES * SLOT;
            row -= STAGES * SLOT;
            to -= STAGES * SLOT;
            slot = STAGES;
        }
        slot--;
        left = STAGE;
    }
    __device__ void read(float (&q)[QUERIES], float (&x)[ROWS], unsigned ahead) const {
        *reinterpret_cast<float4 *>(q) = *reinterpret_cast<const float4 *>(query +
                                                                           ahead * 2 * TILE);
        *reinterpret_cast<float4 *>(q + 4) = *reinterpret_cast<const float4 *>(
            query + ahead * 2 * TILE + 16);
        *reinterpret_cast<float4 *>(x) = *reinterpret_cast<const float4 *>(row + ahead * 2 * TILE);
    }
    __device__ void step(unsigned count) {
        query += count * 2 * TILE;
        row += count * 2 * TILE;
        left -= count;
    }
};

using sums = float[PAIRS];

template <int SUM, bool FIRST>
__device__ void step(sums &sum, const float (&q)[QUERIES], const float (&x)[ROWS]) {
#pragma unroll
    for (unsigned i = 0; i < PAIRS; i++)
        sum[i] = peri_step<SUM>(FIRST ? 0.0f : sum[i], q[i / ROWS], x[i % ROWS]);
}

/* UNIT columns, which are in one stage. */
template <int SUM, unsigned UNIT, bool FIRST, unsigned STAGE>
__device__ void step_unit(sums &sum, columns<STAGE> &c) {
    c.turn();
#pragma unroll
    for (unsigned i = 0; i < UNIT; i++) {
        float q[QUERIES], x[ROWS];
        c.read(q, x, i);
        if (FIRST && i == 0)
            step<SUM, true>(sum, q, x);
        else
            step<SUM, false>(sum, q, x);
    }
    c.step(UNIT);
}

/* The next partial sum in the tree's order. */
template <int SUM, unsigned UNIT, unsigned STAGE>
__device__ void sum_up(sums &sum, columns<STAGE> &c, unsigned units) {
    step_unit<SUM, UNIT, true>(sum, c);
#pragma unroll 1
    for (; units > 1; units--) step_unit<SUM, UNIT, false>(sum, c);
}

__device__ void fold(sums &sum, const sums &other) {
#pragma unroll
    for (unsigned i = 0; i < PAIRS; i++) sum[i] = __fadd_rn(sum[i], other[i]);
}

/* Keeps a sum in shared memory until its partner comes. */
__device__ void meet(sums &sum, float4 *kept, bool second) {
    kept += threadIdx.x;
#pragma unroll
    for (unsigned i = 0; i < PAIRS / 4; i++) {
        float4 *at = kept + i * THREADS;
        if (second) {
            const float4 four = *at;
            sum[4 * i] = __fadd_rn(sum[4 * i], four.x);
            sum[4 * i + 1] = __fadd_rn(sum[4 * i + 1], four.y);
            sum[4 * i + 2] = __fadd_rn(sum[4 * i + 2], four.z);
            sum[4 * i + 3] = __fadd_rn(sum[4 * i + 3], four.w);
        } else {
            *at = make_float4(sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]);
        }
    }
}
__device__ void write_four(const table &t, float *out, const float (&values)[ROWS],
                           size_t first_row) {
    if (t.wide && first_row + ROWS <= t.row_count) {
        __stcs(reinterpret_cast<float4 *>(out),
               make_float4(values[0], values[1], values[2], values[3]));
        return;
    }
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++)
        if (first_row + r < t.row_count) out[r] = values[r];
}

template <bool COSINE>
__device__ void write(const table &t, const sums &sum, size_t first_query, size_t first_row) {
    char *out = reinterpret_cast<char *>(t.out + first_row) + first_query * t.out_stride;
    float lengths[ROWS];
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++)
        lengths[r] = COSINE && first_row + r < t.row_count ? t.row_lengths[first_row + r] : 0.0f;
#pragma unroll
    for (unsigned i = 0; i < QUERIES; i++) {
        const unsigned apart = i % 4 + i / 4 * 16;
        if (first_query + apart >= t.query_count) continue;
        const float length = COSINE ? t.query_lengths[first_query + apart] : 0.0f;
        const peri_metric metric = COSINE ? PERI_COSINE : t.metric;
        float values[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            values[r] = peri_inside(metric, sum[i * ROWS + r], length, lengths[r]);
        write_four(t, reinterpret_cast<float *>(out + apart * t.out_stride), values, first_row);
    }
}

template <unsigned UNIT> struct shape {
    static constexpr unsigned STAGE = UNIT == 3 ? 12 : 16; /* columns */
    static constexpr unsigned RING = STAGES * columns<STAGE>::SLOT;
    static constexpr unsigned BYTES = (RING + KEPT * PAIRS * THREADS) * sizeof(float);
};

template <int SUM, unsigned UNIT>
__global__ void __launch_bounds__(THREADS, BLOCKS) pair_tiles(table t) {
    constexpr unsigned STAGE = shape<UNIT>::STAGE;
    extern __shared__ float4 tile_shared[];
    float *ring = reinterpret_cast<float *>(tile_shared);
    float4 *kept = tile_shared + shape<UNIT>::RING / 4;
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    /* Neighbours of a lane read the same query one way and the same row the other. */
    const unsigned query = (lane >> 1 & 1) | (lane >> 2 & 2);
    const unsigned row = (lane & 1) | (lane >> 1 & 2) | (lane >> 2 & 4);
    const unsigned query_at = warp / 2 * 32 + query * 4, row_at = warp % 2 * 32 + row * 4;
    const size_t query_tile = blockIdx.x % t.query_tiles, row_tile = blockIdx.x / t.query_tiles;
    columns<STAGE> c;
    c.queries = t.queries + query_tile * t.depth * PERI_WARP * TILE;
    c.rows = t.rows + row_tile * t.depth * PERI_WARP * TILE;
    c.begin(ring, t.depth * PERI_WARP, query_at, row_at);
    const unsigned units = t.depth / UNIT;
    sums sum, by_16, by_8;
    float4 *by_4 = kept, *by_2 = by_4 + PAIRS / 4 * THREADS, *by_1 = by_2 + PAIRS / 4 * THREADS;
#pragma unroll 1
    for (unsigned at = 0; at < PERI_WARP; at += 4) {
        sum_up<SUM, UNIT>(sum, c, units);
        sum_up<SUM, UNIT>(by_16, c, units);
        fold(sum, by_16);
        sum_up<SUM, UNIT>(by_8, c, units);
        sum_up<SUM, UNIT>(by_16, c, units);
        fold(by_8, by_16);
        fold(sum, by_8);
        meet(sum, by_4, at & 4);
        if ((at & 4) == 0) continue;
        meet(sum, by_2, at & 8);
        if ((at & 8) == 0) continue;
        meet(sum, by_1, at & 16);
    }
    const size_t first_query = query_tile * TILE + query_at;
    const size_t first_row = row_tile * TILE + row_at;
    if (SUM == PERI_SUM_PRODUCTS && t.metric == PERI_COSINE)
        write<SUM == PERI_SUM_PRODUCTS>(t, sum, first_query, first_row);
    else
        write<false>(t, sum, first_query, first_row);
}

/* ---- the operation ------------------------------------------------------------------------ */

struct plan {
    size_t queries, rows; /* of a launch, multiples of TILE */
    size_t query_bytes, row_bytes, length_bytes;
};

plan make_plan(const peri_op_pairwise *op) {
    const size_t depth = depth_of((uint32_t)op->rows.cols);
    const size_t one = TILE * depth * PERI_WARP * sizeof(float); /* bytes of a tile */
    plan p;
    const size_t queries = least(ceil_div(op->queries.rows, TILE), QUERY_BYTES / one + 1);
    const size_t rows = least(ceil_div(op->rows.rows, TILE), ROW_BYTES / one + 1);
    p.queries = queries * TILE;
    p.rows = rows * TILE;
    p.query_bytes = queries * one;
    p.row_bytes = rows * one;
    p.length_bytes = op->metric == PERI_COSINE ? p.queries * sizeof(float) : 0;
    return p;
}

peri_status pack_view(peri_stream *stream, const peri_view *view, size_t first, size_t count,
                      float pad, void *packed) {
    const void *from = static_cast<const char *>(view->data) + first * view->stride_bytes;
    const uint32_t dim = (uint32_t)view->cols;
    const dim3 grid((unsigned)ceil_div(count, TILE),
                    (unsigned)ceil_div(depth_of(dim) * PERI_WARP, PACK_COLUMNS));
    auto to = static_cast<float *>(packed);
    cudaStream_t handle = peri_cuda_handle(stream);
    if (view->dtype == PERI_F16)
        pack<__half>
            <<<grid, PACK_THREADS, 0, handle>>>(from, view->stride_bytes, count, dim, pad, to);
    else
        pack<float>
            <<<grid, PACK_THREADS, 0, handle>>>(from, view->stride_bytes, count, dim, pad, to);
    return peri_cuda_launched(stream);
}

template <int SUM, unsigned UNIT> peri_status launch(peri_stream *stream, const table &t) {
    const unsigned blocks = t.query_tiles * (unsigned)ceil_div(t.row_count, TILE);
    const unsigned bytes = shape<UNIT>::BYTES;
    CU_TRY(stream->device,
           cudaFuncSetAttribute(pair_tiles<SUM, UNIT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes));
    pair_tiles<SUM, UNIT><<<blocks, THREADS, bytes, peri_cuda_handle(stream)>>>(t);
    return peri_cuda_launched(stream);
}

template <int SUM> peri_status launch(peri_stream *stream, const table &t) {
    if (t.depth % 4 == 0) return launch<SUM, 4>(stream, t);
    if (t.depth % 3 == 0) return launch<SUM, 3>(stream, t);
    return t.depth % 2 == 0 ? launch<SUM, 2>(stream, t) : launch<SUM, 1>(stream, t);
}

peri_status launch(peri_stream *stream, const table &t) {
    switch (t.metric) {
    case PERI_INNER_PRODUCT:
    case PERI_COSINE: return launch<PERI_SUM_PRODUCTS>(stream, t);
    case PERI_L1: return launch<PERI_SUM_ABSOLUTES>(stream, t);
    default: return launch<PERI_SUM_SQUARES>(stream, t);
    }
}

/* Some queries and all rows of the launch's part. */
peri_status run_queries(peri_stream *stream, const peri_op_pairwise *op, table t, size_t first,
                        size_t first_row, char *scratch, const plan &p) {
    t.query_count = least(p.queries, op->queries.rows - first);
    t.query_tiles = (unsigned)ceil_div(t.query_count, TILE);
    t.out = reinterpret_cast<float *>(static_cast<char *>(op->out.data) +
                                      first * op->out.stride_bytes) +
            first_row;
    t.wide = ((size_t)t.out | op->out.stride_bytes) % 16 == 0;
    t.queries = reinterpret_cast<const float *>(scratch);
    peri_status status = pack_view(stream, &op->queries, first, t.query_count, 0.0f, scratch);
    if (status != PERI_OK) return status;
    if (p.length_bytes > 0) {
        auto lengths = reinterpret_cast<float *>(scratch + p.query_bytes + p.row_bytes);
        const unsigned blocks = (unsigned)ceil_div(t.query_count, PACK_THREADS / PERI_WARP);
        query_lengths<<<blocks, PACK_THREADS, 0, peri_cuda_handle(stream)>>>(
            static_cast<const char *>(op->queries.data) + first * op->queries.stride_bytes,
            op->queries.stride_bytes, t.query_count, t.dim, lengths);
        t.query_lengths = lengths;
        status = peri_cuda_launched(stream);
        if (status != PERI_OK) return status;
    }
    return launch(stream, t);
}

} /* namespace */

bool peri_cuda_pairwise_tiled(const peri_op_pairwise *op) {
    const size_t queries = op->queries.rows, rows = op->rows.rows;
    return queries >= SIDE_MIN && rows >= SIDE_MIN && queries * rows >= PAIRS_MIN;
}

size_t peri_cuda_pairwise_tiles_scratch(const peri_op_pairwise *op) {
    const plan p = make_plan(op);
    return p.query_bytes + p.row_bytes + p.length_bytes;
}

peri_status peri_cuda_pairwise_tiles(peri_stream *stream, const peri_op_pairwise *op,
                                     void *scratch) {
    const plan p = make_plan(op);
    auto room = static_cast<char *>(scratch);
    table t = {};
    t.dim = (uint32_t)op->rows.cols;
    t.depth = depth_of(t.dim);
    t.metric = op->metric;
    t.out_stride = op->out.stride_bytes;
    peri_status status = PERI_OK;
    for (size_t first = 0; first < op->rows.rows && status == PERI_OK; first += p.rows) {
        t.row_count = least(p.rows, op->rows.rows - first);
        t.rows = reinterpret_cast<const float *>(room + p.query_bytes);
        t.row_lengths = op->metric == PERI_COSINE ? op->lengths + first : nullptr;
        status = pack_view(stream, &op->rows, first, t.row_count, -0.0f, room + p.query_bytes);
        for (size_t q = 0; q < op->queries.rows && status == PERI_OK; q += p.queries)
            status = run_queries(stream, op, t, q, first, room, p);
    }
    return status;
}
