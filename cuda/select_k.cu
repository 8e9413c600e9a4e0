/* select_k: the least values of every row.
 *
 * values [n, columns] f32 | ids [n, columns] i64 or none | best_ids, best_values [n, k]
 * Rows of up to 1024 columns, and longer ones where there are 4096 and more, with k <= 256, are a
 * warp's each (select_lone): 32 * N values at a time in registers. The first ones bound the rest:
 * the k-th least of the least of groups of values is not below the k-th least of all and hardly
 * above it; so some dozens of values pass, whose keys go to shared memory and are cut down to k
 * when they have grown. At the end they are ranked or sorted, by buckets where that is most of the
 * work. No barrier of a block is met.
 * Other rows are blocks' (select_values). A task is a row, or one of `splits` segments of it, so
 * that few long rows use the whole device; a block takes tasks in turn, in tiles of 4096 values
 * that are copied to shared memory ahead of their use, from one task to the next too: 16 values a
 * thread, one comparison each with the bound, one barrier. What is below the bound goes into a pool
 * (select_pool.cuh). The bound of a first tile is found among the least values of its threads, so
 * that a tile never goes through the pool whole. Segments leave k keys each in scratch, and blocks
 * select among those until one list is left a row.
 * Shared memory 32 KiB for a warp a row (40 with buckets), else 48 KiB for k <= 512, 96 KiB above;
 * 40 to 124 registers. Bound by memory: n * columns * 4 bytes, each read once; rows of about 1000
 * columns with k > 32 by the instructions of ranking and sorting; one row of 1M columns by the
 * latency of two launches and some thirty barriers. Rows that fall from their first column to the
 * last fill the pool in every tile and take a few times as long.
 * Tried: the least key of each segment, to choose among segments before their keys are read:
 * within 10 % for one row, either way; buckets for every k: fewer warps at once, a tenth slower. */
#include <cuda_pipeline.h>

#include "device.cuh"
#include "ops.h"
#include "coarse_select.cuh"
#include "select_pool.cuh"

namespace {

constexpr size_t SMALL_K_MAX = 512; /* of the pool of 16 KiB */
constexpr size_t TASK_COST = 16384; /* values that a block reads in the time of one more task */
constexpr size_t TASK_COST_K = 32;  /* and for each of the k */
constexpr size_t SPLIT_COLUMNS_MIN = 8192; /* below, selecting again costs more than it gains */
constexpr size_t SPLIT_ANSWERS = 16;       /* a segment has this many times k columns */
constexpr size_t TURNS_MAX = 8;            /* tasks of a block, where rows are cut */
constexpr size_t SCRATCH_MAX = (size_t)256 << 20;
constexpr size_t FAN_KEYS = 8192; /* of lists that a block selects among, about */
constexpr size_t FAN_MIN = 8;     /* lists */
constexpr size_t BLOCKS_MAX = (size_t)1 << 30;

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }
size_t least(size_t a, size_t b) { return a < b ? a : b; }
size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* ---- kernels ------------------------------------------------------------------------------ */

struct job {
    const char *values;
    size_t stride, columns, rows;
    size_t split_columns; /* a multiple of 4 */
    size_t splits;        /* segments of a row */
    const int64_t *ids;
    int64_t *best_ids;
    float *best_values;
    const uint64_t *keys_in; /* [rows, lists, list_k] */
    size_t lists, fan;       /* `fan` lists a block, `splits` blocks a row */
    uint64_t *keys_out;      /* [rows, splits, list_k], where there are several */
    unsigned k;
    unsigned list_k;  /* keys that a list may have, >= k */
    unsigned slack;   /* keys that stay in the pool beyond k */
    unsigned trigger; /* keys in the pool that call for a new bound */
};

__device__ uint64_t key_of(float value, size_t column) {
    return peri_key(value != value ? __int_as_float(0x7F800000) : value, (uint32_t)column);
}

/* One entry of the answer of a row. */
__device__ void write_best(const job &j, size_t row, unsigned rank, uint64_t key) {
    const bool none = key == PERI_KEY_NONE;
    const size_t column = peri_key_slot(key), at = row * j.k + rank;
    int64_t id = none ? PERI_ID_NONE : (int64_t)column;
    if (!none && j.ids != nullptr) id = j.ids[row * j.columns + column];
    j.best_ids[at] = id;
    j.best_values[at] = none ? __int_as_float(0x7F800000) : peri_key_value(key);
}

/* A task's k best: sorted into the answer, or with a few more into scratch. */
template <typename Pool> __device__ void finish(const Pool &pool, const job &j, size_t task) {
    if (j.splits == 1) {
        /* Some more than k are found sooner, but where a sort is due they must not double it. */
        const bool sorted = j.k + 32 > Pool::RANKED_MOST;
        const unsigned room = sorted ? 1u << (32 - __clz((int)j.k - 1)) : ~0u;
        pool.flush(j.k, min(j.k + 32, room));
        pool.answer(j.k, [&](unsigned rank, uint64_t key) { write_best(j, task, rank, key); });
        return;
    }
    pool.flush(j.k, j.list_k);
    const unsigned total = pool.count();
    uint64_t *out = j.keys_out + task * j.list_k;
    for (unsigned i = threadIdx.x; i < j.list_k; i += Pool::SIZE)
        out[i] = i < total ? pool.keys[i] : PERI_KEY_NONE;
}

/* Columns begin..stop of a row, counted from the last boundary of 16 bytes before the row. */
struct segment {
    const float *base;
    size_t begin, stop;
    uint32_t shift; /* what a column is counted too high */
};

__device__ segment find_segment(const job &j, size_t task) {
    const size_t row = task / j.splits, split = task % j.splits;
    const char *bytes = j.values + row * j.stride;
    segment s;
    s.shift = (uint32_t)((size_t)bytes % 16 / 4);
    s.base = reinterpret_cast<const float *>(bytes) - s.shift;
    s.begin = split * j.split_columns;
    s.stop = split + 1 == j.splits ? s.shift + j.columns : s.begin + j.split_columns;
    if (split == 0) s.begin = s.shift;
    return s;
}

/* How a block of THREADS works: VECTORS loads of 16 bytes a thread make a tile, STAGES tiles are
 * in shared memory or on their way there, where each thread reads only what it loaded itself. */
template <unsigned THREADS_, unsigned KEYS, unsigned VECTORS_, unsigned STAGES_, unsigned BLOCKS_>
struct shape {
    static constexpr unsigned THREADS = THREADS_, VECTORS = VECTORS_, STAGES = STAGES_;
    static constexpr unsigned BLOCKS = BLOCKS_; /* on a multiprocessor at once, where it has room */
    static constexpr unsigned TILE = THREADS * VECTORS * 4;                    /* values */
    static constexpr unsigned SHARED = THREADS * KEYS * 8 + STAGES * TILE * 4; /* bytes */
    using pool = peri_pool<THREADS, KEYS>;

    /* Where value i of a thread is in its tile. */
    __device__ static unsigned place_of(unsigned i) {
        return (threadIdx.x + i / 4 * THREADS) * 4 + i % 4;
    }
};

/* Asks for a tile; what is past the end of the segment isn't read. */
template <typename Shape> __device__ void ask(const segment &s, size_t at, float *stage) {
#pragma unroll
    for (unsigned v = 0; v < Shape::VECTORS; v++) {
        const unsigned place = Shape::place_of(4 * v);
        const size_t from = at + place;
        if (from + 4 <= s.stop)
            __pipeline_memcpy_async(stage + place, s.base + from, 16);
        else
            for (size_t i = from; i < s.stop; i++) stage[place + i - from] = s.base[i];
    }
}

/* Bit i: value i of the thread is of the segment. */
template <typename Shape> __device__ unsigned valid_values(const segment &s, size_t at) {
    unsigned valid = 0;
    if (at >= s.begin && at + Shape::TILE <= s.stop) return (1u << 4 * Shape::VECTORS) - 1;
#pragma unroll
    for (unsigned i = 0; i < 4 * Shape::VECTORS; i++) {
        const size_t from = at + Shape::place_of(i);
        valid |= (unsigned)(from >= s.begin && from < s.stop) << i;
    }
    return valid;
}

template <typename Shape>
__device__ unsigned values_below(const float *stage, float bound, unsigned valid) {
    unsigned pending = 0;
#pragma unroll
    for (unsigned v = 0; v < Shape::VECTORS; v++) {
        const float4 four = *reinterpret_cast<const float4 *>(stage + Shape::place_of(4 * v));
        if (!(fminf(fminf(four.x, four.y), fminf(four.z, four.w)) < bound)) continue;
        pending |= (unsigned)(four.x < bound) << 4 * v | (unsigned)(four.y < bound) << (4 * v + 1) |
                   (unsigned)(four.z < bound) << (4 * v + 2) |
                   (unsigned)(four.w < bound) << (4 * v + 3);
    }
    return pending & valid;
}

/* Pushes what is pending, with one addition to the pool's count; what finds the pool full stays
 * pending. *count = keys in the pool behind those that were pushed. */
template <typename Shape>
__device__ unsigned push_values(const typename Shape::pool &pool, const float *stage,
                                unsigned pending, uint32_t column, unsigned *count) {
    *count = 0;
    if (pending == 0) return 0;
    unsigned at = pool.take((unsigned)__popc(pending));
    *count = at + (unsigned)__popc(pending);
    while (pending != 0 && at < Shape::pool::CAPACITY) {
        const unsigned place = Shape::place_of((unsigned)__ffs((int)pending) - 1);
        pool.keys[at++] = key_of(stage[place], column + place);
        pending &= pending - 1;
    }
    return pending;
}

/* What of the pending values is below a bound that a flush found. */
template <typename Shape>
__device__ unsigned still_pending(const float *stage, unsigned pending, uint32_t column,
                                  uint64_t bound) {
    unsigned left = 0;
    for (; pending != 0; pending &= pending - 1) {
        const unsigned i = (unsigned)__ffs((int)pending) - 1, place = Shape::place_of(i);
        if (key_of(stage[place], column + place) < bound) left |= 1u << i;
    }
    return left;
}

/* Which values of a first tile enter. The k-th least of the least value of each thread, or of each
 * load, is not below the k-th least of all and hardly above it. */
template <typename Shape>
__device__ unsigned first_pending(const typename Shape::pool &pool, const float *stage,
                                  unsigned valid, unsigned total, unsigned k) {
    constexpr unsigned VECTORS = Shape::VECTORS, THREADS = Shape::THREADS;
    unsigned orders[4 * VECTORS], least[VECTORS], whole[1] = { ~0u }, pending = 0, bound;
#pragma unroll
    for (unsigned v = 0; v < VECTORS; v++) {
        const float4 four = *reinterpret_cast<const float4 *>(stage + Shape::place_of(4 * v));
        const float values[4] = { four.x, four.y, four.z, four.w };
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const unsigned order = (unsigned)(key_of(values[i], 0) >> 32);
            orders[4 * v + i] = valid >> (4 * v + i) & 1u ? order : ~0u;
        }
        least[v] = min(min(orders[4 * v], orders[4 * v + 1]),
                       min(orders[4 * v + 2], orders[4 * v + 3]));
        whole[0] = min(whole[0], least[v]);
    }
    const unsigned enough = k + k / 8 + 4;
    if (total == Shape::TILE && k <= THREADS / 4 * 3)
        bound = pool.bound_of(whole, THREADS, k, enough);
    else if (total == Shape::TILE && k <= THREADS * VECTORS / 4 * 3)
        bound = pool.bound_of(least, THREADS * VECTORS, k, enough);
    else
        bound = pool.bound_of(orders, total, k, enough);
#pragma unroll
    for (unsigned i = 0; i < 4 * VECTORS; i++) pending |= (unsigned)(orders[i] <= bound) << i;
    if (threadIdx.x == 0) pool.state->bound = (uint64_t)bound << 32 | 0xFFFFFFFFu;
    return pending & valid;
}

/* The tiles of a block's tasks, one after the other, as they are asked for: ahead of those that are
 * looked at, also from one task to the next. */
template <typename Shape> struct asker {
    const job &j;
    float *stages;
    size_t task, at;
    unsigned turn;
    segment s;

    __device__ asker(const job &asked, float *shared) : j(asked), stages(shared) {
        task = blockIdx.x;
        turn = 0;
        s = find_segment(j, task);
        at = s.begin / 4 * 4;
    }
    __device__ void ask_next() {
        if (task < j.rows * j.splits) {
            ask<Shape>(s, at, stages + turn * Shape::TILE);
            at += Shape::TILE;
            if (at >= s.stop) {
                task += gridDim.x;
                if (task < j.rows * j.splits) s = find_segment(j, task);
                at = s.begin / 4 * 4;
            }
        }
        __pipeline_commit();
        turn = turn + 1 == Shape::STAGES ? 0 : turn + 1;
    }
};

/* Every value of a segment is offered; the pool holds the k least of them, and some more. */
template <typename Shape>
__device__ void scan(const typename Shape::pool &pool, const job &j, const segment &s,
                     asker<Shape> *ahead, unsigned *turn) {
    const size_t first = s.begin / 4 * 4;
    float bound = 0.0f;
    bool bounded = false;
    size_t at = first;
    do {
        const float *stage = ahead->stages + *turn * Shape::TILE;
        const uint32_t column = (uint32_t)at - s.shift;
        ahead->ask_next();
        __pipeline_wait_prior(Shape::STAGES - 1);
        unsigned pending = valid_values<Shape>(s, at);
        if (bounded) {
            pending = values_below<Shape>(stage, bound, pending);
        } else if (at == first) {
            const size_t stop = at + Shape::TILE < s.stop ? at + Shape::TILE : s.stop;
            const unsigned total = stop > s.begin ? (unsigned)(stop - s.begin) : 0;
            if (total > j.k + j.slack)
                pending = first_pending<Shape>(pool, stage, pending, total, j.k);
        }
        unsigned count;
        pending = push_values<Shape>(pool, stage, pending, column, &count);
        while (__syncthreads_or(pending != 0 || count > j.trigger) != 0) {
            pool.flush(j.k, j.k + j.slack);
            pending = still_pending<Shape>(stage, pending, column, pool.state->bound);
            pending = push_values<Shape>(pool, stage, pending, column, &count);
        }
        const uint64_t key = pool.state->bound;
        bounded = key != PERI_KEY_NONE;
        bound = peri_key_value(key);
        *turn = *turn + 1 == Shape::STAGES ? 0 : *turn + 1;
        at += Shape::TILE;
    } while (at < s.stop);
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::THREADS, Shape::BLOCKS) select_values(job j) {
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_pool_state state;
    const typename Shape::pool pool = { shared_keys, &state };
    asker<Shape> ahead(j, reinterpret_cast<float *>(shared_keys + Shape::pool::CAPACITY));
    unsigned turn = 0;
    for (unsigned i = 0; i + 1 < Shape::STAGES; i++) ahead.ask_next();
    for (size_t task = blockIdx.x; task < j.rows * j.splits; task += gridDim.x) {
        pool.begin();
        __syncthreads();
        scan<Shape>(pool, j, find_segment(j, task), &ahead, &turn);
        finish(pool, j, task);
        __syncthreads();
    }
}

template <typename Pool> __global__ void __launch_bounds__(Pool::SIZE) select_keys(job j) {
    constexpr unsigned THREADS = Pool::SIZE, KEYS = Pool::CAPACITY / THREADS;
    extern __shared__ uint64_t shared_keys[];
    __shared__ peri_pool_state state;
    const Pool pool = { shared_keys, &state };
    for (size_t task = blockIdx.x; task < j.rows * j.splits; task += gridDim.x) {
        const size_t row = task / j.splits, list = task % j.splits * j.fan;
        const size_t lists = list + j.fan < j.lists ? j.fan : j.lists - list;
        const size_t total = lists * j.list_k;
        const uint64_t *keys = j.keys_in + (row * j.lists + list) * j.list_k;
        pool.begin();
        __syncthreads();
        for (size_t at = 0; at < total; at += THREADS * KEYS) {
            uint64_t mine[KEYS], bound = pool.state->bound;
            unsigned pending = 0;
#pragma unroll
            for (unsigned i = 0; i < KEYS; i++) {
                size_t from = at + i * THREADS + threadIdx.x;
                mine[i] = from < total ? keys[from] : PERI_KEY_NONE;
            }
#pragma unroll
            for (unsigned i = 0; i < KEYS; i++)
                pending |= (unsigned)(mine[i] < bound && !pool.push(mine[i])) << i;
            while (__syncthreads_or((int)pending) != 0) {
                pool.flush(j.k, j.k + j.slack);
                bound = pool.state->bound;
#pragma unroll
                for (unsigned i = 0; i < KEYS; i++)
                    if ((pending >> i & 1u) != 0 && (mine[i] >= bound || pool.push(mine[i])))
                        pending &= ~(1u << i);
            }
        }
        finish(pool, j, task);
        __syncthreads();
    }
}

/* ---- many rows, a warp each --------------------------------------------------------------- */

constexpr unsigned LONE_THREADS = 256, LONE_WARPS = LONE_THREADS / PERI_WARP;
constexpr unsigned LONE_K_MAX = 256;
constexpr unsigned LONE_ROOM = 512;  /* keys of a warp, >= k + 32 */
constexpr unsigned LONE_GROWN = 64;  /* keys beyond 2 k that are worth a cut; taste */
constexpr unsigned LONE_RANKED = 64; /* keys that are ranked by counting; more are sorted */
constexpr size_t LONE_COLUMNS_MAX = 1024;
constexpr size_t LONE_ROWS_MIN = 4096; /* above, longer rows too */

/* As peri_pool::bound_of(), of a warp. */
template <unsigned N>
__device__ unsigned warp_bound(const unsigned (&numbers)[N], unsigned least, unsigned most) {
    unsigned low = ~0u, high = 0, total = N * PERI_WARP;
#pragma unroll
    for (unsigned i = 0; i < N; i++) {
        low = min(low, numbers[i]);
        high = max(high, numbers[i]);
    }
    low = __reduce_min_sync(PERI_ALL_LANES, low);
    high = __reduce_max_sync(PERI_ALL_LANES, high);
    while (total > most && low < high) {
        unsigned middle = low + (high - low) / 2, here = 0;
#pragma unroll
        for (unsigned i = 0; i < N; i++) here += numbers[i] <= middle;
        here = __reduce_add_sync(PERI_ALL_LANES, here);
        if (here >= least) {
            high = middle;
            total = here;
        } else {
            low = middle + 1;
        }
    }
    return high;
}

/* A row's selection by one warp: keys in shared memory, the rest in each lane alike. */
struct lone {
    uint64_t *keys; /* [LONE_ROOM] */
    unsigned count, k;
    uint64_t bound; /* no key above it is among the k */
    float limit;    /* its value */

    __device__ void begin(float first) {
        limit = first;
        if (first < __int_as_float(0x7F800000)) bound = peri_key(first, ~0u);
    }
    __device__ void cut() {
        __syncwarp();
        bound = peri_warp_keep_shared(keys, count, k);
        limit = peri_key_value(bound);
        count = k;
    }
    /* One value a lane. */
    __device__ void offer(uint64_t key, bool there) {
        const unsigned lane = threadIdx.x % PERI_WARP;
        if (count + PERI_WARP > LONE_ROOM) cut();
        const bool kept = there && key <= bound;
        const unsigned lanes = __ballot_sync(PERI_ALL_LANES, kept);
        if (kept) keys[count + (unsigned)__popc(lanes & ((1u << lane) - 1))] = key;
        count += (unsigned)__popc(lanes);
    }
    /* The values of each lane that `pending` names, `total` in all, for which there is room. */
    __device__ void push(const float *values, uint32_t column, unsigned pending, unsigned total) {
        const unsigned lane = threadIdx.x % PERI_WARP, mine = (unsigned)__popc(pending);
        unsigned place = mine;
        for (unsigned offset = 1; offset < PERI_WARP; offset *= 2) {
            const unsigned other = __shfl_up_sync(PERI_ALL_LANES, place, offset);
            if (lane >= offset) place += other;
        }
        place += count - mine;
        for (; pending != 0; pending &= pending - 1) {
            const uint32_t at = column + ((unsigned)__ffs((int)pending) - 1) * PERI_WARP;
            keys[place++] = key_of(values[at], at);
        }
        count += total;
    }
};

/* A value that k of the first values of a row at least don't exceed, and few more: the k-th least
 * of the least values of GROUPS groups a lane, or hardly above it. Infinite: nothing is known. */
template <unsigned GROUPS, unsigned N>
__device__ float first_limit(const float (&values)[N], unsigned k) {
    unsigned orders[GROUPS];
#pragma unroll
    for (unsigned g = 0; g < GROUPS; g++) {
        float least = values[g];
#pragma unroll
        for (unsigned i = g + GROUPS; i < N; i += GROUPS) least = fminf(least, values[i]);
        orders[g] = (unsigned)(key_of(least, 0) >> 32);
    }
    return peri_key_value((uint64_t)warp_bound(orders, k, k + k / 8 + 2) << 32);
}

template <unsigned N>
__device__ void offer_values(lone *s, const float *values, const float (&mine)[N], uint32_t column,
                             uint32_t columns) {
    unsigned pending = 0;
#pragma unroll
    for (unsigned i = 0; i < N; i++) pending |= (unsigned)(mine[i] <= s->limit) << i;
    const unsigned total = __reduce_add_sync(PERI_ALL_LANES, (unsigned)__popc(pending));
    if (s->limit < __int_as_float(0x7F800000)) {
        if (total == 0) return;
        if ((s->count > 2 * s->k + LONE_GROWN || s->count + total > LONE_ROOM) && s->count > s->k)
            s->cut();
        if (s->count + total <= LONE_ROOM) return s->push(values, column, pending, total);
    }
#pragma unroll 1
    for (unsigned i = 0; i < N; i++) {
        const uint32_t at = column + i * PERI_WARP;
        const bool there = at < columns;
        s->offer(key_of(there ? values[at] : 0.0f, at), there);
    }
}

constexpr unsigned LONE_BUCKETS = 256;
constexpr unsigned LONE_SHARE = LONE_BUCKETS / PERI_WARP; /* of a lane */
constexpr unsigned LONE_BUCKET_MAX = 24; /* keys of a bucket; above, they are sorted */

/* From the sizes of buckets to where each begins << 16 | its size; false where one is too large. */
__device__ bool find_buckets(uint32_t *sizes) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    unsigned sum = 0, most = 0, share[LONE_SHARE];
#pragma unroll
    for (unsigned i = 0; i < LONE_SHARE; i++) {
        share[i] = sizes[i * PERI_WARP + lane];
        most = max(most, share[i]);
        sum += share[i];
    }
    if (__reduce_max_sync(PERI_ALL_LANES, most) > LONE_BUCKET_MAX) return false;
    unsigned before = sum;
    for (unsigned offset = 1; offset < PERI_WARP; offset *= 2) {
        const unsigned other = __shfl_up_sync(PERI_ALL_LANES, before, offset);
        if (lane >= offset) before += other;
    }
    before -= sum;
#pragma unroll
    for (unsigned i = 0; i < LONE_SHARE; i++) {
        sizes[i * PERI_WARP + lane] = before << 16 | share[i];
        before += share[i];
    }
    __syncwarp();
    return true;
}

/* Sorts the keys of a warp by how far they are between the least and the greatest: each goes to its
 * bucket, and there its rank is counted. False, with the keys as they were, where many are in one
 * bucket. `sizes` [LONE_BUCKETS], bucket b at 32 * (b % 8) + b / 8. */
__device__ __noinline__ bool sort_by_buckets(uint64_t *keys, unsigned count, uint32_t *sizes) {
    constexpr unsigned EACH = LONE_ROOM / PERI_WARP;
    const unsigned lane = threadIdx.x % PERI_WARP;
    uint64_t mine[EACH];
    uint32_t places[EACH], low = ~0u, high = 0;
#pragma unroll
    for (unsigned e = 0; e < EACH; e++) {
        if (e * PERI_WARP >= count) break;
        const unsigned at = e * PERI_WARP + lane;
        mine[e] = at < count ? keys[at] : PERI_KEY_NONE;
        if (at >= count) continue;
        low = min(low, (uint32_t)(mine[e] >> 32));
        high = max(high, (uint32_t)(mine[e] >> 32));
    }
#pragma unroll
    for (unsigned i = 0; i < LONE_SHARE; i++) sizes[i * PERI_WARP + lane] = 0;
    low = __reduce_min_sync(PERI_ALL_LANES, low);
    high = __reduce_max_sync(PERI_ALL_LANES, high);
    const float scale = (float)LONE_BUCKETS / ((float)(high - low) + 1.0f);
    __syncwarp();
#pragma unroll
    for (unsigned e = 0; e < EACH; e++) {
        if (e * PERI_WARP >= count) break;
        if (e * PERI_WARP + lane >= count) continue;
        const float far = __uint2float_rz((uint32_t)(mine[e] >> 32) - low);
        const unsigned bucket = min((unsigned)(far * scale), LONE_BUCKETS - 1);
        const unsigned at = bucket % LONE_SHARE * PERI_WARP + bucket / LONE_SHARE;
        places[e] = at << 16 | atomicAdd(&sizes[at], 1u);
    }
    __syncwarp();
    if (!find_buckets(sizes)) return false;
#pragma unroll
    for (unsigned e = 0; e < EACH; e++) {
        if (e * PERI_WARP >= count) break;
        if (e * PERI_WARP + lane < count)
            keys[(sizes[places[e] >> 16] >> 16) + (places[e] & 0xFFFFu)] = mine[e];
    }
    __syncwarp();
#pragma unroll
    for (unsigned e = 0; e < EACH; e++) {
        if (e * PERI_WARP >= count) break;
        if (e * PERI_WARP + lane >= count) continue;
        const uint32_t size = sizes[places[e] >> 16], first = size >> 16;
        unsigned rank = first;
        for (unsigned i = first; i < first + (size & 0xFFFFu); i++) rank += keys[i] < mine[e];
        places[e] = rank;
    }
    __syncwarp();
#pragma unroll
    for (unsigned e = 0; e < EACH; e++) {
        if (e * PERI_WARP >= count) break;
        if (e * PERI_WARP + lane < count) keys[places[e]] = mine[e];
    }
    __syncwarp();
    return true;
}

/* By bitonic sorts, of k keys where there are more than twice as many. */
__device__ void sort_by_network(lone *s) {
    unsigned room = PERI_WARP;
    while (room < s->k) room *= 2;
    if (s->count > room) s->cut();
    while (room < s->count) room *= 2;
    for (unsigned e = s->count + threadIdx.x % PERI_WARP; e < room; e += PERI_WARP)
        s->keys[e] = PERI_KEY_NONE;
    __syncwarp();
    peri_warp_sort(s->keys, room);
}

/* `sizes`: for sort_by_buckets(), or NULL. */
__device__ void write_row(lone *s, const job &j, size_t row, uint32_t *sizes) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    __syncwarp();
    if (s->count <= LONE_RANKED) {
        for (unsigned e = lane; e < s->count; e += PERI_WARP) {
            const uint64_t key = s->keys[e];
            unsigned rank = 0;
#pragma unroll 4
            for (unsigned f = 0; f < s->count; f++) rank += s->keys[f] < key;
            if (rank < j.k) write_best(j, row, rank, key);
        }
    } else {
        if (sizes == nullptr || !sort_by_buckets(s->keys, s->count, sizes)) sort_by_network(s);
        for (unsigned e = lane; e < min(s->count, j.k); e += PERI_WARP)
            write_best(j, row, e, s->keys[e]);
    }
    for (unsigned e = s->count + lane; e < j.k; e += PERI_WARP)
        write_best(j, row, e, PERI_KEY_NONE);
    __syncwarp(); /* the keys are read before the next row's are written */
}

/* 32 * N values of a row at a time, in registers: lane l has columns l, l + 32, and so on. */
template <unsigned N, unsigned GROUPS, bool BUCKETS>
__global__ void __launch_bounds__(LONE_THREADS) select_lone(job j) {
    __shared__ uint64_t rooms[LONE_WARPS][LONE_ROOM];
    __shared__ uint32_t sizes[LONE_WARPS][BUCKETS ? LONE_BUCKETS : 1];
    const unsigned lane = threadIdx.x % PERI_WARP;
    const uint32_t columns = (uint32_t)j.columns;
    size_t row = (size_t)blockIdx.x * LONE_WARPS + threadIdx.x / PERI_WARP;
    for (; row < j.rows; row += (size_t)gridDim.x * LONE_WARPS) {
        const float *values = peri_row<float>(j.values, j.stride, row);
        lone s = { rooms[threadIdx.x / PERI_WARP], 0, j.k, PERI_KEY_NONE, 0.0f };
        for (uint32_t at = lane; at - lane < columns; at += N * PERI_WARP) {
            float mine[N];
#pragma unroll
            for (unsigned i = 0; i < N; i++)
                mine[i] = at + i * PERI_WARP < columns ? __ldcs(values + at + i * PERI_WARP)
                                                       : __int_as_float(0x7FFFFFFF);
            if (at == lane) s.begin(first_limit<GROUPS>(mine, j.k));
            offer_values(&s, values, mine, at, columns);
        }
        write_row(&s, j, row, BUCKETS ? sizes[threadIdx.x / PERI_WARP] : nullptr);
    }
}

/* ---- the operation ------------------------------------------------------------------------ */

/* How an operation is cut; the same for scratch() and run(). */
struct plan {
    unsigned capacity; /* of the pool */
    size_t wave;       /* blocks that run at once */
    size_t splits, split_columns, fan;
    size_t lists_bytes[2]; /* of the segments' keys, and of those that are left of them */
};

using small_shape = shape<256, 8, 4, 2, 4>;  /* 48 KiB of shared memory */
using large_shape = shape<512, 16, 2, 2, 2>; /* 96 KiB */

/* Keys that a list of a segment may have: some more than k, so that they are found at once. */
size_t list_keys(const peri_op_select_k *op) { return op->k + op->k / 8 + 8; }

/* Segments of a row: as many as let the blocks end soonest, where each takes `turns` tasks at most
 * and a task costs what TASK_COST values more do. */
size_t choose_splits(const peri_op_select_k *op, size_t wave, size_t most_splits) {
    const size_t rows = op->values.rows, columns = op->values.cols;
    size_t best = 1, best_cost = SIZE_MAX;
    for (size_t turns = 1; turns <= TURNS_MAX; turns++) {
        const size_t splits = most(least(turns * wave / rows, most_splits), 1);
        const size_t cost = ceil_div(rows * splits, wave) *
                            (ceil_div(columns, splits) + TASK_COST + TASK_COST_K * op->k);
        if (cost >= best_cost) continue;
        best = splits;
        best_cost = cost;
    }
    return best;
}

plan make_plan(const peri_device *device, const peri_op_select_k *op) {
    const bool small = op->k <= SMALL_K_MAX;
    const size_t rows = op->values.rows, columns = op->values.cols;
    const size_t list_bytes = list_keys(op) * sizeof(uint64_t);
    plan p = {};
    p.capacity = small ? small_shape::pool::CAPACITY : large_shape::pool::CAPACITY;
    p.wave = (size_t)peri_cuda_of(device)->multiprocessors *
             (small ? small_shape::BLOCKS : large_shape::BLOCKS);
    const size_t most_splits = least(columns / most(SPLIT_COLUMNS_MIN, SPLIT_ANSWERS * op->k),
                                     SCRATCH_MAX / (rows * list_bytes));
    const size_t splits = choose_splits(op, p.wave, most_splits);
    p.split_columns = ceil_div(ceil_div(columns + 3, splits), 4) * 4;
    p.splits = most(ceil_div(columns + 3, p.split_columns), 1);
    p.fan = most(FAN_MIN, FAN_KEYS / op->k);
    if (p.splits == 1) return p;
    p.lists_bytes[0] = rows * p.splits * list_bytes;
    p.lists_bytes[1] = rows * ceil_div(p.splits, p.fan) * list_bytes;
    return p;
}

template <typename Kernel> cudaError_t allow(Kernel kernel, unsigned bytes) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

template <typename Shape>
peri_status launch(peri_stream *stream, const plan &p, job j, char *scratch) {
    cudaStream_t handle = peri_cuda_handle(stream);
    constexpr unsigned bytes = Shape::pool::CAPACITY * sizeof(uint64_t);
    CU_TRY(stream->device, allow(select_values<Shape>, Shape::SHARED));
    CU_TRY(stream->device, allow(select_keys<typename Shape::pool>, bytes));
    uint64_t *lists[2] = { reinterpret_cast<uint64_t *>(scratch),
                           reinterpret_cast<uint64_t *>(scratch + p.lists_bytes[0]) };
    j.keys_out = lists[0];
    unsigned blocks = (unsigned)least(j.rows * j.splits, p.wave);
    select_values<Shape><<<blocks, Shape::THREADS, Shape::SHARED, handle>>>(j);
    peri_status status = peri_cuda_launched(stream);
    for (unsigned from = 0; status == PERI_OK && j.splits > 1; from = 1 - from) {
        j.lists = j.splits;
        j.splits = ceil_div(j.lists, j.fan);
        j.keys_in = lists[from];
        j.keys_out = lists[1 - from];
        blocks = (unsigned)least(j.rows * j.splits, BLOCKS_MAX);
        select_keys<typename Shape::pool><<<blocks, Shape::THREADS, bytes, handle>>>(j);
        status = peri_cuda_launched(stream);
    }
    return status;
}

bool is_lone(const peri_op_select_k *op) {
    const size_t rows = op->values.rows, columns = op->values.cols;
    return op->k <= LONE_K_MAX && (columns <= LONE_COLUMNS_MAX || rows >= LONE_ROWS_MIN);
}

template <unsigned N, unsigned GROUPS, bool BUCKETS = false>
void launch_lone(cudaStream_t handle, const job &j) {
    const unsigned blocks = (unsigned)least(ceil_div(j.rows, LONE_WARPS), BLOCKS_MAX);
    select_lone<N, GROUPS, BUCKETS><<<blocks, LONE_THREADS, 0, handle>>>(j);
}

peri_status launch_lone(peri_stream *stream, const job &j) {
    cudaStream_t handle = peri_cuda_handle(stream);
    const bool few = j.k <= PERI_WARP * 3 / 4;
    if (j.columns <= 2 * PERI_WARP)
        launch_lone<2, 2>(handle, j);
    else if (j.columns <= 8 * PERI_WARP)
        few ? launch_lone<8, 1>(handle, j) : launch_lone<8, 8>(handle, j);
    else if (few)
        launch_lone<32, 1>(handle, j);
    else if (j.k <= 4 * PERI_WARP)
        launch_lone<32, 8>(handle, j);
    else if (j.columns <= LONE_COLUMNS_MAX) /* most of the time is the sort's */
        launch_lone<32, 16, true>(handle, j);
    else
        launch_lone<32, 16>(handle, j);
    return peri_cuda_launched(stream);
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_select_k *)any;
    if (op->values.dtype != PERI_F32)
        return peri_cuda_refuse(why, "values of %s are not selected, only f32",
                                peri_cuda_name(op->values.dtype));
    if (op->k == 0 || op->k > PERI_SELECT_K_MAX)
        return peri_cuda_refuse(why, "k: %zu given, 1..%u are taken", op->k, PERI_SELECT_K_MAX);
    if (op->values.cols > PERI_SLOTS_MAX)
        return peri_cuda_refuse(why, "%zu columns given, at most %u are taken", op->values.cols,
                                PERI_SLOTS_MAX);
    return peri_cuda_aligned(&op->values, why);
}

size_t scratch(const peri_device *device, const peri_op *any) {
    auto op = (const peri_op_select_k *)any;
    if (op->values.rows == 0 || is_lone(op)) return 0;
    plan p = make_plan(device, op);
    return p.lists_bytes[0] + p.lists_bytes[1];
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t bytes) {
    auto op = (const peri_op_select_k *)any;
    if (op->values.rows == 0) return PERI_OK;
    plan p = is_lone(op) ? plan{} : make_plan(stream->device, op);
    if (bytes < p.lists_bytes[0] + p.lists_bytes[1])
        return stream->device->host->fail(PERI_E_ARGUMENT,
                                          "select_k: %zu bytes of scratch, %zu needed", bytes,
                                          p.lists_bytes[0] + p.lists_bytes[1]);
    job j = {};
    j.values = static_cast<const char *>(op->values.data);
    j.stride = op->values.stride_bytes;
    j.columns = op->values.cols;
    j.rows = op->values.rows;
    j.split_columns = p.split_columns;
    j.splits = p.splits;
    j.ids = op->ids;
    j.best_ids = op->best_ids;
    j.best_values = op->best_values;
    j.fan = p.fan;
    j.k = (unsigned)op->k;
    j.list_k = (unsigned)list_keys(op);
    j.slack = (unsigned)least(op->k / 4 + 32, (p.capacity - op->k) / 8);
    j.trigger = (unsigned)least(most(4 * op->k, 512), p.capacity);
    if (is_lone(op)) return launch_lone(stream, j);
    if (op->k <= SMALL_K_MAX)
        return launch<small_shape>(stream, p, j, static_cast<char *>(scratch));
    return launch<large_shape>(stream, p, j, static_cast<char *>(scratch));
}

} /* namespace */

const peri_cuda_op peri_cuda_select_k_op = { supports, scratch, run };
