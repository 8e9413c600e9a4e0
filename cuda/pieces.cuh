/* pieces.cuh: canonical sums of several queries and rows at once, with wide loads.
 *
 * A group of 8 lanes holds a row: lane l of it elements 4 l .. 4 l + 3 of every 32, a piece, and
 * so the partial sums 4 l .. 4 l + 3 of the canonical distance: the written order is kept bit for
 * bit while a lane loads 16 bytes of f32, 8 of f16, 4 of i8 and u8. A warp has 4 groups. The fold
 * + 16, + 8, + 4 goes between lanes, + 2 and + 1 inside one; with several sums a lane gives away
 * the half of them that it will not keep, so that each exchange halves the work. i8 and u8 sum 4
 * elements an instruction, as whole numbers in any order.
 *
 * What a row lacks of its last 32 elements counts as 0 on both sides. That changes no sum but the
 * sign of a zero, which no key tells: a zero that is reported is computed again. */
#ifndef PERI_CUDA_PIECES_CUH
#define PERI_CUDA_PIECES_CUH

#include "distance.cuh"

constexpr unsigned PERI_GROUP = 8;  /* lanes that share a row */
constexpr unsigned PERI_GROUPS = 4; /* of a warp */
constexpr unsigned PERI_PIECE = 4;  /* elements */

/* raw: as loaded. PARTS: partial sums of a lane. */
template <typename T> struct peri_piece;
template <> struct peri_piece<float> {
    using raw = float4;
    static constexpr unsigned PARTS = 4;
};
template <> struct peri_piece<__half> {
    using raw = uint2;
    static constexpr unsigned PARTS = 4;
};
template <> struct peri_piece<int8_t> {
    using raw = uint32_t;
    static constexpr unsigned PARTS = 1;
};
template <> struct peri_piece<uint8_t> {
    using raw = uint32_t;
    static constexpr unsigned PARTS = 1;
};

/* Elements at .. at + 3 of a row of `dim` that is aligned to a piece, dim a multiple of 4; they
 * exist when FULL, and are 0 where they don't. */
template <bool FULL, typename T>
__device__ inline typename peri_piece<T>::raw peri_load_piece(const T *row, uint32_t at,
                                                              uint32_t dim) {
    using raw = typename peri_piece<T>::raw;
    if constexpr (FULL) {
        return __ldg(reinterpret_cast<const raw *>(row + at));
    } else {
        raw piece = {};
        if (at < dim) piece = __ldg(reinterpret_cast<const raw *>(row + at));
        return piece;
    }
}

__device__ inline void peri_widen_piece(float4 raw, float *x) {
    x[0] = raw.x;
    x[1] = raw.y;
    x[2] = raw.z;
    x[3] = raw.w;
}
__device__ inline void peri_widen_piece(uint2 raw, float *x) {
    const float2 low = __half22float2(*reinterpret_cast<const __half2 *>(&raw.x));
    const float2 high = __half22float2(*reinterpret_cast<const __half2 *>(&raw.y));
    x[0] = low.x;
    x[1] = low.y;
    x[2] = high.x;
    x[3] = high.y;
}

/* sums of f32 and f16 rows += one piece of each side. */
template <int SUM, typename T>
__device__ inline void peri_piece_step(float *sums, float4 q, typename peri_piece<T>::raw raw) {
    float x[PERI_PIECE];
    peri_widen_piece(raw, x);
    sums[0] = peri_step<SUM>(sums[0], q.x, x[0]);
    sums[1] = peri_step<SUM>(sums[1], q.y, x[1]);
    sums[2] = peri_step<SUM>(sums[2], q.z, x[2]);
    sums[3] = peri_step<SUM>(sums[3], q.w, x[3]);
}

/* The same of i8 and u8. Differences are taken of numbers that are moved up to 0..255. */
template <int SUM, typename T>
__device__ inline void peri_piece_step(int *sums, uint32_t q, uint32_t x) {
    constexpr bool below_zero = T(-1) < T(0);
    if (SUM == PERI_SUM_PRODUCTS) {
        sums[0] = below_zero ? __dp4a((int)q, (int)x, sums[0])
                             : (int)__dp4a(q, x, (unsigned)sums[0]);
        return;
    }
    if (SUM == PERI_SUM_BITS) {
        sums[0] += __popc(q ^ x);
        return;
    }
    if (below_zero) q ^= 0x80808080u, x ^= 0x80808080u;
    const unsigned apart = __vabsdiffu4(q, x);
    sums[0] = (int)__dp4a(apart, SUM == PERI_SUM_ABSOLUTES ? 0x01010101u : apart,
                          (unsigned)sums[0]);
}

/* ---- the fold ----------------------------------------------------------------------------- */

/* Sums that a lane holds after the fold of COUNT of a group. */
__host__ __device__ constexpr unsigned peri_folded(unsigned count) {
    return count > PERI_GROUP ? count / PERI_GROUP : 1;
}

/* Which of them: sum peri_fold_first + i is values[i]; with COUNT below 8 several lanes hold the
 * same, and the one with the lowest number owns it. */
template <unsigned COUNT> __device__ inline unsigned peri_fold_first(unsigned lane) {
    unsigned first = 0, half = COUNT / 2;
    for (unsigned mask = PERI_GROUP / 2; mask > 0 && half > 0; mask /= 2, half /= 2)
        if (lane & mask) first += half;
    return first;
}
template <unsigned COUNT> __device__ inline bool peri_fold_owner(unsigned lane) {
    constexpr unsigned HOLDERS = COUNT >= PERI_GROUP ? 1 : PERI_GROUP / COUNT;
    return lane % HOLDERS == 0;
}

template <unsigned COUNT, unsigned PARTS, unsigned MASK, typename S>
__device__ inline void peri_fold_step(S (*sums)[PARTS]) {
    if constexpr (MASK > 0) {
        const bool upper = threadIdx.x & MASK;
        constexpr unsigned KEPT = COUNT > 1 ? COUNT / 2 : 1;
#pragma unroll
        for (unsigned i = 0; i < KEPT; i++)
#pragma unroll
            for (unsigned p = 0; p < PARTS; p++) {
                S mine = sums[i][p], given = sums[i][p];
                if (COUNT > 1) {
                    given = upper ? sums[i][p] : sums[i + KEPT][p];
                    mine = upper ? sums[i + KEPT][p] : sums[i][p];
                }
                sums[i][p] = peri_add(mine, __shfl_xor_sync(PERI_ALL_LANES, given, MASK));
            }
        peri_fold_step<KEPT, PARTS, MASK / 2>(sums);
    }
}

/* COUNT (a power of two) sums of a group into peri_folded(COUNT) a lane; values as f32. */
template <unsigned COUNT, unsigned PARTS, typename S>
__device__ inline void peri_fold_pieces(S (*sums)[PARTS], float *values) {
    peri_fold_step<COUNT, PARTS, PERI_GROUP / 2>(sums);
#pragma unroll
    for (unsigned i = 0; i < peri_folded(COUNT); i++) {
        S sum = sums[i][0];
        if constexpr (PARTS == 4)
            sum = peri_add(peri_add(sums[i][0], sums[i][2]), peri_add(sums[i][1], sums[i][3]));
        values[i] = peri_sum_value(sum);
    }
}

/* DEEP pieces of each of QUERIES queries and ROWS rows, from element `at` on; those of the rows are
 * loaded before the first is used. */
template <typename T, int SUM, unsigned QUERIES, unsigned ROWS, unsigned DEEP, bool FULL,
          typename S, unsigned PARTS>
__device__ inline void peri_pieces_add(const void *const *queries, const T *const *rows,
                                       uint32_t at, uint32_t dim, S (*sums)[PARTS]) {
    using Query = typename peri_row_types<T>::query;
    constexpr unsigned STRIDE = PERI_GROUP * PERI_PIECE;
    typename peri_piece<T>::raw x[DEEP][ROWS];
#pragma unroll
    for (unsigned a = 0; a < DEEP; a++)
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            x[a][r] = peri_load_piece<FULL>(rows[r], at + a * STRIDE, dim);
#pragma unroll
    for (unsigned a = 0; a < DEEP; a++)
#pragma unroll
        for (unsigned q = 0; q < QUERIES; q++) {
            const auto y = peri_load_piece<FULL>(static_cast<const Query *>(queries[q]),
                                                 at + a * STRIDE, dim);
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++)
                peri_piece_step<SUM, T>(sums[q * ROWS + r], y, x[a][r]);
        }
}

/* Canonical sums of QUERIES queries and a group's ROWS rows, sum q * ROWS + r of query q and row r,
 * folded as peri_fold_pieces says. */
template <typename T, int SUM, unsigned QUERIES, unsigned ROWS, unsigned DEEP>
__device__ inline void peri_piece_sums(const void *const *queries, const T *const *rows,
                                       uint32_t dim, float *values) {
    using S = typename peri_row_types<T>::sum;
    constexpr unsigned PARTS = peri_piece<T>::PARTS, STRIDE = PERI_GROUP * PERI_PIECE;
    S sums[QUERIES * ROWS][PARTS];
#pragma unroll
    for (unsigned i = 0; i < QUERIES * ROWS * PARTS; i++) sums[i / PARTS][i % PARTS] = 0;
    uint32_t at = threadIdx.x % PERI_GROUP * PERI_PIECE;
    const uint32_t full = dim - dim % (DEEP * STRIDE);
    for (; at < full; at += DEEP * STRIDE)
        peri_pieces_add<T, SUM, QUERIES, ROWS, DEEP, true>(queries, rows, at, dim, sums);
    for (; at < dim; at += STRIDE)
        peri_pieces_add<T, SUM, QUERIES, ROWS, 1, false>(queries, rows, at, dim, sums);
    peri_fold_pieces<QUERIES * ROWS>(sums, values);
}

/* The same of one query, where rows or the query are not aligned to pieces: a group's rows after
 * another's, by the whole warp. */
template <typename T, int SUM, unsigned ROWS>
__device__ inline void peri_narrow_sums(const void *query, const T *const *rows, uint32_t dim,
                                        float *value) {
    using Query = typename peri_row_types<T>::query;
    using S = typename peri_row_types<T>::sum;
    const Query *q = static_cast<const Query *>(query);
    const unsigned lane = threadIdx.x % PERI_WARP;
    const unsigned mine = peri_fold_first<ROWS>(lane % PERI_GROUP);
    static_assert(peri_folded(ROWS) == 1, "a lane holds one sum");
    for (unsigned group = 0; group < PERI_GROUPS; group++) {
        const T *x[ROWS];
        S sums[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            x[r] = reinterpret_cast<const T *>(__shfl_sync(
                PERI_ALL_LANES, reinterpret_cast<uintptr_t>(rows[r]), group * PERI_GROUP));
            sums[r] = 0;
        }
        for (uint32_t j = lane; j < dim; j += PERI_WARP) {
            const S y = peri_widen(q[j]);
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++)
                sums[r] = peri_step<SUM>(sums[r], y, peri_widen(x[r][j]));
        }
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            const S sum = peri_fold(sums[r]);
            if (lane / PERI_GROUP == group && mine == r) *value = peri_sum_value(sum);
        }
    }
}

/* Whether loads of whole pieces are right for rows of `view`. */
static inline bool peri_pieces_fit(const peri_view *view, size_t element_bytes) {
    const size_t bytes = PERI_PIECE * element_bytes;
    return view->cols % PERI_PIECE == 0 && ((size_t)view->data | view->stride_bytes) % bytes == 0;
}

#endif
