/* walk_codes.c: making, checking and handing out the codes of a walk. See walk_codes.h.
 *
 * One-bit codes lie beside the links too: measured, a walk by them takes three quarters of the time
 * then, one by 4 bits half as much again (40 000 and 1 000 000 rows of 128 elements, 60 000 of
 * 768): the codes of all links of a row are more bytes than those of the links that are new.
 *
 * The range of a column is that of a sample of the rows without its thousandth part at either end:
 * one far value must not make all others alike. Under squared L2 all columns have the widest
 * one's step, so that differences of codes are differences of values; under a product each column
 * has its own, and the query's weights carry it.
 *
 * Automatic codes are refused where 8 bits are too coarse: for bunches of rows much closer to each
 * other than the bunches lie apart. The measure is the distance from a row to the rows that its
 * links name (the median: a few links lead far away) beside the error of the codes. */
#include "index/walk_codes.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/append.h"
#include "core/checked.h"
#include "core/code.h"
#include "core/distance.h"
#include "core/half.h"
#include "core/memory.h"
#include "core/random.h"
#include "core/threads.h"
#include "core/turns.h"
#include "quant/rabitq.h"

#define SAMPLE 16384u /* rows that the ranges are taken from */
#define TRIMMED 1000u /* one of so many values is dropped at each end */
#define TAIL_MAX (SAMPLE / TRIMMED + 1)
#define PROBES 256u        /* rows that the error is measured on, */
#define PROBE_LINKS 32u    /* and links of each, at most */
#define ERROR_SHARE 0.0125 /* of the distance to the linked rows, an element's error at most */
#define BYTES_LEAST (1u << 20)
#define ROW_BYTES_LEAST 128u
#define BLOCK 256u /* rows a task */
#define SIGNS_SEED UINT64_C(0x7065726967656531)
#define FRAME_ROWS (1 + PERI_TURNS_ROUNDS)

/* Bits a number of packed codes; 0 = the choice is none of them. */
static uint32_t bits_of(int64_t choice) {
    switch (choice) {
    case PERI_WALK_CODES_RABITQ1: return 1;
    case PERI_WALK_CODES_RABITQ2: return 2;
    case PERI_WALK_CODES_RABITQ4: return 4;
    default: return 0;
    }
}

/* Rows on the host as the codes see them: f32, of length 1 under cosine. */
typedef struct source {
    peri_matrix *rows_held, *lengths_held;
    peri_view rows;
    const float *lengths; /* NULL unless cosine */
} source;

static void source_close(source *s) {
    peri_matrix_release(s->rows_held);
    peri_matrix_release(s->lengths_held);
}

/* `lengths` may be NULL unless the metric is cosine. */
static peri_status source_open(peri_metric metric, peri_matrix *rows, peri_matrix *lengths,
                               source *s) {
    peri_status status;
    *s = (source){ .lengths = NULL };
    PERI_GO(peri_matrix_move(rows, PERI_CPU, &s->rows_held));
    s->rows = peri_matrix_view(s->rows_held);
    if (metric == PERI_COSINE) {
        PERI_GO(peri_matrix_move(lengths, PERI_CPU, &s->lengths_held));
        s->lengths = peri_matrix_view(s->lengths_held).data;
    }
done:
    if (status != PERI_OK) source_close(s);
    return status;
}

static float element(peri_dtype dtype, const void *row, size_t j) {
    switch (dtype) {
    case PERI_F16: return peri_half_to_float(((const uint16_t *)row)[j]);
    case PERI_I8: return ((const int8_t *)row)[j];
    case PERI_U8: return ((const uint8_t *)row)[j];
    default: return ((const float *)row)[j];
    }
}

static void read_row(const source *s, size_t r, float *out) {
    const void *row = peri_view_row(&s->rows, r);
    for (size_t j = 0; j < s->rows.cols; j++) {
        float x = element(s->rows.dtype, row, j);
        out[j] = s->lengths == NULL ? x : x / s->lengths[r];
    }
}

/* ---- the scale ----------------------------------------------------------------------------- */

/* The lowest values of a column, ascending. */
typedef struct tail {
    float values[TAIL_MAX];
} tail;

static inline void tail_offer(tail *t, size_t count, float value) {
    if (!(value < t->values[count - 1])) return;
    size_t at = count - 1;
    for (; at > 0 && t->values[at - 1] > value; at--) t->values[at] = t->values[at - 1];
    t->values[at] = value;
}

/* Tails of every column, of the values and of the negated values. */
static void fill_tails(const source *s, tail *low, tail *high, size_t count, float *row) {
    size_t n = s->rows.rows, dim = s->rows.cols, sample = peri_min_size(n, SAMPLE);
    for (size_t j = 0; j < dim; j++)
        for (size_t i = 0; i < TAIL_MAX; i++) low[j].values[i] = high[j].values[i] = INFINITY;
    for (size_t i = 0; i < sample; i++) {
        read_row(s, (size_t)((double)i * (double)n / (double)sample), row);
        for (size_t j = 0; j < dim; j++) {
            tail_offer(&low[j], count, row[j]);
            tail_offer(&high[j], count, -row[j]);
        }
    }
}

/* low and step; where the middle values are all one, the ends make the range. */
static void fill_ranges(const tail *low, const tail *high, size_t count, size_t dim,
                        const peri_view *scale) {
    float *lows = peri_view_row(scale, 0), *steps = peri_view_row(scale, 1);
    for (size_t j = 0; j < dim; j++) {
        size_t at = low[j].values[count - 1] < -high[j].values[count - 1] ? count - 1 : 0;
        lows[j] = low[j].values[at];
        steps[j] = (-high[j].values[at] - lows[j]) / 255.0f;
    }
}

static void fill_steps(peri_metric metric, size_t dim, const peri_view *scale) {
    float *steps = peri_view_row(scale, 1), *scales = peri_view_row(scale, 2), widest = 0;
    for (size_t j = 0; j < dim; j++) widest = steps[j] > widest ? steps[j] : widest;
    for (size_t j = 0; j < dim; j++) {
        float step = peri_code_squared(metric) ? widest : steps[j];
        bool plain = step >= FLT_MIN && step <= FLT_MAX / 255 && 1.0f / step >= FLT_MIN;
        steps[j] = plain ? step : 0;
        scales[j] = plain ? 1.0f / step : 0;
    }
}

static peri_status train(peri_context *context, peri_metric metric, const source *s,
                         const peri_view *scale) {
    size_t dim = s->rows.cols, sample = peri_min_size(s->rows.rows, SAMPLE);
    size_t count = sample / TRIMMED + 1;
    tail *tails = NULL;
    float *row = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire(context, 2 * dim, sizeof *tails, &tails));
    PERI_GO(peri_memory_acquire(context, dim, sizeof *row, &row));
    fill_tails(s, tails, tails + dim, count, row);
    fill_ranges(tails, tails + dim, count, dim, scale);
    fill_steps(metric, dim, scale);
done:
    peri_memory_release(context, tails, 2 * dim, sizeof *tails);
    peri_memory_release(context, row, dim, sizeof *row);
    return status;
}

static peri_codes_view view_of(peri_matrix *codes, peri_matrix *scale) {
    peri_view rows = peri_matrix_view(scale);
    return (peri_codes_view){ .rows = peri_matrix_view(codes),
                              .low = peri_view_row(&rows, 0),
                              .step = peri_view_row(&rows, 1),
                              .scale = peri_view_row(&rows, 2) };
}

static peri_codes_view packed_view_of(peri_matrix *codes, peri_matrix *frame, uint32_t bits) {
    peri_view rows = peri_matrix_view(frame);
    return (peri_codes_view){ .rows = peri_matrix_view(codes),
                              .bits = bits,
                              .dim = (uint32_t)rows.cols,
                              .center = peri_view_row(&rows, 0),
                              .signs = peri_view_row(&rows, 1) };
}

/* The mean of a sample, turned; the signs are there. */
static peri_status find_center(peri_context *context, const source *s, const peri_view *frame) {
    size_t n = s->rows.rows, dim = s->rows.cols, sample = peri_min_size(n, SAMPLE);
    double *sums = NULL;
    float *row = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire_zeroed(context, dim, sizeof *sums, &sums));
    PERI_GO(peri_memory_acquire(context, dim, sizeof *row, &row));
    for (size_t i = 0; i < sample; i++) {
        read_row(s, (size_t)((double)i * (double)n / (double)sample), row);
        for (size_t j = 0; j < dim; j++) sums[j] += (double)row[j] / (double)sample;
    }
    for (size_t j = 0; j < dim; j++) row[j] = (float)sums[j];
    peri_turns turns = peri_turns_of((uint32_t)dim, (uint32_t)frame->cols, peri_view_row(frame, 1));
    peri_turns_apply(&turns, row, peri_view_row(frame, 0));
done:
    peri_memory_release(context, row, dim, sizeof *row);
    peri_memory_release(context, sums, dim, sizeof *sums);
    return status;
}

/* "code_frame" on the host. */
static peri_status train_packed(peri_context *context, const source *s, peri_matrix **out) {
    size_t cols = peri_rabitq_padded_dim((uint32_t)s->rows.cols);
    PERI_TRY(peri_matrix_create(context, FRAME_ROWS, cols, PERI_F32, PERI_CPU, out));
    peri_view frame = peri_matrix_view(*out);
    for (size_t r = 0; r < PERI_TURNS_ROUNDS; r++) {
        float *signs = peri_view_row(&frame, 1 + r);
        for (size_t j = 0; j < cols; j++)
            signs[j] = peri_random_mix(SIGNS_SEED, r * cols + j) >> 63 ? 1.0f : -1.0f;
    }
    return find_center(context, s, &frame);
}

/* ---- encoding ------------------------------------------------------------------------------ */

typedef struct encoding {
    const source *from;
    peri_codes_view codes;
    float *spare; /* [threads, room] */
    size_t room;  /* a row, and for packed codes it turned and what RaBitQ takes */
} encoding;

static size_t spare_room(const source *s, const peri_codes_view *codes) {
    size_t dim = s->rows.cols, padded = codes->dim;
    return codes->bits == 0 ? dim : dim + padded + padded + peri_ceil_div(padded, sizeof(float));
}

static void encode_row(const encoding *e, const float *row, size_t r, float *spare) {
    const peri_codes_view *codes = &e->codes;
    size_t dim = e->from->rows.cols;
    uint8_t *out = peri_view_row(&codes->rows, r);
    if (codes->bits == 0) {
        peri_code_row(codes, row, dim, out);
        return;
    }
    peri_turns turns = peri_turns_of((uint32_t)dim, codes->dim, codes->signs);
    peri_rabitq rabitq = { .dim = (uint32_t)dim, .padded_dim = codes->dim, .bits = codes->bits };
    peri_turns_apply(&turns, row, spare);
    for (size_t j = 0; j < codes->dim; j++) spare[j] -= codes->center[j];
    peri_rabitq_encode(&rabitq, spare, NULL, out, NULL, spare + codes->dim);
}

static peri_status encode_block(void *ud, size_t task, size_t worker) {
    const encoding *e = ud;
    size_t dim = e->from->rows.cols, stop = peri_min_size(e->from->rows.rows, (task + 1) * BLOCK);
    float *row = e->spare + worker * e->room;
    for (size_t r = task * BLOCK; r < stop; r++) {
        read_row(e->from, r, row);
        encode_row(e, row, r, row + dim);
    }
    return PERI_OK;
}

/* Codes of all rows of the source, on the host; `scale` is the frame of packed codes. */
static peri_status encode(peri_context *context, const source *s, uint32_t bits, peri_matrix *scale,
                          size_t threads, const peri_control *control, peri_matrix **out) {
    size_t cols = bits == 0 ? peri_round_up(s->rows.cols, PERI_CODE_COLS)
                            : peri_packed_row_bytes(peri_matrix_view(scale).cols, bits);
    size_t workers = peri_threads(context, threads);
    encoding e = { .from = s };
    peri_matrix *codes = NULL;
    peri_status status;
    PERI_GO(peri_matrix_create(context, s->rows.rows, cols, PERI_U8, PERI_CPU, &codes));
    e.codes = bits == 0 ? view_of(codes, scale) : packed_view_of(codes, scale, bits);
    e.room = spare_room(s, &e.codes);
    PERI_GO(peri_memory_acquire(context, workers * e.room, sizeof *e.spare, &e.spare));
    peri_loop loop = { "codes", threads, control };
    PERI_GO(peri_parallel(context, &loop, peri_ceil_div(s->rows.rows, BLOCK), encode_block, &e));
    *out = codes;
    codes = NULL;
done:
    peri_memory_release(context, e.spare, workers * e.room, sizeof *e.spare);
    peri_matrix_release(codes);
    return status;
}

/* ---- beside the links ---------------------------------------------------------------------- */

typedef struct linking {
    peri_view graph, codes, blocks;
    uint32_t bits;
    size_t dim;
} linking;

static peri_status link_block(void *ud, size_t task, size_t worker) {
    const linking *l = ud;
    size_t stop = peri_min_size(l->graph.rows, (task + 1) * BLOCK);
    (void)worker;
    for (size_t r = task * BLOCK; r < stop; r++) {
        const uint32_t *links = peri_view_row(&l->graph, r);
        uint8_t *block = peri_view_row(&l->blocks, r);
        memset(block, 0, l->blocks.cols);
        for (size_t i = 0; i < l->graph.cols && links[i] != PERI_SLOT_NONE; i++)
            peri_packed_put_link(l->dim, l->bits, peri_view_row(&l->codes, links[i]), i, block);
    }
    return PERI_OK;
}

/* Moves a matrix to the index's place and puts it there. */
static peri_status put_moved(peri_index *index, const char *name, peri_matrix *matrix) {
    peri_matrix *here;
    PERI_TRY(peri_matrix_move(matrix, index->device->place, &here));
    return peri_index_replace(index, name, here);
}

static peri_status link_codes(peri_index *index, uint32_t bits, size_t threads,
                              const peri_control *control) {
    peri_matrix *graph = NULL, *codes = NULL, *blocks = NULL;
    linking l = { .bits = bits, .dim = peri_rabitq_padded_dim(index->dim) };
    peri_status status;
    PERI_GO(peri_matrix_move(peri_index_section(index, "graph"), PERI_CPU, &graph));
    PERI_GO(peri_matrix_move(peri_index_section(index, "codes"), PERI_CPU, &codes));
    l.graph = peri_matrix_view(graph);
    l.codes = peri_matrix_view(codes);
    size_t block = peri_packed_block(l.dim, bits, l.graph.cols);
    PERI_GO(peri_matrix_create(index->context, index->rows, block, PERI_U8, PERI_CPU, &blocks));
    l.blocks = peri_matrix_view(blocks);
    peri_loop loop = { "codes", threads, control };
    PERI_GO(
        peri_parallel(index->context, &loop, peri_ceil_div(index->rows, BLOCK), link_block, &l));
    PERI_GO(put_moved(index, "code_links", blocks));
done:
    peri_matrix_release(blocks);
    peri_matrix_release(codes);
    peri_matrix_release(graph);
    return status;
}

static bool used_at(const peri_device *device) { return device->place.kind != PERI_PLACE_CUDA; }

peri_status peri_walk_codes_link(peri_index *index, int64_t choice, size_t threads,
                                 const peri_control *control) {
    peri_index_drop(index, "code_links");
    if (choice != PERI_WALK_CODES_RABITQ1 || !used_at(index->device)) return PERI_OK;
    return link_codes(index, bits_of(choice), threads, control);
}

bool peri_walk_codes_derived(const char *section) { return strcmp(section, "code_links") == 0; }

/* ---- whether codes tell near rows apart ---------------------------------------------------- */

typedef struct spread {
    double error;    /* mean squared error of a row's codes */
    double length;   /* mean squared length of a row */
    double distance; /* median squared distance of a row to those its links name */
} spread;

static double squared_error(const peri_codes_view *codes, const float *row, size_t r, size_t dim) {
    const uint8_t *code = peri_view_row(&codes->rows, r);
    double sum = 0;
    for (size_t j = 0; j < dim; j++) {
        double t = (double)codes->low[j] + (double)codes->step[j] * code[j] - (double)row[j];
        sum += t * t;
    }
    return sum;
}

static double squared_distance(const float *a, const float *b, size_t dim) {
    double sum = 0;
    for (size_t j = 0; j < dim; j++) {
        double t = (double)a[j] - (double)b[j];
        sum += t * t;
    }
    return sum;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* `spare` has room for two rows and one of zeros, `distances` for PROBES * PROBE_LINKS. */
static spread measure(const source *s, const peri_codes_view *codes, const peri_view *graph,
                      float *spare, double *distances) {
    size_t dim = s->rows.cols, n = s->rows.rows, probes = peri_min_size(n, PROBES), count = 0;
    float *row = spare, *other = spare + dim, *zeros = spare + 2 * dim;
    spread sum = { 0, 0, NAN };
    memset(zeros, 0, dim * sizeof *zeros);
    for (size_t i = 0; i < probes; i++) {
        size_t r = (size_t)((double)i * (double)n / (double)probes);
        size_t degree = peri_min_size(graph->cols, PROBE_LINKS);
        const uint32_t *links = peri_view_row(graph, r);
        read_row(s, r, row);
        sum.error += squared_error(codes, row, r, dim) / (double)probes;
        sum.length += squared_distance(row, zeros, dim) / (double)probes;
        for (size_t l = 0; l < degree && links[l] != PERI_SLOT_NONE; l++) {
            read_row(s, links[l], other);
            distances[count++] = squared_distance(row, other, dim);
        }
    }
    qsort(distances, count, sizeof *distances, ascending);
    if (count > 0) sum.distance = distances[count / 2];
    return sum;
}

/* The error of a squared distance D^2 is about 2 D e / sqrt(d), e the error of a row; that of a
 * product, which differs by about D^2 / 2 among near rows, |q| e / sqrt(d). */
static bool fine_enough(peri_metric metric, size_t dim, const spread *s) {
    double error = sqrt(s->error / (double)dim);
    if (!isfinite(s->distance) || !isfinite(error)) return false;
    if (peri_code_squared(metric)) return error <= ERROR_SHARE * sqrt(s->distance);
    return error * sqrt(s->length) <= ERROR_SHARE * s->distance;
}

static peri_status check_fineness(const peri_index *index, const source *s, peri_matrix *codes,
                                  peri_matrix *scale, bool *fine) {
    size_t dim = s->rows.cols, probes = (size_t)PROBES * PROBE_LINKS;
    peri_matrix *graph = NULL;
    float *spare = NULL;
    double *distances = NULL;
    peri_status status;
    PERI_GO(peri_matrix_move(peri_index_section(index, "graph"), PERI_CPU, &graph));
    PERI_GO(peri_memory_acquire(index->context, 3 * dim, sizeof *spare, &spare));
    PERI_GO(peri_memory_acquire(index->context, probes, sizeof *distances, &distances));
    peri_codes_view view = view_of(codes, scale);
    peri_view links = peri_matrix_view(graph);
    spread found = measure(s, &view, &links, spare, distances);
    *fine = fine_enough(index->metric, dim, &found);
done:
    peri_memory_release(index->context, distances, probes, sizeof *distances);
    peri_memory_release(index->context, spare, 3 * dim, sizeof *spare);
    peri_matrix_release(graph);
    return status;
}

/* ---- making -------------------------------------------------------------------------------- */

static peri_walk_codes choose(const peri_index *index) {
    size_t row_bytes = index->dim * peri_dtype_bytes(index->dtype);
    bool floats = index->dtype == PERI_F32 || index->dtype == PERI_F16;
    bool large = row_bytes >= ROW_BYTES_LEAST && index->rows >= BYTES_LEAST / row_bytes;
    if (!peri_metric_by_products(index->metric)) return PERI_WALK_CODES_NONE;
    return floats && large && used_at(index->device) ? PERI_WALK_CODES_AUTO : PERI_WALK_CODES_NONE;
}

static peri_status make_sq8(peri_index *index, int64_t *choice, size_t threads,
                            const peri_control *control) {
    source s;
    peri_matrix *scale = NULL, *codes = NULL;
    bool fine = true;
    PERI_TRY(source_open(index->metric, peri_index_section(index, "rows"),
                         peri_index_section(index, "lengths"), &s));
    peri_status status;
    PERI_GO(peri_matrix_create(index->context, 3, index->dim, PERI_F32, PERI_CPU, &scale));
    peri_view view = peri_matrix_view(scale);
    PERI_GO(train(index->context, index->metric, &s, &view));
    PERI_GO(encode(index->context, &s, 0, scale, threads, control, &codes));
    if (*choice == PERI_WALK_CODES_AUTO) PERI_GO(check_fineness(index, &s, codes, scale, &fine));
    *choice = fine ? PERI_WALK_CODES_SQ8 : PERI_WALK_CODES_NONE;
    if (!fine) goto done;
    PERI_GO(put_moved(index, "codes", codes));
    PERI_GO(put_moved(index, "code_scale", scale));
done:
    peri_matrix_release(codes);
    peri_matrix_release(scale);
    source_close(&s);
    return status;
}

static peri_status make_packed(peri_index *index, int64_t choice, size_t threads,
                               const peri_control *control) {
    source s;
    peri_matrix *frame = NULL, *codes = NULL;
    PERI_TRY(source_open(index->metric, peri_index_section(index, "rows"),
                         peri_index_section(index, "lengths"), &s));
    peri_status status;
    PERI_GO(train_packed(index->context, &s, &frame));
    PERI_GO(encode(index->context, &s, bits_of(choice), frame, threads, control, &codes));
    PERI_GO(put_moved(index, "codes", codes));
    PERI_GO(put_moved(index, "code_frame", frame));
    PERI_GO(peri_walk_codes_link(index, choice, threads, control));
done:
    peri_matrix_release(codes);
    peri_matrix_release(frame);
    source_close(&s);
    return status;
}

static const char *choice_name(int64_t choice) {
    static const char *const names[] = { "auto", "none", "sq8", "rabitq1", "rabitq2", "rabitq4" };
    return names[choice];
}

peri_status peri_walk_codes_make(peri_index *index, int64_t *choice, size_t threads,
                                 const peri_control *control) {
    if (*choice == PERI_WALK_CODES_AUTO) *choice = choose(index);
    if (*choice == PERI_WALK_CODES_NONE) return PERI_OK;
    if (!peri_metric_by_products(index->metric))
        return peri_fail(PERI_E_ARGUMENT, "option 'codes': '%s' given, allowed under %s: none auto",
                         choice_name(*choice), peri_metric_name(index->metric));
    if (bits_of(*choice) != 0) return make_packed(index, *choice, threads, control);
    if (index->dtype != PERI_F32 && index->dtype != PERI_F16)
        return peri_fail(PERI_E_ARGUMENT,
                         "option 'codes': 'sq8' given, allowed for rows of %s: none auto rabitq1 "
                         "rabitq2 rabitq4",
                         peri_dtype_name(index->dtype));
    return make_sq8(index, choice, threads, control);
}

peri_status peri_walk_codes_share(peri_index *index, const peri_index *from, int64_t choice) {
    if (choice == PERI_WALK_CODES_NONE) return PERI_OK;
    PERI_TRY(peri_index_share(index, from, "codes"));
    PERI_TRY(peri_index_share(index, from, "code_scale"));
    PERI_TRY(peri_index_share(index, from, "code_frame"));
    if (peri_index_section(index, "graph") == peri_index_section(from, "graph"))
        return peri_index_share(index, from, "code_links");
    return peri_walk_codes_link(index, choice, 0, NULL);
}

peri_status peri_walk_codes_extend(const peri_index *old, peri_index *next,
                                   const peri_growth *growth, int64_t choice) {
    const char *scale_name = bits_of(choice) == 0 ? "code_scale" : "code_frame";
    if (choice == PERI_WALK_CODES_NONE) return PERI_OK;
    peri_view rows = peri_matrix_view(growth->rows);
    peri_matrix *lengths = NULL, *scale = NULL, *codes = NULL, *longer = NULL;
    source s = { .lengths = NULL };
    peri_status status;
    if (next->metric == PERI_COSINE)
        PERI_GO(peri_matrix_slice(peri_index_section(next, "lengths"), growth->first,
                                  growth->first + rows.rows, &lengths));
    PERI_GO(source_open(next->metric, growth->rows, lengths, &s));
    PERI_GO(peri_matrix_move(peri_index_section(old, scale_name), PERI_CPU, &scale));
    PERI_GO(encode(next->context, &s, bits_of(choice), scale, growth->threads, growth->control,
                   &codes));
    PERI_GO(peri_matrix_append(peri_index_section(old, "codes"), codes, &longer));
    PERI_GO(peri_index_add(next, "codes", longer));
    PERI_GO(peri_index_share(next, old, scale_name));
done:
    peri_matrix_release(codes);
    peri_matrix_release(scale);
    source_close(&s);
    peri_matrix_release(lengths);
    return status;
}

/* ---- opening and searching ----------------------------------------------------------------- */

static peri_status check_shape(const peri_index *index, const char *name, peri_dtype dtype,
                               size_t rows, size_t cols) {
    peri_matrix *section = peri_index_section(index, name);
    if (section == NULL) return peri_fail(PERI_E_CORRUPT, "section '%s' is missing", name);
    peri_view view = peri_matrix_view(section);
    if (view.dtype == dtype && view.rows == rows && view.cols == cols) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "section '%s' is %zu x %zu %s, expected %zu x %zu %s", name,
                     view.rows, view.cols, peri_dtype_name(view.dtype), rows, cols,
                     peri_dtype_name(dtype));
}

/* Finite numbers; from row `from` on none below `least`. */
static peri_status check_numbers(const peri_index *index, const char *name, size_t from,
                                 float least) {
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(peri_index_section(index, name), PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    peri_status status = PERI_OK;
    for (size_t r = 0; r < view.rows && status == PERI_OK; r++) {
        const float *values = peri_view_row(&view, r);
        for (size_t j = 0; j < view.cols && status == PERI_OK; j++)
            if (!isfinite(values[j]) || (r >= from && values[j] < least))
                status = peri_fail(PERI_E_CORRUPT, "section '%s' has %g in row %zu", name,
                                   (double)values[j], r);
    }
    peri_matrix_release(host);
    return status;
}

static peri_status adopt_sq8(const peri_index *index) {
    if (index->dtype != PERI_F32 && index->dtype != PERI_F16)
        return peri_fail(PERI_E_CORRUPT, "codes of %s rows", peri_dtype_name(index->dtype));
    size_t cols = peri_round_up(index->dim, PERI_CODE_COLS);
    PERI_TRY(check_shape(index, "codes", PERI_U8, index->rows, cols));
    PERI_TRY(check_shape(index, "code_scale", PERI_F32, 3, index->dim));
    return check_numbers(index, "code_scale", 1, 0);
}

static peri_status adopt_packed(peri_index *index, int64_t choice) {
    size_t dim = peri_rabitq_padded_dim(index->dim);
    PERI_TRY(check_shape(index, "codes", PERI_U8, index->rows,
                         peri_packed_row_bytes(dim, bits_of(choice))));
    PERI_TRY(check_shape(index, "code_frame", PERI_F32, FRAME_ROWS, dim));
    PERI_TRY(check_numbers(index, "code_frame", 1, -1));
    return peri_walk_codes_link(index, choice, 0, NULL);
}

peri_status peri_walk_codes_adopt(peri_index *index, int64_t *choice) {
    bool known = *choice >= PERI_WALK_CODES_SQ8 && *choice <= PERI_WALK_CODES_MAX;
    if (!known) *choice = PERI_WALK_CODES_NONE; /* a file older than codes */
    if (*choice == PERI_WALK_CODES_NONE) return PERI_OK;
    if (!peri_metric_by_products(index->metric))
        return peri_fail(PERI_E_CORRUPT, "codes under %s", peri_metric_name(index->metric));
    return bits_of(*choice) == 0 ? adopt_sq8(index) : adopt_packed(index, *choice);
}

/* Rows that a walk of `list` keeps more, so that it finds about what one by the rows does: near
 * ties that the codes confuse. Measured on rows of 96 and 128 elements; of longer ones fewer would
 * do. */
static size_t slack_of(uint32_t bits, size_t list) {
    switch (bits) {
    case 1: return 8 + 3 * list;
    case 2: return 4 + list / 2;
    case 4: return 4;
    default: return 2;
    }
}

void peri_walk_codes_fill(const peri_index *index, int64_t rerank, peri_op_graph_search *op) {
    peri_matrix *codes = peri_index_section(index, "codes");
    peri_matrix *frame = peri_index_section(index, "code_frame");
    peri_matrix *linked = peri_index_section(index, "code_links");
    if (codes == NULL || !used_at(index->device)) return;
    if (frame == NULL) {
        op->codes = view_of(codes, peri_index_section(index, "code_scale"));
    } else {
        size_t dim = peri_matrix_view(frame).cols;
        size_t bytes = peri_matrix_view(codes).cols - sizeof(peri_packed_factors);
        op->codes = packed_view_of(codes, frame, (uint32_t)(8 * bytes / dim));
        if (linked != NULL) op->codes.linked = peri_matrix_view(linked).data;
    }
    op->itopk_size += slack_of(op->codes.bits, op->itopk_size);
    op->rerank = rerank == 0 ? op->itopk_size
                             : peri_min_size(op->itopk_size, peri_max_size(op->k, (size_t)rerank));
}
