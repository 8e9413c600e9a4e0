/* list_scan.c: exact nearest entries of inverted lists of whole rows on the CPU. */
#include "backend/cpu/list_scan.h"

#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/memory.h"

#define DIRECT_QUERIES 64u
#define DIRECT_BYTES 262144u    /* entries that stay in L2 while a block of queries passes */
#define COARSE_QUERIES_LEAST 6u /* below, reading the entries is what costs */
#define COARSE_QUERIES_MAX 240u
#define COARSE_BYTES 262144u      /* transposed queries of a block */
#define COARSE_PRODUCTS 50000000u /* multiply-adds of a task: milliseconds, for polling */

static bool goes_coarse(const peri_list_job *job, size_t queries) {
    return job->kernels != NULL && job->shared_filter && queries >= COARSE_QUERIES_LEAST &&
           peri_metric_by_products(job->op->metric);
}

static peri_list_shape list_scan_shape(const void *ud, size_t queries) {
    const peri_list_job *job = ud;
    const peri_view *rows = &job->op->rows;
    if (!goes_coarse(job, queries))
        return (peri_list_shape){ DIRECT_QUERIES,
                                  peri_max_size(64, DIRECT_BYTES / rows->stride_bytes) };
    size_t block = peri_min_size(job->coarse_queries, queries) * rows->cols;
    return (peri_list_shape){ job->coarse_queries, peri_max_size(512, COARSE_PRODUCTS / block) };
}

static void list_scan_task(const void *ud, const peri_list_task *task) {
    const peri_list_job *job = ud;
    (goes_coarse(job, task->count) ? peri_list_coarse_task : peri_list_direct_task)(job, task);
}

static size_t plan(peri_list_job *job, const peri_device *device, const peri_op_list_scan *op,
                   void *base) {
    size_t wide = PERI_BLOCK_QUERIES_MAX;
    size_t block = peri_min_size(COARSE_QUERIES_MAX, COARSE_BYTES / (op->rows.cols * 4));
    job->op = op;
    job->coarse_queries = peri_max_size(1, block / wide) * wide;
    job->work = (peri_list_work){ .name = "list_scan",
                                  .lists = op->lists,
                                  .probes = op->probes,
                                  .n_probes = op->n_probes,
                                  .filter = &op->filter,
                                  .queries = op->queries.rows,
                                  .k = op->k,
                                  .ids = op->ids,
                                  .distances = op->distances,
                                  .visited_out = op->visited,
                                  .entry_cost = (double)op->rows.cols,
                                  .shape = list_scan_shape,
                                  .run = list_scan_task,
                                  .job = job };
    size_t at = peri_list_work_plan(&job->work, device, base);
    if (op->queries.rows < COARSE_QUERIES_LEAST) return at;
    job->worker_bytes = peri_list_coarse_worker_bytes(op, job->coarse_queries);
    job->worker_scratch = peri_scratch_cut(&at, base, job->work.workers * job->worker_bytes);
    return at;
}

size_t peri_cpu_list_scan_scratch(const peri_device *device, const peri_op_list_scan *op) {
    peri_list_job job = { 0 };
    return plan(&job, device, op, NULL);
}

peri_status peri_cpu_list_scan(peri_stream *stream, const peri_op_list_scan *op, void *scratch,
                               size_t scratch_bytes) {
    peri_list_job job = { 0 };
    PERI_ASSERT(plan(&job, stream->device, op, NULL) <= scratch_bytes);
    (void)scratch_bytes;
    plan(&job, stream->device, op, scratch);
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    job.kernels = op->queries.rows < COARSE_QUERIES_LEAST ? NULL : peri_block_chosen();
    job.shared_filter = peri_list_shared_filter(&op->filter, op->queries.rows);
    return peri_list_work_run(&job.work, stream);
}
