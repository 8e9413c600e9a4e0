/* coarse.cu: the choice of an engine for the coarse pass, and the steps that both may use.
 *
 * bounds: a warp a query looks for the `wanted`-th least of some hundred group minima of a sample
 * of the rows, by bisection over the bits of values. A group is many rows and its least is one of
 * them, so `wanted` groups at or under a value prove as many rows there: a bound that holds, and
 * with four groups for each wanted row it is within a seventh of the sample's own rank.
 * finish: a warp a query takes the entries of the query's lists, some times `wanted` in all, cuts
 * them to the wanted ones in registers and puts them in order by counting the smaller ones of
 * each: wanted^2 / 32 steps. Bound by the latency of the lists' loads; 8 KiB of shared memory a
 * warp. Of few queries a block each, since all blocks of the pass have a list of each. */
#include "coarse_parts.cuh"

#include "device.cuh"

namespace {

constexpr unsigned WARPS = 4;
constexpr unsigned ROOM = 1024;       /* keys of a query at a time */
constexpr unsigned FEW_QUERIES = 512; /* whose lists are many: several warps share them */
constexpr unsigned FEW_WARPS = 4, FEW_ROOM = 512, FEW_WANTED = 256;
constexpr uint32_t TAKEN = 4; /* entries of a lane at a time, so that loads overlap */
constexpr uint32_t SEGMENTS_MAX = 4096;

constexpr unsigned MINIMA = PERI_COARSE_GROUPS_MAX / PERI_WARP; /* of a lane, in registers */

__device__ unsigned minima_at_most(const uint32_t (&own)[MINIMA], uint32_t bits) {
    unsigned n = 0;
#pragma unroll
    for (unsigned u = 0; u < MINIMA; u++) n += own[u] <= bits;
    return __reduce_add_sync(PERI_ALL_LANES, n);
}

/* The same of at most 32 minima, each lane's by counting the lesser ones. */
__device__ uint64_t few_minima_bound(const float *minima, uint32_t groups, uint32_t wanted) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    uint32_t bits = lane < groups ? peri_value_bits(minima[lane]) : PERI_NO_VALUE;
    unsigned rank = 0;
#pragma unroll
    for (unsigned i = 0; i < PERI_WARP; i++) {
        uint32_t other = __shfl_sync(PERI_ALL_LANES, bits, i);
        rank += other < bits || (other == bits && i < lane);
    }
    unsigned mask = __ballot_sync(PERI_ALL_LANES, rank == wanted - 1);
    bits = __shfl_sync(PERI_ALL_LANES, bits, __ffs((int)mask) - 1);
    return (uint64_t)bits << 32 | PERI_NO_VALUE;
}

/* A value that at least `wanted` and hardly more minima reach. */
__device__ uint64_t minima_bound(const float *minima, uint32_t groups, uint32_t wanted) {
    if (groups < wanted) return PERI_KEY_NONE;
    if (groups <= PERI_WARP) return few_minima_bound(minima, groups, wanted);
    const uint32_t lane = threadIdx.x % PERI_WARP;
    uint32_t low = PERI_NO_VALUE, high = 0, own[MINIMA];
#pragma unroll
    for (unsigned u = 0; u < MINIMA; u++) {
        const bool there = u * PERI_WARP + lane < groups;
        own[u] = there ? peri_value_bits(minima[u * PERI_WARP + lane]) : PERI_NO_VALUE;
        low = min(low, own[u]);
        high = there ? max(high, own[u]) : high;
    }
    low = __reduce_min_sync(PERI_ALL_LANES, low);
    high = __reduce_max_sync(PERI_ALL_LANES, high);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        unsigned n = minima_at_most(own, middle);
        if (n >= wanted)
            high = middle;
        else
            low = middle + 1;
        if (n >= wanted && n <= wanted + wanted / 16) break;
    }
    return (uint64_t)high << 32 | PERI_NO_VALUE;
}

__global__ void __launch_bounds__(WARPS *PERI_WARP) bounds_kernel(peri_coarse_lists lists) {
    const uint32_t queries = lists.queries();
    const uint32_t warp = threadIdx.x / PERI_WARP;
    for (size_t query = (size_t)blockIdx.x * WARPS + warp; query < queries;
         query += (size_t)gridDim.x * WARPS) {
        uint64_t bound = lists.keys[(lists.first_query + query) * lists.wanted + lists.wanted - 1];
        if (lists.minima != nullptr) {
            uint64_t other = minima_bound(lists.minima + query * lists.groups, lists.groups,
                                          lists.wanted);
            bound = other < bound ? other : bound;
        }
        if (threadIdx.x % PERI_WARP == 0) lists.bounds[query] = bound;
    }
}

/* The lists of a query: those of its tile's first run, then of the blocks that went on with it. */
struct query_lists {
    uint32_t tile, block, count; /* blocks from `block` on; lists in all, some without a run */
    uint64_t first;              /* unit of the tile */

    __device__ query_lists(const peri_coarse_lists &lists, const peri_coarse_cut &cut,
                           uint32_t query) {
        tile = query / lists.tile_queries;
        first = (uint64_t)tile * cut.segments;
        block = (uint32_t)(first * cut.blocks / cut.units());
        while (block < cut.blocks && cut.begin(block) <= first) block++;
        uint32_t last = (uint32_t)((first + cut.segments) * cut.blocks / cut.units()) + 1;
        while (last > block && (last > cut.blocks || cut.begin(last - 1) >= first + cut.segments))
            last--;
        count = (1 + last - block) * lists.share;
    }
    /* UINT32_MAX for a block that had nothing to do. */
    __device__ uint32_t list(const peri_coarse_lists &lists, const peri_coarse_cut &cut,
                             uint32_t i) const {
        if (i >= count) return UINT32_MAX;
        uint32_t run = tile, rank = i % lists.share;
        if (i >= lists.share) {
            uint32_t other = block + i / lists.share - 1;
            if (cut.begin(other) == cut.begin(other + 1)) return UINT32_MAX;
            run = lists.tiles + other;
        }
        return run * lists.share + rank;
    }
    __device__ void fetch(const peri_coarse_lists &lists, const peri_coarse_cut &cut,
                          uint32_t query) const;
};

/* Where many blocks share few queries a warp goes through many lists: on their way at once. */
__device__ void query_lists::fetch(const peri_coarse_lists &lists, const peri_coarse_cut &cut,
                                   uint32_t query) const {
    for (uint32_t i = threadIdx.x % PERI_WARP; i < count; i += PERI_WARP) {
        uint32_t at = list(lists, cut, i);
        if (at == UINT32_MAX) continue;
        size_t slot = (size_t)at * lists.tile_queries + query % lists.tile_queries;
        const uint64_t *entries = lists.entries + slot * lists.capacity;
        asm volatile("prefetch.global.L1 [%0];" ::"l"(lists.counts + 2 * slot));
        asm volatile("prefetch.global.L1 [%0];" ::"l"(entries));
    }
}

/* A lane's list of 32, and where its entries begin and end among those of all 32. */
struct lane_list {
    const uint64_t *entries;
    uint32_t kept, begin, end;

    __device__ lane_list(const peri_coarse_lists &lists, uint32_t list, uint32_t query) {
        const uint32_t lane = threadIdx.x % PERI_WARP;
        size_t slot = (size_t)list * lists.tile_queries + query % lists.tile_queries;
        bool there = list != UINT32_MAX;
        entries = there ? lists.entries + slot * lists.capacity : nullptr;
        uint32_t count = there ? lists.counts[2 * slot] : 0;
        kept = there ? lists.counts[2 * slot + 1] : 0;
        end = count;
        for (unsigned step = 1; step < PERI_WARP; step *= 2) {
            uint32_t before = __shfl_up_sync(PERI_ALL_LANES, end, step);
            if (lane >= step) end += before;
        }
        begin = end - count;
    }
    /* Entry i of all 32 lists as a key; all lanes call. */
    __device__ uint64_t key(const peri_coarse_lists &lists, const uint64_t *bits,
                            uint32_t i) const {
        int at = 0;
        for (int step = PERI_WARP / 2; step > 0; step /= 2)
            if (i >= __shfl_sync(PERI_ALL_LANES, end, at + step - 1)) at += step;
        const uint64_t *from = (const uint64_t *)__shfl_sync(PERI_ALL_LANES,
                                                             (unsigned long long)entries, at);
        uint32_t place = i - __shfl_sync(PERI_ALL_LANES, begin, at);
        uint32_t named = __shfl_sync(PERI_ALL_LANES, kept, at);
        if (i >= __shfl_sync(PERI_ALL_LANES, end, PERI_WARP - 1)) return PERI_KEY_NONE;
        uint64_t entry = from[place];
        return place < named ? entry : peri_keep_named(entry, lists.rows, bits);
    }
};

/* Which of a query's lists a warp takes, and how many keys it has room for. */
struct share {
    uint32_t warp, warps, room;
};

/* All entries of its share of a query's lists to `keys`, cut whenever they are full; says how many
 * are there. */
__device__ unsigned take_lists(const peri_coarse_lists &lists, const peri_coarse_cut &cut,
                               uint32_t query, share mine_of, uint64_t *keys, uint64_t *bound) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const query_lists all(lists, cut, query);
    const uint64_t *bits = lists.bits(query);
    unsigned held = 0;
    if (all.count > PERI_WARP) all.fetch(lists, cut, query);
    for (uint32_t first = mine_of.warp * PERI_WARP; first < all.count;
         first += mine_of.warps * PERI_WARP) {
        const lane_list mine(lists, all.list(lists, cut, first + lane), query);
        const uint32_t total = __shfl_sync(PERI_ALL_LANES, mine.end, PERI_WARP - 1);
        for (uint32_t i = 0; i < total; i += TAKEN * PERI_WARP) {
            uint64_t some[TAKEN];
#pragma unroll
            for (uint32_t u = 0; u < TAKEN; u++)
                some[u] = mine.key(lists, bits, i + u * PERI_WARP + lane);
            uint32_t n = min(total - i, TAKEN * PERI_WARP);
            if (held + n > mine_of.room)
                held = peri_keep_cut(keys, held, held, lists.rows, nullptr, lists.wanted,
                                     lists.wanted, bound);
#pragma unroll
            for (uint32_t u = 0; u < TAKEN; u++)
                if (u * PERI_WARP + lane < n) keys[held + u * PERI_WARP + lane] = some[u];
            held += n;
            __syncwarp();
        }
    }
    return held;
}

/* keys[0..count-1], no two the same place, in order to `out`; what is not there is NONE. */
__device__ void write_ordered(const uint64_t *keys, unsigned count, unsigned wanted,
                              uint64_t *out) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    for (unsigned i = lane; i < count; i += PERI_WARP) {
        uint64_t key = keys[i];
        unsigned rank = 0;
        for (unsigned j = 0; j < count; j++) {
            uint64_t other = keys[j];
            rank += other < key || (other == key && j < i);
        }
        if (rank < wanted) out[rank] = key;
    }
    for (unsigned i = count + lane; i < wanted; i += PERI_WARP) out[i] = PERI_KEY_NONE;
}

__global__ void __launch_bounds__(WARPS *PERI_WARP) finish_kernel(peri_coarse_lists lists) {
    __shared__ uint64_t rooms[WARPS][ROOM];
    const peri_coarse_cut cut = lists.cut();
    const uint32_t queries = lists.queries();
    const uint32_t warp = threadIdx.x / PERI_WARP;
    uint64_t *keys = rooms[warp];
    for (size_t query = (size_t)blockIdx.x * WARPS + warp; query < queries;
         query += (size_t)gridDim.x * WARPS) {
        uint64_t bound = lists.bounds[query];
        unsigned held = take_lists(lists, cut, (uint32_t)query, share{ 0, 1, ROOM }, keys, &bound);
        unsigned most = max(lists.wanted + lists.wanted / 8, 2 * PERI_WARP);
        if (held > most)
            held = peri_keep_cut(keys, held, held, lists.rows, nullptr, lists.wanted, most, &bound);
        write_ordered(keys, held, lists.wanted,
                      lists.keys + (lists.first_query + query) * lists.wanted);
        __syncwarp();
    }
}

/* Puts what the warps of a block hold, `held` each at `keys`, one after the other; says how many
 * there are in all. */
__device__ unsigned join(uint64_t *all, const uint64_t *keys, unsigned held) {
    __shared__ unsigned counts[FEW_WARPS];
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    uint64_t own[(FEW_WANTED + FEW_WANTED / 8) / PERI_WARP];
    unsigned before = 0, total = 0;
    if (lane == 0) counts[warp] = held;
#pragma unroll
    for (unsigned u = 0; u < sizeof own / sizeof own[0]; u++)
        if (u * PERI_WARP + lane < held) own[u] = keys[u * PERI_WARP + lane];
    __syncthreads();
    for (unsigned w = 0; w < FEW_WARPS; w++) {
        before += w < warp ? counts[w] : 0;
        total += counts[w];
    }
#pragma unroll
    for (unsigned u = 0; u < sizeof own / sizeof own[0]; u++)
        if (u * PERI_WARP + lane < held) all[before + u * PERI_WARP + lane] = own[u];
    __syncthreads();
    return total;
}

/* The same of few queries: a block each, its warps share the lists, and the first one what they
 * leave. */
__global__ void __launch_bounds__(FEW_WARPS *PERI_WARP) finish_few_kernel(peri_coarse_lists lists) {
    __shared__ uint64_t rooms[FEW_WARPS * FEW_ROOM];
    const peri_coarse_cut cut = lists.cut();
    const uint32_t query = blockIdx.x, warp = threadIdx.x / PERI_WARP;
    if (query >= lists.queries()) return;
    const unsigned most = max(lists.wanted + lists.wanted / 8, 2 * PERI_WARP);
    uint64_t *keys = rooms + warp * FEW_ROOM, bound = lists.bounds[query];
    unsigned held = take_lists(lists, cut, query, share{ warp, FEW_WARPS, FEW_ROOM }, keys, &bound);
    if (held > most)
        held = peri_keep_cut(keys, held, held, lists.rows, nullptr, lists.wanted, most, &bound);
    held = join(rooms, keys, held);
    if (warp != 0) return;
    bound = lists.bounds[query];
    if (held > most)
        held = peri_keep_cut(rooms, held, held, lists.rows, nullptr, lists.wanted, most, &bound);
    write_ordered(rooms, held, lists.wanted,
                  lists.keys + (lists.first_query + query) * lists.wanted);
}

/* A warp a row. */
__global__ void __launch_bounds__(WARPS *PERI_WARP)
    norms_kernel(peri_coarse c, size_t stride, uint32_t columns, float *__restrict__ terms) {
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    const float most = c.norms->most;
    float longest = 0;
    uint32_t bits = 0;
    for (size_t row = (size_t)blockIdx.x * WARPS + warp; row < c.row_count;
         row += (size_t)gridDim.x * WARPS) {
        const float *x = reinterpret_cast<const float *>(static_cast<const char *>(c.rows) +
                                                         row * stride);
        float sum = 0;
        for (uint32_t j = lane; j < columns; j += PERI_WARP) {
            sum = __fmaf_rn(x[j], x[j], sum);
            bits |= __float_as_uint(x[j]);
        }
        float term = peri_coarse_term(c.squared, peri_fold(sum), most, longest);
        if (lane == 0) terms[row] = term;
    }
    bits = __reduce_or_sync(PERI_ALL_LANES, bits);
    if (lane != 0) return;
    if (longest > 0) atomicMax(&c.norms->max, __float_as_uint(longest));
    if ((bits & PERI_COARSE_PARTS) != 0) c.norms->parts = 1;
}

/* The rows' terms before a pass that takes them ready-made: the first bytes of the scratch. */
size_t norms_scratch(const peri_coarse *coarse) {
    return coarse->norms == nullptr ? 0 : (coarse->row_count * sizeof(float) + 255) / 256 * 256;
}

peri_status run_mma(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                    size_t scratch_bytes) {
    const size_t room = norms_scratch(coarse);
    if (room == 0) return peri_coarse_mma_run(stream, coarse, scratch, scratch_bytes);
    if (scratch_bytes < room)
        return stream->device->host->fail(
            PERI_E_ARGUMENT, "coarse: %zu bytes of scratch, %zu for terms", scratch_bytes, room);
    peri_coarse with = *coarse;
    const size_t stride = coarse->row_stride_bytes == 0 ? coarse->depth * sizeof(float)
                                                        : coarse->row_stride_bytes;
    float *terms = static_cast<float *>(scratch);
    with.terms = terms;
    with.norms = nullptr;
    const unsigned most = (unsigned)peri_cuda_of(stream->device)->multiprocessors * 32;
    unsigned blocks = peri_blocks(coarse->row_count, WARPS);
    if (blocks > most) blocks = most;
    norms_kernel<<<blocks, WARPS * PERI_WARP, 0, peri_cuda_handle(stream)>>>(
        *coarse, stride, coarse->columns == 0 ? coarse->depth : coarse->columns, terms);
    PERI_TRY(peri_cuda_launched(stream));
    return peri_coarse_mma_run(stream, &with, static_cast<char *>(scratch) + room,
                               scratch_bytes - room);
}

bool takes_wgmma(const peri_device *device, const peri_coarse *coarse) {
    if (coarse->engine == PERI_COARSE_AUTO) return peri_cuda_of(device)->hopper;
    return coarse->engine == PERI_COARSE_WGMMA;
}

peri_status check(const peri_device *device, const peri_coarse *coarse) {
    const size_t most = (size_t)1 << 31, element = peri_coarse_type_bytes(coarse->type);
    const size_t stride = coarse->row_stride_bytes;
    const uint32_t columns = coarse->columns == 0 ? coarse->depth : coarse->columns;
    bool wrong = coarse->wanted == 0 || coarse->wanted > PERI_COARSE_WANTED_MAX ||
                 coarse->depth == 0 || coarse->depth * element % PERI_COARSE_DEPTH_BYTES != 0 ||
                 columns > coarse->depth || coarse->query_count >= most ||
                 coarse->row_count >= most || stride % 16 != 0 ||
                 (stride != 0 && stride < columns * element) ||
                 (coarse->norms != nullptr &&
                  (coarse->type != PERI_COARSE_TF32 || coarse->terms != nullptr)) ||
                 (uintptr_t)coarse->queries % 128 != 0 || (uintptr_t)coarse->rows % 16 != 0;
    if (!wrong) return PERI_OK;
    return device->host->fail(PERI_E_ARGUMENT,
                              "coarse: wanted %u, depth %u, columns %u, stride %zu, %zu queries, "
                              "%zu rows: not what the coarse pass takes",
                              (unsigned)coarse->wanted, (unsigned)coarse->depth,
                              (unsigned)coarse->columns, stride, coarse->query_count,
                              coarse->row_count);
}

} /* namespace */

bool peri_coarse_reads_once(const peri_device *device) { return peri_cuda_of(device)->hopper; }

uint32_t peri_coarse_segments(uint32_t tiles, uint32_t row_tiles, uint32_t blocks) {
    uint32_t best = 1, most = row_tiles < SEGMENTS_MAX ? row_tiles : SEGMENTS_MAX;
    double best_share = 0;
    for (uint32_t segments = 1; segments <= most && best_share < 0.985; segments++) {
        uint64_t units = (uint64_t)tiles * segments, rounds = (units + blocks - 1) / blocks;
        double share = (double)units / ((double)rounds * blocks);
        /* ranges differ by a tile: a share of what is short */
        share *= (double)(row_tiles / segments) / ((double)row_tiles / segments + 1);
        if (share > best_share) {
            best_share = share;
            best = segments;
        }
        if (segments >= 64 && units > 16 * (uint64_t)blocks) break;
    }
    return best;
}

peri_status peri_coarse_bounds(peri_stream *stream, const peri_coarse_lists *lists) {
    bounds_kernel<<<peri_blocks(lists->count, WARPS), WARPS * PERI_WARP, 0,
                    peri_cuda_handle(stream)>>>(*lists);
    return peri_cuda_launched(stream);
}

peri_status peri_coarse_finish(peri_stream *stream, const peri_coarse_lists *lists) {
    if (lists->count <= FEW_QUERIES && lists->wanted <= FEW_WANTED) {
        finish_few_kernel<<<lists->count, FEW_WARPS * PERI_WARP, 0, peri_cuda_handle(stream)>>>(
            *lists);
        return peri_cuda_launched(stream);
    }
    finish_kernel<<<peri_blocks(lists->count, WARPS), WARPS * PERI_WARP, 0,
                    peri_cuda_handle(stream)>>>(*lists);
    return peri_cuda_launched(stream);
}

size_t peri_coarse_scratch(const peri_device *device, const peri_coarse *coarse) {
    if (coarse->query_count == 0 || coarse->row_count == 0) return 0;
    return takes_wgmma(device, coarse)
               ? peri_coarse_wgmma_scratch(device, coarse)
               : norms_scratch(coarse) + peri_coarse_mma_scratch(device, coarse);
}

peri_status peri_coarse_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                            size_t scratch_bytes) {
    if (coarse->query_count == 0 || coarse->row_count == 0) return PERI_OK;
    PERI_TRY(check(stream->device, coarse));
    return takes_wgmma(stream->device, coarse)
               ? peri_coarse_wgmma_run(stream, coarse, scratch, scratch_bytes)
               : run_mma(stream, coarse, scratch, scratch_bytes);
}
