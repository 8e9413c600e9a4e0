/* pq.c: the shape of a product quantizer, its rotation, and its operations. */
#include "quant/pq.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "io/host_rows.h"
#include "quant/rotation.h"

uint32_t peri_pq_default_dim(uint32_t dim) {
    uint32_t half = dim >= 128 ? dim / 2 : dim, power = 1;
    if (half / 32 > 0) return half / 32 * 32;
    while (power <= dim / 2) power *= 2;
    return power;
}

peri_status peri_pq_shape(peri_pq *pq, uint32_t dim, uint32_t pq_dim, uint32_t pq_bits) {
    *pq = (peri_pq){ .dim = dim, .pq_bits = pq_bits };
    if (pq_dim > dim)
        return peri_fail(PERI_E_ARGUMENT, "option 'pq_dim': %u given, allowed: up to dim = %u",
                         pq_dim, dim);
    pq->pq_dim = pq_dim == 0 ? peri_pq_default_dim(dim) : pq_dim;
    pq->pq_len = (dim + pq->pq_dim - 1) / pq->pq_dim;
    pq->rotated_dim = pq->pq_dim * pq->pq_len;
    return PERI_OK;
}

peri_status peri_pq_make_rotation(peri_pq *pq, peri_context *context, peri_place place, bool force,
                                  uint64_t seed) {
    peri_matrix *host;
    if (!force && pq->rotated_dim == pq->dim) return PERI_OK;
    PERI_TRY(peri_rotation_matrix(context, pq->dim, pq->rotated_dim, seed, &host));
    peri_status status = peri_matrix_move(host, place, &pq->rotation);
    peri_matrix_release(host);
    return status;
}

void peri_pq_reset(peri_pq *pq) {
    peri_matrix_release(pq->rotation);
    peri_matrix_release(pq->codebooks);
    pq->rotation = pq->codebooks = NULL;
}

/* ---- trust -------------------------------------------------------------------------------- */

static peri_status check_section(peri_matrix *matrix, const char *name, size_t rows, size_t cols) {
    peri_view view = peri_matrix_view(matrix);
    char what[64] = "section ";
    strncat(what, name, sizeof what - 16);
    if (view.dtype != PERI_F32 || view.rows != rows || view.cols != cols ||
        !peri_view_packed(&view))
        return peri_fail(PERI_E_CORRUPT, "%s is %zu x %zu %s, expected %zu x %zu f32", what,
                         view.rows, view.cols, peri_dtype_name(view.dtype), rows, cols);
    peri_status status = peri_matrix_check(matrix, false, what, 0, NULL);
    return status == PERI_E_INVALID ? PERI_E_CORRUPT : status;
}

peri_status peri_pq_check(const peri_pq *pq, size_t books) {
    size_t words;
    if (pq->codebooks == NULL) return peri_fail(PERI_E_CORRUPT, "section 'codebooks' is missing");
    if (pq->rotation == NULL && pq->rotated_dim != pq->dim)
        return peri_fail(PERI_E_CORRUPT, "section 'rotation' is missing");
    if (!peri_mul_fits(books, (size_t)1 << pq->pq_bits, &words))
        return peri_fail(PERI_E_CORRUPT, "%zu codebooks are more than memory can hold", books);
    PERI_TRY(check_section(pq->codebooks, "'codebooks'", words, pq->pq_len));
    if (pq->rotation == NULL) return PERI_OK;
    return check_section(pq->rotation, "'rotation'", pq->rotated_dim, pq->dim);
}

/* ---- operations --------------------------------------------------------------------------- */

peri_status peri_pq_rotate(const peri_pq *pq, peri_lane *lane, const peri_view *rows,
                           const float *centroids, const uint32_t *labels, const peri_view *out) {
    peri_op_rotate op = {
        .kind = PERI_OP_ROTATE, .rows = *rows, .centroids = centroids, .labels = labels, .out = *out
    };
    if (pq->rotation != NULL) op.rotation = peri_matrix_view(pq->rotation).data;
    return rows->rows == 0 ? PERI_OK : peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_pq_encode(const peri_pq *pq, peri_lane *lane, const peri_view *rotated,
                           const uint32_t *labels, uint8_t *codes) {
    peri_view books = peri_matrix_view(pq->codebooks);
    peri_op_pq_encode op = { .kind = PERI_OP_PQ_ENCODE,
                             .rows = *rotated,
                             .codebooks = books.data,
                             .books = books.rows >> pq->pq_bits,
                             .labels = pq->codebook_kind == PERI_PER_CLUSTER ? labels : NULL,
                             .pq_dim = pq->pq_dim,
                             .pq_len = pq->pq_len,
                             .pq_bits = pq->pq_bits,
                             .codes = codes };
    return rotated->rows == 0 ? PERI_OK : peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_pq_rotated(const peri_pq *pq, peri_matrix *rows, size_t threads,
                            const peri_control *control, peri_matrix **out) {
    peri_view view = peri_matrix_view(rows);
    peri_context *context = peri_matrix_context(rows);
    peri_device *device;
    peri_lane *lane = NULL;
    peri_status status;
    *out = NULL;
    PERI_TRY(peri_context_device(context, view.place, &device));
    PERI_GO(peri_matrix_create(context, view.rows, pq->rotated_dim, PERI_F32, view.place, out));
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_lane_follow(lane, control, threads);
    peri_view to = peri_matrix_view(*out);
    PERI_GO(peri_pq_rotate(pq, lane, &view, NULL, NULL, &to));
    PERI_GO(peri_lane_wait(lane, control));
done:
    peri_lane_release(lane);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

/* ---- the way back ------------------------------------------------------------------------- */

void peri_pq_decode(const peri_pq *pq, const float *words, const uint8_t *code, uint32_t label,
                    float *y) {
    size_t len = pq->pq_len, codes = (size_t)1 << pq->pq_bits;
    for (size_t j = 0; j < pq->pq_dim; j++) {
        size_t book = pq->codebook_kind == PERI_PER_CLUSTER ? label : j;
        size_t word = book * codes + peri_codes_get(code, j, pq->pq_bits);
        memcpy(y + j * len, words + word * len, len * sizeof *y);
    }
}

peri_status peri_pq_transposed(const peri_pq *pq, peri_context *context, peri_matrix **out) {
    peri_matrix *host;
    *out = NULL;
    PERI_TRY(peri_matrix_move(pq->rotation, PERI_CPU, &host));
    peri_status status = peri_host_matrix_create(context, pq->dim, pq->rotated_dim, PERI_F32, out);
    if (status == PERI_OK) {
        const float *from = peri_matrix_view(host).data;
        float *to = peri_matrix_view(*out).data;
        for (size_t i = 0; i < pq->rotated_dim; i++)
            for (size_t j = 0; j < pq->dim; j++)
                to[j * pq->rotated_dim + i] = from[i * pq->dim + j];
    }
    peri_matrix_release(host);
    return status;
}
