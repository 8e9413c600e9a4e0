/* probes.cuh: what the scans of inverted lists share: a block takes a query and every `splits`-th
 * unit of the lists that it probes, and of a unit the entries that pass. */
#ifndef PERI_CUDA_PROBES_CUH
#define PERI_CUDA_PROBES_CUH

#include "device.cuh"
#include "pieces.cuh"

constexpr unsigned PERI_PROBE_THREADS = 128;
constexpr unsigned PERI_PROBE_WARPS = PERI_PROBE_THREADS / PERI_WARP;
constexpr unsigned PERI_PROBE_ROWS = 4; /* of a group of lanes, at a time */
constexpr unsigned PERI_PROBE_WARP_ROWS = PERI_PROBE_ROWS * PERI_GROUPS;
constexpr unsigned PERI_PROBE_STEP = PERI_PROBE_WARPS * PERI_PROBE_WARP_ROWS; /* of a block */
constexpr unsigned PERI_PROBE_UNIT = 8 * PERI_PROBE_THREADS;

/* The fields that the operations have in common. */
struct peri_probes {
    peri_view queries, rows;
    peri_metric metric;
    const int64_t *probes;
    size_t n_probes;
    peri_lists_view lists;
    const float *lengths;
    peri_filter_view filter;
    unsigned splits;
    bool wide; /* rows and queries are aligned to pieces */
};

template <typename Op> static inline peri_probes peri_probes_of(const Op *op, unsigned splits) {
    peri_probes p;
    p.queries = op->queries;
    p.rows = op->rows;
    p.metric = op->metric;
    p.probes = op->probes;
    p.n_probes = op->probes == nullptr ? op->lists.n_lists : op->n_probes;
    p.lists = op->lists;
    p.lengths = op->lengths;
    p.filter = op->filter;
    p.splits = splits;
    p.wide = peri_pieces_fit(&op->rows, peri_cuda_dtype_bytes(op->rows.dtype)) &&
             peri_pieces_fit(&op->queries, peri_cuda_dtype_bytes(op->queries.dtype));
    return p;
}

/* Units that a query's entries are cut into at most, so that few queries fill the device. */
static inline unsigned peri_probe_splits(size_t queries, size_t capacity, unsigned blocks) {
    size_t splits = queries == 0 ? 1 : blocks / queries, most = capacity / PERI_PROBE_UNIT;
    if (splits > most) splits = most;
    return splits == 0 ? 1 : (unsigned)splits;
}

/* What a block holds of its unit; in shared memory. */
struct peri_probe_unit {
    unsigned warp_counts[PERI_PROBE_WARPS];
    uint16_t passing[PERI_PROBE_UNIT];
};

__device__ inline uint32_t peri_probe_slot(const peri_probes &p, size_t position) {
    return p.lists.slots == nullptr ? (uint32_t)position : p.lists.slots[position];
}

/* The entries first .. first + count - 1 that pass, ascending; how many. All threads; ends with a
 * barrier. */
__device__ inline unsigned peri_probe_compact(const peri_probes &p, const uint64_t *bits,
                                              size_t first, unsigned count, peri_probe_unit *u) {
    const unsigned warp = threadIdx.x / PERI_WARP, lane = threadIdx.x % PERI_WARP;
    unsigned mine = 0;
    for (unsigned i = 0; i < 8; i++) {
        const unsigned at = 8 * threadIdx.x + i;
        if (at >= count) break;
        const uint32_t slot = peri_probe_slot(p, first + at);
        mine |= (unsigned)(bits[slot / 64] >> (slot % 64) & 1) << i;
    }
    unsigned before = __popc(mine);
    for (unsigned step = 1; step < PERI_WARP; step *= 2) {
        const unsigned other = __shfl_up_sync(PERI_ALL_LANES, before, step);
        if (lane >= step) before += other;
    }
    __syncthreads(); /* the unit before is read */
    if (lane == PERI_WARP - 1) u->warp_counts[warp] = before;
    before -= __popc(mine);
    __syncthreads();
    unsigned total = 0;
    for (unsigned w = 0; w < PERI_PROBE_WARPS; w++) {
        if (w == warp) before += total;
        total += u->warp_counts[w];
    }
    for (; mine != 0; mine &= mine - 1)
        u->passing[before++] = (uint16_t)(8 * threadIdx.x + __ffs(mine) - 1);
    __syncthreads();
    return total;
}

/* Calls unit(first position, entries that passed) for each unit of a block's share; `u->passing`
 * names the entries within a unit when there is a filter. All threads. */
template <typename Unit>
__device__ inline void peri_probe_each(const peri_probes &p, size_t query, unsigned split,
                                       peri_probe_unit *u, Unit unit) {
    const uint64_t *bits = nullptr;
    if (p.filter.count > 0)
        bits = p.filter.bits[p.filter.which == nullptr ? 0 : p.filter.which[query]];
    unsigned number = 0;
    for (size_t i = 0; i < p.n_probes; i++) {
        const int64_t list = p.probes == nullptr ? (int64_t)i : p.probes[query * p.n_probes + i];
        if (list == PERI_ID_NONE) continue;
        const size_t first = (size_t)p.lists.offsets[list], size = p.lists.sizes[list];
        for (size_t at = 0; at < size; at += PERI_PROBE_UNIT, number++) {
            if (number % p.splits != split) continue;
            const size_t left = size - at;
            unsigned count = left < PERI_PROBE_UNIT ? (unsigned)left : PERI_PROBE_UNIT;
            if (bits != nullptr) count = peri_probe_compact(p, bits, first + at, count, u);
            unit(first + at, count);
        }
    }
}

/* The values inside of a query and entries at .. at + 15 of a unit, by one warp: of a lane's entry
 * `entry`, where there is one and the lane owns it. A zero is computed again where its sign may
 * differ. Every lane calls, with at < count. */
struct peri_probe_value {
    float value;
    size_t position;
    bool there;
};

template <typename T, int SUM>
__device__ inline peri_probe_value peri_probe_warp(const peri_probes &p, const peri_probe_unit *u,
                                                   const void *query, float length, size_t first,
                                                   unsigned at, unsigned count) {
    using Query = typename peri_row_types<T>::query;
    const unsigned lane = threadIdx.x % PERI_WARP;
    const unsigned mine = at + lane / PERI_GROUP * PERI_PROBE_ROWS;
    const uint32_t dim = (uint32_t)p.rows.cols;
    const T *rows[PERI_PROBE_ROWS];
#pragma unroll
    for (unsigned r = 0; r < PERI_PROBE_ROWS; r++) {
        const unsigned item = mine + r < count ? mine + r : at;
        rows[r] = peri_row<T>(p.rows.data, p.rows.stride_bytes,
                              first + (p.filter.count > 0 ? u->passing[item] : item));
    }
    float sum;
    if (p.wide)
        peri_piece_sums<T, SUM, 1, PERI_PROBE_ROWS, 2>(&query, rows, dim, &sum);
    else
        peri_narrow_sums<T, SUM, PERI_PROBE_ROWS>(query, rows, dim, &sum);
    const unsigned entry = mine + peri_fold_first<PERI_PROBE_ROWS>(lane % PERI_GROUP);
    peri_probe_value v;
    v.there = peri_fold_owner<PERI_PROBE_ROWS>(lane) && entry < count;
    v.position = first + (v.there ? p.filter.count > 0 ? u->passing[entry] : entry : 0);
    const bool told = SUM == PERI_SUM_PRODUCTS; /* other sums have no -0 */
    unsigned zeros = __ballot_sync(PERI_ALL_LANES, told && v.there && sum == 0.0f);
    while (zeros != 0) {
        const int of = __ffs(zeros) - 1;
        zeros &= zeros - 1;
        const size_t position = __shfl_sync(PERI_ALL_LANES, v.position, of);
        const float again = peri_warp_sum<SUM>(
            static_cast<const Query *>(query),
            peri_row<T>(p.rows.data, p.rows.stride_bytes, position), dim);
        if ((int)lane == of) sum = again;
    }
    const bool cosine = p.metric == PERI_COSINE;
    v.value = peri_inside(p.metric, sum, length, cosine && v.there ? p.lengths[v.position] : 0.0f);
    return v;
}

#endif
