/* opq.h: the rotation with the least distortion (Ge, He, Ke, Sun: Optimized product quantization
 * for approximate nearest neighbor search, CVPR 2013, the non-parametric solution).
 *
 * From the columns as they are or from a random rotation, whichever leads to less error, again and
 * again: a few of Lloyd's iterations on the rotated sample, going on from the last books; then the
 * rotation that brings the sample nearest to what its codes stand for (orthogonal Procrustes). The
 * books themselves are trained anew after the last rotation: those of the way fit the rotations of
 * the way. */
#ifndef PERI_QUANT_OPQ_H
#define PERI_QUANT_OPQ_H

#include "quant/pq.h"

typedef struct peri_opq_training {
    peri_matrix *sample; /* f32 [m, dim] at the place of the pq */
    uint32_t n_iters;    /* rotations */
    uint64_t seed;
    size_t threads;
    const peri_control *control;
} peri_opq_training;

/* Learns pq->rotation, at the sample's place; pq has its shape. PERI_E_UNSUPPORTED: no LAPACK. */
peri_status peri_opq_learn_rotation(peri_pq *pq, const peri_opq_training *training);

#endif
