/* codes.h: codes of the rows of a test: of 8 bits, and packed ones that stand for nothing. */
#ifndef PERIGEE_SPEC_CODES_H
#define PERIGEE_SPEC_CODES_H

#include "core/code.h"
#include "operate.h"

/* Steps that are no power of two, one column constant, and a range that cuts some values off. */
static inline peri_codes_view test_codes(const peri_view *rows, peri_metric metric,
                                         const float *lengths) {
    size_t dim = rows->cols, cols = (dim + 31) / 32 * 32;
    float *scale = test_new(3 * dim, sizeof *scale), *row = test_new(dim, sizeof *row);
    peri_codes_view codes = {
        .rows = *rows, .low = scale, .step = scale + dim, .scale = scale + 2 * dim
    };
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

/* Random numbers, one row of no scale and one of an infinite one; beside the links of the graph
 * too, when there is one. */
static inline peri_codes_view test_packed_codes(const peri_view *rows, uint32_t bits,
                                                const uint32_t *graph, size_t degree) {
    size_t dim = (rows->cols + 31) / 32 * 32, n = rows->rows;
    size_t code_bytes = peri_packed_code_bytes(dim, bits), block;
    float *frame = test_new(5 * dim, sizeof *frame);
    peri_codes_view codes = {
        .rows = *rows, .bits = bits, .dim = (uint32_t)dim, .center = frame, .signs = frame + dim
    };
    for (size_t j = 0; j < 5 * dim; j++) {
        float x = test_uniform(71, j);
        frame[j] = j < dim ? x * 0.1f : x < 0 ? -1.0f : 1.0f;
    }
    codes.rows.cols = codes.rows.stride_bytes = peri_packed_row_bytes(dim, bits);
    codes.rows.dtype = PERI_U8;
    codes.rows.data = test_new(n * codes.rows.cols, 1);
    for (size_t r = 0; r < n; r++) {
        uint8_t *row = peri_view_row(&codes.rows, r);
        peri_packed_factors factors = { test_uniform(72, r) * 9, 1 + test_uniform(73, r) };
        for (size_t b = 0; b < code_bytes; b++)
            row[b] = (uint8_t)peri_random_below(74, r * code_bytes + b, 256);
        if (r == 5) factors.scale = 0;
        if (r == 6) factors.scale = INFINITY;
        memcpy(row + code_bytes, &factors, sizeof factors);
    }
    if (graph == NULL) return codes;
    block = peri_packed_block(dim, bits, degree);
    uint8_t *linked = test_new(n * block, 1);
    memset(linked, 0, n * block);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < degree && graph[r * degree + i] != PERI_SLOT_NONE; i++)
            peri_packed_put_link(dim, bits, peri_view_row(&codes.rows, graph[r * degree + i]), i,
                                 linked + r * block);
    codes.linked = linked;
    return codes;
}

static inline void test_codes_free(peri_codes_view *codes) {
    free(codes->rows.data);
    free((void *)(uintptr_t)codes->low);
    free((void *)(uintptr_t)codes->center);
    free((void *)(uintptr_t)codes->linked);
}

#endif
