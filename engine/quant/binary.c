/* binary.c: thresholds of columns, bits of rows. */
#include "quant/binary.h"

#include <math.h>

#include "io/host_rows.h"
#include "quant/columns.h"

typedef struct threshold_job {
    float *threshold, *low, *high;
    peri_binary_threshold how;
} threshold_job;

static void learn_column(void *ud, size_t column, float *values, size_t count) {
    const threshold_job *job = ud;
    float threshold = 0.0f;
    if (job->how == PERI_BINARY_MEAN) threshold = peri_column_mean(values, count);
    if (job->how == PERI_BINARY_MEDIAN)
        threshold = peri_column_select(values, count, (count - 1) / 2);
    double sums[2] = { 0, 0 };
    size_t counts[2] = { 0, 0 };
    for (size_t i = 0; i < count; i++) {
        int side = values[i] > threshold;
        sums[side] += (double)values[i];
        counts[side]++;
    }
    job->threshold[column] = threshold;
    job->low[column] = counts[0] == 0 ? threshold : (float)(sums[0] / (double)counts[0]);
    job->high[column] = counts[1] == 0 ? threshold : (float)(sums[1] / (double)counts[1]);
}

static void point(peri_binary *binary) {
    binary->threshold = peri_matrix_view(binary->levels).data;
    binary->low = binary->threshold + binary->dim;
    binary->high = binary->low + binary->dim;
}

peri_status peri_binary_train(peri_binary *binary, peri_matrix *sample,
                              peri_binary_threshold threshold, size_t threads,
                              const peri_control *control) {
    uint32_t dim = (uint32_t)peri_matrix_view(sample).cols;
    *binary = (peri_binary){ .dim = dim };
    peri_status status;
    PERI_GO(
        peri_host_matrix_create(peri_matrix_context(sample), 3, dim, PERI_F32, &binary->levels));
    float *levels = peri_matrix_view(binary->levels).data;
    threshold_job job = { levels, levels + dim, levels + 2 * (size_t)dim, threshold };
    PERI_GO(peri_each_column(sample, threads, control, learn_column, &job));
    point(binary);
done:
    if (status != PERI_OK) peri_binary_reset(binary);
    return status;
}

peri_status peri_binary_adopt(peri_binary *binary, uint32_t dim, peri_matrix *levels) {
    *binary = (peri_binary){ .dim = dim };
    if (levels == NULL) return peri_fail(PERI_E_CORRUPT, "section 'levels' is missing");
    peri_view view = peri_matrix_view(levels);
    if (view.dtype != PERI_F32 || view.rows != 3 || view.cols != dim || !peri_view_packed(&view))
        return peri_fail(PERI_E_CORRUPT, "section 'levels' is %zu x %zu %s, expected 3 x %u f32",
                         view.rows, view.cols, peri_dtype_name(view.dtype), dim);
    const float *numbers = view.data;
    for (size_t j = 0; j < 3 * (size_t)dim; j++)
        if (!isfinite(numbers[j]))
            return peri_fail(PERI_E_CORRUPT, "section 'levels': row %zu, column %zu is %g", j / dim,
                             j % dim, (double)numbers[j]);
    peri_matrix_retain(levels);
    binary->levels = levels;
    point(binary);
    return PERI_OK;
}

void peri_binary_reset(peri_binary *binary) {
    peri_matrix_release(binary->levels);
    *binary = (peri_binary){ 0 };
}

void peri_binary_encode(const peri_binary *binary, const float *x, uint8_t *code) {
    for (size_t first = 0; first < binary->dim; first += 8) {
        uint32_t byte = 0;
        for (size_t j = first; j < binary->dim && j < first + 8; j++)
            byte |= (uint32_t)(x[j] > binary->threshold[j]) << (j - first);
        code[first / 8] = (uint8_t)byte;
    }
}

void peri_binary_decode(const peri_binary *binary, const uint8_t *code, float *x) {
    for (size_t j = 0; j < binary->dim; j++)
        x[j] = code[j / 8] >> (j % 8) & 1 ? binary->high[j] : binary->low[j];
}
