/* merge: the best of several sorted lists.
 *
 * ids, distances, [parts, queries, part_k] | best_ids, best_distances [queries, k]
 * A block takes one query and up to FAN lists of it. The rank of an entry among all of them is its
 * place in its own list and, by binary search, how many entries of each other list come before it;
 * ranks are distinct, so that every entry knows its place in the answer and nothing is sorted.
 * What is beyond entry ceil(k / lists) of every list can't be among the k, and is left out before
 * any search. With more lists, groups of FAN leave lists of k in scratch until one is left. With
 * `unique` the order goes to scratch first, and entries that equal the one before are left out.
 * Entries are staged in shared memory while they fit, 12 bytes each. Bound by latency: a few
 * entries a query; bytes are queries * parts * part_k * 12. */
#include "device.cuh"
#include "ops.h"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 128; /* of a block, or a warp where there are few entries */
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr size_t FEW = 256;         /* entries that are one warp's */
constexpr unsigned FAN = 16;        /* lists a block */
constexpr size_t STAGED_MAX = 3072; /* entries in shared memory */
constexpr size_t SCRATCH_MAX = (size_t)256 << 20;
constexpr size_t BLOCKS_MAX = (size_t)1 << 30;

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Lists of one level and where their best go. */
struct level {
    size_t stride, queries; /* queries of the arrays, and of this launch */
    size_t first;           /* the first of them */
    size_t parts;
    unsigned part_k;
    const int64_t *ids; /* [parts, stride, part_k] */
    const float *distances;
    const int64_t *bases; /* [parts] or NULL */
    size_t groups;
    unsigned k;
    size_t out_stride, out_first;
    int64_t *out_ids; /* [groups, out_stride, k] */
    float *out_distances;
    uint32_t *order; /* [groups, queries, FAN * part_k] with `unique`, else NULL */
};

/* Lists of a block, at most. */
__host__ __device__ unsigned lists_of(const level &l) {
    return l.parts < FAN ? (unsigned)l.parts : FAN;
}

/* What orders an entry: the distance as a number of the same order, a missing one last. */
struct entry {
    uint32_t order;
    int64_t id;
};

__device__ bool before(const entry &a, const entry &b) {
    return a.order < b.order || (a.order == b.order && a.id < b.id);
}

/* The lists of one block. */
struct group {
    const level &l;
    size_t query, part; /* the first part */
    unsigned parts;
    const uint32_t *orders; /* staged, or NULL */
    const int64_t *ids;

    __device__ size_t at(unsigned p, unsigned i) const {
        return ((part + p) * l.stride + l.first + query) * l.part_k + i;
    }
    __device__ entry read(unsigned p, unsigned i) const {
        entry e = { ~0u, l.ids[at(p, i)] };
        if (e.id == PERI_ID_NONE) return e;
        e.order = (uint32_t)(peri_key(l.distances[at(p, i)], 0) >> 32);
        if (l.bases != nullptr) e.id += l.bases[part + p];
        return e;
    }
    __device__ entry get(unsigned p, unsigned i) const {
        if (orders == nullptr) return read(p, i);
        return { orders[p * l.part_k + i], ids[p * l.part_k + i] };
    }
    /* Entries of list p before `e`, and with `equal` those that equal it. */
    __device__ unsigned count_before(unsigned p, const entry &e, bool equal) const {
        unsigned low = 0, high = l.part_k;
        while (low < high) {
            const unsigned middle = (low + high) / 2;
            const entry other = get(p, middle);
            if (before(other, e) || (equal && !before(e, other)))
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
    __device__ unsigned rank(unsigned p, unsigned i, const entry &e) const {
        unsigned found = i;
        for (unsigned other = 0; other < parts; other++)
            if (other != p) found += count_before(other, e, other < p);
        return found;
    }
    /* The last that can be among the k: k entries at least are not beyond it. By all lanes. */
    __device__ entry last(unsigned k) const {
        const unsigned lane = threadIdx.x % PERI_WARP, i = (k + parts - 1) / parts - 1;
        entry e = { 0, INT64_MIN };
        if (lane < parts) e = i < l.part_k ? get(lane, i) : entry{ ~0u, INT64_MAX };
        for (unsigned offset = 16; offset > 0; offset /= 2) {
            const entry other = { __shfl_xor_sync(PERI_ALL_LANES, e.order, offset),
                                  __shfl_xor_sync(PERI_ALL_LANES, e.id, offset) };
            if (before(e, other)) e = other;
        }
        return e;
    }
};

__device__ void write(const group &g, int64_t *ids, float *distances, unsigned rank,
                      unsigned from) {
    const unsigned p = from / g.l.part_k, i = from % g.l.part_k;
    const entry e = g.get(p, i);
    const bool none = e.order == ~0u;
    ids[rank] = none ? PERI_ID_NONE : e.id;
    distances[rank] = none ? __int_as_float(0x7F800000) : g.l.distances[g.at(p, i)];
}

__device__ void write_none(int64_t *ids, float *distances, unsigned from, unsigned k) {
    for (unsigned rank = from + threadIdx.x; rank < k; rank += blockDim.x) {
        ids[rank] = PERI_ID_NONE;
        distances[rank] = __int_as_float(0x7F800000);
    }
}

/* In their order, those that differ from the one before; missing ones are one entry, the last. */
__device__ void write_unique(const group &g, int64_t *ids, float *distances, const uint32_t *order,
                             unsigned total) {
    __shared__ unsigned counts[WARPS];
    const unsigned warp = threadIdx.x / PERI_WARP, lane = threadIdx.x % PERI_WARP;
    unsigned done = 0;
    for (unsigned at = 0; at < total && done < g.l.k; at += blockDim.x) {
        const unsigned mine = at + threadIdx.x;
        bool fresh = mine < total;
        if (fresh && mine > 0) {
            const unsigned now = order[mine], last = order[mine - 1];
            fresh = before(g.get(last / g.l.part_k, last % g.l.part_k),
                           g.get(now / g.l.part_k, now % g.l.part_k));
        }
        const unsigned lanes = __ballot_sync(PERI_ALL_LANES, fresh);
        if (lane == 0) counts[warp] = (unsigned)__popc(lanes);
        __syncthreads();
        unsigned rank = done + (unsigned)__popc(lanes & ((1u << lane) - 1));
        for (unsigned w = 0; w < blockDim.x / PERI_WARP; w++) {
            if (w < warp) rank += counts[w];
            done += counts[w];
        }
        __syncthreads(); /* counts are read before the next round writes them */
        if (fresh && rank < g.l.k) write(g, ids, distances, rank, order[mine]);
    }
    write_none(ids, distances, done, g.l.k);
}

__device__ void write_merged(const group &g, int64_t *ids, float *distances, unsigned total) {
    const entry last = g.last(g.l.k);
    for (unsigned i = threadIdx.x; i < total; i += blockDim.x) {
        const unsigned p = i / g.l.part_k, at = i % g.l.part_k;
        const entry e = g.get(p, at);
        if (at >= g.l.k || before(last, e)) continue;
        const unsigned rank = g.rank(p, at, e);
        if (rank < g.l.k) write(g, ids, distances, rank, i);
    }
    write_none(ids, distances, total, g.l.k);
}

__global__ void __launch_bounds__(THREADS) merge_lists(level l, bool staged) {
    extern __shared__ int64_t shared_ids[];
    uint32_t *shared_orders = reinterpret_cast<uint32_t *>(shared_ids + lists_of(l) * l.part_k);
    for (size_t task = blockIdx.x; task < l.queries * l.groups; task += gridDim.x) {
        const size_t query = task % l.queries, index = task / l.queries;
        const size_t left = l.parts - index * FAN;
        group g = { l, query, index * FAN, (unsigned)(left < FAN ? left : FAN), nullptr, nullptr };
        const unsigned total = g.parts * l.part_k;
        for (unsigned i = threadIdx.x; staged && i < total; i += blockDim.x) {
            const entry e = g.read(i / l.part_k, i % l.part_k);
            shared_orders[i] = e.order;
            shared_ids[i] = e.id;
        }
        __syncthreads();
        if (staged) g.orders = shared_orders, g.ids = shared_ids;
        const size_t out = (index * l.out_stride + l.out_first + query) * l.k;
        if (l.order == nullptr) {
            write_merged(g, l.out_ids + out, l.out_distances + out, total);
        } else {
            uint32_t *order = l.order + task * FAN * l.part_k;
            for (unsigned i = threadIdx.x; i < total; i += blockDim.x) {
                const unsigned p = i / l.part_k, at = i % l.part_k;
                order[g.rank(p, at, g.get(p, at))] = i;
            }
            __syncthreads();
            write_unique(g, l.out_ids + out, l.out_distances + out, order, total);
        }
        __syncthreads(); /* what is staged is read before the next task's is */
    }
}

/* ---- the operation ------------------------------------------------------------------------ */

/* Scratch of one query: two sets of lists that levels leave in turn, and an order. */
struct plan {
    size_t entries[2]; /* of the lists of levels 0, 2, .. and 1, 3, .. */
    size_t order;
    size_t chunk; /* queries a launch */
    size_t bytes;
};

plan make_plan(const peri_op_merge *op) {
    plan p = {};
    size_t parts = op->parts, part_k = op->part_k;
    for (unsigned turn = 0;; turn = 1 - turn) {
        size_t groups = ceil_div(parts, FAN);
        size_t order = op->unique ? groups * FAN * part_k : 0;
        if (p.order < order) p.order = order;
        if (groups == 1) break;
        part_k = least(op->k, FAN * part_k);
        if (p.entries[turn] < groups * part_k) p.entries[turn] = groups * part_k;
        parts = groups;
    }
    size_t one = (p.entries[0] + p.entries[1]) * (sizeof(int64_t) + sizeof(float)) +
                 p.order * sizeof(uint32_t);
    p.chunk = one == 0 ? op->queries : least(op->queries, SCRATCH_MAX / one);
    if (p.chunk == 0) p.chunk = 1;
    p.bytes = p.chunk * one;
    return p;
}

/* ids first, since they are the widest. */
struct places {
    int64_t *ids[2];
    float *distances[2];
    uint32_t *order;
};

places cut(const plan &p, void *scratch) {
    places at;
    at.ids[0] = static_cast<int64_t *>(scratch);
    at.ids[1] = at.ids[0] + p.chunk * p.entries[0];
    at.distances[0] = reinterpret_cast<float *>(at.ids[1] + p.chunk * p.entries[1]);
    at.distances[1] = at.distances[0] + p.chunk * p.entries[0];
    at.order = p.order == 0
                   ? nullptr
                   : reinterpret_cast<uint32_t *>(at.distances[1] + p.chunk * p.entries[1]);
    return at;
}

peri_status launch(peri_stream *stream, const level &l) {
    const size_t entries = (size_t)lists_of(l) * l.part_k;
    const bool staged = entries <= STAGED_MAX;
    const unsigned threads = entries <= FEW ? PERI_WARP : THREADS;
    const size_t bytes = staged ? entries * (sizeof(int64_t) + sizeof(uint32_t)) : 0;
    const unsigned blocks = (unsigned)least(l.queries * l.groups, BLOCKS_MAX);
    merge_lists<<<blocks, threads, bytes, peri_cuda_handle(stream)>>>(l, staged);
    return peri_cuda_launched(stream);
}

peri_status run_chunk(peri_stream *stream, const peri_op_merge *op, const places &at, level l) {
    for (unsigned turn = 0;; turn = 1 - turn) {
        l.groups = ceil_div(l.parts, FAN);
        l.k = (unsigned)(l.groups == 1 ? op->k : least(op->k, (size_t)FAN * l.part_k));
        l.out_stride = l.groups == 1 ? op->queries : l.queries;
        l.out_first = l.groups == 1 ? l.out_first : 0;
        l.out_ids = l.groups == 1 ? op->best_ids : at.ids[turn];
        l.out_distances = l.groups == 1 ? op->best_distances : at.distances[turn];
        l.order = at.order;
        peri_status status = launch(stream, l);
        if (status != PERI_OK || l.groups == 1) return status;
        l.ids = l.out_ids;
        l.distances = l.out_distances;
        l.bases = nullptr;
        l.parts = l.groups;
        l.part_k = l.k;
        l.stride = l.queries;
        l.first = 0;
    }
}

bool k_taken(size_t k, peri_cuda_answer why) {
    if (k > 0 && k <= PERI_K_MAX) return true;
    return peri_cuda_refuse(why, "k: %zu given, 1..%u are taken", k, PERI_K_MAX);
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_merge *)any;
    if (op->parts == 0) return peri_cuda_refuse(why, "parts: 0 given, 1 and more are taken");
    return k_taken(op->part_k, why) && k_taken(op->k, why);
}

size_t scratch(const peri_device *, const peri_op *any) {
    return make_plan((const peri_op_merge *)any).bytes;
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t bytes) {
    auto op = (const peri_op_merge *)any;
    const plan p = make_plan(op);
    if (op->queries == 0) return PERI_OK;
    if (bytes < p.bytes)
        return stream->device->host->fail(
            PERI_E_ARGUMENT, "merge: %zu bytes of scratch, %zu needed", bytes, p.bytes);
    const places at = cut(p, scratch);
    peri_status status = PERI_OK;
    for (size_t first = 0; first < op->queries && status == PERI_OK; first += p.chunk) {
        level l = {};
        l.stride = op->queries;
        l.first = l.out_first = first;
        l.queries = least(p.chunk, op->queries - first);
        l.parts = op->parts;
        l.part_k = (unsigned)op->part_k;
        l.ids = op->ids;
        l.distances = op->distances;
        l.bases = op->bases;
        status = run_chunk(stream, op, at, l);
    }
    return status;
}

} /* namespace */

const peri_cuda_op peri_cuda_merge_op = { supports, scratch, run };
