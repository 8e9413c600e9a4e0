/* rescore: canonical distances of the candidates, the best k of them, and the certificate.
 *
 * queries [q, d] | rows [n, d] f32 f16 i8 u8 | keys [q, wanted] | ids, distances [q, k]
 * One warp a query, eight candidates at a time, lanes stride the columns, so that eight rows are on
 * their way at once. Keys are put in order by counting those that are less: wanted^2 / 32 steps a
 * lane. Shared memory: 12 bytes a candidate and warp. Bound by random reads of rows: q * wanted * d
 * * bytes. */
#include "rescore.cuh"

#include "distance.cuh"
#include "proof.cuh"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 128;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned AT_ONCE = 8;

struct task {
    peri_metric metric;
    const void *queries, *rows;
    size_t query_stride, row_stride;
    const float *lengths;
    uint32_t dim;
    unsigned k, wanted;
    size_t count;
    const uint64_t *keys;
    const peri_prepared_query *about;
    const peri_prepared_stats *stats;
    const peri_coarse_norms *norms;
    const uint32_t *needed, *counted;
    uint32_t *which, *left, *again, *redone;
    int64_t *ids;
    float *distances;
};

/* The canonical values of candidates at .. at + AT_ONCE - 1 into keys and values. */
template <typename T, bool DOT>
__device__ void score(const task &t, const typename peri_row_types<T>::query *query,
                      float query_length, const uint64_t *coarse, unsigned at, unsigned count,
                      uint64_t *keys, float *values) {
    using S = typename peri_row_types<T>::sum;
    const unsigned lane = threadIdx.x % PERI_WARP;
    const T *rows[AT_ONCE];
    S sums[AT_ONCE];
    uint32_t mine = 0;
#pragma unroll
    for (unsigned r = 0; r < AT_ONCE; r++) {
        uint32_t slot = peri_key_slot(coarse[at + r < count ? at + r : at]);
        rows[r] = peri_row<T>(t.rows, t.row_stride, slot);
        sums[r] = 0;
        if (lane == r) mine = slot;
    }
#pragma unroll 2
    for (uint32_t j = lane; j < t.dim; j += PERI_WARP) {
        S y = peri_widen(query[j]);
        S x[AT_ONCE];
#pragma unroll
        for (unsigned r = 0; r < AT_ONCE; r++) x[r] = peri_widen(rows[r][j]);
#pragma unroll
        for (unsigned r = 0; r < AT_ONCE; r++) sums[r] = peri_step<DOT>(sums[r], y, x[r]);
    }
    S own = 0;
#pragma unroll
    for (unsigned r = 0; r < AT_ONCE; r++) {
        S sum = peri_fold(sums[r]);
        if (lane == r) own = sum;
    }
    if (lane >= AT_ONCE || at + lane >= count) return;
    float row_length = t.metric == PERI_COSINE ? t.lengths[mine] : 0.0f;
    float value = peri_inside(t.metric, peri_sum_value(own), query_length, row_length);
    keys[at + lane] = peri_key(value, mine);
    values[at + lane] = value;
}

__device__ bool proved(const task &t, const peri_prepared_query &about, float last, float value) {
    if (t.norms != nullptr)
        return peri_proved_floats(t.metric, t.dim, *t.norms, about, last, value);
    return peri_proved(t.metric, t.dim, *t.stats, about, last, value);
}

template <typename T, bool DOT> __global__ void __launch_bounds__(THREADS) rescore_kernel(task t) {
    using Query = typename peri_row_types<T>::query;
    extern __shared__ uint64_t shared[];
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    uint64_t *keys = shared + (size_t)warp * t.wanted;
    float *values = reinterpret_cast<float *>(shared + (size_t)WARPS * t.wanted) +
                    (size_t)warp * t.wanted;
    size_t i = (size_t)blockIdx.x * WARPS + warp;
    if (i >= t.count || (t.needed != nullptr && *t.needed == 0)) return;
    const uint64_t *coarse = t.keys + i * t.wanted;
    const Query *query = peri_row<Query>(t.queries, t.query_stride, i);
    const float query_length = t.metric == PERI_COSINE ? peri_warp_length(query, t.dim) : 0.0f;
    unsigned count = 0;
    for (unsigned c = lane; c < t.wanted; c += PERI_WARP) count += coarse[c] != PERI_KEY_NONE;
    count = __reduce_add_sync(PERI_ALL_LANES, count);
    for (unsigned at = 0; at < count; at += AT_ONCE)
        score<T, DOT>(t, query, query_length, coarse, at, count, keys, values);
    __syncwarp();
    int64_t *ids = t.ids + i * t.k;
    float *distances = t.distances + i * t.k;
    for (unsigned c = lane; c < count; c += PERI_WARP) {
        unsigned rank = 0;
        for (unsigned o = 0; o < count; o++) rank += keys[o] < keys[c];
        if (rank >= t.k) continue;
        ids[rank] = (int64_t)peri_key_slot(keys[c]);
        distances[rank] = values[c];
        /* all rows that pass are candidates, or the last one bounds the others */
        if (rank + 1 == t.k && count == t.wanted &&
            !proved(t, t.about[i], peri_key_value(coarse[count - 1]), values[c])) {
            t.which[atomicAdd(t.left, 1u)] = (uint32_t)i;
            if (t.again != nullptr) *t.again = (uint32_t)t.count;
            if (t.redone == nullptr) continue;
            if (t.again != nullptr)
                *t.redone = (uint32_t)t.count;
            else if (t.counted == nullptr || *t.counted == 0)
                atomicAdd(t.redone, 1u);
        }
    }
    for (unsigned r = count + lane; r < t.k; r += PERI_WARP) {
        ids[r] = PERI_ID_NONE;
        distances[r] = __int_as_float(0x7F800000);
    }
}

struct launch {
    peri_stream *stream;
    const task &t;

    template <typename T, bool DOT> void go() {
        size_t shared = (size_t)WARPS * t.wanted * (sizeof(uint64_t) + sizeof(float));
        unsigned blocks = (unsigned)((t.count + WARPS - 1) / WARPS);
        rescore_kernel<T, DOT><<<blocks, THREADS, shared, peri_cuda_handle(stream)>>>(t);
    }
};

} /* namespace */

peri_status peri_rescore_run(peri_stream *stream, const peri_rescore *r) {
    const peri_op_knn *op = r->op;
    task t = {};
    t.metric = op->metric;
    t.queries = op->queries.data;
    t.rows = op->rows.data;
    t.query_stride = op->queries.stride_bytes;
    t.row_stride = op->rows.stride_bytes;
    t.lengths = op->lengths;
    t.dim = (uint32_t)op->rows.cols;
    t.k = (unsigned)op->k;
    t.wanted = r->wanted;
    t.count = op->queries.rows;
    t.keys = r->keys;
    t.about = r->about;
    t.stats = r->stats;
    t.which = r->which;
    t.left = r->left;
    t.norms = r->norms;
    t.needed = r->needed;
    t.counted = r->counted;
    t.again = r->again;
    t.redone = op->redone;
    t.ids = op->ids;
    t.distances = op->distances;
    CU_TRY(stream->device, cudaMemsetAsync(r->left, 0, sizeof *r->left, peri_cuda_handle(stream)));
    peri_dispatch(op->rows.dtype, op->metric, launch{ stream, t });
    return peri_cuda_launched(stream);
}
