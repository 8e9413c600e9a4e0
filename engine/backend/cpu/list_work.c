/* list_work.c: batches of queries, the order of the pairs (query, list), tasks and the merge. */
#include "backend/cpu/list_work.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/workers.h"
#include "core/checked.h"

#define BATCH_QUERIES_MAX 4096u
#define KEPT_BYTES_MAX (UINT64_C(96) << 20)  /* entries kept of a batch */
#define MEMBER_BYTES_MAX (UINT64_C(8) << 20) /* pairs of a batch */
#define ALONE_COST 400000.0                  /* below, waking workers costs more than it saves */

/* ---- the plan ----------------------------------------------------------------------------- */

static void plan_sizes(peri_list_work *work, const peri_device *device) {
    work->workers = peri_cpu_workers_max(device);
    if (work->probes == NULL) work->n_probes = work->lists.n_lists;
    work->buckets = work->probes == NULL ? work->lists.n_lists : 2 * work->lists.n_lists;
    size_t kept = work->workers * peri_list_keep_room(work->k) * 2 * sizeof *work->entries;
    size_t members = work->probes == NULL ? 1 : work->n_probes * sizeof(uint32_t);
    size_t limit = peri_min_size(KEPT_BYTES_MAX / kept,
                                 MEMBER_BYTES_MAX / peri_max_size(1, members));
    limit = peri_min_size(peri_min_size(limit, BATCH_QUERIES_MAX), work->queries);
    if (work->batch_most > 0) limit = peri_min_size(limit, work->batch_most);
    work->batch_limit = peri_max_size(1, limit);
}

size_t peri_list_work_plan(peri_list_work *work, const peri_device *device, void *base) {
    plan_sizes(work, device);
    size_t at = 0, batch = work->batch_limit, all = work->workers * batch;
    size_t room = peri_list_keep_room(work->k);
    work->starts = peri_scratch_cut(&at, base, (work->buckets + 1) * sizeof *work->starts);
    work->task_starts = peri_scratch_cut(&at, base,
                                         (work->buckets + 1) * sizeof *work->task_starts);
    work->members = NULL;
    if (work->probes != NULL)
        work->members = peri_scratch_cut(&at, base, batch * work->n_probes * sizeof *work->members);
    work->kept = peri_scratch_cut(&at, base, all * sizeof *work->kept);
    work->entries = peri_scratch_cut(&at, base, all * 2 * room * sizeof *work->entries);
    work->sort_keys = peri_scratch_cut(&at, base,
                                       work->workers * 2 * work->k * sizeof *work->sort_keys);
    work->visited = peri_scratch_cut(&at, base, all * sizeof *work->visited);
    work->bounds = peri_scratch_cut(&at, base, batch * sizeof *work->bounds);
    return at;
}

const uint64_t *peri_list_filter(const peri_list_work *work, size_t query) {
    const peri_filter_view *filter = work->filter;
    if (filter->count == 0) return NULL;
    return filter->bits[filter->which == NULL ? 0 : filter->which[work->first + query]];
}

bool peri_list_shared_filter(const peri_filter_view *filter, size_t queries) {
    if (filter->count <= 1 || filter->which == NULL) return true;
    for (size_t i = 1; i < queries; i++)
        if (filter->which[i] != filter->which[0]) return false;
    return true;
}

/* ---- the order of the work ---------------------------------------------------------------- */

/* The bucket of pair i of a batch. */
static size_t bucket_of(const peri_list_work *work, const int64_t *probes, size_t i) {
    return (size_t)probes[i] + (i % work->n_probes == 0 ? 0 : work->lists.n_lists);
}

/* Counting sort of the pairs of a batch; within a bucket queries ascend. */
static void order_pairs(peri_list_work *work) {
    size_t pairs = work->count * work->n_probes;
    const int64_t *probes = work->probes + work->first * work->n_probes;
    memset(work->starts, 0, (work->buckets + 1) * sizeof *work->starts);
    for (size_t i = 0; i < pairs; i++)
        if (probes[i] != PERI_ID_NONE) work->starts[bucket_of(work, probes, i) + 1]++;
    for (size_t b = 0; b < work->buckets; b++) work->starts[b + 1] += work->starts[b];
    for (size_t i = 0; i < pairs; i++)
        if (probes[i] != PERI_ID_NONE)
            work->members[work->starts[bucket_of(work, probes, i)]++] = (uint32_t)(i /
                                                                                   work->n_probes);
    for (size_t b = work->buckets; b > 0; b--) work->starts[b] = work->starts[b - 1];
    work->starts[0] = 0;
}

/* How the queries of a bucket meet its list. */
typedef struct bucket {
    size_t list, queries;
    peri_list_shape shape;
    size_t blocks, segments;
} bucket;

static bucket bucket_at(const peri_list_work *work, size_t number) {
    bucket b = { .list = number % work->lists.n_lists };
    b.queries = work->members == NULL ? work->count
                                      : work->starts[number + 1] - work->starts[number];
    b.shape = work->shape(work->job, b.queries);
    b.blocks = peri_ceil_div(b.queries, b.shape.queries);
    b.segments = peri_ceil_div(work->lists.sizes[b.list], b.shape.entries);
    return b;
}

/* Cuts the work into tasks and returns how many there are; `cost` adds up what they cost. */
static size_t cut_tasks(peri_list_work *work, double *cost) {
    work->task_starts[0] = 0;
    for (size_t i = 0; i < work->buckets; i++) {
        bucket b = { .queries = 0 };
        bool none = work->members != NULL && work->starts[i + 1] == work->starts[i];
        if (!none) b = bucket_at(work, i);
        work->task_starts[i + 1] = work->task_starts[i] + b.blocks * b.segments;
        *cost += (double)b.queries * work->lists.sizes[b.list] * work->entry_cost;
    }
    return work->task_starts[work->buckets];
}

/* The bucket that a task belongs to: the last whose tasks begin at it or before. */
static size_t bucket_of_task(const peri_list_work *work, size_t task) {
    size_t low = 0, high = work->buckets;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (work->task_starts[middle + 1] <= task)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static peri_status run_task(void *ud, size_t number, size_t worker) {
    const peri_list_work *work = ud;
    size_t at = bucket_of_task(work, number), within = number - work->task_starts[at];
    bucket b = bucket_at(work, at);
    size_t first = within % b.blocks * b.shape.queries, row = within / b.blocks * b.shape.entries;
    size_t begin = (size_t)work->lists.offsets[b.list];
    peri_list_task task = {
        .list = b.list,
        .at = begin + row,
        .stop = begin + peri_min_size(row + b.shape.entries, work->lists.sizes[b.list]),
        .members = work->members == NULL ? NULL : work->members + work->starts[at] + first,
        .first_member = first,
        .count = peri_min_size(b.shape.queries, b.queries - first),
        .worker = worker,
    };
    work->run(work->job, &task);
    return PERI_OK;
}

/* ---- running ------------------------------------------------------------------------------ */

static void begin_batch(peri_list_work *work) {
    size_t room = peri_list_keep_room(work->k);
    for (size_t i = 0; i < work->count; i++)
        atomic_store_explicit(&work->bounds[i], INFINITY, memory_order_relaxed);
    for (size_t worker = 0; worker < work->workers; worker++) {
        for (size_t i = 0; i < work->count; i++) {
            uint32_t *entries = work->entries + (worker * work->batch_limit + i) * 2 * room;
            peri_list_keep_init(peri_list_kept(work, worker, i), (float *)(void *)entries,
                                entries + room, work->k);
        }
    }
    memset(work->visited, 0, work->workers * work->batch_limit * sizeof *work->visited);
    if (work->members != NULL) order_pairs(work);
}

/* Gathers what the workers found for one query into the output. */
static peri_status merge_task(void *ud, size_t task, size_t worker) {
    const peri_list_work *work = ud;
    peri_list_keep *keep = peri_list_kept(work, 0, task);
    uint32_t visited = work->visited[task];
    size_t at = (work->first + task) * work->k;
    for (size_t other = 1; other < work->workers; other++) {
        const peri_list_keep *from = peri_list_kept(work, other, task);
        for (size_t i = 0; i < from->count; i++)
            peri_list_keep_offer(keep, from->values[i], from->slots[i]);
        visited += work->visited[other * work->batch_limit + task];
    }
    peri_list_keep_finish(keep, work->distances + at, work->ids + at,
                          work->sort_keys + worker * 2 * work->k);
    if (work->visited_out != NULL) work->visited_out[work->first + task] = visited;
    return PERI_OK;
}

static peri_status prepare_task(void *ud, size_t task, size_t worker) {
    const peri_list_work *work = ud;
    work->prepare(work->job, task, worker);
    return PERI_OK;
}

static peri_status run_batch(peri_list_work *work, peri_stream *stream) {
    peri_context *context = stream->device->context;
    double cost = 0;
    begin_batch(work);
    size_t tasks = cut_tasks(work, &cost);
    size_t threads = cost < ALONE_COST ? 1 : stream->threads;
    peri_loop loop = { work->name, threads, stream->control }, quiet = { NULL, threads, NULL };
    if (work->prepare != NULL)
        PERI_TRY(peri_parallel(context, &quiet, work->count, prepare_task, work));
    PERI_TRY(peri_parallel(context, &loop, tasks, run_task, work));
    return peri_parallel(context, &quiet, work->count, merge_task, work);
}

peri_status peri_list_work_run(peri_list_work *work, peri_stream *stream) {
    for (work->first = 0; work->first < work->queries; work->first += work->count) {
        work->count = peri_min_size(work->batch_limit, work->queries - work->first);
        PERI_TRY(run_batch(work, stream));
    }
    return PERI_OK;
}
