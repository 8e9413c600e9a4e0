/* binary_kind.c: one bit a column behind the handle. */
#include "quant/quantizer.h"

#define BINARY_PARAMS(X, S)                                                                        \
    X(S, CHOICE, threshold, 1, 0, 2, "zero|mean|median", NULL,                                     \
      "a bit is set when its value is above this of its column")                                   \
    PERI_SAMPLE_PARAMS(X, S)

PERI_PARAMS_STRUCT(binary_params, BINARY_PARAMS)
static const peri_param binary_rows[] = { PERI_PARAMS_ROWS(binary_params, BINARY_PARAMS) };
static const peri_param_table binary_table = { "binary.train", binary_rows,
                                               sizeof binary_rows / sizeof *binary_rows };
_Static_assert(sizeof(binary_params) <= PERI_QUANTIZER_PARAMS_BYTES, "the parameters fit a handle");

static peri_status binary_train(peri_quantizer *self, const peri_train *train) {
    const binary_params *params = (const binary_params *)(const void *)self->params;
    peri_matrix *sample;
    PERI_TRY(
        peri_train_sample(train, (size_t)params->max_train_rows, (uint64_t)params->seed, &sample));
    peri_status status = peri_binary_train(&self->as.binary, sample,
                                           (peri_binary_threshold)params->threshold, train->threads,
                                           train->control);
    peri_matrix_release(sample);
    return status;
}

static peri_status binary_adopt(peri_quantizer *self, peri_container *file) {
    peri_matrix *levels;
    PERI_TRY(peri_container_section(file, "levels", &levels));
    peri_status status = peri_binary_adopt(&self->as.binary, self->dim, levels);
    peri_matrix_release(levels);
    return status;
}

static size_t binary_sections(const peri_quantizer *self, peri_section *list) {
    list[0] = (peri_section){ "levels", self->as.binary.levels };
    return 1;
}

static size_t binary_row_bytes(const peri_quantizer *self) {
    return peri_codes_bytes(self->dim, 1);
}

static void binary_encode(const peri_quantizer *self, const float *x, uint8_t *code,
                          void *scratch) {
    (void)scratch;
    peri_binary_encode(&self->as.binary, x, code);
}

static void binary_decode(const peri_quantizer *self, const uint8_t *code, float *x,
                          void *scratch) {
    (void)scratch;
    peri_binary_decode(&self->as.binary, code, x);
}

static void binary_reset(peri_quantizer *self) { peri_binary_reset(&self->as.binary); }

const peri_quantizer_kind peri_binary_kind = {
    .name = "binary",
    .train_table = &binary_table,
    .train = binary_train,
    .adopt = binary_adopt,
    .sections = binary_sections,
    .row_bytes = binary_row_bytes,
    .encode = binary_encode,
    .decode = binary_decode,
    .reset = binary_reset,
};
