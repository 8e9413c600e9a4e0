/* assign: the nearest centroid of every row: the plan. No kernels.
 *
 * rows [n, d] f32 f16 i8 u8 | centroids [c, d] f32 | labels, distances [n]
 * Few centroids or few rows: canonical distances to all of them (assign_direct.cu). Else the coarse
 * pass of the tensor cores finds candidates, which are proved to hold the nearest
 * (assign_coarse.cu; assign_wgmma.cu is the pass itself on Hopper, to a depth of 128, coarse.cuh
 * elsewhere); rows where that fails are done directly, from a list that the host never
 * sees. Rows go in chunks, so that scratch is bounded. */
#include "assign.cuh"
#include "coarse.cuh"
#include "core/status.h"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr size_t DIRECT_CHUNK_ROWS = (size_t)4 << 20;    /* 32 MiB of keys */
constexpr size_t COARSE_CHUNK_BYTES = (size_t)160 << 20; /* of all that grows with the rows */
constexpr size_t COARSE_CHUNK_LEAST = 16384;             /* rows: the device is full */
/* Below, on an H200 at 128 columns, all distances take 29 ps each, and less than a coarse pass with
 * all that goes with it: 1 ns a row and some 60 us. */
constexpr size_t COARSE_CENTROIDS_LEAST = 48;
constexpr size_t COARSE_PAIRS_LEAST = (size_t)1 << 21;
constexpr uint32_t WANTED = 4; /* coarse values so near each other that five are not told apart are
                                  rare where centroids differ */

size_t least(size_t a, size_t b) { return a < b ? a : b; }
size_t most(size_t a, size_t b) { return a > b ? a : b; }
size_t round_up(size_t a, size_t step) { return (a + step - 1) / step * step; }

/* Where things lie in the scratch; the same for scratch() and run(). */
struct plan {
    bool coarse, nearest; /* the coarse pass, by the kernel that is for this alone */
    size_t chunk;         /* rows */
    peri_assign_coarse_job job;
    uint64_t *keys; /* [chunk] of the direct way */
    void *pass;     /* scratch of the coarse pass */
    size_t pass_bytes, bytes;
};

constexpr size_t ALIGN = 256; /* scratch itself has 64 only */

template <typename T> void cut(plan *p, char *base, size_t count, T **out) {
    *out = base == nullptr ? nullptr : reinterpret_cast<T *>(base + p->bytes);
    p->bytes += round_up(count * sizeof(T), ALIGN);
}

bool is_squared(peri_metric metric) {
    return metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN;
}

peri_coarse coarse_of(const plan &p, size_t count) {
    peri_coarse coarse = {};
    bool squared = is_squared(p.job.op.metric);
    coarse.type = PERI_COARSE_F16;
    coarse.queries = p.job.rows;
    coarse.rows = p.job.centroids;
    coarse.query_count = count;
    coarse.row_count = p.job.op.centroids.rows;
    coarse.depth = p.job.depth;
    coarse.terms = squared ? p.job.terms : nullptr;
    coarse.scale = squared ? -2.0f : -1.0f;
    coarse.wanted = p.job.wanted;
    coarse.keys = p.job.keys;
    return coarse;
}

/* Scratch of the coarse pass for chunks of `chunk` rows, the last and shorter one too. */
size_t pass_bytes(const plan &p, const peri_device *device, size_t chunk) {
    if (p.nearest) return 0;
    peri_coarse whole = coarse_of(p, chunk), last = coarse_of(p, p.job.op.rows.rows % chunk);
    size_t bytes = peri_coarse_scratch(device, &whole);
    return last.query_count == 0 ? bytes : most(bytes, peri_coarse_scratch(device, &last));
}

size_t row_bytes(const plan &p) {
    return p.job.depth * sizeof(__half) + p.job.wanted * sizeof(uint64_t) +
           sizeof(peri_assign_known) + sizeof(uint32_t) + sizeof(uint64_t);
}

/* As many rows as fit, halved while the coarse pass wants too much for them; whole waves of blocks
 * of 256 rows where there are several. */
size_t chunk_rows(const plan &p, const peri_device *device) {
    size_t wave = (size_t)peri_cuda_of(device)->multiprocessors * 256;
    size_t n = p.job.op.rows.rows, chunk = COARSE_CHUNK_BYTES / row_bytes(p);
    while (chunk > COARSE_CHUNK_LEAST &&
           chunk * row_bytes(p) + pass_bytes(p, device, least(n, chunk)) > COARSE_CHUNK_BYTES)
        chunk = chunk / 2;
    chunk = most(chunk, COARSE_CHUNK_LEAST);
    return least(n, chunk < wave ? chunk : chunk / wave * wave);
}

void plan_coarse(plan *p, const peri_device *device, char *base) {
    peri_assign_coarse_job &job = p->job;
    size_t d = job.op.rows.cols, c = job.op.centroids.rows;
    size_t step = PERI_COARSE_DEPTH_BYTES / sizeof(__half);
    size_t quad_bytes = 4 * peri_cuda_dtype_bytes(job.op.rows.dtype);
    job.depth = (uint32_t)round_up(d, step);
    p->nearest = peri_assign_nearest_takes(device, job.depth);
    job.wanted = p->nearest ? PERI_ASSIGN_NEAREST : WANTED;
    job.wide = ((size_t)job.op.rows.data | job.op.rows.stride_bytes) % quad_bytes == 0;
    p->chunk = chunk_rows(*p, device);
    if (is_squared(job.op.metric)) cut(p, base, d, &job.centre);
    cut(p, base, 1, &job.most);
    cut(p, base, c * job.depth, &job.centroids);
    cut(p, base, round_up(c, PERI_ASSIGN_TERMS), &job.terms);
    cut(p, base, p->chunk * job.depth, &job.rows);
    cut(p, base, p->chunk, &job.known);
    cut(p, base, p->chunk * job.wanted, &job.keys);
    cut(p, base, p->chunk, &job.list);
    cut(p, base, 1, &job.list_count);
    p->pass_bytes = pass_bytes(*p, device, p->chunk);
    cut(p, base, p->pass_bytes, reinterpret_cast<char **>(&p->pass));
}

plan make_plan(const peri_device *device, const peri_op_assign *op, char *base) {
    plan p = {};
    p.job.op = *op;
    p.coarse = op->rows.rows > 0 && op->centroids.rows >= COARSE_CENTROIDS_LEAST &&
               op->rows.rows >= COARSE_PAIRS_LEAST / op->centroids.rows;
    p.chunk = least(op->rows.rows, DIRECT_CHUNK_ROWS);
    if (p.coarse) plan_coarse(&p, device, base);
    cut(&p, base, p.chunk, &p.keys);
    p.bytes += ALIGN; /* to begin at a multiple of it */
    return p;
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_assign *)any;
    peri_view queries = op->rows;
    if (op->centroids.rows == 0) return peri_cuda_refuse(why, "centroids: 0 given, 1 is the least");
    if (op->centroids.dtype != PERI_F32)
        return peri_cuda_refuse(why, "centroids of %s, f32 is taken",
                                peri_cuda_name(op->centroids.dtype));
    if (op->metric == PERI_L1 || op->metric == PERI_HAMMING)
        return peri_cuda_refuse(why, "not on cuda: assignment by metric %s",
                                op->metric == PERI_L1 ? "l1" : "hamming");
    queries.dtype = PERI_F32;              /* what they stand for */
    queries.rows = least(queries.rows, 1); /* any number: they go in chunks */
    return peri_cuda_rows_taken(&op->rows, why) &&
           peri_cuda_search_taken(op->metric, &queries, &op->centroids, op->lengths, why);
}

size_t scratch(const peri_device *device, const peri_op *any) {
    return make_plan(device, (const peri_op_assign *)any, nullptr).bytes;
}

/* One chunk by the coarse pass; what is left goes to `part`. */
peri_status run_coarse(peri_stream *stream, const plan &p, peri_assign_part *part) {
    peri_coarse coarse = coarse_of(p, part->count);
    PERI_TRY(peri_assign_coarse_rows(stream, &p.job, part->first, part->count));
    if (p.nearest)
        PERI_TRY(peri_assign_nearest(stream, &p.job, part->count));
    else
        PERI_TRY(peri_coarse_run(stream, &coarse, p.pass, p.pass_bytes));
    part->list = p.job.list;
    part->list_count = p.job.list_count;
    return peri_assign_coarse_settle(stream, &p.job, part->first, part->count);
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t scratch_bytes) {
    auto op = (const peri_op_assign *)any;
    char *base = reinterpret_cast<char *>(round_up((size_t)scratch, ALIGN));
    plan p = make_plan(stream->device, op, base);
    peri_assign_part part = {};
    peri_status status = PERI_OK;
    if (scratch_bytes < p.bytes)
        return stream->device->host->fail(
            PERI_E_ARGUMENT, "assign: %zu bytes of scratch, %zu needed", scratch_bytes, p.bytes);
    if (p.coarse) status = peri_assign_coarse_centroids(stream, &p.job);
    part.op = *op;
    part.keys = p.keys;
    for (; part.first < op->rows.rows && status == PERI_OK; part.first += part.count) {
        part.count = least(p.chunk, op->rows.rows - part.first);
        if (p.coarse) status = run_coarse(stream, p, &part);
        if (status == PERI_OK) status = peri_assign_direct(stream, &part);
    }
    return status;
}

} /* namespace */

const peri_cuda_op peri_cuda_assign_op = { supports, scratch, run };
