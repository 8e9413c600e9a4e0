/* graph_descent.c: one iteration of NN-descent, step by step as perigee_backend.h defines it.
 *
 * The samples of all rows are written down first (new, old and their reverses, `samples` slots a
 * row, PERI_SLOT_NONE at the end of a short one); then every row offers itself each candidate in
 * turn. */
#include <math.h>
#include <string.h>

#include "backend/ref/ops.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/half.h"
#include "core/matrix.h"
#include "core/random.h"

typedef enum sample_kind { NEW, OLD, NEW_REVERSE, OLD_REVERSE, SAMPLE_KINDS } sample_kind;

typedef struct descent {
    const peri_op_graph_descent *op;
    uint64_t key;
    uint32_t *samples[SAMPLE_KINDS]; /* [n, op->samples] each */
    uint32_t *drawn;                 /* [degree] the numbers of one random list */
    float *query;                    /* [d] a row of f16 as f32 */
} descent;

size_t peri_ref_graph_descent_scratch(const peri_device *device, const peri_op_graph_descent *op) {
    (void)device;
    return SAMPLE_KINDS * op->rows.rows * op->samples * sizeof(uint32_t) +
           op->degree * sizeof(uint32_t) + op->rows.cols * sizeof(float);
}

static float row_distance(const descent *run, uint32_t u, uint32_t w) {
    const peri_op_graph_descent *op = run->op;
    const peri_view *rows = &op->rows;
    const void *query = peri_view_row(rows, u);
    if (rows->dtype == PERI_F16) {
        for (size_t i = 0; i < rows->cols; i++)
            run->query[i] = peri_half_to_float(((const uint16_t *)query)[i]);
        query = run->query;
    }
    bool cosine = op->metric == PERI_COSINE;
    float d = peri_canonical_distance(op->metric, rows->dtype, query, peri_view_row(rows, w),
                                      (uint32_t)rows->cols, cosine ? op->lengths[u] : 0.0f,
                                      cosine ? op->lengths[w] : 0.0f);
    return isnan(d) ? INFINITY : d;
}

/* Offers w to the next list of u: nothing happens when it is u, is there, or is too far. */
static void offer(const descent *run, uint32_t u, uint32_t w) {
    const peri_op_graph_descent *op = run->op;
    uint32_t *slots = op->slots_next + (size_t)u * op->degree;
    float *distances = op->distances_next + (size_t)u * op->degree;
    uint8_t *fresh = op->fresh_next + (size_t)u * op->degree;
    if (w == u || w == PERI_SLOT_NONE) return;
    size_t count = 0;
    while (count < op->degree && slots[count] != PERI_SLOT_NONE) {
        if (slots[count] == w) return;
        count++;
    }
    float d = row_distance(run, u, w);
    size_t at = count;
    while (at > 0 && (d < distances[at - 1] || (d == distances[at - 1] && w < slots[at - 1]))) at--;
    if (at == op->degree) return;
    size_t moved = peri_min_size(count, op->degree - 1) - at;
    memmove(slots + at + 1, slots + at, moved * sizeof *slots);
    memmove(distances + at + 1, distances + at, moved * sizeof *distances);
    memmove(fresh + at + 1, fresh + at, moved);
    slots[at] = w;
    distances[at] = d;
    fresh[at] = 1;
}

static void clear_list(const descent *run, uint32_t u) {
    size_t first = (size_t)u * run->op->degree;
    for (size_t i = first; i < first + run->op->degree; i++) {
        run->op->slots_next[i] = PERI_SLOT_NONE;
        run->op->distances_next[i] = INFINITY;
        run->op->fresh_next[i] = 0;
    }
}

/* ---- iteration 0 -------------------------------------------------------------------------- */

static bool contains(const uint32_t *list, size_t count, uint32_t value) {
    for (size_t i = 0; i < count; i++)
        if (list[i] == value) return true;
    return false;
}

static void draw_list(const descent *run, uint32_t u) {
    uint32_t n = (uint32_t)run->op->rows.rows, degree = (uint32_t)run->op->degree;
    uint64_t seed = peri_random_mix(run->op->seed, u);
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t j = n - 1 - degree + i;
        uint32_t t = peri_random_below(seed, j, j + 1);
        run->drawn[i] = contains(run->drawn, i, t) ? j : t;
    }
    clear_list(run, u);
    for (uint32_t i = 0; i < degree; i++)
        offer(run, u, run->drawn[i] < u ? run->drawn[i] : run->drawn[i] + 1);
}

/* ---- the samples -------------------------------------------------------------------------- */

static uint32_t *sample_of(const descent *run, sample_kind kind, uint32_t u) {
    return run->samples[kind] + (size_t)u * run->op->samples;
}

static void sample_list(const descent *run, uint32_t u) {
    const peri_op_graph_descent *op = run->op;
    const uint32_t *slots = op->slots + (size_t)u * op->degree;
    const uint8_t *fresh = op->fresh + (size_t)u * op->degree;
    uint32_t *taken_new = sample_of(run, NEW, u), *taken_old = sample_of(run, OLD, u);
    size_t new_count = 0, old_count = 0;
    for (size_t i = 0; i < op->degree && slots[i] != PERI_SLOT_NONE; i++) {
        if (!fresh[i])
            old_count++;
        else if (new_count < op->samples)
            taken_new[new_count++] = slots[i];
    }
    if (old_count == 0) return;
    uint32_t start = peri_random_below(run->key, u, (uint32_t)old_count);
    size_t number = 0;
    for (size_t i = 0; i < op->degree && slots[i] != PERI_SLOT_NONE; i++) {
        if (fresh[i]) continue;
        size_t turn = (number++ + old_count - start) % old_count;
        if (turn < op->samples) taken_old[turn] = slots[i];
    }
}

/* Whether a goes before b among the reverse samples of v. */
static bool reverse_before(const descent *run, uint32_t v, uint32_t a, uint32_t b) {
    uint64_t seed = peri_random_mix(run->key, v);
    uint64_t a_key = peri_random_mix(seed, a) >> 32, b_key = peri_random_mix(seed, b) >> 32;
    return a_key < b_key || (a_key == b_key && a < b);
}

static void sample_reverse(const descent *run, sample_kind forward, sample_kind reverse) {
    size_t samples = run->op->samples;
    for (uint32_t u = 0; u < run->op->rows.rows; u++) {
        const uint32_t *from = sample_of(run, forward, u);
        for (size_t i = 0; i < samples && from[i] != PERI_SLOT_NONE; i++) {
            uint32_t v = from[i], *to = sample_of(run, reverse, v);
            size_t at = 0;
            while (at < samples && to[at] != PERI_SLOT_NONE && reverse_before(run, v, to[at], u))
                at++;
            if (at == samples) continue;
            memmove(to + at + 1, to + at, (samples - at - 1) * sizeof *to);
            to[at] = u;
        }
    }
}

/* ---- the join ----------------------------------------------------------------------------- */

static void offer_sample(const descent *run, uint32_t u, sample_kind kind, uint32_t v) {
    const uint32_t *list = sample_of(run, kind, v);
    for (size_t i = 0; i < run->op->samples; i++) offer(run, u, list[i]);
}

static void join_row(const descent *run, uint32_t u) {
    const peri_op_graph_descent *op = run->op;
    size_t samples = op->samples;
    offer_sample(run, u, NEW_REVERSE, u);
    for (int via = 0; via < SAMPLE_KINDS; via++) {
        const uint32_t *neighbours = sample_of(run, (sample_kind)via, u);
        for (size_t i = 0; i < samples && neighbours[i] != PERI_SLOT_NONE; i++) {
            offer_sample(run, u, NEW, neighbours[i]);
            offer_sample(run, u, NEW_REVERSE, neighbours[i]);
            if (via != NEW && via != NEW_REVERSE) continue;
            offer_sample(run, u, OLD, neighbours[i]);
            offer_sample(run, u, OLD_REVERSE, neighbours[i]);
        }
    }
}

/* The list as it was, with the members of new(u) no longer fresh. */
static void copy_list(const descent *run, uint32_t u) {
    const peri_op_graph_descent *op = run->op;
    size_t first = (size_t)u * op->degree;
    for (size_t i = first; i < first + op->degree; i++) {
        op->slots_next[i] = op->slots[i];
        op->distances_next[i] = op->distances[i];
        bool joined = contains(sample_of(run, NEW, u), op->samples, op->slots[i]);
        op->fresh_next[i] = op->fresh[i] && !joined;
    }
}

static void count_updates(const descent *run) {
    const peri_op_graph_descent *op = run->op;
    for (size_t u = 0; u < op->rows.rows; u++)
        for (size_t i = 0; i < op->degree; i++) {
            uint32_t w = op->slots_next[u * op->degree + i];
            bool known = op->iteration > 0 && contains(op->slots + u * op->degree, op->degree, w);
            if (w != PERI_SLOT_NONE && !known) *op->updates += 1;
        }
}

peri_status peri_ref_graph_descent(peri_stream *stream, const peri_op_graph_descent *op,
                                   void *scratch, size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    size_t each = op->rows.rows * op->samples;
    descent run = { .op = op, .key = peri_random_mix(op->seed, op->iteration) };
    for (int kind = 0; kind < SAMPLE_KINDS; kind++)
        run.samples[kind] = (uint32_t *)scratch + (size_t)kind * each;
    run.drawn = (uint32_t *)scratch + SAMPLE_KINDS * each;
    run.query = (float *)(void *)(run.drawn + op->degree);
    memset(scratch, 0xFF, SAMPLE_KINDS * each * sizeof(uint32_t)); /* all PERI_SLOT_NONE */
    uint32_t n = (uint32_t)op->rows.rows;
    *op->updates = 0;
    if (op->iteration == 0) {
        for (uint32_t u = 0; u < n; u++) draw_list(&run, u);
    } else {
        for (uint32_t u = 0; u < n; u++) sample_list(&run, u);
        sample_reverse(&run, NEW, NEW_REVERSE);
        sample_reverse(&run, OLD, OLD_REVERSE);
        for (uint32_t u = 0; u < n; u++) copy_list(&run, u);
        for (uint32_t u = 0; u < n; u++) join_row(&run, u);
    }
    count_updates(&run);
    return PERI_OK;
}
