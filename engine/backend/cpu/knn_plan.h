/* knn_plan.h: what the parts of exact search share: the job of one operation.
 *
 * Queries are taken in batches; a batch is cut into blocks of queries and segments of rows, and a
 * task is one block on one segment. Each worker has a heap of k results for each query of the
 * batch, so tasks need no lock, and the heaps are merged at the end: the k best by (distance, slot)
 * do not depend on who found them. Who may touch what: `bounds` is shared and atomic; heaps, panels
 * and thresholds belong to their worker; the rest is read only while tasks run. */
#ifndef PERI_BACKEND_CPU_KNN_PLAN_H
#define PERI_BACKEND_CPU_KNN_PLAN_H

#include <stdatomic.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/knn_block.h"
#include "core/topk.h"

/* The rows of a segment that pass a filter, ascending, counted from the segment's first row. */
typedef struct peri_passing {
    const uint64_t *bits; /* NULL: all rows, or the list */
    const uint32_t *list; /* NULL: all rows, or the bits */
    size_t base, at, stop;
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
    bool unbounded; /* out of the range of the bound: every row is rescored */
} peri_knn_query;

typedef struct peri_knn_job {
    const peri_op_knn *op;
    peri_distances distances;
    const peri_block_kernels *kernels;
    bool shared_filter; /* one filter for all: only passing rows go into panels */
    size_t workers;     /* of the scratch: at least as many as run */
    size_t *order;      /* [q] queries: coarse ones first */
    size_t coarse_count;
    size_t batch_limit; /* queries of a batch at most */

    /* The batch at hand. */
    bool coarse;
    size_t first, count;          /* in `order` */
    size_t block_queries, blocks; /* queries a block; blocks */
    size_t segment_rows, segments;
    peri_topk *heaps;      /* [workers, batch_limit] */
    float *heap_distances; /* [workers - 1, batch_limit, k]; worker 0 uses the output */
    int64_t *heap_ids;
    _Atomic(float) *bounds; /* [batch_limit] no k-th value can be above it */

    /* The coarse pass. */
    float *centre;          /* [dim] near the mean of the rows, or NULL */
    bool whole;             /* i8 and u8: pairs of 16-bit columns */
    float *tiles;           /* queries of the batch, transposed by tiles; int16_t when whole */
    peri_knn_query *brings; /* [batch_limit] */
    char *worker_scratch;   /* panel, its norms, thresholds: worker_bytes each */
    size_t worker_bytes;
    size_t block_limit; /* queries of a coarse block at most */
} peri_knn_job;

static inline peri_topk *peri_knn_heap(const peri_knn_job *job, size_t worker, size_t query) {
    return &job->heaps[worker * job->batch_limit + query];
}

static inline uint32_t peri_knn_which(const peri_op_knn *op, size_t query) {
    return op->filter.which == NULL ? 0 : op->filter.which[query];
}

/* One task: queries [first, stop) of the batch on rows [row, row_stop). */
void peri_knn_direct_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker);
void peri_knn_coarse_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker);

/* The coarse pass: before a batch, the queries of one tile; once, the centre. */
void peri_knn_coarse_tile(const peri_knn_job *job, size_t tile);
void peri_knn_coarse_centre(peri_knn_job *job);
size_t peri_knn_coarse_worker_bytes(uint32_t dim, size_t block_limit);

/* A copy of the distances whose row 0 is row `first`. */
peri_distances peri_knn_shifted(const peri_knn_job *job, size_t first);

#endif
