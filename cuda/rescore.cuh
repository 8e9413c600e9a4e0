/* rescore.cuh: from candidates of the coarse pass to the answer: canonical distances, the best k,
 * and whether these are proved. */
#ifndef PERI_CUDA_RESCORE_CUH
#define PERI_CUDA_RESCORE_CUH

#include "prepare.cuh"

struct peri_rescore {
    const peri_op_knn *op; /* host: read before the call returns */
    uint32_t wanted;
    const uint64_t *keys;             /* [q, wanted] as the coarse pass leaves them */
    const peri_prepared_query *about; /* [q] */
    const peri_prepared_stats *stats;
    uint32_t *which; /* [q] out: the queries that are not proved, in any order */
    uint32_t *left;  /* [1] out: how many */
};

/* Writes the operation's ids and distances of these queries; those of the queries in `which` are to
 * be written over. */
peri_status peri_rescore_run(peri_stream *stream, const peri_rescore *rescore);

#endif
