/* pq_tables.c: tables of product-quantized codes, and what their small numbers bound.
 *
 * With U = sign * T and u its small number,
 *     U[j][w] >= lows[j] + u / scale      (to the rounding of the last step, 2^-21 of 255 in u)
 * so an entry whose value is at most `bound` has
 *     sum of u <= (bound + offset - low_sum + slack) * scale + a little
 * where offset is what stands between value and the sum of U (D, or D - 1), and slack covers the
 * rounding of T's sum to f32, step by step, and of the last steps. Numbers that are not finite, or
 * whose sums may not be, make no bound: scale 0 lets everything through.
 *
 * Small tables need not tell far codewords apart. With codes of 8 bits, whose tables are larger
 * than many a list, they are made for the bound that the query has when it comes to the list: so
 * that the bound is UNITS a piece, and what is beyond 255 is 255. Nothing else of the table is made
 * then (PERI_PQ_DIRECT). */
#include <float.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/pq_job.h"
#include "backend/cpu/workers.h"
#include "core/checked.h"
#include "core/matrix.h"

#define UNITS                                                                                      \
    32u /* 3 % of the bound are lost to whole numbers; a piece may have 8 times its share */

size_t peri_pq_lay_out(const peri_pq_job *job, char *base, peri_pq_part *p) {
    const peri_pq_shape *s = &job->shape;
    bool direct = job->way == PERI_PQ_DIRECT, small = job->way != PERI_PQ_PLAIN;
    size_t at = 0, dim = (size_t)s->pq_dim * s->pq_len, own = s->one_book ? s->words : 0;
    size_t T = job->fixed || direct ? 0 : job->together * s->pq_dim * s->words;
    p->t = peri_scratch_cut(&at, base, job->together * dim * sizeof *p->t);
    p->words = peri_scratch_cut(&at, base, own * s->pq_len * sizeof *p->words);
    p->norms = peri_scratch_cut(&at, base, direct ? own * sizeof *p->norms : 0);
    p->lows = peri_scratch_cut(&at, base, small ? s->pq_dim * sizeof *p->lows : 0);
    p->T = peri_scratch_cut(&at, base, T * sizeof *p->T);
    p->small = peri_scratch_cut(&at, base,
                                small && !job->fixed ? job->together * job->table_bytes : 0);
    p->tail = peri_scratch_cut(&at, base, s->row_bytes * PERI_CODES_GROUP);
    return at;
}

/* ---- codewords ---------------------------------------------------------------------------- */

/* Codewords [words, len] to [len, words]. */
static void transpose(const float *in, size_t words, size_t len, float *out) {
    for (size_t w = 0; w < words; w++)
        for (size_t i = 0; i < len; i++) out[i * words + w] = in[w * len + i];
}

/* Squares of codewords [words, len]; returns the largest. */
static float square(const float *in, size_t words, size_t len, float *out) {
    float largest = 0;
    for (size_t w = 0; w < words; w++) {
        out[w] = 0;
        for (size_t i = 0; i < len; i++) out[w] += in[w * len + i] * in[w * len + i];
        largest = out[w] > largest ? out[w] : largest;
    }
    return largest;
}

void peri_pq_transpose(peri_pq_job *job) {
    const peri_op_pq_scan *op = job->op;
    size_t words = job->shape.words, book = words * op->pq_len;
    job->norm_sum = 0;
    if (job->words == NULL) return;
    for (size_t j = 0; j < op->pq_dim; j++) {
        transpose(op->codebooks + j * book, words, op->pq_len, job->words + j * book);
        if (job->norms != NULL)
            job->norm_sum += square(op->codebooks + j * book, words, op->pq_len,
                                    job->norms + j * words);
    }
}

peri_pq_books peri_pq_books_of(const peri_pq_job *job, const peri_pq_part *p, size_t list) {
    size_t words = job->shape.words, len = job->op->pq_len;
    if (job->words != NULL)
        return (peri_pq_books){ job->words, job->norms, job->op->codebooks, job->norm_sum };
    const float *book = job->op->codebooks + list * words * len;
    peri_pq_books books = { p->words, p->norms, book, 0 };
    transpose(book, words, len, p->words);
    if (job->way == PERI_PQ_DIRECT)
        books.norm_sum = (double)job->shape.pq_dim * square(book, words, len, p->norms);
    return books;
}

/* ---- tables of floats, and small ones of them --------------------------------------------- */

float peri_pq_value(const peri_pq_job *job, const peri_pq_asked *a, float sum) {
    if (job->op->metric == PERI_COSINE)
        sum = 1 - (a->dot + sum);
    else if (!job->shape.squared)
        sum = -(a->dot + sum);
    return isnan(sum) ? INFINITY : sum;
}

static void shrink_narrow(const peri_pq_job *job, const float *T, const float *lows, float scale,
                          uint8_t *small) {
    size_t pq_dim = job->shape.pq_dim;
    if (pq_dim % 8 != 0)
        memset(small + job->table_bytes - PERI_PQ_FAST_TABLE, 0, PERI_PQ_FAST_TABLE);
    job->kernels->shrink(T, pq_dim, job->shape.squared, lows, scale, small);
}

static peri_pq_bounds shrink_table(const peri_pq_job *job, const peri_pq_part *p, const float *T,
                                   float largest, uint8_t *small) {
    peri_pq_span span = { largest, 0, (double)job->shape.pq_dim * largest };
    if (largest < 0) job->kernels->spans(&job->shape, T, p->lows, &span);
    float scale = (float)job->most / span.widest;
    if (!isfinite(scale) || !(span.largest < FLT_MAX / 2)) scale = 0;
    if (job->way == PERI_PQ_WIDE)
        job->kernels->wide->shrink(&job->shape, T, p->lows, scale, job->most, small);
    else
        shrink_narrow(job, T, p->lows, scale, small);
    return (peri_pq_bounds){ scale, span.low_sum, span.largest };
}

void peri_pq_prepare(const void *ud, size_t query, size_t worker) {
    const peri_pq_job *job = ud;
    peri_pq_part p;
    float *T = job->fixed_T + query * job->shape.pq_dim * job->shape.words;
    peri_pq_lay_out(job, job->parts + worker * job->part_bytes, &p);
    const float *x = peri_view_row(&job->op->queries, job->work.first + query);
    float largest = job->kernels->tables(&job->shape, x, NULL, p.t, job->words, T);
    job->fixed_bounds[query] = shrink_table(job, &p, T, largest,
                                            job->fixed_small + query * job->table_bytes);
}

static const float *centroid_of(const peri_pq_job *job, size_t list) {
    const peri_op_pq_scan *op = job->op;
    return op->centroids == NULL ? NULL : op->centroids + list * op->queries.cols;
}

static void take_dot(const peri_pq_job *job, size_t list, const float *x, peri_pq_asked *a) {
    const float *centroid = centroid_of(job, list);
    size_t dim = job->op->queries.cols;
    a->dot = 0;
    if (centroid != NULL && !job->shape.squared)
        job->dot(x, centroid, dim * sizeof *x, NULL, 1, (uint32_t)dim, &a->dot);
}

static void take_bounds(const peri_pq_job *job, const peri_pq_bounds *b, peri_pq_asked *a) {
    a->scale = b->scale;
    a->low_sum = b->low_sum;
    a->slack = (double)(job->shape.pq_dim + 8) * 0x1p-22 *
               (b->largest + fabs(a->dot) + (job->op->metric == PERI_COSINE));
}

/* Tables of floats of a query, and small ones of them. */
static void open_tables(const peri_pq_job *job, const peri_pq_part *p, size_t list, size_t within,
                        peri_pq_asked *a) {
    size_t size = (size_t)job->shape.pq_dim * job->shape.words;
    const float *x = peri_view_row(&job->op->queries, job->work.first + a->query);
    take_dot(job, list, x, a);
    if (job->fixed) {
        a->T = job->fixed_T + a->query * size;
        a->small = job->fixed_small + a->query * job->table_bytes;
        take_bounds(job, &job->fixed_bounds[a->query], a);
        return;
    }
    a->T = p->T + within * size;
    a->small = p->small + within * job->table_bytes;
    float largest = job->kernels->tables(&job->shape, x, centroid_of(job, list), p->t,
                                         a->books->words, a->T);
    if (job->way == PERI_PQ_PLAIN) return;
    peri_pq_bounds b = shrink_table(job, p, a->T, largest, a->small);
    take_bounds(job, &b, a);
}

/* ---- small tables for a bound ------------------------------------------------------------- */

/* The square of t, and of the largest codewords: twice their sum is at least the largest values,
 * and rounding is a share of it (the products are at most the sum of the squares). */
static void open_direct(const peri_pq_job *job, const peri_pq_part *p, size_t list, size_t within,
                        peri_pq_asked *a) {
    size_t dim = job->op->queries.cols;
    const float *x = peri_view_row(&job->op->queries, job->work.first + a->query);
    const float *centroid = centroid_of(job, list);
    double pieces = job->shape.pq_dim + job->shape.pq_len;
    float square;
    a->t = p->t + within * dim;
    a->small = p->small + within * job->table_bytes;
    a->dot = 0;
    a->low_sum = 0;
    a->scale = 0;
    a->waits = true;
    for (size_t i = 0; i < dim; i++) a->t[i] = centroid == NULL ? x[i] : x[i] - centroid[i];
    job->dot(a->t, a->t, dim * sizeof *x, NULL, 1, (uint32_t)dim, &square);
    a->slack = (pieces + 16) * 0x1p-20 * ((double)square + a->books->norm_sum);
}

/* Returns false where there is no bound to make them for. */
static bool scale_for(const peri_pq_job *job, peri_pq_asked *a, float bound, float *scale) {
    double budget = bound + a->slack + fabs(bound) * 0x1p-22;
    if (isinf(bound)) return false;
    *scale = (float)(UNITS * job->shape.pq_dim / budget);
    bool fits = isfinite(*scale) && *scale > 0 && a->slack < FLT_MAX / 0x1p24;
    a->waits = false;
    a->scale = fits ? *scale : 0;
    return fits;
}

/* Small tables of up to `together` queries that wait for them. */
static void fill_direct(const peri_pq_job *job, peri_pq_asked *const *list, const float *bounds,
                        size_t count) {
    const float *t[PERI_PQ_FAST_QUERIES];
    float scales[PERI_PQ_FAST_QUERIES];
    uint8_t *small[PERI_PQ_FAST_QUERIES];
    size_t filled = 0;
    for (size_t i = 0; i < count; i++) {
        if (!scale_for(job, list[i], bounds[i], &scales[filled])) continue;
        t[filled] = list[i]->t;
        small[filled++] = list[i]->small;
    }
    if (filled > 0)
        job->kernels->wide->tables(&job->shape, list[0]->books->words, list[0]->books->norms,
                                   filled, t, scales, job->most, small);
}

/* ---- limits ------------------------------------------------------------------------------- */

static void take_limit(const peri_pq_job *job, peri_pq_asked *a, float bound) {
    double offset = job->op->metric == PERI_COSINE ? (double)a->dot - 1 : a->dot;
    a->bound = bound;
    a->closed = false;
    a->limit = PERI_PQ_NO_LIMIT;
    if (a->scale == 0 || isinf(bound)) return;
    double slack = a->slack + fabs(bound) * 0x1p-22;
    double most = (bound + offset - a->low_sum + slack) * a->scale +
                  (double)job->shape.pq_dim * 0x1p-12 + 0x1p-12;
    a->closed = most < 0;
    if (most >= 0 && most < (double)PERI_PQ_NO_LIMIT) a->limit = (uint32_t)most;
}

void peri_pq_set_limit(const peri_pq_job *job, peri_pq_asked *a, float bound) {
    if (a->waits) fill_direct(job, &a, &bound, 1);
    take_limit(job, a, bound);
}

void peri_pq_open(const peri_pq_job *job, const peri_pq_part *p, size_t list, peri_pq_asked *asked,
                  size_t count) {
    peri_pq_asked *all[PERI_PQ_FAST_QUERIES] = { NULL };
    float bounds[PERI_PQ_FAST_QUERIES] = { 0 };
    for (size_t q = 0; q < count; q++) {
        peri_pq_asked *a = all[q] = &asked[q];
        a->waits = false;
        if (job->way == PERI_PQ_DIRECT)
            open_direct(job, p, list, q, a);
        else
            open_tables(job, p, list, q, a);
        bounds[q] = fminf(peri_list_bound(&job->work, a->query), a->keep->bound);
    }
    if (job->way == PERI_PQ_DIRECT) fill_direct(job, all, bounds, count);
    for (size_t q = 0; q < count && job->way != PERI_PQ_PLAIN; q++)
        take_limit(job, &asked[q], bounds[q]);
}
