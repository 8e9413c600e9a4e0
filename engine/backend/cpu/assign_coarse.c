/* assign_coarse.c: the coarse pass of assignment and its certificate.
 *
 * Each row keeps the two largest products (see assign_block.h). With the canonical distance T to
 * the centroid of the largest, the bound of knn_bound.c says what the product of any centroid at T
 * or nearer would at least be. If the second largest is below, no other centroid is as near: the
 * label is certified by one distance. Otherwise, near ties and equal centroids, the row is doubtful
 * and meets all centroids again, now with that threshold, and those that pass it get their
 * canonical distance. The answer is that of the reference whatever the data; only the number of
 * doubtful rows depends on them.
 *
 * The second time the chain of products begins with minus the threshold, and not with the
 * centroid's start, so the threshold is lowered by what rounding that may add. */
#include <string.h>

#include "backend/convert_element.h"
#include "backend/cpu/assign_plan.h"
#include "backend/cpu/coarse_bound.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"

#define CENTRE_SAMPLES 256u
#define CENTRE_MOST 1e18f
#define PENDING 32u

static bool is_squared(const peri_assign_job *job) {
    return job->op->metric == PERI_SQEUCLIDEAN || job->op->metric == PERI_EUCLIDEAN;
}

static void *take(char *base, size_t *used, size_t count, size_t size) {
    void *block = base == NULL ? NULL : base + *used;
    *used += peri_round_up(count * size, PERI_ALIGN);
    return block;
}

size_t peri_assign_coarse_lay_out(peri_assign_job *job, char *base) {
    size_t used = 0, dim = job->op->rows.cols;
    size_t padded = job->op->centroids.rows + PERI_BLOCK_QUERIES_MAX;
    size_t batch = peri_min_size(job->op->rows.rows, PERI_ASSIGN_BATCH) + PERI_BLOCK_ROWS_MAX;
    job->centre = take(base, &used, dim, sizeof *job->centre);
    job->tiles = take(base, &used, padded * dim, sizeof *job->tiles);
    job->starts = take(base, &used, padded, sizeof *job->starts);
    job->at.best = take(base, &used, batch, sizeof *job->at.best);
    job->at.second = take(base, &used, batch, sizeof *job->at.second);
    job->at.labels = take(base, &used, batch, sizeof *job->at.labels);
    job->norms = take(base, &used, batch, sizeof *job->norms);
    job->values = take(base, &used, batch, sizeof *job->values);
    job->doubtful = take(base, &used, batch, sizeof *job->doubtful);
    job->unsure = take(base, &used, batch, sizeof *job->unsure);
    return used;
}

/* Behind the wide rows: the panels of a block. */
size_t peri_assign_coarse_worker_bytes(const peri_assign_job *job) {
    return peri_round_up(job->block_rows * job->op->rows.cols * sizeof(float), PERI_ALIGN);
}

static float *wide_of(const peri_assign_job *job, size_t worker) {
    return (float *)(void *)(job->worker_scratch + worker * job->worker_bytes);
}

static float *panels_of(const peri_assign_job *job, size_t worker) {
    size_t bytes = job->worker_bytes - peri_assign_coarse_worker_bytes(job);
    return (float *)(void *)(job->worker_scratch + worker * job->worker_bytes + bytes);
}

/* ---- centroids ---------------------------------------------------------------------------- */

static void find_centre(peri_assign_job *job) {
    const peri_view *view = &job->op->centroids;
    size_t samples = peri_min_size(CENTRE_SAMPLES, view->rows);
    if (!is_squared(job)) {
        job->centre = NULL;
        return;
    }
    memset(job->centre, 0, view->cols * sizeof *job->centre);
    for (size_t s = 0; s < samples; s++) {
        const float *row = peri_view_row(view, s * (view->rows / samples));
        for (size_t j = 0; j < view->cols; j++) job->centre[j] += row[j] / (float)samples;
    }
    for (size_t j = 0; j < view->cols; j++)
        if (!(fabsf(job->centre[j]) < CENTRE_MOST)) job->centre[j] = 0;
}

/* Squared length of a centroid as it goes into a tile. */
static double squares_of(const peri_assign_job *job, const float *centroid) {
    double squares = 0;
    for (size_t j = 0; j < job->op->centroids.cols; j++) {
        float value = job->centre == NULL ? centroid[j] : centroid[j] - job->centre[j];
        squares += (double)value * value;
    }
    return squares;
}

void peri_assign_coarse_begin(peri_assign_job *job) {
    const peri_op_assign *op = job->op;
    double most = 0;
    find_centre(job);
    job->usable = true;
    for (size_t c = 0; c < op->centroids.rows; c++) {
        if (op->metric == PERI_COSINE) {
            float length = op->lengths[c];
            job->usable = job->usable && length >= (float)PERI_COARSE_LENGTH_LEAST &&
                          length <= (float)PERI_COARSE_LENGTH_MOST;
            continue;
        }
        double squares = squares_of(job, peri_view_row(&op->centroids, c));
        job->usable = job->usable && squares <= PERI_COARSE_NORM_MAX;
        if (squares > most) most = squares;
        if (is_squared(job))
            job->starts[c] = (float)(-squares * peri_coarse_start(job->centroids.dim));
    }
    job->longest = sqrt(most);
}

void peri_assign_coarse_tile(const peri_assign_job *job, size_t number) {
    const peri_op_assign *op = job->op;
    size_t wide = job->kernels->queries, dim = op->centroids.cols;
    float *tile = job->tiles + number * wide * dim;
    for (size_t i = 0; i < wide; i++) {
        size_t c = number * wide + i;
        if (c >= op->centroids.rows) { /* fills the last tile */
            for (size_t j = 0; j < dim; j++) tile[j * wide + i] = 0;
            job->starts[c] = -INFINITY;
            continue;
        }
        const float *centroid = peri_view_row(&op->centroids, c);
        float scale = op->metric == PERI_COSINE ? 1 / op->lengths[c] : 1;
        if (!is_squared(job)) job->starts[c] = 0;
        for (size_t j = 0; j < dim; j++)
            tile[j * wide + i] = job->centre != NULL ? centroid[j] - job->centre[j]
                                                     : scale * centroid[j];
    }
}

/* ---- a block of rows ---------------------------------------------------------------------- */

/* `count` rows of the operation into one panel; the lanes behind them repeat the last. */
static void pack(const peri_assign_job *job, const uint32_t *slots, size_t first, size_t count,
                 size_t worker, float *panel, float *norms) {
    const peri_view *rows = &job->op->rows;
    const char *at[PERI_BLOCK_ROWS_MAX];
    bool whole = rows->dtype == PERI_I8 || rows->dtype == PERI_U8;
    float *wide = wide_of(job, worker);
    for (size_t r = 0; r < job->kernels->rows; r++) {
        size_t k = peri_min_size(r, count - 1);
        at[r] = peri_view_row(rows, slots == NULL ? first + k : job->first + slots[k]);
        if (!whole) continue;
        for (size_t j = 0; j < rows->cols && r < count; j++)
            wide[r * rows->cols + j] = peri_element_load(rows->dtype, at[r], j);
        at[r] = (const char *)(wide + k * rows->cols);
    }
    job->kernels->pack(whole ? PERI_F32 : rows->dtype, at, (uint32_t)rows->cols, job->centre, NULL,
                       panel, norms);
}

/* What a product must not be below for its centroid to be at `value` or nearer; -inf out of the
 * range of the bound. */
static float least_of(const peri_assign_job *job, float norm, float length, float value) {
    peri_metric metric = job->op->metric;
    uint32_t dim = job->centroids.dim;
    if (!job->usable || !isfinite(value)) return -INFINITY;
    if (metric == PERI_COSINE) {
        bool inside = length >= (float)PERI_COARSE_LENGTH_LEAST &&
                      length <= (float)PERI_COARSE_LENGTH_MOST;
        return inside ? peri_coarse_least(metric, dim, (double)length, value) : -INFINITY;
    }
    if (!(norm <= (float)PERI_COARSE_NORM_MAX)) return -INFINITY;
    float least = peri_coarse_least(metric, dim, (double)norm, value);
    if (metric != PERI_INNER_PRODUCT) return least;
    double row = 1.01 * sqrt((double)fmaxf(norm, PERI_COARSE_NORM_LEAST));
    return peri_coarse_float_below((double)least - peri_coarse_slack(dim) * row * job->longest);
}

/* The distance to the centroid of the largest product; whether it is certified. */
static void certify(const peri_assign_job *job, size_t row, size_t worker) {
    const float *query = peri_assign_wide(job, job->first + row, worker);
    float length = peri_distances_query_length(&job->centroids, query), value;
    peri_distances_slots(&job->centroids, query, length, &job->at.labels[row], 1, &value);
    float least = least_of(job, job->norms[row], length, value);
    job->values[row] = value;
    job->unsure[row] = !(job->at.second[row] < least);
    if (!job->unsure[row]) peri_assign_answer(job, job->first + row, job->at.labels[row], value);
}

static void begin_rows(const peri_assign_job *job, size_t row, size_t count) {
    for (size_t r = row; r < row + count; r++) {
        job->at.best[r] = job->at.second[r] = -INFINITY;
        job->at.labels[r] = 0;
    }
}

void peri_assign_coarse_block(const peri_assign_job *job, size_t row, size_t stop, size_t first,
                              size_t last, size_t worker) {
    size_t lanes = job->kernels->rows, wide = job->kernels->queries, dim = job->op->rows.cols;
    size_t panels = peri_ceil_div(stop - row, lanes);
    float *panel = panels_of(job, worker);
    for (size_t p = 0; p < panels; p++) {
        size_t at = row + p * lanes, count = peri_min_size(lanes, stop - at);
        float norms[PERI_BLOCK_ROWS_MAX];
        pack(job, NULL, job->first + at, count, worker, panel + p * lanes * dim, norms);
        memcpy(job->norms + at, norms, count * sizeof *norms);
    }
    /* blocks are whole panels but for the last of the batch, which has spare lanes behind it */
    if (first == 0) begin_rows(job, row, panels * lanes);
    for (size_t t = first; t < last; t++) {
        for (size_t p = 0; p < panels; p++) {
            size_t at = row + p * lanes;
            peri_assign_best best = { job->at.best + at, job->at.second + at, job->at.labels + at };
            job->tile(panel + p * lanes * dim, job->tiles + t * wide * dim, job->starts + t * wide,
                      (uint32_t)dim, (uint32_t)(t * wide), &best);
        }
    }
    if (last < job->tile_count) return;
    for (size_t r = row; r < stop; r++) certify(job, r, worker);
}

/* ---- doubtful rows ------------------------------------------------------------------------ */

/* The nearest of a row so far, and the centroids that wait for their distance. */
typedef struct doubt {
    const float *query;
    float length, value;
    uint32_t label, waiting;
    uint32_t slots[PENDING];
} doubt;

static void settle(const peri_assign_job *job, doubt *d) {
    float values[PENDING];
    peri_distances_slots(&job->centroids, d->query, d->length, d->slots, d->waiting, values);
    for (uint32_t i = 0; i < d->waiting; i++) {
        bool nearer = values[i] < d->value || (values[i] == d->value && d->slots[i] < d->label);
        if (!nearer) continue;
        d->value = values[i];
        d->label = d->slots[i];
    }
    d->waiting = 0;
}

/* The rows' wide forms stay in the worker's scratch, one behind the other, until all are done. */
static void begin_doubts(const peri_assign_job *job, const uint32_t *rows, size_t count,
                         size_t worker, const float *norms, doubt *doubts, float *minus) {
    size_t dim = job->op->rows.cols;
    uint32_t d32 = (uint32_t)dim;
    float *wide = wide_of(job, worker);
    for (size_t r = 0; r < count; r++) {
        const void *row = peri_view_row(&job->op->rows, job->first + rows[r]);
        const float *query = row;
        if (job->op->rows.dtype != PERI_F32) {
            for (size_t j = 0; j < dim; j++)
                wide[r * dim + j] = peri_element_load(job->op->rows.dtype, row, j);
            query = wide + r * dim;
        }
        float length = peri_distances_query_length(&job->centroids, query);
        doubts[r] = (doubt){ .query = query,
                             .length = length,
                             .value = job->values[rows[r]],
                             .label = job->at.labels[rows[r]] };
        double least = (double)least_of(job, norms[r], length, doubts[r].value);
        double rounding = 2 * ((double)d32 + 8) * PERI_COARSE_U * fabs(least);
        minus[r] = isinf(least) ? INFINITY : -peri_coarse_float_below(least - rounding);
    }
    for (size_t r = count; r < job->kernels->rows; r++) minus[r] = -INFINITY;
}

void peri_assign_coarse_resolve(const peri_assign_job *job, size_t first, size_t stop,
                                size_t worker) {
    const uint32_t *rows = job->doubtful + first;
    size_t wide = job->kernels->queries, dim = job->op->rows.cols, count = stop - first;
    float *panel = panels_of(job, worker), norms[PERI_BLOCK_ROWS_MAX], minus[PERI_BLOCK_ROWS_MAX];
    float least[PERI_BLOCK_QUERIES_MAX];
    float scores[PERI_BLOCK_SCORES_MAX];
    uint32_t masks[PERI_BLOCK_QUERIES_MAX], valid;
    doubt doubts[PERI_BLOCK_ROWS_MAX];
    pack(job, rows, 0, count, worker, panel, norms);
    begin_doubts(job, rows, count, worker, norms, doubts, minus);
    valid = count == 32 ? UINT32_MAX : (UINT32_C(1) << count) - 1;
    for (size_t t = 0; t < job->tile_count; t++) {
        size_t left = peri_min_size(wide, job->op->centroids.rows - t * wide);
        for (size_t i = 0; i < wide; i++) least[i] = -job->starts[t * wide + i];
        uint32_t hits = job->kernels->tile(panel, minus, job->tiles + t * wide * dim, (uint32_t)dim,
                                           least, masks, scores);
        for (; hits != 0; hits &= hits - 1) {
            size_t i = (size_t)__builtin_ctz(hits);
            if (i >= left) break;
            for (uint32_t mask = masks[i] & valid; mask != 0; mask &= mask - 1) {
                doubt *d = &doubts[__builtin_ctz(mask)];
                d->slots[d->waiting++] = (uint32_t)(t * wide + i);
                if (d->waiting == PENDING) settle(job, d);
            }
        }
    }
    for (size_t r = 0; r < count; r++) {
        settle(job, &doubts[r]);
        peri_assign_answer(job, job->first + rows[r], doubts[r].label, doubts[r].value);
    }
}
