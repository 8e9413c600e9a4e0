/* ivf_pq.h: the parameters of kind ivf_pq and how its quantizer is trained. */
#ifndef PERI_INDEX_IVF_PQ_H
#define PERI_INDEX_IVF_PQ_H

#include "index/ivf_codes.h"
#include "quant/pq.h"

#define PERI_IVF_PQ_PARAMS(X, S)                                                                   \
    PERI_IVF_PARAMS(X, S)                                                                          \
    X(S, INT, pq_bits, 8, 4, 8, NULL, NULL, "bits of a piece's code; 4 is the fastest to scan")    \
    X(S, INT, pq_dim, 0, 0, PERI_DIM_MAX, NULL,                                                    \
      "dim / 2 from 128 on, in whole 32s; below, the largest power of two within dim",             \
      "pieces of a row; where it does not divide dim, rows are padded")                            \
    X(S, CHOICE, codebook_kind, 0, 0, 1, "per_subspace|per_cluster", NULL,                         \
      "a book of codewords for each piece, or for each list")                                      \
    X(S, FLAG, residual, 1, 0, 1, NULL, NULL,                                                      \
      "code what a row is beside its centroid; false: the row itself")                             \
    X(S, FLAG, force_random_rotation, -1, 0, 1, NULL,                                              \
      "true with codebook_kind per_cluster, but for opq",                                          \
      "turn rows by a random rotation also where none is needed: finds more where columns differ " \
      "much, as those of text do, or with 4 bits")                                                 \
    X(S, FLAG, opq, 0, 0, 1, NULL, NULL, "learn the rotation with the least error; needs LAPACK")  \
    X(S, INT, max_train_points_per_pq_code, 256, 1, 65536, NULL, NULL,                             \
      "rows to learn from, for each of the 2^pq_bits codewords, at most")

PERI_PARAMS_STRUCT(peri_ivf_pq_params, PERI_IVF_PQ_PARAMS)

static inline const peri_ivf_pq_params *peri_ivf_pq_params_of(const peri_index *index) {
    return (const peri_ivf_pq_params *)(const void *)index->params;
}

/* The quantizer of an index: its shape, and the matrices of its sections, not retained. */
peri_status peri_ivf_pq_of(const peri_index *index, peri_pq *pq);

/* How many books its codewords are. */
size_t peri_ivf_pq_books(const peri_index *index, const peri_pq *pq);

/* What is coded of a row. */
peri_ivf_turn peri_ivf_pq_turn(const peri_index *index, const peri_pq *pq);

/* Adds "codebooks", and "rotation" and "rotated_centroids" where there is a rotation; resolves
 * pq_dim. peri_ivf_codes.train. */
peri_status peri_ivf_pq_train(peri_index *index, peri_matrix *rows, size_t threads,
                              const peri_control *control);

#endif
