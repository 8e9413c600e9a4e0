/* list_scan.c: exact nearest entries of inverted lists on the CPU: the batches, the order of the
 * work and the merge. */
#include "backend/cpu/list_scan.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/memory.h"

#define BATCH_QUERIES_MAX 4096u
#define HEAP_BYTES_MAX (UINT64_C(64) << 20)  /* heaps of a batch beyond the output */
#define MEMBER_BYTES_MAX (UINT64_C(8) << 20) /* pairs of a batch */
#define DIRECT_QUERIES 64u
#define DIRECT_BYTES 262144u    /* entries that stay in L2 while a block of queries passes */
#define COARSE_QUERIES_LEAST 6u /* below, reading the entries is what costs */
#define COARSE_QUERIES_MAX 240u
#define COARSE_BYTES 262144u      /* transposed queries of a block */
#define COARSE_PRODUCTS 50000000u /* multiply-adds of a task: milliseconds, for polling */
#define ALONE_PRODUCTS 400000.0   /* below, waking workers costs more than it saves */

/* ---- the plan ----------------------------------------------------------------------------- */

static void plan_sizes(peri_list_job *job, const peri_device *device, const peri_op_list_scan *op) {
    job->op = op;
    job->workers = peri_cpu_workers_max(device);
    job->n_probes = op->probes == NULL ? op->lists.n_lists : op->n_probes;
    size_t wide = PERI_BLOCK_QUERIES_MAX;
    size_t block = peri_min_size(COARSE_QUERIES_MAX, COARSE_BYTES / (op->rows.cols * 4));
    job->coarse_queries = peri_max_size(1, block / wide) * wide;
    job->buckets = op->probes == NULL ? op->lists.n_lists : 2 * op->lists.n_lists;
    size_t heap = (job->workers - 1) * op->k * (sizeof(float) + sizeof(int64_t));
    size_t members = op->probes == NULL ? 1 : job->n_probes * sizeof(uint32_t);
    size_t limit = peri_min_size(HEAP_BYTES_MAX / peri_max_size(1, heap),
                                 MEMBER_BYTES_MAX / peri_max_size(1, members));
    limit = peri_min_size(peri_min_size(limit, BATCH_QUERIES_MAX), op->queries.rows);
    job->batch_limit = peri_max_size(1, limit);
}

static size_t plan_memory(peri_list_job *job, void *base) {
    const peri_op_list_scan *op = job->op;
    size_t at = 0, batch = job->batch_limit, others = job->workers - 1;
    job->starts = peri_scratch_cut(&at, base, (job->buckets + 1) * sizeof *job->starts);
    job->task_starts = peri_scratch_cut(&at, base, (job->buckets + 1) * sizeof *job->task_starts);
    if (op->probes != NULL)
        job->members = peri_scratch_cut(&at, base, batch * job->n_probes * sizeof *job->members);
    job->heaps = peri_scratch_cut(&at, base, job->workers * batch * sizeof *job->heaps);
    job->heap_distances = peri_scratch_cut(&at, base,
                                           others * batch * op->k * sizeof *job->heap_distances);
    job->heap_ids = peri_scratch_cut(&at, base, others * batch * op->k * sizeof *job->heap_ids);
    job->visited = peri_scratch_cut(&at, base, job->workers * batch * sizeof *job->visited);
    job->bounds = peri_scratch_cut(&at, base, batch * sizeof *job->bounds);
    if (op->queries.rows < COARSE_QUERIES_LEAST) return at;
    job->worker_bytes = peri_list_coarse_worker_bytes(op, job->coarse_queries);
    job->worker_scratch = peri_scratch_cut(&at, base, job->workers * job->worker_bytes);
    return at;
}

size_t peri_cpu_list_scan_scratch(const peri_device *device, const peri_op_list_scan *op) {
    peri_list_job job = { 0 };
    plan_sizes(&job, device, op);
    return plan_memory(&job, NULL);
}

const uint64_t *peri_list_filter(const peri_list_job *job, size_t query) {
    const peri_filter_view *filter = &job->op->filter;
    if (filter->count == 0) return NULL;
    return filter->bits[filter->which == NULL ? 0 : filter->which[job->first + query]];
}

/* ---- the order of the work ---------------------------------------------------------------- */

/* The bucket of pair i of a batch. */
static size_t bucket_of(const peri_list_job *job, const int64_t *probes, size_t i) {
    return (size_t)probes[i] + (i % job->n_probes == 0 ? 0 : job->op->lists.n_lists);
}

/* Counting sort of the pairs of a batch; within a bucket queries ascend. */
static void order_pairs(peri_list_job *job) {
    size_t pairs = job->count * job->n_probes;
    const int64_t *probes = job->op->probes + job->first * job->n_probes;
    memset(job->starts, 0, (job->buckets + 1) * sizeof *job->starts);
    for (size_t i = 0; i < pairs; i++)
        if (probes[i] != PERI_ID_NONE) job->starts[bucket_of(job, probes, i) + 1]++;
    for (size_t b = 0; b < job->buckets; b++) job->starts[b + 1] += job->starts[b];
    for (size_t i = 0; i < pairs; i++)
        if (probes[i] != PERI_ID_NONE)
            job->members[job->starts[bucket_of(job, probes, i)]++] = (uint32_t)(i / job->n_probes);
    for (size_t b = job->buckets; b > 0; b--) job->starts[b] = job->starts[b - 1];
    job->starts[0] = 0;
}

/* How the queries of a bucket meet its list. */
typedef struct bucket {
    size_t list, queries;
    bool coarse;
    size_t block_queries, blocks;
    size_t segment_rows, segments;
} bucket;

static bucket bucket_at(const peri_list_job *job, size_t number) {
    const peri_op_list_scan *op = job->op;
    bucket b = { .list = number % op->lists.n_lists };
    size_t size = op->lists.sizes[b.list];
    b.queries = job->members == NULL ? job->count : job->starts[number + 1] - job->starts[number];
    b.coarse = job->kernels != NULL && job->shared_filter && b.queries >= COARSE_QUERIES_LEAST &&
               peri_metric_by_products(op->metric);
    b.block_queries = b.coarse ? job->coarse_queries : DIRECT_QUERIES;
    b.blocks = peri_ceil_div(b.queries, b.block_queries);
    size_t block = peri_min_size(b.block_queries, b.queries) * op->rows.cols;
    b.segment_rows = b.coarse ? peri_max_size(512, COARSE_PRODUCTS / block)
                              : peri_max_size(64, DIRECT_BYTES / op->rows.stride_bytes);
    b.segments = peri_ceil_div(size, b.segment_rows);
    return b;
}

/* Cuts the work into tasks and returns how many there are; `products` adds up what they cost. */
static size_t cut_tasks(peri_list_job *job, double *products) {
    job->task_starts[0] = 0;
    for (size_t i = 0; i < job->buckets; i++) {
        bucket b = { .queries = 0 };
        bool none = job->members != NULL && job->starts[i + 1] == job->starts[i];
        if (!none) b = bucket_at(job, i);
        job->task_starts[i + 1] = job->task_starts[i] + b.blocks * b.segments;
        *products += (double)b.queries * job->op->lists.sizes[b.list] * (double)job->distances.dim;
    }
    return job->task_starts[job->buckets];
}

/* The bucket that a task belongs to: the last whose tasks begin at it or before. */
static size_t bucket_of_task(const peri_list_job *job, size_t task) {
    size_t low = 0, high = job->buckets;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (job->task_starts[middle + 1] <= task)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static peri_status run_task(void *ud, size_t number, size_t worker) {
    const peri_list_job *job = ud;
    const peri_lists_view *lists = &job->op->lists;
    size_t at = bucket_of_task(job, number), within = number - job->task_starts[at];
    bucket b = bucket_at(job, at);
    size_t first = within % b.blocks * b.block_queries, row = within / b.blocks * b.segment_rows;
    size_t begin = (size_t)lists->offsets[b.list];
    peri_list_task task = {
        .at = begin + row,
        .stop = begin + peri_min_size(row + b.segment_rows, lists->sizes[b.list]),
        .members = job->members == NULL ? NULL : job->members + job->starts[at] + first,
        .first_member = first,
        .count = peri_min_size(b.block_queries, b.queries - first),
        .worker = worker,
    };
    (b.coarse ? peri_list_coarse_task : peri_list_direct_task)(job, &task);
    return PERI_OK;
}

/* ---- running ------------------------------------------------------------------------------ */

static void begin_batch(peri_list_job *job) {
    const peri_op_list_scan *op = job->op;
    for (size_t i = 0; i < job->count; i++) {
        size_t at = (job->first + i) * op->k;
        peri_topk_init(peri_list_heap(job, 0, i), op->distances + at, op->ids + at, op->k);
        atomic_store_explicit(&job->bounds[i], INFINITY, memory_order_relaxed);
    }
    for (size_t worker = 1; worker < job->workers; worker++) {
        for (size_t i = 0; i < job->count; i++) {
            size_t at = ((worker - 1) * job->batch_limit + i) * op->k;
            peri_topk_init(peri_list_heap(job, worker, i), job->heap_distances + at,
                           job->heap_ids + at, op->k);
        }
    }
    memset(job->visited, 0, job->workers * job->batch_limit * sizeof *job->visited);
    if (job->members != NULL) order_pairs(job);
}

/* Gathers what the workers found for one query into the output. */
static peri_status merge_task(void *ud, size_t task, size_t worker) {
    const peri_list_job *job = ud;
    peri_topk *top = peri_list_heap(job, 0, task);
    uint32_t visited = job->visited[task];
    (void)worker;
    for (size_t other = 1; other < job->workers; other++) {
        const peri_topk *from = peri_list_heap(job, other, task);
        for (size_t i = 0; i < from->count; i++)
            peri_topk_offer(top, from->distances[i], from->ids[i]);
        visited += job->visited[other * job->batch_limit + task];
    }
    peri_topk_finish(top);
    if (job->op->visited != NULL) job->op->visited[job->first + task] = visited;
    return PERI_OK;
}

static peri_status run_batch(peri_list_job *job, peri_stream *stream) {
    peri_context *context = stream->device->context;
    double products = 0;
    begin_batch(job);
    size_t tasks = cut_tasks(job, &products);
    size_t threads = products < ALONE_PRODUCTS ? 1 : stream->threads;
    peri_loop loop = { "list_scan", threads, stream->control }, quiet = { NULL, threads, NULL };
    PERI_TRY(peri_parallel(context, &loop, tasks, run_task, job));
    return peri_parallel(context, &quiet, job->count, merge_task, job);
}

static bool has_shared_filter(const peri_op_list_scan *op) {
    if (op->filter.count <= 1 || op->filter.which == NULL) return true;
    for (size_t i = 1; i < op->queries.rows; i++)
        if (op->filter.which[i] != op->filter.which[0]) return false;
    return true;
}

peri_status peri_cpu_list_scan(peri_stream *stream, const peri_op_list_scan *op, void *scratch,
                               size_t scratch_bytes) {
    peri_list_job job = { 0 };
    plan_sizes(&job, stream->device, op);
    PERI_ASSERT(plan_memory(&job, NULL) <= scratch_bytes);
    (void)scratch_bytes;
    plan_memory(&job, scratch);
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    job.kernels = op->queries.rows < COARSE_QUERIES_LEAST ? NULL : peri_block_chosen();
    job.shared_filter = has_shared_filter(op);
    for (job.first = 0; job.first < op->queries.rows; job.first += job.count) {
        job.count = peri_min_size(job.batch_limit, op->queries.rows - job.first);
        PERI_TRY(run_batch(&job, stream));
    }
    return PERI_OK;
}
