/* pairwise: the canonical distance of every query to every row.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | lengths [n] (cosine) | out [q, n] f32
 * Many pairs go to pairwise_tiles.cu (f32, f16) and pairwise_bytes.cu (i8, u8), which pack both
 * sides first. Here are few pairs, and the tables of dots of other operations, without scratch:
 * a block of 8 warps takes 16 queries and 32 rows, a warp 8 of each: 64 pairs. Lane l holds partial
 * sum l of each pair in a register, as the canonical order wants, so that 16 loads from shared
 * memory serve 64 steps. At the end the 64 sums fold in halves: a lane sends half of its sums to
 * the lane 16 away and adds what it gets to the other half, then 8 away, and so on: 62 exchanges
 * in place of 320, and each addition is one of the butterfly's. Columns are staged 64 at a
 * time, the next ones while these are worked with, f16 widened; of i8 and u8 four columns are one
 * step, in integers, whose order is free.
 * Shared memory 24 KiB; registers 64 for the sums. Bound by shared memory (16 words a lane for 64
 * steps) and by the fold and the epilogue, some 600 instructions for each 64 pairs: a third of the
 * rate of FP32 at d = 128 on an H200. L2 reads (16 + 32) / (16 * 32) * q * n * d * bytes. */
#include "pairwise.cuh"

#include <cuda_pipeline.h>

#include "device.cuh"
#include "distance.cuh"
#include "ops.h"
#include "pairwise_tiles.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned SIDE = 8; /* queries and rows of a warp */
constexpr unsigned PAIRS = SIDE * SIDE;
constexpr unsigned QUERIES = 2 * SIDE; /* of a block */
constexpr unsigned ROWS = 4 * SIDE;
constexpr unsigned WORDS = 64; /* columns that are staged at a time; words of 4 for i8 and u8 */

enum form { DOT, SQUARED, L1, HAMMING };

/* ---- steps -------------------------------------------------------------------------------- */

/* What is staged: an element of f32 and f16, four of i8 and u8. */
template <typename T> struct word_of {
    using type = uint32_t;
    static constexpr unsigned elements = 4;
};
template <> struct word_of<float> {
    using type = float;
    static constexpr unsigned elements = 1;
};
template <> struct word_of<__half> {
    using type = float;
    static constexpr unsigned elements = 1;
};

template <typename T, form FORM> __device__ float step(float sum, float q, float x) {
    if (FORM == DOT) return __fmaf_rn(q, x, sum);
    float t = __fsub_rn(q, x);
    return FORM == L1 ? __fadd_rn(sum, fabsf(t)) : __fmaf_rn(t, t, sum);
}

template <typename T, form FORM> __device__ int step(int sum, uint32_t q, uint32_t x) {
    constexpr bool whole = (T)-1 < (T)0;
    if (FORM == HAMMING) return sum + __popc(q ^ x);
    if (FORM == DOT) return whole ? __dp4a((int)q, (int)x, sum) : (int)__dp4a(q, x, (unsigned)sum);
    uint32_t apart = whole ? __vabsdiffs4(q, x) : __vabsdiffu4(q, x); /* 0..255 each */
    return (int)__dp4a(apart, FORM == L1 ? 0x01010101u : apart, (unsigned)sum);
}

struct table {
    const void *queries, *rows;
    size_t query_stride, row_stride, query_count, row_count;
    const float *lengths;
    float *out;
    size_t out_stride;
    uint32_t dim;
    peri_metric metric;
    bool raw; /* the sums themselves are asked for */
};

/* ---- staging ------------------------------------------------------------------------------ */

constexpr unsigned PIECE = 4;                /* words that a thread brings of a row: 16 bytes */
constexpr unsigned PIECES = WORDS / PIECE;   /* threads a row */
constexpr unsigned APART = THREADS / PIECES; /* rows at a time */

/* The element of f16 that is word `at`, or four of i8 and u8; 0 past the end. */
template <typename T>
__device__ typename word_of<T>::type load_word(const T *row, uint32_t dim, uint32_t at) {
    if constexpr (word_of<T>::elements == 1) {
        return at < dim ? peri_widen(row[at]) : 0.0f;
    } else {
        uint32_t word = 0;
        for (uint32_t b = 0, j = at * 4; b < 4 && j < dim; b++, j++)
            word |= (uint32_t)(uint8_t)row[j] << 8 * b;
        return word;
    }
}

/* Asks for words first.. of some rows; f16, rows that are not aligned and the last bytes of a row,
 * with zeros behind it, are loaded at once. */
template <typename T, unsigned COUNT>
__device__ void stage(const void *rows, size_t stride, size_t row, size_t last, uint32_t dim,
                      uint32_t first, typename word_of<T>::type (*to)[WORDS]) {
    const unsigned piece = threadIdx.x % PIECES * PIECE;
#pragma unroll
    for (unsigned i = threadIdx.x / PIECES; i < COUNT; i += APART) {
        const T *from = peri_row<T>(rows, stride, row + i < last ? row + i : last);
        const uint32_t at = (first + piece) * word_of<T>::elements;
        if (sizeof(T) != sizeof(__half) && (size_t)from % 16 == 0 && at + 16 / sizeof(T) <= dim) {
            __pipeline_memcpy_async(&to[i][piece], from + at, 16);
            continue;
        }
#pragma unroll
        for (unsigned w = 0; w < PIECE; w++)
            to[i][piece + w] = load_word(from, dim, first + piece + w);
    }
}

/* ---- kernel ------------------------------------------------------------------------------- */

/* Half of the sums go to the lane `offset` away: N pairs of them become N. */
template <unsigned N, typename S> __device__ void fold_half(S *sums, unsigned offset) {
    const bool upper = threadIdx.x & offset;
#pragma unroll
    for (unsigned i = 0; i < N; i++) {
        S sent = upper ? sums[i] : sums[i + N], kept = upper ? sums[i + N] : sums[i];
        sums[i] = peri_add(kept, __shfl_xor_sync(PERI_ALL_LANES, sent, offset));
    }
}

/* Columns of 8 queries and 8 rows, all of them or those of the lanes below `lanes`. */
template <typename T, form FORM, typename S, typename W>
__device__ void step_pairs(S *sums, const W (*queries)[WORDS], const W (*rows)[WORDS],
                           unsigned at) {
    W q[SIDE], x[SIDE];
#pragma unroll
    for (unsigned i = 0; i < SIDE; i++) q[i] = queries[i][at];
#pragma unroll
    for (unsigned i = 0; i < SIDE; i++) x[i] = rows[i][at];
#pragma unroll
    for (unsigned i = 0; i < PAIRS; i++) sums[i] = step<T, FORM>(sums[i], q[i / SIDE], x[i % SIDE]);
}

/* After the folds lane l has pairs 2 l and 2 l + 1. */
template <typename S>
__device__ void write_pairs(const table &t, const S *sums, const float *query_lengths,
                            unsigned warp_query, size_t first_query, size_t first_row) {
    const unsigned pair = threadIdx.x % PERI_WARP * 2, i = warp_query + pair / SIDE;
    if (first_query + i >= t.query_count) return;
    float *out = reinterpret_cast<float *>(reinterpret_cast<char *>(t.out) +
                                           (first_query + i) * t.out_stride);
#pragma unroll
    for (unsigned h = 0; h < 2; h++) {
        const size_t row = first_row + pair % SIDE + h;
        if (row >= t.row_count) break;
        const float sum = peri_sum_value(sums[h]);
        const float length = t.lengths == nullptr ? 0.0f : t.lengths[row];
        out[row] = t.raw ? sum : peri_inside(t.metric, sum, query_lengths[i], length);
    }
}

template <typename T, form FORM> __global__ void __launch_bounds__(THREADS, 2) pair_sums(table t) {
    using Query = typename peri_row_types<T>::query;
    using S = typename peri_row_types<T>::sum;
    using W = typename word_of<T>::type;
    __shared__ __align__(16) W queries[2][QUERIES][WORDS], rows[2][ROWS][WORDS];
    __shared__ float query_lengths[QUERIES];
    const unsigned warp = threadIdx.x / PERI_WARP, lane = threadIdx.x % PERI_WARP;
    const unsigned warp_query = warp / 4 * SIDE, warp_row = warp % 4 * SIDE;
    const size_t first_query = (size_t)blockIdx.y * QUERIES, first_row = (size_t)blockIdx.x * ROWS;
    const uint32_t words = (t.dim + word_of<T>::elements - 1) / word_of<T>::elements;
    for (unsigned i = warp; i < QUERIES && t.lengths != nullptr; i += WARPS) {
        const size_t query = first_query + i < t.query_count ? first_query + i : first_query;
        float length = peri_warp_length(peri_row<Query>(t.queries, t.query_stride, query), t.dim);
        if (lane == 0) query_lengths[i] = length;
    }
    stage<Query, QUERIES>(t.queries, t.query_stride, first_query, t.query_count - 1, t.dim, 0,
                          queries[0]);
    stage<T, ROWS>(t.rows, t.row_stride, first_row, t.row_count - 1, t.dim, 0, rows[0]);
    __pipeline_commit();
    S sums[PAIRS] = {};
    unsigned turn = 0;
    for (uint32_t first = 0; first < words; first += WORDS, turn ^= 1) {
        __pipeline_wait_prior(0);
        __syncthreads(); /* all that is staged is there; the other half is done with */
        if (first + WORDS < words) {
            stage<Query, QUERIES>(t.queries, t.query_stride, first_query, t.query_count - 1, t.dim,
                                  first + WORDS, queries[turn ^ 1]);
            stage<T, ROWS>(t.rows, t.row_stride, first_row, t.row_count - 1, t.dim, first + WORDS,
                           rows[turn ^ 1]);
            __pipeline_commit();
        }
        const unsigned count = words - first < WORDS ? words - first : WORDS;
        for (unsigned at = lane; at < count; at += PERI_WARP)
            step_pairs<T, FORM>(sums, queries[turn] + warp_query, rows[turn] + warp_row, at);
    }
    fold_half<32>(sums, 16);
    fold_half<16>(sums, 8);
    fold_half<8>(sums, 4);
    fold_half<4>(sums, 2);
    fold_half<2>(sums, 1);
    write_pairs(t, sums, query_lengths, warp_query, first_query, first_row + warp_row);
}

/* ---- the operation ------------------------------------------------------------------------ */

/* A grid has at most 65535 blocks one way: queries go in chunks. */
template <typename T, form FORM> peri_status launch(peri_stream *stream, table t) {
    const size_t chunk = (size_t)65535 * QUERIES, count = t.query_count;
    const unsigned row_tiles = (unsigned)((t.row_count + ROWS - 1) / ROWS);
    for (size_t first = 0; first < count; first += chunk) {
        table part = t;
        part.queries = static_cast<const char *>(t.queries) + first * t.query_stride;
        part.out = reinterpret_cast<float *>(reinterpret_cast<char *>(t.out) +
                                             first * t.out_stride);
        part.query_count = count - first < chunk ? count - first : chunk;
        const dim3 grid(row_tiles, (unsigned)((part.query_count + QUERIES - 1) / QUERIES));
        pair_sums<T, FORM><<<grid, THREADS, 0, peri_cuda_handle(stream)>>>(part);
        peri_status status = peri_cuda_launched(stream);
        if (status != PERI_OK) return status;
    }
    return PERI_OK;
}

template <typename T> peri_status launch_form(peri_stream *stream, const table &t) {
    switch (t.metric) {
    case PERI_SQEUCLIDEAN:
    case PERI_EUCLIDEAN: return launch<T, SQUARED>(stream, t);
    case PERI_L1: return launch<T, L1>(stream, t);
    default: return launch<T, DOT>(stream, t);
    }
}

table make_table(const peri_view *queries, const peri_view *rows, const peri_view *out) {
    table t = {};
    t.queries = queries->data;
    t.rows = rows->data;
    t.query_stride = queries->stride_bytes;
    t.row_stride = rows->stride_bytes;
    t.query_count = queries->rows;
    t.row_count = rows->rows;
    t.out = static_cast<float *>(out->data);
    t.out_stride = out->stride_bytes;
    t.dim = (uint32_t)rows->cols;
    return t;
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_pairwise *)any;
    const peri_view &out = op->out;
    if (!peri_cuda_scan_taken(op->metric, &op->queries, &op->rows, op->lengths, why)) return false;
    if (out.dtype == PERI_F32 && out.rows == op->queries.rows && out.cols == op->rows.rows)
        return peri_cuda_aligned(&out, why);
    return peri_cuda_refuse(why, "distances of %zu queries to %zu rows do not go into %zu x %zu %s",
                            op->queries.rows, op->rows.rows, out.rows, out.cols,
                            peri_cuda_name(out.dtype));
}

bool whole(const peri_op_pairwise *op) {
    return op->rows.dtype == PERI_I8 || op->rows.dtype == PERI_U8;
}

size_t scratch(const peri_device *, const peri_op *any) {
    auto op = (const peri_op_pairwise *)any;
    if (!peri_cuda_pairwise_tiled(op)) return 0;
    return whole(op) ? peri_cuda_pairwise_bytes_scratch(op) : peri_cuda_pairwise_tiles_scratch(op);
}

peri_status run(peri_stream *stream, const peri_op *any, void *room, size_t bytes) {
    auto op = (const peri_op_pairwise *)any;
    if (op->queries.rows == 0 || op->rows.rows == 0) return PERI_OK;
    if (bytes < scratch(stream->device, any))
        return stream->device->host->fail(PERI_E_ARGUMENT,
                                          "pairwise: %zu bytes of scratch, %zu needed", bytes,
                                          scratch(stream->device, any));
    if (peri_cuda_pairwise_tiled(op))
        return whole(op) ? peri_cuda_pairwise_bytes(stream, op, room)
                         : peri_cuda_pairwise_tiles(stream, op, room);
    table t = make_table(&op->queries, &op->rows, &op->out);
    t.metric = op->metric;
    t.lengths = op->metric == PERI_COSINE ? op->lengths : nullptr;
    switch (op->rows.dtype) {
    case PERI_F32: return launch_form<float>(stream, t);
    case PERI_F16: return launch_form<__half>(stream, t);
    case PERI_I8: return launch_form<int8_t>(stream, t);
    default: break; /* supports() let u8 through, and none other */
    }
    return t.metric == PERI_HAMMING ? launch<uint8_t, HAMMING>(stream, t)
                                    : launch_form<uint8_t>(stream, t);
}

} /* namespace */

peri_status peri_cuda_dots(peri_stream *stream, const peri_view *a, const peri_view *b,
                           const peri_view *out) {
    table t = make_table(a, b, out);
    t.raw = true;
    return a->rows == 0 || b->rows == 0 ? PERI_OK : launch<float, DOT>(stream, t);
}

const peri_cuda_op peri_cuda_pairwise_op = { supports, scratch, run };
