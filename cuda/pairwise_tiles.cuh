/* pairwise_tiles.cuh: canonical distances of many pairs, by threads that hold whole pairs. */
#ifndef PERI_CUDA_PAIRWISE_TILES_CUH
#define PERI_CUDA_PAIRWISE_TILES_CUH

#include "perigee_backend.h"

/* Whether there are enough pairs for it to be the faster way. */
bool peri_cuda_pairwise_tiled(const peri_op_pairwise *op);

/* f32 and f16 rows: pairwise_tiles.cu. */
size_t peri_cuda_pairwise_tiles_scratch(const peri_op_pairwise *op);

peri_status peri_cuda_pairwise_tiles(peri_stream *stream, const peri_op_pairwise *op,
                                     void *scratch);

/* i8 and u8 rows: pairwise_bytes.cu. */
size_t peri_cuda_pairwise_bytes_scratch(const peri_op_pairwise *op);

peri_status peri_cuda_pairwise_bytes(peri_stream *stream, const peri_op_pairwise *op,
                                     void *scratch);

#endif
