/* knn_direct.cuh: exact nearest rows by reading them all and computing canonical distances: the
 * path for few queries, and what the plan of KNN (knn.cu) falls back to. */
#ifndef PERI_CUDA_KNN_DIRECT_CUH
#define PERI_CUDA_KNN_DIRECT_CUH

#include "perigee_backend.h"

/* Does the operation, or of it only `*queries_left` queries (on the device; NULL: all), those that
 * `which_queries` names (on the device; NULL: the first ones). The rest of ids and distances is not
 * written. The caller asked supports(). Scratch is 256-byte aligned; the bound is for any number of
 * queries left. */
size_t peri_knn_direct_scratch(const peri_device *device, const peri_op_knn *op);
peri_status peri_knn_direct_run(peri_stream *stream, const peri_op_knn *op,
                                const uint32_t *queries_left, const uint32_t *which_queries,
                                void *scratch, size_t scratch_bytes);

#endif
