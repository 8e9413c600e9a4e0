/* parity_rows.h: rows that are converted, measured, moved and scored at a place, against ref. */
#ifndef PERIGEE_SPEC_PARITY_ROWS_H
#define PERIGEE_SPEC_PARITY_ROWS_H

#include "parity.h"

/* ---- convert, lengths, gather ------------------------------------------------------------- */

/* Runs convert at a place and brings back what `out`'s rows became, spare elements included. */
static inline peri_status convert_at(place *p, const peri_view *in, const peri_view *out,
                                     void *result) {
    peri_op_convert op = { PERI_OP_CONVERT, place_put_view(p, in), *out };
    size_t bytes = out->rows * out->stride_bytes;
    op.out.place = p->device->place;
    op.out.data = place_room(p, bytes);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, bytes);
    return status;
}

static inline void check_convert(pair *t, peri_dtype from, peri_dtype to, size_t rows, size_t cols,
                                 size_t spare, float scale) {
    peri_view in = test_matrix(from, rows, cols, spare, cols + 7);
    if (from == PERI_F32)
        for (size_t i = 0; i < rows * (cols + spare); i++) ((float *)in.data)[i] *= scale;
    size_t stride = (cols + 1) * peri_dtype_bytes(to);
    peri_view out = { NULL, rows, cols, stride, to, PERI_CPU };
    void *wanted = test_new(rows, stride), *found = test_new(rows, stride);
    place_must(convert_at(&t->ref, &in, &out, wanted), "ref convert");
    if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &in, &out, found)))
        CHECK(memcmp(wanted, found, rows * stride) == 0, "convert %s to %s, %zu x %zu, scale %g",
              peri_dtype_name(from), peri_dtype_name(to), rows, cols, (double)scale);
    clear(t);
    free(in.data);
    free(wanted);
    free(found);
}

/* Every half, then floats that round, saturate, underflow and are not finite. */
static inline void check_convert_values(pair *t) {
    static const float special[] = { 0.0f,       -0.0f,     0.5f,     1.5f,      2.5f,     -0.5f,
                                     127.5f,     128.5f,    -128.5f,  255.5f,    1e30f,    -1e30f,
                                     65504.0f,   65519.0f,  65520.0f, 0x1p-14f,  0x1p-24f, 0x1p-25f,
                                     0x1.8p-25f, 0x1p-149f, INFINITY, -INFINITY, NAN,      -NAN };
    size_t count = sizeof special / sizeof special[0];
    peri_view in = { test_new(65536, 2), 256, 256, 512, PERI_F16, PERI_CPU };
    for (size_t i = 0; i < 65536; i++) ((uint16_t *)in.data)[i] = (uint16_t)i;
    for (size_t to = 0; to < TEST_DTYPES; to++) {
        size_t bytes = 65536 * peri_dtype_bytes(dtypes[to]);
        peri_view out = { NULL, 256, 256, bytes / 256, dtypes[to], PERI_CPU };
        peri_view few = {
            (void *)(uintptr_t)special, 1, count, sizeof special, PERI_F32, PERI_CPU
        };
        peri_view few_out = { NULL,       1,       count, count * peri_dtype_bytes(dtypes[to]),
                              dtypes[to], PERI_CPU };
        char *wanted = test_new(1, bytes), *found = test_new(1, bytes);
        place_must(convert_at(&t->ref, &in, &out, wanted), "ref convert");
        if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &in, &out, found)))
            CHECK(memcmp(wanted, found, bytes) == 0, "convert every f16 to %s",
                  peri_dtype_name(dtypes[to]));
        place_must(convert_at(&t->ref, &few, &few_out, wanted), "ref convert");
        if (went(t, PERI_OP_CONVERT, "convert", convert_at(&t->tested, &few, &few_out, found)))
            for (size_t i = 0; i < count; i++)
                CHECK(memcmp(wanted + i * few_out.stride_bytes / count,
                             found + i * few_out.stride_bytes / count,
                             few_out.stride_bytes / count) == 0,
                      "convert %g to %s", (double)special[i], peri_dtype_name(dtypes[to]));
        clear(t);
        free(wanted);
        free(found);
    }
    free(in.data);
}

static inline peri_status lengths_at(place *p, const peri_view *rows, float *result) {
    peri_op_lengths op = { PERI_OP_LENGTHS, place_put_view(p, rows), NULL };
    op.out = place_room(p, rows->rows * sizeof *op.out);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out, rows->rows * sizeof *op.out);
    return status;
}

static inline peri_status report_at(place *p, peri_metric metric, const float *values, size_t count,
                                    float *result) {
    peri_op_report op = { PERI_OP_REPORT, metric, place_put(p, values, count * sizeof *values),
                          count };
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.values, count * sizeof *values);
    place_clear(p);
    return status;
}

static inline void check_report(pair *t, peri_metric metric, size_t count) {
    float *values = test_new(count, sizeof(float)), *wanted = test_new(count, sizeof(float)),
          *found = test_new(count, sizeof(float));
    static const float odd[] = { 0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-40f, -3.0f };
    size_t at = 0;
    for (size_t i = 0; i < count; i++) values[i] = 100 * test_uniform(7, i);
    for (size_t i = 0; i < sizeof odd / sizeof *odd && i < count; i++) values[i] = odd[i];
    place_must(report_at(&t->ref, metric, values, count, wanted), "ref report");
    if (went(t, PERI_OP_REPORT, "report", report_at(&t->tested, metric, values, count, found)))
        CHECK(test_same_bits(wanted, found, count, &at), "report of metric %d, value %zu", metric,
              at);
    free(values);
    free(wanted);
    free(found);
}

static inline void check_lengths(pair *t, peri_dtype dtype, size_t rows, size_t cols) {
    peri_view in = test_matrix(dtype, rows, cols, rows % 2, 3 * cols);
    float *wanted = test_new(rows, sizeof *wanted), *found = test_new(rows, sizeof *found);
    size_t at = 0;
    place_must(lengths_at(&t->ref, &in, wanted), "ref lengths");
    if (went(t, PERI_OP_LENGTHS, "lengths", lengths_at(&t->tested, &in, found)))
        CHECK(test_same_bits(wanted, found, rows, &at), "lengths of %s, %zu x %zu, row %zu",
              peri_dtype_name(dtype), rows, cols, at);
    clear(t);
    free(in.data);
    free(wanted);
    free(found);
}

static inline peri_status gather_at(place *p, const peri_view *rows, const int64_t *slots,
                                    size_t count, void *result, size_t stride) {
    peri_op_gather op = { PERI_OP_GATHER, place_put_view(p, rows), NULL, *rows };
    op.slots = place_put(p, slots, count * sizeof *slots);
    op.out.rows = count;
    op.out.stride_bytes = stride;
    op.out.data = place_room(p, count * stride);
    op.out.place = p->device->place;
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, count * stride);
    return status;
}

static inline void check_gather(pair *t, peri_dtype dtype, size_t rows, size_t cols, size_t count,
                                size_t spare) {
    size_t bytes = peri_dtype_bytes(dtype), in_stride = (cols + spare) * bytes;
    size_t stride = (cols + spare) * bytes;
    peri_view in = { test_new(rows, in_stride), rows, cols, in_stride, dtype, PERI_CPU };
    for (size_t i = 0; i < rows * in_stride; i++)
        ((uint8_t *)in.data)[i] = (uint8_t)peri_random_mix(5, i);
    int64_t *slots = test_new(count, sizeof *slots);
    for (size_t i = 0; i < count; i++) slots[i] = peri_random_below(6, i, (uint32_t)rows);
    void *wanted = test_new(count, stride), *found = test_new(count, stride);
    place_must(gather_at(&t->ref, &in, slots, count, wanted, stride), "ref gather");
    if (went(t, PERI_OP_GATHER, "gather", gather_at(&t->tested, &in, slots, count, found, stride)))
        CHECK(memcmp(wanted, found, count * stride) == 0, "gather %zu of %zu x %zu %s, spare %zu",
              count, rows, cols, peri_dtype_name(dtype), spare);
    clear(t);
    free(in.data);
    free(slots);
    free(wanted);
    free(found);
}

static inline peri_status scatter_at(place *p, const peri_view *rows, const int64_t *from,
                                     const int64_t *to, size_t count, size_t room, void *result) {
    size_t stride = rows->stride_bytes;
    peri_op_scatter op = { .kind = PERI_OP_SCATTER, .rows = place_put_view(p, rows), .out = *rows };
    op.from = place_put(p, from, count * sizeof *from);
    op.to = place_put(p, to, count * sizeof *to);
    op.count = count;
    op.out.rows = room;
    op.out.data = place_room(p, room * stride); /* what is not written keeps the pattern */
    op.out.place = p->device->place;
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, result, op.out.data, room * stride);
    return status;
}

/* Every second row of the room, from the last one down. */
static inline void check_scatter(pair *t, peri_dtype dtype, size_t rows, size_t cols, size_t count,
                                 bool named) {
    peri_view in = test_matrix(dtype, rows, cols, 1, 8);
    size_t room = 2 * count, bytes = room * in.stride_bytes;
    int64_t *from = named ? test_new(count, sizeof *from) : NULL;
    int64_t *to = test_new(count, sizeof *to);
    for (size_t i = 0; i < count; i++) {
        to[i] = (int64_t)(room - 1 - 2 * i);
        if (named) from[i] = peri_random_below(6, i, (uint32_t)rows);
    }
    void *wanted = test_new(1, bytes), *found = test_new(1, bytes);
    place_must(scatter_at(&t->ref, &in, from, to, count, room, wanted), "ref scatter");
    if (went(t, PERI_OP_SCATTER, "scatter",
             scatter_at(&t->tested, &in, from, to, count, room, found)))
        CHECK(memcmp(wanted, found, bytes) == 0, "scatter %zu of %zu x %zu %s%s", count, rows, cols,
              peri_dtype_name(dtype), named ? "" : ", all");
    clear(t);
    free(in.data);
    free(from);
    free(to);
    free(wanted);
    free(found);
}

/* ---- refine ------------------------------------------------------------------------------- */

static inline peri_status refine_at(place *p, const knn_case *c, const int64_t *candidates,
                                    size_t columns, int64_t *ids, float *distances) {
    size_t q = c->queries.rows, count = q * (c->k > 0 ? c->k : columns);
    peri_op_refine op = {
        .kind = PERI_OP_REFINE, .metric = c->metric, .columns = columns, .k = c->k
    };
    op.queries = place_put_view(p, &c->queries);
    op.rows = place_put_view(p, &c->rows);
    if (c->metric == PERI_COSINE)
        op.lengths = place_put(p, c->lengths, c->rows.rows * sizeof *c->lengths);
    op.candidates = place_put(p, candidates, q * columns * sizeof *candidates);
    op.ids = place_room(p, q * c->k * sizeof *ids);
    op.distances = place_room(p, count * sizeof *distances);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.ids, q * c->k * sizeof *ids);
    place_fetch(p, distances, op.distances, count * sizeof *distances);
    return PERI_OK;
}

/* Candidates with repeats and gaps; the first query has none at all. */
static inline int64_t *make_candidates(size_t queries, size_t columns, size_t rows) {
    int64_t *candidates = test_new(queries * columns, sizeof *candidates);
    for (size_t i = 0; i < queries * columns; i++) {
        uint32_t pick = peri_random_below(31, i, (uint32_t)rows + 3);
        candidates[i] = i < columns || pick >= rows ? PERI_ID_NONE : (int64_t)pick;
    }
    return candidates;
}

static inline void check_refine(pair *t, peri_dtype dtype, peri_metric metric, size_t queries,
                                size_t rows, size_t cols, size_t columns, size_t k) {
    knn_case c = { .metric = metric, .k = k, .what = "candidates" };
    c.queries = coarse_matrix(peri_query_dtype(dtype), queries, cols, 41);
    c.rows = coarse_matrix(dtype, rows, cols, 42);
    c.lengths = test_lengths(&c.rows);
    int64_t *candidates = make_candidates(queries, columns, rows);
    size_t count = queries * (k > 0 ? k : columns), at = 0;
    int64_t *wanted = test_new(queries * k, sizeof *wanted);
    int64_t *found = test_new(queries * k, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    place_must(refine_at(&t->ref, &c, candidates, columns, wanted, wanted_values), "ref refine");
    if (went(t, PERI_OP_REFINE, "refine",
             refine_at(&t->tested, &c, candidates, columns, found, found_values))) {
        if (k > 0)
            compare_hits("refine", &c, wanted, wanted_values, found, found_values);
        else
            CHECK(test_same_bits(wanted_values, found_values, count, &at),
                  "refine in place: %s %s, %zu x %zu, value %zu is %a, wanted %a",
                  peri_dtype_name(dtype), peri_metric_name(metric), rows, cols, at,
                  (double)found_values[at], (double)wanted_values[at]);
    }
    clear(t);
    free(c.queries.data);
    free(c.rows.data);
    free(c.lengths);
    free(candidates);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

#endif
