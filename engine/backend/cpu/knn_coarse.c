/* knn_coarse.c: the coarse pass of exact search and its certified bound.
 *
 * Rows are packed into panels and multiplied with tiles of queries (knn_block.h); a row is rescored
 * with the canonical routine unless its product proves that it can't be among the k nearest, so the
 * answer is exact whatever the data; only the number of rescored rows depends on them.
 *
 * The bound. Let u = 2^-24, d the columns, T the k-th canonical value found so far, P' the product
 * as computed: a chain of d fused multiply-adds that starts with s, so
 *     |P' - P| <= g (|s| + |q||x|), g = d u / (1 - d u)
 * (Higham, Accuracy and Stability of Numerical Algorithms, 2002, ch. 3). A canonical sum of
 * ceil(d / 32) terms a lane and 5 folds has the relative error c = (ceil(d / 32) + 8) u.
 *   squared L2: q and x are taken relative to a centre m, which changes |q - x|^2 by less than
 *     4 u (|q|^2 + |x|^2), for q - m and x - m are rounded once. Since 2 |q||x| <= |q|^2 + |x|^2, a
 *     row with canonical value <= T has, with a = 2 (d + 8) u,
 *         P' started at -|x|^2 (1/2 - a)  >=  |q|^2 (1/2 - a) - T (1/2 + 2 c).
 *     The centre matters: far from the origin the norms, and with them the doubt, would be large.
 *   inner product: P' >= -T - 2 (d + ceil(d / 32) + 16) u |q| max|x|, the longest row of the panel.
 *   cosine: rows are scaled by 1 / |x| when packed,
 *         P' >= (1 - T) |q| - 2 (d + ceil(d / 32) + 24) u |q|.
 * The factors 2 are more than what the roundings of norms, lengths and thresholds need; underflow
 * is covered by 2^-149 a term. Rows and queries so large or small that this arithmetic would leave
 * the normal range are rescored always: their start is +inf, their threshold -inf, and a NaN counts
 * as near. A length below the root of PERI_COARSE_NORM_LEAST counts as that root, for its square
 * may have lost its digits.
 *
 * i8 and u8: the products are exact integers, rounded once to f32, so the same bounds hold a
 * fortiori. */
#include "backend/cpu/knn_plan.h"

#include <math.h>
#include <string.h>

#include "backend/convert_element.h"
#include "backend/cpu/coarse_bound.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/memory.h"

#define NORM_MAX PERI_COARSE_NORM_MAX
#define LENGTH_LEAST PERI_COARSE_LENGTH_LEAST
#define LENGTH_MOST PERI_COARSE_LENGTH_MOST
#define CENTRE_SAMPLES 256u
#define CENTRE_MOST 1e18f
#define AHEAD_BYTES 4096u /* of a row: longer ones are streams that the hardware follows */
#define PENDING_FLUSH 8u  /* hits of a query before they are rescored: one alone waits for itself */
#define PENDING_MAX (PENDING_FLUSH + PERI_BLOCK_ROWS_MAX)

/* What a worker has of its own; slots count from the segment's first row. */
typedef struct panel {
    float *values; /* [dim, rows] */
    float start[PERI_BLOCK_ROWS_MAX];
    float scale[PERI_BLOCK_ROWS_MAX]; /* 1 unless cosine */
    float longest;                    /* inner product: of the rows in the panel */
    uint32_t slots[PERI_BLOCK_ROWS_MAX], ahead[PERI_BLOCK_ROWS_MAX];
    size_t count, ahead_count;
    float *least;      /* [block queries] the thresholds */
    uint32_t *pending; /* [block queries, PENDING_MAX] hits that wait to be rescored */
    uint32_t *pending_count;
} panel;

/* The block of queries and the segment of rows of a task. */
typedef struct task {
    const peri_knn_job *job;
    peri_distances rows; /* row 0 is the segment's first */
    size_t base, first, stop, worker;
    panel p;
} task;

const peri_block_kernels *peri_block_chosen(void) {
    switch (peri_isa_chosen()) {
#if defined(__x86_64__)
    case PERI_ISA_AVX512: return &peri_block_avx512;
    case PERI_ISA_AVX2: return &peri_block_avx2;
#endif
    default: return NULL;
    }
}

/* Lays a worker's arrays out from `base`, or counts their bytes when it is NULL. */
static size_t lay_out(panel *p, char *base, uint32_t dim, size_t block_limit) {
    size_t values = peri_round_up(dim * PERI_BLOCK_ROWS_MAX * sizeof(float), PERI_ALIGN);
    size_t each = peri_round_up(block_limit * sizeof(float), PERI_ALIGN);
    if (base != NULL) {
        p->values = (float *)(void *)base;
        p->least = (float *)(void *)(base + values);
        p->pending_count = (uint32_t *)(void *)(base + values + each);
        p->pending = (uint32_t *)(void *)(base + values + 2 * each);
    }
    return values + 2 * each + each * PENDING_MAX;
}

size_t peri_knn_coarse_worker_bytes(uint32_t dim, size_t block_limit) {
    return lay_out(NULL, NULL, dim, block_limit);
}

static bool is_squared(const peri_knn_job *job) {
    return job->op->metric == PERI_SQEUCLIDEAN || job->op->metric == PERI_EUCLIDEAN;
}

/* ---- once an operation -------------------------------------------------------------------- */

void peri_knn_coarse_centre(peri_knn_job *job) {
    const peri_view *rows = &job->op->rows;
    if (!is_squared(job) || job->whole) {
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

static void describe_query(const peri_knn_job *job, const void *query, double squares,
                           peri_knn_query *out) {
    *out = (peri_knn_query){ .norm = squares, .unbounded = !(squares <= NORM_MAX) };
    if (job->op->metric == PERI_INNER_PRODUCT) {
        out->norm = sqrt(squares);
        out->slack = (float)(peri_coarse_slack(job->distances.dim) * out->norm);
    } else if (job->op->metric == PERI_COSINE) {
        out->length = peri_distances_query_length(&job->distances, query);
        out->norm = out->length;
        out->unbounded = !(out->norm >= LENGTH_LEAST && out->norm <= LENGTH_MOST);
    }
}

/* Columns of one query into its place in a tile; returns the sum of their squares. */
static double transpose_query(const peri_knn_job *job, const void *query, void *tile, size_t i) {
    size_t wide = job->kernels->queries, dim = job->distances.dim;
    double squares = 0;
    for (size_t j = 0; j < dim; j++) {
        float value = peri_element_load(job->op->queries.dtype, query, j);
        if (job->centre != NULL) value -= job->centre[j];
        if (job->whole)
            ((int16_t *)tile)[(j / 2 * wide + i) * 2 + j % 2] = (int16_t)value;
        else
            ((float *)tile)[j * wide + i] = value;
        squares += (double)value * value;
    }
    return squares;
}

/* Floats of a tile for each of its queries: pairs are as large as a float. */
static size_t tile_columns(const peri_knn_job *job) {
    return job->whole ? peri_ceil_div(job->distances.dim, 2) : job->distances.dim;
}

void peri_knn_coarse_tile(const peri_knn_job *job, size_t number) {
    const peri_op_knn *op = job->op;
    size_t wide = job->kernels->queries, first = number * wide, columns = tile_columns(job);
    float *tile = job->tiles + first * columns;
    memset(tile, 0, wide * columns * sizeof *tile);
    for (size_t i = first; i < first + wide; i++) {
        job->brings[i] = (peri_knn_query){ .unbounded = true };
        if (i >= job->count) continue;
        const void *query = peri_view_row(&op->queries, job->order[job->first + i]);
        describe_query(job, query, transpose_query(job, query, tile, i - first), &job->brings[i]);
    }
}

/* ---- thresholds --------------------------------------------------------------------------- */

/* What a product must not be below for the row to be rescored, with no k-th value above `bound`. */
static float least_product(const peri_knn_job *job, const peri_knn_query *query, float bound) {
    if (query->unbounded || isinf(bound)) return -INFINITY;
    return peri_coarse_least(job->op->metric, job->distances.dim, query->norm, bound);
}

/* Lowers the shared bound of a query. */
static void share_bound(_Atomic(float) *bound, float value) {
    float seen = atomic_load_explicit(bound, memory_order_relaxed);
    while (value < seen && !atomic_compare_exchange_weak_explicit(
                               bound, &seen, value, memory_order_relaxed, memory_order_relaxed)) {}
}

/* ---- panels ------------------------------------------------------------------------------- */

/* Cosine: 1 / length of each row; a row out of range starts at +inf. */
static void scale_rows(const peri_distances *rows, panel *p, size_t wide) {
    for (size_t r = 0; r < wide; r++) {
        float length = rows->lengths[p->slots[r]];
        bool usable = length >= (float)LENGTH_LEAST && length <= (float)LENGTH_MOST;
        p->scale[r] = usable ? 1 / length : 0;
        p->start[r] = usable ? 0 : INFINITY;
    }
}

/* From the squared lengths of the packed rows to the start of their products. */
static void start_rows(const peri_knn_job *job, panel *p, const float *norms) {
    double share = peri_coarse_start(job->distances.dim);
    float most = PERI_COARSE_NORM_LEAST;
    for (size_t r = 0; r < job->kernels->rows; r++) {
        bool usable = norms[r] <= (float)NORM_MAX;
        p->start[r] = !usable ? INFINITY : is_squared(job) ? (float)(-norms[r] * share) : 0;
        p->scale[r] = 1;
        if (usable && norms[r] > most) most = norms[r];
    }
    p->longest = 1.01f * sqrtf(most);
}

/* Packs the rows named by p->slots; lanes past the count repeat the last one. */
static void pack_panel(task *t) {
    const peri_knn_job *job = t->job;
    const peri_block_kernels *kernels = job->kernels;
    panel *p = &t->p;
    const char *at[PERI_BLOCK_ROWS_MAX];
    float norms[PERI_BLOCK_ROWS_MAX];
    bool cosine = job->op->metric == PERI_COSINE;
    for (size_t r = 0; r < kernels->rows; r++) {
        if (r >= p->count) p->slots[r] = p->slots[p->count - 1];
        at[r] = (const char *)t->rows.rows + p->slots[r] * t->rows.stride;
    }
    if (cosine) scale_rows(&t->rows, p, kernels->rows);
    if (job->whole) {
        kernels->pack_pairs(t->rows.dtype, at, t->rows.dim, (int16_t *)(void *)p->values);
        for (size_t r = 0; r < kernels->rows && !cosine; r++)
            t->rows.dots(at[r], at[r], 0, NULL, 1, t->rows.dim, &norms[r]);
    } else {
        kernels->pack(t->rows.dtype, at, t->rows.dim, job->centre, cosine ? p->scale : NULL,
                      p->values, norms);
    }
    if (!cosine) start_rows(job, p, norms);
}

/* Names the rows of the following panel and asks for their bytes: 16 rows side by side are more
 * streams than the hardware follows, and a small batch leaves no time to wait for them. */
static void look_ahead(task *t, peri_passing *passing) {
    panel *p = &t->p;
    size_t bytes = t->rows.dim * peri_dtype_bytes(t->rows.dtype);
    p->ahead_count = peri_passing_next(passing, p->ahead, t->job->kernels->rows);
    for (size_t r = 0; r < p->ahead_count && bytes <= AHEAD_BYTES; r++) {
        const char *row = (const char *)t->rows.rows + p->ahead[r] * t->rows.stride;
        for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
    }
}

/* The masks of one tile of queries. */
static void multiply_tile(const peri_knn_job *job, const panel *p, size_t query, const float *least,
                          uint32_t *masks) {
    const peri_block_kernels *kernels = job->kernels;
    const float *tile = job->tiles + query * tile_columns(job);
    if (job->whole)
        kernels->tile_pairs((const int16_t *)(const void *)p->values, p->start, p->scale,
                            (const int16_t *)(const void *)tile, (uint32_t)tile_columns(job), least,
                            masks);
    else
        kernels->tile(p->values, p->start, tile, job->distances.dim, least, masks);
}

/* ---- one panel against a block of queries ------------------------------------------------- */

/* The lanes of a panel that the query's own filter lets pass; the panel holds consecutive rows
 * then. */
static uint32_t own_filter(const peri_knn_job *job, size_t query, size_t row) {
    const peri_op_knn *op = job->op;
    const uint64_t *bits = op->filter.bits[peri_knn_which(op, job->order[job->first + query])];
    return (uint32_t)(bits[row / 64] >> (row % 64)); /* rows is a multiple of the panel's width */
}

/* Canonical values of a query's pending hits, offered to its heap; then its threshold. */
static void rescore(task *t, size_t query) {
    const peri_knn_job *job = t->job;
    const peri_knn_query *brings = &job->brings[query];
    size_t i = query - t->first, count = t->p.pending_count[i];
    const uint32_t *slots = t->p.pending + i * PENDING_MAX;
    float values[PENDING_MAX];
    peri_topk *top = peri_knn_heap(job, t->worker, query);
    const void *bytes = peri_view_row(&job->op->queries, job->order[job->first + query]);
    peri_distances_slots(&t->rows, bytes, brings->length, slots, count, values);
    for (size_t s = 0; s < count; s++)
        peri_topk_offer(top, values[s], (int64_t)(t->base + slots[s]));
    if (top->count == top->k) share_bound(&job->bounds[query], top->distances[0]);
    float bound = atomic_load_explicit(&job->bounds[query], memory_order_relaxed);
    t->p.least[i] = least_product(job, brings, bound);
    t->p.pending_count[i] = 0;
}

/* Hits of one query in the panel. */
static void add_hits(task *t, size_t query, uint32_t mask) {
    uint32_t *count = &t->p.pending_count[query - t->first];
    uint32_t *slots = t->p.pending + (query - t->first) * PENDING_MAX;
    for (; mask != 0; mask &= mask - 1) slots[(*count)++] = t->p.slots[__builtin_ctz(mask)];
    if (*count >= PENDING_FLUSH) rescore(t, query);
}

/* The panel against every query of the block. */
static void multiply_panel(task *t) {
    const peri_knn_job *job = t->job;
    panel *p = &t->p;
    size_t wide = job->kernels->queries;
    uint32_t valid = p->count == 32 ? UINT32_MAX : (UINT32_C(1) << p->count) - 1;
    uint32_t masks[PERI_BLOCK_QUERIES_MAX];
    float lowered[PERI_BLOCK_QUERIES_MAX];
    bool inner = job->op->metric == PERI_INNER_PRODUCT;
    for (size_t query = t->first; query < t->stop; query += wide) {
        const float *least = p->least + (query - t->first);
        for (size_t i = 0; i < wide && inner; i++)
            lowered[i] = least[i] - job->brings[query + i].slack * p->longest;
        multiply_tile(job, p, query, inner ? lowered : least, masks);
        for (size_t i = 0; i < wide && query + i < t->stop; i++) {
            uint32_t mask = masks[i] & valid;
            if (mask == 0) continue;
            if (!job->shared_filter) mask &= own_filter(job, query + i, t->base + p->slots[0]);
            if (mask != 0) add_hits(t, query + i, mask);
        }
    }
}

static void begin_task(task *t, const peri_knn_job *job) {
    size_t count = t->stop - t->first, tiles = peri_ceil_div(count, job->kernels->queries);
    lay_out(&t->p, job->worker_scratch + t->worker * job->worker_bytes, job->distances.dim,
            job->block_limit);
    for (size_t i = 0; i < tiles * job->kernels->queries; i++) {
        t->p.pending_count[i] = 0;
        t->p.least[i] = INFINITY;
        if (i >= count) continue; /* fills the last tile */
        float bound = atomic_load_explicit(&job->bounds[t->first + i], memory_order_relaxed);
        t->p.least[i] = least_product(job, &job->brings[t->first + i], bound);
    }
}

void peri_knn_coarse_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker) {
    static const peri_filter_view everything = { 0 };
    const peri_op_knn *op = job->op;
    task t = { .job = job, .base = row, .first = first, .stop = stop, .worker = worker };
    t.rows = peri_knn_shifted(job, row);
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
    for (size_t query = first; query < stop; query++)
        if (t.p.pending_count[query - first] > 0) rescore(&t, query);
}
