/* rabitq.h: RaBitQ codes, 1 to 8 bits a dimension, and queries for them. What a code means is in
 * core/rabitq_code.h.
 *
 * A user of codes rotates once (peri_rabitq_rotate: rows, centroids and queries alike), then
 *     rows:     peri_rabitq_encode(Po, Pc) makes the row: codes and factors
 *     queries:  peri_rabitq_prepare(Pq) rounds it; peri_rabitq_estimate() gives distances
 * With one bit the code is the sign of each rotated column. With more, a step is looked for that
 * brings the code's direction nearest to the row's, among 16 around the best one for normal
 * values, then each code is moved by one where that brings it nearer still; this replaces the
 * exact enumeration of the paper at a hundredth of its cost and within 3 % of its error.
 *
 * Source: Gao & Long, RaBitQ (SIGMOD 2024, arXiv 2405.12497); arXiv 2409.09913 for more bits.
 * Threads: immutable once made. */
#ifndef PERI_QUANT_RABITQ_H
#define PERI_QUANT_RABITQ_H

#include "core/matrix.h"
#include "core/rabitq_code.h"
#include "quant/rotation.h"

typedef struct peri_rabitq {
    uint32_t dim;
    uint32_t padded_dim; /* dim rounded up to PERI_RABITQ_BLOCK: padding rotates too, and its
                          * codes make estimates better */
    uint32_t bits;       /* 1..8 */
    uint64_t seed;       /* of the rotation: that and the shape is all there is to save */
    peri_rotation rotation;
} peri_rabitq;

static inline uint32_t peri_rabitq_padded_dim(uint32_t dim) {
    return (dim + PERI_RABITQ_BLOCK - 1) / PERI_RABITQ_BLOCK * PERI_RABITQ_BLOCK;
}

peri_status peri_rabitq_init(peri_rabitq *rabitq, peri_context *context, uint32_t dim,
                             uint32_t bits, uint64_t seed);
void peri_rabitq_reset(peri_rabitq *rabitq);

/* out [padded_dim] = P x, x [dim]. */
static inline void peri_rabitq_rotate(const peri_rabitq *rabitq, const float *x, float *out) {
    peri_rotation_apply(&rabitq->rotation, x, out);
}

/* Bytes of scratch that encode and decode take, 4-byte aligned. */
static inline size_t peri_rabitq_scratch_bytes(const peri_rabitq *rabitq) {
    return (size_t)rabitq->padded_dim * (sizeof(float) + 1);
}

/* Codes one row. rotated [padded_dim] is Po; centroid [padded_dim] is Pc, NULL = none. row is
 * peri_rabitq_row_bytes() long. `error`, if not NULL, gets e such that the estimate of <o - c,
 * q - c> is off by less than 1.9 * e * |q - c| in 94 of 100 cases (the paper's bound). */
void peri_rabitq_encode(const peri_rabitq *rabitq, const float *rotated, const float *centroid,
                        uint8_t *row, float *error, void *scratch);

/* The row nearest to what the code says, in the rotated space, [padded_dim]: centroid + t * x with
 * t of least squared error. Unrotate with peri_rotation_undo. */
void peri_rabitq_decode(const peri_rabitq *rabitq, const uint8_t *row, const float *centroid,
                        float *rotated, void *scratch);

/* Rounds a rotated query to `values` [padded_dim] and fills `query`, which keeps the pointer. */
void peri_rabitq_prepare(const peri_rabitq *rabitq, const float *rotated, int8_t *values,
                         peri_rabitq_query *query);

#endif
