/* refine: canonical distances of given candidates.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | candidates [q, columns] i64, PERI_ID_NONE skipped
 * One block a query, one warp a candidate, lanes stride the columns of the row. k == 0: a
 * distance for each candidate, in its place. k > 0: the best k in shared memory (select.cuh, 64
 * KiB at most), repeats dropped when the buffer is sorted: the same slot has the same key. Bound
 * by random reads of rows: q * columns * d * bytes. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned CAPACITY_MIN = 64;
constexpr size_t SHARED_UNASKED = (size_t)47 << 10; /* with the static part */

template <typename T, int SUM>
__device__ float distance(const peri_op_refine &op, const typename peri_row_types<T>::query *query,
                          float query_length, size_t slot) {
    const T *row = peri_row<T>(op.rows.data, op.rows.stride_bytes, slot);
    float sum = peri_warp_sum<SUM>(query, row, (uint32_t)op.rows.cols);
    return peri_inside(op.metric, sum, query_length,
                       op.metric == PERI_COSINE ? op.lengths[slot] : 0.0f);
}

template <typename T, int SUM>
__global__ void __launch_bounds__(THREADS) refine_all(peri_op_refine op) {
    using Query = typename peri_row_types<T>::query;
    const unsigned warp = threadIdx.x / PERI_WARP;
    for (size_t i = blockIdx.x; i < op.queries.rows; i += gridDim.x) {
        const Query *query = peri_row<Query>(op.queries.data, op.queries.stride_bytes, i);
        float length = op.metric == PERI_COSINE ? peri_warp_length(query, (uint32_t)op.rows.cols)
                                                : 0.0f;
        for (size_t j = warp; j < op.columns; j += WARPS) {
            int64_t slot = op.candidates[i * op.columns + j];
            float value = __int_as_float(0x7F800000);
            if (slot != PERI_ID_NONE) value = distance<T, SUM>(op, query, length, (size_t)slot);
            if (threadIdx.x % PERI_WARP == 0) op.distances[i * op.columns + j] = value;
        }
    }
}

template <typename T, int SUM>
__global__ void __launch_bounds__(THREADS) refine_best(peri_op_refine op, unsigned capacity) {
    using Query = typename peri_row_types<T>::query;
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_select select;
    const unsigned warp = threadIdx.x / PERI_WARP;
    const uint32_t dim = (uint32_t)op.rows.cols;
    for (size_t i = blockIdx.x; i < op.queries.rows; i += gridDim.x) {
        const Query *query = peri_row<Query>(op.queries.data, op.queries.stride_bytes, i);
        float length = op.metric == PERI_COSINE ? peri_warp_length(query, dim) : 0.0f;
        peri_select_begin(&select, shared_keys, capacity, (unsigned)op.k);
        __syncthreads();
        for (size_t at = 0; at < op.columns; at += WARPS) {
            size_t j = at + warp;
            int64_t slot = j < op.columns ? op.candidates[i * op.columns + j] : PERI_ID_NONE;
            if (slot != PERI_ID_NONE) {
                float value = distance<T, SUM>(op, query, length, (size_t)slot);
                if (threadIdx.x % PERI_WARP == 0)
                    peri_select_push(&select, peri_key(value, (uint32_t)slot));
            }
            peri_select_round(&select, WARPS, true);
        }
        __syncthreads();
        peri_select_flush(&select, true);
        peri_select_write<T, SUM>(&select, query, op.rows.data, op.rows.stride_bytes, op.lengths,
                                  dim, op.metric, op.ids + i * op.k, op.distances + i * op.k);
        __syncthreads(); /* the buffer is read before the next query clears it */
    }
}

struct launch {
    peri_stream *stream;
    const peri_op_refine *op;

    template <typename T, int SUM> void go() {
        cudaStream_t handle = peri_cuda_handle(stream);
        unsigned blocks = peri_blocks(op->queries.rows, 1);
        if (op->k == 0) {
            refine_all<T, SUM><<<blocks, THREADS, 0, handle>>>(*op);
            return;
        }
        unsigned capacity = peri_select_capacity(op->k, CAPACITY_MIN);
        size_t bytes = 2 * capacity * sizeof(uint64_t);
        if (bytes > SHARED_UNASKED) /* a refusal shows at the launch */
            (void)cudaFuncSetAttribute(refine_best<T, SUM>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
        refine_best<T, SUM><<<blocks, THREADS, bytes, handle>>>(*op, capacity);
    }
};

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_refine *)any;
    if (op->k > PERI_CUDA_K_MAX)
        return peri_cuda_refuse(why, "not on cuda: k: %zu given, at most %u is taken", op->k,
                                PERI_CUDA_K_MAX);
    return peri_cuda_scan_taken(op->metric, &op->queries, &op->rows, op->lengths, why);
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_refine *)any;
    if (op->queries.rows == 0 || (op->k == 0 && op->columns == 0)) return PERI_OK;
    peri_dispatch_all(op->rows.dtype, op->metric, launch{ stream, op });
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_refine_op = { supports, nullptr, run };
