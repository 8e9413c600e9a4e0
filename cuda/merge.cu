/* merge: the best of several sorted lists.
 *
 * ids, distances, [parts, queries, part_k] | best_ids, best_distances [queries, k]
 * Three ways:
 * - a tree (k <= TREE_K_MAX, without `unique`): a warp a query, or a block of 256 where entries are
 *   many, and up to 64 lists. Order statistics of the lists give a bound that k entries at least
 *   don't exceed, and few more; only those, a prefix of each list, are read, the distances alone,
 *   into shared memory. Then pairs of lists become one, level by level: the place of an entry among
 *   both is its own place and, by binary search, how many of the other list come before it. Ids are
 *   read where distances tie, and of the k that are written.
 * - a thread a query and up to 8 lists, one answer after the other (few answers of very many
 *   queries, or `unique` of many): what is a warp's work in the tree is a lane's, but each lane
 *   reads lines of its own.
 * - a search of each entry in every other list, by a block (`unique` of few queries, very large k):
 *   ranks are distinct, so that every entry knows its place and nothing is sorted. With `unique`
 *   the order goes to scratch first, and entries that equal the one before are left out.
 * More lists than a way takes leave lists of k in scratch, until one is left.
 * Bytes are queries * parts * part_k * 12, of which a tree reads some 4 * 1.5 k a query. Bound by
 * the instructions of the searches, and for few queries by the latency of a dozen dependent
 * reads. */
#include "device.cuh"
#include "ops.h"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 128; /* of a block, or a warp where there are few entries */
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr size_t FEW = 256;                   /* entries that are one warp's */
constexpr unsigned FAN = 16;                  /* lists a block */
constexpr size_t STAGED_MAX = 3072;           /* entries in shared memory */
constexpr size_t THREAD_QUERIES_MIN = 4096;   /* where a thread a query fills the device */
constexpr size_t THREAD_QUERIES_MANY = 16384; /* where it is the fastest for few answers */
constexpr size_t THREAD_K_MAX = 16;
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
__host__ __device__ unsigned lists_of(const level &l, unsigned fan = FAN) {
    return l.parts < fan ? (unsigned)l.parts : fan;
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

/* ---- by a tree ---------------------------------------------------------------------------- */

constexpr unsigned TREE_FAN = 64; /* lists of a group */
constexpr unsigned TREE_K_MAX = 2048;
constexpr unsigned TREE_WARP_CAPACITY = 400; /* entries that are a warp's, of many queries */
constexpr unsigned TREE_WARP_CAPACITY_FEW = 64;
constexpr size_t TREE_WARP_TASKS = 4096; /* that fill the device by warps */

/* Entries that can be among the k: their orders, and where they are: the list * 2^16 + the place.
 * The second half is what a level of the tree writes. */
struct tree_room {
    uint32_t *orders, *places; /* [2 * capacity] */
    uint32_t *starts;          /* [TREE_FAN + 1] where each list begins */
    uint32_t *counts;          /* [TREE_FAN] */
    unsigned capacity;
};

__host__ __device__ unsigned tree_words_of(unsigned capacity) {
    return 4 * capacity + 2 * TREE_FAN + 1;
}

template <unsigned T> __device__ unsigned rank_of_thread() { return threadIdx.x % T; }
template <unsigned T> __device__ void tree_sync() {
    if (T == PERI_WARP)
        __syncwarp();
    else
        __syncthreads();
}

__device__ uint32_t order_at(const level &l, size_t at) {
    const float distance = l.distances[at];
    if (distance == __int_as_float(0x7F800000) && l.ids[at] == PERI_ID_NONE) return ~0u;
    return (uint32_t)(peri_key(distance, 0) >> 32);
}

/* An order that k entries at least don't exceed, and few more: a third more than k / parts entries
 * of enough lists. By each warp for itself. */
__device__ uint32_t tree_bound(const group &g, unsigned k) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const unsigned each = k <= g.parts   ? 1
                          : g.parts <= 4 ? (k + g.parts - 1) / g.parts
                                         : (4 * k + 3 * g.parts - 1) / (3 * g.parts);
    const unsigned wanted = (k + each - 1) / each; /* lists */
    uint32_t orders[TREE_FAN / PERI_WARP], low = ~0u, high = 0;
#pragma unroll
    for (unsigned i = 0; i < TREE_FAN / PERI_WARP; i++) {
        const unsigned p = i * PERI_WARP + lane;
        const bool there = p < g.parts && each <= g.l.part_k;
        orders[i] = there ? order_at(g.l, g.at(p, each - 1)) : ~0u;
        low = min(low, orders[i]);
        if (p < g.parts) high = max(high, orders[i]);
    }
    low = __reduce_min_sync(PERI_ALL_LANES, low);
    high = __reduce_max_sync(PERI_ALL_LANES, high);
    for (unsigned total = g.parts; total > wanted + wanted / 8 && low < high;) {
        const uint32_t middle = low + (high - low) / 2;
        unsigned here = 0;
#pragma unroll
        for (unsigned i = 0; i < TREE_FAN / PERI_WARP; i++)
            here += (unsigned)__popc(__ballot_sync(PERI_ALL_LANES, orders[i] <= middle));
        if (here >= wanted)
            high = middle, total = here;
        else
            low = middle + 1;
    }
    return high;
}

/* Takes those of 32 entries of list p that are not above the bound, one a lane, to `to` of the
 * room where they fit; how many they are. By a warp. */
__device__ unsigned tree_take(const group &g, const tree_room &room, unsigned p, unsigned i,
                              float distance, bool there, uint32_t bound, unsigned to) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    uint32_t order = (uint32_t)(peri_key(distance, 0) >> 32);
    if (there && distance == __int_as_float(0x7F800000) && g.l.ids[g.at(p, i)] == PERI_ID_NONE)
        order = ~0u;
    const bool in = there && order <= bound && order != ~0u;
    if (in && to + lane < room.capacity) {
        room.orders[to + lane] = order;
        room.places[to + lane] = p << 16 | i;
    }
    return (unsigned)__popc(__ballot_sync(PERI_ALL_LANES, in));
}

/* The entries of lists p.. that are not above the bound, AT_ONCE lists, to the room from `to` on;
 * leaves where each list begins, and returns where the last ends. By a warp. */
template <unsigned AT_ONCE>
__device__ unsigned tree_gather(const group &g, const tree_room &room, unsigned p, uint32_t bound,
                                unsigned most, unsigned to) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    float first[AT_ONCE];
#pragma unroll
    for (unsigned c = 0; c < AT_ONCE; c++) {
        const bool there = p + c < g.parts && lane < most;
        first[c] = there ? g.l.distances[g.at(p + c, lane)] : 0.0f;
    }
#pragma unroll
    for (unsigned c = 0; c < AT_ONCE; c++) {
        if (p + c >= g.parts) break;
        if (lane == 0) room.starts[p + c] = to;
        unsigned count = tree_take(g, room, p + c, lane, first[c], lane < most, bound, to);
        to += count;
        for (unsigned at = PERI_WARP; count == PERI_WARP && at < most; at += PERI_WARP) {
            const unsigned i = at + lane;
            const float distance = i < most ? g.l.distances[g.at(p + c, i)] : 0.0f;
            count = tree_take(g, room, p + c, i, distance, i < most, bound, to);
            to += count;
        }
    }
    return to;
}

/* How many entries of a list are not above the bound, of the first `most`: each step looks at 32
 * of those that are left. By a warp. */
__device__ unsigned tree_length(const group &g, unsigned p, uint32_t bound, unsigned most) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const size_t first = g.at(p, 0);
    unsigned low = 0, high = most; /* those before low are in, those from high on are not */
    while (low < high) {
        const unsigned apart = (high - low + PERI_WARP - 1) / PERI_WARP;
        const unsigned last = low + (lane + 1) * apart - 1;
        const uint32_t order = last < high ? order_at(g.l, first + last) : ~0u;
        const bool in = order <= bound && order != ~0u;
        const unsigned count = (unsigned)__popc(__ballot_sync(PERI_ALL_LANES, in));
        low += count * apart;
        high = min(high, low + apart - 1);
    }
    return low;
}

/* All lists, by all warps of T: the first half of the room, and how many entries there are. */
template <unsigned T>
__device__ unsigned tree_fill(const group &g, const tree_room &room, uint32_t bound) {
    const unsigned me = rank_of_thread<T>(), warp = me / PERI_WARP;
    const unsigned most = min(g.l.part_k, g.l.k);
    unsigned total = 0;
    if constexpr (T == PERI_WARP) {
        for (unsigned p = 0; p < g.parts; p += 4)
            total = tree_gather<4>(g, room, p, bound, most, total);
        if (me == 0) room.starts[g.parts] = total;
        __syncwarp();
    } else {
        for (unsigned p = warp; p < g.parts; p += T / PERI_WARP) {
            const unsigned count = tree_length(g, p, bound, most);
            if (me % PERI_WARP == 0) room.counts[p] = count;
        }
        __syncthreads();
        for (unsigned p = me; p <= g.parts; p += T) {
            unsigned before = 0;
            for (unsigned i = 0; i < p; i++) before += room.counts[i];
            room.starts[p] = before;
        }
        __syncthreads();
        total = room.starts[g.parts];
        for (unsigned e = me; e < total && total <= room.capacity; e += T) {
            unsigned p = 0;
            for (unsigned step = TREE_FAN / 2; step > 0; step /= 2)
                if (p + step < g.parts && room.starts[p + step] <= e) p += step;
            const unsigned i = e - room.starts[p];
            room.orders[e] = (uint32_t)(peri_key(g.l.distances[g.at(p, i)], 0) >> 32);
            room.places[e] = p << 16 | i;
        }
        __syncthreads();
    }
    return total;
}

/* Whether entry `place` with `order` comes before another, of a list before it or not. */
__device__ bool tree_before(const group &g, uint32_t order, uint32_t place, uint32_t other_order,
                            uint32_t other_place) {
    if (order != other_order) return order < other_order;
    const entry a = g.read(place >> 16, place & 0xFFFFu);
    const entry b = g.read(other_place >> 16, other_place & 0xFFFFu);
    return a.id < b.id || (a.id == b.id && place < other_place);
}

/* Groups of 2^(turn + 1) lists out of pairs of groups, from one half of the room to the other. */
template <unsigned T>
__device__ void tree_level(const group &g, const tree_room &room, unsigned turn, unsigned total) {
    const uint32_t *orders = room.orders + turn % 2 * room.capacity;
    const uint32_t *places = room.places + turn % 2 * room.capacity;
    uint32_t *to_orders = room.orders + (turn + 1) % 2 * room.capacity;
    uint32_t *to_places = room.places + (turn + 1) % 2 * room.capacity;
    for (unsigned e = rank_of_thread<T>(); e < total; e += T) {
        const uint32_t order = orders[e], place = places[e];
        const unsigned own = place >> 16 >> turn, other = own ^ 1;
        unsigned low = min(other << turn, g.parts), high = min((other + 1) << turn, g.parts);
        low = room.starts[low], high = room.starts[high];
        const unsigned first = low, apart = other < own ? high - low : 0;
        while (low < high) {
            const unsigned middle = (low + high) / 2;
            if (tree_before(g, orders[middle], places[middle], order, place))
                low = middle + 1;
            else
                high = middle;
        }
        const unsigned to = e + (low - first) - apart; /* what comes before of both */
        to_orders[to] = order;
        to_places[to] = place;
    }
}

/* Where there is no room: all entries, one by one, by binary searches in memory. */
template <unsigned T>
__device__ void merge_roomless(const group &g, int64_t *ids, float *distances, uint32_t bound) {
    const unsigned total = g.parts * g.l.part_k;
    for (unsigned i = rank_of_thread<T>(); i < total; i += T) {
        const unsigned p = i / g.l.part_k, at = i % g.l.part_k;
        const entry e = g.read(p, at);
        if (at >= g.l.k || e.order > bound) continue;
        const unsigned rank = g.rank(p, at, e);
        if (rank < g.l.k) write(g, ids, distances, rank, i);
    }
    for (unsigned rank = total + rank_of_thread<T>(); rank < g.l.k; rank += T) {
        ids[rank] = PERI_ID_NONE;
        distances[rank] = __int_as_float(0x7F800000);
    }
}

template <unsigned T>
__device__ void merge_tree(const group &g, const tree_room &room, int64_t *ids, float *distances) {
    const unsigned me = rank_of_thread<T>(), k = g.l.k;
    const uint32_t bound = tree_bound(g, k);
    const unsigned total = tree_fill<T>(g, room, bound);
    if (total > room.capacity) return merge_roomless<T>(g, ids, distances, bound);
    unsigned turn = 0;
    for (; 1u << turn < g.parts; turn++) {
        tree_level<T>(g, room, turn, total);
        tree_sync<T>();
    }
    const uint32_t *places = room.places + turn % 2 * room.capacity;
    for (unsigned rank = me; rank < k; rank += T) {
        const bool none = rank >= total;
        const uint32_t place = none ? 0 : places[rank];
        const size_t at = g.at(place >> 16, place & 0xFFFFu);
        const int64_t base = g.l.bases == nullptr ? 0 : g.l.bases[g.part + (place >> 16)];
        ids[rank] = none ? PERI_ID_NONE : g.l.ids[at] + base;
        distances[rank] = none ? __int_as_float(0x7F800000) : g.l.distances[at];
    }
}

constexpr unsigned TREE_THREADS = 256; /* of a block */

/* T threads a query and TREE_FAN lists. */
template <unsigned T>
__global__ void __launch_bounds__(TREE_THREADS) merge_trees(level l, unsigned capacity) {
    extern __shared__ uint32_t tree_words[];
    const unsigned index_of_room = threadIdx.x / T;
    tree_room room;
    room.capacity = capacity;
    room.orders = tree_words + index_of_room * tree_words_of(capacity);
    room.places = room.orders + 2 * capacity;
    room.starts = room.places + 2 * capacity;
    room.counts = room.starts + TREE_FAN + 1;
    const size_t task = (size_t)blockIdx.x * (TREE_THREADS / T) + index_of_room;
    if (task >= l.queries * l.groups) return; /* of T threads, all */
    const size_t query = task % l.queries, index = task / l.queries;
    const size_t left = l.parts - index * TREE_FAN;
    const group g = {
        l, query, index * TREE_FAN, (unsigned)(left < TREE_FAN ? left : TREE_FAN), nullptr, nullptr
    };
    const size_t out = (index * l.out_stride + l.out_first + query) * l.k;
    merge_tree<T>(g, room, l.out_ids + out, l.out_distances + out);
}

/* ---- many queries ------------------------------------------------------------------------- */

constexpr unsigned LISTS = 8;  /* of a thread */
constexpr unsigned ROUND = 16; /* answers that a warp keeps until it writes them */

/* What a warp's threads have found, to be written in whole lines. */
struct found {
    int64_t ids[PERI_WARP][ROUND + 1];
    float distances[PERI_WARP][ROUND + 1];
};

/* The lists of one thread: their first entries that are not taken yet. */
template <unsigned N> struct heads {
    const level &l;
    size_t first, step, part; /* of the lists' entries; the first part */
    uint32_t orders[N], taken[N];

    __device__ uint32_t order_of(size_t at) const {
        const float distance = l.distances[at];
        if (distance == __int_as_float(0x7F800000) && l.ids[at] == PERI_ID_NONE) return ~0u;
        return (uint32_t)(peri_key(distance, 0) >> 32);
    }
    __device__ int64_t id_of(size_t at, unsigned p) const {
        const int64_t id = l.ids[at];
        return l.bases == nullptr ? id : id + l.bases[part + p];
    }
    __device__ void begin(unsigned parts) {
#pragma unroll
        for (unsigned p = 0; p < N; p++) {
            taken[p] = 0;
            orders[p] = p < parts ? order_of(first + p * step) : ~0u;
        }
    }
    /* The list whose head is next, by (order, id, part). */
    __device__ unsigned least() const {
        uint32_t order = orders[0];
        unsigned best = 0, equal = 0;
#pragma unroll
        for (unsigned p = 1; p < N; p++) {
            if (orders[p] < order) best = p;
            order = min(order, orders[p]);
        }
#pragma unroll
        for (unsigned p = 0; p < N; p++) equal += orders[p] == order;
        if (equal == 1 || order == ~0u) return best;
        int64_t id = INT64_MAX;
#pragma unroll
        for (unsigned p = 0; p < N; p++) {
            if (orders[p] != order) continue;
            const int64_t other = id_of(first + p * step + taken[p], p);
            if (other < id) best = p;
            id = min(id, other);
        }
        return best;
    }
    /* Takes the next entry; false when none is left. */
    __device__ bool take(int64_t *id, float *distance) {
        const unsigned best = least();
        uint32_t place = 0, next = ~0u;
#pragma unroll
        for (unsigned p = 0; p < N; p++)
            if (p == best) {
                if (orders[p] == ~0u) return false;
                place = taken[p]++;
            }
        const size_t at = first + best * step + place;
        *id = id_of(at, best);
        *distance = l.distances[at];
        if (place + 1 < l.part_k) next = order_of(at + 1);
#pragma unroll
        for (unsigned p = 0; p < N; p++)
            if (p == best) orders[p] = next;
        return true;
    }
};

/* Writes `count` answers of each thread of a warp from rank `done` on; out = its first answer's
 * place, ~0 for none. */
__device__ void write_found(const level &l, const found &f, size_t out, unsigned done,
                            unsigned count) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    __syncwarp();
    for (unsigned i = lane; i < PERI_WARP * ROUND; i += PERI_WARP) {
        const unsigned row = i / ROUND, rank = i % ROUND;
        const size_t to = __shfl_sync(PERI_ALL_LANES, out, row);
        if (to == ~(size_t)0 || rank >= count) continue;
        l.out_ids[to + done + rank] = f.ids[row][rank];
        l.out_distances[to + done + rank] = f.distances[row][rank];
    }
    __syncwarp();
}

/* A thread a query and N lists, one answer after the other. */
template <unsigned N>
__global__ void __launch_bounds__(THREADS) merge_by_thread(level l, bool unique) {
    __shared__ found shared[WARPS];
    found &f = shared[threadIdx.x / PERI_WARP];
    const unsigned lane = threadIdx.x % PERI_WARP;
    const size_t task = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const bool mine = task < l.queries * l.groups;
    const size_t index = task / l.queries, query = task % l.queries, part = index * N;
    const size_t out = mine ? (index * l.out_stride + l.out_first + query) * l.k : ~(size_t)0;
    heads<N> h = { l, (part * l.stride + l.first + query) * l.part_k, l.stride * l.part_k, part };
    h.begin(!mine ? 0 : l.parts - part < N ? (unsigned)(l.parts - part) : N);
    int64_t last_id = PERI_ID_NONE;
    float last = 0.0f;
    for (unsigned done = 0; done < l.k; done += ROUND) {
        const unsigned count = l.k - done < ROUND ? l.k - done : ROUND;
        for (unsigned rank = 0; rank < count; rank++) {
            int64_t id = PERI_ID_NONE;
            float distance = __int_as_float(0x7F800000);
            bool any = h.take(&id, &distance);
            while (unique && any && done + rank > 0 && id == last_id && distance == last) {
                id = PERI_ID_NONE;
                distance = __int_as_float(0x7F800000);
                any = h.take(&id, &distance);
            }
            f.ids[lane][rank] = last_id = id;
            f.distances[lane][rank] = last = distance;
        }
        write_found(l, f, out, done, count);
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

enum way { BY_TREE, BY_THREAD, BY_SEARCH };

way way_of(const peri_op_merge *op) {
    const bool few = op->k <= THREAD_K_MAX && op->parts <= LISTS;
    if (few && op->queries >= THREAD_QUERIES_MANY) return BY_THREAD;
    if (!op->unique && op->k <= TREE_K_MAX) return BY_TREE;
    return op->queries >= THREAD_QUERIES_MIN ? BY_THREAD : BY_SEARCH;
}
unsigned fan_of(const peri_op_merge *op) {
    const way w = way_of(op);
    return w == BY_TREE ? TREE_FAN : w == BY_THREAD ? LISTS : FAN;
}

plan make_plan(const peri_op_merge *op) {
    plan p = {};
    const size_t fan = fan_of(op);
    size_t parts = op->parts, part_k = op->part_k;
    for (unsigned turn = 0;; turn = 1 - turn) {
        size_t groups = ceil_div(parts, fan);
        size_t order = op->unique && way_of(op) == BY_SEARCH ? groups * FAN * part_k : 0;
        if (p.order < order) p.order = order;
        if (groups == 1) break;
        part_k = least(op->k, fan * part_k);
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

/* Entries that T threads have room for: about those that can be among the k where lists are
 * alike. */
unsigned tree_capacity(const level &l) {
    const size_t all = (size_t)lists_of(l, TREE_FAN) * least(l.part_k, l.k);
    return (unsigned)least(all, 2 * l.k + 2 * lists_of(l, TREE_FAN) + 32);
}

template <unsigned T> peri_status launch_trees(peri_stream *stream, const level &l) {
    const unsigned capacity = tree_capacity(l), tasks = TREE_THREADS / T;
    const unsigned bytes = tasks * tree_words_of(capacity) * sizeof(uint32_t);
    const unsigned blocks = (unsigned)ceil_div(l.queries * l.groups, tasks);
    CU_TRY(stream->device,
           cudaFuncSetAttribute(merge_trees<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bytes));
    merge_trees<T><<<blocks, TREE_THREADS, bytes, peri_cuda_handle(stream)>>>(l, capacity);
    return peri_cuda_launched(stream);
}

peri_status launch_trees(peri_stream *stream, const level &l) {
    const bool many = l.queries * l.groups >= TREE_WARP_TASKS;
    if (tree_capacity(l) <= (many ? TREE_WARP_CAPACITY : TREE_WARP_CAPACITY_FEW))
        return launch_trees<PERI_WARP>(stream, l);
    return launch_trees<TREE_THREADS>(stream, l);
}

peri_status launch_threads(peri_stream *stream, const level &l, bool unique) {
    const unsigned blocks = (unsigned)ceil_div(l.queries * l.groups, THREADS);
    cudaStream_t handle = peri_cuda_handle(stream);
    if (l.parts <= 2)
        merge_by_thread<2><<<blocks, THREADS, 0, handle>>>(l, unique);
    else if (l.parts <= 4)
        merge_by_thread<4><<<blocks, THREADS, 0, handle>>>(l, unique);
    else
        merge_by_thread<LISTS><<<blocks, THREADS, 0, handle>>>(l, unique);
    return peri_cuda_launched(stream);
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
    const size_t fan = fan_of(op);
    for (unsigned turn = 0;; turn = 1 - turn) {
        l.groups = ceil_div(l.parts, fan);
        l.k = (unsigned)(l.groups == 1 ? op->k : least(op->k, fan * l.part_k));
        l.out_stride = l.groups == 1 ? op->queries : l.queries;
        l.out_first = l.groups == 1 ? l.out_first : 0;
        l.out_ids = l.groups == 1 ? op->best_ids : at.ids[turn];
        l.out_distances = l.groups == 1 ? op->best_distances : at.distances[turn];
        l.order = at.order;
        peri_status status = PERI_OK;
        switch (way_of(op)) {
        case BY_TREE: status = launch_trees(stream, l); break;
        case BY_THREAD: status = launch_threads(stream, l, op->unique); break;
        case BY_SEARCH: status = launch(stream, l); break;
        }
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
