/* proof.cuh: the certificate (certificate.cuh) of a query, with what was prepared of the rows and
 * of itself: whether its answer is proved, and if not, which rows may still be nearer. */
#ifndef PERI_CUDA_PROOF_CUH
#define PERI_CUDA_PROOF_CUH

#include "coarse.cuh"
#include "prepare.cuh"
#include "select.cuh"

/* What is known of the rows whose canonical value is `value` or less. */
struct peri_proof {
    peri_doubt_rows rows;
    bool known; /* else nothing is proved */
    bool
        exact; /* coarse values are canonical ones less the query's own square: in the same order */
};

__device__ inline peri_proof peri_proof_of(peri_metric metric, uint32_t dim,
                                           const peri_prepared_stats &s,
                                           const peri_prepared_query &about, float value) {
    const double above = 1.0 + 4 * peri_doubt_sum(dim); /* of f32 sums: more than their roundings */
    const bool whole = about.whole != 0 && s.fractions == 0 && s.row_fractions == 0;
    peri_proof proof = {};
    peri_doubt_rows *rows = &proof.rows;
    proof.known = about.proves != 0;
    rows->norm = sqrt((double)__uint_as_float(s.norm_max)) * above;
    rows->residual = sqrt((double)__uint_as_float(s.residual_max)) * above;
    rows->length = sqrt((double)__uint_as_float(s.length_max)) * above;
    rows->scale = s.scale;
    if (!whole) rows->residual += 1e-30; /* what underflow took */
    if (metric == PERI_COSINE)           /* 1 / |x| and the product with it */
        rows->residual += rows->scale * (peri_doubt_sum(dim) + 4 * PERI_DOUBT_U);
    if (peri_prepare_squared(metric) && !peri_doubt_near(dim, rows, &about.doubt, value))
        proof.known = false;
    proof.exact = whole && peri_doubt_none(rows, &about.doubt);
    return proof;
}

/* Whether `value` is below the canonical values of all rows whose coarse value is `last` or more.
 */
__device__ inline bool peri_proved(peri_metric metric, uint32_t dim, const peri_prepared_stats &s,
                                   const peri_prepared_query &about, float last, float value) {
    if (!(last > -__int_as_float(0x7F800000))) return false;
    const peri_proof proof = peri_proof_of(metric, dim, s, about, value);
    if (!proof.known || proof.exact) return proof.known;
    return (double)value < peri_certificate(metric, dim, &proof.rows, &about.doubt, last);
}

/* As peri_proved(), of f32 rows that the tensor cores read where they lie. Their squared lengths
 * are sums of half of a row, or of a lane's share. */
__device__ inline bool peri_proved_floats(peri_metric metric, uint32_t dim,
                                          const peri_coarse_norms &norms,
                                          const peri_prepared_query &about, float last,
                                          float value) {
    if (about.proves == 0 || !(last > -__int_as_float(0x7F800000))) return false;
    peri_doubt_rows rows = {};
    rows.scale = 1;
    rows.term = (dim / 2 + 16) * PERI_DOUBT_U;
    rows.length = sqrt((double)__uint_as_float(norms.max) * (1 + 2 * rows.term));
    rows.norm = PERI_COARSE_LENGTH_MOST;
    if (!peri_prepare_squared(metric))
        rows.norm = rows.length;
    else
        (void)peri_doubt_near(dim, &rows, &about.doubt, value);
    if (!(rows.norm < PERI_COARSE_LENGTH_MOST)) return false; /* a row without a term may be near */
    rows.norm = fmin(rows.norm, rows.length);
    rows.residual = 0;
    rows.apart = (norms.parts != 0 ? rows.norm * 0x1p-10 : 0) + 1e-30; /* what underflow took */
    rows.norm += rows.apart;
    return (double)value < peri_certificate(metric, dim, &rows, &about.doubt, last);
}

/* The least coarse value, nearly, beyond which every row has a canonical value above `value`, as
 * the upper half of a key; 0 when there is none. A warp tries 32 at a time, so that the certificate
 * has no inverse that could be wrong. All lanes call. */
__device__ inline uint32_t peri_proof_reach(peri_metric metric, uint32_t dim,
                                            const peri_prepared_stats &s,
                                            const peri_prepared_query &about, float value) {
    constexpr uint32_t CLOSE = 64; /* steps of f32 that are not worth another round */
    const uint32_t lane = threadIdx.x % PERI_WARP;
    const uint32_t most = __float_as_uint(3e38f) | 0x80000000u;
    uint32_t low = ~__float_as_uint(-3e38f), high = most;
    const peri_proof proof = peri_proof_of(metric, dim, s, about, value);
    if (!proof.known) return 0;
    for (bool first = true; first || high - low > CLOSE; first = false) {
        const uint32_t step = (high - low) / PERI_WARP, mine = high - step * (PERI_WARP - 1 - lane);
        const double last = peri_key_value((uint64_t)mine << 32);
        const unsigned beyond = __ballot_sync(
            PERI_ALL_LANES,
            (double)value < peri_certificate(metric, dim, &proof.rows, &about.doubt, last));
        if (first && beyond >> (PERI_WARP - 1) == 0) return 0;
        /* the last lane that doesn't hold, and the one after it, which does */
        const unsigned holds = (unsigned)__clz((int)~beyond);
        high -= step * (holds - 1);
        if (holds < PERI_WARP) low = high - step;
    }
    return high;
}

#endif
