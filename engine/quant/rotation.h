/* rotation.h: the random rotation of core/turns.h with signs of its own, drawn from a seed, and as
 * a matrix. Threads: a rotation is immutable. */
#ifndef PERI_QUANT_ROTATION_H
#define PERI_QUANT_ROTATION_H

#include "core/matrix.h"

typedef struct peri_rotation {
    peri_context *context; /* not retained */
    uint32_t dim, out_dim; /* dim <= out_dim */
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
