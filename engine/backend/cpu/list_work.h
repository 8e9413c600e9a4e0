/* list_work.h: the order in which queries meet inverted lists, whatever the entries are.
 *
 * Queries are taken in batches. The pairs (query, list) of a batch are ordered: first each query
 * with its nearest list, then the others, both by list, so that queries which probe one list read
 * it together, and most of them know near rows already when they come to lists farther off. A task
 * is a block of the queries of one list on a segment of its entries; how large both are, and what
 * a task does, is the operation's (shape, run). Each worker keeps entries of each query of the
 * batch (list_keep.h); they are merged at the end, and the k best by (distance, slot) do not depend
 * on who found them. Who may touch what: `bounds` is shared and atomic; what is kept and counts
 * belong to their worker; the rest is read only while tasks run. */
#ifndef PERI_BACKEND_CPU_LIST_WORK_H
#define PERI_BACKEND_CPU_LIST_WORK_H

#include <stdatomic.h>

#include "backend/cpu/list_keep.h"
#include "perigee_backend.h"

/* One task: entries [at, stop) of the arena, which lie in one list, and `count` queries of the
 * batch that probe it: members[0..count-1], or first_member.. when members is NULL. */
typedef struct peri_list_task {
    size_t list, at, stop;
    const uint32_t *members;
    size_t first_member, count;
    size_t worker;
} peri_list_task;

/* How the queries that meet one list are cut: queries of a task, entries of a task. */
typedef struct peri_list_shape {
    size_t queries, entries;
} peri_list_shape;

typedef struct peri_list_work {
    const char *name; /* of the operation */
    peri_lists_view lists;
    const int64_t *probes; /* NULL: all lists */
    size_t n_probes;       /* not read without probes */
    const peri_filter_view *filter;
    size_t queries, k;
    int64_t *ids;          /* [queries, k] */
    float *distances;      /* [queries, k] */
    uint32_t *visited_out; /* [queries] or NULL */
    double entry_cost;     /* of one query and one entry, in multiply-adds */
    peri_list_shape (*shape)(const void *job, size_t queries);
    void (*run)(const void *job, const peri_list_task *task);
    /* (optional) What is the same for all lists of a query of the batch, before any task. */
    void (*prepare)(const void *job, size_t query, size_t worker);
    size_t batch_most; /* queries of a batch at most; 0 = as many as else */
    const void *job;

    /* From here on list_work.c's. */
    size_t workers;     /* of the scratch: at least as many as run */
    size_t batch_limit; /* queries of a batch at most */

    /* The batch at hand. A bucket is a list met by some queries: bucket l is list l met first, by
     * those whose nearest it is, bucket n_lists + l is list l met by the others. Without probes
     * there are only the first n_lists. */
    size_t first, count; /* queries */
    size_t buckets;
    size_t *starts;         /* [buckets + 1] of a bucket's queries in `members` */
    uint32_t *members;      /* [count * n_probes] queries of the batch by bucket; NULL: all */
    size_t *task_starts;    /* [buckets + 1] tasks before those of a bucket */
    peri_list_keep *kept;   /* [workers, batch_limit] */
    uint32_t *entries;      /* [workers, batch_limit, 2, room]: values, then slots */
    uint64_t *sort_keys;    /* [workers, 2 k] */
    uint32_t *visited;      /* [workers, batch_limit] */
    _Atomic(float) *bounds; /* [batch_limit] no k-th value can be above it */
} peri_list_work;

/* The scratch that the work needs; `base` NULL: only how much. Call it before anything else. */
size_t peri_list_work_plan(peri_list_work *work, const peri_device *device, void *base);

/* Runs all batches. */
peri_status peri_list_work_run(peri_list_work *work, peri_stream *stream);

/* Whether all queries have one filter, or none. */
bool peri_list_shared_filter(const peri_filter_view *filter, size_t queries);

/* The number of a task's query in the batch; batch->first + it is that in the operation. */
static inline size_t peri_list_member(const peri_list_task *task, size_t i) {
    return task->members == NULL ? task->first_member + i : task->members[i];
}

static inline peri_list_keep *peri_list_kept(const peri_list_work *work, size_t worker,
                                             size_t query) {
    return &work->kept[worker * work->batch_limit + query];
}

/* The bits that say which slots a query of the batch may return; NULL = all. */
const uint64_t *peri_list_filter(const peri_list_work *work, size_t query);

static inline void peri_list_count(const peri_list_work *work, size_t worker, size_t query,
                                   size_t visited) {
    work->visited[worker * work->batch_limit + query] += (uint32_t)visited;
}

static inline float peri_list_bound(const peri_list_work *work, size_t query) {
    return atomic_load_explicit(&work->bounds[query], memory_order_relaxed);
}

/* Lowers the bound of a query to what a worker's entries prove. */
static inline void peri_list_share_bound(const peri_list_work *work, size_t query,
                                         peri_list_keep *keep) {
    float value = peri_list_keep_bound(keep);
    _Atomic(float) *bound = &work->bounds[query];
    float seen = atomic_load_explicit(bound, memory_order_relaxed);
    while (value < seen && !atomic_compare_exchange_weak_explicit(
                               bound, &seen, value, memory_order_relaxed, memory_order_relaxed)) {}
}

#endif
