/* pairwise: the canonical distance of every query to every row.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | lengths [n] (cosine) | out [q, n] f32
 * A block of 8 warps takes 16 queries and 32 rows, a warp 8 of each: 64 pairs. Lane l holds partial
 * sum l of each pair in a register, as the canonical order wants, so that 16 loads from shared
 * memory serve 64 steps. At the end the 64 sums fold in halves: a lane sends half of its sums to
 * the lane 16 away and adds what it gets to the other half, then 8 away, and so on: 62 exchanges
 * in place of 320, and each addition is one of the butterfly's. Columns are staged 128 at a time,
 * f16 widened; of i8 and u8 four columns are one step, in integers, whose order is free.
 * Shared memory 24 KiB; registers 64 for the sums. Work q * n * d * 2 flop at the rate of FP32, and
 * a fold that is as much as 60 columns; L2 reads (16 + 32) / (16 * 32) * q * n * d * bytes. */
#include "pairwise.cuh"

#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned SIDE = 8; /* queries and rows of a warp */
constexpr unsigned PAIRS = SIDE * SIDE;
constexpr unsigned QUERIES = 2 * SIDE; /* of a block */
constexpr unsigned ROWS = 4 * SIDE;
constexpr unsigned WORDS = 128; /* columns that are staged; words of 4 for i8 and u8 */

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

/* ---- staging ------------------------------------------------------------------------------ */

/* Words first.. of a row into 128 places; what is past its end is 0. */
template <typename T>
__device__ void stage(const T *row, uint32_t dim, uint32_t first, bool aligned,
                      typename word_of<T>::type *to) {
    constexpr unsigned elements = word_of<T>::elements;
    for (unsigned i = threadIdx.x % PERI_WARP; i < WORDS; i += PERI_WARP) {
        const uint32_t at = (first + i) * elements;
        if constexpr (elements == 1) {
            to[i] = at < dim ? peri_widen(row[at]) : 0.0f;
        } else {
            uint32_t word = 0;
            if (aligned && at + 4 <= dim)
                word = *reinterpret_cast<const uint32_t *>(row + at);
            else
                for (unsigned b = 0; b < 4 && at + b < dim; b++)
                    word |= (uint32_t)(uint8_t)row[at + b] << 8 * b;
            to[i] = word;
        }
    }
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

template <typename T>
__device__ const T *clamped(const void *data, size_t stride, size_t row, size_t count) {
    return peri_row<T>(data, stride, row < count ? row : count - 1);
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
    __shared__ W queries[QUERIES][WORDS], rows[ROWS][WORDS];
    __shared__ float query_lengths[QUERIES];
    const unsigned warp = threadIdx.x / PERI_WARP, lane = threadIdx.x % PERI_WARP;
    const unsigned warp_query = warp / 4 * SIDE, warp_row = warp % 4 * SIDE;
    const size_t row_tiles = (t.row_count + ROWS - 1) / ROWS;
    const size_t first_query = blockIdx.x / row_tiles * QUERIES;
    const size_t first_row = blockIdx.x % row_tiles * ROWS;
    const uint32_t words = (t.dim + word_of<T>::elements - 1) / word_of<T>::elements;
    const bool query_aligned = ((size_t)t.queries | t.query_stride) % 4 == 0;
    const bool row_aligned = ((size_t)t.rows | t.row_stride) % 4 == 0;
    for (unsigned i = warp; i < QUERIES && t.lengths != nullptr; i += WARPS) {
        const Query *query = clamped<Query>(t.queries, t.query_stride, first_query + i,
                                            t.query_count);
        float length = peri_warp_length(query, t.dim);
        if (lane == 0) query_lengths[i] = length;
    }
    S sums[PAIRS] = {};
    for (uint32_t first = 0; first < words; first += WORDS) {
        for (unsigned i = warp; i < QUERIES; i += WARPS)
            stage<Query>(clamped<Query>(t.queries, t.query_stride, first_query + i, t.query_count),
                         t.dim, first, query_aligned, queries[i]);
        for (unsigned i = warp; i < ROWS; i += WARPS)
            stage<T>(clamped<T>(t.rows, t.row_stride, first_row + i, t.row_count), t.dim, first,
                     row_aligned, rows[i]);
        __syncthreads();
        const unsigned count = words - first < WORDS ? words - first : WORDS;
        for (unsigned at = lane; at < count; at += PERI_WARP)
            step_pairs<T, FORM>(sums, queries + warp_query, rows + warp_row, at);
        __syncthreads();
    }
    fold_half<32>(sums, 16);
    fold_half<16>(sums, 8);
    fold_half<8>(sums, 4);
    fold_half<4>(sums, 2);
    fold_half<2>(sums, 1);
    write_pairs(t, sums, query_lengths, warp_query, first_query, first_row + warp_row);
}

/* ---- the operation ------------------------------------------------------------------------ */

/* Blocks of a launch are numbered by 31 bits: queries go in chunks. */
template <typename T, form FORM> peri_status launch(peri_stream *stream, table t) {
    const size_t row_tiles = (t.row_count + ROWS - 1) / ROWS;
    const size_t chunk = ((size_t)1 << 30) / row_tiles * QUERIES, count = t.query_count;
    for (size_t first = 0; first < count; first += chunk) {
        table part = t;
        part.queries = static_cast<const char *>(t.queries) + first * t.query_stride;
        part.out = reinterpret_cast<float *>(reinterpret_cast<char *>(t.out) +
                                             first * t.out_stride);
        part.query_count = count - first < chunk ? count - first : chunk;
        const size_t blocks = (part.query_count + QUERIES - 1) / QUERIES * row_tiles;
        pair_sums<T, FORM><<<(unsigned)blocks, THREADS, 0, peri_cuda_handle(stream)>>>(part);
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
    peri_metric metric = op->metric; /* these two are taken here, whoever else declines them */
    if (metric == PERI_HAMMING && op->rows.dtype != PERI_U8)
        return peri_cuda_refuse(why, "hamming compares the bits of u8 rows, not of %s",
                                peri_cuda_name(op->rows.dtype));
    if (metric == PERI_L1 || metric == PERI_HAMMING) metric = PERI_SQEUCLIDEAN;
    if (!peri_cuda_search_taken(metric, &op->queries, &op->rows, op->lengths, why)) return false;
    if (out.dtype == PERI_F32 && out.rows == op->queries.rows && out.cols == op->rows.rows)
        return peri_cuda_aligned(&out, why);
    return peri_cuda_refuse(why, "distances of %zu queries to %zu rows do not go into %zu x %zu %s",
                            op->queries.rows, op->rows.rows, out.rows, out.cols,
                            peri_cuda_name(out.dtype));
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_pairwise *)any;
    if (op->queries.rows == 0 || op->rows.rows == 0) return PERI_OK;
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

const peri_cuda_op peri_cuda_pairwise_op = { supports, nullptr, run };
