/* sq.h: scalar quantization: every column on its own, to 8 or 4 bits or to f16.
 *
 *     code[j] = round((x[j] - low[j]) / step[j]), within 0..2^bits - 1    x'[j] = low[j] + code[j]
 * * step[j]
 *
 * low and step come from the smallest and largest value of the column in a sample, or from
 * quantiles of it (what lies outside is clamped). A constant column has step 0, code 0 and is
 * decoded exactly. f16 has neither: its codes are the halves, little-endian.
 *
 * Codes of 4 bits are packed as core/codes.h says. Threads: immutable once made. */
#ifndef PERI_QUANT_SQ_H
#define PERI_QUANT_SQ_H

#include "core/codes.h"
#include "core/matrix.h"

typedef struct peri_sq {
    peri_context *context; /* not retained */
    uint32_t dim;
    uint32_t bits;           /* 4, 8 or 16: f16 */
    peri_matrix *levels;     /* f32 [2, dim] on the host: low, step; NULL for f16 */
    const float *low, *step; /* its rows */
    float *inverse;          /* [dim] 1 / step, or 0 */
} peri_sq;

static inline size_t peri_sq_row_bytes(uint32_t dim, uint32_t bits) {
    return bits == 16 ? (size_t)dim * 2 : peri_codes_bytes(dim, bits);
}

/* Learns from sample [m, dim] f32 on the host, m > 0. `quantile` in (0, 1]: the share of the
 * values of a column that lies within the levels; 1: all. */
peri_status peri_sq_train(peri_sq *sq, peri_matrix *sample, uint32_t bits, double quantile,
                          size_t threads, const peri_control *control);

/* Takes levels from a file or an index, which are not trusted: shape, finite numbers, step >= 0.
 * `levels` is retained; NULL for f16. PERI_E_CORRUPT. */
peri_status peri_sq_adopt(peri_sq *sq, peri_context *context, uint32_t dim, uint32_t bits,
                          peri_matrix *levels);
void peri_sq_reset(peri_sq *sq);

/* One row: x [dim], code [row bytes]. */
void peri_sq_encode(const peri_sq *sq, const float *x, uint8_t *code);
void peri_sq_decode(const peri_sq *sq, const uint8_t *code, float *x);

#endif
