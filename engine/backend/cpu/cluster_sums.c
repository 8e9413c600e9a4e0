/* cluster_sums.c: every centroid to the mean of its rows: a counting sort of the rows by label,
 * then the centroids in parallel.
 *
 * A task is some centroids on a span of columns and takes their rows in ascending order, so what
 * it adds and in which order depends neither on the number of threads nor on the spans. */
#include <math.h>
#include <string.h>

#include "backend/convert_element.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/sums.h"
#include "backend/cpu/workers.h"
#include "core/matrix.h"
#include "core/memory.h"

#define TASKS_PER_WORKER 8u
#define SPAN_COLUMNS_LEAST 16u /* a cache line of f32 */
#define AHEAD 4u               /* rows of a centroid lie apart: asked for this many ahead */

typedef struct sums_job {
    const peri_op_cluster_sums *op;
    uint32_t *starts; /* [c + 1] in `order` */
    uint32_t *order;  /* [n] rows by label, ascending within one */
    char *worker_scratch;
    size_t worker_bytes;
    size_t centroids, spans, span_columns; /* of a task; tasks a centroid; columns a task */
    peri_sums_fn dot;
} sums_job;

static size_t worker_bytes(size_t cols) {
    return peri_round_up(cols * (2 * sizeof(double) + sizeof(float)), PERI_ALIGN);
}

static size_t lay_out(sums_job *job, const peri_device *device, void *base) {
    size_t used = 0;
    job->worker_bytes = worker_bytes(job->op->rows.cols);
    job->starts = peri_scratch_cut(&used, base,
                                   (job->op->centroids.rows + 1) * sizeof *job->starts);
    job->order = peri_scratch_cut(&used, base, job->op->rows.rows * sizeof *job->order);
    job->worker_scratch = peri_scratch_cut(&used, base,
                                           peri_cpu_workers_max(device) * job->worker_bytes);
    return used;
}

size_t peri_cpu_cluster_sums_scratch(const peri_device *device, const peri_op_cluster_sums *op) {
    sums_job job = { .op = op };
    return lay_out(&job, device, NULL);
}

/* One pass counts, one places: starts[c + 1] runs through the rows of c meanwhile. */
static void sort_rows(sums_job *job) {
    const peri_op_cluster_sums *op = job->op;
    size_t n = op->rows.rows, clusters = op->centroids.rows;
    memset(op->counts, 0, clusters * sizeof *op->counts);
    for (size_t i = 0; i < n; i++) op->counts[op->labels[i]]++;
    job->starts[0] = 0;
    uint32_t sum = 0;
    for (size_t c = 0; c < clusters; c++) {
        job->starts[c + 1] = sum;
        sum += op->counts[c];
    }
    for (size_t i = 0; i < n; i++) job->order[job->starts[op->labels[i] + 1]++] = (uint32_t)i;
}

/* Adds elements [first, first + count) of a row; constant dtypes make a plain loop of each. */
static void add_elements(peri_dtype dtype, const void *row, size_t first, size_t count,
                         double *group) {
    switch (dtype) {
#define ADD_CASE(type)                                                                             \
    case type:                                                                                     \
        for (size_t j = 0; j < count; j++)                                                         \
            group[j] += (double)peri_element_load(type, row, first + j);                           \
        break
        ADD_CASE(PERI_F32);
        ADD_CASE(PERI_F16);
        ADD_CASE(PERI_I8);
        ADD_CASE(PERI_U8);
#undef ADD_CASE
    default: PERI_ASSERT(false);
    }
}

static void add_row(const sums_job *job, size_t at, size_t first, size_t count, double *group) {
    const peri_op_cluster_sums *op = job->op;
    size_t row = job->order[at];
    const void *elements = peri_view_row(&op->rows, row);
    if (op->lengths == NULL) {
        add_elements(op->rows.dtype, elements, first, count, group);
        return;
    }
    double length = (double)op->lengths[row];
    for (size_t j = 0; j < count; j++)
        group[j] += (double)peri_element_load(op->rows.dtype, elements, first + j) / length;
}

static void ask_ahead(const sums_job *job, size_t at, size_t stop, size_t first, size_t count) {
    if (at >= stop) return;
    const peri_view *rows = &job->op->rows;
    size_t bytes = peri_dtype_bytes(rows->dtype);
    peri_sums_prefetch((const char *)peri_view_row(rows, job->order[at]) + first * bytes,
                       count * bytes);
}

/* S(c) on the columns [first, first + count). */
static void sum_centroid(const sums_job *job, size_t c, size_t first, size_t count, double *sums,
                         double *group) {
    size_t at = c == 0 ? 0 : job->starts[c], stop = job->starts[c + 1];
    memset(sums, 0, count * sizeof *sums);
    while (at < stop) {
        size_t group_stop = peri_min_size(at + PERI_SUMS_GROUP, stop);
        memset(group, 0, count * sizeof *group);
        for (; at < group_stop; at++) {
            ask_ahead(job, at + AHEAD, stop, first, count);
            add_row(job, at, first, count, group);
        }
        for (size_t j = 0; j < count; j++) sums[j] += group[j];
    }
}

static void move_centroid(const sums_job *job, size_t c, size_t first, size_t count,
                          const double *sums, float *mean) {
    const peri_op_cluster_sums *op = job->op;
    float *centroid = (float *)peri_view_row(&op->centroids, c) + first, sum = 1;
    double weight = op->weights == NULL ? 0 : op->weights[c], n = (double)op->counts[c];
    if (weight == 0)
        for (size_t j = 0; j < count; j++) mean[j] = (float)(sums[j] / n);
    else
        for (size_t j = 0; j < count; j++)
            mean[j] = (float)((weight * (double)centroid[j] + sums[j]) / (weight + n));
    if (!op->unit) {
        memcpy(centroid, mean, count * sizeof *mean);
        return;
    }
    job->dot(mean, mean, 0, NULL, 1, (uint32_t)count, &sum);
    float length = sqrtf(sum);
    if (!(length > 0) || !isfinite(length)) return;
    for (size_t j = 0; j < count; j++) centroid[j] = mean[j] / length;
}

static peri_status sums_task(void *ud, size_t task, size_t worker) {
    const sums_job *job = ud;
    const peri_op_cluster_sums *op = job->op;
    size_t c = task / job->spans * job->centroids, cols = op->rows.cols;
    size_t stop = peri_min_size(c + job->centroids, op->centroids.rows);
    size_t first = task % job->spans * job->span_columns;
    size_t count = peri_min_size(job->span_columns, cols - first);
    double *sums = (double *)(void *)(job->worker_scratch + worker * job->worker_bytes);
    for (; c < stop; c++) {
        if (op->counts[c] == 0) continue;
        sum_centroid(job, c, first, count, sums, sums + cols);
        move_centroid(job, c, first, count, sums, (float *)(void *)(sums + 2 * cols));
    }
    return PERI_OK;
}

/* Few centroids: also by columns, unless the whole mean is needed at once. Returns the tasks. */
static size_t plan(sums_job *job, size_t workers) {
    size_t clusters = job->op->centroids.rows, cols = job->op->rows.cols;
    size_t wanted = workers * TASKS_PER_WORKER;
    job->centroids = peri_max_size(1, clusters / wanted);
    job->span_columns = cols;
    if (workers > 1 && clusters < wanted && !job->op->unit) {
        size_t columns = cols / peri_ceil_div(wanted, clusters);
        job->span_columns = peri_max_size(SPAN_COLUMNS_LEAST, peri_round_up(columns, 16));
    }
    job->spans = peri_ceil_div(cols, job->span_columns);
    return peri_ceil_div(clusters, job->centroids) * job->spans;
}

peri_status peri_cpu_cluster_sums(peri_stream *stream, const peri_op_cluster_sums *op,
                                  void *scratch, size_t scratch_bytes) {
    sums_job job = { .op = op, .dot = peri_sums_chosen()->dot[PERI_F32] };
    size_t used = lay_out(&job, stream->device, scratch);
    PERI_ASSERT(used <= scratch_bytes);
    (void)used;
    (void)scratch_bytes;
    sort_rows(&job);
    peri_loop loop = { "cluster sums", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop, plan(&job, peri_cpu_workers(stream)),
                         sums_task, &job);
}
