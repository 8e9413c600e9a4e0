/* knn_direct.cuh: exact nearest rows by reading them all and computing canonical distances: the
 * path for few queries, and what the plan of KNN (knn.cu) falls back to. */
#ifndef PERI_CUDA_KNN_DIRECT_CUH
#define PERI_CUDA_KNN_DIRECT_CUH

#include "perigee_backend.h"

/* Rows to which a query is held: query i of those that are done reads names[i * room] and the ones
 * after it, counts[i] of them; room = entries / their number. One with more than room is not done
 * but named among `which`. On the device, as the coarse pass collects them (coarse.cuh). */
struct peri_knn_rows {
    const uint32_t *counts, *names; /* names NULL: no lists */
    size_t entries;
    uint32_t *which; /* [q] out, from 0 on, in any order */
    uint32_t *left;  /* [1] in and out: how many; 0 at first */
    uint32_t *all;   /* [1] in and out: the same of all calls; may be NULL */
};

/* Does the operation, or of it only `*queries_left` queries (on the device; NULL: all), those that
 * `which_queries` names (on the device; NULL: the first ones). The rest of ids and distances is not
 * written. With lists, the filter is taken to have been seen to. The caller asked supports().
 * Scratch is 256-byte aligned; the bound is for any number of queries left, with lists or not. */
size_t peri_knn_direct_scratch(const peri_device *device, const peri_op_knn *op);
peri_status peri_knn_direct_run(peri_stream *stream, const peri_op_knn *op,
                                const uint32_t *queries_left, const uint32_t *which_queries,
                                const peri_knn_rows *lists, void *scratch, size_t scratch_bytes);

#endif
