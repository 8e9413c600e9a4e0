/* cluster_sums: every centroid to the mean of its rows, exactly as the contract adds them up.
 *
 * rows [n, d] f32 f16 i8 u8 | labels [n] | centroids [c, d] f32 in and out | counts [c]
 * Sort: a stable radix sort of the rows by label (CUB, Merrill & Grimshaw's and, since, Adinets &
 * Merrill's one-sweep sort), so that the rows of a cluster are ascending; a binary search a
 * cluster finds where each begins.
 * Groups: a warp takes one group of PERI_SUMS_GROUP rows on 128 columns, 4 a lane, and adds the
 * rows one after the other in f64. A cluster of one group has its mean then; the sums of others
 * are kept, and a warp a cluster and 128 columns adds them in their order. So one cluster of all
 * rows is as parallel as many small ones.
 *
 * Which group is whose needs no table: group k of cluster c is item c + starts[c] / 256 + k. These
 * numbers are distinct, since c's next is 1 + starts[c + 1] / 256 - starts[c] / 256 further, which
 * is no less than its groups; and they ascend, so that a binary search leads back. In the same way
 * the kept sums of a cluster of more than one group begin at starts[c] / 128.
 * Bound by random rows: n * d * bytes; 512 bytes a row come at the full rate of memory. */
#include <cub/device/device_radix_sort.cuh>

#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned COLUMNS = 4; /* of a lane */
constexpr unsigned SPAN = COLUMNS * PERI_WARP;
constexpr unsigned AHEAD = 8;       /* rows in flight */
constexpr unsigned SUMS_AHEAD = 32; /* sums of groups in flight: few warps read them */
constexpr unsigned GROUP = PERI_SUMS_GROUP;

/* Where things lie in the scratch; the same for scratch() and run(). */
struct plan {
    uint32_t *keys[2], *order[2]; /* [n] */
    size_t *starts;               /* [c + 1] in the order */
    double *kept;                 /* [n / 128 + 1, d] */
    float *means;                 /* [c, d]; unit only */
    void *sorting;
    size_t sorting_bytes, bytes;
    int bits; /* of a label */
};

template <typename T> void cut(plan *p, char *base, size_t count, T **out) {
    *out = base == nullptr ? nullptr : reinterpret_cast<T *>(base + p->bytes);
    p->bytes += (count * sizeof(T) + 255) / 256 * 256;
}

plan make_plan(const peri_op_cluster_sums *op, char *base) {
    plan p = {};
    size_t n = op->rows.rows, c = op->centroids.rows, d = op->rows.cols;
    for (int i = 0; i < 2; i++) cut(&p, base, n, &p.keys[i]);
    for (int i = 0; i < 2; i++) cut(&p, base, n, &p.order[i]);
    cut(&p, base, c + 1, &p.starts);
    cut(&p, base, (n / (GROUP / 2) + 1) * d, &p.kept);
    if (op->unit) cut(&p, base, c * d, &p.means);
    for (p.bits = 1; p.bits < 32 && c - 1 >> p.bits != 0;) p.bits++;
    cub::DoubleBuffer<uint32_t> keys(nullptr, nullptr), order(nullptr, nullptr);
    (void)cub::DeviceRadixSort::SortPairs(nullptr, p.sorting_bytes, keys, order, (uint32_t)n, 0,
                                          p.bits);
    cut(&p, base, p.sorting_bytes, reinterpret_cast<char **>(&p.sorting));
    return p;
}

/* ---- sort --------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS)
    begin_order(const uint32_t *__restrict__ labels, size_t n, uint32_t *__restrict__ keys,
                uint32_t *__restrict__ order) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i < n; i += (size_t)gridDim.x * THREADS) {
        keys[i] = labels[i];
        order[i] = (uint32_t)i;
    }
}

__device__ size_t first_not_below(const uint32_t *keys, size_t n, size_t label) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (keys[middle] < label)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

__global__ void __launch_bounds__(THREADS)
    find_starts(const uint32_t *__restrict__ keys, size_t n, size_t clusters,
                size_t *__restrict__ starts, uint32_t *__restrict__ counts) {
    size_t c = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (; c <= clusters; c += (size_t)gridDim.x * THREADS) {
        size_t start = first_not_below(keys, n, c);
        starts[c] = start;
        if (c < clusters) counts[c] = (uint32_t)(first_not_below(keys, n, c + 1) - start);
    }
}

/* ---- sums --------------------------------------------------------------------------------- */

struct sums {
    peri_op_cluster_sums op;
    const uint32_t *order;
    const size_t *starts;
    double *kept;
    float *means; /* where a mean goes, at `mean_stride` floats: the centroids, or scratch */
    size_t mean_stride;
    size_t items, spans;
    bool wide; /* rows can be read 4 elements at a time */
};

template <typename T> struct alignas(COLUMNS * sizeof(T)) quad { T x[COLUMNS]; };

/* Columns of a lane from a row, as f64; those past the last are 0. */
template <typename T>
__device__ quad<T> load(const sums &s, size_t row, uint32_t column, uint32_t left) {
    const T *from = peri_row<T>(s.op.rows.data, s.op.rows.stride_bytes, row) + column;
    if (s.wide && left >= COLUMNS) return *reinterpret_cast<const quad<T> *>(from);
    quad<T> out;
#pragma unroll
    for (unsigned i = 0; i < COLUMNS; i++) out.x[i] = i < left ? from[i] : T(0);
    return out;
}

/* With `divided`, elements are those of a row of `length` brought to length 1. */
template <typename T>
__device__ void add(double (&sum)[COLUMNS], const quad<T> &row, bool divided, float length) {
#pragma unroll
    for (unsigned i = 0; i < COLUMNS; i++) {
        double value = (double)(float)row.x[i];
        if (divided) value = __ddiv_rn(value, (double)length);
        sum[i] = __dadd_rn(sum[i], value);
    }
}

/* S(c) on a lane's columns to the mean. */
__device__ void write_mean(const sums &s, size_t c, uint32_t column, uint32_t left,
                           const double (&sum)[COLUMNS]) {
    const float *centroid = peri_row<float>(s.op.centroids.data, s.op.centroids.stride_bytes, c) +
                            column;
    float *mean = s.means + c * s.mean_stride + column;
    double n = (double)s.op.counts[c], w = s.op.weights == nullptr ? 0.0 : s.op.weights[c];
#pragma unroll
    for (unsigned i = 0; i < COLUMNS; i++) {
        double of_rows = sum[i], by = n;
        if (i >= left) break;
        if (w != 0.0) {
            of_rows = __dadd_rn(__dmul_rn(w, (double)centroid[i]), of_rows);
            by = __dadd_rn(w, n);
        }
        mean[i] = __double2float_rn(__ddiv_rn(of_rows, by));
    }
}

/* The cluster whose items hold `item`. */
__device__ size_t cluster_of(const sums &s, size_t item) {
    size_t low = 0, high = s.op.centroids.rows - 1;
    while (low < high) {
        size_t middle = low + (high - low + 1) / 2;
        if (middle + s.starts[middle] / GROUP <= item)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Adds order[at] .. order[stop - 1]: AHEAD loads, then as many additions. */
template <typename T>
__device__ void add_rows(const sums &s, size_t at, size_t stop, uint32_t column, uint32_t left,
                         double (&sum)[COLUMNS]) {
    for (; at < stop; at += AHEAD) {
        quad<T> values[AHEAD];
        float lengths[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            size_t row = s.order[at + a < stop ? at + a : stop - 1];
            values[a] = load<T>(s, row, column, left);
            lengths[a] = s.op.lengths == nullptr ? 1.0f : s.op.lengths[row];
        }
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            if (at + a < stop) add(sum, values[a], s.op.lengths != nullptr, lengths[a]);
        }
    }
}

template <typename T> __global__ void __launch_bounds__(THREADS) sum_groups(sums s) {
    const uint32_t cols = (uint32_t)s.op.rows.cols;
    size_t task = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; task < s.items * s.spans; task += (size_t)gridDim.x * WARPS) {
        size_t item = task / s.spans;
        uint32_t column = (uint32_t)(task % s.spans) * SPAN + threadIdx.x % PERI_WARP * COLUMNS;
        size_t c = cluster_of(s, item), start = s.starts[c], count = s.op.counts[c];
        size_t group = item - (c + start / GROUP), at = group * GROUP;
        if (at >= count || column >= cols) continue;
        uint32_t left = cols - column;
        size_t stop = at + GROUP < count ? at + GROUP : count;
        double sum[COLUMNS] = {};
        add_rows<T>(s, start + at, start + stop, column, left, sum);
        if (count <= GROUP) {
            write_mean(s, c, column, left, sum);
            continue;
        }
        double *kept = s.kept + (start / (GROUP / 2) + group) * cols + column;
#pragma unroll
        for (unsigned i = 0; i < COLUMNS; i++)
            if (i < left) kept[i] = sum[i];
    }
}

/* The sums of the groups, in order; a lane a column. */
__global__ void __launch_bounds__(THREADS) add_groups(sums s) {
    const size_t cols = s.op.rows.cols, spans = (cols + PERI_WARP - 1) / PERI_WARP;
    size_t task = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; task < s.op.centroids.rows * spans; task += (size_t)gridDim.x * WARPS) {
        size_t c = task / spans, column = task % spans * PERI_WARP + threadIdx.x % PERI_WARP;
        size_t count = s.op.counts[c], groups = (count + GROUP - 1) / GROUP;
        if (groups < 2 || column >= cols) continue;
        const double *kept = s.kept + s.starts[c] / (GROUP / 2) * cols + column;
        double sum[COLUMNS] = {};
        for (size_t g = 0; g < groups; g += SUMS_AHEAD) {
            double values[SUMS_AHEAD];
#pragma unroll
            for (unsigned a = 0; a < SUMS_AHEAD; a++)
                values[a] = kept[(g + a < groups ? g + a : groups - 1) * cols];
#pragma unroll
            for (unsigned a = 0; a < SUMS_AHEAD; a++)
                if (g + a < groups) sum[0] = __dadd_rn(sum[0], values[a]);
        }
        write_mean(s, c, (uint32_t)column, 1, sum);
    }
}

/* Means of length 1 to the centroids; a warp a cluster. */
__global__ void __launch_bounds__(THREADS) write_units(sums s) {
    const uint32_t cols = (uint32_t)s.op.rows.cols;
    size_t c = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; c < s.op.centroids.rows; c += (size_t)gridDim.x * WARPS) {
        if (s.op.counts[c] == 0) continue;
        const float *mean = s.means + c * s.mean_stride;
        float length = peri_warp_length(mean, cols);
        if (!(length > 0) || isinf(length)) continue;
        float *to = const_cast<float *>(
            peri_row<float>(s.op.centroids.data, s.op.centroids.stride_bytes, c));
        for (uint32_t j = threadIdx.x % PERI_WARP; j < cols; j += PERI_WARP)
            to[j] = __fdiv_rn(mean[j], length);
    }
}

/* ---- the operation ------------------------------------------------------------------------ */

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_cluster_sums *)any;
    if (op->rows.rows > PERI_SLOTS_MAX || op->centroids.rows > PERI_SLOTS_MAX)
        return peri_cuda_refuse(why, "not on cuda: more than %u rows or centroids", PERI_SLOTS_MAX);
    if (op->centroids.dtype != PERI_F32 || op->centroids.cols != op->rows.cols)
        return peri_cuda_refuse(why, "centroids: %zu columns of %s on rows of %zu",
                                op->centroids.cols, peri_cuda_name(op->centroids.dtype),
                                op->rows.cols);
    return peri_cuda_rows_taken(&op->rows, why) && peri_cuda_aligned(&op->centroids, why);
}

size_t scratch(const peri_device *, const peri_op *any) {
    auto op = (const peri_op_cluster_sums *)any;
    return op->centroids.rows == 0 ? 0 : make_plan(op, nullptr).bytes;
}

template <typename T> void launch_groups(const sums &s, cudaStream_t handle) {
    sum_groups<T><<<peri_blocks(s.items * s.spans, WARPS), THREADS, 0, handle>>>(s);
}

void launch_sums(const sums &s, cudaStream_t handle) {
    switch (s.op.rows.dtype) {
    case PERI_F32: launch_groups<float>(s, handle); break;
    case PERI_F16: launch_groups<__half>(s, handle); break;
    case PERI_I8: launch_groups<int8_t>(s, handle); break;
    case PERI_U8: launch_groups<uint8_t>(s, handle); break;
    default: return; /* supports() let none other through */
    }
    size_t spans = (s.op.rows.cols + PERI_WARP - 1) / PERI_WARP;
    if (s.op.rows.rows > GROUP)
        add_groups<<<peri_blocks(s.op.centroids.rows * spans, WARPS), THREADS, 0, handle>>>(s);
    if (s.op.unit) write_units<<<peri_blocks(s.op.centroids.rows, WARPS), THREADS, 0, handle>>>(s);
}

peri_status sort(peri_stream *stream, const peri_op_cluster_sums *op, const plan &p,
                 const uint32_t **order) {
    cudaStream_t handle = peri_cuda_handle(stream);
    size_t n = op->rows.rows, bytes = p.sorting_bytes;
    cub::DoubleBuffer<uint32_t> keys(p.keys[0], p.keys[1]), rows(p.order[0], p.order[1]);
    begin_order<<<peri_blocks(n, THREADS), THREADS, 0, handle>>>(op->labels, n, p.keys[0],
                                                                 p.order[0]);
    CU_TRY(stream->device, cub::DeviceRadixSort::SortPairs(p.sorting, bytes, keys, rows,
                                                           (uint32_t)n, 0, p.bits, handle));
    find_starts<<<peri_blocks(op->centroids.rows + 1, THREADS), THREADS, 0, handle>>>(
        keys.Current(), n, op->centroids.rows, p.starts, op->counts);
    *order = rows.Current();
    return peri_cuda_launched(stream);
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t scratch_bytes) {
    auto op = (const peri_op_cluster_sums *)any;
    size_t n = op->rows.rows, clusters = op->centroids.rows;
    if (clusters == 0) return PERI_OK;
    if (n == 0) {
        CU_TRY(stream->device, cudaMemsetAsync(op->counts, 0, clusters * sizeof *op->counts,
                                               peri_cuda_handle(stream)));
        return PERI_OK;
    }
    plan p = make_plan(op, static_cast<char *>(scratch));
    if (scratch_bytes < p.bytes)
        return stream->device->host->fail(PERI_E_ARGUMENT,
                                          "cluster_sums: %zu bytes of scratch, %zu needed",
                                          scratch_bytes, p.bytes);
    sums s = {};
    s.op = *op;
    peri_status status = sort(stream, op, p, &s.order);
    if (status != PERI_OK) return status;
    size_t quad_bytes = COLUMNS * peri_cuda_dtype_bytes(op->rows.dtype);
    s.starts = p.starts;
    s.kept = p.kept;
    s.means = op->unit ? p.means : static_cast<float *>(op->centroids.data);
    s.mean_stride = op->unit ? op->rows.cols : op->centroids.stride_bytes / sizeof(float);
    s.items = clusters + n / GROUP;
    s.spans = (op->rows.cols + SPAN - 1) / SPAN;
    s.wide = ((size_t)op->rows.data | op->rows.stride_bytes) % quad_bytes == 0;
    launch_sums(s, peri_cuda_handle(stream));
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_cluster_sums_op = { supports, scratch, run };
