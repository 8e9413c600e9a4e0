/* parity_codes.h: what the quantizers run at a place, against ref: rotate and pq_encode. */
#ifndef PERIGEE_SPEC_PARITY_CODES_H
#define PERIGEE_SPEC_PARITY_CODES_H

#include "core/codes.h"
#include "parity.h"

/* ---- rotate ------------------------------------------------------------------------------- */

typedef struct rotate_case {
    peri_view rows, matrix, centroids;
    uint32_t *labels;
    size_t out;
    bool turned, centered, labelled;
    float *lengths; /* NULL = none */
} rotate_case;

static inline peri_status rotate_at(place *p, const rotate_case *c, float *result) {
    size_t bytes = c->rows.rows * c->out * sizeof *result;
    peri_op_rotate op = { .kind = PERI_OP_ROTATE, .rows = place_put_view(p, &c->rows) };
    if (c->turned) op.rotation = place_put_view(p, &c->matrix).data;
    if (c->centered) op.centroids = place_put_view(p, &c->centroids).data;
    if (c->labelled) op.labels = place_put(p, c->labels, c->rows.rows * sizeof *c->labels);
    op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.out = (peri_view){ place_room(p, bytes),    c->rows.rows, c->out,
                          c->out * sizeof *result, PERI_F32,     p->device->place };
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, bytes);
    return status;
}

static inline void check_rotate(pair *t, peri_dtype dtype, size_t rows, size_t dim, unsigned how) {
    rotate_case c = {
        .out = dim + how % 3, .turned = how & 1, .centered = how & 2, .labelled = how & 4
    };
    c.rows = test_matrix(dtype, rows, dim, rows % 2, 5);
    c.matrix = test_matrix(PERI_F32, c.out, dim, 0, 6);
    c.centroids = test_matrix(PERI_F32, 3, dim, 0, 7);
    c.labels = test_new(rows, sizeof *c.labels);
    for (size_t i = 0; i < rows; i++) c.labels[i] = peri_random_below(8, i, 3);
    if (how & 8) c.lengths = test_lengths(&c.rows);
    for (size_t i = 0; i < rows && c.lengths != NULL; i++) /* 0 / 0 has any sign */
        if (c.lengths[i] == 0) c.lengths[i] = 1;
    size_t count = rows * c.out, at = 0;
    float *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    place_must(rotate_at(&t->ref, &c, wanted), "ref rotate");
    if (went(t, PERI_OP_ROTATE, "rotate", rotate_at(&t->tested, &c, found)))
        CHECK(test_same_bits(wanted, found, count, &at),
              "rotate %zu rows of %zu %s to %zu, case %u: value %zu", rows, dim,
              peri_dtype_name(dtype), c.out, how, at);
    clear(t);
    free(c.rows.data);
    free(c.matrix.data);
    free(c.centroids.data);
    free(c.labels);
    free(c.lengths);
    free(wanted);
    free(found);
}

/* ---- pq_encode ---------------------------------------------------------------------------- */

typedef struct encode_case {
    peri_view rows, words;
    uint32_t *labels; /* NULL = none */
    uint32_t pq_dim, pq_len, pq_bits;
} encode_case;

static inline peri_status encode_at(place *p, const encode_case *c, uint8_t *result) {
    size_t bytes = c->rows.rows * peri_codes_bytes(c->pq_dim, c->pq_bits);
    peri_op_pq_encode op = { .kind = PERI_OP_PQ_ENCODE,
                             .rows = place_put_view(p, &c->rows),
                             .codebooks = place_put_view(p, &c->words).data,
                             .books = c->words.rows >> c->pq_bits,
                             .pq_dim = c->pq_dim,
                             .pq_len = c->pq_len,
                             .pq_bits = c->pq_bits };
    op.labels = place_put(p, c->labels, c->rows.rows * sizeof *c->labels);
    op.codes = place_room(p, bytes);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.codes, bytes);
    return status;
}

/* Coarse values: many ties. */
static inline void check_encode(pair *t, size_t rows, uint32_t pq_dim, uint32_t pq_len,
                                uint32_t pq_bits, bool labelled) {
    size_t books = labelled ? 5 : pq_dim, bytes = rows * peri_codes_bytes(pq_dim, pq_bits);
    encode_case c = { .pq_dim = pq_dim, .pq_len = pq_len, .pq_bits = pq_bits };
    c.rows = test_matrix(PERI_F32, rows, (size_t)pq_dim * pq_len, 1, 15);
    c.words = test_matrix(PERI_F32, books << pq_bits, pq_len, 0, 16);
    for (size_t i = 0; i < (books << pq_bits) * pq_len; i++)
        ((float *)c.words.data)[i] = rintf(4 * ((float *)c.words.data)[i]) / 4;
    if (labelled) c.labels = test_new(rows, sizeof *c.labels);
    for (size_t i = 0; labelled && i < rows; i++) c.labels[i] = peri_random_below(17, i, 5);
    uint8_t *wanted = test_new(bytes, 1), *found = test_new(bytes, 1);
    place_must(encode_at(&t->ref, &c, wanted), "ref pq_encode");
    if (went(t, PERI_OP_PQ_ENCODE, "pq_encode", encode_at(&t->tested, &c, found)))
        CHECK(memcmp(wanted, found, bytes) == 0, "pq_encode %zu rows, %u pieces of %u, %u bits, %s",
              rows, pq_dim, pq_len, pq_bits, labelled ? "labels" : "no labels");
    clear(t);
    free(c.rows.data);
    free(c.words.data);
    free(c.labels);
    free(wanted);
    free(found);
}

static inline void sweep_codes(pair *t) {
    static const size_t dims[] = { 1, 31, 32, 33, 130 };
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
        for (unsigned how = 0; how < 16; how++)
            check_rotate(t, (peri_dtype)((d + how) % 4), how == 0 ? 1 : 70, dims[d], how);
    for (uint32_t bits = 1; bits <= 8; bits++)
        for (uint32_t len = 1; len < 10; len += 1 + len / 3) {
            check_encode(t, 1, 3, len, bits, false);
            check_encode(t, 131, 7, len, bits, false);
            check_encode(t, 131, 4, len, bits, true);
        }
}

#endif
