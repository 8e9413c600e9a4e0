/* knn_keep.c: what exact search keeps of a query: reducing, merging, sorting. */
#include "backend/cpu/knn_keep.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/knn_bound.h"
#include "core/checked.h"
#include "core/matrix.h"

#define ROOM_LEAST 16u /* entries beyond k: with fewer the reductions come too often (taste) */
#define MOST_SHARE 8u  /* of the entries beyond k, what a reduction may leave to be quick (taste) */
#define WORKERS_MAX 1024u

size_t peri_keep_room(size_t k) {
    return peri_round_up(k + peri_max_size(k, ROOM_LEAST) + PERI_BLOCK_ROWS_MAX, 16);
}

/* Lowers the shared bound of a query and returns it. */
static float share_bound(const peri_knn_job *job, size_t query, float value) {
    _Atomic(float) *bound = &job->bounds[query];
    float seen = atomic_load_explicit(bound, memory_order_relaxed);
    while (value < seen && !atomic_compare_exchange_weak_explicit(
                               bound, &seen, value, memory_order_relaxed, memory_order_relaxed)) {}
    return value < seen ? value : seen;
}

static bool is_exact(const peri_knn_job *job, const peri_kept *kept) {
    return job->exact || kept->exact == kept->count;
}

/* ---- canonical values ---------------------------------------------------------------------- */

/* Replaces the coarse values by canonical ones. */
static void rescore(const peri_knn_job *job, size_t worker, size_t query) {
    peri_kept *kept = peri_kept_of(job, worker, query);
    if (is_exact(job, kept)) return;
    float *values = peri_kept_values(job, worker, query);
    const uint32_t *slots = peri_kept_slots(job, worker, query);
    peri_distances_slots(&job->distances, peri_knn_query_bytes(job, query),
                         job->brings[query].length, slots + kept->exact, kept->count - kept->exact,
                         values + kept->exact);
    kept->exact = kept->count;
}

/* Of exact entries, the k best by (value, slot), or up to `most` of the best, without an order;
 * returns the largest value, +inf when there are fewer than k. */
static float choose_exact(const peri_knn_job *job, size_t worker, size_t query, size_t most) {
    peri_kept *kept = peri_kept_of(job, worker, query);
    size_t count = kept->count;
    float kth = peri_select_best(job->select, peri_kept_values(job, worker, query),
                                 peri_kept_slots(job, worker, query), &count, job->op->k, most);
    kept->count = (uint32_t)count;
    if (count >= job->op->k) kept->exact = (uint32_t)count;
    return kth;
}

/* ---- one worker's entries ------------------------------------------------------------------ */

/* Coarse entries: the k-th bounds the canonical value of the k-th nearest. */
static void drop_by_bound(const peri_knn_job *job, size_t worker, size_t query, float bound,
                          float longest) {
    peri_kept *kept = peri_kept_of(job, worker, query);
    float cut = peri_knn_cut(job, &job->brings[query], bound, longest);
    kept->count = (uint32_t)job->select->filter(peri_kept_values(job, worker, query),
                                                peri_kept_slots(job, worker, query), kept->count,
                                                cut);
}

void peri_keep_reduce(const peri_knn_job *job, size_t worker, size_t query) {
    peri_kept *kept = peri_kept_of(job, worker, query);
    size_t k = job->op->k, most = k + (job->room - PERI_BLOCK_ROWS_MAX - k) / MOST_SHARE;
    if (!job->exact && kept->exact == 0 && !job->brings[query].unbounded) {
        peri_span span = { peri_kept_values(job, worker, query), kept->count };
        float kth = job->select->kth(&span, 1, k, most);
        float bound = share_bound(job, query, peri_knn_most(job, &job->brings[query], kth));
        drop_by_bound(job, worker, query, bound, job->longest[worker]);
        if (kept->count <= k + (job->room - PERI_BLOCK_ROWS_MAX - k) / 2) return;
    }
    rescore(job, worker, query);
    share_bound(job, query, choose_exact(job, worker, query, most));
}

/* Exact entries go before the coarse ones. */
static void add_exact(const peri_knn_job *job, peri_kept *kept, float *values, uint32_t *slots,
                      float value, uint32_t slot) {
    if (!job->exact) {
        values[kept->count] = values[kept->exact];
        slots[kept->count] = slots[kept->exact];
        values[kept->exact] = value;
        slots[kept->exact++] = slot;
        kept->count++;
        return;
    }
    values[kept->count] = value;
    slots[kept->count++] = slot;
}

void peri_keep_exact(const peri_knn_job *job, size_t worker, size_t query, const float *values,
                     const uint32_t *slots, size_t count) {
    peri_kept *kept = peri_kept_of(job, worker, query);
    float *to_values = peri_kept_values(job, worker, query), bound = peri_knn_bound_of(job, query);
    uint32_t *to_slots = peri_kept_slots(job, worker, query);
    for (size_t i = 0; i < count; i++)
        if (values[i] <= bound) add_exact(job, kept, to_values, to_slots, values[i], slots[i]);
    if (peri_keep_is_full(job, kept)) peri_keep_reduce(job, worker, query);
}

/* ---- all workers' entries ------------------------------------------------------------------ */

/* When all entries are coarse, the k-th of all of them gives the bound, and few are rescored. */
static void reduce_coarse(const peri_knn_job *job, size_t query) {
    peri_span spans[WORKERS_MAX];
    size_t total = 0, count = 0;
    float longest = 0;
    for (size_t w = 0; w < job->workers; w++) {
        const peri_kept *kept = peri_kept_of(job, w, query);
        if (kept->exact > 0 || count == WORKERS_MAX) return;
        spans[count++] = (peri_span){ peri_kept_values(job, w, query), kept->count };
        total += kept->count;
        longest = fmaxf(longest, job->longest[w]);
    }
    if (total <= job->op->k || job->brings[query].unbounded) return;
    float kth = job->select->kth(spans, count, job->op->k, job->op->k);
    float bound = share_bound(job, query, peri_knn_most(job, &job->brings[query], kth));
    for (size_t w = 0; w < job->workers; w++) drop_by_bound(job, w, query, bound, longest);
}

/* Entries of worker `from` to those of worker 0, all exact. */
static void move_entries(const peri_knn_job *job, size_t from, size_t query) {
    const float *values = peri_kept_values(job, from, query);
    const uint32_t *slots = peri_kept_slots(job, from, query);
    size_t count = peri_kept_of(job, from, query)->count;
    for (size_t at = 0; at < count; at += PERI_BLOCK_ROWS_MAX)
        peri_keep_exact(job, 0, query, values + at, slots + at,
                        peri_min_size(PERI_BLOCK_ROWS_MAX, count - at));
}

static void write_result(const peri_knn_job *job, size_t worker, size_t query) {
    const peri_op_knn *op = job->op;
    size_t count = peri_kept_of(job, 0, query)->count;
    float *values = peri_kept_values(job, 0, query);
    uint32_t *slots = peri_kept_slots(job, 0, query);
    float *distances = op->distances + job->order[job->first + query] * op->k;
    int64_t *ids = op->ids + job->order[job->first + query] * op->k;
    peri_select_sort(values, slots, count, job->sort_keys + worker * 2 * op->k);
    for (size_t i = 0; i < op->k; i++) {
        distances[i] = i < count ? values[i] : INFINITY;
        ids[i] = i < count ? (int64_t)slots[i] : PERI_ID_NONE;
    }
}

void peri_keep_finish(const peri_knn_job *job, size_t worker, size_t query) {
    if (!job->exact) {
        reduce_coarse(job, query);
        for (size_t w = 0; w < job->workers; w++) rescore(job, w, query);
    }
    for (size_t w = 1; w < job->workers; w++) move_entries(job, w, query);
    choose_exact(job, 0, query, job->op->k);
    write_result(job, worker, query);
}
