/* pq_scan.c: nearest entries of inverted lists by product-quantized codes: tables, limits of the
 * fast scan, and the entries that go on to the heaps.
 *
 * A task takes its queries four at a time: tables of each for the list, then the groups of codes, a
 * few at a time, each for all four. The last group of a list is copied first: what lies behind the
 * list's end may be written by who extends the index. */
#include "backend/cpu/pq_scan.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/list_work.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/sums.h"
#include "backend/cpu/workers.h"
#include "core/bitset.h"
#include "core/checked.h"
#include "core/codes.h"
#include "core/matrix.h"
#include "core/memory.h"

#define TASK_QUERIES 16u
#define DENSE 8u /* entries of a group: from here on the values of all 32 cost less (taste) */
#define NO_LIMIT UINT32_MAX
#define FIXED_BYTES (UINT64_C(16) << 20) /* of tables that are made once a batch */
#define TASK_BYTES 262144u /* of codes, which stay in L2 while the queries of a task pass */

/* The small tables of a query, but for what the list adds. */
typedef struct bounds {
    float scale;
    double low_sum, largest;
} bounds;

typedef struct pq_job {
    peri_list_work work;
    const peri_op_pq_scan *op;
    const peri_pq_kernels *kernels;
    peri_sums_fn dot;
    peri_pq_shape shape;
    bool fast;
    uint32_t most;      /* the largest number of a small table: sums fit 16 bits */
    bool fixed;         /* tables of the fast scan do not depend on the list: made once a batch */
    size_t together;    /* queries whose tables are there at once */
    size_t table_bytes; /* of the small tables of a query */
    float *words;       /* transposed codewords: of all books, or NULL with a book for each list */
    float *fixed_T;     /* [batch_limit, pq_dim, words] */
    uint8_t *fixed_small;
    bounds *fixed_bounds;
    char *parts; /* of the workers, part_bytes each */
    size_t part_bytes;
} pq_job;

/* A query on a list. */
typedef struct asked {
    size_t query; /* of the batch */
    const uint64_t *bits;
    peri_list_keep *keep;
    float dot;      /* D of the contract */
    float largest;  /* of T, or negative: not known */
    float *T;       /* [pq_dim, words] */
    uint8_t *small; /* table_bytes */
    double low_sum; /* of sign * T at least */
    double slack;   /* of rounding: sums of f32 against the sums of their numbers */
    double scale;   /* of the small tables */
    float bound;    /* what `limit` is for */
    bool closed;    /* no entry can be near enough */
    uint32_t limit;
    size_t passed;
    size_t count; /* entries that the fast scan let through and that wait for their values */
    const uint8_t *codes[PERI_PQ_PICKED]; /* their first bytes; the others are a group apart */
    uint32_t slots[PERI_PQ_PICKED];
} asked;

/* What a worker has. */
typedef struct part {
    float *t;       /* [dim] of a query less the centroid */
    float *words;   /* transposed codewords of a list's own book */
    float *lows;    /* [pq_dim] */
    float *T;       /* [together, pq_dim, words] */
    uint8_t *small; /* [together, table_bytes] */
    uint8_t *tail;  /* one group of codes */
} part;

static size_t lay_out(const pq_job *job, char *base, part *p) {
    const peri_pq_shape *s = &job->shape;
    size_t at = 0, dim = (size_t)s->pq_dim * s->pq_len, fast = job->fast ? 1 : 0;
    p->t = peri_scratch_cut(&at, base, dim * sizeof *p->t);
    p->words = peri_scratch_cut(&at, base,
                                s->one_book ? (size_t)s->words * s->pq_len * sizeof *p->words : 0);
    p->lows = peri_scratch_cut(&at, base, fast * s->pq_dim * sizeof *p->lows);
    p->T = peri_scratch_cut(&at, base, job->together * s->pq_dim * s->words * sizeof *p->T);
    p->small = peri_scratch_cut(&at, base, fast * job->together * job->table_bytes);
    p->tail = peri_scratch_cut(&at, base, s->row_bytes * PERI_CODES_GROUP);
    return at;
}

/* ---- tables ------------------------------------------------------------------------------- */

/* Codewords [words, len] to [len, words]. */
static void transpose(const float *in, size_t words, size_t len, float *out) {
    for (size_t w = 0; w < words; w++)
        for (size_t i = 0; i < len; i++) out[i * words + w] = in[w * len + i];
}

static void transpose_books(const pq_job *job) {
    const peri_op_pq_scan *op = job->op;
    size_t book = (size_t)job->shape.words * op->pq_len;
    if (job->words == NULL) return;
    for (size_t j = 0; j < op->pq_dim; j++)
        transpose(op->codebooks + j * book, job->shape.words, op->pq_len, job->words + j * book);
}

/* Transposed codewords for a list. */
static const float *words_of(const pq_job *job, const part *p, size_t list) {
    size_t book = (size_t)job->shape.words * job->op->pq_len;
    if (job->words != NULL) return job->words;
    transpose(job->op->codebooks + list * book, job->shape.words, job->op->pq_len, p->words);
    return p->words;
}

static void fill_table(const pq_job *job, const part *p, size_t list, const float *words,
                       asked *a) {
    const peri_op_pq_scan *op = job->op;
    const float *x = peri_view_row(&op->queries, job->work.first + a->query);
    size_t dim = op->queries.cols;
    const float *centroid = op->centroids == NULL ? NULL : op->centroids + list * dim;
    a->dot = 0;
    a->largest = -1;
    if (centroid != NULL && !job->shape.squared)
        job->dot(x, centroid, dim * sizeof *x, NULL, 1, (uint32_t)dim, &a->dot);
    if (job->fixed) return;
    a->largest = job->kernels->tables(&job->shape, x, centroid, p->t, words, a->T);
}

/* From S to the value. */
static float value_of(const pq_job *job, const asked *a, float sum) {
    if (job->op->metric == PERI_COSINE)
        sum = 1 - (a->dot + sum);
    else if (!job->shape.squared)
        sum = -(a->dot + sum);
    return isnan(sum) ? INFINITY : sum;
}

/* ---- the fast scan ------------------------------------------------------------------------ */

/* How values are bounded from the small tables. With U = sign * T and u its small number,
 *     U[j][w] >= lows[j] + u / scale      (to the rounding of shrink, 2^-21 of 127 in u)
 * so an entry whose value is at most `bound` has
 *     sum of u <= (bound + offset - low_sum + slack) * scale + a little
 * where offset is what stands between value and the sum of U (D, or D - 1), and slack covers the
 * rounding of T's sum to f32, step by step, and of the last steps. Numbers that are not finite, or
 * whose sums may not be, make no bound: scale 0 lets everything through. */
static bounds shrink_table(const pq_job *job, const part *p, const float *T, float largest,
                           uint8_t *small) {
    size_t pq_dim = job->shape.pq_dim, last = job->table_bytes - PERI_PQ_FAST_TABLE;
    peri_pq_span span = { largest, 0, (double)pq_dim * largest };
    if (largest < 0) job->kernels->spans(T, pq_dim, job->shape.squared, p->lows, &span);
    float scale = (float)job->most / span.widest;
    if (!isfinite(scale) || !(span.largest < FLT_MAX / 2)) scale = 0;
    if (pq_dim % 8 != 0) memset(small + last, 0, PERI_PQ_FAST_TABLE);
    job->kernels->shrink(T, pq_dim, job->shape.squared, p->lows, scale, small);
    return (bounds){ scale, span.low_sum, span.largest };
}

/* Once a batch where a list changes nothing. */
static void prepare_query(const void *ud, size_t query, size_t worker) {
    const pq_job *job = ud;
    part p;
    float *T = job->fixed_T + query * job->shape.pq_dim * job->shape.words;
    lay_out(job, job->parts + worker * job->part_bytes, &p);
    const float *x = peri_view_row(&job->op->queries, job->work.first + query);
    float largest = job->kernels->tables(&job->shape, x, NULL, p.t, job->words, T);
    job->fixed_bounds[query] = shrink_table(job, &p, T, largest,
                                            job->fixed_small + query * job->table_bytes);
}

static void take_bounds(const pq_job *job, const part *p, asked *a) {
    bounds b;
    if (job->fixed) {
        b = job->fixed_bounds[a->query];
        a->small = job->fixed_small + a->query * job->table_bytes;
    } else {
        b = shrink_table(job, p, a->T, a->largest, a->small);
    }
    a->scale = b.scale;
    a->low_sum = b.low_sum;
    a->slack = (double)(job->shape.pq_dim + 8) * 0x1p-22 *
               (b.largest + fabs(a->dot) + (job->op->metric == PERI_COSINE));
}

static void set_limit(const pq_job *job, asked *a, float bound) {
    double offset = job->op->metric == PERI_COSINE ? (double)a->dot - 1 : a->dot;
    a->bound = bound;
    a->closed = false;
    a->limit = NO_LIMIT;
    if (a->scale == 0 || isinf(bound)) return;
    double slack = a->slack + fabs(bound) * 0x1p-22;
    double most = (bound + offset - a->low_sum + slack) * a->scale +
                  (double)job->shape.pq_dim * 0x1p-12 + 0x1p-12;
    a->closed = most < 0;
    if (most >= 0 && most < (double)NO_LIMIT) a->limit = (uint32_t)most;
}

/* S of four entries, each in the order of the contract. One is a chain of additions that wait for
 * each other; four go side by side. (Not as one vector: the compiler would gather it from four
 * loads each time, which is slower; see CMakeLists.txt.) */
static void sum_four(const pq_job *job, const float *T, const uint8_t *const *codes, float *sums) {
    const uint8_t *c0 = codes[0], *c1 = codes[1], *c2 = codes[2], *c3 = codes[3];
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    size_t pairs = job->shape.pq_dim / 2, at = 0;
    for (size_t b = 0; b < pairs; b++, at += PERI_CODES_GROUP, T += 2 * PERI_PQ_FAST_WORDS) {
        const float *H = T + PERI_PQ_FAST_WORDS;
        uint32_t b0 = c0[at], b1 = c1[at], b2 = c2[at], b3 = c3[at];
        s0 = s0 + T[b0 & 15] + H[b0 >> 4];
        s1 = s1 + T[b1 & 15] + H[b1 >> 4];
        s2 = s2 + T[b2 & 15] + H[b2 >> 4];
        s3 = s3 + T[b3 & 15] + H[b3 >> 4];
    }
    if (job->shape.pq_dim % 2 != 0) {
        s0 += T[c0[at] & 15];
        s1 += T[c1[at] & 15];
        s2 += T[c2[at] & 15];
        s3 += T[c3[at] & 15];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* The limit that the kept entries make. Before there is one, it is looked for as soon as it can be
 * had. */
static void follow_bound(const pq_job *job, asked *a) {
    float bound = a->keep->bound;
    if (bound == INFINITY) bound = peri_list_keep_bound(a->keep);
    if (bound < a->bound) set_limit(job, a, bound);
}

/* Values of the entries that wait, offered. */
static void offer_waiting(const pq_job *job, asked *a) {
    float sums[PERI_PQ_PICKED];
    size_t step = job->kernels->picked != NULL ? PERI_PQ_PICKED : 4;
    if (a->count == 0) return;
    for (size_t i = a->count; i % step != 0; i++) a->codes[i] = a->codes[0];
    if (job->kernels->picked != NULL)
        job->kernels->picked(&job->shape, a->T, a->codes, sums);
    else
        for (size_t i = 0; i < a->count; i += 4) sum_four(job, a->T, a->codes + i, sums + i);
    for (size_t i = 0; i < a->count; i++)
        peri_list_keep_offer(a->keep, value_of(job, a, sums[i]), a->slots[i]);
    a->count = 0;
    follow_bound(job, a);
}

/* The entries of a group that passed. */
static void take_entries(const pq_job *job, asked *a, const uint8_t *codes, const uint32_t *slots,
                         uint32_t mask) {
    if ((uint32_t)__builtin_popcount(mask) >= DENSE) {
        float sums[PERI_CODES_GROUP];
        job->kernels->sums(&job->shape, a->T, codes, sums);
        for (; mask != 0; mask &= mask - 1) {
            uint32_t r = (uint32_t)__builtin_ctz(mask);
            peri_list_keep_offer(a->keep, value_of(job, a, sums[r]), slots[r]);
        }
        follow_bound(job, a);
        return;
    }
    for (; mask != 0; mask &= mask - 1) {
        uint32_t r = (uint32_t)__builtin_ctz(mask);
        a->codes[a->count] = codes + r;
        a->slots[a->count++] = slots[r];
        if (a->count == PERI_PQ_PICKED) offer_waiting(job, a);
    }
}

/* ---- groups ------------------------------------------------------------------------------- */

/* The entries of a group that exist and pass. */
static uint32_t passing(const uint64_t *bits, const uint32_t *slots, size_t count) {
    uint32_t mask = count == PERI_CODES_GROUP ? UINT32_MAX : (UINT32_C(1) << count) - 1;
    if (bits == NULL) return mask;
    mask = 0;
    for (size_t r = 0; r < count; r++) mask |= (uint32_t)peri_bitset_test(bits, slots[r]) << r;
    return mask;
}

static size_t count_of(uint32_t pass, size_t rows) {
    return pass == UINT32_MAX ? rows : (size_t)__builtin_popcount(pass);
}

/* Groups of a list, one after the other; `rows` of the entries exist. */
typedef struct groups {
    const uint8_t *codes;
    const uint32_t *slots;
    size_t rows, count;
} groups;

/* Drops from a query's masks what does not pass its filter or does not exist. */
static void drop_masked(const groups *g, asked *a, uint32_t *masks) {
    if (a->bits == NULL && g->rows % PERI_CODES_GROUP == 0) {
        a->passed += g->rows;
        return;
    }
    for (size_t i = 0; i < g->count; i++) {
        size_t at = i * PERI_CODES_GROUP, rows = peri_min_size(PERI_CODES_GROUP, g->rows - at);
        uint32_t pass = passing(a->bits, g->slots + at, rows);
        a->passed += count_of(pass, rows);
        masks[i] &= pass;
    }
}

static void fast_groups(const pq_job *job, asked *list, size_t count, const groups *g) {
    uint32_t masks[PERI_PQ_FAST_QUERIES * PERI_PQ_FAST_GROUPS], limits[PERI_PQ_FAST_QUERIES];
    const uint8_t *tables[PERI_PQ_FAST_QUERIES];
    size_t bytes = job->shape.row_bytes * PERI_CODES_GROUP;
    for (size_t q = 0; q < count; q++) {
        limits[q] = list[q].limit;
        tables[q] = list[q].small;
    }
    job->kernels->masks(g->codes, job->shape.row_bytes, g->count, tables, count, limits, masks);
    for (size_t q = 0; q < count; q++) {
        uint32_t *own = masks + q * PERI_PQ_FAST_GROUPS;
        drop_masked(g, &list[q], own);
        for (size_t i = 0; i < g->count && !list[q].closed; i++)
            if (own[i] != 0)
                take_entries(job, &list[q], g->codes + i * bytes, g->slots + i * PERI_CODES_GROUP,
                             own[i]);
    }
}

static void plain_group(const pq_job *job, asked *a, const uint8_t *codes, const uint32_t *slots,
                        size_t rows) {
    float sums[PERI_CODES_GROUP];
    uint32_t mask = passing(a->bits, slots, rows);
    a->passed += count_of(mask, rows);
    if (mask == 0) return;
    job->kernels->sums(&job->shape, a->T, codes, sums);
    for (; mask != 0; mask &= mask - 1) {
        size_t r = (size_t)__builtin_ctz(mask);
        float value = value_of(job, a, sums[r]);
        peri_list_keep_offer(a->keep, value, slots[r]);
    }
}

/* ---- tasks -------------------------------------------------------------------------------- */

static void ask(const pq_job *job, const part *p, const peri_list_task *task, size_t i,
                size_t within, const float *words, asked *a) {
    size_t size = job->shape.pq_dim * job->shape.words;
    a->query = peri_list_member(task, i);
    a->bits = peri_list_filter(&job->work, a->query);
    a->keep = peri_list_kept(&job->work, task->worker, a->query);
    a->passed = a->count = 0;
    a->T = job->fixed ? job->fixed_T + a->query * size : p->T + within * size;
    a->small = p->small + within * job->table_bytes;
    fill_table(job, p, task->list, words, a);
    if (!job->fast) return;
    take_bounds(job, p, a);
    set_limit(job, a, fminf(peri_list_bound(&job->work, a->query), a->keep->bound));
}

/* Entries that do not fill a group, from `at` on, as one group. */
static const uint8_t *copy_tail(const pq_job *job, const part *p, size_t at, size_t rows) {
    const uint8_t *codes = job->op->codes + at * job->shape.row_bytes;
    for (size_t b = 0; b < job->shape.row_bytes; b++)
        memcpy(p->tail + b * PERI_CODES_GROUP, codes + b * PERI_CODES_GROUP, rows);
    return p->tail;
}

/* How many groups at once: one while some query has no limit yet. */
static size_t groups_of(const pq_job *job, const asked *list, size_t count, size_t rows) {
    size_t most = job->fast ? PERI_PQ_FAST_GROUPS : 1, whole = rows / PERI_CODES_GROUP;
    for (size_t q = 0; q < count && job->fast; q++)
        if (list[q].limit == NO_LIMIT && !list[q].closed) most = 1;
    return peri_max_size(1, peri_min_size(whole, most));
}

static void scan_entries(const pq_job *job, const part *p, const peri_list_task *task, asked *list,
                         size_t count) {
    for (size_t at = task->at; at < task->stop;) {
        groups g = { .codes = job->op->codes + at * job->shape.row_bytes,
                     .slots = job->op->lists.slots + at };
        g.count = groups_of(job, list, count, task->stop - at);
        g.rows = peri_min_size(g.count * PERI_CODES_GROUP, task->stop - at);
        if (g.rows < PERI_CODES_GROUP) g.codes = p->tail;
        if (job->fast)
            fast_groups(job, list, count, &g);
        else
            plain_group(job, list, g.codes, g.slots, g.rows);
        at += g.rows;
    }
}

static void pq_scan_task(const void *ud, const peri_list_task *task) {
    const pq_job *job = ud;
    part p;
    size_t tail = (task->stop - task->at) % PERI_CODES_GROUP;
    lay_out(job, job->parts + task->worker * job->part_bytes, &p);
    const float *words = words_of(job, &p, task->list);
    if (tail != 0) copy_tail(job, &p, task->stop - tail, tail);
    for (size_t i = 0; i < task->count; i += job->together) {
        size_t count = peri_min_size(job->together, task->count - i);
        asked list[PERI_PQ_FAST_QUERIES];
        for (size_t q = 0; q < count; q++) ask(job, &p, task, i + q, q, words, &list[q]);
        scan_entries(job, &p, task, list, count);
        for (size_t q = 0; q < count; q++) {
            if (job->fast) offer_waiting(job, &list[q]);
            peri_list_share_bound(&job->work, list[q].query, list[q].keep);
            peri_list_count(&job->work, task->worker, list[q].query, list[q].passed);
        }
    }
}

static peri_list_shape pq_scan_shape(const void *ud, size_t queries) {
    const pq_job *job = ud;
    size_t entries = peri_max_size(1024, TASK_BYTES / job->shape.row_bytes);
    (void)queries;
    return (peri_list_shape){ TASK_QUERIES, peri_round_up(entries, PERI_CODES_GROUP) };
}

/* ---- the operation ------------------------------------------------------------------------ */

static peri_list_work work_of(const pq_job *job, const peri_op_pq_scan *op) {
    return (peri_list_work){ .name = "pq_scan",
                             .lists = op->lists,
                             .probes = op->probes,
                             .n_probes = op->n_probes,
                             .filter = &op->filter,
                             .queries = op->queries.rows,
                             .k = op->k,
                             .ids = op->ids,
                             .distances = op->distances,
                             .visited_out = op->visited,
                             .entry_cost = job->fast ? op->pq_dim / 8.0 : op->pq_dim * 2.0,
                             .shape = pq_scan_shape,
                             .run = pq_scan_task,
                             .job = job };
}

static size_t plan(pq_job *job, const peri_device *device, const peri_op_pq_scan *op, void *base) {
    part none;
    job->op = op;
    job->kernels = peri_pq_kernels_chosen();
    job->dot = peri_sums_chosen()->dot[PERI_F32];
    job->shape = (peri_pq_shape){ .pq_dim = op->pq_dim,
                                  .pq_len = op->pq_len,
                                  .words = 1u << op->pq_bits,
                                  .pq_bits = op->pq_bits,
                                  .row_bytes = peri_codes_bytes(op->pq_dim, op->pq_bits),
                                  .one_book = op->per_cluster };
    job->shape.squared = op->metric == PERI_SQEUCLIDEAN || op->metric == PERI_EUCLIDEAN;
    job->fast = op->pq_bits == 4;
    job->together = job->fast ? PERI_PQ_FAST_QUERIES : 1;
    job->table_bytes = peri_round_up((size_t)op->pq_dim * PERI_PQ_FAST_WORDS, PERI_PQ_FAST_TABLE);
    job->most = (uint32_t)peri_min_size(job->kernels->most, UINT16_MAX / op->pq_dim);
    job->fixed = job->fast && !op->per_cluster && (!job->shape.squared || op->centroids == NULL);
    job->work = work_of(job, op);
    size_t table = (size_t)op->pq_dim * job->shape.words * sizeof *job->fixed_T;
    if (job->fixed) {
        job->work.prepare = prepare_query;
        job->work.batch_most = peri_max_size(1, FIXED_BYTES / (table + job->table_bytes));
    }
    size_t at = peri_list_work_plan(&job->work, device, base);
    size_t all = (size_t)op->pq_dim * job->shape.words * op->pq_len * sizeof *job->words;
    job->words = op->per_cluster ? NULL : peri_scratch_cut(&at, base, all);
    size_t fixed = job->fixed ? job->work.batch_limit : 0;
    job->fixed_T = peri_scratch_cut(&at, base, fixed * table);
    job->fixed_small = peri_scratch_cut(&at, base, fixed * job->table_bytes);
    job->fixed_bounds = peri_scratch_cut(&at, base, fixed * sizeof *job->fixed_bounds);
    job->part_bytes = lay_out(job, NULL, &none);
    job->parts = peri_scratch_cut(&at, base, job->work.workers * job->part_bytes);
    return at;
}

/* What is read of a small table or of a group before it was written counts for nothing; but it has
 * to be something. Squares have no lows. */
static void clear_parts(const pq_job *job) {
    for (size_t w = 0; w < job->work.workers; w++) {
        part p;
        lay_out(job, job->parts + w * job->part_bytes, &p);
        memset(p.tail, 0, job->shape.row_bytes * PERI_CODES_GROUP);
        if (job->fast) memset(p.lows, 0, job->shape.pq_dim * sizeof *p.lows);
    }
}

size_t peri_cpu_pq_scan_scratch(const peri_device *device, const peri_op_pq_scan *op) {
    pq_job job = { 0 };
    return plan(&job, device, op, NULL);
}

peri_status peri_cpu_pq_scan(peri_stream *stream, const peri_op_pq_scan *op, void *scratch,
                             size_t scratch_bytes) {
    pq_job job = { 0 };
    PERI_ASSERT(plan(&job, stream->device, op, NULL) <= scratch_bytes);
    (void)scratch_bytes;
    plan(&job, stream->device, op, scratch);
    transpose_books(&job);
    clear_parts(&job);
    return peri_list_work_run(&job.work, stream);
}
