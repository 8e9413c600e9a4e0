/* list_coarse.c: several queries on a piece of a list: panels of entries against tiles of queries.
 *
 * As in exact search (knn_coarse.c) a product at the rate of fused multiply-adds rules out, with a
 * certified bound (knn_bound.c), the entries that can't be among the k nearest; those that it lets
 * through wait until some are together and get their canonical distance. So the answer is that of
 * the direct way, whatever the data. Lists make the bound tight: for squared L2, queries and
 * entries are taken relative to a row amid the list, where norms are small, and a query comes to
 * its nearest list first (list_scan.c), which leaves few of the others' entries in doubt.
 *
 * i8 and u8 are widened to f32, exactly. */
#include <math.h>
#include <string.h>

#include "backend/convert_element.h"
#include "backend/cpu/coarse_bound.h"
#include "backend/cpu/list_scan.h"
#include "core/bitset.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"

#define CENTRE_SAMPLES 8u
#define CENTRE_MOST 1e18f
#define AHEAD_BYTES 4096u /* of an entry: longer ones are streams that the hardware follows */
#define PENDING_FLUSH 8u  /* hits of a query before they are rescored: one alone waits for itself */
#define PENDING_MAX (PENDING_FLUSH + PERI_BLOCK_ROWS_MAX)

/* What a query brings: as peri_coarse_least wants it. */
typedef struct asked {
    const void *bytes;
    size_t query;   /* of the batch */
    double norm;    /* squared L2: |q - centre|^2; inner product: |q|; cosine: the length */
    float slack;    /* inner product: times the longest entry of a panel */
    float length;   /* cosine */
    bool unbounded; /* out of the range of the bound: every entry is rescored */
} asked;

/* One task; positions count from the piece's first entry. */
typedef struct coarse {
    const peri_list_job *job;
    const peri_list_task *task;
    peri_distances piece;
    const uint32_t *slots; /* of the piece */
    bool squared, cosine, whole;
    float *centre;     /* [dim] or NULL */
    float *tiles;      /* [tiles, dim, queries of a tile] */
    float *values;     /* [dim, rows] the panel */
    float *wide;       /* [rows, dim] entries of i8 and u8 as f32 */
    float *least;      /* [queries] the thresholds */
    asked *asked;      /* [queries] */
    uint32_t *pending; /* [queries, PENDING_MAX] positions that wait to be rescored */
    uint32_t *pending_count;
    float start[PERI_BLOCK_ROWS_MAX], scale[PERI_BLOCK_ROWS_MAX];
    float longest; /* inner product: of the entries in the panel */
    uint32_t at[PERI_BLOCK_ROWS_MAX];
    size_t count;
} coarse;

static void *cut(char *base, size_t *used, size_t count, size_t size) {
    void *block = base == NULL ? NULL : base + *used;
    *used += peri_round_up(count * size, PERI_ALIGN);
    return block;
}

static size_t lay_out(coarse *c, char *base, size_t dim, size_t block, bool whole) {
    size_t used = 0;
    c->centre = cut(base, &used, dim, sizeof *c->centre);
    c->tiles = cut(base, &used, block * dim, sizeof *c->tiles);
    c->values = cut(base, &used, PERI_BLOCK_ROWS_MAX * dim, sizeof *c->values);
    c->wide = cut(base, &used, whole ? PERI_BLOCK_ROWS_MAX * dim : 0, sizeof *c->wide);
    c->least = cut(base, &used, block, sizeof *c->least);
    c->asked = cut(base, &used, block, sizeof *c->asked);
    c->pending = cut(base, &used, block * PENDING_MAX, sizeof *c->pending);
    c->pending_count = cut(base, &used, block, sizeof *c->pending_count);
    return used;
}

static bool is_whole(peri_dtype dtype) { return dtype == PERI_I8 || dtype == PERI_U8; }

size_t peri_list_coarse_worker_bytes(const peri_op_list_scan *op, size_t block_queries) {
    coarse c;
    return lay_out(&c, NULL, op->rows.cols, block_queries, is_whole(op->rows.dtype));
}

/* ---- thresholds --------------------------------------------------------------------------- */

static void set_least(coarse *c, size_t i) {
    const asked *a = &c->asked[i];
    float bound = peri_list_bound(&c->job->work, a->query);
    c->least[i] = a->unbounded || isinf(bound)
                      ? -INFINITY
                      : peri_coarse_least(c->job->op->metric, c->piece.dim, a->norm, bound);
}

static void describe(coarse *c, asked *a, double squares) {
    a->norm = squares;
    a->unbounded = !(squares <= PERI_COARSE_NORM_MAX);
    if (c->cosine) {
        a->length = peri_distances_query_length(&c->piece, a->bytes);
        a->norm = a->length;
        a->unbounded = !(a->norm >= PERI_COARSE_LENGTH_LEAST && a->norm <= PERI_COARSE_LENGTH_MOST);
    } else if (!c->squared) {
        a->norm = sqrt(squares);
        a->slack = (float)(peri_coarse_slack(c->piece.dim) * a->norm);
    }
}

/* ---- queries ------------------------------------------------------------------------------ */

/* The mean of some entries: near all of them, as they are of one list. */
static void find_centre(coarse *c) {
    const peri_list_task *task = c->task;
    const peri_view *rows = &c->job->op->rows;
    size_t count = task->stop - task->at, samples = peri_min_size(CENTRE_SAMPLES, count);
    if (!c->squared) {
        c->centre = NULL;
        return;
    }
    memset(c->centre, 0, rows->cols * sizeof *c->centre);
    for (size_t s = 0; s < samples; s++) {
        const void *row = peri_view_row(rows, task->at + s * (count / samples));
        for (size_t j = 0; j < rows->cols; j++)
            c->centre[j] += peri_element_load(rows->dtype, row, j) / (float)samples;
    }
    for (size_t j = 0; j < rows->cols; j++)
        if (!(fabsf(c->centre[j]) < CENTRE_MOST)) c->centre[j] = 0;
}

/* Columns of one query into its place in a tile; returns the sum of their squares. */
static double transpose(const coarse *c, const void *query, float *tile, size_t i) {
    size_t wide = c->job->kernels->queries;
    double squares = 0;
    for (size_t j = 0; j < c->piece.dim; j++) {
        float value = peri_element_load(c->job->op->queries.dtype, query, j);
        if (c->centre != NULL) value -= c->centre[j];
        tile[j * wide + i] = value;
        squares += (double)value * value;
    }
    return squares;
}

static void take_queries(coarse *c) {
    size_t wide = c->job->kernels->queries, dim = c->piece.dim;
    size_t filled = peri_ceil_div(c->task->count, wide) * wide;
    for (size_t i = 0; i < filled; i++) {
        float *tile = c->tiles + i / wide * wide * dim;
        if (i >= c->task->count) { /* fills the last tile */
            for (size_t j = 0; j < dim; j++) tile[j * wide + i % wide] = 0;
            c->least[i] = INFINITY;
            c->asked[i] = (asked){ .norm = 0 };
            continue;
        }
        asked *a = &c->asked[i];
        *a = (asked){ .query = peri_list_member(c->task, i) };
        a->bytes = peri_view_row(&c->job->op->queries, c->job->work.first + a->query);
        describe(c, a, transpose(c, a->bytes, tile, i % wide));
        c->pending_count[i] = 0;
        set_least(c, i);
    }
}

/* ---- panels ------------------------------------------------------------------------------- */

/* The next entries that pass the filter of the batch, from position `from`; the first position
 * behind them. */
static size_t next_entries(coarse *c, const uint64_t *bits, size_t from) {
    size_t stop = c->task->stop - c->task->at, lanes = c->job->kernels->rows;
    c->count = 0;
    for (; from < stop && c->count < lanes; from++) {
        c->at[c->count] = (uint32_t)from;
        c->count += bits == NULL || peri_bitset_test(bits, c->slots[from]);
    }
    return from;
}

/* Asks for what comes next: 32 rows side by side are more streams than the hardware follows. */
static void look_ahead(const coarse *c, size_t from) {
    size_t bytes = c->piece.dim * peri_dtype_bytes(c->piece.dtype);
    size_t stop = peri_min_size(from + c->job->kernels->rows, c->task->stop - c->task->at);
    if (bytes > AHEAD_BYTES || from >= stop) return;
    const char *row = (const char *)c->piece.rows + from * c->piece.stride;
    for (size_t at = 0; at < (stop - from) * c->piece.stride; at += 64)
        __builtin_prefetch(row + at, 0, 2);
}

/* 1 / length of each entry; one out of range starts at +inf, so that it is always a hit. */
static void scale_entries(coarse *c) {
    for (size_t r = 0; r < c->job->kernels->rows; r++) {
        float length = c->piece.lengths[c->at[r]];
        bool usable = length >= (float)PERI_COARSE_LENGTH_LEAST &&
                      length <= (float)PERI_COARSE_LENGTH_MOST;
        c->scale[r] = usable ? 1 / length : 0;
        c->start[r] = usable ? 0 : INFINITY;
    }
}

static void start_entries(coarse *c, const float *norms) {
    double factor = c->squared ? peri_coarse_start(c->piece.dim) : 0;
    float most = PERI_COARSE_NORM_LEAST;
    for (size_t r = 0; r < c->job->kernels->rows; r++) {
        bool usable = norms[r] <= (float)PERI_COARSE_NORM_MAX;
        c->start[r] = usable ? (float)(-norms[r] * factor) : INFINITY;
        if (usable && norms[r] > most) most = norms[r];
    }
    c->longest = 1.01f * sqrtf(most);
}

static const char *widen(const coarse *c, size_t lane) {
    float *to = c->wide + lane * c->piece.dim;
    const void *row = (const char *)c->piece.rows + c->at[lane] * c->piece.stride;
    if (c->piece.dtype == PERI_I8)
        for (size_t j = 0; j < c->piece.dim; j++) to[j] = ((const int8_t *)row)[j];
    else
        for (size_t j = 0; j < c->piece.dim; j++) to[j] = ((const uint8_t *)row)[j];
    return (const char *)to;
}

/* Packs the entries named by c->at; lanes past the count repeat the last one. */
static void pack_panel(coarse *c) {
    const char *rows[PERI_BLOCK_ROWS_MAX];
    float norms[PERI_BLOCK_ROWS_MAX];
    for (size_t r = 0; r < c->job->kernels->rows; r++) {
        if (r >= c->count) {
            c->at[r] = c->at[c->count - 1];
            rows[r] = rows[c->count - 1];
        } else {
            rows[r] = c->whole ? widen(c, r)
                               : (const char *)c->piece.rows + c->at[r] * c->piece.stride;
        }
    }
    if (c->cosine) scale_entries(c);
    c->job->kernels->pack(c->whole ? PERI_F32 : c->piece.dtype, rows, c->piece.dim, c->centre,
                          c->cosine ? c->scale : NULL, c->values, norms);
    if (!c->cosine) start_entries(c, norms);
}

/* ---- one panel against all queries --------------------------------------------------------- */

/* Canonical values of a query's pending hits, offered; then its threshold. */
static void rescore(coarse *c, size_t i) {
    const asked *a = &c->asked[i];
    const uint32_t *pending = c->pending + i * PENDING_MAX;
    size_t count = c->pending_count[i];
    peri_list_keep *keep = peri_list_kept(&c->job->work, c->task->worker, a->query);
    float values[PENDING_MAX];
    peri_distances_slots(&c->piece, a->bytes, a->length, pending, count, values);
    for (size_t p = 0; p < count; p++) peri_list_keep_offer(keep, values[p], c->slots[pending[p]]);
    peri_list_share_bound(&c->job->work, a->query, keep);
    c->pending_count[i] = 0;
    set_least(c, i);
}

static void add_hits(coarse *c, size_t i, uint32_t mask) {
    uint32_t *pending = c->pending + i * PENDING_MAX, *count = &c->pending_count[i];
    for (; mask != 0; mask &= mask - 1) pending[(*count)++] = c->at[__builtin_ctz(mask)];
    if (*count >= PENDING_FLUSH) rescore(c, i);
}

static void multiply_panel(coarse *c) {
    const peri_block_kernels *kernels = c->job->kernels;
    uint32_t valid = c->count == 32 ? UINT32_MAX : (UINT32_C(1) << c->count) - 1;
    uint32_t masks[PERI_BLOCK_QUERIES_MAX];
    float lowered[PERI_BLOCK_QUERIES_MAX], scores[PERI_BLOCK_SCORES_MAX];
    bool inner = !c->squared && !c->cosine;
    for (size_t first = 0; first < c->task->count; first += kernels->queries) {
        const float *least = c->least + first;
        for (size_t i = 0; i < kernels->queries && inner; i++)
            lowered[i] = least[i] - c->asked[first + i].slack * c->longest;
        uint32_t hits = kernels->tile(c->values, c->start, c->tiles + first * c->piece.dim,
                                      c->piece.dim, inner ? lowered : least, masks, scores);
        for (; hits != 0; hits &= hits - 1) {
            size_t i = (size_t)__builtin_ctz(hits);
            if (first + i >= c->task->count) break;
            if ((masks[i] & valid) != 0) add_hits(c, first + i, masks[i] & valid);
        }
    }
}

static coarse open_task(const peri_list_job *job, const peri_list_task *task) {
    peri_metric metric = job->op->metric;
    coarse c = { .job = job,
                 .task = task,
                 .piece = job->distances,
                 .slots = job->op->lists.slots + task->at,
                 .squared = metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN,
                 .cosine = metric == PERI_COSINE,
                 .whole = is_whole(job->op->rows.dtype) };
    c.piece.rows = peri_view_row(&job->op->rows, task->at);
    if (c.piece.lengths != NULL) c.piece.lengths += task->at;
    lay_out(&c, job->worker_scratch + task->worker * job->worker_bytes, c.piece.dim,
            job->coarse_queries, c.whole);
    find_centre(&c);
    take_queries(&c);
    return c;
}

void peri_list_coarse_task(const peri_list_job *job, const peri_list_task *task) {
    coarse c = open_task(job, task);
    const uint64_t *bits = peri_list_filter(&job->work, c.asked[0].query);
    size_t passed = 0;
    for (size_t at = 0; (at = next_entries(&c, bits, at)), c.count > 0;) {
        passed += c.count;
        look_ahead(&c, at);
        pack_panel(&c);
        multiply_panel(&c);
    }
    for (size_t i = 0; i < task->count; i++) {
        if (c.pending_count[i] > 0) rescore(&c, i);
        peri_list_count(&job->work, task->worker, c.asked[i].query, passed);
    }
}
