/* rotation.h: a random orthonormal rotation that costs D log D instead of D^2.
 *
 * Four rounds; each flips signs at random, runs a Hadamard transform over the largest power of
 * two that fits (the first columns in rounds 0 and 2, the last ones in 1 and 3), and, when D is
 * no power of two, mixes column i with column i + D / 2 by a turn of 45 degrees, so that every
 * column reaches every other. The input is padded with zeros from `dim` to D. Each step keeps
 * lengths, so the whole is orthonormal to rounding; undo() is its transpose.
 *
 * Source: Ailon & Chazelle, The fast Johnson-Lindenstrauss transform (2009) for signs and
 * Hadamard; the pairwise turns are Kac's walk. Plain sums in a fixed order: the same bits
 * everywhere. Threads: a rotation is immutable. */
#ifndef PERI_QUANT_ROTATION_H
#define PERI_QUANT_ROTATION_H

#include "core/matrix.h"

typedef struct peri_rotation {
    peri_context *context; /* not retained */
    uint32_t dim, out_dim; /* dim <= out_dim */
    uint32_t power;        /* the largest power of two <= out_dim */
    float *signs;          /* [4, out_dim] 1 or -1 */
} peri_rotation;

peri_status peri_rotation_init(peri_rotation *rotation, peri_context *context, uint32_t dim,
                               uint32_t out_dim, uint64_t seed);
void peri_rotation_reset(peri_rotation *rotation);

/* out [out_dim] = rotation of x [dim]. */
void peri_rotation_apply(const peri_rotation *rotation, const float *x, float *out);
/* The other way, in place: y [out_dim]; its first `dim` numbers are the result. */
void peri_rotation_undo(const peri_rotation *rotation, float *y);

/* The same as a matrix on the host, f32 [out_dim, dim]: what is multiplied where the rotation is
 * learned, too. Its columns are orthonormal. */
peri_status peri_rotation_matrix(peri_context *context, uint32_t dim, uint32_t out_dim,
                                 uint64_t seed, peri_matrix **out);

#endif
