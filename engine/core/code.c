/* code.c: encoding rows and queries for a walk, and the values of codes. See code.h. */
#include "core/code.h"

#include <math.h>
#include <string.h>

#include "core/distance.h"
#include "core/turns.h"

#define MOST_LANES 8u

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

static size_t packed_stride(const peri_codes_view *codes) {
    return peri_round_up(peri_packed_code_bytes(codes->dim, codes->bits), PERI_PACKED_STRIDE);
}

size_t peri_code_query_bytes(const peri_codes_view *codes) {
    if (codes->bits == 0) return 2 * codes->rows.cols;
    /* values, and what is turned: the query widened and turned */
    return sizeof(peri_packed_query) + 8 / codes->bits * packed_stride(codes) +
           2 * sizeof(float) * codes->dim;
}

static float query_element(peri_dtype dtype, const void *query, size_t j) {
    if (dtype == PERI_U8) return ((const uint8_t *)query)[j];
    return dtype == PERI_I8 ? ((const int8_t *)query)[j] : ((const float *)query)[j];
}

/* R q, less the center under squared L2. */
static void turn_query(const peri_codes_view *codes, bool squared, peri_dtype dtype,
                       const void *query, size_t dim, float *wide, float *out) {
    peri_turns turns = peri_turns_of((uint32_t)dim, codes->dim, codes->signs);
    if (dtype != PERI_F32) {
        for (size_t j = 0; j < dim; j++) wide[j] = query_element(dtype, query, j);
        query = wide;
    }
    peri_turns_apply(&turns, query, out);
    if (squared)
        for (size_t j = 0; j < codes->dim; j++) out[j] -= codes->center[j];
}

/* The largest |x[j]|; n is a multiple of MOST_LANES. */
static float largest(const float *x, size_t n) {
    float lanes[MOST_LANES] = { 0 }, most = 0;
    for (size_t j = 0; j < n; j += MOST_LANES)
        for (size_t l = 0; l < MOST_LANES; l++) {
            float size = fabsf(x[j + l]);
            lanes[l] = size > lanes[l] ? size : lanes[l];
        }
    for (size_t l = 0; l < MOST_LANES; l++) most = lanes[l] > most ? lanes[l] : most;
    return most;
}

/* v of every number, in order; `turned` is overwritten with them. */
static int32_t round_values(float *turned, size_t dim, float scale) {
    int32_t *v = (void *)turned, sum = 0;
    for (size_t j = 0; j < dim; j++) {
        float level = turned[j] * scale;
        level = level < 127.0f ? level : 127.0f; /* NaN too */
        level = level > -127.0f ? level : -127.0f;
        int32_t rounded = (int32_t)(level + (level < 0 ? -0.5f : 0.5f));
        memcpy(&v[j], &rounded, sizeof rounded);
        sum += rounded;
    }
    return sum;
}

static void round_query(const peri_codes_view *codes, float *turned, peri_packed_query *out) {
    size_t dim = codes->dim, in_a_byte = 8 / codes->bits;
    float most = largest(turned, dim), scale = most > 0 ? 127.0f / most : 0.0f;
    if (!isfinite(most) || !isfinite(scale)) scale = 0;
    out->half_step = scale > 0 ? most / 127.0f * 0.5f : 0.0f;
    out->sum = 0;
    memset(out->values, 0, in_a_byte * out->stride);
    if (scale == 0) return;
    out->sum = round_values(turned, dim, scale);
    for (size_t s = 0; s < in_a_byte; s++)
        for (size_t b = 0; b < dim / in_a_byte; b++) {
            int32_t v;
            memcpy(&v, &turned[b * in_a_byte + s], sizeof v);
            out->values[s * out->stride + b] = (int8_t)v;
        }
}

static void encode_packed(const peri_codes_view *codes, peri_metric metric, peri_dtype dtype,
                          const void *query, size_t dim, uint8_t *out) {
    peri_packed_query *packed = (void *)out;
    packed->stride = (uint32_t)packed_stride(codes);
    packed->squared = peri_code_squared(metric);
    float *turned = (void *)(packed->values + 8 / codes->bits * packed->stride);
    turn_query(codes, packed->squared, dtype, query, dim, turned + codes->dim, turned);
    round_query(codes, turned, packed);
}

void peri_code_query(const peri_codes_view *codes, peri_metric metric, peri_dtype dtype,
                     const void *query, size_t dim, uint8_t *out) {
    if (codes->bits != 0)
        encode_packed(codes, metric, dtype, query, dim, out);
    else if (peri_code_squared(metric))
        peri_code_row(codes, query, dim, out);
    else
        encode_weights(codes->step, query, dim, codes->rows.cols, (int8_t *)out);
}

float peri_code_value_of(const peri_codes_view *codes, peri_metric metric, const uint8_t *query,
                         const uint8_t *row) {
    const peri_packed_query *packed = (const void *)query;
    uint32_t bits = codes->bits;
    int32_t dot = 0;
    if (bits == 0) return peri_code_distance(metric, query, row, (uint32_t)codes->rows.cols);
    for (size_t j = 0; j < codes->dim; j++) {
        size_t byte = j * bits / 8, number = j % (8 / bits);
        dot += (int32_t)peri_codes_get(row, j, bits) *
               packed->values[number * packed->stride + byte];
    }
    peri_packed_factors factors = peri_packed_row_factors(row,
                                                          peri_packed_code_bytes(codes->dim, bits));
    return peri_packed_value(packed, bits, factors, dot);
}

void peri_packed_put_link(size_t dim, uint32_t bits, const uint8_t *row, size_t link,
                          uint8_t *block) {
    size_t bytes = peri_packed_code_bytes(dim, bits), lane = link % PERI_PACKED_GROUP;
    uint8_t *group = block + link / PERI_PACKED_GROUP * peri_packed_group_bytes(dim, bits);
    uint8_t *codes = group + PERI_PACKED_GROUP * sizeof(peri_packed_factors);
    memcpy(group + 4 * lane, row + bytes, 4);
    memcpy(group + 4 * (PERI_PACKED_GROUP + lane), row + bytes + 4, 4);
    for (size_t w = 0; w < bytes / 4; w++)
        memcpy(codes + 4 * (w * PERI_PACKED_GROUP + lane), row + 4 * w, 4);
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
