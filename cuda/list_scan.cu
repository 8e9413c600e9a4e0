/* list_scan: the k nearest entries of each query in the lists that it probes.
 *
 * queries [q, d] | rows [capacity, d] f32 f16 i8 u8 | lists, probes | ids, distances [q, k]
 * A block of 4 warps takes a query and every `splits`-th unit of 1024 entries of its lists
 * (probes.cuh), a warp 16 entries at a time; the k best in shared memory (pools.cuh). A second
 * kernel merges the splits. Bound by memory: each query reads the rows of its lists, which other
 * queries of the same lists find in L2: q * entries * d * bytes. */
#include "device.cuh"
#include "ops.h"
#include "pools.cuh"
#include "probes.cuh"

namespace {

constexpr unsigned THREADS = PERI_PROBE_THREADS;
constexpr unsigned BLOCKS_A_UNIT = 8;
constexpr size_t SCRATCH_MAX = (size_t)64 << 20;
constexpr size_t SHARED_UNASKED = (size_t)44 << 10;

struct task {
    peri_probes p;
    peri_pool_limits limits;
    size_t first, query_count; /* of the chunk */
    uint64_t *keys;            /* [query_count, splits, k] */
    int64_t *ids;
    float *distances;
    uint32_t *visited;
};

template <typename T, int SUM>
__global__ void __launch_bounds__(THREADS) scan_kernel(const task s) {
    using Query = typename peri_row_types<T>::query;
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_pool pool;
    __shared__ peri_probe_unit unit;
    const unsigned warp = threadIdx.x / PERI_WARP;
    for (size_t item = blockIdx.x; item < s.query_count * s.p.splits; item += gridDim.x) {
        const size_t query = s.first + item / s.p.splits;
        const Query *q = peri_row<Query>(s.p.queries.data, s.p.queries.stride_bytes, query);
        const float length = s.p.metric == PERI_COSINE ? peri_warp_length(q, s.p.queries.cols)
                                                       : 0.0f;
        unsigned steps = 0;
        uint32_t visited = 0;
        if (threadIdx.x == 0) pool = peri_pool{ shared_keys, PERI_KEY_NONE, 0 };
        __syncthreads();
        peri_probe_each(s.p, query, item % s.p.splits, &unit, [&](size_t first, unsigned count) {
            visited += count;
            for (unsigned begin = 0; begin < count;) {
                const bool fresh = steps == 0;
                const unsigned end = begin + (fresh ? 1 : steps) * PERI_PROBE_STEP;
                for (unsigned at = begin + warp * PERI_PROBE_WARP_ROWS; at < end && at < count;
                     at += PERI_PROBE_STEP) {
                    const peri_probe_value v = peri_probe_warp<T, SUM>(s.p, &unit, q, length, first,
                                                                       at, count);
                    if (!v.there) continue;
                    const uint64_t key = peri_key(v.value, s.p.lists.slots[v.position]);
                    if (key < pool.bound) peri_pool_push(&pool, key);
                }
                begin = end;
                steps = peri_pools_settle(&pool, 1, s.limits, PERI_PROBE_STEP, fresh);
            }
        });
        __syncthreads();
        peri_pools_write(&pool, 1, s.limits, s.keys + item * s.limits.k);
        if (threadIdx.x == 0 && s.visited != nullptr) atomicAdd(&s.visited[query], visited);
    }
}

/* Where in a query's lists a slot lies; by one warp. */
__device__ size_t position_of(const peri_probes &p, size_t query, uint32_t slot) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    for (size_t i = 0; i < p.n_probes; i++) {
        const int64_t list = p.probes == nullptr ? (int64_t)i : p.probes[query * p.n_probes + i];
        if (list == PERI_ID_NONE) continue;
        const size_t first = (size_t)p.lists.offsets[list], size = p.lists.sizes[list];
        for (size_t at = 0; at < size; at += PERI_WARP) {
            const bool found = at + lane < size && p.lists.slots[first + at + lane] == slot;
            const unsigned lanes = __ballot_sync(PERI_ALL_LANES, found);
            if (lanes != 0) return first + at + __ffs(lanes) - 1;
        }
    }
    return 0;
}

/* T: of the rows, to tell the sign of a zero where only the sum does: -0 and +0 are one key. */
template <typename T>
__global__ void __launch_bounds__(THREADS) merge_kernel(const task s, unsigned capacity) {
    using Query = typename peri_row_types<T>::query;
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_pool best;
    const unsigned k = s.limits.k, lane = threadIdx.x % PERI_WARP;
    for (size_t i = blockIdx.x; i < s.query_count; i += gridDim.x) {
        const size_t query = s.first + i;
        const Query *q = peri_row<Query>(s.p.queries.data, s.p.queries.stride_bytes, query);
        const unsigned count = peri_pools_merge(&best, shared_keys, capacity,
                                                s.keys + i * s.p.splits * k, k, s.p.splits, k);
        for (unsigned at = threadIdx.x / PERI_WARP; at < k; at += PERI_PROBE_WARPS) {
            const uint64_t key = at < count ? shared_keys[at] : PERI_KEY_NONE;
            float value = peri_pool_value(key);
            if (value == 0.0f && s.p.metric == PERI_INNER_PRODUCT) {
                const size_t position = position_of(s.p, query, peri_key_slot(key));
                value = -peri_warp_sum<PERI_SUM_PRODUCTS>(
                    q, peri_row<T>(s.p.rows.data, s.p.rows.stride_bytes, position), s.p.rows.cols);
            }
            if (lane == 0) {
                s.ids[query * k + at] = peri_pool_id(key);
                s.distances[query * k + at] = value;
            }
        }
        __syncthreads(); /* the keys are read before the next query clears them */
    }
}

/* ---- the launch --------------------------------------------------------------------------- */

struct plan {
    unsigned splits, blocks;
    size_t chunk, bytes;
};

plan make_plan(const peri_device *device, const peri_op_list_scan *op) {
    plan p;
    p.blocks = (unsigned)peri_cuda_of(device)->multiprocessors * BLOCKS_A_UNIT;
    p.splits = peri_probe_splits(op->queries.rows, op->rows.rows, p.blocks);
    const size_t one = p.splits * op->k * sizeof(uint64_t);
    p.chunk = SCRATCH_MAX / one;
    if (p.chunk == 0) p.chunk = 1;
    if (p.chunk > op->queries.rows) p.chunk = op->queries.rows;
    p.bytes = p.chunk * one;
    return p;
}

struct launch {
    peri_stream *stream;
    const plan &p;
    const task &s;
    cudaError_t *error;

    template <typename Kernel> cudaError_t ask(Kernel kernel, size_t bytes) {
        if (bytes <= SHARED_UNASKED) return cudaSuccess;
        return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    (int)bytes);
    }

    template <typename T, int SUM> void go() {
        const cudaStream_t handle = peri_cuda_handle(stream);
        const size_t bytes = s.limits.capacity * sizeof(uint64_t);
        const unsigned capacity = peri_pools_merge_capacity(s.limits.k, THREADS);
        const size_t merge_bytes = capacity * sizeof(uint64_t);
        const auto kernel = scan_kernel<T, SUM>;
        *error = ask(kernel, bytes);
        if (*error == cudaSuccess) *error = ask(merge_kernel<T>, merge_bytes);
        if (*error != cudaSuccess) return;
        kernel<<<peri_blocks(s.query_count * p.splits, 1), THREADS, bytes, handle>>>(s);
        merge_kernel<T>
            <<<peri_blocks(s.query_count, 1), THREADS, merge_bytes, handle>>>(s, capacity);
    }
};

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_list_scan *)any;
    if (op->k == 0 || op->k > PERI_CUDA_K_MAX)
        return peri_cuda_refuse(why, "not on cuda: k: %zu given, 1..%u are taken", op->k,
                                PERI_CUDA_K_MAX);
    if (op->filter.count > 0 && op->filter.bits == nullptr)
        return peri_cuda_refuse(why, "not on cuda: a filter without its bits");
    return peri_cuda_scan_taken(op->metric, &op->queries, &op->rows, op->lengths, why);
}

size_t scratch(const peri_device *device, const peri_op *any) {
    auto op = (const peri_op_list_scan *)any;
    return op->queries.rows == 0 ? 0 : make_plan(device, op).bytes;
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t scratch_bytes) {
    auto op = (const peri_op_list_scan *)any;
    if (op->queries.rows == 0) return PERI_OK;
    const plan p = make_plan(stream->device, op);
    if (scratch_bytes < p.bytes)
        return stream->device->host->fail(
            PERI_E_ARGUMENT, "list_scan: %zu bytes of scratch, %zu needed", scratch_bytes, p.bytes);
    task s = {};
    s.p = peri_probes_of(op, p.splits);
    s.limits = peri_pool_limits_of(op->k, PERI_PROBE_STEP);
    s.keys = static_cast<uint64_t *>(scratch);
    s.ids = op->ids;
    s.distances = op->distances;
    s.visited = op->visited;
    if (op->visited != nullptr)
        CU_TRY(stream->device,
               cudaMemsetAsync(op->visited, 0, op->queries.rows * sizeof *op->visited,
                               peri_cuda_handle(stream)));
    for (s.first = 0; s.first < op->queries.rows; s.first += p.chunk) {
        const size_t left = op->queries.rows - s.first;
        s.query_count = p.chunk < left ? p.chunk : left;
        cudaError_t error = cudaSuccess;
        peri_dispatch_all(op->rows.dtype, op->metric, launch{ stream, p, s, &error });
        CU_TRY(stream->device, error);
        peri_status status = peri_cuda_launched(stream);
        if (status != PERI_OK) return status;
    }
    return PERI_OK;
}

} /* namespace */

const peri_cuda_op peri_cuda_list_scan_op = { supports, scratch, run };
