/* codes.h: 8-bit codes of the rows of a test. */
#ifndef PERIGEE_SPEC_CODES_H
#define PERIGEE_SPEC_CODES_H

#include "core/code.h"
#include "operate.h"

/* Steps that are no power of two, one column constant, and a range that cuts some values off. */
static inline peri_codes_view test_codes(const peri_view *rows, peri_metric metric,
                                         const float *lengths) {
    size_t dim = rows->cols, cols = (dim + 31) / 32 * 32;
    float *scale = test_new(3 * dim, sizeof *scale), *row = test_new(dim, sizeof *row);
    peri_codes_view codes = { *rows, scale, scale + dim, scale + 2 * dim };
    for (size_t j = 0; j < dim; j++) {
        bool own = metric != PERI_SQEUCLIDEAN;
        float step = own ? (float)(1 + j % 7) * 0.0021f : 0.0063f;
        scale[j] = -0.8f - (float)(j % 3) * 0.03f;
        scale[dim + j] = j == 5 ? 0 : step;
        scale[2 * dim + j] = j == 5 ? 0 : 1 / step;
    }
    codes.rows.data = test_new(rows->rows * cols, 1);
    codes.rows.cols = codes.rows.stride_bytes = cols;
    codes.rows.dtype = PERI_U8;
    for (size_t r = 0; r < rows->rows; r++) {
        const void *from = peri_view_row(rows, r);
        for (size_t j = 0; j < dim; j++) {
            row[j] = rows->dtype == PERI_F16 ? peri_half_to_float(((const uint16_t *)from)[j])
                                             : ((const float *)from)[j];
            if (metric == PERI_COSINE) row[j] /= lengths[r];
        }
        peri_code_row(&codes, row, dim, peri_view_row(&codes.rows, r));
    }
    free(row);
    return codes;
}

static inline void test_codes_free(peri_codes_view *codes) {
    free(codes->rows.data);
    free((void *)(uintptr_t)codes->low);
}

#endif
