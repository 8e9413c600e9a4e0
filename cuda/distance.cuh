/* distance.cuh: the canonical distance by one warp, bit for bit that of engine/core/distance.h.
 *
 * Lane l holds partial sum l: elements l, l + 32, ... in ascending order, by one fused
 * multiply-add each. The butterfly adds lane l + 16, then + 8, + 4, + 2, + 1: addition commutes,
 * so every lane ends with the bits that the written order gives. Each rounding is an intrinsic,
 * so that nvcc contracts nothing. i8 and u8 sum as integers, where order does not matter. */
#ifndef PERI_CUDA_DISTANCE_CUH
#define PERI_CUDA_DISTANCE_CUH

#include <cuda_fp16.h>

#include "perigee_backend.h"

constexpr unsigned PERI_WARP = 32;
constexpr unsigned PERI_ALL_LANES = 0xFFFFFFFFu;

/* What queries and sums are for rows of T. */
template <typename T> struct peri_row_types {
    using query = T;
    using sum = int;
};
template <> struct peri_row_types<float> {
    using query = float;
    using sum = float;
};
template <> struct peri_row_types<__half> {
    using query = float;
    using sum = float;
};

__device__ inline float peri_widen(float x) { return x; }
__device__ inline float peri_widen(__half x) { return __half2float(x); }
__device__ inline int peri_widen(int8_t x) { return x; }
__device__ inline int peri_widen(uint8_t x) { return x; }

/* What is summed. The first two are also `false` and `true` of the question whether it is a dot
 * product, which is all that most kernels ask. */
constexpr int PERI_SUM_SQUARES = 0, PERI_SUM_PRODUCTS = 1, PERI_SUM_ABSOLUTES = 2,
              PERI_SUM_BITS = 3; /* hamming, u8 only */

template <int SUM> __device__ inline float peri_step(float sum, float q, float x) {
    if (SUM == PERI_SUM_PRODUCTS) return __fmaf_rn(q, x, sum);
    float t = __fsub_rn(q, x);
    return SUM == PERI_SUM_ABSOLUTES ? __fadd_rn(sum, fabsf(t)) : __fmaf_rn(t, t, sum);
}
template <int SUM> __device__ inline int peri_step(int sum, int q, int x) {
    if (SUM == PERI_SUM_PRODUCTS) return sum + q * x;
    if (SUM == PERI_SUM_BITS) return sum + __popc((unsigned)(q ^ x));
    int t = q - x;
    return sum + (SUM == PERI_SUM_ABSOLUTES ? abs(t) : t * t);
}

__device__ inline float peri_add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline int peri_add(int a, int b) { return a + b; }
__device__ inline float peri_sum_value(float sum) { return sum; }
__device__ inline float peri_sum_value(int sum) { return __int2float_rn(sum); }

template <typename S> __device__ inline S peri_fold(S sum) {
    for (int offset = 16; offset > 0; offset /= 2)
        sum = peri_add(sum, __shfl_xor_sync(PERI_ALL_LANES, sum, offset));
    return sum;
}

/* The canonical sum of two rows; every lane of the warp calls and gets it. */
template <int SUM, typename Q, typename T>
__device__ inline float peri_warp_sum(const Q *__restrict__ q, const T *__restrict__ x,
                                      uint32_t dim) {
    typename peri_row_types<T>::sum sum = 0;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP)
        sum = peri_step<SUM>(sum, peri_widen(q[j]), peri_widen(x[j]));
    return peri_sum_value(peri_fold(sum));
}

template <typename T> __device__ inline float peri_warp_length(const T *row, uint32_t dim) {
    return __fsqrt_rn(peri_warp_sum<PERI_SUM_PRODUCTS>(row, row, dim));
}

/* From the sum to the value inside, where smaller is nearer; a NaN, which only an overflow of sums
 * of both signs makes, is the farthest. */
__device__ inline float peri_inside(peri_metric metric, float sum, float query_length,
                                    float row_length) {
    float value = sum;
    if (metric == PERI_INNER_PRODUCT) value = -sum;
    if (metric == PERI_COSINE)
        value = __fsub_rn(1.0f, __fdiv_rn(sum, __fmul_rn(query_length, row_length)));
    return value != value ? __int_as_float(0x7F800000) : value;
}

template <typename T>
__device__ inline const T *peri_row(const void *data, size_t stride, size_t row) {
    return reinterpret_cast<const T *>(static_cast<const char *>(data) + row * stride);
}

/* Blocks for `items` at `per_block`, bounded; the kernels stride over what is left. */
static inline unsigned peri_blocks(size_t items, size_t per_block) {
    const size_t most = 65536;
    size_t blocks = items / per_block + (items % per_block != 0);
    return (unsigned)(blocks < most ? blocks : most);
}

/* Calls run.go<T, DOT>() for a dtype and a metric: the one switch over both. */
template <typename Run>
static inline void peri_dispatch(peri_dtype dtype, peri_metric metric, Run run) {
    bool dot = metric == PERI_INNER_PRODUCT || metric == PERI_COSINE;
    switch (dtype) {
#define PERI_CUDA_CASE(NAME, T)                                                                    \
    case PERI_##NAME: dot ? run.template go<T, true>() : run.template go<T, false>(); break;
        PERI_CUDA_CASE(F32, float)
        PERI_CUDA_CASE(F16, __half)
        PERI_CUDA_CASE(I8, int8_t)
        PERI_CUDA_CASE(U8, uint8_t)
#undef PERI_CUDA_CASE
    default: break; /* supports() let none other through */
    }
}

/* The same for every metric: run.go<T, SUM>(). */
template <typename T, typename Run>
static inline void peri_dispatch_sum(peri_metric metric, Run run) {
    switch (metric) {
    case PERI_INNER_PRODUCT:
    case PERI_COSINE: run.template go<T, PERI_SUM_PRODUCTS>(); break;
    case PERI_L1: run.template go<T, PERI_SUM_ABSOLUTES>(); break;
    default: run.template go<T, PERI_SUM_SQUARES>(); break;
    }
}
template <typename Run>
static inline void peri_dispatch_all(peri_dtype dtype, peri_metric metric, Run run) {
    switch (dtype) {
    case PERI_F32: peri_dispatch_sum<float>(metric, run); break;
    case PERI_F16: peri_dispatch_sum<__half>(metric, run); break;
    case PERI_I8: peri_dispatch_sum<int8_t>(metric, run); break;
    case PERI_U8:
        if (metric == PERI_HAMMING)
            run.template go<uint8_t, PERI_SUM_BITS>();
        else
            peri_dispatch_sum<uint8_t>(metric, run);
        break;
    default: break; /* supports() let none other through */
    }
}

#endif
