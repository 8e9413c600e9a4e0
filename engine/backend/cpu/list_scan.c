/* list_scan.c: exact nearest entries of inverted lists on the CPU: the batches, the order of the
 * work and the merge. */
#include "backend/cpu/list_scan.h"

#include <string.h>

#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"

#define BATCH_QUERIES_MAX 4096u
#define HEAP_BYTES_MAX (UINT64_C(64) << 20)  /* heaps of a batch beyond the output */
#define MEMBER_BYTES_MAX (UINT64_C(8) << 20) /* pairs of a batch */
#define BLOCK_QUERIES 64u
#define SEGMENT_BYTES 262144u   /* entries that stay in L2 while a block of queries passes */
#define ALONE_PRODUCTS 400000.0 /* below, waking workers costs more than it saves */

/* ---- the plan ----------------------------------------------------------------------------- */

static void plan_sizes(peri_list_job *job, const peri_device *device, const peri_op_list_scan *op) {
    job->op = op;
    job->workers = peri_cpu_workers_max(device);
    job->n_probes = op->probes == NULL ? op->lists.n_lists : op->n_probes;
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
    size_t lists = op->lists.n_lists + 1;
    job->starts = peri_scratch_cut(&at, base, lists * sizeof *job->starts);
    job->task_starts = peri_scratch_cut(&at, base, lists * sizeof *job->task_starts);
    if (op->probes != NULL)
        job->members = peri_scratch_cut(&at, base, batch * job->n_probes * sizeof *job->members);
    job->heaps = peri_scratch_cut(&at, base, job->workers * batch * sizeof *job->heaps);
    job->heap_distances = peri_scratch_cut(&at, base,
                                           others * batch * op->k * sizeof *job->heap_distances);
    job->heap_ids = peri_scratch_cut(&at, base, others * batch * op->k * sizeof *job->heap_ids);
    job->visited = peri_scratch_cut(&at, base, job->workers * batch * sizeof *job->visited);
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

/* Counting sort of the pairs of a batch by list; within a list queries ascend. */
static void order_pairs(peri_list_job *job) {
    const peri_op_list_scan *op = job->op;
    size_t n_lists = op->lists.n_lists, pairs = job->count * job->n_probes;
    const int64_t *probes = op->probes + job->first * job->n_probes;
    memset(job->starts, 0, (n_lists + 1) * sizeof *job->starts);
    for (size_t i = 0; i < pairs; i++)
        if (probes[i] != PERI_ID_NONE) job->starts[probes[i] + 1]++;
    for (size_t list = 0; list < n_lists; list++) job->starts[list + 1] += job->starts[list];
    for (size_t i = 0; i < pairs; i++)
        if (probes[i] != PERI_ID_NONE)
            job->members[job->starts[probes[i]]++] = (uint32_t)(i / job->n_probes);
    for (size_t list = n_lists; list > 0; list--) job->starts[list] = job->starts[list - 1];
    job->starts[0] = 0;
}

static size_t queries_of(const peri_list_job *job, size_t list) {
    return job->members == NULL ? job->count : job->starts[list + 1] - job->starts[list];
}

static size_t segments_of(const peri_list_job *job, size_t list) {
    return peri_ceil_div(job->op->lists.sizes[list], job->segment_rows);
}

/* Cuts the work into tasks and returns how many there are; `products` adds up what they cost. */
static size_t cut_tasks(peri_list_job *job, double *products) {
    const peri_op_list_scan *op = job->op;
    job->block_queries = BLOCK_QUERIES;
    job->segment_rows = peri_max_size(64, SEGMENT_BYTES / op->rows.stride_bytes);
    job->task_starts[0] = 0;
    for (size_t list = 0; list < op->lists.n_lists; list++) {
        size_t queries = queries_of(job, list);
        size_t tasks = segments_of(job, list) * peri_ceil_div(queries, job->block_queries);
        job->task_starts[list + 1] = job->task_starts[list] + tasks;
        *products += (double)queries * op->lists.sizes[list] * (double)op->rows.cols;
    }
    return job->task_starts[op->lists.n_lists];
}

/* The list that a task belongs to: the last whose tasks begin at it or before. */
static size_t list_of(const peri_list_job *job, size_t task) {
    size_t low = 0, high = job->op->lists.n_lists;
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
    size_t list = list_of(job, number), within = number - job->task_starts[list];
    size_t queries = queries_of(job, list), blocks = peri_ceil_div(queries, job->block_queries);
    size_t first = within % blocks * job->block_queries;
    size_t row = within / blocks * job->segment_rows, begin = (size_t)lists->offsets[list];
    peri_list_task task = {
        .at = begin + row,
        .stop = begin + peri_min_size(row + job->segment_rows, lists->sizes[list]),
        .members = job->members == NULL ? NULL : job->members + job->starts[list] + first,
        .first_member = first,
        .count = peri_min_size(job->block_queries, queries - first),
        .worker = worker,
    };
    peri_list_direct_task(job, &task);
    return PERI_OK;
}

/* ---- running ------------------------------------------------------------------------------ */

static void begin_batch(peri_list_job *job) {
    const peri_op_list_scan *op = job->op;
    for (size_t i = 0; i < job->count; i++) {
        size_t at = (job->first + i) * op->k;
        peri_topk_init(peri_list_heap(job, 0, i), op->distances + at, op->ids + at, op->k);
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

peri_status peri_cpu_list_scan(peri_stream *stream, const peri_op_list_scan *op, void *scratch,
                               size_t scratch_bytes) {
    peri_list_job job = { 0 };
    plan_sizes(&job, stream->device, op);
    PERI_ASSERT(plan_memory(&job, NULL) <= scratch_bytes);
    (void)scratch_bytes;
    plan_memory(&job, scratch);
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    for (job.first = 0; job.first < op->queries.rows; job.first += job.count) {
        job.count = peri_min_size(job.batch_limit, op->queries.rows - job.first);
        PERI_TRY(run_batch(&job, stream));
    }
    return PERI_OK;
}
