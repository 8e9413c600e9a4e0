/* knn_reach: from the k-th distance that a query has found to the coarse values that can hide a
 * nearer row.
 *
 * which [left] | distances [q, k] | queries [q, bytes] | packed [left, bytes], bounds [left]
 * The k rows that a query has found bound its answer: what is farther than the k-th is no part of
 * it. The certificate, read backwards, tells which coarse values only farther rows have. A row at
 * or under the rest may be nearer, and is looked at exactly. However bad the doubt is beside the
 * distances, as in tight clusters far from each other, these rows are few beside all.
 * A warp a query; seven rounds of the certificate in f64, and a copy of the prepared query, so that
 * the coarse pass finds those that are left together. */
#include "knn_reach.cuh"

#include "proof.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned BLOCKS = 1024;
constexpr uint32_t TILE_MOST = 256; /* queries that a block of the coarse pass reads together */
constexpr uint32_t UNKNOWN = 0x80000000u;

struct task {
    peri_metric metric;
    uint32_t dim;
    size_t k, query_count;
    const float *distances;
    const uint32_t *filter_which; /* of all queries; NULL: there are none */
    peri_knn_reach r;
};

__device__ void copy_query(const task &t, size_t from, size_t to, bool there) {
    const size_t bytes = t.r.query_bytes;
    const auto in = (const uint4 *)((const char *)t.r.queries + from * bytes);
    const auto out = (uint4 *)((char *)t.r.packed + to * bytes);
    for (size_t i = threadIdx.x % PERI_WARP; i < bytes / sizeof(uint4); i += PERI_WARP)
        out[i] = there ? in[i] : uint4{ 0, 0, 0, 0 };
}

__global__ void __launch_bounds__(THREADS) reach_kernel(const task t) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const uint32_t left = *t.r.left;
    if (blockIdx.x == 0 && threadIdx.x == 0) *t.r.none_left = 0;
    size_t most = left == 0 ? 0 : (size_t)(left + TILE_MOST - 1) / TILE_MOST * TILE_MOST;
    most = most < t.query_count ? most : t.query_count;
    for (size_t place = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP; place < most;
         place += (size_t)gridDim.x * WARPS) {
        const bool there = place < left;
        const size_t query = there ? t.r.which[place] : 0;
        copy_query(t, query, place, there);
        if (!there && lane == 0 && t.filter_which != nullptr) t.r.filter_which[place] = 0;
        if (!there) continue;
        const float value = t.distances[query * t.k + t.k - 1];
        const uint32_t bits = peri_proof_reach(t.metric, t.dim, *t.r.stats, t.r.about[query],
                                               value);
        if (lane != 0) continue;
        t.r.bounds[place] = bits == 0 ? 0 : (uint64_t)bits << 32 | UINT32_MAX;
        t.r.counts[place] = bits == 0 ? UNKNOWN : 0;
        if (t.filter_which != nullptr) t.r.filter_which[place] = t.filter_which[query];
    }
}

} /* namespace */

peri_status peri_knn_reach_run(peri_stream *stream, const peri_knn_reach *reach) {
    const peri_op_knn *op = reach->op;
    task t = {};
    t.metric = op->metric;
    t.dim = (uint32_t)op->rows.cols;
    t.k = op->k;
    t.query_count = op->queries.rows;
    t.distances = op->distances;
    t.filter_which = reach->filter_which == nullptr ? nullptr : op->filter.which;
    t.r = *reach;
    size_t blocks = (t.query_count + WARPS - 1) / WARPS;
    blocks = blocks < BLOCKS ? blocks : BLOCKS;
    reach_kernel<<<(unsigned)blocks, THREADS, 0, peri_cuda_handle(stream)>>>(t);
    return peri_cuda_launched(stream);
}
