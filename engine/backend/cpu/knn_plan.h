/* knn_plan.h: what the parts of exact search share: the job of one operation.
 *
 * Queries are taken in batches; a batch is cut into blocks of queries and segments of rows, and a
 * task is one block on one segment. Each worker keeps entries of its own for each query of the
 * batch (knn_keep.h), so tasks need no lock, and they are merged at the end: the k best by
 * (distance, slot) do not depend on who found them. Who may touch what: `bounds` is shared and
 * atomic; entries, panels and thresholds belong to their worker; the rest is read only while tasks
 * run. */
#ifndef PERI_BACKEND_CPU_KNN_PLAN_H
#define PERI_BACKEND_CPU_KNN_PLAN_H

#include <stdatomic.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/knn_block.h"
#include "backend/cpu/select.h"

/* The rows of a segment that pass a filter, ascending. */
typedef struct peri_passing {
    const uint64_t *bits; /* NULL: all rows, or the list */
    const uint32_t *list; /* NULL: all rows, or the bits */
    size_t at, stop;
} peri_passing;

peri_passing peri_passing_open(const peri_filter_view *filter, uint32_t which, size_t first,
                               size_t stop);
/* Up to `most` of the following ones; 0 at the end. */
size_t peri_passing_next(peri_passing *passing, uint32_t *slots, size_t most);

/* What a query brings to the coarse pass. */
typedef struct peri_knn_query {
    double norm;  /* squared L2: |q|^2, centred; inner product: |q|; cosine: the canonical length */
    float slack;  /* inner product: times the longest row of a panel */
    float length; /* cosine: the canonical length */
    int32_t base; /* i8 and u8: of peri_block_rule */
    bool unbounded; /* f32 and f16: out of the range of the bound, every row is rescored */
} peri_knn_query;

/* The entries that one worker keeps of one query. */
typedef struct peri_kept {
    uint32_t count;
    uint32_t exact; /* the first ones, whose values are canonical; all of them when job->exact */
} peri_kept;

typedef struct peri_knn_job {
    const peri_op_knn *op;
    peri_distances distances;
    const peri_block_kernels *kernels;
    const peri_select_kernels *select;
    bool shared_filter; /* one filter for all: only passing rows go into panels */
    bool whole;         /* rows of i8 or u8 */
    size_t workers;     /* of the scratch: at least as many as run */
    size_t *order;      /* [q] queries: coarse ones first */
    size_t coarse_count;
    size_t batch_limit; /* queries of a batch at most */

    /* The batch at hand. */
    bool coarse;
    bool exact;                   /* only canonical values are kept */
    size_t first, count;          /* in `order` */
    size_t block_queries, blocks; /* queries a block; blocks */
    size_t segment_rows, segments;
    _Atomic(float) *bounds; /* [batch_limit] no k-th value can be above it */

    /* What is kept: knn_keep.c. */
    peri_kept *kept;     /* [workers, batch_limit] */
    uint32_t *entries;   /* [workers, batch_limit, 2, room] values, then slots */
    size_t room;         /* of entries, PERI_BLOCK_ROWS_MAX of it spare */
    uint64_t *sort_keys; /* [workers, 2 k] */
    float *longest;      /* [workers] inner product: of all rows that the worker has seen */

    /* The coarse pass. */
    float *centre;          /* [dim] near the mean of the rows, or NULL */
    float *tiles;           /* queries of the batch, transposed by tiles */
    peri_knn_query *brings; /* [batch_limit] */
    char *worker_scratch;   /* panel, its norms, thresholds: worker_bytes each */
    size_t worker_bytes;
    size_t block_limit; /* queries of a coarse block at most */
} peri_knn_job;

static inline uint32_t peri_knn_which(const peri_op_knn *op, size_t query) {
    return op->filter.which == NULL ? 0 : op->filter.which[query];
}

static inline bool peri_knn_is_squared(const peri_knn_job *job) {
    return job->op->metric == PERI_SQEUCLIDEAN || job->op->metric == PERI_EUCLIDEAN;
}

/* The bytes of query `query` of the batch. */
const void *peri_knn_query_bytes(const peri_knn_job *job, size_t query);

/* One task: queries [first, stop) of the batch on rows [row, row_stop). */
void peri_knn_direct_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker);
void peri_knn_coarse_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker);

/* The coarse pass: before a batch, the queries of one tile; once, the centre. */
void peri_knn_coarse_tile(const peri_knn_job *job, size_t tile);
void peri_knn_coarse_centre(peri_knn_job *job);
size_t peri_knn_coarse_worker_bytes(uint32_t dim, size_t block_limit);

#endif
