/* list_scan.h: what the parts of a scan of inverted lists share: the job of one operation.
 *
 * Queries are taken in batches. The pairs (query, list) of a batch are ordered by list, so that
 * queries which probe one list read it together; a task is a block of the queries of one list on a
 * segment of its entries. Each worker has a heap of k results for each query of the batch; the
 * heaps are merged at the end, and the k best by (distance, slot) do not depend on who found
 * them. */
#ifndef PERI_BACKEND_CPU_LIST_SCAN_H
#define PERI_BACKEND_CPU_LIST_SCAN_H

#include "backend/cpu/distances.h"
#include "core/topk.h"

typedef struct peri_list_job {
    const peri_op_list_scan *op;
    peri_distances distances;
    size_t workers;     /* of the scratch: at least as many as run */
    size_t batch_limit; /* queries of a batch at most */
    size_t n_probes;    /* lists of a query: all of them without probes */

    /* The batch at hand. */
    size_t first, count;   /* queries */
    size_t *starts;        /* [n_lists + 1] of a list's queries in `members` */
    uint32_t *members;     /* [count * n_probes] queries of the batch by list; NULL: all */
    size_t *task_starts;   /* [n_lists + 1] tasks before those of a list */
    size_t block_queries;  /* of a task at most */
    size_t segment_rows;   /* of a task at most */
    peri_topk *heaps;      /* [workers, batch_limit] */
    float *heap_distances; /* [workers - 1, batch_limit, k]; worker 0 uses the output */
    int64_t *heap_ids;
    uint32_t *visited; /* [workers, batch_limit] */
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

/* Every entry that passes gets its canonical distance. */
void peri_list_direct_task(const peri_list_job *job, const peri_list_task *task);

#endif
