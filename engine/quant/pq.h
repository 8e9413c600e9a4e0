/* pq.h: product quantization (Jegou, Douze, Schmid: Product quantization for nearest neighbor
 * search, 2011).
 *
 * A row is turned into rotated_dim columns and cut into pq_dim pieces of pq_len columns; the code
 * of a piece is the nearest of 2^pq_bits codewords of its book. rotated_dim = pq_dim * ceil(dim /
 * pq_dim): where pq_dim does not divide dim, the row is padded, and turned by a random rotation so
 * that no piece is all padding. Otherwise there is no rotation unless it is forced or learned
 * (opq.h).
 *
 * Codes are packed as core/codes.h says. Books belong to subspaces, or, for inverted lists of
 * codebook_kind per_cluster, to clusters. Matrices lie at one place, where rows are coded.
 *
 * Training: peri_pq_shape, then peri_pq_make_rotation, then peri_pq_rotate a sample and
 * peri_codebooks_train on it. Threads: immutable once made. */
#ifndef PERI_QUANT_PQ_H
#define PERI_QUANT_PQ_H

#include "core/codes.h"
#include "core/lane.h"
#include "core/matrix.h"

typedef enum peri_codebook_kind {
    PERI_PER_SUBSPACE = 0,
    PERI_PER_CLUSTER = 1,
} peri_codebook_kind;

typedef struct peri_pq {
    uint32_t dim, rotated_dim, pq_dim, pq_len;
    uint32_t pq_bits; /* 4..8 */
    peri_codebook_kind codebook_kind;
    peri_matrix *rotation;  /* f32 [rotated_dim, dim]; NULL = none: dim == rotated_dim */
    peri_matrix *codebooks; /* f32 [books * 2^pq_bits, pq_len]; books: pq_dim, or the clusters */
} peri_pq;

/* The pq_dim taken for rows of `dim` columns when none is given: dim, halved from 128 on, rounded
 * down to whole 32s; below 32 the largest power of two in it. */
uint32_t peri_pq_default_dim(uint32_t dim);

static inline size_t peri_pq_row_bytes(uint32_t pq_dim, uint32_t pq_bits) {
    return peri_codes_bytes(pq_dim, pq_bits);
}

/* Fills dim, pq_dim (0 = the default), pq_len, rotated_dim, pq_bits; the rest is empty.
 * PERI_E_ARGUMENT: pq_dim above dim. */
peri_status peri_pq_shape(peri_pq *pq, uint32_t dim, uint32_t pq_dim, uint32_t pq_bits);

/* A random rotation at a place, where the shape needs one or `force` says so; else NULL stays. */
peri_status peri_pq_make_rotation(peri_pq *pq, peri_context *context, peri_place place, bool force,
                                  uint64_t seed);

/* Checks matrices that came from a file or an index; nothing in them is trusted. `books` is how
 * many there must be. PERI_E_CORRUPT names the section. */
peri_status peri_pq_check(const peri_pq *pq, size_t books);

/* Lets go of the matrices. */
void peri_pq_reset(peri_pq *pq);

/* Enqueues: out f32 [n, rotated_dim] = rows [n, dim] at the lane's place, less centroids[labels]
 * where given (see peri_op_rotate), rotated. */
peri_status peri_pq_rotate(const peri_pq *pq, peri_lane *lane, const peri_view *rows,
                           const float *centroids, const uint32_t *labels, const peri_view *out);

/* Enqueues: codes of rotated rows [n, rotated_dim] f32; `labels` for per_cluster books only. */
peri_status peri_pq_encode(const peri_pq *pq, peri_lane *lane, const peri_view *rotated,
                           const uint32_t *labels, uint8_t *codes);

/* Rows at the pq's place as a new matrix f32 [n, rotated_dim] there: rotates and waits. */
peri_status peri_pq_rotated(const peri_pq *pq, peri_matrix *rows, size_t threads,
                            const peri_control *control, peri_matrix **out);

/* What codes (host, packed rows) stand for, not rotated back: y [n, rotated_dim] on the host.
 * `words` are the codebooks on the host. One row of codes is book 0..pq_dim-1, or `label` for
 * per_cluster. */
void peri_pq_decode(const peri_pq *pq, const float *words, const uint8_t *code, uint32_t label,
                    float *y);

/* The transpose of a rotation on the host, f32 [dim, rotated_dim]: turns decoded rows back. */
peri_status peri_pq_transposed(const peri_pq *pq, peri_context *context, peri_matrix **out);

#endif
