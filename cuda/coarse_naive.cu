/* coarse_naive: the contract of coarse.cuh, plainly: a stand-in until the engines are there. */
#include "coarse.cuh"
#include "device.cuh"
#include "select.cuh"
#include <cuda_fp16.h>

namespace {
constexpr unsigned THREADS = 256, WARPS = 8;
__global__ void __launch_bounds__(THREADS) naive(peri_coarse c, unsigned capacity) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_select select;
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    size_t i = blockIdx.x;
    if (c.queries_left != nullptr && i >= *c.queries_left) return;
    const __half *q = (const __half *)c.queries + i * c.depth;
    const uint64_t *bits = nullptr;
    if (c.filter.count > 0) bits = c.filter.bits[c.filter.which ? c.filter.which[i] : 0];
    peri_select_begin(&select, shared_keys, capacity, c.wanted);
    __syncthreads();
    for (unsigned o = threadIdx.x; o < c.wanted; o += THREADS)
        peri_select_push(&select, c.keys[i * c.wanted + o]);
    __syncthreads();
    peri_select_flush(&select, false);
    size_t stride = c.row_stride_bytes ? c.row_stride_bytes : c.depth * 2;
    uint32_t columns = c.columns ? c.columns : c.depth;
    for (size_t at = 0; at < c.row_count; at += WARPS) {
        size_t j = at + warp;
        if (j < c.row_count) {
            const __half *x = (const __half *)((const char *)c.rows + j * stride);
            float sum = 0;
            for (unsigned e = lane; e < columns; e += 32)
                sum += __half2float(q[e]) * __half2float(x[e]);
            sum = peri_fold(sum);
            uint32_t name = c.names ? c.names[j] : c.first + (uint32_t)j;
            float v = fmaf(c.scale, sum, c.terms ? c.terms[j] : 0.0f);
            if (v != v) v = __int_as_float(0x7F800000);
            if (lane == 0 && (!bits || (bits[name / 64] >> (name % 64) & 1)))
                peri_select_push(&select, peri_key(v, name));
        }
        peri_select_round(&select, WARPS, false);
    }
    __syncthreads();
    peri_select_flush(&select, false);
    for (unsigned o = threadIdx.x; o < c.wanted; o += THREADS)
        c.keys[i * c.wanted + o] = select.keys[o];
}
} // namespace
size_t peri_coarse_scratch(const peri_device *, const peri_coarse *) { return 0; }
peri_status peri_coarse_run(peri_stream *stream, const peri_coarse *c, void *, size_t) {
    unsigned capacity = peri_select_capacity(c->wanted, 64);
    naive<<<(unsigned)c->query_count, THREADS, 2 * capacity * 8, peri_cuda_handle(stream)>>>(
        *c, capacity);
    return peri_cuda_launched(stream);
}
