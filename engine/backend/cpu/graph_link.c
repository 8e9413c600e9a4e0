/* graph_link.c: links chosen among candidates, one row a task.
 *
 * What costs is the distances between candidates. A candidate is measured against the links kept
 * so far a few at a time, nearest first, and most are dropped by the first few; the next
 * candidate's row is prefetched meanwhile. Candidates of a walk come sorted, which is seen in one
 * pass; other lists are sorted by merging. The result is defined to the bit (perigee_backend.h),
 * so it does not depend on these choices or on the number of workers. */
#include <math.h>
#include <string.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/near_list.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/sums.h"
#include "backend/cpu/workers.h"
#include "core/half.h"
#include "core/matrix.h"

#define ROWS_A_TASK 16u
#define GROUP 4u /* links that a candidate is measured against at once */
#define RUN 12u  /* keys sorted by insertion before merging */

/* A worker's scratch. */
typedef struct worker {
    uint64_t *keys;   /* [columns] candidates */
    uint64_t *spare;  /* [columns] */
    uint32_t *slots;  /* [columns] candidates before their distances are known */
    float *distances; /* [columns] */
    uint32_t *kept;   /* [min(degree, columns)] */
    float *near;      /* [min(degree, columns)] v(t, kept) */
    float *query;     /* [d] a row of f16 as f32 */
} worker;

typedef struct linking {
    const peri_op_graph_link *op;
    peri_distances measure;
    char *scratch;
    size_t worker_bytes;
} linking;

static size_t lay_out(const peri_op_graph_link *op, void *base, worker *w) {
    size_t at = 0, columns = op->columns, most = peri_min_size(op->degree, columns);
    w->keys = peri_scratch_cut(&at, base, columns * sizeof(uint64_t));
    w->spare = peri_scratch_cut(&at, base, columns * sizeof(uint64_t));
    w->slots = peri_scratch_cut(&at, base, columns * sizeof(uint32_t));
    w->distances = peri_scratch_cut(&at, base, columns * sizeof(float));
    w->kept = peri_scratch_cut(&at, base, most * sizeof(uint32_t));
    w->near = peri_scratch_cut(&at, base, most * sizeof(float));
    w->query = peri_scratch_cut(&at, base, op->rows.cols * sizeof(float));
    return at;
}

size_t peri_cpu_graph_link_scratch(const peri_device *device, const peri_op_graph_link *op) {
    worker w;
    return peri_cpu_workers_max(device) * lay_out(op, NULL, &w);
}

/* ---- sorting ------------------------------------------------------------------------------ */

static bool is_sorted(const uint64_t *keys, size_t count) {
    for (size_t i = 1; i < count; i++)
        if (keys[i - 1] > keys[i]) return false;
    return true;
}

static void merge_runs(const uint64_t *from, uint64_t *to, size_t middle, size_t count) {
    size_t a = 0, b = middle;
    for (size_t i = 0; i < count; i++)
        to[i] = b == count || (a < middle && from[a] <= from[b]) ? from[a++] : from[b++];
}

/* Sorts keys; `spare` has room for as many. */
static void sort_keys(uint64_t *keys, uint64_t *spare, size_t count) {
    if (is_sorted(keys, count)) return;
    uint64_t *from = keys, *to = spare;
    for (size_t i = 0; i < count; i += RUN) peri_near_sort(keys + i, peri_min_size(RUN, count - i));
    for (size_t width = RUN; width < count; width *= 2) {
        for (size_t i = 0; i < count; i += 2 * width) {
            size_t both = peri_min_size(2 * width, count - i);
            merge_runs(from + i, to + i, peri_min_size(width, both), both);
        }
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != keys) memcpy(keys, from, count * sizeof *keys);
}

/* ---- candidates --------------------------------------------------------------------------- */

/* The row as a query: f16 is widened. */
static const void *as_query(const linking *run, const worker *w, uint32_t slot) {
    const peri_view *rows = &run->op->rows;
    const void *row = peri_view_row(rows, slot);
    if (rows->dtype != PERI_F16) return row;
    for (size_t j = 0; j < rows->cols; j++)
        w->query[j] = peri_half_to_float(((const uint16_t *)row)[j]);
    return w->query;
}

static float length_of(const linking *run, uint32_t slot) {
    return run->op->metric == PERI_COSINE ? run->op->lengths[slot] : 0;
}

/* Keys of the candidates of output row i, sorted, each once. */
static size_t take_candidates(const linking *run, const worker *w, size_t i) {
    const peri_op_graph_link *op = run->op;
    const uint32_t *given = op->candidates + i * op->columns;
    const float *values = op->distances == NULL ? NULL : op->distances + i * op->columns;
    uint32_t t = op->slots[i];
    size_t count = 0, kept = 0;
    for (size_t j = 0; j < op->columns; j++) {
        if (given[j] == PERI_SLOT_NONE || given[j] == t) continue;
        w->slots[count] = given[j];
        if (values != NULL) w->distances[count] = values[j];
        count++;
    }
    if (values == NULL && count > 0)
        peri_distances_slots(&run->measure, as_query(run, w, t), length_of(run, t), w->slots, count,
                             w->distances);
    for (size_t j = 0; j < count; j++) w->keys[j] = peri_near_key(w->distances[j], w->slots[j]);
    sort_keys(w->keys, w->spare, count);
    for (size_t j = 0; j < count; j++)
        if (kept == 0 || w->keys[j] != w->keys[kept - 1]) w->keys[kept++] = w->keys[j];
    return kept;
}

/* ---- choosing ----------------------------------------------------------------------------- */

static void prefetch_candidate(const linking *run, uint64_t key) {
    const peri_view *rows = &run->op->rows;
    peri_sums_prefetch(peri_view_row(rows, peri_near_slot(key)),
                       rows->cols * peri_dtype_bytes(rows->dtype));
}

static float limit_of(const linking *run, uint32_t t, uint32_t slot, float distance) {
    const peri_op_graph_link *op = run->op;
    if (op->alpha == 1.0f) return distance;
    if (op->metric != PERI_INNER_PRODUCT) return distance / op->alpha;
    float gap = fmaf(op->lengths[t], op->lengths[slot], distance);
    return fmaf(1.0f / op->alpha - 1.0f, gap, distance);
}

static bool dropped(const linking *run, const worker *w, uint32_t t, uint64_t key, size_t kept) {
    uint32_t slot = peri_near_slot(key);
    float limit = limit_of(run, t, slot, peri_near_distance(key)), found[GROUP];
    const void *query = as_query(run, w, slot);
    float length = length_of(run, slot);
    for (size_t i = 0; i < kept; i += GROUP) {
        size_t count = peri_min_size(GROUP, kept - i);
        peri_distances_slots(&run->measure, query, length, w->kept + i, count, found);
        for (size_t j = 0; j < count; j++)
            if (found[j] < limit || (found[j] == limit && found[j] <= w->near[i + j])) return true;
    }
    return false;
}

static void choose_links(const linking *run, const worker *w, size_t i) {
    size_t degree = run->op->degree, count = take_candidates(run, w, i), kept = 0;
    uint32_t *links = run->op->links + i * degree;
    for (size_t j = 0; j < count && kept < degree; j++) {
        if (j + 1 < count) prefetch_candidate(run, w->keys[j + 1]);
        if (dropped(run, w, run->op->slots[i], w->keys[j], kept)) continue;
        w->kept[kept] = peri_near_slot(w->keys[j]);
        w->near[kept++] = peri_near_distance(w->keys[j]);
    }
    for (size_t j = 0; j < degree; j++) links[j] = j < kept ? w->kept[j] : PERI_SLOT_NONE;
    float *distances = run->op->link_distances;
    if (distances == NULL) return;
    for (size_t j = 0; j < degree; j++)
        distances[i * degree + j] = j < kept ? w->near[j] : INFINITY;
}

static peri_status link_rows(void *ud, size_t task, size_t worker_number) {
    const linking *run = ud;
    worker w;
    lay_out(run->op, run->scratch + worker_number * run->worker_bytes, &w);
    size_t stop = peri_min_size((task + 1) * ROWS_A_TASK, run->op->count);
    for (size_t i = task * ROWS_A_TASK; i < stop; i++) choose_links(run, &w, i);
    return PERI_OK;
}

peri_status peri_cpu_graph_link(peri_stream *stream, const peri_op_graph_link *op, void *scratch,
                                size_t scratch_bytes) {
    (void)scratch_bytes;
    linking run = { .op = op, .scratch = scratch };
    worker w;
    run.worker_bytes = lay_out(op, NULL, &w);
    peri_distances_init(&run.measure, op->metric, &op->rows, op->lengths);
    peri_loop loop = { "link", peri_cpu_workers(stream), stream->control };
    return peri_parallel(stream->device->context, &loop, peri_ceil_div(op->count, ROWS_A_TASK),
                         link_rows, &run);
}
