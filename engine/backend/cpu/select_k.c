/* select_k.c: the least values of every row.
 *
 * A task is a segment of a row, of which there are several only when rows are too few for the
 * workers. It keeps entries below a bound in the order of their columns; when their room is full,
 * counting finds the k-th value (select.h), which is the bound from then on: what follows and is
 * equal to it comes later and can't enter. Of values equal to the bound the first columns stay.
 * Most of a row is read once, compared in blocks and forgotten. */
#include <math.h>
#include <string.h>

#include "backend/cpu/ops.h"
#include "backend/cpu/select.h"
#include "backend/cpu/workers.h"
#include "core/matrix.h"

#define BLOCK 256u               /* values that are compared before any is kept */
#define ROOM_SPARE 4096u         /* entries beyond 2 k, so that rooms are rarely full (taste) */
#define SEGMENT_COLUMNS 1048576u /* at least, where a row is cut (taste) */

/* The entries of a segment. */
typedef struct entries {
    float *values;
    uint32_t *columns;
    size_t count;
    bool bounded; /* `bound` is the k-th value seen */
    float bound;
} entries;

typedef struct select_job {
    const peri_op_select_k *op;
    const peri_select_kernels *select;
    size_t segments, segment_columns;
    size_t room; /* entries */
    char *rooms; /* one a worker: entries, then keys to sort */
    size_t room_bytes;
    float *values;     /* [n, segments, k] where there are several: what is kept of each */
    uint32_t *columns; /* [n, segments, k] */
    uint32_t *counts;  /* [n, segments] */
} select_job;

/* ---- one segment -------------------------------------------------------------------------- */

/* Keeps the k least entries, in their order: all below the k-th value, and the first that equal
 * it. */
static void keep_least(const select_job *job, entries *kept) {
    size_t k = job->op->k, below = 0, count = 0;
    if (kept->count <= k) return;
    peri_span span = { kept->values, kept->count };
    float kth = job->select->kth(&span, 1, k, k);
    kept->count = job->select->filter(kept->values, kept->columns, kept->count, kth);
    kept->bounded = true;
    kept->bound = kth;
    if (kept->count == k) return;
    for (size_t i = 0; i < kept->count; i++) below += kept->values[i] < kth;
    for (size_t i = 0, ties = k - below; i < kept->count; i++) {
        bool tie = kept->values[i] == kth;
        if (tie && ties == 0) continue;
        ties -= tie;
        kept->values[count] = kept->values[i];
        kept->columns[count++] = kept->columns[i];
    }
    kept->count = count;
}

static float plain(float value) { return isnan(value) ? INFINITY : value + 0.0f; /* -0 is 0 */ }

static void offer_block(entries *kept, const float *values, size_t first, size_t count) {
    size_t at = kept->count;
    for (size_t i = 0; i < count; i++) {
        float value = plain(values[i]);
        kept->values[at] = value;
        kept->columns[at] = (uint32_t)(first + i);
        at += !kept->bounded || value < kept->bound;
    }
    kept->count = at;
}

static void scan_segment(const select_job *job, const float *values, size_t first, size_t stop,
                         entries *kept) {
    while (first < stop) {
        size_t count = peri_min_size(BLOCK, stop - first);
        uint32_t passing = 0;
        for (size_t i = 0; i < count; i++) passing += values[first + i] < kept->bound;
        if (!kept->bounded || passing > 0) {
            if (kept->count + count + 16 > job->room) keep_least(job, kept);
            offer_block(kept, values + first, first, count);
        }
        first += count;
    }
    keep_least(job, kept);
}

/* ---- answers ------------------------------------------------------------------------------ */

static void write_best(const select_job *job, size_t row, entries *kept) {
    const peri_op_select_k *op = job->op;
    int64_t *ids = op->best_ids + row * op->k;
    float *best = op->best_values + row * op->k;
    const int64_t *names = op->ids == NULL ? NULL : op->ids + row * op->values.cols;
    uint64_t *keys = (uint64_t *)(void *)(kept->columns + job->room);
    peri_select_sort(kept->values, kept->columns, kept->count, keys);
    for (size_t i = 0; i < op->k; i++) {
        bool none = i >= kept->count;
        ids[i] = none ? PERI_ID_NONE : names == NULL ? kept->columns[i] : names[kept->columns[i]];
        best[i] = none ? INFINITY : kept->values[i];
    }
}

static entries room_of(const select_job *job, size_t worker) {
    float *values = (float *)(void *)(job->rooms + worker * job->room_bytes);
    return (entries){ .values = values, .columns = (uint32_t *)(values + job->room) };
}

static peri_status select_segment(void *ud, size_t task, size_t worker) {
    const select_job *job = ud;
    const peri_op_select_k *op = job->op;
    size_t row = task / job->segments, first = task % job->segments * job->segment_columns;
    size_t stop = peri_min_size(first + job->segment_columns, op->values.cols);
    entries kept = room_of(job, worker);
    scan_segment(job, peri_view_row(&op->values, row), first, stop, &kept);
    if (job->segments == 1) {
        write_best(job, row, &kept);
        return PERI_OK;
    }
    memcpy(job->values + task * op->k, kept.values, kept.count * sizeof(float));
    memcpy(job->columns + task * op->k, kept.columns, kept.count * sizeof(uint32_t));
    job->counts[task] = (uint32_t)kept.count;
    return PERI_OK;
}

/* A row from its segments, which are in the order of their columns. */
static peri_status join_segments(void *ud, size_t row, size_t worker) {
    const select_job *job = ud;
    size_t k = job->op->k;
    entries kept = room_of(job, worker);
    for (size_t s = 0; s < job->segments; s++) {
        size_t from = row * job->segments + s, count = job->counts[from];
        memcpy(kept.values + kept.count, job->values + from * k, count * sizeof(float));
        memcpy(kept.columns + kept.count, job->columns + from * k, count * sizeof(uint32_t));
        kept.count += count;
        keep_least(job, &kept);
    }
    write_best(job, row, &kept);
    return PERI_OK;
}

/* ---- the operation ------------------------------------------------------------------------ */

/* How the operation is cut; the same for the scratch and the run. Returns the bytes of scratch. */
static size_t plan(const peri_device *device, const peri_op_select_k *op, void *scratch,
                   select_job *job) {
    size_t workers = peri_cpu_workers_max(device), rows = peri_max_size(op->values.rows, 1);
    size_t wanted = rows >= workers ? 1 : peri_ceil_div(2 * workers, rows), at = 0;
    wanted = peri_min_size(wanted, peri_ceil_div(op->values.cols, SEGMENT_COLUMNS));
    *job = (select_job){ .op = op, .select = peri_select_chosen() };
    job->segment_columns = peri_max_size(peri_ceil_div(op->values.cols, peri_max_size(wanted, 1)),
                                         1);
    job->segments = peri_max_size(peri_ceil_div(op->values.cols, job->segment_columns), 1);
    job->room = peri_round_up(2 * op->k + ROOM_SPARE, 16);
    job->room_bytes = job->room * (sizeof(float) + sizeof(uint32_t)) +
                      peri_round_up(2 * op->k * sizeof(uint64_t), 64);
    job->rooms = peri_scratch_cut(&at, scratch, workers * job->room_bytes);
    if (job->segments == 1) return at;
    size_t lists = rows * job->segments; /* below 4 * workers */
    job->values = peri_scratch_cut(&at, scratch, lists * op->k * sizeof(float));
    job->columns = peri_scratch_cut(&at, scratch, lists * op->k * sizeof(uint32_t));
    job->counts = peri_scratch_cut(&at, scratch, lists * sizeof(uint32_t));
    return at;
}

size_t peri_cpu_select_k_scratch(const peri_device *device, const peri_op_select_k *op) {
    select_job job;
    return plan(device, op, NULL, &job);
}

peri_status peri_cpu_select_k(peri_stream *stream, const peri_op_select_k *op, void *scratch,
                              size_t scratch_bytes) {
    select_job job;
    (void)scratch_bytes;
    plan(stream->device, op, scratch, &job);
    peri_loop loop = { "select_k", peri_cpu_workers(stream), stream->control };
    PERI_TRY(peri_parallel(stream->device->context, &loop, op->values.rows * job.segments,
                           select_segment, &job));
    if (job.segments == 1) return PERI_OK;
    return peri_parallel(stream->device->context, &loop, op->values.rows, join_segments, &job);
}
