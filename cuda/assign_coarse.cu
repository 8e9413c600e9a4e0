/* assign_coarse: the nearest centroid of rows, found by the coarse pass and proved.
 *
 * rows [n, d] f32 f16 i8 u8, widened | centroids [c, d] f32 | halves [., depth] f16, padded with 0
 * 1. Centroids less their mean (cosine: over their lengths), times a power of two, rounded to f16;
 *    what rounding took is kept as the length of the longest.
 * 2. Rows likewise. One power of two for all, that of the largest element of a centroid: a row so
 *    much longer that it passes the range of f16 has a large residual and proves nothing.
 * 3. The coarse pass (coarse.cuh; centroids are its rows) finds the `wanted` least coarse values of
 *    each row.
 * 4. A warp a row finds the canonical distance of the first. The certificate (certificate.cuh) of
 *    each other one's coarse value says whether it may be as near: then it gets its distance too.
 *    When the certificate of the last one's shows that what comes after it is farther, the row is
 *    done; else it goes on a list.
 * Bound by the coarse pass, 2 * n * c * depth flop of f16; the rest reads the rows twice and reads
 * and writes their halves: some 0.6 ms for 1M x 128. */
#include "assign.cuh"
#include "certificate.cuh"
#include "distance.cuh"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned QUAD = 4; /* columns of a lane */
constexpr size_t CENTRE_SAMPLES = 256;
constexpr float CENTRE_MOST = 1e18f;
constexpr int LARGEST_EXPONENT = 9;     /* the largest element of a centroid becomes 2^9 and more */
constexpr int SCALE_EXPONENT_MOST = 90; /* beyond, steps of the preparation may underflow */
constexpr float HALF_MOST = 65504.0f;

/* The longest of what the length of a residual leaves out: its own rounding, that of the
 * subtraction before, and squares that underflow. */
__device__ float residual_most(float residual, float norm) {
    return residual * 1.001f + 0x1p-22f * (norm + residual) + 1e-18f;
}

/* Least upper bounds of positive floats, by their bits. */
__device__ void raise(unsigned *most, float value) {
    unsigned bits = value != value ? 0x7F800000u : __float_as_uint(value);
    if (bits > *reinterpret_cast<volatile unsigned *>(most)) atomicMax(most, bits);
}

__device__ float warp_most(float value) {
    for (int offset = 16; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(PERI_ALL_LANES, value, offset));
    return value;
}

__device__ float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_xor_sync(PERI_ALL_LANES, value, offset);
    return value;
}

__device__ double warp_sum(double value) {
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_xor_sync(PERI_ALL_LANES, value, offset);
    return value;
}

/* 2^k that brings `largest` to 2^LARGEST_EXPONENT and more; NaN when out of range. */
__device__ float scale_for(float largest) {
    if (largest == 0) return 1;
    int k = LARGEST_EXPONENT - ilogbf(largest);
    bool inside = isfinite(largest) && k >= -SCALE_EXPONENT_MOST && k <= SCALE_EXPONENT_MOST;
    return inside ? ldexpf(1.0f, k) : __int_as_float(0x7FC00000);
}

/* ---- the centroids ------------------------------------------------------------------------ */

/* A block 32 columns: 8 warps each add some samples. */
__global__ void __launch_bounds__(THREADS) find_centre(peri_view centroids, float *centre) {
    __shared__ float sums[WARPS][PERI_WARP];
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    size_t j = (size_t)blockIdx.x * PERI_WARP + lane;
    size_t samples = centroids.rows < CENTRE_SAMPLES ? centroids.rows : CENTRE_SAMPLES;
    float sum = 0;
    for (size_t i = warp; i < samples && j < centroids.cols; i += WARPS)
        sum += peri_row<float>(centroids.data, centroids.stride_bytes,
                               i * (centroids.rows / samples))[j];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || j >= centroids.cols) return;
    for (unsigned w = 1; w < WARPS; w++) sum += sums[w][lane];
    sum /= (float)samples;
    centre[j] = fabsf(sum) < CENTRE_MOST ? sum : 0.0f;
}

/* Element j less the centre, or of the row brought to length 1. */
__device__ float brought(float x, const float *centre, size_t j, float length) {
    return centre != nullptr ? __fsub_rn(x, centre[j]) : length > 0 ? __fdiv_rn(x, length) : x;
}

__global__ void __launch_bounds__(THREADS) find_largest(peri_assign_coarse_job job) {
    const peri_view &view = job.op.centroids;
    size_t c = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    float largest = 0;
    for (; c < view.rows; c += (size_t)gridDim.x * WARPS) {
        const float *row = peri_row<float>(view.data, view.stride_bytes, c);
        float length = job.op.metric == PERI_COSINE ? job.op.lengths[c] : 0.0f;
        for (size_t j = threadIdx.x % PERI_WARP; j < view.cols; j += PERI_WARP) {
            float x = fabsf(brought(row[j], job.centre, j, length));
            largest = x <= largest ? largest : x; /* a NaN stays */
        }
        bool bad = job.op.metric == PERI_COSINE && !(length > 1e-18f && length < 1e18f);
        if (bad || largest != largest) largest = __int_as_float(0x7F800000);
    }
    largest = warp_most(largest);
    if (threadIdx.x % PERI_WARP == 0) raise(&job.most->largest, largest);
}

/* What a lane adds to the norm and the residual by one element; returns the half. */
__device__ __half round_element(float x, double *squares, float *left) {
    float within = fminf(fmaxf(x, -HALF_MOST), HALF_MOST);
    __half half = __float2half_rn(within);
    float value = __half2float(half), rest = __fsub_rn(x, value);
    *squares += (double)value * value;
    *left = __fmaf_rn(rest, rest, *left);
    return x == x ? half : __float2half_rn(0.0f);
}

__global__ void __launch_bounds__(THREADS) prepare_centroids(peri_assign_coarse_job job) {
    const peri_view &view = job.op.centroids;
    const float scale = scale_for(__uint_as_float(job.most->largest));
    size_t c = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; c < view.rows; c += (size_t)gridDim.x * WARPS) {
        const float *row = peri_row<float>(view.data, view.stride_bytes, c);
        __half *out = job.centroids + c * job.depth;
        float length = job.op.metric == PERI_COSINE ? job.op.lengths[c] : 0.0f, left = 0;
        double squares = 0;
        for (size_t j = threadIdx.x % PERI_WARP; j < job.depth; j += PERI_WARP) {
            float x = j < view.cols ? brought(row[j], job.centre, j, length) : 0.0f;
            out[j] = round_element(x * scale, &squares, &left);
        }
        squares = warp_sum(squares);
        left = __fsqrt_ru(warp_sum(left));
        if (threadIdx.x % PERI_WARP != 0) continue;
        float norm = __double2float_ru(sqrt(squares));
        job.terms[c] = job.centre != nullptr ? (float)squares : 0.0f;
        raise(&job.most->norm, norm);
        raise(&job.most->residual, residual_most(left, norm));
        if (job.op.metric == PERI_INNER_PRODUCT)
            raise(&job.most->length, (norm + residual_most(left, norm)) / scale * 1.001f);
    }
}

__global__ void __launch_bounds__(THREADS) end_terms(float *terms, size_t count) {
    size_t i = count + threadIdx.x;
    if (i < (count + PERI_ASSIGN_TERMS - 1) / PERI_ASSIGN_TERMS * PERI_ASSIGN_TERMS)
        terms[i] = __int_as_float(0x7F800000);
}

/* ---- rows --------------------------------------------------------------------------------- */

template <typename T> struct alignas(QUAD * sizeof(T)) quad { T x[QUAD]; };

template <typename T>
__device__ void load_quad(const T *row, uint32_t j, uint32_t dim, bool wide, float (&out)[QUAD]) {
    if (wide && j + QUAD <= dim) {
        quad<T> values = *reinterpret_cast<const quad<T> *>(row + j);
#pragma unroll
        for (unsigned i = 0; i < QUAD; i++) out[i] = peri_assign_wide(values.x[i]);
        return;
    }
#pragma unroll
    for (unsigned i = 0; i < QUAD; i++) out[i] = j + i < dim ? peri_assign_wide(row[j + i]) : 0.0f;
}

/* Without terms each row may have a scale of its own. */
template <typename T>
__device__ float own_scale(const peri_assign_coarse_job &job, const T *row, float *length) {
    const uint32_t dim = (uint32_t)job.op.rows.cols;
    float most = 0, sum = 0;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP) {
        float x = peri_assign_wide(row[j]);
        most = fabsf(x) <= most ? most : fabsf(x);
        sum = __fmaf_rn(x, x, sum);
    }
    *length = __fsqrt_rn(warp_sum(sum));
    return scale_for(warp_most(most));
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    prepare_rows(peri_assign_coarse_job job, size_t first, size_t count) {
    const uint32_t dim = (uint32_t)job.op.rows.cols;
    const bool squared = job.centre != nullptr;
    const float shared_scale = scale_for(__uint_as_float(job.most->largest));
    size_t at = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; at < count; at += (size_t)gridDim.x * WARPS) {
        const T *row = peri_row<T>(job.op.rows.data, job.op.rows.stride_bytes, first + at);
        __half *out = job.rows + at * job.depth;
        float left = 0, length = 0;
        float scale = squared ? shared_scale : own_scale(job, row, &length);
        double squares = 0;
        for (uint32_t j = threadIdx.x % PERI_WARP * QUAD; j < job.depth; j += PERI_WARP * QUAD) {
            float x[QUAD];
            quad<__half> halves;
            load_quad(row, j, dim, job.wide, x);
#pragma unroll
            for (unsigned i = 0; i < QUAD; i++) {
                if (squared && j + i < dim) x[i] = __fsub_rn(x[i], job.centre[j + i]);
                halves.x[i] = round_element(x[i] * scale, &squares, &left);
            }
            *reinterpret_cast<quad<__half> *>(out + j) = halves;
        }
        squares = warp_sum(squares);
        left = __fsqrt_ru(warp_sum(left));
        if (threadIdx.x % PERI_WARP != 0) continue;
        peri_assign_known known = { sqrt(squares), 0, length, squared ? 1.0f : scale };
        known.residual = residual_most(left, __double2float_ru(known.norm));
        job.known[at] = known;
    }
}

/* ---- the certificate ---------------------------------------------------------------------- */

__device__ peri_doubt_rows centroids_known(const peri_assign_coarse_job &job) {
    peri_doubt_rows known = {};
    known.norm = __uint_as_float(job.most->norm);
    known.residual = __uint_as_float(job.most->residual);
    known.length = __uint_as_float(job.most->length);
    known.scale = scale_for(__uint_as_float(job.most->largest));
    return known;
}

template <typename T, bool DOT>
__device__ float canonical(const peri_assign_coarse_job &job, const T *row, float length,
                           uint32_t label) {
    const uint32_t dim = (uint32_t)job.op.rows.cols;
    const float *centroid = peri_row<float>(job.op.centroids.data, job.op.centroids.stride_bytes,
                                            label);
    float sum = 0;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP)
        sum = peri_step<DOT>(sum, peri_assign_wide(row[j]), centroid[j]);
    return peri_inside(job.op.metric, peri_fold(sum), length,
                       job.op.metric == PERI_COSINE ? job.op.lengths[label] : 0.0f);
}

/* The canonical length, as every pass has it: lanes in order, folded. */
template <typename T> __device__ float length_of(const T *row, uint32_t dim) {
    float sum = 0;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP) {
        float x = peri_assign_wide(row[j]);
        sum = __fmaf_rn(x, x, sum);
    }
    return __fsqrt_rn(peri_fold(sum));
}

/* Lane i holds candidate i. */
template <typename T, bool DOT>
__global__ void __launch_bounds__(THREADS)
    settle(peri_assign_coarse_job job, size_t first, size_t count) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const uint32_t dim = (uint32_t)job.op.rows.cols;
    const peri_metric metric = job.op.metric;
    const peri_doubt_rows centroids = centroids_known(job);
    size_t at = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; at < count; at += (size_t)gridDim.x * WARPS) {
        const T *row = peri_row<T>(job.op.rows.data, job.op.rows.stride_bytes, first + at);
        uint64_t key = lane < job.wanted ? job.keys[at * job.wanted + lane] : 0;
        uint32_t slot = peri_key_slot(key) < job.op.centroids.rows ? peri_key_slot(key) : 0;
        float length = metric == PERI_COSINE ? length_of(row, dim) : 0.0f;
        uint32_t label = __shfl_sync(PERI_ALL_LANES, slot, 0);
        float nearest = canonical<T, DOT>(job, row, length, label);
        bool near = false;
        if (lane > 0 && lane < job.wanted) {
            peri_assign_known known = job.known[at];
            peri_doubt_query query = { known.norm, known.residual, known.length, 0, known.scale };
            double bound = peri_certificate(metric, dim, &centroids, &query,
                                            (double)peri_key_value(key));
            near = key == PERI_KEY_NONE || !((double)nearest < bound);
        }
        unsigned doubtful = __ballot_sync(PERI_ALL_LANES, near);
        bool failed = (doubtful >> (job.wanted - 1) & 1) != 0;
        for (unsigned left = failed ? 0 : doubtful; left != 0; left &= left - 1) {
            uint32_t other = __shfl_sync(PERI_ALL_LANES, slot, __ffs(left) - 1);
            float value = canonical<T, DOT>(job, row, length, other);
            if (!(value < nearest || (value == nearest && other < label))) continue;
            nearest = value;
            label = other;
        }
        if (lane != 0) continue;
        if (failed) {
            job.list[atomicAdd(job.list_count, 1u)] = (uint32_t)at;
        } else {
            job.op.labels[first + at] = label;
            if (job.op.distances != nullptr) job.op.distances[first + at] = nearest;
        }
    }
}

struct launch_settle {
    cudaStream_t handle;
    const peri_assign_coarse_job &job;
    size_t first, count;

    template <typename T, bool DOT> void go() {
        settle<T, DOT><<<peri_blocks(count, WARPS), THREADS, 0, handle>>>(job, first, count);
    }
};

template <typename T>
void launch_rows(cudaStream_t handle, const peri_assign_coarse_job &job, size_t first,
                 size_t count) {
    prepare_rows<T><<<peri_blocks(count, WARPS), THREADS, 0, handle>>>(job, first, count);
}

} /* namespace */

peri_status peri_assign_coarse_centroids(peri_stream *stream, const peri_assign_coarse_job *job) {
    cudaStream_t handle = peri_cuda_handle(stream);
    const peri_view &view = job->op.centroids;
    unsigned blocks = peri_blocks(view.rows, WARPS);
    CU_TRY(stream->device, cudaMemsetAsync(job->most, 0, sizeof *job->most, handle));
    if (job->centre != nullptr)
        find_centre<<<peri_blocks(view.cols, PERI_WARP), THREADS, 0, handle>>>(view, job->centre);
    find_largest<<<blocks, THREADS, 0, handle>>>(*job);
    prepare_centroids<<<blocks, THREADS, 0, handle>>>(*job);
    end_terms<<<1, PERI_ASSIGN_TERMS, 0, handle>>>(job->terms, view.rows);
    return peri_cuda_launched(stream);
}

peri_status peri_assign_coarse_rows(peri_stream *stream, const peri_assign_coarse_job *job,
                                    size_t first, size_t count) {
    cudaStream_t handle = peri_cuda_handle(stream);
    switch (job->op.rows.dtype) {
    case PERI_F32: launch_rows<float>(handle, *job, first, count); break;
    case PERI_F16: launch_rows<__half>(handle, *job, first, count); break;
    case PERI_I8: launch_rows<int8_t>(handle, *job, first, count); break;
    case PERI_U8: launch_rows<uint8_t>(handle, *job, first, count); break;
    default: break; /* supports() let none other through */
    }
    CU_TRY(stream->device,
           cudaMemsetAsync(job->keys, 0xFF, count * job->wanted * sizeof *job->keys, handle));
    CU_TRY(stream->device, cudaMemsetAsync(job->list_count, 0, sizeof *job->list_count, handle));
    return peri_cuda_launched(stream);
}

peri_status peri_assign_coarse_settle(peri_stream *stream, const peri_assign_coarse_job *job,
                                      size_t first, size_t count) {
    peri_dispatch(job->op.rows.dtype, job->op.metric,
                  launch_settle{ peri_cuda_handle(stream), *job, first, count });
    return peri_cuda_launched(stream);
}
