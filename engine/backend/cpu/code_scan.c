/* code_scan.c: nearest entries of inverted lists by codes on the CPU: in the order of list_work.c.
 *
 * Queries are rounded first. A task takes its entries in chunks: their
 * codes become a byte each, once for all its queries, then each query multiplies (code_dots.h) and
 * offers what is near. */
#include <string.h>

#include "backend/cpu/code_dots.h"
#include "backend/cpu/distances.h"
#include "backend/cpu/list_work.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/bitset.h"
#include "core/checked.h"
#include "core/code_value.h"
#include "core/matrix.h"
#include "core/memory.h"

#define QUERIES_MAX 4096u  /* at a time, which bounds the scratch */
#define ROUND_QUERIES 16u  /* of a task that rounds */
#define LANES_QUERIES 6u   /* of a task: from here on transposing its codes pays */
#define TASK_QUERIES 64u   /* of a task that scans */
#define TASK_BYTES 262144u /* of codes, which stay in L2 while the queries of a task pass */

typedef struct scan_job {
    peri_list_work work;
    const peri_op_code_scan *op; /* of the queries at hand */
    peri_code_kernels kernels;
    peri_distances centroids;
    size_t row_bytes, stride; /* of codes; of a query's values and of unpacked codes */
    float *middle;            /* [cols] or NULL */
    int8_t *values;           /* [queries, query_bytes, stride] */
    peri_code_query_head *heads;
    uint8_t *unpacked; /* [workers, PERI_CODE_CHUNK, stride]; NULL: codes are bytes */
    uint32_t *lanes;   /* [workers, stride / 4, PERI_CODE_CHUNK]; NULL: none of the kernels */
} scan_job;

static void scan_task(const void *ud, const peri_list_task *task);

static peri_list_shape shape_of(const void *ud, size_t queries) {
    const scan_job *job = ud;
    (void)queries;
    return (peri_list_shape){ TASK_QUERIES,
                              peri_max_size(PERI_CODE_CHUNK, TASK_BYTES / job->row_bytes) };
}

static size_t plan(scan_job *job, const peri_device *device, void *base) {
    const peri_op_code_scan *op = job->op;
    size_t cols = op->queries.cols, queries = op->queries.rows;
    job->row_bytes = peri_codes_bytes(cols, op->bits);
    job->stride = peri_round_up(cols, PERI_CODE_STRIDE);
    job->work = (peri_list_work){ .name = "code_scan",
                                  .lists = op->lists,
                                  .probes = op->probes,
                                  .n_probes = op->n_probes,
                                  .filter = &op->filter,
                                  .queries = queries,
                                  .k = op->k,
                                  .ids = op->ids,
                                  .distances = op->distances,
                                  .visited_out = op->visited,
                                  .entry_cost = (double)cols / 8,
                                  .shape = shape_of,
                                  .run = scan_task,
                                  .job = job };
    size_t at = peri_round_up(peri_list_work_plan(&job->work, device, base), 64);
    job->values = peri_scratch_cut(&at, base, queries * op->query_bytes * job->stride);
    job->heads = peri_scratch_cut(&at, base, queries * sizeof *job->heads);
    job->middle = NULL;
    if (op->low != NULL) job->middle = peri_scratch_cut(&at, base, cols * sizeof(float));
    job->unpacked = NULL;
    if (op->bits != 8)
        job->unpacked = peri_scratch_cut(&at, base,
                                         job->work.workers * PERI_CODE_CHUNK * job->stride);
    job->lanes = NULL;
    if (job->kernels.lanes != NULL)
        job->lanes = peri_scratch_cut(&at, base, job->work.workers * PERI_CODE_CHUNK * job->stride);
    return at;
}

/* The part of an operation that goes through the lists together. */
static peri_op_code_scan some_queries(const peri_op_code_scan *op, size_t first) {
    peri_op_code_scan part = *op;
    part.queries.rows = peri_min_size(op->queries.rows - first, QUERIES_MAX);
    part.queries.data = peri_view_row(&op->queries, first);
    if (op->probes != NULL) part.probes += first * op->n_probes;
    if (op->filter.which != NULL) part.filter.which += first;
    part.ids += first * op->k;
    part.distances += first * op->k;
    if (op->visited != NULL) part.visited += first;
    return part;
}

size_t peri_cpu_code_scan_scratch(const peri_device *device, const peri_op_code_scan *op) {
    peri_op_code_scan part = some_queries(op, 0);
    scan_job job = { .op = &part, .kernels = peri_code_kernels_chosen() };
    return plan(&job, device, NULL);
}

/* ---- queries ------------------------------------------------------------------------------ */

static int8_t *values_of(const scan_job *job, size_t query) {
    return job->values + query * job->op->query_bytes * job->stride;
}

static peri_status round_task(void *ud, size_t task, size_t worker) {
    const scan_job *job = ud;
    const peri_op_code_scan *op = job->op;
    size_t first = task * ROUND_QUERIES;
    size_t stop = peri_min_size(first + ROUND_QUERIES, op->queries.rows);
    (void)worker;
    for (size_t i = first; i < stop; i++) {
        int8_t *values = values_of(job, i);
        memset(values, 0, op->query_bytes * job->stride);
        peri_code_round(op, peri_view_row(&op->queries, i), job->middle, job->stride, values,
                        &job->heads[i]);
    }
    return PERI_OK;
}

static peri_status round_queries(const scan_job *job, peri_stream *stream) {
    size_t tasks = peri_ceil_div(job->op->queries.rows, ROUND_QUERIES);
    peri_loop quiet = { NULL, tasks > 1 ? stream->threads : 1, NULL };
    return peri_parallel(stream->device->context, &quiet, tasks, round_task,
                         (void *)(uintptr_t)job);
}

/* ---- tasks -------------------------------------------------------------------------------- */

/* One query of a task. */
typedef struct asked {
    size_t query; /* of the operation */
    const uint64_t *bits;
    peri_list_keep *keep;
    float base;
    uint32_t passed;
} asked;

/* A chunk of entries: positions at..at + count - 1 of the arena, a byte a code. */
typedef struct chunk {
    size_t at, count;
    const uint8_t *codes;
    size_t stride;
    const uint32_t *lanes; /* the same transposed, or NULL */
} chunk;

static float base_of(const scan_job *job, const float *query, size_t list) {
    const peri_op_code_scan *op = job->op;
    float value;
    if (op->centroids != NULL)
        peri_distances_range(&job->centroids, query, 0, list, 1, &value);
    else if (peri_value_squared(op->metric))
        value = peri_canonical_dot(PERI_F32, query, query, (uint32_t)op->queries.cols);
    else
        value = 0;
    return value;
}

static chunk open_chunk(const scan_job *job, const peri_list_task *task, size_t at) {
    const peri_op_code_scan *op = job->op;
    chunk c = { .at = at, .count = peri_min_size(PERI_CODE_CHUNK, task->stop - at) };
    const uint8_t *packed = op->codes + at * job->row_bytes;
    c.codes = packed;
    c.stride = job->row_bytes;
    if (job->unpacked == NULL) return c;
    uint8_t *codes = job->unpacked + task->worker * PERI_CODE_CHUNK * job->stride;
    for (size_t i = 0; i < c.count; i++)
        job->kernels.unpack(packed + i * job->row_bytes, op->queries.cols, op->bits,
                            codes + i * job->stride);
    c.codes = codes;
    c.stride = job->stride;
    return c;
}

/* Entries past the count keep what was there: nobody reads their sums. */
static void transpose(const scan_job *job, const peri_list_task *task, chunk *c) {
    size_t cols = job->op->queries.cols;
    if (job->lanes == NULL || (cols % 4 != 0 && job->unpacked == NULL)) return;
    uint32_t *lanes = job->lanes + task->worker * PERI_CODE_CHUNK * (job->stride / 4);
    for (size_t i = 0; i < c->count; i++)
        for (size_t g = 0; g < peri_ceil_div(cols, 4); g++)
            memcpy(&lanes[g * PERI_CODE_CHUNK + i], c->codes + i * c->stride + 4 * g, 4);
    c->lanes = lanes;
}

/* p of each entry. */
static void find_products(const scan_job *job, const chunk *c, size_t query, float *products) {
    const peri_op_code_scan *op = job->op;
    const peri_code_query_head head = job->heads[query];
    const uint32_t bits = op->bits;
    int32_t dots[2 * PERI_CODE_CHUNK];
    peri_code_values values = { values_of(job, query), op->query_bytes, job->stride,
                                op->queries.cols };
    if (c->lanes != NULL)
        job->kernels.lanes(c->lanes, &values, dots);
    else
        job->kernels.dots(c->codes, c->stride, c->count, &values, dots);
    if (op->query_bytes == 1)
        for (size_t i = 0; i < c->count; i++)
            products[i] = (float)peri_code_centred(dots[i], head.sum[0], bits);
    else
        for (size_t i = 0; i < c->count; i++)
            products[i] = 128.0f * (float)peri_code_centred(dots[i], head.sum[0], bits) +
                          (float)peri_code_centred(dots[PERI_CODE_CHUNK + i], head.sum[1], bits);
    for (size_t i = 0; i < c->count; i++) products[i] = head.half_step * products[i] + head.offset;
    if (op->scales == NULL) return;
    for (size_t i = 0; i < c->count; i++) products[i] = op->scales[c->at + i] * products[i];
}

static void find_values(const scan_job *job, const chunk *c, const asked *a, float *values) {
    const peri_op_code_scan *op = job->op;
    const peri_code_query_head head = job->heads[a->query];
    const float *adds = op->adds == NULL ? NULL : op->adds + c->at;
    const float base = a->base;
    find_products(job, c, a->query, values);
    switch (op->metric) {
    case PERI_SQEUCLIDEAN:
    case PERI_EUCLIDEAN:
        for (size_t i = 0; i < c->count; i++)
            values[i] = peri_code_value(PERI_SQEUCLIDEAN, &head, base, adds == NULL ? 0 : adds[i],
                                        values[i]);
        break;
    case PERI_COSINE:
        for (size_t i = 0; i < c->count; i++)
            values[i] = peri_code_value(PERI_COSINE, &head, base, 0, values[i]);
        break;
    default:
        for (size_t i = 0; i < c->count; i++)
            values[i] = peri_code_value(PERI_INNER_PRODUCT, &head, base, 0, values[i]);
        break;
    }
}

/* Most chunks hold none once the heap is full: one pass of vectors says so. */
static bool any_near(const float *values, size_t count, float bound) {
    int near = 0;
    for (size_t i = 0; i < count; i++) near |= values[i] <= bound;
    return near != 0;
}

static void scan_chunk(const scan_job *job, const chunk *c, asked *a) {
    const uint32_t *slots = job->op->lists.slots + c->at;
    float values[PERI_CODE_CHUNK];
    uint8_t passing[PERI_CODE_CHUNK];
    size_t count = 0;
    for (size_t i = 0; i < c->count && a->bits != NULL; i++) {
        passing[count] = (uint8_t)i;
        count += peri_bitset_test(a->bits, slots[i]);
    }
    if (a->bits != NULL && count == 0) return;
    find_values(job, c, a, values);
    if (a->bits == NULL) count = c->count;
    a->passed += (uint32_t)count;
    if (!any_near(values, c->count, a->keep->bound)) return;
    for (size_t n = 0; n < count; n++) {
        size_t i = a->bits == NULL ? n : passing[n];
        peri_list_keep_offer(a->keep, values[i], slots[i]);
    }
}

static void scan_task(const void *ud, const peri_list_task *task) {
    const scan_job *job = ud;
    const peri_list_work *work = &job->work;
    asked list[TASK_QUERIES];
    for (size_t i = 0; i < task->count; i++) {
        size_t query = peri_list_member(task, i), row = work->first + query;
        const float *q = peri_view_row(&job->op->queries, row);
        list[i] = (asked){ row, peri_list_filter(work, query),
                           peri_list_kept(work, task->worker, query), base_of(job, q, task->list),
                           0 };
    }
    for (size_t at = task->at; at < task->stop; at += PERI_CODE_CHUNK) {
        chunk c = open_chunk(job, task, at);
        if (task->count >= LANES_QUERIES) transpose(job, task, &c);
        for (size_t i = 0; i < task->count; i++) scan_chunk(job, &c, &list[i]);
    }
    for (size_t i = 0; i < task->count; i++) {
        peri_list_keep_bound(list[i].keep);
        peri_list_count(work, task->worker, peri_list_member(task, i), list[i].passed);
    }
}

static void measure_centroids(scan_job *job, const peri_device *device) {
    const peri_op_code_scan *op = job->op;
    size_t cols = op->queries.cols;
    if (op->centroids == NULL) return;
    peri_view view = { .data = (void *)(uintptr_t)op->centroids,
                       .rows = op->lists.n_lists,
                       .cols = cols,
                       .stride_bytes = cols * sizeof(float),
                       .dtype = PERI_F32,
                       .place = device->place };
    peri_distances_init(&job->centroids,
                        peri_value_squared(op->metric) ? PERI_SQEUCLIDEAN : PERI_INNER_PRODUCT,
                        &view, NULL);
}

peri_status peri_cpu_code_scan(peri_stream *stream, const peri_op_code_scan *op, void *scratch,
                               size_t scratch_bytes) {
    (void)scratch_bytes;
    for (size_t first = 0; first < op->queries.rows; first += QUERIES_MAX) {
        peri_op_code_scan part = some_queries(op, first);
        scan_job job = { .op = &part, .kernels = peri_code_kernels_chosen() };
        PERI_ASSERT(plan(&job, stream->device, NULL) <= scratch_bytes);
        plan(&job, stream->device, scratch);
        if (part.low != NULL) peri_code_middle(&part, job.middle);
        measure_centroids(&job, stream->device);
        PERI_TRY(round_queries(&job, stream));
        PERI_TRY(peri_list_work_run(&job.work, stream));
    }
    return PERI_OK;
}
