/* knn_direct.cuh: exact kNN by canonical distances alone, for few queries, few rows, and what the
 * coarse pass does not take or could not prove. */
#ifndef PERI_CUDA_KNN_DIRECT_CUH
#define PERI_CUDA_KNN_DIRECT_CUH

#include "support.cuh"

/* An upper bound, in bytes, whatever the number of queries left. */
size_t peri_knn_direct_scratch(const peri_device *device, const peri_op_knn *op);

/* All queries of the operation; or, with `queries_left` and `which_queries` (both on the device),
 * the first *queries_left that `which_queries` names, in any number, at most op->queries.rows: the
 * launch is for the most, and what is beyond leaves at once. Answers go to the places of the
 * queries that they are of. */
peri_status peri_knn_direct_run(peri_stream *stream, const peri_op_knn *op,
                                const uint32_t *queries_left, const uint32_t *which_queries,
                                void *scratch, size_t scratch_bytes);

#endif
