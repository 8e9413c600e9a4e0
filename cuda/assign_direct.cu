/* assign_direct: the nearest centroid of rows by their canonical distances to all of them.
 *
 * rows [n, d] f32 f16 i8 u8, widened | centroids [c, d] f32 | keys [n] scratch
 * A warp takes 8 rows and 4 centroids at a time: lanes stride the columns, so each lane holds
 * partial sum `lane` (distance.cuh) of 32 pairs. 31 exchanges fold all pairs at once: at each
 * step a lane keeps half of its pairs and hands over the other half, until lane p holds pair p;
 * the order of additions is the canonical one. The 8 warps of a block walk the same centroids, so
 * rows and centroids come from L1. Few rows: the centroids are cut into ranges, and the least key
 * of all ranges wins, whoever comes first.
 * Work 2 * n * c * d flop without tensor cores, some 14 instructions a pair at d = 128, so about
 * 0.2 s for 1M x 16 384 x 128: the path for few centroids, and for rows that the coarse pass does
 * not settle. About 100 registers, no shared memory. */
#include "assign.cuh"
#include "distance.cuh"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned ROWS = 8, CENTROIDS = 4; /* of a warp at a time: a pair a lane */
constexpr size_t SPLIT_LEAST = 64;          /* centroids: below, loading the rows costs more */
constexpr unsigned BLOCKS_A_UNIT = 2;       /* resident for each multiprocessor */

/* Lane p gets the canonical sum of pair p, in sums[0]. */
template <unsigned OFFSET> __device__ void fold_pairs(float (&sums)[PERI_WARP], unsigned lane) {
    bool upper = (lane & OFFSET) != 0;
#pragma unroll
    for (unsigned i = 0; i < OFFSET; i++) {
        float kept = upper ? sums[i + OFFSET] : sums[i];
        float given = upper ? sums[i] : sums[i + OFFSET];
        sums[i] = __fadd_rn(kept, __shfl_xor_sync(PERI_ALL_LANES, given, OFFSET));
    }
    if constexpr (OFFSET > 1) fold_pairs<OFFSET / 2>(sums, lane);
}

template <typename T> __device__ float wide_length(const T *row, uint32_t dim) {
    float sum = 0;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP) {
        float x = peri_assign_wide(row[j]);
        sum = __fmaf_rn(x, x, sum);
    }
    return __fsqrt_rn(peri_fold(sum));
}

template <typename T, bool DOT>
__device__ float wide_sum(const T *row, const float *centroid, uint32_t dim) {
    float sum = 0;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP)
        sum = peri_step<DOT>(sum, peri_assign_wide(row[j]), centroid[j]);
    return peri_fold(sum);
}

__device__ size_t rows_of(const peri_assign_part &p) {
    return p.list_count == nullptr ? p.count : *p.list_count;
}

template <typename T> __device__ const T *row_of(const peri_assign_part &p, size_t at) {
    size_t row = p.first + (p.list == nullptr ? at : p.list[at]);
    return peri_row<T>(p.op.rows.data, p.op.rows.stride_bytes, row);
}

__global__ void __launch_bounds__(THREADS) begin_keys(peri_assign_part p) {
    size_t count = rows_of(p);
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i < count; i += (size_t)gridDim.x * THREADS)
        p.keys[i] = peri_key(__int_as_float(0x7F800000), 0);
}

/* The nearest of centroids [c, stop) to 8 rows, as keys. */
template <typename T, bool DOT>
__device__ void scan_tile(const peri_assign_part &p, size_t tile, size_t count, size_t c,
                          size_t stop) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const uint32_t dim = (uint32_t)p.op.rows.cols;
    const bool cosine = p.op.metric == PERI_COSINE;
    const T *rows[ROWS];
    float length = 0;
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) { /* the last tile repeats its last row */
        size_t at = tile * ROWS + r;
        rows[r] = row_of<T>(p, at < count ? at : count - 1);
        if (!cosine) continue;
        float of_row = wide_length(rows[r], dim);
        if (lane / CENTROIDS == r) length = of_row;
    }
    float best = __int_as_float(0x7F800000);
    uint32_t label = 0;
    for (; c < stop; c += CENTROIDS) {
        const float *centroids[CENTROIDS];
#pragma unroll
        for (unsigned i = 0; i < CENTROIDS; i++)
            centroids[i] = peri_row<float>(p.op.centroids.data, p.op.centroids.stride_bytes,
                                           c + i < stop ? c + i : stop - 1);
        float sums[PERI_WARP] = {};
        for (uint32_t j = lane; j < dim; j += PERI_WARP) {
            float x[ROWS], y[CENTROIDS];
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++) x[r] = peri_assign_wide(rows[r][j]);
#pragma unroll
            for (unsigned i = 0; i < CENTROIDS; i++) y[i] = centroids[i][j];
#pragma unroll
            for (unsigned s = 0; s < PERI_WARP; s++)
                sums[s] = peri_step<DOT>(sums[s], x[s / CENTROIDS], y[s % CENTROIDS]);
        }
        fold_pairs<PERI_WARP / 2>(sums, lane);
        size_t mine = c + lane % CENTROIDS < stop ? c + lane % CENTROIDS : stop - 1;
        float value = peri_inside(p.op.metric, sums[0], length, cosine ? p.op.lengths[mine] : 0.0f);
        bool nearer = value < best; /* a repeat of the last centroid isn't */
        best = nearer ? value : best;
        label = nearer ? (uint32_t)mine : label;
    }
    size_t at = tile * ROWS + lane / CENTROIDS;
    if (at >= count) return;
    atomicMin(reinterpret_cast<unsigned long long *>(p.keys + at),
              (unsigned long long)peri_key(best, label));
}

/* Warps stride over tiles of rows times ranges of centroids; neighbours share a range. */
template <typename T, bool DOT>
__global__ void __launch_bounds__(THREADS, BLOCKS_A_UNIT) scan_all(peri_assign_part p) {
    const size_t count = rows_of(p), clusters = p.op.centroids.rows;
    const size_t warps = (size_t)gridDim.x * WARPS, tiles = (count + ROWS - 1) / ROWS;
    if (count == 0) return;
    size_t splits = warps / tiles, most = (clusters + SPLIT_LEAST - 1) / SPLIT_LEAST;
    splits = splits < 1 ? 1 : splits < most ? splits : most;
    size_t span = (clusters + splits - 1) / splits;
    size_t item = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; item < tiles * splits; item += warps) {
        size_t begin = item / tiles * span;
        if (begin >= clusters) return;
        scan_tile<T, DOT>(p, item % tiles, count, begin,
                          begin + span < clusters ? begin + span : clusters);
    }
}

/* The distance is found again: a key does not tell -0 from +0. */
template <typename T, bool DOT>
__global__ void __launch_bounds__(THREADS) finish_keys(peri_assign_part p) {
    const size_t count = rows_of(p);
    const uint32_t dim = (uint32_t)p.op.rows.cols;
    size_t at = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; at < count; at += (size_t)gridDim.x * WARPS) {
        const T *row = row_of<T>(p, at);
        uint32_t label = peri_key_slot(p.keys[at]);
        const float *centroid = peri_row<float>(p.op.centroids.data, p.op.centroids.stride_bytes,
                                                label);
        bool cosine = p.op.metric == PERI_COSINE;
        float length = cosine ? wide_length(row, dim) : 0.0f;
        float value = peri_inside(p.op.metric, wide_sum<T, DOT>(row, centroid, dim), length,
                                  cosine ? p.op.lengths[label] : 0.0f);
        if (threadIdx.x % PERI_WARP != 0) continue;
        size_t out = p.first + (p.list == nullptr ? at : p.list[at]);
        p.op.labels[out] = label;
        if (p.op.distances != nullptr) p.op.distances[out] = value;
    }
}

struct launch {
    peri_stream *stream;
    const peri_assign_part &part;

    template <typename T, bool DOT> void go() {
        cudaStream_t handle = peri_cuda_handle(stream);
        unsigned units = (unsigned)peri_cuda_of(stream->device)->multiprocessors;
        begin_keys<<<peri_blocks(part.count, THREADS), THREADS, 0, handle>>>(part);
        scan_all<T, DOT><<<units * BLOCKS_A_UNIT, THREADS, 0, handle>>>(part);
        finish_keys<T, DOT><<<peri_blocks(part.count, WARPS), THREADS, 0, handle>>>(part);
    }
};

} /* namespace */

peri_status peri_assign_direct(peri_stream *stream, const peri_assign_part *part) {
    peri_dispatch(part->op.rows.dtype, part->op.metric, launch{ stream, *part });
    return peri_cuda_launched(stream);
}
