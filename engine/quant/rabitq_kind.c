/* rabitq_kind.c: RaBitQ behind the handle: one centroid, the mean of the sample, or none. */
#include <math.h>

#include "core/memory.h"
#include "io/host_rows.h"
#include "quant/columns.h"
#include "quant/quantizer.h"

#define RABITQ_PARAMS(X, S)                                                                        \
    X(S, INT, bits, 1, 1, 8, NULL, NULL, "bits a dimension; 8 bytes a row go with them")           \
    X(S, FLAG, centered, 1, 0, 1, NULL, NULL, "code what is left when the mean is subtracted")     \
    PERI_SAMPLE_PARAMS(X, S)

PERI_PARAMS_STRUCT(rabitq_params, RABITQ_PARAMS)
static const peri_param rabitq_rows[] = { PERI_PARAMS_ROWS(rabitq_params, RABITQ_PARAMS) };
static const peri_param_table rabitq_table = { "rabitq.train", rabitq_rows,
                                               sizeof rabitq_rows / sizeof *rabitq_rows };
_Static_assert(sizeof(rabitq_params) <= PERI_QUANTIZER_PARAMS_BYTES, "the parameters fit a handle");

static peri_status make_codes(peri_quantizer *self) {
    const rabitq_params *params = (const rabitq_params *)(const void *)self->params;
    return peri_rabitq_init(&self->as.rabitq.codes, self->context, self->dim,
                            (uint32_t)params->bits, (uint64_t)params->seed);
}

static peri_status rotate_centroid(peri_quantizer *self) {
    size_t n = self->as.rabitq.codes.padded_dim;
    PERI_TRY(peri_memory_acquire(self->context, n, sizeof(float), &self->as.rabitq.rotated));
    peri_rabitq_rotate(&self->as.rabitq.codes, peri_matrix_view(self->as.rabitq.centroid).data,
                       self->as.rabitq.rotated);
    return PERI_OK;
}

static void learn_mean(void *ud, size_t column, float *values, size_t count) {
    ((float *)ud)[column] = peri_column_mean(values, count);
}

static peri_status rabitq_train(peri_quantizer *self, const peri_train *train) {
    const rabitq_params *params = (const rabitq_params *)(const void *)self->params;
    peri_matrix *sample;
    PERI_TRY(make_codes(self));
    PERI_TRY(
        peri_train_sample(train, (size_t)params->max_train_rows, (uint64_t)params->seed, &sample));
    peri_status status = PERI_OK;
    if (!params->centered) goto done;
    PERI_GO(
        peri_host_matrix_create(self->context, 1, self->dim, PERI_F32, &self->as.rabitq.centroid));
    PERI_GO(peri_each_column(sample, train->threads, train->control, learn_mean,
                             peri_matrix_view(self->as.rabitq.centroid).data));
    PERI_GO(rotate_centroid(self));
done:
    peri_matrix_release(sample);
    return status;
}

static peri_status check_centroid(const peri_quantizer *self, peri_matrix *centroid) {
    if (centroid == NULL) return peri_fail(PERI_E_CORRUPT, "section 'centroid' is missing");
    peri_view view = peri_matrix_view(centroid);
    if (view.dtype != PERI_F32 || view.rows != 1 || view.cols != self->dim)
        return peri_fail(PERI_E_CORRUPT, "section 'centroid' is %zu x %zu %s, expected 1 x %u f32",
                         view.rows, view.cols, peri_dtype_name(view.dtype), self->dim);
    peri_status status = peri_view_check(&view, false, "section 'centroid'");
    return status == PERI_E_INVALID ? PERI_E_CORRUPT : status;
}

static peri_status rabitq_adopt(peri_quantizer *self, peri_container *file) {
    const rabitq_params *params = (const rabitq_params *)(const void *)self->params;
    PERI_TRY(make_codes(self));
    if (!params->centered) return PERI_OK;
    PERI_TRY(peri_container_section(file, "centroid", &self->as.rabitq.centroid));
    PERI_TRY(check_centroid(self, self->as.rabitq.centroid));
    return rotate_centroid(self);
}

static size_t rabitq_sections(const peri_quantizer *self, peri_section *list) {
    if (self->as.rabitq.centroid == NULL) return 0;
    list[0] = (peri_section){ "centroid", self->as.rabitq.centroid };
    return 1;
}

static size_t rabitq_row_bytes(const peri_quantizer *self) {
    return peri_rabitq_row_bytes(self->as.rabitq.codes.padded_dim, self->as.rabitq.codes.bits);
}

/* The rotated row, then what coding takes. */
static size_t rabitq_scratch(const peri_quantizer *self) {
    return self->as.rabitq.codes.padded_dim * sizeof(float) +
           peri_rabitq_scratch_bytes(&self->as.rabitq.codes);
}

static void rabitq_encode(const peri_quantizer *self, const float *x, uint8_t *code,
                          void *scratch) {
    const peri_rabitq *codes = &self->as.rabitq.codes;
    float *rotated = scratch;
    peri_rabitq_rotate(codes, x, rotated);
    peri_rabitq_encode(codes, rotated, self->as.rabitq.rotated, code, NULL,
                       rotated + codes->padded_dim);
}

static void rabitq_decode(const peri_quantizer *self, const uint8_t *code, float *x,
                          void *scratch) {
    const peri_rabitq *codes = &self->as.rabitq.codes;
    float *rotated = scratch;
    peri_rabitq_decode(codes, code, self->as.rabitq.rotated, rotated, rotated + codes->padded_dim);
    peri_rotation_undo(&codes->rotation, rotated);
    memcpy(x, rotated, self->dim * sizeof *x);
}

static void rabitq_describe(const peri_quantizer *self, peri_field_fn field, void *ud) {
    peri_tell_int(field, ud, "padded_dim", self->as.rabitq.codes.padded_dim);
}

static void rabitq_reset(peri_quantizer *self) {
    size_t n = self->as.rabitq.codes.padded_dim;
    peri_memory_release(self->context, self->as.rabitq.rotated, n, sizeof(float));
    peri_matrix_release(self->as.rabitq.centroid);
    peri_rabitq_reset(&self->as.rabitq.codes);
}

const peri_quantizer_kind peri_rabitq_kind = {
    .name = "rabitq",
    .train_table = &rabitq_table,
    .train = rabitq_train,
    .adopt = rabitq_adopt,
    .sections = rabitq_sections,
    .row_bytes = rabitq_row_bytes,
    .scratch_bytes = rabitq_scratch,
    .encode = rabitq_encode,
    .decode = rabitq_decode,
    .describe = rabitq_describe,
    .reset = rabitq_reset,
};
