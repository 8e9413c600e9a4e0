/* lengths: the Euclidean length of every row, canonical.
 *
 * rows [n, d] f32 f16 i8 u8 | out [n] f32
 * A warp takes a row, lanes stride the columns; of rows that are too short for enough loads to be
 * on their way at once it takes 8 at a time. No shared memory. Bound by memory: n * d * bytes. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;

constexpr uint32_t SHORT_DIM = 128; /* below, rows are short (measured) */

template <typename T, unsigned ROWS>
__global__ void __launch_bounds__(THREADS)
    row_lengths(const void *__restrict__ rows, size_t stride, size_t count, uint32_t dim,
                float *__restrict__ out) {
    using S = typename peri_row_types<T>::sum;
    const unsigned lane = threadIdx.x % PERI_WARP;
    size_t first = ((size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP) * ROWS;
    for (; first < count; first += (size_t)gridDim.x * WARPS * ROWS) {
        const T *from[ROWS];
        S sums[ROWS] = {}, mine = 0;
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            from[r] = peri_row<T>(rows, stride, first + r < count ? first + r : count - 1);
        for (uint32_t j = lane; j < dim; j += PERI_WARP) {
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++) {
                const S x = peri_widen(from[r][j]);
                sums[r] = peri_step<true>(sums[r], x, x);
            }
        }
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            const S sum = peri_fold(sums[r]);
            if (lane == r) mine = sum;
        }
        if (lane < ROWS && first + lane < count)
            out[first + lane] = __fsqrt_rn(peri_sum_value(mine));
    }
}

template <typename T, unsigned ROWS>
void launch_rows(peri_stream *stream, const peri_op_lengths *op) {
    const unsigned blocks = peri_blocks(op->rows.rows, WARPS * ROWS);
    row_lengths<T, ROWS><<<blocks, THREADS, 0, peri_cuda_handle(stream)>>>(
        op->rows.data, op->rows.stride_bytes, op->rows.rows, (uint32_t)op->rows.cols, op->out);
}

template <typename T> void launch(peri_stream *stream, const peri_op_lengths *op) {
    if (op->rows.cols < SHORT_DIM)
        launch_rows<T, 8>(stream, op);
    else
        launch_rows<T, 1>(stream, op);
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_lengths *)any;
    return peri_cuda_rows_taken(&op->rows, why);
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_lengths *)any;
    if (op->rows.rows == 0) return PERI_OK;
    switch (op->rows.dtype) {
    case PERI_F32: launch<float>(stream, op); break;
    case PERI_F16: launch<__half>(stream, op); break;
    case PERI_I8: launch<int8_t>(stream, op); break;
    case PERI_U8: launch<uint8_t>(stream, op); break;
    default: break; /* supports() let none other through */
    }
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_lengths_op = { supports, nullptr, run };
