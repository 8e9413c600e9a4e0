/* kmeans_draw.h: rows drawn with a probability in proportion to a weight, their distance.
 *
 * Running sums are kept a block of rows, not a row: one pass over the weights that is not bound by
 * the latency of additions, and a draw looks at one block. The sums are the same bits on every
 * machine: 8 of them run side by side in a block, then fold. */
#ifndef PERI_QUANT_KMEANS_DRAW_H
#define PERI_QUANT_KMEANS_DRAW_H

#include <stddef.h>

#define PERI_DRAW_BLOCK 256u

static inline size_t peri_draw_blocks(size_t rows) {
    return (rows + PERI_DRAW_BLOCK - 1) / PERI_DRAW_BLOCK;
}

/* sums [peri_draw_blocks(rows)] out: of all weights up to the end of each block; one below 0 (what
 * rounding makes of a cosine) counts 0. Returns the last, 0 without rows. */
double peri_draw_fill(const float *weights, size_t rows, double *sums);

/* weights = the smaller of both, in one pass with peri_draw_fill(); `out` may be `weights`. */
double peri_draw_lower(const float *weights, const float *others, size_t rows, float *out,
                       double *sums);

/* The row where the running sum passes `share` (0..1) of the total, which is finite and not 0. */
size_t peri_draw_row(const float *weights, size_t rows, const double *sums, double share);

#endif
