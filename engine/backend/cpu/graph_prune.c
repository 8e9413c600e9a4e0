/* graph_prune.c: detour pruning, reverse edges and merge.
 *
 * Counting detours asks, for each neighbour D of A and each neighbour X of D, at which rank X is
 * in A's list: knn_degree^2 questions a row, 16 384 at the default. A map of all rows answers one
 * with a load: it holds the ranks of A's list, 0 for every other row, and rank 0 is a detour of
 * nothing. The map is written and cleaned by a row at a time; where the lists lie near each other
 * in it (rows in the order of their clusters), the loads hit the first cache.
 *
 * Reverse edges are wanted in the order (position, source). The kept edges are written twice, as
 * rows (into the output, whose memory is free until the merge) and as columns, so that the scan
 * in that order is sequential; a task owns a range of targets and takes what points into it.
 * Source: perigee_backend.h. */
#include <string.h>

#include "backend/cpu/detours.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"

#define ROWS_A_TASK 64u
#define COLUMNS_A_ROUND 8u /* between two polls */

#define HITS_SPARE 16u /* what a kernel may write behind the hits */

/* A worker's scratch. */
typedef struct worker {
    uint8_t *clean;    /* [1] ranks was cleared since the operation began */
    uint16_t *ranks;   /* [rows] of the slots of the row's list, 0 = not in it */
    uint16_t *hits;    /* [knn_degree + HITS_SPARE] */
    uint32_t *kept;    /* [degree] */
    uint32_t *detours; /* [knn_degree] */
    uint32_t *starts;  /* [knn_degree + 1] of the counting sort */
} worker;

typedef struct prune {
    const peri_op_graph_prune *op;
    uint32_t *columns; /* [degree, rows] kept edges */
    uint32_t *reverse; /* [rows, degree] */
    uint32_t *counts;  /* [rows] reverse edges so far */
    peri_ranks_fn ranks_above;
    size_t ranges, first_column;
    char *workers;
    size_t worker_bytes;
} prune;

static size_t lay_out_worker(const peri_op_graph_prune *op, void *base, worker *w) {
    size_t at = 0;
    w->clean = peri_scratch_cut(&at, base, 1);
    w->ranks = peri_scratch_cut(&at, base, (op->rows + PERI_RANKS_SPARE) * sizeof(uint16_t));
    w->hits = peri_scratch_cut(&at, base, (op->knn_degree + HITS_SPARE) * sizeof(uint16_t));
    w->kept = peri_scratch_cut(&at, base, op->degree * sizeof(uint32_t));
    w->detours = peri_scratch_cut(&at, base, op->knn_degree * sizeof(uint32_t));
    w->starts = peri_scratch_cut(&at, base, (op->knn_degree + 1) * sizeof(uint32_t));
    return at;
}

static size_t lay_out(const peri_op_graph_prune *op, void *base, size_t workers, prune *run) {
    size_t at = 0, edges = op->rows * op->degree * sizeof(uint32_t);
    worker w;
    run->columns = peri_scratch_cut(&at, base, edges);
    run->reverse = peri_scratch_cut(&at, base, edges);
    run->counts = peri_scratch_cut(&at, base, op->rows * sizeof(uint32_t));
    run->worker_bytes = lay_out_worker(op, NULL, &w);
    run->workers = peri_scratch_cut(&at, base, workers * run->worker_bytes);
    return at;
}

size_t peri_cpu_graph_prune_scratch(const peri_device *device, const peri_op_graph_prune *op) {
    prune run;
    return lay_out(op, NULL, peri_cpu_workers_max(device), &run);
}

static size_t list_count(const uint32_t *list, size_t columns) {
    size_t count = columns;
    if (columns > 0 && list[columns - 1] != PERI_SLOT_NONE) return columns;
    for (count = 0; list[count] != PERI_SLOT_NONE;) count++;
    return count;
}

/* ---- detours ------------------------------------------------------------------------------ */

static void prefetch_list(const prune *run, const uint32_t *list) {
    for (size_t at = 0; at < run->op->knn_degree; at += 64 / sizeof *list)
        __builtin_prefetch(list + at);
}

static void count_detours(const prune *run, worker *w, const uint32_t *list, size_t count) {
    size_t columns = run->op->knn_degree;
    for (size_t i = 0; i < count; i++) w->ranks[list[i]] = (uint16_t)i;
    for (size_t i = 0; i < count; i++) {
        const uint32_t *second = run->op->knn + (size_t)list[i] * columns;
        if (i + 2 < count) prefetch_list(run, run->op->knn + (size_t)list[i + 2] * columns);
        size_t hits = run->ranks_above(w->ranks, second, list_count(second, columns), (uint32_t)i,
                                       w->hits);
        for (size_t j = 0; j < hits; j++) w->detours[w->hits[j]]++;
    }
    for (size_t i = 0; i < count; i++) w->ranks[list[i]] = 0;
}

/* A row's edges by (detours, rank), the first `degree` of them: a counting sort. */
static void keep_edges(const prune *run, worker *w, size_t row) {
    const peri_op_graph_prune *op = run->op;
    const uint32_t *list = op->knn + row * op->knn_degree;
    uint32_t *out = op->graph + row * op->degree;
    size_t count = list_count(list, op->knn_degree);
    memset(w->detours, 0, count * sizeof(uint32_t));
    memset(w->starts, 0, (count + 1) * sizeof(uint32_t));
    count_detours(run, w, list, count);
    for (size_t i = 0; i < count; i++) w->starts[w->detours[i] + 1]++; /* detours < count */
    for (size_t i = 0; i < count; i++) w->starts[i + 1] += w->starts[i];
    for (size_t i = 0; i < count; i++) {
        uint32_t at = w->starts[w->detours[i]]++;
        if (at < op->degree) out[at] = list[i];
    }
    for (size_t i = count; i < op->degree; i++) out[i] = PERI_SLOT_NONE;
    for (size_t i = 0; i < op->degree; i++) run->columns[i * op->rows + row] = out[i];
    run->counts[row] = 0;
}

static peri_status keep_rows(void *ud, size_t task, size_t worker_number) {
    prune *run = ud;
    worker w;
    lay_out_worker(run->op, run->workers + worker_number * run->worker_bytes, &w);
    if (!*w.clean) {
        memset(w.ranks, 0, run->op->rows * sizeof *w.ranks);
        *w.clean = 1;
    }
    size_t stop = peri_min_size((task + 1) * ROWS_A_TASK, run->op->rows);
    for (size_t row = task * ROWS_A_TASK; row < stop; row++) keep_edges(run, &w, row);
    return PERI_OK;
}

/* ---- reverse edges and merge -------------------------------------------------------------- */

static peri_status reverse_range(void *ud, size_t task, size_t worker_number) {
    (void)worker_number;
    prune *run = ud;
    size_t rows = run->op->rows, degree = run->op->degree;
    size_t each = peri_ceil_div(rows, run->ranges), first = peri_min_size(task * each, rows);
    size_t width = peri_min_size(each, rows - first);
    size_t stop = peri_min_size(run->first_column + COLUMNS_A_ROUND, degree);
    for (size_t column = run->first_column; column < stop; column++) {
        const uint32_t *targets = run->columns + column * rows;
        for (size_t row = 0; row < rows; row++) {
            size_t target = targets[row]; /* PERI_SLOT_NONE is in no range */
            if (target - first >= width || run->counts[target] == degree) continue;
            run->reverse[target * degree + run->counts[target]++] = (uint32_t)row;
        }
    }
    return PERI_OK;
}

/* Without an early end, so that it is a few vector instructions. */
static bool contains(const uint32_t *list, size_t count, uint32_t value) {
    uint32_t found = 0;
    for (size_t i = 0; i < count; i++) found |= list[i] == value;
    return found != 0;
}

static void merge_edges(const prune *run, size_t row, uint32_t *kept) {
    size_t degree = run->op->degree, half = degree - degree / 2;
    const uint32_t *reverse = run->reverse + row * degree;
    uint32_t *out = run->op->graph + row * degree;
    memcpy(kept, out, degree * sizeof(uint32_t));
    size_t kept_count = list_count(kept, degree), count = peri_min_size(kept_count, half);
    for (size_t i = 0; i < run->counts[row] && count < degree; i++)
        if (!contains(out, count, reverse[i])) out[count++] = reverse[i];
    for (size_t i = half; i < kept_count && count < degree; i++)
        if (!contains(out, count, kept[i])) out[count++] = kept[i];
    while (count < degree) out[count++] = PERI_SLOT_NONE;
}

static peri_status merge_rows(void *ud, size_t task, size_t worker_number) {
    prune *run = ud;
    worker w;
    lay_out_worker(run->op, run->workers + worker_number * run->worker_bytes, &w);
    size_t stop = peri_min_size((task + 1) * ROWS_A_TASK, run->op->rows);
    for (size_t row = task * ROWS_A_TASK; row < stop; row++) merge_edges(run, row, w.kept);
    return PERI_OK;
}

peri_status peri_cpu_graph_prune(peri_stream *stream, const peri_op_graph_prune *op, void *scratch,
                                 size_t scratch_bytes) {
    (void)scratch_bytes;
    size_t workers = peri_cpu_workers(stream), tasks = peri_ceil_div(op->rows, ROWS_A_TASK);
    peri_context *context = stream->device->context;
    prune run = { .op = op, .ranks_above = peri_ranks_chosen(), .ranges = workers };
    lay_out(op, scratch, workers, &run);
    for (size_t i = 0; i < workers; i++) {
        worker w;
        lay_out_worker(op, run.workers + i * run.worker_bytes, &w);
        *w.clean = 0;
    }
    peri_loop loop = { .stage = "prune", .threads = workers, .control = stream->control };
    peri_loop quiet = { .threads = workers, .control = stream->control };
    PERI_TRY(peri_parallel(context, &loop, tasks, keep_rows, &run));
    for (; run.first_column < op->degree; run.first_column += COLUMNS_A_ROUND)
        PERI_TRY(peri_parallel(context, &quiet, run.ranges, reverse_range, &run));
    return peri_parallel(context, &quiet, tasks, merge_rows, &run);
}
