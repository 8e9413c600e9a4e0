/* sq_kind.c: scalar quantization behind the handle. */
#include "quant/quantizer.h"

#define SQ_PARAMS(X, S)                                                                            \
    X(S, INT, bits, 8, 4, 16, NULL, NULL, "bits a column: 8, 4, or 16 for f16")                    \
    X(S, REAL, quantile, 0, 0, 1, NULL, "1 for 8 bits, 0.99 for 4: less squared error",            \
      "share of a column's values that its levels span; the rest is clamped")                      \
    PERI_SAMPLE_PARAMS(X, S)

PERI_PARAMS_STRUCT(sq_params, SQ_PARAMS)
static const peri_param sq_rows[] = { PERI_PARAMS_ROWS(sq_params, SQ_PARAMS) };
static const peri_param_table sq_table = { "sq.train", sq_rows, sizeof sq_rows / sizeof *sq_rows };
_Static_assert(sizeof(sq_params) <= PERI_QUANTIZER_PARAMS_BYTES, "the parameters fit a handle");

static sq_params *params_of(peri_quantizer *self) { return (sq_params *)(void *)self->params; }

static peri_status sq_train(peri_quantizer *self, const peri_train *train) {
    sq_params *params = params_of(self);
    peri_matrix *sample = NULL;
    if (params->bits != 4 && params->bits != 8 && params->bits != 16)
        return peri_fail(PERI_E_ARGUMENT, "option 'bits': %lld given, allowed: 4, 8, 16",
                         (long long)params->bits);
    if (params->quantile == 0) params->quantile = params->bits == 4 ? 0.99 : 1;
    PERI_TRY(
        peri_train_sample(train, (size_t)params->max_train_rows, (uint64_t)params->seed, &sample));
    peri_status status = peri_sq_train(&self->as.sq, sample, (uint32_t)params->bits,
                                       params->quantile, train->threads, train->control);
    peri_matrix_release(sample);
    return status;
}

static peri_status sq_adopt(peri_quantizer *self, peri_container *file) {
    peri_matrix *levels;
    PERI_TRY(peri_container_section(file, "levels", &levels));
    peri_status status = peri_sq_adopt(&self->as.sq, self->context, self->dim,
                                       (uint32_t)params_of(self)->bits, levels);
    peri_matrix_release(levels);
    return status;
}

static size_t sq_sections(const peri_quantizer *self, peri_section *list) {
    if (self->as.sq.levels == NULL) return 0;
    list[0] = (peri_section){ "levels", self->as.sq.levels };
    return 1;
}

static size_t sq_row_bytes(const peri_quantizer *self) {
    return peri_sq_row_bytes(self->dim, self->as.sq.bits);
}

static void sq_encode(const peri_quantizer *self, const float *x, uint8_t *code, void *scratch) {
    (void)scratch;
    peri_sq_encode(&self->as.sq, x, code);
}

static void sq_decode(const peri_quantizer *self, const uint8_t *code, float *x, void *scratch) {
    (void)scratch;
    peri_sq_decode(&self->as.sq, code, x);
}

static void sq_reset(peri_quantizer *self) { peri_sq_reset(&self->as.sq); }

const peri_quantizer_kind peri_sq_kind = {
    .name = "sq",
    .train_table = &sq_table,
    .train = sq_train,
    .adopt = sq_adopt,
    .sections = sq_sections,
    .row_bytes = sq_row_bytes,
    .encode = sq_encode,
    .decode = sq_decode,
    .reset = sq_reset,
};
