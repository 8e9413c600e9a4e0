/* pq_kind.c: product quantization behind the handle, without ("pq") and with ("opq") a learned
 * rotation. Rows are coded at the place of the matrices: that of the rows it was trained on. */
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "io/host_rows.h"
#include "quant/codebook.h"
#include "quant/opq.h"
#include "quant/quantizer.h"
#include "quant/sample.h"

/* The names and defaults that users of IVF-PQ know; opq has its rotations before them. */
#define PQ_PARAMS(X, S)                                                                            \
    X(S, INT, pq_dim, 0, 0, PERI_DIM_MAX, NULL,                                                    \
      "dim, halved from 128 on, in whole 32s; below 32 the largest power of two",                  \
      "pieces of a row; where it does not divide dim, rows are padded")                            \
    X(S, INT, pq_bits, 8, 4, 8, NULL, NULL, "bits of a piece's code")                              \
    X(S, INT, kmeans_n_iters, 25, 1, 1000, NULL, NULL, "iterations of the codewords at most")      \
    X(S, INT, max_train_points_per_pq_code, 256, 1, 65536, NULL, NULL,                             \
      "rows to learn from, for each of the 2^pq_bits codewords, at most")                          \
    X(S, FLAG, force_random_rotation, 0, 0, 1, NULL, NULL,                                         \
      "turn rows by a random rotation also where none is needed")                                  \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the random choices")
#define OPQ_PARAMS(X, S)                                                                           \
    PQ_PARAMS(X, S)                                                                                \
    X(S, INT, opq_n_iters, 20, 1, 1000, NULL, NULL, "rotations learned, one after the other")

PERI_PARAMS_STRUCT(opq_params, OPQ_PARAMS)
static const peri_param opq_rows[] = { PERI_PARAMS_ROWS(opq_params, OPQ_PARAMS) };
enum { OPQ_COUNT = sizeof opq_rows / sizeof *opq_rows };
static const peri_param_table pq_table = { "pq.train", opq_rows, OPQ_COUNT - 1 };
static const peri_param_table opq_table = { "opq.train", opq_rows, OPQ_COUNT };
_Static_assert(sizeof(opq_params) <= PERI_QUANTIZER_PARAMS_BYTES, "the parameters fit a handle");

static opq_params *params_of(peri_quantizer *self) { return (opq_params *)(void *)self->params; }

/* ---- training ----------------------------------------------------------------------------- */

static peri_status make_rotation(peri_quantizer *self, const peri_train *train,
                                 peri_matrix *sample) {
    const opq_params *params = params_of(self);
    peri_pq *pq = &self->as.pq;
    if (self->kind == &peri_pq_kind)
        return peri_pq_make_rotation(pq, self->context, peri_matrix_view(sample).place,
                                     params->force_random_rotation != 0, (uint64_t)params->seed);
    peri_opq_training training = { .sample = sample,
                                   .n_iters = (uint32_t)params->opq_n_iters,
                                   .seed = (uint64_t)params->seed,
                                   .threads = train->threads,
                                   .control = train->control };
    return peri_opq_learn_rotation(pq, &training);
}

static peri_status train_books(peri_quantizer *self, const peri_train *train,
                               peri_matrix *rotated) {
    const opq_params *params = params_of(self);
    peri_codebook_training training = { .rows = rotated,
                                        .books = self->as.pq.pq_dim,
                                        .pq_bits = self->as.pq.pq_bits,
                                        .n_iters = (uint32_t)params->kmeans_n_iters,
                                        .seed = (uint64_t)params->seed,
                                        .threads = train->threads,
                                        .control = train->control };
    return peri_codebooks_train(&training, &self->as.pq.codebooks);
}

static peri_status pq_train(peri_quantizer *self, const peri_train *train) {
    opq_params *params = params_of(self);
    peri_pq *pq = &self->as.pq;
    peri_matrix *sample = NULL, *rotated = NULL;
    peri_status status;
    PERI_TRY(peri_pq_shape(pq, self->dim, (uint32_t)params->pq_dim, (uint32_t)params->pq_bits));
    params->pq_dim = pq->pq_dim;
    size_t most = (size_t)params->max_train_points_per_pq_code << pq->pq_bits;
    PERI_GO(peri_sample_rows(train->rows, most, (uint64_t)params->seed, &sample));
    PERI_GO(peri_matrix_check(sample, false, "rows", train->threads, train->control));
    PERI_GO(make_rotation(self, train, sample));
    PERI_GO(peri_pq_rotated(pq, sample, train->threads, train->control, &rotated));
    PERI_GO(train_books(self, train, rotated));
done:
    peri_matrix_release(sample);
    peri_matrix_release(rotated);
    return status;
}

static peri_status pq_adopt(peri_quantizer *self, peri_container *file) {
    const opq_params *params = params_of(self);
    peri_pq *pq = &self->as.pq;
    PERI_TRY(peri_pq_shape(pq, self->dim, (uint32_t)params->pq_dim, (uint32_t)params->pq_bits));
    PERI_TRY(peri_container_section(file, "rotation", &pq->rotation));
    PERI_TRY(peri_container_section(file, "codebooks", &pq->codebooks));
    return peri_pq_check(pq, pq->pq_dim);
}

static size_t pq_sections(const peri_quantizer *self, peri_section *list) {
    size_t count = 0;
    list[count++] = (peri_section){ "codebooks", self->as.pq.codebooks };
    if (self->as.pq.rotation != NULL)
        list[count++] = (peri_section){ "rotation", self->as.pq.rotation };
    return count;
}

/* ---- coding ------------------------------------------------------------------------------- */

static size_t pq_row_bytes(const peri_quantizer *self) {
    return peri_pq_row_bytes(self->as.pq.pq_dim, self->as.pq.pq_bits);
}

/* The rows as f32 of rotated_dim columns at the lane's place: themselves where they are that. */
static peri_status take_rotated(const peri_pq *pq, peri_lane *lane, const peri_view *rows,
                                peri_view *rotated) {
    *rotated = *rows;
    if (pq->rotation == NULL && rows->dtype == PERI_F32) return PERI_OK;
    rotated->dtype = PERI_F32;
    rotated->cols = pq->rotated_dim;
    rotated->stride_bytes = pq->rotated_dim * sizeof(float);
    PERI_TRY(peri_lane_take(lane, rows->rows, rotated->stride_bytes, &rotated->data));
    return peri_pq_rotate(pq, lane, rows, NULL, NULL, rotated);
}

static peri_status pq_encode_batch(const peri_quantizer *self, const peri_code_batch *batch) {
    const peri_pq *pq = &self->as.pq;
    peri_place place = peri_matrix_view(pq->codebooks).place;
    peri_matrix *rows = NULL;
    peri_device *device;
    peri_lane *lane = NULL;
    peri_view rotated;
    uint8_t *codes;
    peri_status status;
    PERI_TRY(peri_context_device(self->context, place, &device));
    PERI_GO(peri_matrix_move(batch->rows, place, &rows));
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_lane_follow(lane, batch->control, batch->threads);
    peri_view view = peri_matrix_view(rows);
    PERI_GO(take_rotated(pq, lane, &view, &rotated));
    PERI_GO(peri_lane_out(lane, batch->codes, view.rows, self->row_bytes, &codes));
    PERI_GO(peri_pq_encode(pq, lane, &rotated, NULL, codes));
    PERI_GO(peri_lane_fetch(lane, batch->codes, codes, view.rows, self->row_bytes));
    PERI_GO(peri_lane_wait(lane, batch->control));
done:
    peri_lane_close(lane);
    peri_matrix_release(rows);
    return status;
}

static void decode_rows(const peri_pq *pq, const float *words, const uint8_t *codes,
                        size_t row_bytes, const peri_view *out) {
    for (size_t r = 0; r < out->rows; r++)
        peri_pq_decode(pq, words, codes + r * row_bytes, 0, peri_view_row(out, r));
}

/* Codewords, then the transposed rotation as an operation of the host. */
static peri_status turn_back(const peri_quantizer *self, const peri_code_batch *batch,
                             const float *words) {
    const peri_pq *pq = &self->as.pq;
    peri_matrix *back = NULL, *rotated = NULL;
    peri_device *device;
    peri_lane *lane = NULL;
    peri_op_rotate op = { .kind = PERI_OP_ROTATE, .out = peri_matrix_view(batch->rows) };
    peri_status status;
    PERI_TRY(peri_context_device(self->context, PERI_CPU, &device));
    PERI_GO(peri_pq_transposed(pq, self->context, &back));
    PERI_GO(
        peri_host_matrix_create(self->context, op.out.rows, pq->rotated_dim, PERI_F32, &rotated));
    op.rows = peri_matrix_view(rotated);
    op.rotation = peri_matrix_view(back).data;
    decode_rows(pq, words, batch->codes, self->row_bytes, &op.rows);
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_lane_follow(lane, batch->control, batch->threads);
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, batch->control));
done:
    peri_lane_release(lane);
    peri_matrix_release(back);
    peri_matrix_release(rotated);
    return status;
}

static peri_status pq_decode_batch(const peri_quantizer *self, const peri_code_batch *batch) {
    const peri_pq *pq = &self->as.pq;
    peri_matrix *books;
    PERI_TRY(peri_matrix_move(pq->codebooks, PERI_CPU, &books));
    const float *words = peri_matrix_view(books).data;
    peri_view out = peri_matrix_view(batch->rows);
    peri_status status = PERI_OK;
    if (pq->rotation == NULL)
        decode_rows(pq, words, batch->codes, self->row_bytes, &out);
    else
        status = turn_back(self, batch, words);
    peri_matrix_release(books);
    return status;
}

static void pq_describe(const peri_quantizer *self, peri_field_fn field, void *ud) {
    const peri_pq *pq = &self->as.pq;
    peri_value rotated = { PERI_VALUE_FLAG, { .flag = pq->rotation != NULL } };
    peri_tell_int(field, ud, "pq_len", pq->pq_len);
    peri_tell_int(field, ud, "rotated_dim", pq->rotated_dim);
    peri_tell_int(field, ud, "padding", pq->rotated_dim - pq->dim);
    field(ud, "rotation", &rotated);
}

static void pq_reset(peri_quantizer *self) { peri_pq_reset(&self->as.pq); }

#define PQ_KIND(word, table)                                                                       \
    {                                                                                              \
        .name = word, .train_table = table, .train = pq_train, .adopt = pq_adopt,                  \
        .sections = pq_sections, .row_bytes = pq_row_bytes, .encode_batch = pq_encode_batch,       \
        .decode_batch = pq_decode_batch, .describe = pq_describe, .reset = pq_reset                \
    }

const peri_quantizer_kind peri_pq_kind = PQ_KIND("pq", &pq_table);
const peri_quantizer_kind peri_opq_kind = PQ_KIND("opq", &opq_table);
