/* distances.c: from sum kernels to values inside, and the kernels in plain C.
 *
 * A kernel gives the canonical sums of one query and many rows; the step from a sum to a value is
 * the same for all of them and is done here. */
#include "backend/cpu/distances.h"

#include <math.h>

#include "backend/cpu/sums.h"
#include "core/code.h"
#include "core/distance.h"

#define SCALAR_SUMS(name, routine, dtype)                                                          \
    static void name(const void *query, const void *rows, size_t stride, const uint32_t *slots,    \
                     size_t count, uint32_t dim, float *sums) {                                    \
        for (size_t i = 0; i < count; i++)                                                         \
            sums[i] = routine(dtype, query, peri_sums_row(rows, stride, slots, i), dim);           \
    }

SCALAR_SUMS(sqeuclidean_f32, peri_canonical_sqeuclidean, PERI_F32)
SCALAR_SUMS(sqeuclidean_f16, peri_canonical_sqeuclidean, PERI_F16)
SCALAR_SUMS(sqeuclidean_i8, peri_canonical_sqeuclidean, PERI_I8)
SCALAR_SUMS(sqeuclidean_u8, peri_canonical_sqeuclidean, PERI_U8)
SCALAR_SUMS(dot_f32, peri_canonical_dot, PERI_F32)
SCALAR_SUMS(dot_f16, peri_canonical_dot, PERI_F16)
SCALAR_SUMS(dot_i8, peri_canonical_dot, PERI_I8)
SCALAR_SUMS(dot_u8, peri_canonical_dot, PERI_U8)
SCALAR_SUMS(l1_f32, peri_canonical_l1, PERI_F32)
SCALAR_SUMS(l1_f16, peri_canonical_l1, PERI_F16)
SCALAR_SUMS(l1_i8, peri_canonical_l1, PERI_I8)
SCALAR_SUMS(l1_u8, peri_canonical_l1, PERI_U8)

static void hamming(const void *query, const void *rows, size_t stride, const uint32_t *slots,
                    size_t count, uint32_t dim, float *sums) {
    for (size_t i = 0; i < count; i++)
        sums[i] = peri_canonical_hamming(
            query, (const uint8_t *)peri_sums_row(rows, stride, slots, i), dim);
}

static void code_product(const void *query, const void *rows, size_t stride, const uint32_t *slots,
                         size_t count, uint32_t dim, float *sums) {
    for (size_t i = 0; i < count; i++)
        sums[i] = peri_code_distance(PERI_INNER_PRODUCT, query,
                                     (const uint8_t *)peri_sums_row(rows, stride, slots, i), dim);
}

const peri_sums_table peri_sums_scalar = {
    { sqeuclidean_f32, sqeuclidean_f16, sqeuclidean_i8, sqeuclidean_u8 },
    { dot_f32, dot_f16, dot_i8, dot_u8 },
    { l1_f32, l1_f16, l1_i8, l1_u8 },
    hamming,
    code_product,
};

const peri_sums_table *peri_sums_chosen(void) {
    switch (peri_isa_chosen()) {
#if defined(__x86_64__)
    case PERI_ISA_AVX512: return &peri_sums_avx512;
    case PERI_ISA_AVX2: return &peri_sums_avx2;
#elif defined(__aarch64__)
    case PERI_ISA_NEON: return &peri_sums_neon;
#endif
    default: return &peri_sums_scalar;
    }
}

static peri_sums_fn sums_of(const peri_sums_table *table, peri_metric metric, peri_dtype dtype) {
    switch (metric) {
    case PERI_SQEUCLIDEAN:
    case PERI_EUCLIDEAN: return table->sqeuclidean[dtype];
    case PERI_L1: return table->l1[dtype];
    case PERI_HAMMING: return table->hamming;
    default: return table->dot[dtype];
    }
}

void peri_distances_init(peri_distances *d, peri_metric metric, const peri_view *rows,
                         const float *lengths) {
    const peri_sums_table *table = peri_sums_chosen();
    PERI_ASSERT((unsigned)rows->dtype < PERI_SUMS_DTYPES);
    PERI_ASSERT(peri_metric_takes(metric, rows->dtype));
    *d = (peri_distances){ .metric = metric,
                           .dtype = rows->dtype,
                           .dim = (uint32_t)rows->cols,
                           .rows = rows->data,
                           .stride = rows->stride_bytes,
                           .lengths = lengths };
    d->sums = sums_of(table, metric, rows->dtype);
    d->dots = table->dot[peri_query_dtype(rows->dtype)];
}

void peri_distances_codes(peri_distances *d, peri_metric metric, const peri_codes_view *codes) {
    const peri_sums_table *table = peri_sums_chosen();
    *d = (peri_distances){ .metric = PERI_SQEUCLIDEAN, /* sums are values */
                           .dtype = PERI_U8,
                           .dim = (uint32_t)codes->rows.cols,
                           .rows = codes->rows.data,
                           .stride = codes->rows.stride_bytes };
    d->sums = peri_code_squared(metric) ? table->sqeuclidean[PERI_U8] : table->code_product;
}

float peri_distances_query_length(const peri_distances *d, const void *query) {
    if (d->metric != PERI_COSINE) return 0;
    float sum;
    d->dots(query, query, 0, NULL, 1, d->dim, &sum);
    return sqrtf(sum);
}

static float farthest_if_nan(float value) { return isnan(value) ? INFINITY : value; }

/* From sums to values, in place; lengths are those of the rows at the same positions. */
static void values_at(const peri_distances *d, float query_length, const float *lengths,
                      const uint32_t *slots, size_t count, float *out) {
    switch (d->metric) {
    case PERI_INNER_PRODUCT:
        for (size_t i = 0; i < count; i++) out[i] = farthest_if_nan(-out[i]);
        break;
    case PERI_COSINE:
        for (size_t i = 0; i < count; i++) {
            float length = lengths[slots == NULL ? i : slots[i]];
            out[i] = farthest_if_nan(1.0f - out[i] / (query_length * length));
        }
        break;
    default: break;
    }
}

void peri_distances_slots(const peri_distances *d, const void *query, float query_length,
                          const uint32_t *slots, size_t count, float *out) {
    d->sums(query, d->rows, d->stride, slots, count, d->dim, out);
    values_at(d, query_length, d->lengths, slots, count, out);
}

void peri_distances_range(const peri_distances *d, const void *query, float query_length,
                          size_t first, size_t count, float *out) {
    const float *lengths = d->metric == PERI_COSINE ? d->lengths + first : NULL;
    d->sums(query, (const char *)d->rows + first * d->stride, d->stride, NULL, count, d->dim, out);
    values_at(d, query_length, lengths, NULL, count, out);
}
