/* pairwise.cuh: tables of canonical sums, for the operations that are made of them. */
#ifndef PERI_CUDA_PAIRWISE_CUH
#define PERI_CUDA_PAIRWISE_CUH

#include "perigee_backend.h"

/* out[i, j] = the canonical dot of row i of a and row j of b, both f32 [., d], aligned. */
peri_status peri_cuda_dots(peri_stream *stream, const peri_view *a, const peri_view *b,
                           const peri_view *out);

#endif
