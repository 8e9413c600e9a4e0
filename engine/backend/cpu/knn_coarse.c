/* knn_coarse.c: the coarse pass of exact search: panels of rows against tiles of queries.
 *
 * Rows are packed into panels and multiplied with tiles of queries (knn_block.h). A row whose score
 * proves that it can't be among the k nearest leaves no trace; the others become entries
 * (knn_keep.h): of i8 and u8 with their canonical value, of f32 and f16 with a coarse one that is
 * rescored when it is still there in the end. The answer is exact whatever the data
 * (knn_bound.c); only the number of entries depends on them.
 *
 * Rows and queries of f32 and f16 so large or small that the arithmetic of the bound would leave
 * the normal range are rescored always: their start is +inf, their threshold -inf, and a NaN counts
 * as near.
 *
 * Integer scores: with X and Q as knn_block.h has them and S the sum of Q X,
 *   squared L2 is the same for X and Q + 128, which is sum (Q + 128 - X)^2
 *     = |Q + 128|^2 - 2 S - sum X (256 - X); S starts at half of the last sum, rounded down, and
 *     the odd one is taken off when the value is made.
 *   a dot product is S + 128 sum X for u8, S - 128 sum Q for i8.
 * All of them fit 32 bits for PERI_DIM_MAX columns. */
#include "backend/cpu/knn_plan.h"

#include <math.h>
#include <string.h>

#include "backend/convert_element.h"
#include "backend/cpu/coarse_bound.h"
#include "backend/cpu/knn_bound.h"
#include "backend/cpu/knn_keep.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"

#define CENTRE_SAMPLES 256u
#define CENTRE_MOST 1e18f
#define AHEAD_BYTES 4096u /* of a row: longer ones are streams that the hardware follows */

/* What a worker has of its own. */
typedef struct panel {
    void *values; /* [dim, rows] */
    union {
        float real[PERI_BLOCK_ROWS_MAX];
        int32_t whole[PERI_BLOCK_ROWS_MAX];
    } start;
    float scale[PERI_BLOCK_ROWS_MAX];   /* cosine: 1 / length */
    float lengths[PERI_BLOCK_ROWS_MAX]; /* cosine of i8 and u8 */
    int32_t odd[PERI_BLOCK_ROWS_MAX];   /* squared L2 of i8 and u8 */
    float longest;                      /* inner product: of the rows in the panel */
    bool wild;                          /* a row is out of the range of the bound */
    uint32_t slots[PERI_BLOCK_ROWS_MAX], ahead[PERI_BLOCK_ROWS_MAX];
    size_t count, ahead_count;
    void *least; /* [block queries] the thresholds: float, or int32_t */
} panel;

/* The block of queries and the segment of rows of a task. */
typedef struct task {
    const peri_knn_job *job;
    size_t first, stop, worker;
    bool scaled; /* cosine of i8 and u8 */
    panel p;
} task;

/* Lays a worker's arrays out from `base`, or counts their bytes when it is NULL. */
static size_t lay_out(panel *p, char *base, uint32_t dim, size_t block_limit) {
    size_t values = peri_round_up((size_t)dim * PERI_BLOCK_ROWS_MAX * sizeof(float), PERI_ALIGN);
    if (base != NULL) {
        p->values = base;
        p->least = base + values;
    }
    return values + peri_round_up(block_limit * sizeof(float), PERI_ALIGN);
}

size_t peri_knn_coarse_worker_bytes(uint32_t dim, size_t block_limit) {
    return lay_out(NULL, NULL, dim, block_limit);
}

const void *peri_knn_query_bytes(const peri_knn_job *job, size_t query) {
    return peri_view_row(&job->op->queries, job->order[job->first + query]);
}

/* ---- once an operation -------------------------------------------------------------------- */

void peri_knn_coarse_centre(peri_knn_job *job) {
    const peri_view *rows = &job->op->rows;
    if (!peri_knn_is_squared(job) || job->whole) {
        job->centre = NULL;
        return;
    }
    size_t samples = peri_min_size(CENTRE_SAMPLES, rows->rows);
    for (size_t j = 0; j < rows->cols; j++) job->centre[j] = 0;
    for (size_t s = 0; s < samples; s++) {
        const void *row = peri_view_row(rows, s * (rows->rows / samples));
        for (size_t j = 0; j < rows->cols; j++)
            job->centre[j] += peri_element_load(rows->dtype, row, j) / (float)samples;
    }
    for (size_t j = 0; j < rows->cols; j++)
        if (!(fabsf(job->centre[j]) < CENTRE_MOST)) job->centre[j] = 0;
}

/* ---- once a batch ------------------------------------------------------------------------- */

/* Columns of one query into its place in a tile; returns the sum of their squares. */
static double transpose_query(const peri_knn_job *job, const void *query, float *tile, size_t i) {
    size_t wide = job->kernels->queries, dim = job->distances.dim;
    double squares = 0;
    for (size_t j = 0; j < dim; j++) {
        float value = peri_element_load(job->op->queries.dtype, query, j);
        if (job->centre != NULL) value -= job->centre[j];
        tile[j * wide + i] = value;
        squares += (double)value * value;
    }
    return squares;
}

/* Q of one query of i8 or u8; returns the base of its values. */
static int32_t transpose_whole(const peri_knn_job *job, const void *query, void *tile, size_t i) {
    size_t wide = job->kernels->queries, group = job->kernels->group;
    bool is_signed = job->op->queries.dtype == PERI_I8;
    int32_t sum = 0, squares = 0;
    for (size_t j = 0; j < job->distances.dim; j++) {
        int32_t q = is_signed ? ((const int8_t *)query)[j] : ((const uint8_t *)query)[j] - 128;
        size_t at = (j / group * wide + i) * group + j % group;
        if (group == 4)
            ((int8_t *)tile)[at] = (int8_t)q;
        else
            ((int16_t *)tile)[at] = (int16_t)q;
        sum += q;
        squares += (q + 128) * (q + 128);
    }
    return peri_knn_is_squared(job) ? squares : is_signed ? -128 * sum : 0;
}

/* Columns, or groups of them, of the panels and tiles. */
static size_t block_columns(const peri_knn_job *job) {
    size_t dim = job->distances.dim;
    return job->whole ? peri_ceil_div(dim, job->kernels->group) : dim;
}

void peri_knn_coarse_tile(const peri_knn_job *job, size_t number) {
    size_t wide = job->kernels->queries, first = number * wide, columns = block_columns(job);
    float *tile = job->tiles + first * columns;
    memset(tile, 0, wide * columns * sizeof *tile);
    for (size_t i = first; i < first + wide; i++) {
        peri_knn_query *brings = &job->brings[i];
        *brings = (peri_knn_query){ .unbounded = true };
        if (i >= job->count) continue;
        const void *query = peri_knn_query_bytes(job, i);
        if (job->whole) {
            peri_knn_describe(job, query, 0, brings);
            brings->base = transpose_whole(job, query, tile, i - first);
        } else {
            peri_knn_describe(job, query, transpose_query(job, query, tile, i - first), brings);
        }
    }
}

/* ---- panels ------------------------------------------------------------------------------- */

/* f32 and f16 under cosine: 1 / length of each row; a row out of range starts at +inf. */
static void scale_rows(const peri_knn_job *job, panel *p) {
    for (size_t r = 0; r < job->kernels->rows; r++) {
        float length = job->distances.lengths[p->slots[r]];
        bool usable = peri_knn_length_usable(length);
        p->wild = p->wild || !usable;
        p->scale[r] = usable ? 1 / length : 0;
        p->start.real[r] = usable ? 0 : INFINITY;
    }
}

/* From the squared lengths of the packed rows to the start of their products. */
static void start_rows(const peri_knn_job *job, panel *p, const float *norms) {
    double factor = peri_knn_is_squared(job) ? peri_coarse_start(job->distances.dim) : 0;
    float most = PERI_COARSE_NORM_LEAST;
    for (size_t r = 0; r < job->kernels->rows; r++) {
        bool usable = peri_knn_norm_usable(norms[r]);
        p->wild = p->wild || !usable;
        p->start.real[r] = usable ? (float)(-norms[r] * factor) : INFINITY;
        if (usable && norms[r] > most) most = norms[r];
    }
    p->longest = 1.01f * sqrtf(most);
}

static void pack_real(task *t, const char *const *rows) {
    const peri_knn_job *job = t->job;
    panel *p = &t->p;
    bool cosine = job->op->metric == PERI_COSINE;
    float norms[PERI_BLOCK_ROWS_MAX], *longest = &job->longest[t->worker];
    p->wild = false;
    if (cosine) scale_rows(job, p);
    job->kernels->pack(job->distances.dtype, rows, job->distances.dim, job->centre,
                       cosine ? p->scale : NULL, p->values, norms);
    if (!cosine) start_rows(job, p, norms);
    if (job->op->metric == PERI_INNER_PRODUCT && p->longest > *longest) *longest = p->longest;
}

/* The start of the integer products, from the sums of the packed rows. */
static void pack_whole(task *t, const char *const *rows) {
    const peri_knn_job *job = t->job;
    panel *p = &t->p;
    int32_t sums[PERI_BLOCK_ROWS_MAX], squares[PERI_BLOCK_ROWS_MAX];
    bool squared = peri_knn_is_squared(job);
    int32_t factor = job->distances.dtype == PERI_U8 ? 128 : 0;
    job->kernels->pack_whole(job->distances.dtype, rows, job->distances.dim, p->values, sums,
                             squares);
    for (size_t r = 0; r < job->kernels->rows; r++) {
        int32_t rest = 128 * sums[r] - squares[r]; /* sum X (256 - X), which is not negative */
        p->odd[r] = rest & 1;
        p->start.whole[r] = squared ? rest >> 1 : factor * sums[r];
    }
    for (size_t r = 0; r < job->kernels->rows && t->scaled; r++) {
        p->lengths[r] = job->distances.lengths[p->slots[r]];
        p->scale[r] = p->lengths[r] > 0 ? 1 / p->lengths[r] : 0;
    }
}

/* Packs the rows named by p->slots; lanes past the count repeat the last one. */
static void pack_panel(task *t) {
    const peri_knn_job *job = t->job;
    const char *at[PERI_BLOCK_ROWS_MAX];
    panel *p = &t->p;
    for (size_t r = 0; r < job->kernels->rows; r++) {
        if (r >= p->count) p->slots[r] = p->slots[p->count - 1];
        at[r] = (const char *)job->distances.rows + p->slots[r] * job->distances.stride;
    }
    (job->whole ? pack_whole : pack_real)(t, at);
}

/* Names the rows of the following panel and asks for their bytes: 16 rows side by side are more
 * streams than the hardware follows, and a small batch leaves no time to wait for them. */
static void look_ahead(task *t, peri_passing *passing) {
    const peri_distances *rows = &t->job->distances;
    panel *p = &t->p;
    size_t bytes = rows->dim * peri_dtype_bytes(rows->dtype);
    p->ahead_count = peri_passing_next(passing, p->ahead, t->job->kernels->rows);
    for (size_t r = 0; r < p->ahead_count && bytes <= AHEAD_BYTES; r++) {
        const char *row = (const char *)rows->rows + p->ahead[r] * rows->stride;
        for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
    }
}

/* ---- one panel against a block of queries ------------------------------------------------- */

/* What leaves a tile and a panel. */
typedef struct outcome {
    uint32_t masks[PERI_BLOCK_QUERIES_MAX];
    union {
        float real[PERI_BLOCK_SCORES_MAX];
        int32_t whole[PERI_BLOCK_SCORES_MAX];
    } scores;
} outcome;

static uint32_t multiply_real(const task *t, size_t query, outcome *out) {
    const peri_knn_job *job = t->job;
    const float *least = (const float *)t->p.least + (query - t->first);
    float lowered[PERI_BLOCK_QUERIES_MAX];
    if (job->op->metric == PERI_INNER_PRODUCT) {
        for (size_t i = 0; i < job->kernels->queries; i++)
            lowered[i] = least[i] - job->brings[query + i].slack * t->p.longest;
        least = lowered;
    }
    return job->kernels->tile(t->p.values, t->p.start.real, job->tiles + query * block_columns(job),
                              job->distances.dim, least, out->masks, out->scores.real);
}

static uint32_t multiply_whole(const task *t, size_t query, outcome *out) {
    const peri_knn_job *job = t->job;
    const panel *p = &t->p;
    size_t columns = block_columns(job), i = query - t->first;
    const float *tile = job->tiles + query * columns;
    int32_t base[PERI_BLOCK_QUERIES_MAX];
    if (!t->scaled)
        return job->kernels->tile_whole(p->values, p->start.whole, tile, (uint32_t)columns,
                                        (const int32_t *)p->least + i, out->masks,
                                        out->scores.whole);
    for (size_t b = 0; b < job->kernels->queries; b++) base[b] = job->brings[query + b].base;
    return job->kernels->tile_scaled(p->values, p->start.whole, p->scale, tile, (uint32_t)columns,
                                     base, (const float *)p->least + i, out->masks,
                                     out->scores.whole);
}

/* The lanes of a panel that the query's own filter lets pass; the panel holds consecutive rows
 * then. */
static uint32_t own_filter(const peri_knn_job *job, size_t query, size_t row) {
    const peri_op_knn *op = job->op;
    const uint64_t *bits = op->filter.bits[peri_knn_which(op, job->order[job->first + query])];
    return (uint32_t)(bits[row / 64] >> (row % 64)); /* rows is a multiple of the panel's width */
}

static void set_least(task *t, size_t query) {
    const peri_knn_job *job = t->job;
    const peri_knn_query *brings = &job->brings[query];
    float bound = peri_knn_bound_of(job, query);
    if (job->whole && !t->scaled)
        ((int32_t *)t->p.least)[query - t->first] = peri_knn_least_whole(job, brings, bound);
    else
        ((float *)t->p.least)[query - t->first] = peri_knn_least(job, brings, bound);
}

/* Rows out of the range of the bound. */
static void keep_rescored(task *t, size_t query, uint32_t mask) {
    const peri_knn_job *job = t->job;
    uint32_t slots[PERI_BLOCK_ROWS_MAX];
    float values[PERI_BLOCK_ROWS_MAX];
    size_t count = 0;
    for (; mask != 0; mask &= mask - 1) slots[count++] = t->p.slots[__builtin_ctz(mask)];
    peri_distances_slots(&job->distances, peri_knn_query_bytes(job, query),
                         job->brings[query].length, slots, count, values);
    peri_keep_exact(job, t->worker, query, values, slots, count);
    set_least(t, query);
}

static peri_block_rule rule_of(const task *t, size_t query) {
    const peri_knn_job *job = t->job;
    const peri_knn_query *brings = &job->brings[query];
    bool inner = job->op->metric == PERI_INNER_PRODUCT;
    peri_block_form form = !job->whole ? PERI_BLOCK_FLOAT
                           : t->scaled ? PERI_BLOCK_COSINE
                           : inner     ? PERI_BLOCK_DOT
                                       : PERI_BLOCK_SQUARED;
    return (peri_block_rule){ .form = form,
                              .offset = inner ? brings->slack * t->p.longest : 0,
                              .base = brings->base,
                              .length = brings->length,
                              .odd = t->p.odd,
                              .lengths = t->p.lengths };
}

/* Hits of one query in the panel. */
static void add_hits(task *t, size_t query, uint32_t mask, const float *scores) {
    const peri_knn_job *job = t->job;
    if (!job->whole && (t->p.wild || job->brings[query].unbounded)) {
        keep_rescored(t, query, mask);
        return;
    }
    peri_kept *kept = peri_kept_of(job, t->worker, query);
    peri_block_rule rule = rule_of(t, query);
    kept->count += (uint32_t)job->kernels->take(
        &rule, scores, mask, t->p.slots, peri_kept_values(job, t->worker, query) + kept->count,
        peri_kept_slots(job, t->worker, query) + kept->count);
    if (!peri_keep_is_full(job, kept)) return;
    peri_keep_reduce(job, t->worker, query);
    set_least(t, query);
}

/* The panel against every query of the block. */
static void multiply_panel(task *t) {
    const peri_knn_job *job = t->job;
    panel *p = &t->p;
    size_t wide = job->kernels->queries;
    uint32_t valid = p->count == 32 ? UINT32_MAX : (UINT32_C(1) << p->count) - 1;
    outcome out;
    for (size_t query = t->first; query < t->stop; query += wide) {
        uint32_t hits = (job->whole ? multiply_whole : multiply_real)(t, query, &out);
        for (; hits != 0; hits &= hits - 1) {
            size_t i = (size_t)__builtin_ctz(hits);
            if (query + i >= t->stop) break;
            uint32_t mask = out.masks[i] & valid;
            if (!job->shared_filter) mask &= own_filter(job, query + i, p->slots[0]);
            if (mask != 0) add_hits(t, query + i, mask, out.scores.real + i * job->kernels->rows);
        }
    }
}

static void begin_task(task *t, const peri_knn_job *job) {
    size_t count = t->stop - t->first, tiles = peri_ceil_div(count, job->kernels->queries);
    lay_out(&t->p, job->worker_scratch + t->worker * job->worker_bytes, job->distances.dim,
            job->block_limit);
    for (size_t i = count; i < tiles * job->kernels->queries; i++)
        ((float *)t->p.least)[i] = INFINITY; /* also above every integer score */
    for (size_t query = t->first; query < t->stop; query++) set_least(t, query);
}

void peri_knn_coarse_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker) {
    static const peri_filter_view everything = { 0 };
    const peri_op_knn *op = job->op;
    task t = { .job = job, .first = first, .stop = stop, .worker = worker };
    t.scaled = job->whole && op->metric == PERI_COSINE;
    begin_task(&t, job);
    const peri_filter_view *filter = job->shared_filter ? &op->filter : &everything;
    peri_passing passing = peri_passing_open(filter, peri_knn_which(op, 0), row, row_stop);
    for (look_ahead(&t, &passing); t.p.ahead_count > 0;) {
        memcpy(t.p.slots, t.p.ahead, sizeof t.p.slots);
        t.p.count = t.p.ahead_count;
        look_ahead(&t, &passing);
        pack_panel(&t);
        multiply_panel(&t);
    }
}
