/* knn_floats: exact search of a small batch over f32 rows, which are read once, where they lie.
 *
 * queries [q, d] f32 | rows [n, d] f32 | ids, distances [q, k]
 *   begin    queries rounded to the 11 bits of TF32; a sample of the rows says whether this is for
 *            them, and, for the inner product, how long a row may be: 64 times the median of the
 *            longest of 32 groups. Squared L2 needs no limit: what is much longer than the query
 *            is far from it;
 *   coarse   the best `wanted` > k of each query by tensor cores (coarse.cuh), which make the rows'
 *            squared lengths as they pass;
 *   rescore  canonical distances, the best k, and the proof (certificate.cuh).
 * Elements of rows stand for others within 2^-10 of themselves, and no centre is taken from them,
 * so that rows far from the origin, beside the distances among them, prove nothing: the caller then
 * does the batch in another way. Where the sample sees that, nothing is done here. Gaussian rows of
 * 32 to 768 columns, those of the unit cube and of the sphere, and clusters are all proved with
 * k + 22 candidates.
 * Bound by memory, n * d * 4 bytes, up to some hundred queries; then by 2 * q * n * d flop, at half
 * the rate of f16. */
#include "knn_floats.cuh"

#include "coarse.cuh"
#include "core/status.h"
#include "distance.cuh"
#include "rescore.cuh"
#include "select.cuh"

namespace {

constexpr unsigned THREADS = 512;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned GROUPS = 32;     /* of the sample */
constexpr unsigned GROUP_ROWS = 16; /* in each */
constexpr float SPREAD_LEAST = 1.0f / 16;
constexpr float NORM_RATIO = 64.0f;
/* Measured on an H200, 1M rows, and the f16 pass in brackets. 128 columns: 64 queries take 0.31 ms
 * (0.59), 256 0.48 (0.63), 384 0.74 (0.72). 32 columns: 512 take 0.36 ms (0.60). 16 queries over
 * 100 000 x 128, directly 0.11 ms, take 0.13. */
constexpr size_t QUERIES_MAX = 256, QUERIES_MAX_SHORT = 512;
constexpr size_t SHORT = 64; /* columns */
constexpr size_t ROWS_MIN = 2048;
constexpr size_t QUERIES_MIN = 8, QUERIES_ALWAYS = 20; /* between: when scanning them all */
constexpr size_t BYTES_MIN = (size_t)3 << 29;          /* directly reads this much */
constexpr size_t SLACK_MIN = 22;  /* candidates beyond k, and at least half of k */
constexpr size_t WANTED_UNIT = 8; /* their number is a multiple of this */
constexpr size_t DEPTH_UNIT = 32; /* elements */
constexpr size_t ALIGN = 256;

struct state {
    uint32_t again, fit; /* first, as the header says */
    uint32_t left, arrived, fractions;
    peri_coarse_norms norms;
    float longest[GROUPS]; /* of each group of the sample: squared length, */
    float spread[GROUPS];  /* and the part of its mean that no common middle explains */
};
static_assert(sizeof(state) <= PERI_KNN_FLOATS_STATE, "what the caller keeps");

struct plan {
    uint32_t wanted, depth;
    size_t queries, about, keys, which, rest, rest_bytes, bytes;
};

size_t round_up(size_t a, size_t unit) { return (a + unit - 1) / unit * unit; }

peri_coarse coarse_of(const peri_op_knn *op, const plan *p) {
    peri_coarse c = {};
    c.type = PERI_COARSE_TF32;
    c.rows = op->rows.data;
    c.row_stride_bytes = op->rows.stride_bytes;
    c.query_count = op->queries.rows;
    c.row_count = op->rows.rows;
    c.depth = p->depth;
    c.columns = (uint32_t)op->rows.cols;
    c.squared = peri_prepare_squared(op->metric);
    c.scale = c.squared ? -2.0f : -1.0f;
    c.wanted = p->wanted;
    return c;
}

size_t take(size_t *at, size_t bytes) {
    size_t offset = *at;
    *at += round_up(bytes, ALIGN);
    return offset;
}

size_t wanted_of(const peri_op_knn *op) {
    size_t slack = op->k / 2 > SLACK_MIN ? op->k / 2 : SLACK_MIN;
    return round_up(op->k + slack, WANTED_UNIT);
}

plan make_plan(const peri_device *device, const peri_op_knn *op) {
    plan p = {};
    const size_t q = op->queries.rows;
    size_t at = 0;
    p.wanted = (uint32_t)wanted_of(op);
    p.depth = (uint32_t)round_up(op->rows.cols, DEPTH_UNIT);
    p.queries = take(&at, q * p.depth * sizeof(float));
    p.about = take(&at, q * sizeof(peri_prepared_query));
    p.keys = take(&at, q * p.wanted * sizeof(uint64_t));
    p.which = take(&at, q * sizeof(uint32_t));
    p.rest = at;
    peri_coarse c = coarse_of(op, &p);
    c.norms = (peri_coarse_norms *)ALIGN; /* any: that there are some */
    c.queries_left = (const uint32_t *)ALIGN;
    p.rest_bytes = peri_coarse_scratch(device, &c);
    p.bytes = at + p.rest_bytes;
    return p;
}

/* ---- begin: blocks 0 .. GROUPS - 1 see to the sample, the others to queries ---------------- */

struct task {
    peri_view queries, rows;
    uint32_t depth, wanted;
    state *s;
    float *out;
    peri_prepared_query *about;
    uint64_t *keys;
};

/* A thread a column: of the group's rows the squared lengths, their mean, and how much of it is the
 * rows' common middle: |mean of the rows|^2. */
struct group { /* as the first warp has it */
    float longest, square, middle;
    bool whole;
};

__device__ group look_at_group(const task &t) {
    __shared__ float squares[WARPS][GROUP_ROWS], middles[WARPS];
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    const size_t step = t.rows.rows / (GROUP_ROWS * GROUPS);
    float sums[GROUP_ROWS] = {}, middle = 0;
    bool whole = true;
    for (uint32_t j = threadIdx.x; j < t.rows.cols; j += THREADS) {
        float mean = 0;
#pragma unroll
        for (unsigned r = 0; r < GROUP_ROWS; r++) {
            float x = peri_row<float>(t.rows.data, t.rows.stride_bytes,
                                      (r * GROUPS + blockIdx.x) * step)[j];
            whole = whole && rintf(x) == x;
            mean += x / GROUP_ROWS;
            sums[r] = __fmaf_rn(x, x, sums[r]);
        }
        middle = __fmaf_rn(mean, mean, middle);
    }
    middle = peri_fold(middle);
#pragma unroll
    for (unsigned r = 0; r < GROUP_ROWS; r++) {
        float sum = peri_fold(sums[r]);
        if (lane == 0) squares[warp][r] = sum;
    }
    if (lane == 0) middles[warp] = middle;
    group g = {};
    g.whole = __syncthreads_and(whole);
    if (warp != 0) return g;
    float square = 0; /* of row `lane`; the other half of the lanes have none */
    for (unsigned w = 0; w < WARPS; w++) square += lane < GROUP_ROWS ? squares[w][lane] : 0.0f;
    g.middle = peri_fold(lane < WARPS ? middles[lane] : 0.0f);
    g.square = peri_fold(square) / GROUP_ROWS;
    g.longest = __uint_as_float(__reduce_max_sync(PERI_ALL_LANES, __float_as_uint(square)));
    return g;
}

__device__ float median(float value) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    unsigned rank = 0;
    for (unsigned i = 0; i < PERI_WARP; i++) {
        float other = __shfl_sync(PERI_ALL_LANES, value, i);
        rank += other < value || (other == value && i < lane);
    }
    unsigned found = __ballot_sync(PERI_ALL_LANES, rank == GROUPS / 2);
    return __shfl_sync(PERI_ALL_LANES, value, found == 0 ? 0 : __ffs((int)found) - 1);
}

/* The last block to come ranks the groups and says whether this is for such rows at all: not for
 * whole numbers, whose sums are exact in another pass, nor for what lies far from the origin. */
__device__ void sample(const task &t) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const group g = look_at_group(t);
    if (threadIdx.x >= PERI_WARP) return;
    unsigned last = 0;
    if (lane == 0) {
        t.s->longest[blockIdx.x] = g.longest;
        t.s->spread[blockIdx.x] = (g.square - g.middle) / g.square;
        if (!g.whole) t.s->fractions = 1;
        __threadfence();
        last = atomicAdd(&t.s->arrived, 1u) + 1 == GROUPS;
    }
    if (__shfl_sync(PERI_ALL_LANES, last, 0) == 0) return;
    __threadfence();
    const float most = NORM_RATIO * NORM_RATIO * median(__ldcg(&t.s->longest[lane]));
    const bool near = median(__ldcg(&t.s->spread[lane])) >= SPREAD_LEAST;
    const bool fit = near && __ldcg(&t.s->fractions) != 0;
    if (lane != 0) return;
    t.s->norms.most = most > 0 && most < PERI_COARSE_NORM_MOST ? most : PERI_COARSE_NORM_MOST;
    t.s->fit = fit ? (uint32_t)t.queries.rows : 0;
    if (!fit) t.s->again = (uint32_t)t.queries.rows;
}

/* To 11 bits, the nearest. What is too large becomes infinite: such queries prove nothing. */
__device__ float rounded(float x) {
    return __uint_as_float((__float_as_uint(x) + 0x1000u) & ~PERI_COARSE_PARTS);
}

__device__ double fold_double(double sum) {
    for (int offset = 16; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(PERI_ALL_LANES, sum, offset);
    return sum;
}

__device__ void begin_query(const task &t, size_t i) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const float *query = peri_row<float>(t.queries.data, t.queries.stride_bytes, i);
    float *out = t.out + i * t.depth;
    double norm = 0, residual = 0, came = 0;
    for (uint32_t j = lane; j < t.depth; j += PERI_WARP) {
        float x = j < t.queries.cols ? query[j] : 0.0f, y = rounded(x);
        double left = (double)x - y;
        came += (double)x * x;
        norm += (double)y * y;
        residual += left * left;
        out[j] = y;
    }
    came = fold_double(came);
    norm = fold_double(norm);
    residual = fold_double(residual);
    const bool proves = norm < 1e30 && came < PERI_COARSE_NORM_MOST;
    for (uint32_t j = lane; !proves && j < t.depth; j += PERI_WARP) out[j] = 0;
    for (uint32_t j = lane; j < t.wanted; j += PERI_WARP) t.keys[i * t.wanted + j] = PERI_KEY_NONE;
    if (lane != 0) return;
    peri_prepared_query a = {};
    a.doubt.norm = sqrt(norm);
    a.doubt.residual = sqrt(residual);
    a.doubt.length = sqrt(came);
    a.doubt.scale = 1.0;
    a.proves = proves;
    t.about[i] = a;
}

__global__ void __launch_bounds__(THREADS) begin_kernel(task t) {
    if (blockIdx.x < GROUPS) {
        sample(t);
        return;
    }
    size_t i = (size_t)(blockIdx.x - GROUPS) * WARPS + threadIdx.x / PERI_WARP;
    if (i < t.queries.rows) begin_query(t, i);
}

} /* namespace */

/* A batch for which this is the fastest. */
static bool is_small(const peri_op_knn *op) {
    const size_t q = op->queries.rows, bytes = op->rows.rows * op->rows.cols * sizeof(float);
    return q <= (op->rows.cols <= SHORT ? QUERIES_MAX_SHORT : QUERIES_MAX) &&
           (q >= QUERIES_ALWAYS || (q >= QUERIES_MIN && q * bytes >= BYTES_MIN));
}

bool peri_knn_floats_takes(const peri_op_knn *op) {
    return op->rows.dtype == PERI_F32 && op->queries.dtype == PERI_F32 &&
           (op->metric == PERI_INNER_PRODUCT || peri_prepare_squared(op->metric)) &&
           op->filter.count == 0 && is_small(op) && op->rows.rows >= ROWS_MIN &&
           op->rows.rows < (size_t)1 << 31 && wanted_of(op) <= PERI_COARSE_WANTED_MAX &&
           ((size_t)op->rows.data | op->rows.stride_bytes) % 16 == 0;
}

size_t peri_knn_floats_scratch(const peri_device *device, const peri_op_knn *op) {
    return make_plan(device, op).bytes;
}

peri_status peri_knn_floats_run(peri_stream *stream, const peri_op_knn *op, void *kept,
                                void *scratch, size_t scratch_bytes) {
    const plan p = make_plan(stream->device, op);
    if (scratch_bytes < p.bytes)
        return stream->device->host->fail(PERI_E_ARGUMENT, "knn: %zu bytes of scratch, %zu needed",
                                          scratch_bytes, p.bytes);
    cudaStream_t handle = peri_cuda_handle(stream);
    char *base = static_cast<char *>(scratch);
    task t = {};
    t.queries = op->queries;
    t.rows = op->rows;
    t.depth = p.depth;
    t.wanted = p.wanted;
    t.s = static_cast<state *>(kept);
    t.out = reinterpret_cast<float *>(base + p.queries);
    t.about = reinterpret_cast<peri_prepared_query *>(base + p.about);
    t.keys = reinterpret_cast<uint64_t *>(base + p.keys);
    CU_TRY(stream->device, cudaMemsetAsync(t.s, 0, sizeof *t.s, handle));
    begin_kernel<<<GROUPS + peri_blocks(op->queries.rows, WARPS), THREADS, 0, handle>>>(t);
    PERI_TRY(peri_cuda_launched(stream));
    peri_coarse c = coarse_of(op, &p);
    c.queries = t.out;
    c.norms = &t.s->norms;
    c.queries_left = &t.s->fit;
    c.keys = t.keys;
    PERI_TRY(peri_coarse_run(stream, &c, base + p.rest, p.rest_bytes));
    peri_rescore r = {};
    r.op = op;
    r.wanted = p.wanted;
    r.keys = t.keys;
    r.about = t.about;
    r.norms = &t.s->norms;
    r.which = reinterpret_cast<uint32_t *>(base + p.which);
    r.left = &t.s->left;
    r.needed = &t.s->fit;
    r.again = &t.s->again;
    return peri_rescore_run(stream, &r);
}
