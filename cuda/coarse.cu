/* coarse.cu: the choice of an engine for the coarse pass, and the steps that both may use.
 *
 * bounds: a warp a query looks for the `wanted`-th least of some hundred group minima of a sample
 * of the rows, by bisection over the bits of values. A group is many rows and its least is one of
 * them, so `wanted` groups at or under a value prove as many rows there: a bound that holds, and
 * with four groups for each wanted row it is within a seventh of the sample's own rank.
 * finish: a warp a query takes the entries of the query's lists, some times `wanted` in all, cuts
 * them to the wanted ones in registers and puts them in order by counting the smaller ones of
 * each: wanted^2 / 32 steps. Bound by the latency of the lists' loads; 8 KiB of shared memory a
 * warp. */
#include "coarse_parts.cuh"

#include "device.cuh"

namespace {

constexpr unsigned WARPS = 4;
constexpr unsigned ROOM = 1024; /* keys of a query at a time; where few are wanted, so that more */
constexpr unsigned FEW = 64, FEW_ROOM = 512; /* warps are there at once: */
constexpr uint32_t TAKEN = 4; /* entries of a lane at a time, so that loads overlap */

/* A query's minima: the first of them in registers, mostly all. */
struct group_minima {
    static constexpr uint32_t HELD = 8; /* a lane */
    const float *minima;
    uint32_t groups, held[HELD];

    __device__ group_minima(const float *minima, uint32_t groups) : minima(minima), groups(groups) {
#pragma unroll
        for (uint32_t u = 0; u < HELD; u++) {
            uint32_t i = u * PERI_WARP + threadIdx.x % PERI_WARP;
            held[u] = i < groups ? peri_value_bits(minima[i]) : PERI_NO_VALUE;
        }
    }
    __device__ unsigned at_most(uint32_t bits) const {
        unsigned n = 0;
#pragma unroll
        for (uint32_t u = 0; u < HELD; u++) n += held[u] <= bits;
        for (uint32_t i = HELD * PERI_WARP + threadIdx.x % PERI_WARP; i < groups; i += PERI_WARP)
            n += peri_value_bits(minima[i]) <= bits;
        return __reduce_add_sync(PERI_ALL_LANES, n);
    }
};

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
    const group_minima all(minima, groups);
    uint32_t low = PERI_NO_VALUE, high = 0;
    for (uint32_t i = threadIdx.x % PERI_WARP; i < groups; i += PERI_WARP) {
        uint32_t bits = peri_value_bits(minima[i]);
        low = min(low, bits);
        high = max(high, bits);
    }
    low = __reduce_min_sync(PERI_ALL_LANES, low);
    high = __reduce_max_sync(PERI_ALL_LANES, high);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        unsigned n = all.at_most(middle);
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
        const uint64_t units = cut.units(), end = (first + cut.segments) * cut.blocks;
        const bool few = units >> 32 == 0; /* as they mostly are: peri_coarse_divide() */
        block = (uint32_t)(few ? peri_coarse_divide(first * cut.blocks, (uint32_t)units)
                               : first * cut.blocks / units);
        while (block < cut.blocks && cut.begin(block) <= first) block++;
        uint32_t last = 1 + (uint32_t)(few ? peri_coarse_divide(end, (uint32_t)units) : end / units);
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
};

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

/* The keys that the call came with, to `keys`; says how many there are. */
__device__ unsigned take_keys(const peri_coarse_lists &lists, uint32_t query, uint64_t *keys) {
    const uint64_t *from = lists.keys + (lists.first_query + query) * lists.wanted;
    unsigned held = 0;
    for (uint32_t i = threadIdx.x % PERI_WARP; i < lists.wanted; i += PERI_WARP) {
        keys[i] = from[i];
        held += keys[i] != PERI_KEY_NONE; /* ascending: these come first */
    }
    return __reduce_add_sync(PERI_ALL_LANES, held);
}

/* All entries of a query's lists to `keys` after the `held` there, cut whenever they are full; says
 * how many are there. */
__device__ unsigned take_lists(const peri_coarse_lists &lists, const peri_coarse_cut &cut,
                               uint32_t query, uint64_t *keys, unsigned held, unsigned room,
                               uint64_t *bound) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const query_lists all(lists, cut, query);
    const uint64_t *bits = lists.bits(query);
    for (uint32_t first = 0; first < all.count; first += PERI_WARP) {
        const lane_list mine(lists, all.list(lists, cut, first + lane), query);
        const uint32_t total = __shfl_sync(PERI_ALL_LANES, mine.end, PERI_WARP - 1);
        for (uint32_t i = 0; i < total; i += TAKEN * PERI_WARP) {
            uint64_t some[TAKEN];
#pragma unroll
            for (uint32_t u = 0; u < TAKEN; u++)
                some[u] = mine.key(lists, bits, i + u * PERI_WARP + lane);
            uint32_t n = min(total - i, TAKEN * PERI_WARP);
            if (held + n > room)
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

__global__ void __launch_bounds__(WARPS *PERI_WARP)
    finish_kernel(peri_coarse_lists lists, unsigned room) {
    extern __shared__ uint64_t rooms[];
    const peri_coarse_cut cut = lists.cut();
    const uint32_t queries = lists.queries();
    const uint32_t warp = threadIdx.x / PERI_WARP;
    uint64_t *keys = rooms + (size_t)warp * room;
    for (size_t query = (size_t)blockIdx.x * WARPS + warp; query < queries;
         query += (size_t)gridDim.x * WARPS) {
        uint64_t bound = lists.bounds[query];
        unsigned held = take_keys(lists, (uint32_t)query, keys);
        held = take_lists(lists, cut, (uint32_t)query, keys, held, room, &bound);
        unsigned most = max(lists.wanted + lists.wanted / 8, PERI_WARP);
        if (held > most)
            held = peri_keep_cut(keys, held, held, lists.rows, nullptr, lists.wanted, most, &bound);
        write_ordered(keys, held, lists.wanted,
                      lists.keys + (lists.first_query + query) * lists.wanted);
        __syncwarp();
    }
}

bool is_hopper(const peri_device *device) {
    int major = 0, minor = 0, number = (int)device->place.number;
    (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, number);
    (void)cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, number);
    return major == 9 && minor == 0;
}

bool takes_wgmma(const peri_device *device, const peri_coarse *coarse) {
    if (coarse->engine == PERI_COARSE_AUTO) return is_hopper(device);
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

peri_status peri_coarse_bounds(peri_stream *stream, const peri_coarse_lists *lists) {
    bounds_kernel<<<peri_blocks(lists->count, WARPS), WARPS * PERI_WARP, 0,
                    peri_cuda_handle(stream)>>>(*lists);
    return peri_cuda_launched(stream);
}

peri_status peri_coarse_finish(peri_stream *stream, const peri_coarse_lists *lists) {
    const unsigned room = lists->wanted <= FEW ? FEW_ROOM : ROOM;
    finish_kernel<<<peri_blocks(lists->count, WARPS), WARPS * PERI_WARP,
                    WARPS * room * sizeof(uint64_t), peri_cuda_handle(stream)>>>(*lists, room);
    return peri_cuda_launched(stream);
}

size_t peri_coarse_scratch(const peri_device *device, const peri_coarse *coarse) {
    if (coarse->query_count == 0 || coarse->row_count == 0) return 0;
    return takes_wgmma(device, coarse) ? peri_coarse_wgmma_scratch(device, coarse)
                                       : peri_coarse_mma_scratch(device, coarse);
}

peri_status peri_coarse_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                            size_t scratch_bytes) {
    if (coarse->query_count == 0 || coarse->row_count == 0) return PERI_OK;
    PERI_TRY(check(stream->device, coarse));
    return takes_wgmma(stream->device, coarse)
               ? peri_coarse_wgmma_run(stream, coarse, scratch, scratch_bytes)
               : peri_coarse_mma_run(stream, coarse, scratch, scratch_bytes);
}
