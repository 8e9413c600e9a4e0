/* knn_keep.h: the entries that exact search keeps of a query until its k nearest are known.
 *
 * A worker has room for about 2 k entries of each query of the batch. They are appended as they
 * come; when the room is full, those that can't be among the k nearest are dropped (knn_bound.h
 * says which), and the bound that all workers share falls. So an entry costs a few cycles whatever
 * k is, where a heap costs log k unpredictable branches, and in the coarse pass only what is left
 * in the end is rescored with the canonical routine. Where the doubt of the coarse values is too
 * large to drop enough, the entries are rescored at once and selected by (value, slot). */
#ifndef PERI_BACKEND_CPU_KNN_KEEP_H
#define PERI_BACKEND_CPU_KNN_KEEP_H

#include "backend/cpu/knn_plan.h"

static inline peri_kept *peri_kept_of(const peri_knn_job *job, size_t worker, size_t query) {
    return &job->kept[worker * job->batch_limit + query];
}

static inline float *peri_kept_values(const peri_knn_job *job, size_t worker, size_t query) {
    return (float *)(void *)(job->entries + (worker * job->batch_limit + query) * 2 * job->room);
}

static inline uint32_t *peri_kept_slots(const peri_knn_job *job, size_t worker, size_t query) {
    return job->entries + ((worker * job->batch_limit + query) * 2 + 1) * job->room;
}

static inline float peri_knn_bound_of(const peri_knn_job *job, size_t query) {
    return atomic_load_explicit(&job->bounds[query], memory_order_relaxed);
}

/* Entries of a query that a worker has room for when it keeps k. */
size_t peri_keep_room(size_t k);

/* Whether PERI_BLOCK_ROWS_MAX more entries might not fit; then reduce. */
static inline bool peri_keep_is_full(const peri_knn_job *job, const peri_kept *kept) {
    return kept->count + PERI_BLOCK_ROWS_MAX > job->room;
}

/* Drops entries that can't be among the k nearest, and lowers the bound. Cost: the entries, about
 * fifteen times, by vectors; rarely a canonical distance for each of them. */
void peri_keep_reduce(const peri_knn_job *job, size_t worker, size_t query);

/* Adds canonical values, PERI_BLOCK_ROWS_MAX at most; those above the bound are left out. */
void peri_keep_exact(const peri_knn_job *job, size_t worker, size_t query, const float *values,
                     const uint32_t *slots, size_t count);

/* The k nearest of what all workers kept of the query, into the operation's output. `worker` is the
 * one that does it. */
void peri_keep_finish(const peri_knn_job *job, size_t worker, size_t query);

#endif
