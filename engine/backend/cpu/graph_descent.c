/* graph_descent.c: one iteration of NN-descent in the pull form, a block of rows a task.
 *
 * First every row writes its forward samples; then the reverse samples are gathered by ranges of
 * targets: a task reads all forward samples in order and keeps what points into its range, so
 * nothing is shared and the scan, which is sequential, is cheaper than locks would be. Then each
 * row joins. The pull form computes a distance once for each of its two ends, which is the price
 * of lists that only their owner writes: no locks, and the same graph on any number of threads.
 *
 * A row's candidates overlap heavily (neighbours share neighbours), so those already seen are
 * dropped by a bitset before any distance is computed. Source: perigee_backend.h, which defines
 * the iteration. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/near_list.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/bitset.h"
#include "core/half.h"
#include "core/matrix.h"
#include "core/random.h"

#define BATCH 128u /* candidates handed to the distance kernel at once */
#define ROWS_A_TASK 64u

typedef enum sample_kind { NEW, OLD, NEW_REVERSE, OLD_REVERSE, SAMPLE_KINDS } sample_kind;

/* A worker's scratch. */
typedef struct worker {
    uint64_t *seen;    /* [words] */
    uint32_t *touched; /* [words] what was set in seen, as long as it fits */
    uint32_t *slots;   /* [BATCH] */
    float *distances;  /* [BATCH] */
    uint64_t *spare;   /* [BATCH] keys */
    uint64_t *keys;    /* [degree] the list of the row that joins; marked = was in it before */
    float *query;      /* [d] a row of f16 as f32 */
    uint32_t *drawn;   /* [degree] */
    uint8_t *clean;    /* [1] seen was cleared since the operation began */
} worker;

typedef struct descent {
    const peri_op_graph_descent *op;
    peri_distances measure;
    uint64_t key;
    uint32_t *samples[SAMPLE_KINDS]; /* [n, op->samples], PERI_SLOT_NONE ends a short row */
    uint32_t *reverse_keys;          /* [n, op->samples] of the kind being gathered */
    sample_kind gathered;            /* NEW or OLD */
    size_t ranges;
    char *workers;
    size_t worker_bytes;
    atomic_uint_fast64_t updates;
} descent;

typedef struct join {
    descent *run;
    worker own;
    peri_near_list list;
    const void *query;
    float query_length;
    size_t touched_count, pending;
} join;

static size_t lay_out_worker(const peri_op_graph_descent *op, void *base, worker *w) {
    size_t at = 0, words = peri_bitset_words(op->rows.rows);
    w->clean = peri_scratch_cut(&at, base, 1);
    w->seen = peri_scratch_cut(&at, base, words * sizeof(uint64_t));
    w->touched = peri_scratch_cut(&at, base, words * sizeof(uint32_t));
    w->slots = peri_scratch_cut(&at, base, BATCH * sizeof(uint32_t));
    w->distances = peri_scratch_cut(&at, base, BATCH * sizeof(float));
    w->spare = peri_scratch_cut(&at, base, BATCH * sizeof(uint64_t));
    w->keys = peri_scratch_cut(&at, base, op->degree * sizeof(uint64_t));
    w->query = peri_scratch_cut(&at, base, op->rows.cols * sizeof(float));
    w->drawn = peri_scratch_cut(&at, base, op->degree * sizeof(uint32_t));
    return at;
}

static size_t lay_out(const peri_op_graph_descent *op, void *base, size_t workers, descent *run) {
    size_t at = 0, each = op->rows.rows * op->samples * sizeof(uint32_t);
    worker w;
    for (int kind = 0; kind < SAMPLE_KINDS; kind++)
        run->samples[kind] = peri_scratch_cut(&at, base, each);
    run->reverse_keys = peri_scratch_cut(&at, base, each);
    run->worker_bytes = lay_out_worker(op, NULL, &w);
    run->workers = peri_scratch_cut(&at, base, workers * run->worker_bytes);
    return at;
}

size_t peri_cpu_graph_descent_scratch(const peri_device *device, const peri_op_graph_descent *op) {
    descent run;
    return lay_out(op, NULL, peri_cpu_workers_max(device), &run);
}

/* ---- the samples -------------------------------------------------------------------------- */

static uint32_t *sample_of(const descent *run, sample_kind kind, size_t row) {
    return run->samples[kind] + row * run->op->samples;
}

static void sample_row(const descent *run, uint32_t u) {
    const peri_op_graph_descent *op = run->op;
    const uint32_t *slots = op->slots + (size_t)u * op->degree;
    const uint8_t *fresh = op->fresh + (size_t)u * op->degree;
    uint32_t *taken_new = sample_of(run, NEW, u), *taken_old = sample_of(run, OLD, u);
    size_t new_count = 0, old_count = 0, count = 0;
    for (; count < op->degree && slots[count] != PERI_SLOT_NONE; count++) {
        if (!fresh[count])
            old_count++;
        else if (new_count < op->samples)
            taken_new[new_count++] = slots[count];
    }
    while (new_count < op->samples) taken_new[new_count++] = PERI_SLOT_NONE;
    for (size_t i = peri_min_size(old_count, op->samples); i < op->samples; i++)
        taken_old[i] = PERI_SLOT_NONE;
    if (old_count == 0) return;
    size_t start = peri_random_below(run->key, u, (uint32_t)old_count), number = 0;
    for (size_t i = 0; i < count; i++) {
        if (fresh[i]) continue;
        size_t turn = number >= start ? number - start : number + old_count - start;
        if (turn < op->samples) taken_old[turn] = slots[i];
        number++;
    }
}

static peri_status sample_rows(void *ud, size_t task, size_t worker_number) {
    (void)worker_number;
    descent *run = ud;
    size_t first = task * ROWS_A_TASK, samples = run->op->samples;
    size_t stop = peri_min_size(first + ROWS_A_TASK, run->op->rows.rows);
    for (size_t row = first; row < stop; row++) sample_row(run, (uint32_t)row);
    size_t bytes = (stop - first) * samples * sizeof(uint32_t);
    memset(sample_of(run, NEW_REVERSE, first), 0xFF, bytes);
    memset(sample_of(run, OLD_REVERSE, first), 0xFF, bytes);
    return PERI_OK;
}

/* Offers u to the reverse sample of v, which is sorted by (key, slot). */
static void gather_reverse(const descent *run, uint32_t v, uint32_t u) {
    size_t samples = run->op->samples, first = (size_t)v * samples;
    uint32_t *slots = run->samples[run->gathered == NEW ? NEW_REVERSE : OLD_REVERSE] + first;
    uint32_t *keys = run->reverse_keys + first;
    uint32_t key = (uint32_t)(peri_random_mix(peri_random_mix(run->key, v), u) >> 32);
    size_t at = samples;
    /* Sources come in ascending order, so an equal key that is there already stays before u. */
    while (at > 0 && (slots[at - 1] == PERI_SLOT_NONE || key < keys[at - 1])) at--;
    if (at == samples) return;
    memmove(slots + at + 1, slots + at, (samples - at - 1) * sizeof *slots);
    memmove(keys + at + 1, keys + at, (samples - at - 1) * sizeof *keys);
    slots[at] = u;
    keys[at] = key;
}

static peri_status gather_range(void *ud, size_t task, size_t worker_number) {
    (void)worker_number;
    descent *run = ud;
    size_t n = run->op->rows.rows, samples = run->op->samples;
    size_t each = peri_ceil_div(n, run->ranges), first = peri_min_size(task * each, n);
    size_t width = peri_min_size(each, n - first);
    for (size_t u = 0; u < n; u++) {
        const uint32_t *from = sample_of(run, run->gathered, u);
        for (size_t i = 0; i < samples && from[i] != PERI_SLOT_NONE; i++)
            if (from[i] - first < width) gather_reverse(run, from[i], (uint32_t)u);
    }
    return PERI_OK;
}

/* ---- the join ----------------------------------------------------------------------------- */

static void join_flush(join *j) {
    if (j->pending == 0) return;
    worker *own = &j->own;
    size_t words = peri_bitset_words(j->run->op->rows.rows);
    if (j->touched_count + j->pending <= words)
        memcpy(own->touched + j->touched_count, own->slots, j->pending * sizeof(uint32_t));
    j->touched_count += j->pending;
    peri_distances_slots(&j->run->measure, j->query, j->query_length, own->slots, j->pending,
                         own->distances);
    peri_near_offer(&j->list, own->distances, own->slots, j->pending, own->spare);
    j->pending = 0;
}

static void join_candidates(join *j, const uint32_t *slots, size_t count) {
    for (size_t i = 0; i < count && slots[i] != PERI_SLOT_NONE; i++) {
        uint64_t *word = j->own.seen + slots[i] / 64;
        j->own.slots[j->pending] = slots[i];
        j->pending += ~*word >> (slots[i] % 64) & 1;
        *word |= UINT64_C(1) << (slots[i] % 64);
        if (j->pending == BATCH) join_flush(j);
    }
}

/* Marks what may not be offered: the row itself and its list. */
static void mark_list(join *j, uint32_t u) {
    peri_bitset_add(j->own.seen, u);
    for (size_t i = 0; i < j->list.count; i++)
        peri_bitset_add(j->own.seen, peri_near_slot(j->list.keys[i]));
}

/* Clears the marks; `before` is the list as mark_list() saw it. */
static void clean_marks(join *j, uint32_t u, const uint32_t *before, size_t count) {
    size_t words = peri_bitset_words(j->run->op->rows.rows);
    uint64_t *seen = j->own.seen;
    if (j->touched_count <= words) {
        for (size_t i = 0; i < j->touched_count; i++) seen[j->own.touched[i] / 64] = 0;
        for (size_t i = 0; i < count && before[i] != PERI_SLOT_NONE; i++) seen[before[i] / 64] = 0;
        seen[u / 64] = 0;
    } else {
        memset(seen, 0, words * sizeof(uint64_t));
    }
}

static void join_begin(join *j, uint32_t u) {
    const peri_op_graph_descent *op = j->run->op;
    j->list = (peri_near_list){ j->own.keys, 0, op->degree };
    j->touched_count = j->pending = 0;
    j->query = peri_view_row(&op->rows, u);
    if (op->rows.dtype == PERI_F16) {
        const uint16_t *halves = j->query;
        for (size_t i = 0; i < op->rows.cols; i++) j->own.query[i] = peri_half_to_float(halves[i]);
        j->query = j->own.query;
    }
    j->query_length = op->metric == PERI_COSINE ? op->lengths[u] : 0.0f;
}

/* The list as it was, all marked. */
static void copy_list(join *j, uint32_t u) {
    const peri_op_graph_descent *op = j->run->op;
    size_t first = (size_t)u * op->degree, count = 0;
    for (; count < op->degree && op->slots[first + count] != PERI_SLOT_NONE; count++)
        j->list.keys[count] = peri_near_key(op->distances[first + count],
                                            op->slots[first + count]) |
                              PERI_NEAR_MARK;
    j->list.count = count;
}

/* Writes the next list of u. What was there before (marked) is found again in the old list,
 * whose order is the same: it keeps its distance, and stays fresh unless it was among the first
 * `samples` fresh ones, which joined. Returns how many entered. */
static size_t write_list(join *j, uint32_t u) {
    const peri_op_graph_descent *op = j->run->op;
    size_t first = (size_t)u * op->degree, old = first, joined = 0, entered = 0;
    for (size_t i = 0; i < j->list.count; i++) {
        uint32_t slot = peri_near_slot(j->list.keys[i]);
        float distance = peri_near_distance(j->list.keys[i]);
        bool known = (j->list.keys[i] & PERI_NEAR_MARK) != 0, fresh = true;
        if (known) {
            while (op->slots[old] != slot) joined += op->fresh[old++] != 0;
            distance = op->distances[old];
            fresh = op->fresh[old] != 0 && joined >= op->samples;
        } else if (distance == 0) { /* its sign is lost in the key */
            peri_distances_slots(&j->run->measure, j->query, j->query_length, &slot, 1, &distance);
        }
        op->slots_next[first + i] = slot;
        op->distances_next[first + i] = distance;
        op->fresh_next[first + i] = fresh;
        entered += !known;
    }
    for (size_t i = first + j->list.count; i < first + op->degree; i++) {
        op->slots_next[i] = PERI_SLOT_NONE;
        op->distances_next[i] = INFINITY;
        op->fresh_next[i] = 0;
    }
    return entered;
}

static size_t join_row(join *j, uint32_t u) {
    const descent *run = j->run;
    const peri_op_graph_descent *op = run->op;
    size_t samples = op->samples;
    join_begin(j, u);
    copy_list(j, u);
    mark_list(j, u);
    join_candidates(j, sample_of(run, NEW_REVERSE, u), samples);
    for (int via = 0; via < SAMPLE_KINDS; via++) {
        const uint32_t *neighbours = sample_of(run, (sample_kind)via, u);
        bool is_new = via == NEW || via == NEW_REVERSE;
        for (size_t i = 0; i < samples && neighbours[i] != PERI_SLOT_NONE; i++) {
            join_candidates(j, sample_of(run, NEW, neighbours[i]), samples);
            join_candidates(j, sample_of(run, NEW_REVERSE, neighbours[i]), samples);
            if (!is_new) continue;
            join_candidates(j, sample_of(run, OLD, neighbours[i]), samples);
            join_candidates(j, sample_of(run, OLD_REVERSE, neighbours[i]), samples);
        }
    }
    join_flush(j);
    clean_marks(j, u, op->slots + (size_t)u * op->degree, op->degree);
    return write_list(j, u);
}

/* Iteration 0: Floyd's sampling, membership by the bitset. */
static size_t draw_row(join *j, uint32_t u) {
    const peri_op_graph_descent *op = j->run->op;
    uint32_t n = (uint32_t)op->rows.rows, degree = (uint32_t)op->degree, *drawn = j->own.drawn;
    uint64_t seed = peri_random_mix(op->seed, u);
    join_begin(j, u);
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t bound = n - 1 - degree + i;
        uint32_t number = peri_random_below(seed, bound, bound + 1);
        if (peri_bitset_test(j->own.seen, number)) number = bound;
        peri_bitset_add(j->own.seen, number);
        drawn[i] = number;
    }
    for (uint32_t i = 0; i < degree; i++) j->own.seen[drawn[i] / 64] = 0;
    for (uint32_t i = 0; i < degree; i++) drawn[i] += drawn[i] >= u;
    join_candidates(j, drawn, degree);
    join_flush(j);
    clean_marks(j, u, NULL, 0);
    return write_list(j, u);
}

static peri_status join_rows(void *ud, size_t task, size_t worker_number) {
    descent *run = ud;
    join j = { .run = run };
    lay_out_worker(run->op, run->workers + worker_number * run->worker_bytes, &j.own);
    if (!*j.own.clean) {
        memset(j.own.seen, 0, peri_bitset_words(run->op->rows.rows) * sizeof(uint64_t));
        *j.own.clean = 1;
    }
    size_t first = task * ROWS_A_TASK, updates = 0;
    size_t stop = peri_min_size(first + ROWS_A_TASK, run->op->rows.rows);
    for (size_t row = first; row < stop; row++)
        updates += run->op->iteration == 0 ? draw_row(&j, (uint32_t)row)
                                           : join_row(&j, (uint32_t)row);
    atomic_fetch_add(&run->updates, updates);
    return PERI_OK;
}

peri_status peri_cpu_graph_descent(peri_stream *stream, const peri_op_graph_descent *op,
                                   void *scratch, size_t scratch_bytes) {
    (void)scratch_bytes;
    descent run = { .op = op, .key = peri_random_mix(op->seed, op->iteration) };
    size_t workers = peri_cpu_workers(stream);
    lay_out(op, scratch, workers, &run);
    atomic_init(&run.updates, 0);
    for (size_t i = 0; i < workers; i++) {
        worker w;
        lay_out_worker(op, run.workers + i * run.worker_bytes, &w);
        *w.clean = 0;
    }
    peri_distances_init(&run.measure, op->metric, &op->rows, op->lengths);
    peri_context *context = stream->device->context;
    size_t tasks = peri_ceil_div(op->rows.rows, ROWS_A_TASK);
    peri_loop quiet = { .threads = workers, .control = stream->control };
    if (op->iteration > 0) {
        PERI_TRY(peri_parallel(context, &quiet, tasks, sample_rows, &run));
        run.ranges = workers;
        for (int kind = NEW; kind <= OLD; kind++) {
            run.gathered = (sample_kind)kind;
            PERI_TRY(peri_parallel(context, &quiet, run.ranges, gather_range, &run));
        }
    }
    peri_loop loop = { .stage = "nn_descent", .threads = workers, .control = stream->control };
    PERI_TRY(peri_parallel(context, &loop, tasks, join_rows, &run));
    *op->updates = atomic_load(&run.updates);
    return PERI_OK;
}
