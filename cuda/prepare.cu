/* prepare: rows and queries for the coarse pass.
 *
 * rows [n, d] f32 f16 i8 u8 | centre [depth] f32 | out [n, depth] f16 | terms [n] f32
 * Sample: 512 rows in 32 groups. The centre of a column is the mean of the middle half of its
 * groups' means; the largest element and the longest row are the medians of the groups' largest.
 * Rows of whole bytes are only padded, and used as such.
 * Rows: half a warp a row, 16 bytes a lane, four rows at a time; bound by memory, n * (d * bytes +
 * 2 * depth). Whether numbers are whole is asked only where the sample is of whole numbers. Maxima
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

/* A lane's part of a row in one step: a load of 16 bytes, of bytes 8. */
template <typename T> struct piece {
    static constexpr unsigned COUNT = sizeof(T) == 4 ? 4 : 8;
    using word = uint4;
};
template <> struct piece<int8_t> {
    static constexpr unsigned COUNT = 8;
    using word = uint2;
};
template <> struct piece<uint8_t> : piece<int8_t> {};

template <typename T> union piece_of {
    typename piece<T>::word all;
    T x[piece<T>::COUNT];
    __device__ piece_of() {}
};

/* Elements j .. j + COUNT - 1 of a row, 0 from `dim` on. WIDE: rows lie and end at pieces. */
template <bool WIDE, typename T>
__device__ piece_of<T> load_piece(const T *row, uint32_t j, uint32_t dim) {
    piece_of<T> out;
    if constexpr (WIDE) {
        out.all = {};
        if (j < dim) out.all = __ldg(reinterpret_cast<const typename piece<T>::word *>(row + j));
    } else {
#pragma unroll
        for (unsigned e = 0; e < piece<T>::COUNT; e++)
            out.x[e] = j + e < dim ? row[j + e] : (T)0.0f;
    }
    return out;
}

constexpr unsigned ROW_LANES = 16;               /* of a row; */
constexpr unsigned ROWS = 4;                     /* so many rows each, loads in flight together */
constexpr unsigned WARP_ROWS = 2 * ROWS;         /* a warp, at a time; row m of them ends up in */
constexpr unsigned OWN_LANES = ROW_LANES / ROWS; /* these lanes from OWN_LANES * m on */

/* Of ROWS values a lane, the sum of each row's over its lanes, to the row's own lanes. */
__device__ float fold_rows(const float v[ROWS]) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    const bool high = (lane & 8) != 0, odd = (lane & 4) != 0;
    float a = (high ? v[2] : v[0]) + __shfl_xor_sync(PERI_ALL_LANES, high ? v[0] : v[2], 8);
    float b = (high ? v[3] : v[1]) + __shfl_xor_sync(PERI_ALL_LANES, high ? v[1] : v[3], 8);
    float c = (odd ? b : a) + __shfl_xor_sync(PERI_ALL_LANES, odd ? a : b, 4);
    c += __shfl_xor_sync(PERI_ALL_LANES, c, 2);
    return c + __shfl_xor_sync(PERI_ALL_LANES, c, 1);
}

/* Squares in two sums, so that none has more roundings than a canonical sum: certificate.cuh. */
struct squares {
    float even, odd;

    __device__ void add(unsigned e, float x) {
        if (e % 2 == 0)
            even += x * x;
        else
            odd += x * x;
    }
};

__device__ float fold_rows(const squares v[ROWS]) {
    float sums[ROWS];
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) sums[r] = v[r].even + v[r].odd;
    return fold_rows(sums);
}

/* How far a half is from a whole number; 0 of what is none. */
__device__ float fraction_of(float x) {
    constexpr float LAST = 12582912.0f; /* 1.5 * 2^23: numbers around it are whole */
    return fabsf(__fsub_rn(__fsub_rn(__fadd_rn(x, LAST), LAST), x));
}

/* What is prepared of a row, or of a query: elements at `data`, halves or bytes. */
struct room {
    char *data; /* NULL: nothing is written */
    bool bytes;

    __device__ room(void *base, size_t row, uint32_t depth, bool bytes)
        : data(base == nullptr ? nullptr
                               : static_cast<char *>(base) + row * depth * (bytes ? 1 : 2)),
          bytes(bytes) {}
    /* That of a row `rows` further. */
    __device__ room after(unsigned rows, uint32_t depth) const {
        return room(data, rows, depth, bytes);
    }
    template <unsigned COUNT> __device__ void put(uint32_t j, const __half (&h)[COUNT]) const {
        if (data == nullptr) return;
#pragma unroll
        for (unsigned at = 0; at < COUNT; at += 4) {
            if (bytes) {
                uint32_t word = 0;
#pragma unroll
                for (unsigned e = 0; e < 4; e++)
                    word |= (uint32_t)(uint8_t)__half2int_rn(h[at + e]) << (8 * e);
                *reinterpret_cast<uint32_t *>(data + j + at) = word;
                continue;
            }
            union {
                uint2 all;
                __half2 x[2];
            } word;
            word.x[0] = __halves2half2(h[at], h[at + 1]);
            word.x[1] = __halves2half2(h[at + 2], h[at + 3]);
            *reinterpret_cast<uint2 *>(data + 2 * (j + at)) = word.all;
        }
    }
    __device__ void clear(uint32_t depth) const {
        if (data == nullptr) return;
        uint32_t words = depth * (bytes ? 1 : 2) / 4;
        for (uint32_t w = threadIdx.x % PERI_WARP; w < words; w += PERI_WARP)
            reinterpret_cast<uint32_t *>(data)[w] = 0;
    }
};

/* What a row's own lanes know of it. */
struct sums {
    float halves, residuals, came; /* squares of Y, of dX, of x */
    bool fractions;                /* in the lane's own elements, or its row's; where asked */
};

/* How rows are made, the same for all. */
struct making {
    float scale, rounded; /* `rounded` of an element: what its difference may be off */
    bool whole;           /* fractions are asked for */
};

/* The first `there` rows go to `out` and on. */
template <bool WIDE, typename T>
__device__ sums make_pieces(const peri_prepare &p, const making &m, const T *const rows[ROWS],
                            const float factors[ROWS], const room &out, unsigned there) {
    constexpr unsigned COUNT = piece<T>::COUNT;
    const uint32_t dim = (uint32_t)p.rows.cols;
    const bool squared = peri_prepare_squared(p.metric);
    squares halves[ROWS] = {}, residuals[ROWS] = {}, came[ROWS] = {};
    float fraction = 0;
    for (uint32_t j = COUNT * (threadIdx.x % ROW_LANES); j < p.depth; j += COUNT * ROW_LANES) {
        piece_of<T> v[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) v[r] = load_piece<WIDE>(rows[r], j, dim);
        float centre[COUNT]; /* 0 from dim on */
#pragma unroll
        for (unsigned e = 0; e < COUNT; e += 4)
            *reinterpret_cast<float4 *>(centre + e) = __ldg(
                reinterpret_cast<const float4 *>(p.centre + j + e));
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            __half h[COUNT];
#pragma unroll
            for (unsigned e = 0; e < COUNT; e++) {
                float x = (float)v[r].x[e];
                if (!squared) came[r].add(e, x);
                x = __fsub_rn(x * factors[r], centre[e]) * m.scale;
                h[e] = __float2half_rn(x);
                float y = __half2float(h[e]), left = fabsf(x - y) + fabsf(x) * m.rounded;
                if (m.whole) fraction = fmaxf(fraction, fraction_of(y));
                halves[r].add(e, y);
                residuals[r].add(e, left);
            }
            if (r < there) out.after(r, p.depth).put(j, h);
        }
    }
    sums s = { fold_rows(halves), fold_rows(residuals), 0, false };
    if (!squared) s.came = fold_rows(came);
    s.fractions = fraction > 0 || s.residuals > 0;
    return s;
}

/* The same of rows that are read where they lie: nothing is rounded. */
template <bool WIDE, typename T>
__device__ sums square_pieces(const peri_prepare &p, const making &m, const T *const rows[ROWS]) {
    constexpr unsigned COUNT = piece<T>::COUNT;
    squares all[ROWS] = {};
    float fraction = 0;
    for (uint32_t j = COUNT * (threadIdx.x % ROW_LANES); j < p.depth; j += COUNT * ROW_LANES) {
        piece_of<T> v[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            v[r] = load_piece<WIDE>(rows[r], j, (uint32_t)p.rows.cols);
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
#pragma unroll
            for (unsigned e = 0; e < COUNT; e++) {
                float x = (float)v[r].x[e];
                all[r].add(e, x);
                if (sizeof(T) > 1 && m.whole) fraction = fmaxf(fraction, fraction_of(x));
            }
    }
    sums s = { fold_rows(all), 0, 0, fraction > 0 };
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
__global__ void __launch_bounds__(THREADS, LIES || sizeof(T) == 4 ? 3 : 2)
    make_rows(peri_prepare p, size_t first, size_t count, bool wide, void *__restrict__ out,
              float *__restrict__ terms) {
    if (unneeded(p)) return;
    const float norm_most = p.stats->norm_most;
    const bool whole = p.stats->fractions == 0;
    const making m = { p.stats->scale, p.centred && !whole ? ROUNDED : 0.0f, whole };
    const bool cosine = p.metric == PERI_COSINE, squared = peri_prepare_squared(p.metric);
    const unsigned lane = threadIdx.x % PERI_WARP, own = lane % ROW_LANES / OWN_LANES;
    bool fractions = false;
    float norm = 0, residual = 0, came = 0;
    size_t base = ((size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP) * WARP_ROWS;
    for (; base < count; base += (size_t)gridDim.x * WARPS * WARP_ROWS) {
        const size_t at = base + lane / ROW_LANES * ROWS;
        const T *rows[ROWS];
        float factors[ROWS], factor = 1;
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            size_t i = at + r < count ? at + r : count - 1; /* seen twice, written once */
            size_t row = p.names == nullptr ? first + i : p.names[first + i];
            rows[r] = peri_row<T>(p.rows.data, p.rows.stride_bytes, row);
            factors[r] = row_factor(p, row);
            if (r == own) factor = factors[r];
        }
        const room to(out, at, p.depth, p.bytes);
        const unsigned there = at >= count ? 0 : (unsigned)min(count - at, (size_t)ROWS);
        sums s = LIES   ? wide ? square_pieces<true>(p, m, rows) : square_pieces<false>(p, m, rows)
                   : wide ? make_pieces<true>(p, m, rows, factors, to, there)
                        : make_pieces<false>(p, m, rows, factors, to, there);
        fractions = fractions || s.fractions;
        /* an element past the range of f16 is an infinity among the squares */
        bool exists = base + lane / OWN_LANES < count;
        bool known = exists && s.halves <= norm_most && s.came <= NORM_MOST &&
                     (!cosine || factor > 0);
        if (lane % OWN_LANES == 0 && exists)
            terms[base + lane / OWN_LANES] = squared ? s.halves : 0.0f;
        if (known) {
            norm = fmaxf(norm, s.halves);
            residual = fmaxf(residual, s.residuals);
            came = fmaxf(came, s.came);
        }
        unsigned unknown = __ballot_sync(PERI_ALL_LANES, !known && exists);
        for (unsigned i = 0; unknown != 0; i++, unknown >>= OWN_LANES) {
            if ((unknown & 1u) == 0) continue;
            size_t row = p.names == nullptr ? first + base + i : p.names[first + base + i];
            make_unknown(p, peri_row<T>(p.rows.data, p.rows.stride_bytes, row),
                         cosine && row_factor(p, row) == 0, room(out, base + i, p.depth, p.bytes),
                         terms + base + i);
        }
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
    size_t bytes = peri_cuda_dtype_bytes(p->rows.dtype), piece_bytes = bytes == 1 ? 8 : 16;
    bool wide = ((size_t)p->rows.data | p->rows.stride_bytes | p->rows.cols * bytes) %
                    piece_bytes ==
                0;
    size_t blocks = (count + WARPS * WARP_ROWS - 1) / (WARPS * WARP_ROWS);
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
