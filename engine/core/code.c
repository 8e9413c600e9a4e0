/* code.c: encoding rows and queries for a walk. See code.h. */
#include "core/code.h"

#include <math.h>
#include <string.h>

#include "core/distance.h"

void peri_code_row(const peri_codes_view *codes, const float *row, size_t dim, uint8_t *out) {
    const float *low = codes->low, *scale = codes->scale;
    for (size_t j = 0; j < dim; j++) {
        float at = (row[j] - low[j]) * scale[j];
        at = at > 0.0f ? at : 0.0f; /* NaN (Inf * 0) too */
        at = at < 255.0f ? at : 255.0f;
        out[j] = (uint8_t)(int32_t)(at + 0.5f);
    }
    memset(out + dim, 0, codes->rows.cols - dim);
}

static void encode_weights(const float *step, const float *query, size_t dim, size_t cols,
                           int8_t *out) {
    float most = 0;
    for (size_t j = 0; j < dim; j++) {
        float weight = fabsf(query[j] * step[j]);
        most = weight > most ? weight : most;
    }
    float factor = most > 0 ? PERI_CODE_WEIGHT / most : 0;
    for (size_t j = 0; j < dim; j++) {
        float at = query[j] * step[j] * factor;
        at = at > -PERI_CODE_WEIGHT ? at : -PERI_CODE_WEIGHT;
        at = at < PERI_CODE_WEIGHT ? at : PERI_CODE_WEIGHT;
        int32_t up = (int32_t)(at + 4096.5f), high = (up + 32) >> 6; /* up = t + 4096 */
        out[j] = (int8_t)(high - 64);
        out[cols + j] = (int8_t)(up - 64 * high);
    }
    memset(out + dim, 0, cols - dim);
    memset(out + cols + dim, 0, cols - dim);
}

void peri_code_query(const peri_codes_view *codes, peri_metric metric, const float *query,
                     size_t dim, uint8_t *out) {
    if (peri_code_squared(metric))
        peri_code_row(codes, query, dim, out);
    else
        encode_weights(codes->step, query, dim, codes->rows.cols, (int8_t *)out);
}

float peri_code_distance(peri_metric metric, const uint8_t *query, const uint8_t *row,
                         uint32_t cols) {
    if (peri_code_squared(metric)) return peri_canonical_sqeuclidean(PERI_U8, query, row, cols);
    const int8_t *weights = (const int8_t *)query;
    int32_t high = 0, low = 0;
    for (uint32_t j = 0; j < cols; j++) {
        high += weights[j] * row[j];
        low += weights[cols + j] * row[j];
    }
    return peri_code_product(high, low);
}
