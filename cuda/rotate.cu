/* rotate: rows less their centroids, turned by a matrix.
 *
 * rows [n, d] f32 f16 i8 u8 | lengths [n] | centroids [m, d] | labels [n] | rotation [cols, d]
 * out [n, cols] f32
 * One warp a row divides and subtracts: into `out`, or, with a rotation, into scratch, a chunk of
 * rows at a time, whose canonical dots with the rows of the matrix are a table (pairwise.cuh).
 * Without a rotation bound by memory, with it by the table's n * cols * d * 2 flop. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"
#include "pairwise.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr size_t SCRATCH_MAX = (size_t)64 << 20;

/* Rows first.. of the operation into `out`, zeros behind them up to `cols`. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    subtract_rows(peri_op_rotate op, size_t first, size_t count, char *out, size_t out_stride,
                  size_t cols) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const size_t dim = op.rows.cols;
    size_t i = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; i < count; i += (size_t)gridDim.x * WARPS) {
        const T *row = peri_row<T>(op.rows.data, op.rows.stride_bytes, first + i);
        const float length = op.lengths == nullptr ? 1.0f : op.lengths[first + i];
        const size_t label = op.labels == nullptr ? 0 : op.labels[first + i];
        float *to = reinterpret_cast<float *>(out + i * out_stride);
        for (size_t j = lane; j < cols; j += PERI_WARP) {
            float x = j < dim ? (float)peri_widen(row[j]) : 0.0f;
            if (op.lengths != nullptr && j < dim) x = __fdiv_rn(x, length);
            if (op.centroids != nullptr && j < dim) x = __fsub_rn(x, op.centroids[label * dim + j]);
            to[j] = x;
        }
    }
}

struct chunk {
    size_t first, count;
    void *out;
    size_t stride, cols;
};

peri_status subtract(peri_stream *stream, const peri_op_rotate *op, const chunk &c) {
    cudaStream_t handle = peri_cuda_handle(stream);
    unsigned blocks = peri_blocks(c.count, WARPS);
    char *out = static_cast<char *>(c.out);
    switch (op->rows.dtype) {
#define ROTATE_CASE(NAME, T)                                                                       \
    case PERI_##NAME:                                                                              \
        subtract_rows<T>                                                                           \
            <<<blocks, THREADS, 0, handle>>>(*op, c.first, c.count, out, c.stride, c.cols);        \
        break;
        ROTATE_CASE(F32, float)
        ROTATE_CASE(F16, __half)
        ROTATE_CASE(I8, int8_t)
        ROTATE_CASE(U8, uint8_t)
#undef ROTATE_CASE
    default: break; /* supports() let none other through */
    }
    return peri_cuda_launched(stream);
}

size_t chunk_rows(const peri_op_rotate *op) {
    size_t fit = SCRATCH_MAX / (op->rows.cols * sizeof(float));
    return op->rows.rows < fit ? op->rows.rows : fit;
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_rotate *)any;
    if (!peri_cuda_rows_taken(&op->rows, why)) return false;
    if (op->out.dtype == PERI_F32 && op->out.rows == op->rows.rows && op->out.cols > 0 &&
        (op->rotation != nullptr || op->out.cols >= op->rows.cols))
        return peri_cuda_aligned(&op->out, why);
    return peri_cuda_refuse(why, "%zu x %zu rows are not rotated into %zu x %zu %s", op->rows.rows,
                            op->rows.cols, op->out.rows, op->out.cols,
                            peri_cuda_name(op->out.dtype));
}

size_t scratch(const peri_device *, const peri_op *any) {
    auto op = (const peri_op_rotate *)any;
    return op->rotation == nullptr ? 0 : chunk_rows(op) * op->rows.cols * sizeof(float);
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t) {
    auto op = (const peri_op_rotate *)any;
    const size_t rows = op->rows.rows, dim = op->rows.cols, stride = dim * sizeof(float);
    if (rows == 0) return PERI_OK;
    if (op->rotation == nullptr)
        return subtract(stream, op, { 0, rows, op->out.data, op->out.stride_bytes, op->out.cols });
    peri_view turned = { scratch, 0, dim, stride, PERI_F32, op->out.place };
    peri_view matrix = {
        const_cast<float *>(op->rotation), op->out.cols, dim, stride, PERI_F32, op->out.place
    };
    peri_status status = PERI_OK;
    for (size_t first = 0; first < rows && status == PERI_OK; first += chunk_rows(op)) {
        peri_view out = op->out;
        turned.rows = rows - first < chunk_rows(op) ? rows - first : chunk_rows(op);
        out.data = static_cast<char *>(op->out.data) + first * op->out.stride_bytes;
        status = subtract(stream, op, { first, turned.rows, scratch, stride, dim });
        if (status == PERI_OK) status = peri_cuda_dots(stream, &turned, &matrix, &out);
    }
    return status;
}

} /* namespace */

const peri_cuda_op peri_cuda_rotate_op = { supports, scratch, run };
