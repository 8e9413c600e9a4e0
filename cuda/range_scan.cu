/* range_scan: all entries of the probed lists that pass and lie within a radius.
 *
 * queries [q, d] | rows [capacity, d] f32 f16 i8 u8 | lists, probes | counts [q] | ids, distances
 * A block of 4 warps takes a query and every `splits`-th unit of 1024 entries (probes.cuh), a warp
 * 16 entries at a time. What is near enough is counted by an atomic addition, whose result is its
 * place when entries are to be named: any order within a query. Bound by memory, as list_scan. */
#include "device.cuh"
#include "ops.h"
#include "probes.cuh"

namespace {

constexpr unsigned BLOCKS_A_UNIT = 8;

struct task {
    peri_probes p;
    float radius;
    unsigned long long *counts;
    const int64_t *offsets;
    size_t room;
    int64_t *ids;
    float *distances;
};

template <typename T, int SUM>
__global__ void __launch_bounds__(PERI_PROBE_THREADS) scan_kernel(const task s) {
    using Query = typename peri_row_types<T>::query;
    __shared__ peri_probe_unit unit;
    const unsigned warp = threadIdx.x / PERI_WARP;
    for (size_t item = blockIdx.x; item < s.p.queries.rows * s.p.splits; item += gridDim.x) {
        const size_t query = item / s.p.splits;
        const Query *q = peri_row<Query>(s.p.queries.data, s.p.queries.stride_bytes, query);
        const float length = s.p.metric == PERI_COSINE ? peri_warp_length(q, s.p.queries.cols)
                                                       : 0.0f;
        peri_probe_each(s.p, query, item % s.p.splits, &unit, [&](size_t first, unsigned count) {
            for (unsigned at = warp * PERI_PROBE_WARP_ROWS; at < count; at += PERI_PROBE_STEP) {
                const peri_probe_value v = peri_probe_warp<T, SUM>(s.p, &unit, q, length, first, at,
                                                                   count);
                if (!v.there || !(v.value <= s.radius)) continue;
                const size_t place = atomicAdd(&s.counts[query], 1ull);
                if (s.offsets == nullptr) continue;
                const size_t out = (size_t)s.offsets[query] + place;
                if (out >= s.room) continue;
                s.ids[out] = peri_probe_slot(s.p, v.position);
                s.distances[out] = v.value;
            }
        });
    }
}

struct launch {
    peri_stream *stream;
    const task &s;

    template <typename T, int SUM> void go() {
        scan_kernel<T, SUM><<<peri_blocks(s.p.queries.rows * s.p.splits, 1), PERI_PROBE_THREADS, 0,
                              peri_cuda_handle(stream)>>>(s);
    }
};

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_range_scan *)any;
    if (op->filter.count > 0 && op->filter.bits == nullptr)
        return peri_cuda_refuse(why, "not on cuda: a filter without its bits");
    return peri_cuda_scan_taken(op->metric, &op->queries, &op->rows, op->lengths, why);
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_range_scan *)any;
    const size_t queries = op->queries.rows;
    if (queries == 0) return PERI_OK;
    const unsigned blocks = (unsigned)peri_cuda_of(stream->device)->multiprocessors * BLOCKS_A_UNIT;
    task s = {};
    s.p = peri_probes_of(op, peri_probe_splits(queries, op->rows.rows, blocks));
    s.radius = op->radius;
    s.counts = reinterpret_cast<unsigned long long *>(op->counts);
    s.offsets = op->offsets;
    s.room = op->room;
    s.ids = op->ids;
    s.distances = op->distances;
    CU_TRY(stream->device,
           cudaMemsetAsync(op->counts, 0, queries * sizeof *op->counts, peri_cuda_handle(stream)));
    peri_dispatch_all(op->rows.dtype, op->metric, launch{ stream, s });
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_range_scan_op = { supports, nullptr, run };
