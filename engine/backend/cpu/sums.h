/* sums.h: the tables of sum kernels, one an instruction set. */
#ifndef PERI_BACKEND_CPU_SUMS_H
#define PERI_BACKEND_CPU_SUMS_H

#include "backend/cpu/distances.h"

#define PERI_SUMS_DTYPES 4 /* f32 f16 i8 u8, in the order of peri_dtype */

/* What an element adds to its sum. */
typedef enum peri_sums_form { PERI_SUMS_DOT, PERI_SUMS_SQUARED, PERI_SUMS_L1 } peri_sums_form;

typedef struct peri_sums_table {
    peri_sums_fn sqeuclidean[PERI_SUMS_DTYPES];
    peri_sums_fn dot[PERI_SUMS_DTYPES];
    peri_sums_fn l1[PERI_SUMS_DTYPES];
    peri_sums_fn hamming;      /* u8 */
    peri_sums_fn code_product; /* core/code.h: weights of a query and u8 codes, dim % 32 == 0 */
} peri_sums_table;

extern const peri_sums_table peri_sums_scalar, peri_sums_avx2, peri_sums_avx512, peri_sums_neon;

/* The table of the instruction set in use. */
const peri_sums_table *peri_sums_chosen(void);

/* How many rows ahead of the sums their bytes are asked for, and at most how many bytes of each:
 * the hardware follows a long row by itself (taste; a list of 32 rows of 512 bytes stays in L1). */
#define PERI_SUMS_PREFETCH_BYTES 512u

static inline const char *peri_sums_row(const void *rows, size_t stride, const uint32_t *slots,
                                        size_t i) {
    return (const char *)rows + (slots == NULL ? i : slots[i]) * stride;
}

static inline void peri_sums_prefetch(const char *row, size_t bytes) {
    size_t stop = bytes < PERI_SUMS_PREFETCH_BYTES ? bytes : PERI_SUMS_PREFETCH_BYTES;
    for (size_t at = 0; at < stop; at += 64) __builtin_prefetch(row + at);
}

#endif
