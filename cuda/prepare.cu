/* prepare: rows and queries for the coarse pass.
 *
 * rows [n, d] f32 f16 i8 u8 | centre [depth] f32 | out [n, depth] f16 | terms [n] f32
 * Sample: 512 rows in 32 groups. The centre of a column is the mean of the middle half of its
 * groups' means; the largest element and the longest row are the medians of the groups' largest.
 * Rows of whole bytes are only padded, and used as such.
 * Rows: one warp a row, four elements a lane; bound by memory, n * (d * bytes + 2 * depth). Maxima
 * are kept by warps, joined by blocks, and end in one atomic a block.
 * Names: a block counts the bits of 256 words, then each adds the counts of those before it. */
#include "prepare.cuh"

#include "distance.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;
constexpr unsigned GROUPS = 32;     /* of the sample */
constexpr unsigned GROUP_ROWS = 16; /* in each */
constexpr float CENTRE_MOST = 1e18f;
constexpr float LENGTH_LEAST = 1e-12f, LENGTH_MOST = 1e12f; /* cosine: else rescored always */
constexpr int TYPICAL_BITS = 8;     /* the largest typical element is scaled below 2^8 */
constexpr float NORM_RATIO = 64.0f; /* rows that many times longer are out of range; of squared L2
                                       those that have an element past the range of f16 */
constexpr float NORM_MOST = 1e37f;  /* of a squared length as it came */
constexpr float ROUNDED = 0x1.004p-24f; /* one rounding to f32 */

__device__ float infinity() { return __int_as_float(0x7F800000); }

__device__ bool unneeded(const peri_prepare &p) { return p.needed != nullptr && *p.needed == 0; }

/* ---- the sample --------------------------------------------------------------------------- */

__device__ size_t sampled(const peri_prepare &p, unsigned group, unsigned i) {
    size_t at = (size_t)(group + i * GROUPS) * p.sample_step;
    at = at < p.total ? at : (group + i * GROUPS) % p.total;
    return p.names == nullptr ? at : p.names[at];
}

/* What a row is multiplied by before anything else. */
__device__ float row_factor(const peri_prepare &p, size_t row) {
    if (p.metric != PERI_COSINE) return 1.0f;
    float length = p.lengths[row];
    return length >= LENGTH_LEAST && length <= LENGTH_MOST ? __fdiv_rn(1.0f, length) : 0.0f;
}

/* Whether a number is whole and a half. */
__device__ bool is_whole(float x) { return fabsf(x) <= 2048.0f && rintf(x) == x; }

template <typename T> __device__ float element(const peri_prepare &p, size_t row, uint32_t j) {
    return (float)peri_row<T>(p.rows.data, p.rows.stride_bytes, row)[j];
}

/* The power of two that brings a largest element below 2^TYPICAL_BITS. */
__device__ float typical_scale(float large) {
    int exponent = TYPICAL_BITS;
    if (large > 1e-30f && large < 1e30f) frexpf(large, &exponent);
    return ldexpf(1.0f, TYPICAL_BITS - exponent);
}

__device__ float warp_most(float value) {
    for (int offset = 16; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(PERI_ALL_LANES, value, offset));
    return value;
}

/* Puts 32 values, one a lane, in order; lane i gets the i-th. */
__device__ float warp_sorted(float value) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    unsigned rank = 0;
    for (unsigned i = 0; i < PERI_WARP; i++) {
        float other = __shfl_sync(PERI_ALL_LANES, value, i);
        rank += other < value || (other == value && i < lane);
    }
    float sorted = value;
    for (unsigned i = 0; i < PERI_WARP; i++) {
        unsigned its = __shfl_sync(PERI_ALL_LANES, rank, i);
        float other = __shfl_sync(PERI_ALL_LANES, value, i);
        if (its == lane) sorted = other;
    }
    return sorted;
}

/* A block takes 32 columns; warp g first sums group g, then warp c sorts the groups of column c. */
template <typename T> __global__ void __launch_bounds__(1024) sample_centre(peri_prepare p) {
    __shared__ float means[GROUPS][PERI_WARP + 1];
    if (unneeded(p)) return;
    const unsigned lane = threadIdx.x % PERI_WARP, group = threadIdx.x / PERI_WARP;
    const uint32_t j = blockIdx.x * PERI_WARP + lane;
    float sum = 0;
    bool whole = p.metric != PERI_COSINE;
#pragma unroll
    for (unsigned i = 0; i < GROUP_ROWS; i++) {
        size_t row = sampled(p, group, i);
        float x = j < p.rows.cols ? element<T>(p, row, j) : 0.0f;
        whole = whole && is_whole(x);
        sum += x * row_factor(p, row) / GROUP_ROWS;
    }
    if (!__all_sync(PERI_ALL_LANES, whole) && lane == 0) p.stats->fractions = 1;
    means[group][lane] = fabsf(sum) < CENTRE_MOST ? sum : 0.0f;
    __syncthreads();
    float sorted = warp_sorted(means[lane][group]);
    float middle = lane >= GROUPS / 4 && lane < 3 * GROUPS / 4 ? sorted : 0.0f;
    middle = peri_fold(middle) / (GROUPS / 2);
    if (lane == 0) p.centre[blockIdx.x * PERI_WARP + group] = p.centred ? middle : 0.0f;
}

/* A block a group, a warp a row, less the centre and as it came; the last block to come ranks the
 * groups. It clears the centre of whole numbers, and one that makes fewer than half of the rows
 * shorter: where lengths differ by orders of magnitude few rows make the mean, and to lie around it
 * would cost the others their digits. */
template <typename T>
__global__ void __launch_bounds__(GROUP_ROWS *PERI_WARP) sample_scale(peri_prepare p) {
    __shared__ float largest[2][GROUP_ROWS], longest[2][GROUP_ROWS];
    __shared__ bool last;
    if (unneeded(p)) return;
    const unsigned lane = threadIdx.x % PERI_WARP, warp = threadIdx.x / PERI_WARP;
    const bool whole = p.stats->fractions == 0;
    size_t row = sampled(p, blockIdx.x, warp);
    float factor = row_factor(p, row), squares[2] = {}, large[2] = {};
    for (uint32_t j = lane; j < p.rows.cols; j += PERI_WARP) {
        const float x = element<T>(p, row, j) * factor, v[2] = { x - p.centre[j], x };
        for (unsigned way = 0; way < 2; way++) {
            large[way] = fmaxf(large[way], fabsf(v[way]));
            squares[way] += v[way] * v[way];
        }
    }
    for (unsigned way = 0; way < 2; way++) {
        large[way] = warp_most(large[way]);
        squares[way] = peri_fold(squares[way]);
        if (lane == 0) largest[way][warp] = large[way];
        if (lane == 0) longest[way][warp] = squares[way];
    }
    if (lane == 0 && squares[0] < squares[1]) atomicAdd(&p.stats->shorter, 1u);
    __threadfence();
    __syncthreads();
    if (warp != 0) return;
    for (unsigned way = 0; way < 2; way++) {
        float most = warp_most(lane < GROUP_ROWS ? largest[way][lane] : 0.0f);
        if (lane == 0) p.stats->largest[way][blockIdx.x] = most;
        most = warp_most(lane < GROUP_ROWS ? longest[way][lane] : 0.0f);
        if (lane == 0) p.stats->longest[way][blockIdx.x] = most;
    }
    if (lane == 0) {
        __threadfence();
        last = atomicAdd(&p.stats->arrived, 1u) + 1 == gridDim.x;
    }
    __syncwarp();
    if (!last) return;
    __threadfence();
    const unsigned way = whole || __ldcg(&p.stats->shorter) < GROUPS * GROUP_ROWS / 2;
    for (unsigned j = lane; way == 1 && j < p.depth; j += PERI_WARP) p.centre[j] = 0.0f;
    const float typical = warp_sorted(__ldcg(&p.stats->largest[way][lane]));
    const float length = warp_sorted(__ldcg(&p.stats->longest[way][lane]));
    if (lane != GROUPS / 2) return;
    float scale = p.centred && !whole ? typical_scale(typical) : 1.0f;
    float most = NORM_RATIO * NORM_RATIO * scale * scale * length;
    p.stats->scale = scale;
    const bool known = most > 0 && most < NORM_MOST && !peri_prepare_squared(p.metric);
    p.stats->norm_most = known ? most : NORM_MOST;
}

/* ---- rows --------------------------------------------------------------------------------- */

struct four {
    float x[4];
};

template <typename T> struct packed { using type = uint32_t; };
template <> struct packed<float> { using type = uint4; };
template <> struct packed<__half> { using type = uint2; };

/* Elements j .. j + 3 of a row, 0 from `dim` on. */
template <typename T> __device__ four load_four(const T *row, uint32_t j, uint32_t dim, bool wide) {
    four out;
    if (wide && j + 4 <= dim) {
        union {
            typename packed<T>::type all;
            T x[4];
        } word;
        word.all = __ldg(reinterpret_cast<const typename packed<T>::type *>(row + j));
#pragma unroll
        for (unsigned e = 0; e < 4; e++) out.x[e] = (float)word.x[e];
        return out;
    }
#pragma unroll
    for (unsigned e = 0; e < 4; e++) out.x[e] = j + e < dim ? (float)row[j + e] : 0.0f;
    return out;
}

__device__ void store_four(__half *out, const __half h[4]) {
    union {
        uint2 all;
        __half2 x[2];
    } word;
    word.x[0] = __halves2half2(h[0], h[1]);
    word.x[1] = __halves2half2(h[2], h[3]);
    *reinterpret_cast<uint2 *>(out) = word.all;
}

constexpr unsigned ROWS = 4; /* a warp, at a time: their loads are in flight together */

/* Of ROWS values a lane, the sum of value r over all lanes, to the eight lanes from 8 r on. */
__device__ float fold_rows(const float v[ROWS]) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const bool high = (lane & 16) != 0, odd = (lane & 8) != 0;
    float a = (high ? v[2] : v[0]) + __shfl_xor_sync(PERI_ALL_LANES, high ? v[0] : v[2], 16);
    float b = (high ? v[3] : v[1]) + __shfl_xor_sync(PERI_ALL_LANES, high ? v[1] : v[3], 16);
    float c = (odd ? b : a) + __shfl_xor_sync(PERI_ALL_LANES, odd ? a : b, 8);
    for (int offset = 4; offset > 0; offset /= 2) c += __shfl_xor_sync(PERI_ALL_LANES, c, offset);
    return c;
}

/* What is prepared of a row, or of a query: elements at `data`, halves or bytes. */
struct room {
    char *data; /* NULL: nothing is written */
    bool bytes;

    __device__ room(void *base, size_t row, uint32_t depth, bool bytes)
        : data(base == nullptr ? nullptr
                               : static_cast<char *>(base) + row * depth * (bytes ? 1 : 2)),
          bytes(bytes) {}
    __device__ room() : data(nullptr), bytes(false) {}
    __device__ void put(uint32_t j, const __half h[4]) const {
        if (data == nullptr) return;
        if (bytes) {
            uint32_t word = 0;
#pragma unroll
            for (unsigned e = 0; e < 4; e++)
                word |= (uint32_t)(uint8_t)__half2int_rn(h[e]) << (8 * e);
            *reinterpret_cast<uint32_t *>(data + j) = word;
        } else {
            store_four(reinterpret_cast<__half *>(data) + j, h);
        }
    }
    __device__ void clear(uint32_t depth) const {
        if (data == nullptr) return;
        uint32_t words = depth * (bytes ? 1 : 2) / 4;
        for (uint32_t w = threadIdx.x % PERI_WARP; w < words; w += PERI_WARP)
            reinterpret_cast<uint32_t *>(data)[w] = 0;
    }
};

/* What lane 8 r and the seven after it know of row r. */
struct sums {
    float halves, residuals, came; /* squares of Y, of dX, of x */
    bool fractions;                /* in the lane's own elements, or its row's */
};

template <typename T>
__device__ sums make_four(const peri_prepare &p, const T *const rows[ROWS],
                          const float factors[ROWS], float scale, float rounded, bool wide,
                          const room out[ROWS]) {
    const uint32_t dim = (uint32_t)p.rows.cols;
    float halves[ROWS] = {}, residuals[ROWS] = {}, came[ROWS] = {}, fraction = 0;
    for (uint32_t j = 4 * (threadIdx.x % PERI_WARP); j < p.depth; j += 4 * PERI_WARP) {
        four v[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) v[r] = load_four(rows[r], j, dim, wide);
        const four centre = load_four(p.centre, j, p.depth, true); /* 0 from dim on */
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            __half h[4];
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                float x = v[r].x[e];
                came[r] += x * x;
                x = __fsub_rn(x * factors[r], centre.x[e]) * scale;
                h[e] = __float2half_rn(x);
                float y = __half2float(h[e]), left = fabsf(x - y) + fabsf(x) * rounded;
                fraction = fmaxf(fraction, fabsf(rintf(y) - y));
                halves[r] += y * y;
                residuals[r] += left * left;
            }
            out[r].put(j, h);
        }
    }
    sums s = { fold_rows(halves), fold_rows(residuals), 0, false };
    if (!peri_prepare_squared(p.metric)) s.came = fold_rows(came);
    s.fractions = fraction > 0 || s.residuals > 0;
    return s;
}

/* The same of rows that are read where they lie: nothing is rounded. */
template <typename T>
__device__ sums square_four(const peri_prepare &p, const T *const rows[ROWS], bool wide) {
    float squares[ROWS] = {}, fraction = 0;
    for (uint32_t j = 4 * (threadIdx.x % PERI_WARP); j < p.depth; j += 4 * PERI_WARP) {
        four v[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            v[r] = load_four(rows[r], j, (uint32_t)p.rows.cols, wide);
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                squares[r] += v[r].x[e] * v[r].x[e];
                fraction = fmaxf(fraction, fabsf(rintf(v[r].x[e]) - v[r].x[e]));
            }
    }
    sums s = { fold_rows(squares), 0, 0, fraction > 0 };
    if (!peri_prepare_squared(p.metric)) s.came = s.halves;
    return s;
}

/* Cosine: a row of zeros is as far as can be from all; one so short that its squares are 0 is
 * not. */
template <typename T> __device__ bool all_zeros(const T *row, uint32_t dim) {
    bool zeros = true;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP)
        zeros = zeros && (float)row[j] == 0.0f;
    return __all_sync(PERI_ALL_LANES, zeros);
}

/* The maximum over a block's warps, to *to. */
__device__ void publish(float value, uint32_t *to) {
    __shared__ uint32_t most;
    value = warp_most(value);
    __syncthreads();
    if (threadIdx.x == 0) most = 0;
    __syncthreads();
    if (threadIdx.x % PERI_WARP == 0) atomicMax(&most, __float_as_uint(value));
    __syncthreads();
    if (threadIdx.x == 0 && most > 0) atomicMax(to, most);
}

/* Rows that have no bound: zeros in place of halves, and the term -inf; +inf for a cosine's zeros,
 * and for squared L2, where such a row is far from all but queries as long (certificate.cuh). */
template <typename T>
__device__ void make_unknown(const peri_prepare &p, const T *row, bool is_short, const room &out,
                             float *term) {
    bool far = is_short && all_zeros(row, (uint32_t)p.rows.cols);
    far = far || peri_prepare_squared(p.metric);
    out.clear(p.depth);
    if (threadIdx.x % PERI_WARP == 0) *term = far ? infinity() : -infinity();
}

template <typename T, bool LIES>
__global__ void __launch_bounds__(THREADS)
    make_rows(peri_prepare p, size_t first, size_t count, bool wide, void *__restrict__ out,
              float *__restrict__ terms) {
    if (unneeded(p)) return;
    const float scale = p.stats->scale, norm_most = p.stats->norm_most;
    const bool whole = p.stats->fractions == 0;
    bool fractions = false;
    const bool cosine = p.metric == PERI_COSINE, squared = peri_prepare_squared(p.metric);
    const unsigned lane = threadIdx.x % PERI_WARP, mine = lane / (PERI_WARP / ROWS);
    float norm = 0, residual = 0, came = 0;
    size_t base = ((size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP) * ROWS;
    for (; base < count; base += (size_t)gridDim.x * WARPS * ROWS) {
        const T *rows[ROWS];
        room to[ROWS];
        float factors[ROWS], factor = 1;
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            size_t i = base + r < count ? base + r : base; /* made twice, the same */
            size_t row = p.names == nullptr ? first + i : p.names[first + i];
            rows[r] = peri_row<T>(p.rows.data, p.rows.stride_bytes, row);
            to[r] = room(out, i, p.depth, p.bytes);
            factors[r] = row_factor(p, row);
            if (r == mine) factor = factors[r];
        }
        sums s = LIES ? square_four(p, rows, wide)
                      : make_four(p, rows, factors, scale, p.centred && !whole ? ROUNDED : 0.0f,
                                  wide, to);
        fractions = fractions || s.fractions;
        /* an element past the range of f16 is an infinity among the squares */
        bool there = base + mine < count;
        bool known = s.halves <= norm_most && s.came <= NORM_MOST && (!cosine || factor > 0);
        if (lane % (PERI_WARP / ROWS) == 0 && there) terms[base + mine] = squared ? s.halves : 0.0f;
        if (known) {
            norm = fmaxf(norm, s.halves);
            residual = fmaxf(residual, s.residuals);
            came = fmaxf(came, s.came);
        }
        unsigned unknown = __ballot_sync(PERI_ALL_LANES, !known && there);
        if (unknown == 0) continue;
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            if (unknown >> (r * (PERI_WARP / ROWS)) & 1u)
                make_unknown(p, rows[r], cosine && factors[r] == 0, to[r], terms + base + r);
    }
    if (whole && fractions) p.stats->row_fractions = 1;
    publish(norm, &p.stats->norm_max);
    publish(residual, &p.stats->residual_max);
    publish(came, &p.stats->length_max);
}

/* ---- queries ------------------------------------------------------------------------------ */

__device__ double fold_double(double sum) {
    for (int offset = 16; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(PERI_ALL_LANES, sum, offset);
    return sum;
}

/* The power of two of a query, and whether it is of whole numbers. */
template <typename Q> __device__ float query_scale(const Q *query, uint32_t dim, bool *whole) {
    float large = 0;
    bool all = true;
    for (uint32_t j = threadIdx.x % PERI_WARP; j < dim; j += PERI_WARP) {
        large = fmaxf(large, fabsf((float)query[j]));
        all = all && is_whole((float)query[j]);
    }
    *whole = __all_sync(PERI_ALL_LANES, all);
    return *whole ? 1.0f : typical_scale(warp_most(large));
}

template <typename Q>
__global__ void __launch_bounds__(THREADS)
    make_queries(peri_prepare p, const void *__restrict__ queries, size_t stride, size_t count,
                 void *__restrict__ out, peri_prepared_query *__restrict__ about) {
    if (unneeded(p)) return;
    const uint32_t dim = (uint32_t)p.rows.cols;
    const bool squared = peri_prepare_squared(p.metric);
    const float row_scale = p.stats->scale;
    size_t i = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; i < count; i += (size_t)gridDim.x * WARPS) {
        const Q *query = peri_row<Q>(queries, stride, i);
        const room to(out, i, p.depth, p.bytes);
        bool whole;
        float scale = query_scale(query, dim, &whole);
        if (squared) scale = row_scale;
        double halves = 0, residuals = 0, came = 0, centre = 0;
        for (uint32_t j = threadIdx.x % PERI_WARP; j < p.depth; j += PERI_WARP) {
            float x = j < dim ? (float)query[j] : 0.0f, c = j < dim ? p.centre[j] : 0.0f;
            came += (double)x * x;
            centre += (double)x * c;
            float v = (squared ? __fsub_rn(x, c) : x) * scale;
            __half h = __float2half_rn(v);
            /* all is exact but for the difference and the half */
            double y = __half2float(h), left = fabs((double)v - y);
            if (squared && c != 0.0f) left += fabs((double)v) * ROUNDED;
            halves += y * y;
            residuals += left * left;
            if (p.bytes)
                to.data[j] = (char)__half2int_rn(h);
            else
                reinterpret_cast<__half *>(to.data)[j] = h;
        }
        halves = fold_double(halves);
        residuals = fold_double(residuals);
        came = fold_double(came);
        centre = fold_double(centre);
        bool proves = halves < 1e30 && came < NORM_MOST;
        if (p.metric == PERI_COSINE) proves = proves && came >= (double)LENGTH_LEAST * LENGTH_LEAST;
        if (!proves) to.clear(p.depth);
        if (threadIdx.x % PERI_WARP != 0) continue;
        peri_prepared_query a = {};
        a.doubt.norm = sqrt(halves);
        a.doubt.residual = sqrt(residuals);
        a.doubt.length = sqrt(came);
        a.doubt.centre_dot = centre;
        a.doubt.scale = squared ? 1.0 : scale;
        a.proves = proves;
        a.whole = whole;
        about[i] = a;
    }
}

/* ---- names -------------------------------------------------------------------------------- */

__device__ unsigned block_sum(unsigned value) {
    __shared__ unsigned sums[WARPS];
    value = __reduce_add_sync(PERI_ALL_LANES, value);
    __syncthreads();
    if (threadIdx.x % PERI_WARP == 0) sums[threadIdx.x / PERI_WARP] = value;
    __syncthreads();
    unsigned sum = 0;
    for (unsigned w = 0; w < WARPS; w++) sum += sums[w];
    return sum;
}

__global__ void __launch_bounds__(THREADS)
    count_names(const uint64_t *const *__restrict__ bits, size_t words,
                uint32_t *__restrict__ counts) {
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    unsigned sum = block_sum(at < words ? (unsigned)__popcll(bits[0][at]) : 0u);
    if (threadIdx.x == 0) counts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS)
    write_names(const uint64_t *const *__restrict__ bits, size_t words,
                const uint32_t *__restrict__ counts, uint32_t *__restrict__ names, size_t passing) {
    __shared__ unsigned before[THREADS];
    unsigned sum = 0;
    for (unsigned b = threadIdx.x; b < blockIdx.x; b += THREADS) sum += counts[b];
    size_t base = block_sum(sum);
    size_t word = (size_t)blockIdx.x * THREADS + threadIdx.x;
    uint64_t left = word < words ? bits[0][word] : 0;
    before[threadIdx.x] = (unsigned)__popcll(left);
    __syncthreads();
    for (unsigned step = 1; step < THREADS; step *= 2) { /* Hillis & Steele 1986 */
        unsigned add = threadIdx.x >= step ? before[threadIdx.x - step] : 0;
        __syncthreads();
        before[threadIdx.x] += add;
        __syncthreads();
    }
    base += before[threadIdx.x] - (unsigned)__popcll(left);
    for (; left != 0; left &= left - 1, base++)
        if (base < passing)
            names[base] = (uint32_t)(word * 64 + (unsigned)__ffsll((long long)left) - 1);
}

template <typename T> void begin(cudaStream_t handle, const peri_prepare &p) {
    sample_centre<T><<<p.depth / PERI_WARP, 1024, 0, handle>>>(p);
    sample_scale<T><<<GROUPS, GROUP_ROWS * PERI_WARP, 0, handle>>>(p);
}

} /* namespace */

peri_status peri_prepare_begin(peri_stream *stream, peri_prepare *p) {
    cudaStream_t handle = peri_cuda_handle(stream);
    CU_TRY(stream->device, cudaMemsetAsync(p->stats, 0, sizeof *p->stats, handle));
    p->sample_step = p->total / (GROUPS * GROUP_ROWS);
    if (p->sample_step == 0) p->sample_step = 1;
    switch (p->rows.dtype) {
    case PERI_F32: begin<float>(handle, *p); break;
    case PERI_F16: begin<__half>(handle, *p); break;
    case PERI_I8: begin<int8_t>(handle, *p); break;
    default: begin<uint8_t>(handle, *p); break;
    }
    return peri_cuda_launched(stream);
}

peri_status peri_prepare_rows(peri_stream *stream, const peri_prepare *p, size_t first,
                              size_t count, void *out, float *terms) {
    cudaStream_t handle = peri_cuda_handle(stream);
    if (count == 0) return PERI_OK;
    size_t bytes = 4 * peri_cuda_dtype_bytes(p->rows.dtype);
    bool wide = ((size_t)p->rows.data | p->rows.stride_bytes) % bytes == 0;
    size_t blocks = (count + WARPS * ROWS - 1) / (WARPS * ROWS);
    size_t most = (size_t)peri_cuda_of(stream->device)->multiprocessors * 16;
    unsigned grid = (unsigned)(blocks < most ? blocks : most);
    switch (p->rows.dtype) {
#define ROWS_CASE(NAME, T, LIES)                                                                   \
    case PERI_##NAME:                                                                              \
        if (LIES && out == nullptr)                                                                \
            make_rows<T, LIES><<<grid, THREADS, 0, handle>>>(*p, first, count, wide, out, terms);  \
        else                                                                                       \
            make_rows<T, false><<<grid, THREADS, 0, handle>>>(*p, first, count, wide, out, terms); \
        break;
        ROWS_CASE(F32, float, false)
        ROWS_CASE(F16, __half, true)
        ROWS_CASE(I8, int8_t, true)
        ROWS_CASE(U8, uint8_t, true)
#undef ROWS_CASE
    default: break; /* supports() let none other through */
    }
    return peri_cuda_launched(stream);
}

peri_status peri_prepare_queries(peri_stream *stream, const peri_prepare *p,
                                 const peri_view *queries, void *out, peri_prepared_query *about) {
    cudaStream_t handle = peri_cuda_handle(stream);
    unsigned grid = peri_blocks(queries->rows, WARPS);
    switch (queries->dtype) {
    case PERI_F32:
        make_queries<float><<<grid, THREADS, 0, handle>>>(*p, queries->data, queries->stride_bytes,
                                                          queries->rows, out, about);
        break;
    case PERI_I8:
        make_queries<int8_t><<<grid, THREADS, 0, handle>>>(*p, queries->data, queries->stride_bytes,
                                                           queries->rows, out, about);
        break;
    default:
        make_queries<uint8_t><<<grid, THREADS, 0, handle>>>(
            *p, queries->data, queries->stride_bytes, queries->rows, out, about);
        break;
    }
    return peri_cuda_launched(stream);
}

size_t peri_prepare_names_scratch(size_t rows) {
    size_t words = rows / 64 + 1;
    return (words / THREADS + 1) * sizeof(uint32_t);
}

peri_status peri_prepare_names(peri_stream *stream, const uint64_t *const *bits, size_t rows,
                               uint32_t *names, size_t passing, void *scratch) {
    cudaStream_t handle = peri_cuda_handle(stream);
    size_t words = (rows + 63) / 64;
    if (words == 0) return PERI_OK;
    uint32_t *counts = static_cast<uint32_t *>(scratch);
    unsigned grid = (unsigned)((words + THREADS - 1) / THREADS);
    count_names<<<grid, THREADS, 0, handle>>>(bits, words, counts);
    write_names<<<grid, THREADS, 0, handle>>>(bits, words, counts, names, passing);
    return peri_cuda_launched(stream);
}
