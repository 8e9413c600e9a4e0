/* rescore.cuh: from candidates of the coarse pass to the answer: canonical distances, the best k,
 * and whether these are proved. */
#ifndef PERI_CUDA_RESCORE_CUH
#define PERI_CUDA_RESCORE_CUH

#include "coarse.cuh"
#include "prepare.cuh"

struct peri_rescore {
    const peri_op_knn *op; /* host: read before the call returns */
    uint32_t wanted;
    const uint64_t *keys;             /* [q, wanted] as the coarse pass leaves them */
    const peri_prepared_query *about; /* [q] */
    const peri_prepared_stats *stats; /* of rows in f16, or */
    const peri_coarse_norms *norms;   /* of f32 rows where they lie, not NULL */
    const uint32_t *needed;           /* NULL, or nothing but `left` is written when *needed is 0 */
    uint32_t *which;                  /* [q] out: the queries that are not proved, in any order */
    uint32_t *left;                   /* [1] out: how many */
    uint32_t *again; /* NULL, or [1] out: q when some are left, else not written: all are then done
                        again, and the operation's `redone` says so */
    const uint32_t *counted; /* NULL, or when *counted is not 0 `redone` is left alone */
};

/* Writes the operation's ids and distances of these queries; those of the queries in `which` are to
 * be written over. */
peri_status peri_rescore_run(peri_stream *stream, const peri_rescore *rescore);

#endif
