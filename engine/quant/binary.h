/* binary.h: one bit a column: whether the value is above the column's threshold.
 *
 * The threshold is zero, the mean or the median of the column in a sample. A set bit decodes to
 * the mean of the sample's values above it, a clear one to the mean of the others: the two numbers
 * with the least squared error. Where a column has values on one side only, the other side decodes
 * to the threshold. Bit j of a row is bit j % 8 of byte j / 8.
 *
 * Threads: immutable once made. */
#ifndef PERI_QUANT_BINARY_H
#define PERI_QUANT_BINARY_H

#include "core/codes.h"
#include "core/matrix.h"

typedef enum peri_binary_threshold {
    PERI_BINARY_ZERO = 0,
    PERI_BINARY_MEAN = 1,
    PERI_BINARY_MEDIAN = 2, /* the lower one of an even number */
} peri_binary_threshold;

typedef struct peri_binary {
    uint32_t dim;
    peri_matrix *levels;                 /* f32 [3, dim] on the host */
    const float *threshold, *low, *high; /* its rows */
} peri_binary;

/* Learns from sample [m, dim] f32 on the host, m > 0. */
peri_status peri_binary_train(peri_binary *binary, peri_matrix *sample,
                              peri_binary_threshold threshold, size_t threads,
                              const peri_control *control);

/* Takes levels from a file or an index, which are not trusted. Retained. PERI_E_CORRUPT. */
peri_status peri_binary_adopt(peri_binary *binary, uint32_t dim, peri_matrix *levels);
void peri_binary_reset(peri_binary *binary);

/* One row: x [dim], code [ceil(dim / 8)]. */
void peri_binary_encode(const peri_binary *binary, const float *x, uint8_t *code);
void peri_binary_decode(const peri_binary *binary, const uint8_t *code, float *x);

#endif
