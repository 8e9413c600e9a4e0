/* assign_wgmma: the coarse pass of assignment on sm_90a: the three least values of each row, kept
 * in registers.
 *
 * rows [n, depth], centroids [c, depth] f16, depth 64 or 128 | terms [c, padded] | keys [n, 3]
 * One block a multiprocessor: a warpgroup that copies and two that compute, each 128 rows against
 * 128 centroids at a time in 128 registers a thread (hopper.cuh). A block keeps its 256 rows in
 * shared memory for a sweep over all centroids, which come through a ring of 4 stages with their
 * terms; so nothing is merged between blocks, and no list is written. The two warpgroups take
 * turns: one looks at its sums while the other multiplies.
 *
 * A thread holds 4 rows' values for 32 centroids of a tile. An element costs one fused multiply-add
 * and one minimum, of 8 elements at a time; only where one is below the row's limit, the third
 * least so far of all four threads that share the row, is it looked for. Of 8 elements only the
 * least is kept: the second enters `lost`, which the certificate then takes for the least value of
 * what is not among the keys (it is, when two of three are in one of 2 048 places). So the keys are
 * not always the three least, but no centroid that is not named has a value below the last one's.
 *
 * Bound: 2 * n * c * depth flop at the tensor cores' rate: 1024 clocks of depth 128 for a tile and
 * warpgroup, while the other needs some 400 for its minima, which run at half rate, and 200 for
 * what is below a limit: the rarer, the longer the sweep. 200 KiB of shared memory. On an H200, 1M
 * x 128 to 16 384: 7.8 ms, 540 TFLOP/s, three quarters of what cuBLAS reaches at 8 192 cubed;
 * depth 64: 337 TFLOP/s, the selection binds.
 * Sources: as coarse_wgmma.cu. */
#include "assign.cuh"
#include "core/status.h"
#include "distance.cuh"
#include "hopper.cuh"
#include "select.cuh"

namespace {

constexpr uint32_t TILE = 128; /* centroids of a stage, rows of a warpgroup */
constexpr uint32_t ROWS = 2 * TILE;
constexpr uint32_t SLICE = 128; /* bytes of depth */
constexpr uint32_t BOX = TILE * SLICE;
constexpr uint32_t SLICES_MAX = 2;
constexpr uint32_t STAGES = 4;
constexpr uint32_t STAGE_BYTES = SLICES_MAX * BOX + 1024; /* terms behind the boxes */
constexpr uint32_t SHARED_BYTES = SLICES_MAX * 2 * BOX + STAGES * STAGE_BYTES + 1024;
constexpr uint32_t THREADS = 384;

struct pass {
    CUtensorMap rows, centroids;
    const float *terms; /* [c rounded up to a tile], +infinity behind the last */
    uint64_t *keys;
    uint32_t count, tiles; /* rows; tiles of centroids */
    float scale;
};

struct shared_state {
    uint64_t full[STAGES], empty[STAGES], rows_full, rows_empty;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL /* code for other architectures is a kernel that does nothing */

constexpr uint32_t BATCHES = 4; /* of 8 elements of a thread's 32 */

struct ring {
    uint32_t at, parity;
    __device__ void step() {
        if (++at == STAGES) {
            at = 0;
            parity ^= 1;
        }
    }
};

/* ---- the thread that copies */

__device__ void copy_terms(uint32_t to, const float *from, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(TILE * 4), "r"(barrier)
                 : "memory");
}

template <uint32_t SLICES>
__device__ void copy_operands(const pass &p, shared_state &s, uint32_t rows_at, uint32_t stages) {
    ring stage = { 0, 0 };
    uint32_t rows_parity = 1;
    for (uint32_t row = blockIdx.x * ROWS; row < p.count; row += gridDim.x * ROWS) {
        uint32_t full = peri_shared(&s.rows_full);
        peri_barrier_wait(peri_shared(&s.rows_empty), rows_parity);
        rows_parity ^= 1;
        peri_barrier_expect(full, SLICES * 2 * BOX);
        for (uint32_t slice = 0; slice < SLICES; slice++)
            for (uint32_t half = 0; half < 2; half++)
                peri_copy_box(rows_at + (slice * 2 + half) * BOX, &p.rows, full,
                              (int32_t)(slice * SLICE / 2), (int32_t)(row + half * TILE));
        for (uint32_t tile = 0; tile < p.tiles; tile++) {
            uint32_t to = stages + stage.at * STAGE_BYTES;
            full = peri_shared(&s.full[stage.at]);
            peri_barrier_wait(peri_shared(&s.empty[stage.at]), stage.parity ^ 1);
            peri_barrier_expect(full, SLICES * BOX + TILE * 4);
            for (uint32_t slice = 0; slice < SLICES; slice++)
                peri_copy_box(to + slice * BOX, &p.centroids, full, (int32_t)(slice * SLICE / 2),
                              (int32_t)(tile * TILE));
            copy_terms(to + SLICES_MAX * BOX, p.terms + tile * TILE, full);
            stage.step();
        }
    }
}

/* ---- the warpgroups that compute */

/* The three least of a row that this thread saw, ascending. */
struct least3 {
    float v[3];
    uint32_t i[3];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int k = 0; k < 3; k++) {
            v[k] = __int_as_float(0x7F800000);
            i[k] = 0;
        }
    }
    __device__ __forceinline__ void insert(float value, uint32_t name) {
        bool first = value < v[0], second = value < v[1], third = value < v[2];
        v[2] = second ? v[1] : third ? value : v[2];
        i[2] = second ? i[1] : third ? name : i[2];
        v[1] = first ? v[0] : second ? value : v[1];
        i[1] = first ? i[0] : second ? name : i[1];
        v[0] = first ? value : v[0];
        i[0] = first ? name : i[0];
    }
    /* The third least of what the four threads of the row hold. */
    __device__ __forceinline__ float third_of_four() const {
        float a = __shfl_xor_sync(PERI_ALL_LANES, v[0], 1);
        float b = __shfl_xor_sync(PERI_ALL_LANES, v[1], 1);
        float c = __shfl_xor_sync(PERI_ALL_LANES, v[2], 1);
        float x = fminf(v[0], a), y = fminf(fminf(v[1], b), fmaxf(v[0], a));
        float z = fminf(fminf(v[2], c), fminf(fmaxf(v[0], b), fmaxf(v[1], a)));
        a = __shfl_xor_sync(PERI_ALL_LANES, x, 2);
        b = __shfl_xor_sync(PERI_ALL_LANES, y, 2);
        c = __shfl_xor_sync(PERI_ALL_LANES, z, 2);
        return fminf(fminf(z, c), fminf(fmaxf(x, b), fmaxf(y, a)));
    }
    __device__ __forceinline__ void merge_four() {
#pragma unroll
        for (int offset = 1; offset <= 2; offset *= 2) {
            float values[3];
            uint32_t names[3];
#pragma unroll
            for (int k = 0; k < 3; k++) {
                values[k] = __shfl_xor_sync(PERI_ALL_LANES, v[k], offset);
                names[k] = __shfl_xor_sync(PERI_ALL_LANES, i[k], offset);
            }
#pragma unroll
            for (int k = 0; k < 3; k++) insert(values[k], names[k]);
        }
    }
};

/* Sums d[half][4 j + 2 high + c] are those of row 64 half + 8 high + lane / 4 of the warp's rows
 * and centroid 8 j + lane % 4 * 2 + c of the tile; `q` is 2 half + high. */
__device__ __forceinline__ float value_at(const float (&d)[2][64], const float2 *terms, float scale,
                                          uint32_t q, uint32_t e) {
    uint32_t j = e / 2;
    float2 term = terms[j * 4];
    return __fmaf_rn(scale, d[q / 2][j * 4 + q % 2 * 2 + e % 2], e % 2 == 0 ? term.x : term.y);
}

/* The least of each batch of 8 for each of 4 rows. */
__device__ __forceinline__ void find_least(const float (&d)[2][64], const float2 *terms,
                                           float scale, float (&least)[4][BATCHES]) {
#pragma unroll
    for (uint32_t j = 0; j < 16; j++) {
        float2 term = terms[j * 4];
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            uint32_t at = j * 4 + q % 2 * 2;
            float v = fminf(__fmaf_rn(scale, d[q / 2][at], term.x),
                            __fmaf_rn(scale, d[q / 2][at + 1], term.y));
            least[q][j / 4] = j % 4 == 0 ? v : fminf(least[q][j / 4], v);
        }
    }
}

/* Inserts the least of a batch if it is below the limit; the second least is lost. */
__device__ __forceinline__ void take_batch(const float (&d)[2][64], const float2 *terms,
                                           float scale, uint32_t q, uint32_t batch, float least,
                                           float limit, uint32_t name, least3 *best, float *lost) {
    uint32_t element = 0;
    float second = __int_as_float(0x7F800000);
#pragma unroll
    for (uint32_t e = 0; e < 8; e++) {
        float v = value_at(d, terms, scale, q, batch * 8 + e);
        bool is_least = v == least;
        second = is_least && element != 0 ? v : second; /* twice the same */
        second = is_least ? second : fminf(second, v);
        element = is_least ? e + 1 : element;
    }
    *lost = fminf(*lost, second);
    uint32_t of_tile = (batch * 4 + (element - 1) / 2) * 8 + (element - 1) % 2;
    best->insert(least < limit ? least : __int_as_float(0x7F800000), name + of_tile);
}

__device__ __forceinline__ void select(const float (&d)[2][64], const float2 *terms, float scale,
                                       uint32_t name, least3 (&best)[4], float (&limits)[4],
                                       float (&lost)[4]) {
    float least[4][BATCHES];
    find_least(d, terms, scale, least);
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
        float all = fminf(fminf(least[q][0], least[q][1]), fminf(least[q][2], least[q][3]));
        if (!__any_sync(PERI_ALL_LANES, all < limits[q])) continue;
#pragma unroll
        for (uint32_t batch = 0; batch < BATCHES; batch++)
            if (__any_sync(PERI_ALL_LANES, least[q][batch] < limits[q]))
                take_batch(d, terms, scale, q, batch, least[q][batch], limits[q], name, &best[q],
                           &lost[q]);
        limits[q] = best[q].third_of_four();
    }
}

template <bool FIRST>
__device__ __forceinline__ void multiply_slice(float (&d)[2][64], uint32_t a, uint32_t b) {
    uint64_t centroids = peri_wgmma_tile(b);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint64_t rows = peri_wgmma_tile(a + (uint32_t)half * 64 * SLICE);
        if (FIRST)
            peri_wgmma_f16_first(d[half], rows, centroids);
        else
            peri_wgmma_f16(d[half], rows, centroids);
#pragma unroll
        for (int k = 1; k < 4; k++)
            peri_wgmma_f16(d[half], rows + 2 * (uint64_t)k, centroids + 2 * (uint64_t)k);
    }
}

/* Lane 0 of four writes the row's keys. */
__device__ __forceinline__ void put_keys(const pass &p, uint32_t row, least3 best, float lost) {
    best.merge_four();
    lost = fminf(lost, __shfl_xor_sync(PERI_ALL_LANES, lost, 1));
    lost = fminf(lost, __shfl_xor_sync(PERI_ALL_LANES, lost, 2));
    if (threadIdx.x % 4 != 0 || row >= p.count) return;
    best.v[2] = fminf(best.v[2], lost);
#pragma unroll
    for (int k = 0; k < 3; k++)
        p.keys[(size_t)row * PERI_ASSIGN_NEAREST + k] = peri_key(best.v[k], best.i[k]);
}

template <uint32_t SLICES>
__device__ __forceinline__ void compute(const pass &p, shared_state &s, const uint8_t *shared,
                                        uint32_t rows_at, uint32_t stages) {
    const uint32_t group = threadIdx.x / 128 - 1, lane = threadIdx.x % PERI_WARP;
    const uint32_t mine = group * TILE + threadIdx.x / PERI_WARP % 4 * 16 + lane / 4;
    ring stage = { 0, 0 };
    uint32_t rows_parity = 0;
    float d[2][64], limits[4], lost[4];
    least3 best[4];
    if (group == 1) peri_named_arrive(1, 256);
    for (uint32_t row = blockIdx.x * ROWS; row < p.count; row += gridDim.x * ROWS) {
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            best[q].clear();
            limits[q] = lost[q] = __int_as_float(0x7F800000);
        }
        peri_barrier_wait(peri_shared(&s.rows_full), rows_parity);
        rows_parity ^= 1;
        for (uint32_t tile = 0; tile < p.tiles; tile++) {
            uint32_t centroids = stages + stage.at * STAGE_BYTES;
            peri_named_wait(1 + group, 256);
            peri_barrier_wait(peri_shared(&s.full[stage.at]), stage.parity);
            peri_wgmma_fence();
            multiply_slice<true>(d, rows_at + group * BOX, centroids);
            if (SLICES == 2) multiply_slice<false>(d, rows_at + (2 + group) * BOX, centroids + BOX);
            peri_wgmma_commit();
            peri_named_arrive(2 - group, 256);
            peri_wgmma_wait<0>();
            peri_wgmma_settle(d[0]);
            peri_wgmma_settle(d[1]);
            const float2 *terms = reinterpret_cast<const float2 *>(shared + (centroids - rows_at) +
                                                                   SLICES_MAX * BOX) +
                                  lane % 4;
            select(d, terms, p.scale, tile * TILE + lane % 4 * 2, best, limits, lost);
            __syncwarp();
            if (lane == 0) peri_barrier_arrive(peri_shared(&s.empty[stage.at]));
            stage.step();
        }
        if (lane == 0) peri_barrier_arrive(peri_shared(&s.rows_empty));
#pragma unroll
        for (uint32_t q = 0; q < 4; q++)
            put_keys(p, row + mine + q / 2 * 64 + q % 2 * 8, best[q], lost[q]);
    }
    if (group == 0) peri_named_wait(1, 256);
}

__device__ void begin_barriers(const pass &p, shared_state &s) {
    constexpr uint32_t readers = 8; /* a lane of each warp that computes */
    if (threadIdx.x != 0) return;
    for (uint32_t i = 0; i < STAGES; i++) {
        peri_barrier_init(peri_shared(&s.full[i]), 1);
        peri_barrier_init(peri_shared(&s.empty[i]), readers);
    }
    peri_barrier_init(peri_shared(&s.rows_full), 1);
    peri_barrier_init(peri_shared(&s.rows_empty), readers);
    peri_barrier_init_done();
    peri_copy_prefetch(&p.rows);
    peri_copy_prefetch(&p.centroids);
}

#endif

template <uint32_t SLICES>
__global__ void __launch_bounds__(THREADS, 1) nearest_kernel(const __grid_constant__ pass p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t dynamic[];
    __shared__ shared_state s;
    uint32_t base = (peri_shared(dynamic) + 1023) / 1024 * 1024;
    uint32_t stages = base + SLICES_MAX * 2 * BOX;
    begin_barriers(p, s);
    __syncthreads();
    if (threadIdx.x < 128) {
        peri_registers_less<40>();
        if (threadIdx.x == 0) copy_operands<SLICES>(p, s, base, stages);
    } else {
        peri_registers_more<232>();
        compute<SLICES>(p, s, dynamic + (base - peri_shared(dynamic)), base, stages);
    }
#endif
}

/* ---- the host's side */

using encode_fn = decltype(&cuTensorMapEncodeTiled);

/* Boxes of 128 rows by 128 bytes of [rows, depth] f16, swizzled; zeros outside. */
peri_status make_map(const peri_device *device, encode_fn encode, const void *data, size_t rows,
                     size_t depth, CUtensorMap *map) {
    const cuuint64_t sizes[2] = { depth, rows }, strides[1] = { depth * sizeof(__half) };
    const cuuint32_t box[2] = { SLICE / sizeof(__half), TILE }, steps[2] = { 1, 1 };
    CUresult result = encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<void *>(data),
                             sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return PERI_OK;
    return device->host->fail(PERI_E_DEVICE, "cuTensorMapEncodeTiled: error %d for %zu rows of %zu",
                              (int)result, rows, depth);
}

peri_status find_encode(const peri_device *device, encode_fn *out) {
    void *call = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    CU_TRY(device, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &call, 12000,
                                                    cudaEnableDefault, &result));
    *out = reinterpret_cast<encode_fn>(call);
    if (result == cudaDriverEntryPointSuccess && call != nullptr) return PERI_OK;
    return device->host->fail(PERI_E_DEVICE, "the driver has no cuTensorMapEncodeTiled");
}

template <uint32_t SLICES> peri_status launch(peri_stream *stream, const pass &p) {
    const auto kernel = nearest_kernel<SLICES>;
    const uint32_t tiles = (p.count + ROWS - 1) / ROWS;
    const uint32_t most = (uint32_t)peri_cuda_of(stream->device)->multiprocessors;
    const uint32_t blocks = tiles < most ? tiles : most;
    CU_TRY(stream->device, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                (int)SHARED_BYTES));
    kernel<<<blocks, THREADS, SHARED_BYTES, peri_cuda_handle(stream)>>>(p);
    return peri_cuda_launched(stream);
}

} /* namespace */

bool peri_assign_nearest_takes(const peri_device *device, uint32_t depth) {
    return peri_cuda_of(device)->hopper && depth * sizeof(__half) <= SLICES_MAX * SLICE;
}

peri_status peri_assign_nearest(peri_stream *stream, const peri_assign_coarse_job *job,
                                size_t count) {
    const peri_device *device = stream->device;
    encode_fn encode = nullptr;
    pass p = {};
    p.terms = job->terms;
    p.keys = job->keys;
    p.count = (uint32_t)count;
    p.tiles = (uint32_t)((job->op.centroids.rows + TILE - 1) / TILE);
    p.scale = job->centre != nullptr ? -2.0f : -1.0f;
    PERI_TRY(find_encode(device, &encode));
    PERI_TRY(make_map(device, encode, job->rows, count, job->depth, &p.rows));
    PERI_TRY(
        make_map(device, encode, job->centroids, job->op.centroids.rows, job->depth, &p.centroids));
    return job->depth * sizeof(__half) == SLICE ? launch<1>(stream, p) : launch<2>(stream, p);
}
