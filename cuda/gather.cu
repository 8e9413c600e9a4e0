/* gather: rows by slot.
 *
 * rows [n, d] | slots [m] i64 | out [m, d], any dtype
 * One warp a row; lanes copy the widest words that addresses, strides and row bytes all divide
 * by. Bound by memory: rows of 128 bytes and more come at the full rate of the device, shorter
 * ones don't. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;

template <typename Word>
__global__ void __launch_bounds__(THREADS)
    gather_rows(const void *__restrict__ rows, size_t stride, const int64_t *__restrict__ slots,
                void *__restrict__ out, size_t out_stride, size_t count, size_t words) {
    size_t i = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; i < count; i += (size_t)gridDim.x * WARPS) {
        const Word *from = peri_row<Word>(rows, stride, (size_t)slots[i]);
        Word *to = reinterpret_cast<Word *>(static_cast<char *>(out) + i * out_stride);
        for (size_t j = threadIdx.x % PERI_WARP; j < words; j += PERI_WARP) to[j] = from[j];
    }
}

template <typename Word>
void launch(peri_stream *stream, const peri_op_gather *op, size_t row_bytes) {
    gather_rows<Word><<<peri_blocks(op->out.rows, WARPS), THREADS, 0, peri_cuda_handle(stream)>>>(
        op->rows.data, op->rows.stride_bytes, op->slots, op->out.data, op->out.stride_bytes,
        op->out.rows, row_bytes / sizeof(Word));
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_gather *)any;
    if (op->rows.cols == op->out.cols && op->rows.dtype == op->out.dtype) return true;
    return peri_cuda_refuse(why, "%zu columns of %s are not gathered into %zu of %s", op->rows.cols,
                            peri_cuda_name(op->rows.dtype), op->out.cols,
                            peri_cuda_name(op->out.dtype));
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_gather *)any;
    size_t bytes = op->rows.cols * peri_cuda_dtype_bytes(op->rows.dtype);
    if (op->out.rows == 0 || bytes == 0) return PERI_OK;
    size_t all = (size_t)op->rows.data | (size_t)op->out.data | op->rows.stride_bytes |
                 op->out.stride_bytes | bytes;
    if (all % 16 == 0)
        launch<uint4>(stream, op, bytes);
    else if (all % 4 == 0)
        launch<uint32_t>(stream, op, bytes);
    else
        launch<uint8_t>(stream, op, bytes);
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_gather_op = { supports, nullptr, run };
