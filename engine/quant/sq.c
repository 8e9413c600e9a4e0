/* sq.c: levels of columns, codes of rows. */
#include "quant/sq.h"

#include <math.h>
#include <float.h>

#include "core/half.h"
#include "core/memory.h"
#include "io/host_rows.h"
#include "quant/columns.h"

typedef struct level_job {
    float *low, *step;
    double quantile;
    uint32_t codes; /* 2^bits - 1 */
} level_job;

static void learn_levels(void *ud, size_t column, float *values, size_t count) {
    const level_job *job = ud;
    size_t cut = (size_t)((1.0 - job->quantile) * 0.5 * (double)count);
    float low = values[0], high = values[0];
    if (cut > 0) {
        low = peri_column_select(values, count, cut);
        high = peri_column_select(values, count, count - 1 - cut);
    } else {
        for (size_t i = 1; i < count; i++) {
            low = fminf(low, values[i]);
            high = fmaxf(high, values[i]);
        }
    }
    /* halves first: the range of finite numbers may be past that of f32 */
    double step = ((double)high - (double)low) / job->codes;
    job->low[column] = low;
    job->step[column] = (float)fmin(step, (double)FLT_MAX);
}

/* Divisors of the codes; a step whose inverse is no finite number counts as none. */
static peri_status make_inverse(peri_sq *sq) {
    PERI_TRY(peri_memory_acquire(sq->context, sq->dim, sizeof(float), &sq->inverse));
    for (size_t j = 0; j < sq->dim; j++) {
        float inverse = sq->step[j] > 0 ? 1.0f / sq->step[j] : 0.0f;
        sq->inverse[j] = isfinite(inverse) ? inverse : 0.0f;
    }
    return PERI_OK;
}

peri_status peri_sq_train(peri_sq *sq, peri_matrix *sample, uint32_t bits, double quantile,
                          size_t threads, const peri_control *control) {
    uint32_t dim = (uint32_t)peri_matrix_view(sample).cols;
    *sq = (peri_sq){ .context = peri_matrix_context(sample), .dim = dim, .bits = bits };
    if (bits == 16) return PERI_OK;
    peri_status status;
    PERI_GO(peri_host_matrix_create(sq->context, 2, dim, PERI_F32, &sq->levels));
    float *levels = peri_matrix_view(sq->levels).data;
    level_job job = { levels, levels + dim, quantile, (1u << bits) - 1u };
    PERI_GO(peri_each_column(sample, threads, control, learn_levels, &job));
    sq->low = job.low;
    sq->step = job.step;
    PERI_GO(make_inverse(sq));
done:
    if (status != PERI_OK) peri_sq_reset(sq);
    return status;
}

static peri_status check_levels(const peri_view *view, uint32_t dim) {
    if (view->dtype != PERI_F32 || view->rows != 2 || view->cols != dim || !peri_view_packed(view))
        return peri_fail(PERI_E_CORRUPT, "section 'levels' is %zu x %zu %s, expected 2 x %u f32",
                         view->rows, view->cols, peri_dtype_name(view->dtype), dim);
    const float *levels = view->data;
    for (size_t j = 0; j < 2 * (size_t)dim; j++)
        if (!isfinite(levels[j]) || (j >= dim && levels[j] < 0))
            return peri_fail(PERI_E_CORRUPT, "section 'levels': row %zu, column %zu is %g", j / dim,
                             j % dim, (double)levels[j]);
    return PERI_OK;
}

peri_status peri_sq_adopt(peri_sq *sq, peri_context *context, uint32_t dim, uint32_t bits,
                          peri_matrix *levels) {
    *sq = (peri_sq){ .context = context, .dim = dim, .bits = bits };
    if (bits != 4 && bits != 8 && bits != 16)
        return peri_fail(PERI_E_CORRUPT, "parameter 'bits' is %u, expected 4, 8 or 16", bits);
    if (bits == 16) return PERI_OK;
    if (levels == NULL) return peri_fail(PERI_E_CORRUPT, "section 'levels' is missing");
    peri_view view = peri_matrix_view(levels);
    PERI_TRY(check_levels(&view, dim));
    peri_matrix_retain(levels);
    sq->levels = levels;
    sq->low = view.data;
    sq->step = sq->low + dim;
    peri_status status = make_inverse(sq);
    if (status != PERI_OK) peri_sq_reset(sq);
    return status;
}

void peri_sq_reset(peri_sq *sq) {
    peri_matrix_release(sq->levels);
    peri_memory_release(sq->context, sq->inverse, sq->dim, sizeof(float));
    *sq = (peri_sq){ .context = sq->context };
}

/* ---- codes -------------------------------------------------------------------------------- */

static inline uint8_t code_of(const peri_sq *sq, float x, size_t j, float most) {
    float level = (x - sq->low[j]) * sq->inverse[j];
    level = level < most ? level : most;
    level = level > 0.0f ? level : 0.0f;
    return (uint8_t)(int32_t)(level + 0.5f);
}

static void encode_halves(const peri_sq *sq, const float *x, uint8_t *code) {
    for (size_t j = 0; j < sq->dim; j++) {
        uint16_t half = peri_float_to_half(x[j]);
        code[2 * j] = (uint8_t)half;
        code[2 * j + 1] = (uint8_t)(half >> 8);
    }
}

void peri_sq_encode(const peri_sq *sq, const float *x, uint8_t *code) {
    if (sq->bits == 16) {
        encode_halves(sq, x, code);
    } else if (sq->bits == 8) {
        for (size_t j = 0; j < sq->dim; j++) code[j] = code_of(sq, x[j], j, 255.0f);
    } else {
        for (size_t j = 0; j + 1 < sq->dim; j += 2)
            code[j / 2] = (uint8_t)(code_of(sq, x[j], j, 15.0f) |
                                    code_of(sq, x[j + 1], j + 1, 15.0f) << 4);
        if (sq->dim % 2 != 0) code[sq->dim / 2] = code_of(sq, x[sq->dim - 1], sq->dim - 1, 15.0f);
    }
}

void peri_sq_decode(const peri_sq *sq, const uint8_t *code, float *x) {
    for (size_t j = 0; j < sq->dim; j++) {
        if (sq->bits == 16)
            x[j] = peri_half_to_float((uint16_t)(code[2 * j] | code[2 * j + 1] << 8));
        else
            x[j] = sq->low[j] + (float)peri_codes_get(code, j, sq->bits) * sq->step[j];
    }
}
