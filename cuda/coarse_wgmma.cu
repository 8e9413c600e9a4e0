/* coarse_wgmma: the coarse pass on sm_90a: the bulk copy engine, wgmma, a selection in registers.
 *
 * queries [q, depth], rows [n, depth] f16 bf16 tf32 s8 u8 | keys [q, wanted] in and out
 * One block a multiprocessor: a warpgroup that copies and two that compute, each 128 queries
 * against 128 rows at a time in 128 registers a thread of f32 (or s32) sums. A block keeps its 256
 * queries in shared memory (depth up to 256 bytes, 64 KiB) for all rows of its run, and rows come
 * through a ring of 16 KiB stages, one 128-byte slice of 128 rows each; so L2 gives 16 bytes a
 * clock and multiprocessor at the full rate of the tensor cores. The two warpgroups take turns: one
 * looks at its sums while the other multiplies. With more depth the slices of the queries come
 * through the ring too, 48 KiB a stage; then two blocks are a cluster with the same
 * queries, of which each copies half for both, and 32 of 48 KiB come from L2.
 *
 * Selection: a thread holds 4 queries' sums for 32 rows. An element costs one fused multiply-add
 * and one minimum. Where the least of the 32 is at or under the query's limit, the thread puts its
 * 32 values into shared memory and goes on; while the tensor cores are at a later tile each lane of
 * the warp looks at one such hit, and what passes is appended to the query's list in global memory.
 * A list past its trigger is cut (coarse_keep.cuh), which lowers the limit. First limits come from
 * a pass of the same kernel over each f-th row that only keeps minima of groups (coarse.cu,
 * bounds): the same instructions make an element's value in both passes, so a bound is never off by
 * a rounding. The lists that runs leave are put together at the end (coarse.cu, finish). Filters
 * make another instance of the kernel, where only values of rows that pass take part in minima
 * (coarse_masks.cuh), of the sample too.
 * Where a query collects all rows near enough (`reach`), its bound stays what it is given, and what
 * passes goes to the query's names, one atomic each; one with too many takes no more.
 *
 * Bound: 2 * q * n * depth flop at the tensor cores' rate; operands from shared memory take 96 of
 * its 128 bytes a clock, copies 16 more. An element's minimum runs at half rate: 256 clocks a warp
 * and tile, while the other warpgroup's product takes 1024 at depth 128. 232 registers a thread
 * that computes, 227 KiB of shared memory.
 * Tried: looking at hits where they arise, a test and an append for each element in registers: 128
 * copies of that code, 12.3 ms for 10 000 x 1M x 128 where this takes 5.5 (H200); hits by all
 * lanes at once, four hits a round: 7.1 ms; hits at once after a tile, while the other warpgroup
 * waits for its turn longer than the product takes: 5.66 ms, in the shadow of the next product 5.3;
 * no turns: 3 % faster while there are many hits, 8 %
 * slower once bounds are good (869k rows: 4.18 ms, with turns 3.86).
 * Sources: NVIDIA, Parallel Thread Execution ISA 8.0, asynchronous warpgroup instructions; Thakkar
 * et al., CUTLASS 3 (the pingpong schedule); Johnson, Douze, Jegou, Billion-scale similarity search
 * with GPUs, 2017 (selection fused into the product). */
#include "coarse_wgmma.cuh"
#include "device.cuh"

namespace {

/* How a call is cut into launches. */
struct shape {
    uint32_t blocks, share; /* clusters, and the blocks of each */
    uint32_t chunk;         /* queries of a launch */
    uint32_t trigger, most, capacity;
    uint32_t row_step, samples, groups; /* row_step 0: no sample */
    uint32_t groups_most; /* of any number of rows: so scratch never shrinks with it */
    size_t entries, counts, bounds, minima, bytes;
};

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }
size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* So few queries that one warpgroup multiplies, and memory binds: the other makes the terms, and
 * what shared memory the queries leave is for rows on their way. */
bool is_narrow(const peri_coarse *coarse) {
    return coarse->type == PERI_COARSE_TF32 && coarse->query_count <= TILE_QUERIES / 2;
}

/* Whether filters are tested on values: their bits lie as the rows do. Else where lists are cut, as
 * for tf32, which nobody filters yet. */
bool is_masked(const peri_coarse *coarse) {
    return coarse->filter.count != 0 && coarse->names == nullptr && coarse->first % 64 == 0 &&
           coarse->type != PERI_COARSE_TF32;
}

/* A sample of a 20th of the rows, or of 1024 rows for each wanted one where that is more, at most
 * of a quarter: its product is work done twice, and a larger one leaves fewer hits. Each f-th row,
 * but the first ones where filters are tested on values, 128 bits together. None where a filter is
 * tested later, or where there are bounds. */
void make_sample(const peri_coarse *coarse, shape *s) {
    size_t wanted = coarse->wanted, least = 1024 * wanted;
    if (least > coarse->row_count / 4) least = coarse->row_count / 4;
    if (least < coarse->row_count / 20) least = coarse->row_count / 20;
    if (least < 1536) least = 1536;
    size_t step = coarse->row_count / least;
    size_t query_tiles = ceil_div(coarse->query_count, TILE_QUERIES);
    size_t segments = ceil_div(4 * wanted, TILE_GROUPS * s->share);
    size_t busy = ceil_div(2 * (size_t)s->blocks, query_tiles);
    if (segments < busy) segments = busy;
    if (segments > GROUPS_MAX / (TILE_GROUPS * s->share))
        segments = GROUPS_MAX / (TILE_GROUPS * s->share);
    s->groups_most = (uint32_t)segments * TILE_GROUPS * s->share;
    const bool masked = is_masked(coarse);
    if (coarse->row_count < ROWS_SAMPLED_MIN || coarse->bounded ||
        (coarse->filter.count != 0 && !masked))
        return;
    if (step == 0) step = 1;
    s->row_step = masked ? 1 : (uint32_t)step;
    s->samples = (uint32_t)ceil_div(coarse->row_count, step);
    size_t tiles = ceil_div(s->samples, TILE_ROWS);
    if (segments > tiles) segments = tiles;
    s->groups = (uint32_t)segments * TILE_GROUPS * s->share;
}

constexpr size_t CACHED_BYTES = (size_t)32 << 20;
constexpr uint32_t DYNAMIC_BYTES = SHARED_BYTES + 1024; /* to begin at a multiple of 1024 */

template <peri_coarse_type TYPE, bool SAMPLE, bool MASKED>
cudaError_t launch_config(uint32_t blocks, uint32_t share, cudaLaunchConfig_t *config,
                          cudaLaunchAttribute *attribute) {
    config->gridDim = dim3(blocks * share);
    config->blockDim = dim3(THREADS);
    config->dynamicSmemBytes = DYNAMIC_BYTES;
    attribute->id = cudaLaunchAttributeClusterDimension;
    attribute->val.clusterDim.x = share;
    attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
    config->attrs = attribute;
    config->numAttrs = share > 1;
    return cudaFuncSetAttribute(coarse_kernel<TYPE, SAMPLE, MASKED>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)DYNAMIC_BYTES);
}

shape make_shape(const peri_device *device, const peri_coarse *coarse) {
    shape s = {};
    const uint32_t wanted = coarse->wanted;
    s.blocks = (uint32_t)peri_cuda_of(device)->multiprocessors;
    s.share = 1;
    if (coarse->depth * peri_coarse_type_bytes(coarse->type) >
            resident_slices(coarse->type) * SLICE &&
        !is_narrow(coarse)) {
        s.blocks /= 2;
        s.share = 2;
    }
    s.most = wanted + wanted / 8;
    s.trigger = 2 * wanted < 96 ? 96 : 2 * wanted;
    if (s.trigger > 1024 - PERI_WARP) s.trigger = 1024 - PERI_WARP;
    s.capacity = s.trigger + PERI_WARP;
    if (coarse->reach.names != nullptr) { /* no lists, no bounds of its own */
        s.chunk = (uint32_t)coarse->query_count;
        return s;
    }
    make_sample(coarse, &s);
    size_t tile_bytes = (size_t)s.share * TILE_QUERIES * s.capacity * sizeof(uint64_t);
    size_t tiles = ceil_div(coarse->query_count, TILE_QUERIES);
    size_t most = ENTRIES_BYTES_MAX / tile_bytes;
    most = most > s.blocks ? most - s.blocks : 0;
    size_t other = MINIMA_BYTES_MAX / ((size_t)TILE_QUERIES * s.groups_most * sizeof(float));
    if (other < most) most = other;
    most = most / s.blocks * s.blocks; /* whole rounds */
    if (most == 0) most = s.blocks;
    if (tiles > most) tiles = most;
    s.chunk = (uint32_t)(tiles * TILE_QUERIES);
    size_t lists = tiles + s.blocks;
    s.entries = lists * tile_bytes;
    s.counts = round_up(lists * s.share * TILE_QUERIES * 2 * sizeof(uint32_t), 256);
    s.bounds = round_up((size_t)s.chunk * sizeof(uint64_t), 256);
    s.minima = round_up((size_t)s.chunk * s.groups_most * sizeof(float), 256);
    s.bytes = s.entries + s.counts + s.bounds + s.minima;
    return s;
}

/* Clusters of two blocks that run at once: fewer than half of the multiprocessors where one is left
 * over in a part of the chip. Asked of CUDA once a device, which is current. */
uint32_t clusters_of(const peri_device *device) {
    static uint32_t known[64]; /* one more than the answer */
    uint32_t number = device->place.number % 64;
    uint32_t answer = __atomic_load_n(&known[number], __ATOMIC_RELAXED);
    if (answer != 0) return answer - 1;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    int count = 0;
    uint32_t blocks = (uint32_t)peri_cuda_of(device)->multiprocessors / 2;
    if (launch_config<PERI_COARSE_F16, false, false>(blocks, 2, &config, &attribute) !=
            cudaSuccess ||
        cudaOccupancyMaxActiveClusters(&count, coarse_kernel<PERI_COARSE_F16, false, false>,
                                       &config) != cudaSuccess)
        count = 0;
    (void)cudaGetLastError();
    answer = count > 0 && (uint32_t)count < blocks ? (uint32_t)count : blocks;
    __atomic_store_n(&known[number], answer + 1, __ATOMIC_RELAXED);
    return answer;
}

using encode_fn = decltype(&cuTensorMapEncodeTiled);

peri_status find_encode(const peri_device *device, encode_fn *out) {
    static void *found;
    void *call = __atomic_load_n(&found, __ATOMIC_ACQUIRE);
    if (call == nullptr) {
        cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
        CU_TRY(device, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &call, 12000,
                                                        cudaEnableDefault, &result));
        if (result != cudaDriverEntryPointSuccess || call == nullptr)
            return device->host->fail(PERI_E_DEVICE, "the driver has no cuTensorMapEncodeTiled");
        __atomic_store_n(&found, call, __ATOMIC_RELEASE);
    }
    *out = reinterpret_cast<encode_fn>(call);
    return PERI_OK;
}

/* Boxes of 128 rows by 128 bytes of [rows, columns], swizzled; zeros outside. */
peri_status make_map(const peri_device *device, peri_coarse_type type, const void *data,
                     size_t rows, size_t columns, size_t stride, CUtensorMap *map) {
    encode_fn encode = nullptr;
    peri_status status = find_encode(device, &encode);
    if (status != PERI_OK) return status;
    size_t element = peri_coarse_type_bytes(type);
    const cuuint64_t sizes[2] = { columns, rows }, strides[1] = { stride };
    const cuuint32_t box[2] = { (cuuint32_t)(SLICE / element), TILE_ROWS }, steps[2] = { 1, 1 };
    const CUtensorMapDataType kind = element == 4   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                     : element == 2 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                    : CU_TENSOR_MAP_DATA_TYPE_UINT8;
    CUresult result = encode(map, kind, 2, const_cast<void *>(data), sizes, strides, box, steps,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return PERI_OK;
    return device->host->fail(PERI_E_DEVICE,
                              "cuTensorMapEncodeTiled: error %d for %zu rows of %zu at %zu bytes",
                              (int)result, rows, columns, stride);
}

template <peri_coarse_type TYPE, bool SAMPLE, bool MASKED>
peri_status launch(peri_stream *stream, const pass &p) {
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    CU_TRY(stream->device, (launch_config<TYPE, SAMPLE, MASKED>(p.lists.blocks, p.lists.share,
                                                                &config, &attribute)));
    config.stream = peri_cuda_handle(stream);
    CU_TRY(stream->device, cudaLaunchKernelEx(&config, coarse_kernel<TYPE, SAMPLE, MASKED>, p));
    return peri_cuda_launched(stream);
}

template <bool SAMPLE, bool MASKED>
peri_status launch_type(peri_stream *stream, peri_coarse_type type, const pass &p) {
    switch (type) {
    case PERI_COARSE_F16: return launch<PERI_COARSE_F16, SAMPLE, MASKED>(stream, p);
    case PERI_COARSE_BF16: return launch<PERI_COARSE_BF16, SAMPLE, MASKED>(stream, p);
    case PERI_COARSE_TF32: return launch<PERI_COARSE_TF32, SAMPLE, false>(stream, p);
    case PERI_COARSE_S8: return launch<PERI_COARSE_S8, SAMPLE, MASKED>(stream, p);
    case PERI_COARSE_U8: return launch<PERI_COARSE_U8, SAMPLE, MASKED>(stream, p);
    }
    return stream->device->host->fail(PERI_E_ARGUMENT, "coarse: no type %d", (int)type);
}

template <bool SAMPLE>
peri_status launch_rows(peri_stream *stream, peri_coarse_type type, const pass &p) {
    return p.filter.count != 0 ? launch_type<SAMPLE, true>(stream, type, p)
                               : launch_type<SAMPLE, false>(stream, type, p);
}

/* Ranges of one row tile each leave no block idle; long ones, at which many blocks begin, let these
 * find the rows of each other in the second-level cache, where it can't hold them all. */
uint32_t segments_of(const peri_coarse_lists &lists, const peri_coarse *coarse) {
    const size_t bytes = coarse->row_count * coarse->depth * peri_coarse_type_bytes(coarse->type);
    if (bytes <= CACHED_BYTES) return (uint32_t)ceil_div(lists.row_tiles, lists.share);
    return peri_coarse_segments(lists.tiles, lists.row_tiles, lists.blocks);
}

/* All of a call that is the same for each launch. */
peri_status make_passes(const peri_device *device, const peri_coarse *coarse, const shape &s,
                        void *scratch, pass *all, pass *sample) {
    const size_t element = peri_coarse_type_bytes(coarse->type);
    const size_t columns = coarse->columns == 0 ? coarse->depth : coarse->columns;
    const size_t stride = coarse->row_stride_bytes == 0 ? coarse->depth * element
                                                        : coarse->row_stride_bytes;
    uint8_t *at = static_cast<uint8_t *>(scratch);
    peri_coarse_lists *lists = &all->lists;
    all->terms = coarse->terms;
    all->row_count = (uint32_t)coarse->row_count;
    all->row_step = 1;
    all->slices = (uint32_t)(coarse->depth * element / SLICE);
    all->slice_columns = (uint32_t)(SLICE / element);
    bool resident = all->slices <= resident_slices(coarse->type);
    all->norms = coarse->norms;
    all->squared = coarse->squared;
    all->resident = resident;
    all->narrow = is_narrow(coarse);
    const uint32_t query_slice = all->narrow ? BOX : QUERY_SLICE;
    all->stages = (SHARED_BYTES - (resident ? all->slices * query_slice : 0)) /
                  (resident ? BOX : BOX + query_slice);
    if (all->stages > STAGES_MAX) all->stages = STAGES_MAX;
    all->most = s.most;
    all->scale = coarse->scale;
    lists->queries_left = coarse->queries_left;
    lists->tile_queries = TILE_QUERIES;
    lists->row_tiles = (uint32_t)ceil_div(coarse->row_count, TILE_ROWS);
    lists->blocks = s.share == 1 ? s.blocks : clusters_of(device);
    lists->share = s.share;
    lists->wanted = coarse->wanted;
    lists->trigger = s.trigger;
    lists->capacity = s.capacity;
    lists->entries = reinterpret_cast<uint64_t *>(at);
    lists->counts = reinterpret_cast<uint32_t *>(at + s.entries);
    lists->bounds = reinterpret_cast<unsigned long long *>(at + s.entries + s.counts);
    lists->minima = s.row_step == 0
                        ? nullptr
                        : reinterpret_cast<float *>(at + s.entries + s.counts + s.bounds);
    lists->groups = s.groups;
    lists->rows = peri_keep_rows{ coarse->names, coarse->first, (uint32_t)coarse->row_count };
    *(is_masked(coarse) ? &all->filter : &lists->filter) = coarse->filter;
    lists->keys = coarse->keys;
    lists->reach = coarse->reach;
    if (coarse->reach.names != nullptr)
        lists->bounds = reinterpret_cast<unsigned long long *>(coarse->reach.bounds);
    PERI_TRY(make_map(device, coarse->type, coarse->queries, coarse->query_count, coarse->depth,
                      coarse->depth * element, &all->queries));
    PERI_TRY(make_map(device, coarse->type, coarse->rows, coarse->row_count, columns, stride,
                      &all->rows));
    *sample = *all;
    if (s.row_step == 0) return PERI_OK;
    sample->row_count = s.samples;
    sample->row_step = s.row_step;
    sample->lists.row_tiles = (uint32_t)ceil_div(s.samples, TILE_ROWS);
    sample->lists.segments = s.groups / (TILE_GROUPS * s.share);
    return make_map(device, coarse->type, coarse->rows, s.samples, columns, stride * s.row_step,
                    &sample->rows);
}

} /* namespace */

size_t peri_coarse_wgmma_scratch(const peri_device *device, const peri_coarse *coarse) {
    return make_shape(device, coarse).bytes;
}

peri_status peri_coarse_wgmma_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                                  size_t scratch_bytes) {
    shape s = make_shape(stream->device, coarse);
    if (scratch_bytes < s.bytes)
        return stream->device->host->fail(
            PERI_E_ARGUMENT, "coarse: %zu bytes of scratch, %zu needed", scratch_bytes, s.bytes);
    pass all = {}, sample = {};
    PERI_TRY(make_passes(stream->device, coarse, s, scratch, &all, &sample));
    for (size_t first = 0; first < coarse->query_count; first += s.chunk) {
        size_t count = coarse->query_count - first < s.chunk ? coarse->query_count - first
                                                             : s.chunk;
        all.lists.first_query = sample.lists.first_query = first;
        all.lists.count = sample.lists.count = (uint32_t)count;
        all.lists.tiles = sample.lists.tiles = (uint32_t)ceil_div(count, TILE_QUERIES);
        all.lists.segments = segments_of(all.lists, coarse);
        if (s.row_step != 0) PERI_TRY(launch_rows<true>(stream, coarse->type, sample));
        const bool reach = coarse->reach.names != nullptr;
        if (!reach) PERI_TRY(peri_coarse_bounds(stream, &all.lists));
        PERI_TRY(launch_rows<false>(stream, coarse->type, all));
        if (!reach) PERI_TRY(peri_coarse_finish(stream, &all.lists));
    }
    return PERI_OK;
}
