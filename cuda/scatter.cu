/* scatter: rows to slots.
 *
 * rows [n, d] | from, to [m] i64, either may be left out | out [., d], any dtype
 * One warp a row, lanes copy the widest words that addresses, strides and row bytes all divide by;
 * between interleaved layouts of u8 a thread moves one byte, so that 32 rows of a group are one
 * access. Bound by memory. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;

template <typename Word>
__global__ void __launch_bounds__(THREADS) scatter_rows(peri_op_scatter op, size_t words) {
    size_t i = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; i < op.count; i += (size_t)gridDim.x * WARPS) {
        size_t source = op.from == nullptr ? i : (size_t)op.from[i];
        size_t target = op.to == nullptr ? i : (size_t)op.to[i];
        const Word *from = peri_row<Word>(op.rows.data, op.rows.stride_bytes, source);
        Word *to = reinterpret_cast<Word *>(static_cast<char *>(op.out.data) +
                                            target * op.out.stride_bytes);
        for (size_t j = threadIdx.x % PERI_WARP; j < words; j += PERI_WARP) to[j] = from[j];
    }
}

__device__ size_t byte_at(const peri_view &view, bool interleaved, size_t row, size_t b) {
    const size_t group = PERI_CODES_GROUP;
    if (!interleaved) return row * view.stride_bytes + b;
    return (row - row % group) * view.cols + b * group + row % group;
}

/* Neighbouring threads have neighbouring rows. */
__global__ void __launch_bounds__(THREADS) scatter_codes(peri_op_scatter op) {
    const uint8_t *in = static_cast<const uint8_t *>(op.rows.data);
    uint8_t *out = static_cast<uint8_t *>(op.out.data);
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i < op.count; i += (size_t)gridDim.x * THREADS) {
        size_t source = op.from == nullptr ? i : (size_t)op.from[i];
        size_t target = op.to == nullptr ? i : (size_t)op.to[i];
        for (size_t b = 0; b < op.rows.cols; b++)
            out[byte_at(op.out, op.out_interleaved, target, b)] =
                in[byte_at(op.rows, op.rows_interleaved, source, b)];
    }
}

template <typename Word>
void launch(peri_stream *stream, const peri_op_scatter *op, size_t row_bytes) {
    scatter_rows<Word><<<peri_blocks(op->count, WARPS), THREADS, 0, peri_cuda_handle(stream)>>>(
        *op, row_bytes / sizeof(Word));
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_scatter *)any;
    if (op->rows.cols != op->out.cols || op->rows.dtype != op->out.dtype)
        return peri_cuda_refuse(why, "%zu columns of %s are not scattered into %zu of %s",
                                op->rows.cols, peri_cuda_name(op->rows.dtype), op->out.cols,
                                peri_cuda_name(op->out.dtype));
    if ((op->rows_interleaved || op->out_interleaved) && op->rows.dtype != PERI_U8)
        return peri_cuda_refuse(why, "rows of %s are not interleaved, only u8",
                                peri_cuda_name(op->rows.dtype));
    return true;
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_scatter *)any;
    size_t bytes = op->rows.cols * peri_cuda_dtype_bytes(op->rows.dtype);
    if (op->count == 0 || bytes == 0) return PERI_OK;
    size_t all = (size_t)op->rows.data | (size_t)op->out.data | op->rows.stride_bytes |
                 op->out.stride_bytes | bytes;
    if (op->rows_interleaved || op->out_interleaved)
        scatter_codes<<<peri_blocks(op->count, THREADS), THREADS, 0, peri_cuda_handle(stream)>>>(
            *op);
    else if (all % 16 == 0)
        launch<uint4>(stream, op, bytes);
    else if (all % 4 == 0)
        launch<uint32_t>(stream, op, bytes);
    else
        launch<uint8_t>(stream, op, bytes);
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_scatter_op = { supports, nullptr, run };
