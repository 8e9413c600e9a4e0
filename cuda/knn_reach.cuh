/* knn_reach.cuh: of the queries whose answer is not proved, how far the rows can be that may still
 * be among it: what the coarse pass is to collect for them. */
#ifndef PERI_CUDA_KNN_REACH_CUH
#define PERI_CUDA_KNN_REACH_CUH

#include "prepare.cuh"

struct peri_knn_reach {
    const peri_op_knn *op; /* host: read before the call returns; its distances hold k rows' */
    const uint32_t *which, *left;     /* the queries: *left of them */
    const peri_prepared_query *about; /* [q] */
    const peri_prepared_stats *stats;
    const void *queries; /* [q, query_bytes] as prepared */
    size_t query_bytes;
    void *packed; /* [q, query_bytes] out: those of `which`, then zeros to the end of a tile */
    uint32_t *filter_which; /* [q] out, or NULL: the filters of these, then 0 */
    uint64_t *bounds;       /* [q] out: as peri_coarse_reach has them; 0 when nothing is known */
    uint32_t *counts;       /* [q] out: 0, or more than any room where nothing is known */
    uint32_t *none_left;    /* [1] out: 0 */
};

peri_status peri_knn_reach_run(peri_stream *stream, const peri_knn_reach *reach);

#endif
