/* pq_scan.h: what a scan of product-quantized codes is made of, by instruction set.
 *
 * Tables. For a query and a list, T[j][w] says what code w of piece j contributes (the contract is
 * that of peri_op_pq_scan). Codewords are taken transposed, [book][pq_len][words], so that a vector
 * holds several codes of one piece.
 *
 * Codes of 4 bits go through the fast scan (Andre, Kermarrec, Le Scouarnec: Cache locality is not
 * enough: high-performance nearest neighbor search with product quantization fast scan, VLDB 2015;
 * Quicker ADC, PAMI 2019): tables of 16 small whole numbers stay in registers, where one shuffle
 * looks up a code of each of 32 entries. The small numbers are those of T rounded down: to 7 bits,
 * so that the sum of two fits a byte, and sums are of 16 bits; to 8 bits with AVX-512 VBMI, where
 * sums are of 32 (pq_kernels_avx512vbmi.c). What we do differently: a sum is a certified lower
 * bound of the value, so an entry is passed over only when it can't be among the k nearest, and
 * the others get their value from T itself. The answer is exact with respect to T. */
#ifndef PERI_BACKEND_CPU_PQ_SCAN_H
#define PERI_BACKEND_CPU_PQ_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "perigee_backend.h"

#define PERI_PQ_FAST_QUERIES 4u /* that share a load of codes */
#define PERI_PQ_FAST_WORDS 16u
#define PERI_PQ_FAST_GROUPS 8u /* of codes at most, at a time */
#define PERI_PQ_FAST_MOST 127u /* the largest number of a small table: two of them fit a byte */
#define PERI_PQ_FAST_TABLE                                                                         \
    128u /* bytes that small tables of 8 pieces take: the order is whose they are */
#define PERI_PQ_WIDE_TABLE 256u /* bytes that the small table of a piece of a wide code takes */
#define PERI_PQ_PICKED 16u

typedef struct peri_pq_shape {
    uint32_t pq_dim, pq_len, words; /* words: 2^pq_bits */
    uint32_t pq_bits;
    size_t row_bytes;
    bool squared;  /* T of squared L2, else of a dot product */
    bool one_book; /* for all pieces */
} peri_pq_shape;

/* What bounds the words of each piece, U = sign * T: U[j][w] >= lows[j]. Squares are bounded by 0,
 * which is nearly as tight and costs no search for the least. */
typedef struct peri_pq_span {
    float widest;   /* the most that a U is above its low */
    double low_sum; /* of lows */
    double largest; /* at least the sum over j of the largest |T[j][w]| */
} peri_pq_span;

/* The fast scan of codes of 5 to 8 bits: a small table has PERI_PQ_WIDE_TABLE bytes a piece. */
typedef struct peri_pq_wide {
    /* Of a few queries, without T: small[q][j][w] = the square of t[q], piece j, less codeword w,
     * times scales[q], the fraction dropped, `most` at most. words are transposed; norms[j][w] are
     * the squares of codewords; negative numbers are 0. The square is that of t, plus that of the
     * codeword, less twice their product: to rounding of their size. */
    void (*tables)(const peri_pq_shape *shape, const float *words, const float *norms,
                   size_t queries, const float *const *t, const float *scales, uint32_t most,
                   uint8_t *const *small);
    /* small[j][w] of T as shrink of peri_pq_kernels has it. */
    void (*shrink)(const peri_pq_shape *shape, const float *T, const float *lows, float scale,
                   uint32_t most, uint8_t *small);
    /* masks[g] of one query, as `masks` of peri_pq_kernels. */
    void (*masks)(const peri_pq_shape *shape, const uint8_t *codes, size_t groups,
                  const uint8_t *small, uint32_t limit, uint32_t *masks);
    /* S of PERI_PQ_PICKED entries, from T, or, of squares, from t and codewords [words, pq_len] as
     * they come: bit for bit the same. */
    void (*picked)(const peri_pq_shape *shape, const float *T, const uint8_t *const *codes,
                   float *sums);
    void (*direct)(const peri_pq_shape *shape, const float *t, const float *books,
                   const uint8_t *const *codes, float *sums);
} peri_pq_wide;

typedef struct peri_pq_kernels {
    uint32_t most; /* the largest number of a small table */
    /* T [pq_dim, words] of x [pq_dim * pq_len], less the centroid (or NULL) in scratch t of that
     * size, and transposed codewords. Returns the largest of T where that costs nothing, else a
     * negative number. */
    float (*tables)(const peri_pq_shape *shape, const float *x, const float *centroid, float *t,
                    const float *words, float *T);
    /* S of the 32 entries of a group of codes. */
    void (*sums)(const peri_pq_shape *shape, const float *T, const uint8_t *codes, float *sums);
    /* (optional) S of PERI_PQ_PICKED entries of 4-bit codes, by the first byte of each; its others
     * are a group apart. */
    void (*picked)(const peri_pq_shape *shape, const float *T, const uint8_t *const *codes,
                   float *sums);
    void (*spans)(const peri_pq_shape *shape, const float *T, float *lows, peri_pq_span *span);
    /* out[j][w] = (U[j][w] - lows[j]) * scale, the fraction dropped; 16 words. The last
     * PERI_PQ_FAST_TABLE bytes are zeros before where pq_dim is not a multiple of 8. */
    void (*shrink)(const float *T, size_t pq_dim, bool squared, const float *lows, float scale,
                   uint8_t *out);
    /* masks[q * PERI_PQ_FAST_GROUPS + g], bit r: the sum of entry r of group g for query q is at
     * most limits[q]. Tables are those of shrink. */
    void (*masks)(const uint8_t *codes, size_t row_bytes, size_t groups,
                  const uint8_t *const *tables, size_t queries, const uint32_t *limits,
                  uint32_t *masks);
    const peri_pq_wide *wide; /* (optional) */
} peri_pq_kernels;

extern const peri_pq_kernels peri_pq_kernels_scalar;
#if defined(__x86_64__)
extern const peri_pq_kernels peri_pq_kernels_avx2, peri_pq_kernels_avx512,
    peri_pq_kernels_avx512vbmi;
#elif defined(__aarch64__)
extern const peri_pq_kernels peri_pq_kernels_neon;
#endif

const peri_pq_kernels *peri_pq_kernels_chosen(void);
/* For tests: without the instructions that only some CPUs with AVX-512 have. */
void peri_pq_kernels_force_common(bool common);

#endif
