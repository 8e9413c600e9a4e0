/* sample.h: the rows that a quantizer learns from. */
#ifndef PERI_QUANT_SAMPLE_H
#define PERI_QUANT_SAMPLE_H

#include "core/matrix.h"

/* At most `most` rows as f32 at the rows' place: all of them in their order, or one of each of
 * `most` equal spans, drawn with the seed. rows [n, d] f32 f16 i8 u8, n > 0. */
peri_status peri_sample_rows(peri_matrix *rows, size_t most, uint64_t seed, peri_matrix **out);

/* Rows as f32 on the host: the matrix itself, retained, when it is that already. */
peri_status peri_host_floats(peri_matrix *rows, peri_matrix **out);

/* Row r of such a matrix. */
static inline const float *peri_float_row(const peri_view *view, size_t r) {
    return (const float *)(const void *)((const char *)view->data + r * view->stride_bytes);
}

#endif
