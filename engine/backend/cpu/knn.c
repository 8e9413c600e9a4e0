/* knn.c: exact nearest rows on the CPU: the plan, the batches and the merge.
 *
 * Two ways. Few queries or few rows: every row that passes gets its canonical distance
 * (knn_direct.c). Many: a coarse pass at the rate of fused multiply-adds rules out, with a
 * certified bound, the rows that can't be among the k nearest; the others get their canonical
 * distance (knn_coarse.c). Either way the answer is that of the reference, bit for bit, on any
 * instruction set and number of threads. */
#include "backend/cpu/ops.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/knn_keep.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/memory.h"
#include "core/threads.h"

#define COARSE_QUERIES_LEAST 6u /* below, reading the rows is what costs (Zen 4, 60 000 x 96) */
#define COARSE_K_SHARE 3u       /* the coarse pass pays while k is below rows / this */
#define COARSE_PASSING_SHARE 6u /* own filters: direct when fewer than rows / this pass */
#define ENTRY_BYTES_MAX (UINT64_C(64) << 20)  /* of a batch, on all workers */
#define TILE_BYTES_MAX (UINT64_C(16) << 20)   /* transposed queries of a batch */
#define BLOCK_BYTES_MAX (UINT64_C(768) << 10) /* transposed queries of a block: most of an L2 */
#define BLOCK_QUERIES_MAX 1020u
#define BLOCK_QUERIES_LEAST 336u /* with fewer, packing costs more than tiles from L3 (Zen 5) */
#define BATCH_QUERIES_MAX 4096u
#define DIRECT_BLOCK_QUERIES 64u
#define DIRECT_SEGMENT_BYTES 262144u /* rows that stay in L2 while a block of queries passes */
#define TASK_PRODUCTS 250000000u     /* multiply-adds of a coarse task: a few ms, for polling */
#define ALONE_PRODUCTS 200000u       /* below, waking workers costs more than it saves */

typedef struct layout {
    char *base;
    size_t used;
} layout;

static void *take(layout *l, size_t count, size_t size) {
    void *block = l->base == NULL ? NULL : l->base + l->used;
    l->used += peri_round_up(count * size, PERI_ALIGN);
    return block;
}

/* ---- the plan ----------------------------------------------------------------------------- */

static size_t passing_rows(const peri_op_knn *op, uint32_t which) {
    return op->filter.count == 0 ? op->rows.rows : op->filter.passing[which];
}

static bool has_shared_filter(const peri_op_knn *op) {
    if (op->filter.count <= 1 || op->filter.which == NULL) return true;
    for (size_t i = 1; i < op->queries.rows; i++)
        if (op->filter.which[i] != op->filter.which[0]) return false;
    return true;
}

static bool wants_coarse(const peri_knn_job *job, size_t query) {
    const peri_op_knn *op = job->op;
    size_t passing = passing_rows(op, peri_knn_which(op, query));
    if (job->kernels == NULL || op->queries.rows < COARSE_QUERIES_LEAST) return false;
    if (!peri_metric_by_products(op->metric)) return false;
    if (passing / COARSE_K_SHARE <= op->k) return false;
    return job->shared_filter || passing >= op->rows.rows / COARSE_PASSING_SHARE;
}

static void order_queries(peri_knn_job *job) {
    size_t count = job->op->queries.rows, last = count;
    for (size_t i = 0; i < count; i++)
        if (wants_coarse(job, i)) job->order[job->coarse_count++] = i;
    for (size_t i = count; i-- > 0;)
        if (!wants_coarse(job, i)) job->order[--last] = i;
}

/* Sizes that depend on the operation's shape and the context's threads only. */
static void plan_sizes(peri_knn_job *job, const peri_device *device, const peri_op_knn *op) {
    /* Columns of i8 and u8 take two bytes in a tile at most. */
    size_t dim = op->rows.cols, row_bytes = dim * (peri_dtype_bytes(op->rows.dtype) == 1 ? 2 : 4);
    job->op = op;
    job->workers = peri_threads(device->context, 0);
    job->room = peri_keep_room(op->k);
    size_t entry_bytes = job->workers * 2 * job->room * sizeof *job->entries;
    size_t limit = peri_min_size(BATCH_QUERIES_MAX, peri_max_size(1, op->queries.rows));
    size_t fitting = peri_min_size(TILE_BYTES_MAX / row_bytes, ENTRY_BYTES_MAX / entry_bytes);
    /* A tile at least: with fewer the coarse pass would multiply zeros. */
    job->batch_limit = peri_min_size(limit, peri_max_size(fitting, PERI_BLOCK_QUERIES_MAX));
    size_t block = peri_max_size(BLOCK_QUERIES_LEAST, BLOCK_BYTES_MAX / row_bytes);
    job->block_limit = peri_min_size(BLOCK_QUERIES_MAX, block) / PERI_BLOCK_QUERIES_MAX *
                       PERI_BLOCK_QUERIES_MAX;
}

static void plan_memory(peri_knn_job *job, layout *l) {
    const peri_op_knn *op = job->op;
    size_t dim = op->rows.cols, batch = job->batch_limit;
    job->order = take(l, op->queries.rows, sizeof *job->order);
    job->bounds = take(l, batch, sizeof *job->bounds);
    job->kept = take(l, job->workers * batch, sizeof *job->kept);
    job->entries = take(l, job->workers * batch * 2 * job->room, sizeof *job->entries);
    job->sort_keys = take(l, job->workers * 2 * op->k, sizeof *job->sort_keys);
    job->longest = take(l, job->workers, sizeof *job->longest);
    if (op->queries.rows < COARSE_QUERIES_LEAST) return;
    job->centre = take(l, dim, sizeof *job->centre);
    job->tiles = take(l, (batch + PERI_BLOCK_QUERIES_MAX) * (dim + 1), sizeof *job->tiles);
    job->brings = take(l, batch + PERI_BLOCK_QUERIES_MAX, sizeof *job->brings);
    job->worker_bytes = peri_knn_coarse_worker_bytes((uint32_t)dim, job->block_limit);
    job->worker_scratch = take(l, job->workers, job->worker_bytes);
}

size_t peri_cpu_knn_scratch(const peri_device *device, const peri_op_knn *op) {
    peri_knn_job job = { 0 };
    layout l = { NULL, 0 };
    plan_sizes(&job, device, op);
    plan_memory(&job, &l);
    return l.used;
}

/* Rows of a segment, in whole words of a bitset. */
static size_t segment_rows(const peri_knn_job *job, size_t running) {
    const peri_op_knn *op = job->op;
    size_t rows = op->rows.rows, wanted;
    if (!job->coarse) {
        size_t bytes = op->rows.cols * peri_dtype_bytes(op->rows.dtype);
        wanted = DIRECT_SEGMENT_BYTES / bytes;
        if (running == 1 && job->count == 1) wanted = 4 * wanted;
    } else {
        wanted = TASK_PRODUCTS / (job->block_queries * op->rows.cols);
        size_t shares = peri_max_size(1, 16 * running / job->blocks); /* the last one is short */
        if (running > 1) wanted = peri_min_size(wanted, rows / shares);
        wanted = peri_max_size(wanted, 512);
    }
    /* Segments are of passing rows when only these are read. */
    size_t passing = peri_max_size(1, passing_rows(op, peri_knn_which(op, 0)));
    if (job->shared_filter && passing < rows) wanted = wanted * (rows / passing);
    return peri_round_up(peri_max_size(64, peri_min_size(wanted, rows)), 64);
}

/* The shape of the batch that begins at `first`. */
static void plan_batch(peri_knn_job *job, size_t first, size_t running) {
    size_t stop = first < job->coarse_count ? job->coarse_count : job->op->queries.rows;
    job->first = first;
    job->coarse = first < job->coarse_count;
    job->count = peri_min_size(job->batch_limit, stop - first);
    job->block_queries = job->coarse ? job->block_limit : DIRECT_BLOCK_QUERIES;
    job->blocks = peri_ceil_div(job->count, job->block_queries);
    job->block_queries = peri_ceil_div(job->count, job->blocks);
    if (job->coarse) /* whole tiles */
        job->block_queries = peri_ceil_div(job->block_queries, job->kernels->queries) *
                             job->kernels->queries;
    job->blocks = peri_ceil_div(job->count, job->block_queries);
    job->segment_rows = segment_rows(job, running);
    job->segments = peri_ceil_div(job->op->rows.rows, job->segment_rows);
}

/* ---- running ------------------------------------------------------------------------------ */

/* Progress over all batches of the operation. */
typedef struct relay {
    const peri_control *control;
    size_t done, total;
} relay;

static peri_status relay_poll(void *ud, const char *stage, size_t done, size_t total) {
    const relay *r = ud;
    (void)total;
    return r->control->poll(r->control->ud, stage, r->done + done, r->total);
}

static peri_status tile_task(void *ud, size_t task, size_t worker) {
    (void)worker;
    peri_knn_coarse_tile(ud, task);
    return PERI_OK;
}

static peri_status block_task(void *ud, size_t task, size_t worker) {
    const peri_knn_job *job = ud;
    size_t first = task % job->blocks * job->block_queries;
    size_t stop = peri_min_size(first + job->block_queries, job->count);
    size_t row = task / job->blocks * job->segment_rows;
    size_t row_stop = peri_min_size(row + job->segment_rows, job->op->rows.rows);
    (job->coarse ? peri_knn_coarse_task : peri_knn_direct_task)(job, first, stop, row, row_stop,
                                                                worker);
    return PERI_OK;
}

static void begin_batch(peri_knn_job *job) {
    job->exact = !job->coarse || job->whole;
    for (size_t i = 0; i < job->count; i++)
        atomic_store_explicit(&job->bounds[i], INFINITY, memory_order_relaxed);
    for (size_t worker = 0; worker < job->workers; worker++) {
        memset(peri_kept_of(job, worker, 0), 0, job->count * sizeof *job->kept);
        job->longest[worker] = 0;
    }
}

static peri_status finish_task(void *ud, size_t task, size_t worker) {
    peri_keep_finish(ud, worker, task);
    return PERI_OK;
}

static size_t threads_for(const peri_knn_job *job, size_t limit) {
    const peri_op_knn *op = job->op;
    double products = (double)op->queries.rows * (double)op->rows.rows * (double)op->rows.cols;
    return products < ALONE_PRODUCTS ? 1 : limit;
}

static peri_status run_batches(peri_knn_job *job, peri_context *context, peri_loop loop) {
    size_t running = peri_threads(context, loop.threads), queries = job->op->queries.rows;
    relay r = { loop.control, 0, 0 };
    peri_control control = { relay_poll, &r };
    if (loop.control != NULL && loop.control->poll != NULL) loop.control = &control;
    for (size_t first = 0; first < queries; first += job->count) {
        plan_batch(job, first, running);
        r.total += job->blocks * job->segments;
    }
    for (size_t first = 0; first < queries; first += job->count) {
        plan_batch(job, first, running);
        begin_batch(job);
        peri_loop quiet = { NULL, loop.threads, NULL };
        if (job->coarse)
            PERI_TRY(peri_parallel(
                context, &quiet, peri_ceil_div(job->count, job->kernels->queries), tile_task, job));
        PERI_TRY(peri_parallel(context, &loop, job->blocks * job->segments, block_task, job));
        PERI_TRY(peri_parallel(context, &quiet, job->count, finish_task, job));
        r.done += job->blocks * job->segments;
    }
    return PERI_OK;
}

peri_status peri_cpu_knn(peri_stream *stream, const peri_op_knn *op, void *scratch,
                         size_t scratch_bytes) {
    peri_knn_job job = { 0 };
    layout l = { scratch, 0 };
    if (op->redone != NULL) *op->redone = 0;
    if (op->scanned != NULL) *op->scanned = 0;
    if (op->queries.rows == 0) return PERI_OK;
    plan_sizes(&job, stream->device, op);
    plan_memory(&job, &l);
    PERI_ASSERT(l.used <= scratch_bytes);
    (void)scratch_bytes;
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    job.kernels = peri_block_chosen();
    job.select = peri_select_chosen();
    job.shared_filter = has_shared_filter(op);
    job.whole = op->rows.dtype == PERI_I8 || op->rows.dtype == PERI_U8;
    order_queries(&job);
    if (job.coarse_count > 0) peri_knn_coarse_centre(&job);
    peri_loop loop = { "knn", threads_for(&job, stream->threads), stream->control };
    return run_batches(&job, stream->device->context, loop);
}
