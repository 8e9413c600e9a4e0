/* list_scan.h: what the parts of a scan of inverted lists share: the job of one operation.
 *
 * Queries are taken in batches. The pairs (query, list) of a batch are ordered: first each query
 * with its nearest list, then the others, both by list, so that queries which probe one list read
 * it together, and most of them know near rows already when they come to lists farther off. A task
 * is a block of the queries of one list on a segment of its entries; several queries go together
 * (list_coarse.c), few one by one (list_direct.c). Each worker has a heap of k results for each
 * query of the batch; the heaps are merged at the end, and the k best by (distance, slot) do not
 * depend on who found them. Who may touch what: `bounds` is shared and atomic; heaps, counts and
 * scratch belong to their worker; the rest is read only while tasks run. */
#ifndef PERI_BACKEND_CPU_LIST_SCAN_H
#define PERI_BACKEND_CPU_LIST_SCAN_H

#include <stdatomic.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/knn_block.h"
#include "core/topk.h"

typedef struct peri_list_job {
    const peri_op_list_scan *op;
    peri_distances distances;
    const peri_block_kernels *kernels; /* NULL: queries go one by one */
    bool shared_filter;                /* one filter for all */
    size_t workers;                    /* of the scratch: at least as many as run */
    size_t batch_limit;                /* queries of a batch at most */
    size_t n_probes;                   /* lists of a query: all of them without probes */
    size_t coarse_queries;             /* of a block that goes together, at most */

    /* The batch at hand. A bucket is a list met by some queries: bucket l is list l met first, by
     * those whose nearest it is, bucket n_lists + l is list l met by the others. Without probes
     * there are only the first n_lists. */
    size_t first, count; /* queries */
    size_t buckets;
    size_t *starts;        /* [buckets + 1] of a bucket's queries in `members` */
    uint32_t *members;     /* [count * n_probes] queries of the batch by bucket; NULL: all */
    size_t *task_starts;   /* [buckets + 1] tasks before those of a bucket */
    peri_topk *heaps;      /* [workers, batch_limit] */
    float *heap_distances; /* [workers - 1, batch_limit, k]; worker 0 uses the output */
    int64_t *heap_ids;
    uint32_t *visited;      /* [workers, batch_limit] */
    _Atomic(float) *bounds; /* [batch_limit] no k-th value can be above it */
    char *worker_scratch;   /* of list_coarse.c: worker_bytes each */
    size_t worker_bytes;
} peri_list_job;

/* One task: entries [at, stop) of the arena, which lie in one list, and `count` queries of the
 * batch that probe it: members[0..count-1], or first_member.. when members is NULL. */
typedef struct peri_list_task {
    size_t at, stop;
    const uint32_t *members;
    size_t first_member, count;
    size_t worker;
} peri_list_task;

static inline size_t peri_list_member(const peri_list_task *task, size_t i) {
    return task->members == NULL ? task->first_member + i : task->members[i];
}

static inline peri_topk *peri_list_heap(const peri_list_job *job, size_t worker, size_t query) {
    return &job->heaps[worker * job->batch_limit + query];
}

/* The bits that say which slots a query of the batch may return; NULL = all. */
const uint64_t *peri_list_filter(const peri_list_job *job, size_t query);

/* Lowers the bound of a query to what a worker's heap proves. */
static inline void peri_list_share_bound(const peri_list_job *job, size_t query,
                                         const peri_topk *top) {
    float value = peri_topk_bound(top);
    _Atomic(float) *bound = &job->bounds[query];
    float seen = atomic_load_explicit(bound, memory_order_relaxed);
    while (value < seen && !atomic_compare_exchange_weak_explicit(
                               bound, &seen, value, memory_order_relaxed, memory_order_relaxed)) {}
}

/* Every entry that passes gets its canonical distance. */
void peri_list_direct_task(const peri_list_job *job, const peri_list_task *task);

/* The same with a coarse pass before; all queries have one filter. */
void peri_list_coarse_task(const peri_list_job *job, const peri_list_task *task);
size_t peri_list_coarse_worker_bytes(const peri_op_list_scan *op, size_t block_queries);

#endif
