/* pq_scan.c: nearest entries of inverted lists by product-quantized codes: the entries that the
 * tables (pq_tables.c) let through, and their values.
 *
 * A task takes its queries four at a time: tables of each for the list, then the groups of codes, a
 * few at a time, each for all four. The last group of a list is copied first: what lies behind the
 * list's end may be written by who extends the index. */
#include <math.h>
#include <string.h>

#include "backend/cpu/ops.h"
#include "backend/cpu/pq_job.h"
#include "backend/cpu/workers.h"
#include "core/bitset.h"
#include "core/checked.h"
#include "core/codes.h"
#include "core/memory.h"

#define TASK_QUERIES 16u
#define DENSE 8u       /* entries of a group: from here on the values of all 32 cost less (taste) */
#define WIDE_DENSE 24u /* the same of wide codes, where a value costs the same in both ways */
#define FIXED_BYTES (UINT64_C(16) << 20) /* of tables that are made once a batch */
#define TASK_BYTES 262144u /* of codes, which stay in L2 while the queries of a task pass */

/* ---- values ------------------------------------------------------------------------------- */

/* S of four entries, each in the order of the contract. One is a chain of additions that wait for
 * each other; four go side by side. (Not as one vector: the compiler would gather it from four
 * loads each time, which is slower; see CMakeLists.txt.) */
static void sum_four(const peri_pq_job *job, const float *T, const uint8_t *const *codes,
                     float *sums) {
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
static void follow_bound(const peri_pq_job *job, peri_pq_asked *a) {
    float bound = a->keep->bound;
    if (bound == INFINITY) bound = peri_list_keep_bound(a->keep);
    if (bound < a->bound) peri_pq_set_limit(job, a, bound);
}

/* S of PERI_PQ_PICKED entries. */
static void sum_picked(const peri_pq_job *job, const peri_pq_asked *a, const uint8_t *const *codes,
                       float *sums) {
    const peri_pq_kernels *kernels = job->kernels;
    if (job->way == PERI_PQ_DIRECT)
        kernels->wide->direct(&job->shape, a->t, a->books->plain, codes, sums);
    else if (job->way == PERI_PQ_WIDE)
        kernels->wide->picked(&job->shape, a->T, codes, sums);
    else if (kernels->picked != NULL)
        kernels->picked(&job->shape, a->T, codes, sums);
    else
        for (size_t i = 0; i < PERI_PQ_PICKED; i += 4) sum_four(job, a->T, codes + i, sums + i);
}

/* S of all entries of a group. */
static void sum_group(const peri_pq_job *job, const peri_pq_asked *a, const uint8_t *codes,
                      float *sums) {
    if (job->way < PERI_PQ_WIDE) {
        job->kernels->sums(&job->shape, a->T, codes, sums);
        return;
    }
    for (size_t first = 0; first < PERI_CODES_GROUP; first += PERI_PQ_PICKED) {
        const uint8_t *picked[PERI_PQ_PICKED];
        for (size_t i = 0; i < PERI_PQ_PICKED; i++) picked[i] = codes + first + i;
        sum_picked(job, a, picked, sums + first);
    }
}

/* Values of the entries that wait, offered. */
static void offer_waiting(const peri_pq_job *job, peri_pq_asked *a) {
    float sums[PERI_PQ_PICKED];
    if (a->count == 0) return;
    for (size_t i = a->count; i < PERI_PQ_PICKED; i++) a->codes[i] = a->codes[0];
    sum_picked(job, a, a->codes, sums);
    for (size_t i = 0; i < a->count; i++)
        peri_list_keep_offer(a->keep, peri_pq_value(job, a, sums[i]), a->slots[i]);
    a->count = 0;
    follow_bound(job, a);
}

/* The entries of a group that passed. */
static void take_entries(const peri_pq_job *job, peri_pq_asked *a, const uint8_t *codes,
                         const uint32_t *slots, uint32_t mask) {
    uint32_t dense = job->way == PERI_PQ_NARROW ? DENSE : WIDE_DENSE;
    if ((uint32_t)__builtin_popcount(mask) >= dense) {
        float sums[PERI_CODES_GROUP];
        sum_group(job, a, codes, sums);
        for (; mask != 0; mask &= mask - 1) {
            uint32_t r = (uint32_t)__builtin_ctz(mask);
            peri_list_keep_offer(a->keep, peri_pq_value(job, a, sums[r]), slots[r]);
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
static void drop_masked(const groups *g, peri_pq_asked *a, uint32_t *masks) {
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

/* masks[q * PERI_PQ_FAST_GROUPS + g]: what the limits of the queries let through. */
static void find_masks(const peri_pq_job *job, const peri_pq_asked *list, size_t count,
                       const groups *g, uint32_t *masks) {
    uint32_t limits[PERI_PQ_FAST_QUERIES];
    const uint8_t *tables[PERI_PQ_FAST_QUERIES];
    for (size_t q = 0; q < count; q++) {
        limits[q] = list[q].limit;
        tables[q] = list[q].small;
    }
    if (job->way == PERI_PQ_NARROW) {
        job->kernels->masks(g->codes, job->shape.row_bytes, g->count, tables, count, limits, masks);
        return;
    }
    for (size_t q = 0; q < count; q++, masks += PERI_PQ_FAST_GROUPS) {
        if (limits[q] == PERI_PQ_NO_LIMIT)
            memset(masks, 0xFF, g->count * sizeof *masks);
        else
            job->kernels->wide->masks(&job->shape, g->codes, g->count, tables[q], limits[q], masks);
    }
}

static void fast_groups(const peri_pq_job *job, peri_pq_asked *list, size_t count,
                        const groups *g) {
    uint32_t masks[PERI_PQ_FAST_QUERIES * PERI_PQ_FAST_GROUPS];
    size_t bytes = job->shape.row_bytes * PERI_CODES_GROUP;
    find_masks(job, list, count, g, masks);
    for (size_t q = 0; q < count; q++) {
        uint32_t *own = masks + q * PERI_PQ_FAST_GROUPS;
        drop_masked(g, &list[q], own);
        for (size_t i = 0; i < g->count && !list[q].closed; i++)
            if (own[i] != 0)
                take_entries(job, &list[q], g->codes + i * bytes, g->slots + i * PERI_CODES_GROUP,
                             own[i]);
    }
}

static void plain_group(const peri_pq_job *job, peri_pq_asked *a, const uint8_t *codes,
                        const uint32_t *slots, size_t rows) {
    float sums[PERI_CODES_GROUP];
    uint32_t mask = passing(a->bits, slots, rows);
    a->passed += count_of(mask, rows);
    if (mask == 0) return;
    job->kernels->sums(&job->shape, a->T, codes, sums);
    for (; mask != 0; mask &= mask - 1) {
        size_t r = (size_t)__builtin_ctz(mask);
        float value = peri_pq_value(job, a, sums[r]);
        peri_list_keep_offer(a->keep, value, slots[r]);
    }
}

/* ---- tasks -------------------------------------------------------------------------------- */

/* Entries that do not fill a group, from `at` on, as one group. */
static const uint8_t *copy_tail(const peri_pq_job *job, const peri_pq_part *p, size_t at,
                                size_t rows) {
    const uint8_t *codes = job->op->codes + at * job->shape.row_bytes;
    for (size_t b = 0; b < job->shape.row_bytes; b++)
        memcpy(p->tail + b * PERI_CODES_GROUP, codes + b * PERI_CODES_GROUP, rows);
    return p->tail;
}

/* How many groups at once: one while some query has no limit yet. */
static size_t groups_of(const peri_pq_job *job, const peri_pq_asked *list, size_t count,
                        size_t rows) {
    size_t most = job->way != PERI_PQ_PLAIN ? PERI_PQ_FAST_GROUPS : 1;
    size_t whole = rows / PERI_CODES_GROUP;
    for (size_t q = 0; q < count && most > 1; q++)
        if (list[q].limit == PERI_PQ_NO_LIMIT && !list[q].closed) most = 1;
    return peri_max_size(1, peri_min_size(whole, most));
}

static void scan_entries(const peri_pq_job *job, const peri_pq_part *p, const peri_list_task *task,
                         peri_pq_asked *list, size_t count) {
    for (size_t at = task->at; at < task->stop;) {
        groups g = { .codes = job->op->codes + at * job->shape.row_bytes,
                     .slots = job->op->lists.slots + at };
        g.count = groups_of(job, list, count, task->stop - at);
        g.rows = peri_min_size(g.count * PERI_CODES_GROUP, task->stop - at);
        if (g.rows < PERI_CODES_GROUP) g.codes = p->tail;
        if (job->way != PERI_PQ_PLAIN)
            fast_groups(job, list, count, &g);
        else
            plain_group(job, list, g.codes, g.slots, g.rows);
        at += g.rows;
    }
}

static void ask(const peri_pq_job *job, const peri_list_task *task, size_t i,
                const peri_pq_books *books, peri_pq_asked *a) {
    a->query = peri_list_member(task, i);
    a->bits = peri_list_filter(&job->work, a->query);
    a->keep = peri_list_kept(&job->work, task->worker, a->query);
    a->books = books;
    a->passed = a->count = 0;
}

static void pq_scan_task(const void *ud, const peri_list_task *task) {
    const peri_pq_job *job = ud;
    peri_pq_part p;
    size_t tail = (task->stop - task->at) % PERI_CODES_GROUP;
    peri_pq_lay_out(job, job->parts + task->worker * job->part_bytes, &p);
    peri_pq_books books = peri_pq_books_of(job, &p, task->list);
    if (tail != 0) copy_tail(job, &p, task->stop - tail, tail);
    for (size_t i = 0; i < task->count; i += job->together) {
        size_t count = peri_min_size(job->together, task->count - i);
        peri_pq_asked list[PERI_PQ_FAST_QUERIES];
        for (size_t q = 0; q < count; q++) ask(job, task, i + q, &books, &list[q]);
        peri_pq_open(job, &p, task->list, list, count);
        scan_entries(job, &p, task, list, count);
        for (size_t q = 0; q < count; q++) {
            if (job->way != PERI_PQ_PLAIN) offer_waiting(job, &list[q]);
            peri_list_share_bound(&job->work, list[q].query, list[q].keep);
            peri_list_count(&job->work, task->worker, list[q].query, list[q].passed);
        }
    }
}

static peri_list_shape pq_scan_shape(const void *ud, size_t queries) {
    const peri_pq_job *job = ud;
    size_t entries = peri_max_size(1024, TASK_BYTES / job->shape.row_bytes);
    (void)queries;
    return (peri_list_shape){ TASK_QUERIES, peri_round_up(entries, PERI_CODES_GROUP) };
}

/* ---- the operation ------------------------------------------------------------------------ */

static peri_list_work work_of(const peri_pq_job *job, const peri_op_pq_scan *op) {
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
                             .entry_cost = job->way == PERI_PQ_NARROW  ? op->pq_dim / 8.0
                                           : job->way != PERI_PQ_PLAIN ? op->pq_dim / 2.0
                                                                       : op->pq_dim * 2.0,
                             .shape = pq_scan_shape,
                             .run = pq_scan_task,
                             .job = job };
}

static peri_pq_way way_of(const peri_pq_job *job, const peri_op_pq_scan *op, bool fixed) {
    if (op->pq_bits == 4) return PERI_PQ_NARROW;
    if (op->pq_bits < 5 || job->kernels->wide == NULL) return PERI_PQ_PLAIN;
    if (fixed) return PERI_PQ_WIDE;
    return job->shape.squared ? PERI_PQ_DIRECT : PERI_PQ_PLAIN;
}

static void choose(peri_pq_job *job, const peri_op_pq_scan *op) {
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
    bool fixed = !op->per_cluster && (!job->shape.squared || op->centroids == NULL);
    job->way = way_of(job, op, fixed);
    job->fixed = fixed && job->way != PERI_PQ_PLAIN;
    job->together = job->way != PERI_PQ_PLAIN ? PERI_PQ_FAST_QUERIES : 1;
    job->table_bytes = job->way == PERI_PQ_NARROW
                           ? peri_round_up((size_t)op->pq_dim * PERI_PQ_FAST_WORDS,
                                           PERI_PQ_FAST_TABLE)
                           : (size_t)op->pq_dim * PERI_PQ_WIDE_TABLE;
    job->most = (uint32_t)peri_min_size(job->kernels->most, UINT16_MAX / op->pq_dim);
}

static size_t plan(peri_pq_job *job, const peri_device *device, const peri_op_pq_scan *op,
                   void *base) {
    peri_pq_part none;
    choose(job, op);
    job->work = work_of(job, op);
    size_t table = (size_t)op->pq_dim * job->shape.words * sizeof *job->fixed_T;
    if (job->fixed) {
        job->work.prepare = peri_pq_prepare;
        job->work.batch_most = peri_max_size(1, FIXED_BYTES / (table + job->table_bytes));
    }
    size_t at = peri_list_work_plan(&job->work, device, base);
    size_t all = (size_t)op->pq_dim * job->shape.words * sizeof *job->words;
    bool norms = job->way == PERI_PQ_DIRECT && !op->per_cluster;
    job->words = op->per_cluster ? NULL : peri_scratch_cut(&at, base, all * op->pq_len);
    job->norms = norms ? peri_scratch_cut(&at, base, all) : NULL;
    size_t fixed = job->fixed ? job->work.batch_limit : 0;
    job->fixed_T = peri_scratch_cut(&at, base, fixed * table);
    job->fixed_small = peri_scratch_cut(&at, base, fixed * job->table_bytes);
    job->fixed_bounds = peri_scratch_cut(&at, base, fixed * sizeof *job->fixed_bounds);
    job->part_bytes = peri_pq_lay_out(job, NULL, &none);
    job->parts = peri_scratch_cut(&at, base, job->work.workers * job->part_bytes);
    return at;
}

/* What is read of a small table or of a group before it was written counts for nothing; but it has
 * to be something. Squares have no lows. */
static void clear_parts(const peri_pq_job *job) {
    for (size_t w = 0; w < job->work.workers; w++) {
        peri_pq_part p;
        peri_pq_lay_out(job, job->parts + w * job->part_bytes, &p);
        memset(p.tail, 0, job->shape.row_bytes * PERI_CODES_GROUP);
        if (job->way != PERI_PQ_PLAIN) memset(p.lows, 0, job->shape.pq_dim * sizeof *p.lows);
    }
}

size_t peri_cpu_pq_scan_scratch(const peri_device *device, const peri_op_pq_scan *op) {
    peri_pq_job job = { 0 };
    return plan(&job, device, op, NULL);
}

peri_status peri_cpu_pq_scan(peri_stream *stream, const peri_op_pq_scan *op, void *scratch,
                             size_t scratch_bytes) {
    peri_pq_job job = { 0 };
    PERI_ASSERT(plan(&job, stream->device, op, NULL) <= scratch_bytes);
    (void)scratch_bytes;
    plan(&job, stream->device, op, scratch);
    peri_pq_transpose(&job);
    clear_parts(&job);
    return peri_list_work_run(&job.work, stream);
}
