/* convert: rows from dtype to dtype.
 *
 * in, out [n, d] f32 f16 i8 u8 | rounding to nearest even, saturating for integers, where a NaN
 * is 0. Packed matrices are one row of n * d elements, of which a thread takes 4 or 8 at a time
 * by the widest loads and stores; of others a warp takes a row, lanes stride the columns. No shared
 * memory. Bound by memory: n * d * (bytes in + out). Equal dtypes, of any kind, are a copy.
 * Everything goes through f32, which holds the other three. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;

/* The hardware makes every NaN the same one; the host keeps its bits, as engine/core/half.h
 * says. */
__device__ float load(float x) { return x; }
__device__ float load(int8_t x) { return (float)x; }
__device__ float load(uint8_t x) { return (float)x; }
__device__ float load(__half x) {
    uint16_t bits = __half_as_ushort(x);
    if ((bits & 0x7FFFu) <= 0x7C00u) return __half2float(x);
    return __uint_as_float((uint32_t)(bits & 0x8000u) << 16 | 0x7F800000u |
                           (uint32_t)(bits & 0x3FFu) << 13);
}

__device__ float inside(float x, float least, float most) {
    if (x != x) return 0.0f;
    return rintf(x < least ? least : x > most ? most : x);
}

__device__ void store(float *out, float x) { *out = x; }
__device__ void store(int8_t *out, float x) { *out = (int8_t)(int)inside(x, -128.0f, 127.0f); }
__device__ void store(uint8_t *out, float x) { *out = (uint8_t)(int)inside(x, 0.0f, 255.0f); }
__device__ void store(__half *out, float x) {
    uint16_t sign = (uint16_t)(__float_as_uint(x) >> 16 & 0x8000u);
    *out = x != x ? __ushort_as_half((uint16_t)(sign | 0x7E00u)) : __float2half_rn(x);
}

template <typename In, typename Out>
__global__ void __launch_bounds__(THREADS)
    convert_rows(const void *__restrict__ in, size_t in_stride, void *__restrict__ out,
                 size_t out_stride, size_t rows, size_t cols) {
    size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; row < rows; row += (size_t)gridDim.x * WARPS) {
        const In *from = peri_row<In>(in, in_stride, row);
        Out *to = reinterpret_cast<Out *>(static_cast<char *>(out) + row * out_stride);
        for (size_t j = threadIdx.x % PERI_WARP; j < cols; j += PERI_WARP)
            store(to + j, load(from[j]));
    }
}

/* Elements of a thread, where all are packed: what it writes is no more than one store. */
template <typename Out> struct run_length {
    static constexpr unsigned value = sizeof(Out) == 4 ? 4 : 8;
};

template <typename T, unsigned RUN>
struct alignas(RUN * sizeof(T) < 16 ? RUN * sizeof(T) : 16) run_of {
    T x[RUN];
};

template <typename In, typename Out>
__global__ void __launch_bounds__(THREADS)
    convert_runs(const In *__restrict__ in, Out *__restrict__ out, size_t count) {
    constexpr unsigned RUN = run_length<Out>::value;
    const size_t runs = count / RUN, step = (size_t)gridDim.x * THREADS;
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (size_t r = i; r < runs; r += step) {
        const run_of<In, RUN> from = reinterpret_cast<const run_of<In, RUN> *>(in)[r];
        run_of<Out, RUN> to;
#pragma unroll
        for (unsigned e = 0; e < RUN; e++) store(&to.x[e], load(from.x[e]));
        reinterpret_cast<run_of<Out, RUN> *>(out)[r] = to;
    }
    for (i += runs * RUN; i < count; i += step) store(out + i, load(in[i]));
}

bool is_packed(const peri_view &view) {
    return view.stride_bytes == view.cols * peri_cuda_dtype_bytes(view.dtype) &&
           (size_t)view.data % 16 == 0;
}

template <typename In, typename Out> void launch(peri_stream *stream, const peri_op_convert *op) {
    cudaStream_t handle = peri_cuda_handle(stream);
    const size_t count = op->in.rows * op->in.cols;
    if (is_packed(op->in) && is_packed(op->out)) {
        convert_runs<In, Out>
            <<<peri_blocks(count, THREADS * run_length<Out>::value), THREADS, 0, handle>>>(
                static_cast<const In *>(op->in.data), static_cast<Out *>(op->out.data), count);
        return;
    }
    convert_rows<In, Out><<<peri_blocks(op->in.rows, WARPS), THREADS, 0, handle>>>(
        op->in.data, op->in.stride_bytes, op->out.data, op->out.stride_bytes, op->in.rows,
        op->in.cols);
}

template <typename In> void launch_from(peri_stream *stream, const peri_op_convert *op) {
    switch (op->out.dtype) {
    case PERI_F32: launch<In, float>(stream, op); break;
    case PERI_F16: launch<In, __half>(stream, op); break;
    case PERI_I8: launch<In, int8_t>(stream, op); break;
    case PERI_U8: launch<In, uint8_t>(stream, op); break;
    default: break; /* supports() let none other through */
    }
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_convert *)any;
    if (op->in.rows != op->out.rows || op->in.cols != op->out.cols)
        return peri_cuda_refuse(why, "shapes differ: %zu x %zu to %zu x %zu", op->in.rows,
                                op->in.cols, op->out.rows, op->out.cols);
    if (op->in.dtype == op->out.dtype) return true;
    if (!peri_cuda_is_vector(op->in.dtype) || !peri_cuda_is_vector(op->out.dtype))
        return peri_cuda_refuse(why, "%s is not converted to %s", peri_cuda_name(op->in.dtype),
                                peri_cuda_name(op->out.dtype));
    return peri_cuda_aligned(&op->in, why) && peri_cuda_aligned(&op->out, why);
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_convert *)any;
    if (op->in.rows == 0 || op->in.cols == 0) return PERI_OK;
    if (op->in.dtype == op->out.dtype)
        return peri_cuda_copy(stream, op->out.data, op->out.stride_bytes, stream->device,
                              op->in.data, op->in.stride_bytes, stream->device, op->in.rows,
                              op->in.cols * peri_cuda_dtype_bytes(op->in.dtype));
    switch (op->in.dtype) {
    case PERI_F32: launch_from<float>(stream, op); break;
    case PERI_F16: launch_from<__half>(stream, op); break;
    case PERI_I8: launch_from<int8_t>(stream, op); break;
    case PERI_U8: launch_from<uint8_t>(stream, op); break;
    default: break;
    }
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_convert_op = { supports, nullptr, run };

cudaError_t peri_cuda_code_check(void) {
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes,
                                 reinterpret_cast<const void *>(convert_rows<float, __half>));
}
