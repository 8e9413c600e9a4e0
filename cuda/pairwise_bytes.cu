/* pairwise, many pairs of i8 or u8 rows: their sums are whole numbers, whose order is free.
 *
 * queries [q, d], rows [n, d] i8 u8 | lengths [n] (cosine) | out [q, n] f32
 * Products go through the tensor cores (m16n8k32, 32-bit sums, which wrap as the others do), and a
 * squared difference is |q|^2 + |x|^2 - 2 q x, exactly. l1 and hamming go four bytes a step.
 * A first kernel packs both sides in scratch, [tiles of 128][words of 4 bytes][128], so that the
 * tensor cores' pieces are neighbours in shared memory. A block of 8 warps takes 128 queries and
 * 128 rows, a warp 32 x 64 of them; words come STAGE at a time, STAGES ahead. Which row is which
 * column of a product is chosen so that a lane has four answers in a row, for stores of 16 bytes.
 * Registers 128: 64 sums; shared memory 34 KiB. Bound by the 4 bytes a pair that are written up to
 * about d = 512 (products), by the rate of integer steps (l1, hamming). */
#include "pairwise_tiles.cuh"

#include <cuda_pipeline.h>

#include "device.cuh"
#include "distance.cuh"

namespace {

constexpr unsigned TILE = 128; /* rows of a packed tile */
constexpr unsigned LINE = 136; /* words in shared memory: 4 lines apart are 8 banks apart */
constexpr unsigned STAGE = 8;  /* words: 32 bytes, one product's depth */
constexpr unsigned STAGES = 4;
constexpr unsigned THREADS = 256;
constexpr unsigned QUERIES = 32, ROWS = 64;      /* of a warp */
constexpr size_t QUERY_BYTES = (size_t)16 << 20; /* of packed queries: a part of L2 */
constexpr size_t ROW_BYTES = (size_t)192 << 20;

enum way { SIGNED_PRODUCTS, PRODUCTS, ABSOLUTES, BITS };

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ---- packing ------------------------------------------------------------------------------ */

constexpr unsigned PACK_THREADS = 256, PACK_WORDS = 16;

/* Four bytes of a row, 0 past the end. */
__device__ uint32_t load_word(const uint8_t *row, uint32_t dim, uint32_t at) {
    if (at + 4 <= dim && (size_t)(row + at) % 4 == 0)
        return *reinterpret_cast<const uint32_t *>(row + at);
    uint32_t word = 0;
    for (uint32_t b = 0; b < 4 && at + b < dim; b++) word |= (uint32_t)row[at + b] << 8 * b;
    return word;
}

/* `turned`: the highest bit of each byte, which makes numbers of i8 numbers of u8 as far apart. */
__global__ void __launch_bounds__(PACK_THREADS)
    pack(const void *rows, size_t stride, size_t count, uint32_t dim, uint32_t words,
         uint32_t turned, uint32_t *packed) {
    __shared__ uint32_t block[TILE][PACK_WORDS + 1];
    const size_t first = (size_t)blockIdx.x * TILE;
    const uint32_t from = blockIdx.y * PACK_WORDS;
    for (unsigned i = threadIdx.x / PACK_WORDS; i < TILE; i += PACK_THREADS / PACK_WORDS) {
        const unsigned j = threadIdx.x % PACK_WORDS;
        uint32_t word = 0;
        if (first + i < count)
            word = load_word(peri_row<uint8_t>(rows, stride, first + i), dim, (from + j) * 4);
        block[i][j] = word ^ turned;
    }
    __syncthreads();
    for (unsigned j = threadIdx.x / TILE; j < PACK_WORDS; j += PACK_THREADS / TILE) {
        if (from + j >= words) break;
        packed[((size_t)blockIdx.x * words + from + j) * TILE + threadIdx.x % TILE] =
            block[threadIdx.x % TILE][j];
    }
}

/* The dot product of each row with itself; lengths instead where they are asked for. */
template <typename T>
__global__ void __launch_bounds__(PACK_THREADS)
    norms(const void *rows, size_t stride, size_t count, uint32_t dim, bool lengths, void *out) {
    const size_t row = ((size_t)blockIdx.x * PACK_THREADS + threadIdx.x) / PERI_WARP;
    if (row >= count) return;
    const T *x = peri_row<T>(rows, stride, row);
    int sum = 0;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP) sum += (int)x[j] * x[j];
    sum = peri_fold(sum);
    if (threadIdx.x % PERI_WARP != 0) return;
    if (lengths)
        static_cast<float *>(out)[row] = __fsqrt_rn(peri_sum_value(sum));
    else
        static_cast<int *>(out)[row] = sum;
}

/* ---- the table ---------------------------------------------------------------------------- */

struct table {
    const uint32_t *queries, *rows; /* packed */
    const int *query_squares, *row_squares;
    const float *query_lengths, *row_lengths;
    size_t query_count, row_count;
    unsigned query_tiles;
    uint32_t words;
    peri_metric metric;
    float *out;
    size_t out_stride; /* in bytes */
    bool wide;         /* rows of out are aligned to 16 bytes */
};

using stage = uint32_t[2][STAGE][LINE]; /* of queries and of rows */

__device__ void ask(stage &to, const uint32_t *queries, const uint32_t *rows, uint32_t first,
                    uint32_t words) {
    const unsigned word = threadIdx.x / PERI_WARP, at = threadIdx.x % PERI_WARP * 4;
    if (first + word < words) {
        const size_t from = (size_t)(first + word) * TILE + at;
        __pipeline_memcpy_async(&to[0][word][at], queries + from, 16);
        __pipeline_memcpy_async(&to[1][word][at], rows + from, 16);
    }
    __pipeline_commit();
}

template <way WAY> __device__ void multiply(int (&sum)[4], const uint32_t (&a)[4], uint2 b) {
    if (WAY == SIGNED_PRODUCTS)
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, {%0,%1,%2,%3};"
            : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
    else
        asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, {%0,%1,%2,%3};"
            : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

__device__ uint2 read_two(const uint32_t *from) { return *reinterpret_cast<const uint2 *>(from); }

/* The sums of a lane, 4 rows in a row: sums[i][j] is of query line i and rows 4 to a group j. */
using sums = int[8][2][4];

/* Lines of the sums: with products query 16 (i / 4) + 2 (lane / 4) + i / 2 % 2 and rows
 * 32 (i % 2) + 16 j + 4 (lane % 4); else queries and rows as in step_words(). */
template <way WAY>
__device__ void multiply_stage(int (&sum)[2][8][4], const stage &s, unsigned query, unsigned row) {
    const unsigned lane = threadIdx.x % PERI_WARP, word = lane % 4, line = lane / 4 * 2;
    uint32_t a[2][4];
#pragma unroll
    for (unsigned m = 0; m < 2; m++) {
        const uint2 low = read_two(&s[0][word][query + m * 16 + line]);
        const uint2 high = read_two(&s[0][word + 4][query + m * 16 + line]);
        a[m][0] = low.x, a[m][1] = low.y, a[m][2] = high.x, a[m][3] = high.y;
    }
#pragma unroll
    for (unsigned n = 0; n < 4; n++) {
        const uint2 low = read_two(&s[1][word][row + n * 16 + line]);
        const uint2 high = read_two(&s[1][word + 4][row + n * 16 + line]);
#pragma unroll
        for (unsigned m = 0; m < 2; m++) {
            multiply<WAY>(sum[m][2 * n], a[m], make_uint2(low.x, high.x));
            multiply<WAY>(sum[m][2 * n + 1], a[m], make_uint2(low.y, high.y));
        }
    }
}

template <way WAY> __device__ int step(int sum, uint32_t q, uint32_t x) {
    if (WAY == BITS) return sum + __popc(q ^ x);
    unsigned next;
    asm("vabsdiff4.u32.u32.u32.add %0, %1, %2, %3;" : "=r"(next) : "r"(q), "r"(x), "r"(sum));
    return (int)next;
}

template <way WAY>
__device__ void step_stage(int (&sum)[2][8][4], const stage &s, unsigned query, unsigned row,
                           unsigned count) {
#pragma unroll 2
    for (unsigned word = 0; word < count; word++) {
        uint32_t q[8], x[8];
#pragma unroll
        for (unsigned h = 0; h < 2; h++) {
            *reinterpret_cast<uint4 *>(q + 4 * h) = *reinterpret_cast<const uint4 *>(
                &s[0][word][query + 16 * h]);
            *reinterpret_cast<uint4 *>(x + 4 * h) = *reinterpret_cast<const uint4 *>(
                &s[1][word][row + 32 * h]);
        }
#pragma unroll
        for (unsigned i = 0; i < 64; i++)
            sum[i / 32][i / 4 % 8][i % 4] = step<WAY>(sum[i / 32][i / 4 % 8][i % 4], q[i / 8],
                                                      x[i % 8]);
    }
}

/* What the answers of four rows want beside the sums. */
struct terms {
    int squares[4];
    float lengths[4];
};

/* Rows past the end get those of the last. */
__device__ terms terms_of(const table &t, size_t row) {
    terms of = {};
    if (t.row_squares == nullptr && t.row_lengths == nullptr) return of;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        const size_t at = row + i < t.row_count ? row + i : t.row_count - 1;
        if (t.row_squares != nullptr)
            of.squares[i] = t.row_squares[at];
        else
            of.lengths[i] = t.row_lengths[at];
    }
    return of;
}

/* Four answers in a row. */
__device__ void write_four(const table &t, size_t query, size_t row, const int (&sum)[4],
                           const terms &of) {
    if (query >= t.query_count) return;
    float values[4];
    if (t.row_squares != nullptr) {
        const int square = t.query_squares[query];
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            values[i] = peri_sum_value(square + of.squares[i] - 2 * sum[i]);
    } else if (t.row_lengths != nullptr) {
        const float length = t.query_lengths[query];
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            values[i] = peri_inside(PERI_COSINE, peri_sum_value(sum[i]), length, of.lengths[i]);
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            values[i] = t.metric == PERI_INNER_PRODUCT ? -peri_sum_value(sum[i])
                                                       : peri_sum_value(sum[i]);
    }
    float *out = reinterpret_cast<float *>(reinterpret_cast<char *>(t.out) + query * t.out_stride) +
                 row;
    if (t.wide && row + 4 <= t.row_count) {
        __stcs(reinterpret_cast<float4 *>(out),
               make_float4(values[0], values[1], values[2], values[3]));
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        if (row + i < t.row_count) out[i] = values[i];
}

template <way WAY> __global__ void __launch_bounds__(THREADS, 2) byte_tiles(table t) {
    __shared__ __align__(16) stage stages[STAGES];
    constexpr bool products = WAY == SIGNED_PRODUCTS || WAY == PRODUCTS;
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    const size_t query_tile = blockIdx.x % t.query_tiles, row_tile = blockIdx.x / t.query_tiles;
    const uint32_t *queries = t.queries + query_tile * t.words * TILE;
    const uint32_t *rows = t.rows + row_tile * t.words * TILE;
    unsigned query = warp / 2 * QUERIES, row = warp % 2 * ROWS;
    if (!products) { /* neighbours of a lane read the same query one way, the same row the other */
        query += ((lane >> 1 & 1) | (lane >> 2 & 2)) * 4;
        row += ((lane & 1) | (lane >> 1 & 2) | (lane >> 2 & 4)) * 4;
    }
    int sum[2][8][4] = {};
    for (unsigned i = 0; i + 1 < STAGES; i++) ask(stages[i], queries, rows, i * STAGE, t.words);
    for (uint32_t first = 0, turn = 0; first < t.words; first += STAGE, turn++) {
        __pipeline_wait_prior(STAGES - 2);
        __syncthreads(); /* all of the stage is there, and none reads the one before */
        ask(stages[(turn + STAGES - 1) % STAGES], queries, rows, first + (STAGES - 1) * STAGE,
            t.words);
        const stage &s = stages[turn % STAGES];
        if (products)
            multiply_stage<products ? WAY : PRODUCTS>(sum, s, query, row);
        else
            step_stage<products ? BITS : WAY>(sum, s, query, row, STAGE);
    }
    const size_t first_query = query_tile * TILE + query, first_row = row_tile * TILE + row;
    if constexpr (products) { /* even columns are of one product, odd ones of the next */
#pragma unroll
        for (unsigned n = 0; n < 4; n++) {
            const size_t at = first_row + n * 16 + lane % 4 * 4;
            const terms of = terms_of(t, at);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                const unsigned m = i / 2, h = i % 2 * 2;
                const int four[4] = { sum[m][2 * n][h], sum[m][2 * n + 1][h], sum[m][2 * n][h + 1],
                                      sum[m][2 * n + 1][h + 1] };
                write_four(t, first_query + m * 16 + lane / 4 * 2 + i % 2, at, four, of);
            }
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < 16; i++) { /* query i / 2 of the thread's eight */
            const unsigned apart = i / 2 % 4 + i / 8 * 16;
            write_four(t, first_query + apart, first_row + i % 2 * 32, sum[i / 8][i % 8], terms{});
        }
    }
}

/* ---- the operation ------------------------------------------------------------------------ */

struct plan {
    uint32_t words;
    size_t queries, rows;          /* of a launch, multiples of TILE */
    size_t query_bytes, row_bytes; /* packed */
};

plan make_plan(const peri_op_pairwise *op) {
    plan p;
    p.words = (uint32_t)ceil_div(op->rows.cols, 4 * STAGE) * STAGE;
    const size_t one = TILE * p.words * sizeof(uint32_t); /* bytes of a tile */
    const size_t queries = least(ceil_div(op->queries.rows, TILE), QUERY_BYTES / one + 1);
    const size_t rows = least(ceil_div(op->rows.rows, TILE), ROW_BYTES / one + 1);
    p.queries = queries * TILE;
    p.rows = rows * TILE;
    p.query_bytes = queries * one;
    p.row_bytes = rows * one;
    return p;
}

/* Packs rows first.. of a view, and leaves their squares or lengths. */
peri_status prepare(peri_stream *stream, const plan &p, const peri_view *view, size_t first,
                    size_t count, peri_metric metric, bool lengths, void *packed, void *terms) {
    const void *from = static_cast<const char *>(view->data) + first * view->stride_bytes;
    const uint32_t dim = (uint32_t)view->cols, words = p.words;
    const uint32_t turned = view->dtype == PERI_I8 && metric == PERI_L1 ? 0x80808080u : 0;
    const dim3 grid((unsigned)ceil_div(count, TILE), (unsigned)ceil_div(words, PACK_WORDS));
    cudaStream_t handle = peri_cuda_handle(stream);
    pack<<<grid, PACK_THREADS, 0, handle>>>(from, view->stride_bytes, count, dim, words, turned,
                                            static_cast<uint32_t *>(packed));
    peri_status status = peri_cuda_launched(stream);
    if (status != PERI_OK || terms == nullptr) return status;
    const unsigned blocks = (unsigned)ceil_div(count, PACK_THREADS / PERI_WARP);
    if (view->dtype == PERI_I8)
        norms<int8_t><<<blocks, PACK_THREADS, 0, handle>>>(from, view->stride_bytes, count, dim,
                                                           lengths, terms);
    else
        norms<uint8_t><<<blocks, PACK_THREADS, 0, handle>>>(from, view->stride_bytes, count, dim,
                                                            lengths, terms);
    return peri_cuda_launched(stream);
}

peri_status launch(peri_stream *stream, const table &t, peri_dtype dtype) {
    const unsigned blocks = t.query_tiles * (unsigned)ceil_div(t.row_count, TILE);
    cudaStream_t handle = peri_cuda_handle(stream);
    if (t.metric == PERI_HAMMING)
        byte_tiles<BITS><<<blocks, THREADS, 0, handle>>>(t);
    else if (t.metric == PERI_L1)
        byte_tiles<ABSOLUTES><<<blocks, THREADS, 0, handle>>>(t);
    else if (dtype == PERI_I8)
        byte_tiles<SIGNED_PRODUCTS><<<blocks, THREADS, 0, handle>>>(t);
    else
        byte_tiles<PRODUCTS><<<blocks, THREADS, 0, handle>>>(t);
    return peri_cuda_launched(stream);
}

/* What scratch holds. */
struct places {
    char *queries, *rows;
    int *row_squares;
    void *query_terms; /* squares, or lengths with cosine */
};

places cut(const plan &p, void *scratch) {
    places at;
    at.queries = static_cast<char *>(scratch);
    at.rows = at.queries + p.query_bytes;
    at.row_squares = reinterpret_cast<int *>(at.rows + p.row_bytes);
    at.query_terms = at.row_squares + p.rows;
    return at;
}

bool squared(peri_metric metric) { return metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN; }

peri_status run_queries(peri_stream *stream, const peri_op_pairwise *op, const plan &p, table t,
                        size_t first, const places &at) {
    const bool cosine = t.metric == PERI_COSINE;
    t.query_count = least(p.queries, op->queries.rows - first);
    t.query_tiles = (unsigned)ceil_div(t.query_count, TILE);
    t.out = reinterpret_cast<float *>(reinterpret_cast<char *>(t.out) + first * t.out_stride);
    t.wide = ((size_t)t.out | t.out_stride) % 16 == 0;
    void *terms = cosine || squared(t.metric) ? at.query_terms : nullptr;
    if (cosine)
        t.query_lengths = static_cast<const float *>(terms);
    else
        t.query_squares = static_cast<const int *>(terms);
    peri_status status = prepare(stream, p, &op->queries, first, t.query_count, t.metric, cosine,
                                 at.queries, terms);
    return status == PERI_OK ? launch(stream, t, op->rows.dtype) : status;
}

} /* namespace */

size_t peri_cuda_pairwise_bytes_scratch(const peri_op_pairwise *op) {
    const plan p = make_plan(op);
    return p.query_bytes + p.row_bytes + (p.queries + p.rows) * sizeof(int);
}

peri_status peri_cuda_pairwise_bytes(peri_stream *stream, const peri_op_pairwise *op,
                                     void *scratch) {
    const plan p = make_plan(op);
    const places at = cut(p, scratch);
    table t = {};
    t.queries = reinterpret_cast<const uint32_t *>(at.queries);
    t.rows = reinterpret_cast<const uint32_t *>(at.rows);
    t.row_squares = squared(op->metric) ? at.row_squares : nullptr;
    t.words = p.words;
    t.metric = op->metric;
    t.out_stride = op->out.stride_bytes;
    peri_status status = PERI_OK;
    for (size_t first = 0; first < op->rows.rows && status == PERI_OK; first += p.rows) {
        t.row_count = least(p.rows, op->rows.rows - first);
        t.row_lengths = op->metric == PERI_COSINE ? op->lengths + first : nullptr;
        t.out = static_cast<float *>(op->out.data) + first;
        status = prepare(stream, p, &op->rows, first, t.row_count, t.metric, false, at.rows,
                         squared(t.metric) ? at.row_squares : nullptr);
        for (size_t q = 0; q < op->queries.rows && status == PERI_OK; q += p.queries)
            status = run_queries(stream, op, p, t, q, at);
    }
    return status;
}
