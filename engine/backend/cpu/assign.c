/* assign.c: the nearest centroid of every row on the CPU: the plan and the loops.
 *
 * Few centroids, or no kernels for this CPU: every distance is found. Otherwise a coarse pass at
 * the rate of fused multiply-adds finds the label and certifies it (assign_coarse.c). Either way
 * the answer is that of the reference, bit for bit, on any instruction set and number of
 * threads. */
#include <math.h>

#include "backend/convert_element.h"
#include "backend/cpu/assign_plan.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/memory.h"

#define COARSE_CENTROIDS_LEAST 8u
#define CHUNK 128u                          /* centroids whose distances are found at a time */
#define TASK_PRODUCTS 200000000u            /* multiply-adds of a coarse task: a few ms */
#define DIRECT_PRODUCTS 4000000u            /* of a direct one */
#define BLOCK_BYTES_MAX ((size_t)256 << 10) /* panels of a block: they stay in L2 */
#define BLOCK_ROWS_MAX 512u
#define ALONE_PRODUCTS 200000u /* below, waking workers costs more than it saves */

/* ---- the plan ----------------------------------------------------------------------------- */

static peri_assign_tile_fn tile_chosen(void) {
    switch (peri_isa_chosen()) {
#if defined(__x86_64__)
    case PERI_ISA_AVX512: return peri_assign_tile_avx512;
    case PERI_ISA_AVX2: return peri_assign_tile_avx2;
#elif defined(__aarch64__)
    case PERI_ISA_NEON: return peri_assign_tile_neon;
#endif
    default: return NULL;
    }
}

/* Sizes that depend on the shape alone, so that scratch is the same for any instruction set. */
static size_t lay_out(peri_assign_job *job, const peri_device *device, const peri_op_assign *op,
                      char *base) {
    size_t row_bytes = op->rows.cols * sizeof(float), used = 0;
    size_t rows = peri_min_size(BLOCK_ROWS_MAX, BLOCK_BYTES_MAX / row_bytes);
    rows = rows / PERI_BLOCK_ROWS_MAX * PERI_BLOCK_ROWS_MAX;
    job->op = op;
    job->block_rows = peri_max_size(rows, PERI_BLOCK_ROWS_MAX);
    job->workers = peri_cpu_workers_max(device);
    job->worker_bytes = peri_round_up(PERI_BLOCK_ROWS_MAX * row_bytes, PERI_ALIGN) +
                        peri_assign_coarse_worker_bytes(job);
    job->worker_scratch = peri_scratch_cut(&used, base, job->workers * job->worker_bytes);
    if (op->centroids.rows < COARSE_CENTROIDS_LEAST) return used;
    return used + peri_assign_coarse_lay_out(job, base == NULL ? NULL : base + used);
}

size_t peri_cpu_assign_scratch(const peri_device *device, const peri_op_assign *op) {
    peri_assign_job job = { 0 };
    return lay_out(&job, device, op, NULL);
}

/* ---- one row ------------------------------------------------------------------------------ */

const float *peri_assign_wide(const peri_assign_job *job, size_t i, size_t worker) {
    const peri_view *rows = &job->op->rows;
    const void *row = peri_view_row(rows, i);
    float *wide = (float *)(void *)(job->worker_scratch + worker * job->worker_bytes);
    if (rows->dtype == PERI_F32) return row;
    for (size_t j = 0; j < rows->cols; j++) wide[j] = peri_element_load(rows->dtype, row, j);
    return wide;
}

void peri_assign_answer(const peri_assign_job *job, size_t i, uint32_t label, float value) {
    job->op->labels[i] = label;
    if (job->op->distances != NULL) job->op->distances[i] = value;
}

void peri_assign_directly(const peri_assign_job *job, size_t i, size_t worker) {
    const float *query = peri_assign_wide(job, i, worker);
    float length = peri_distances_query_length(&job->centroids, query), nearest = INFINITY;
    float values[CHUNK];
    size_t label = 0, clusters = job->op->centroids.rows;
    for (size_t c = 0; c < clusters; c += CHUNK) {
        size_t count = peri_min_size(CHUNK, clusters - c);
        peri_distances_range(&job->centroids, query, length, c, count, values);
        for (size_t k = 0; k < count; k++) {
            if (!(values[k] < nearest)) continue;
            nearest = values[k];
            label = c + k;
        }
    }
    peri_assign_answer(job, i, (uint32_t)label, nearest);
}

/* ---- the loops ---------------------------------------------------------------------------- */

typedef struct span {
    peri_assign_job *job;
    size_t rows, first, last; /* of a task; tiles */
} span;

static peri_status direct_task(void *ud, size_t task, size_t worker) {
    const span *s = ud;
    size_t first = task * s->rows, stop = peri_min_size(first + s->rows, s->job->op->rows.rows);
    for (size_t i = first; i < stop; i++) peri_assign_directly(s->job, i, worker);
    return PERI_OK;
}

static peri_status tile_task(void *ud, size_t task, size_t worker) {
    (void)worker;
    peri_assign_coarse_tile(ud, task);
    return PERI_OK;
}

static peri_status block_task(void *ud, size_t task, size_t worker) {
    const span *s = ud;
    size_t first = task * s->rows, stop = peri_min_size(first + s->rows, s->job->count);
    peri_assign_coarse_block(s->job, first, stop, s->first, s->last, worker);
    return PERI_OK;
}

static peri_status resolve_task(void *ud, size_t task, size_t worker) {
    const span *s = ud;
    size_t first = task * s->rows, stop = peri_min_size(first + s->rows, s->job->doubtful_count);
    peri_assign_coarse_resolve(s->job, first, stop, worker);
    return PERI_OK;
}

/* Progress over all batches. */
typedef struct relay {
    const peri_control *control;
    size_t done, total;
} relay;

static peri_status relay_poll(void *ud, const char *stage, size_t done, size_t total) {
    const relay *r = ud;
    (void)done;
    (void)total;
    return r->control->poll(r->control->ud, stage, r->done, r->total);
}

static peri_status run_batch(peri_assign_job *job, peri_context *context, const peri_loop *loop) {
    size_t running = peri_threads(context, loop->threads), lanes = job->kernels->rows;
    size_t share = peri_round_up(peri_ceil_div(job->count, 4 * running), PERI_BLOCK_ROWS_MAX);
    span s = { job, peri_min_size(job->block_rows, share), 0, 0 };
    for (size_t tile = 0; tile < job->tile_count; tile = s.last) {
        s.first = tile;
        s.last = peri_min_size(tile + job->segment_tiles, job->tile_count);
        PERI_TRY(peri_parallel(context, loop, peri_ceil_div(job->count, s.rows), block_task, &s));
    }
    job->doubtful_count = 0;
    for (size_t i = 0; i < job->count; i++)
        if (job->unsure[i]) job->doubtful[job->doubtful_count++] = (uint32_t)i;
    s.rows = lanes;
    return peri_parallel(context, loop, peri_ceil_div(job->doubtful_count, lanes), resolve_task,
                         &s);
}

static peri_status run_coarse(peri_assign_job *job, peri_context *context, peri_loop loop) {
    size_t n = job->op->rows.rows, dim = job->op->rows.cols;
    relay r = { loop.control, 0, n };
    peri_control control = { relay_poll, &r };
    if (loop.control != NULL && loop.control->poll != NULL) loop.control = &control;
    job->tile_count = peri_ceil_div(job->op->centroids.rows, job->kernels->queries);
    size_t tile_products = job->block_rows * dim * job->kernels->queries;
    job->segment_tiles = peri_max_size(1, TASK_PRODUCTS / tile_products);
    peri_assign_coarse_begin(job);
    PERI_TRY(peri_parallel(context, &loop, job->tile_count, tile_task, job));
    for (; job->first < n; job->first += job->count) {
        job->count = peri_min_size(PERI_ASSIGN_BATCH, n - job->first);
        PERI_TRY(run_batch(job, context, &loop));
        r.done += job->count;
        /* loops shorter than the time between two polls have none */
        if (loop.control == &control) PERI_TRY(relay_poll(&r, loop.stage, 0, 0));
    }
    return PERI_OK;
}

peri_status peri_cpu_assign(peri_stream *stream, const peri_op_assign *op, void *scratch,
                            size_t scratch_bytes) {
    peri_assign_job job = { 0 };
    size_t used = lay_out(&job, stream->device, op, scratch);
    PERI_ASSERT(used <= scratch_bytes);
    (void)used;
    (void)scratch_bytes;
    peri_distances_init(&job.centroids, op->metric, &op->centroids, op->lengths);
    size_t row_products = op->centroids.rows * op->rows.cols;
    double products = (double)row_products * (double)op->rows.rows;
    peri_loop loop = { "assign", products < ALONE_PRODUCTS ? 1 : stream->threads, stream->control };
    job.kernels = peri_block_chosen();
    job.tile = tile_chosen();
    if (job.kernels != NULL && job.tile != NULL && op->centroids.rows >= COARSE_CENTROIDS_LEAST &&
        peri_metric_by_products(op->metric))
        return run_coarse(&job, stream->device->context, loop);
    span s = { &job, peri_max_size(1, DIRECT_PRODUCTS / row_products), 0, 0 };
    return peri_parallel(stream->device->context, &loop, peri_ceil_div(op->rows.rows, s.rows),
                         direct_task, &s);
}
