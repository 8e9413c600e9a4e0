/* parity_select.h: selection, merging and tables of distances at a place, against ref. */
#ifndef PERIGEE_SPEC_PARITY_SELECT_H
#define PERIGEE_SPEC_PARITY_SELECT_H

#include "parity.h"

/* ---- select_k ----------------------------------------------------------------------------- */

/* What the values of a row are like. */
typedef enum row_form {
    FORM_RANDOM,
    FORM_COARSE, /* many ties, zeros of both signs */
    FORM_RISING,
    FORM_FALLING,
    FORM_EQUAL,
    FORM_WILD, /* NaN, infinities, the largest, the smallest */
    FORM_COUNT
} row_form;

static inline float form_value(row_form form, size_t row, size_t j, size_t columns) {
    static const float wild[] = { NAN,    INFINITY, -INFINITY, -0.0f,     0.0f,
                                  1e-45f, 3e38f,    -3e38f,    -1.5e-39f, -NAN };
    uint32_t pick = peri_random_below(71 + row, j, 10);
    switch (form) {
    case FORM_COARSE: return pick < 2 ? -0.0f : (float)(pick / 2) - 1.0f;
    case FORM_RISING: return (float)j * 0.25f - (float)columns / 8.0f;
    case FORM_FALLING: return (float)(columns - j);
    case FORM_EQUAL: return 3.25f;
    case FORM_WILD: return wild[pick];
    default: return test_uniform(72 + row, j);
    }
}

typedef struct select_case {
    peri_view values;
    int64_t *ids; /* NULL = columns */
    size_t k;
} select_case;

static inline peri_status select_at(place *p, const select_case *c, int64_t *ids, float *values) {
    size_t n = c->values.rows, count = n * c->k;
    peri_op_select_k op = { .kind = PERI_OP_SELECT_K, .k = c->k };
    op.values = place_put_view(p, &c->values);
    op.ids = place_put(p, c->ids, n * c->values.cols * sizeof *c->ids);
    op.best_ids = place_room(p, count * sizeof *ids);
    op.best_values = place_room(p, count * sizeof *values);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.best_ids, count * sizeof *ids);
    place_fetch(p, values, op.best_values, count * sizeof *values);
    return PERI_OK;
}

static inline void check_select(pair *t, row_form form, size_t rows, size_t columns, size_t k,
                                size_t spare, bool named) {
    select_case c = { .k = k };
    c.values = test_matrix(PERI_F32, rows, columns, spare, 73);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            ((float *)peri_view_row(&c.values, i))[j] = form_value(form, i, j, columns);
    if (named) c.ids = test_new(rows * columns, sizeof *c.ids);
    for (size_t i = 0; named && i < rows * columns; i++)
        c.ids[i] = (int64_t)(peri_random_mix(74, i) >> 8);
    size_t count = rows * k, at = 0;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    place_must(select_at(&t->ref, &c, wanted, wanted_values), "ref select_k");
    if (went(t, PERI_OP_SELECT_K, "select_k", select_at(&t->tested, &c, found, found_values))) {
        while (at < count && wanted[at] == found[at] &&
               memcmp(&wanted_values[at], &found_values[at], sizeof(float)) == 0)
            at++;
        size_t bad = at < count ? at : 0;
        CHECK(at == count,
              "select_k form %d, %zu x %zu, k %zu, spare %zu%s: row %zu rank %zu is %lld at %a, "
              "wanted %lld at %a",
              (int)form, rows, columns, k, spare, named ? ", named" : "", bad / k, bad % k,
              (long long)found[bad], (double)found_values[bad], (long long)wanted[bad],
              (double)wanted_values[bad]);
    }
    clear(t);
    free(c.values.data);
    free(c.ids);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

static inline void sweep_select(pair *t) {
    static const size_t columns[] = { 1, 2, 31, 33, 130, 1000, 4097, 9000 };
    static const size_t ks[] = { 1, 7, 64, 300 };
    for (int form = 0; form < FORM_COUNT; form++) {
        for (size_t c = 0; c < sizeof columns / sizeof columns[0]; c++)
            for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
                check_select(t, (row_form)form, 1 + (c + i) % 4, columns[c], ks[i], c % 3,
                             (c + i) % 2 == 0);
        check_select(t, (row_form)form, 2, 5000, 4096, 1, false);
        check_select(t, (row_form)form, 3, 700, 700, 1, true);
        check_select(t, (row_form)form, 200, 50, 10, 0, false);
        if (t->small) continue;
        check_select(t, (row_form)form, 1, 300001, 10, 0, false);
        check_select(t, (row_form)form, 3, 100003, 256, 1, false);
        check_select(t, (row_form)form, 2, 100000, 2000, 2, true);
        check_select(t, (row_form)form, 3000, 40, 5, 3, false);
        check_select(t, (row_form)form, 4100, 1500, 20, 1, false);
        check_select(t, (row_form)form, 9, 1024, 256, 0, true);
    }
    check_select(t, FORM_RANDOM, 3, 0, 4, 1, false);
    check_select(t, FORM_RANDOM, 0, 5, 4, 1, false);
    if (!t->small) check_select(t, FORM_RANDOM, 1, 2500000, 100, 0, false);
}

/* ---- merge -------------------------------------------------------------------------------- */

typedef struct merge_case {
    size_t queries, parts, part_k, k;
    int64_t *ids, *bases; /* bases NULL = 0 */
    float *distances;
    bool unique;
} merge_case;

static inline peri_status merge_at(place *p, const merge_case *c, int64_t *ids, float *distances) {
    size_t entries = c->parts * c->queries * c->part_k, count = c->queries * c->k;
    peri_op_merge op = { .kind = PERI_OP_MERGE,
                         .queries = c->queries,
                         .parts = c->parts,
                         .part_k = c->part_k,
                         .unique = c->unique,
                         .k = c->k };
    op.ids = place_put(p, c->ids, entries * sizeof *c->ids);
    op.distances = place_put(p, c->distances, entries * sizeof *c->distances);
    op.bases = place_put(p, c->bases, c->parts * sizeof *c->bases);
    op.best_ids = place_room(p, count * sizeof *ids);
    op.best_distances = place_room(p, count * sizeof *distances);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.best_ids, count * sizeof *ids);
    place_fetch(p, distances, op.best_distances, count * sizeof *distances);
    return PERI_OK;
}

/* A sorted list of distances with many ties; ids rise within a run of equal ones. A zero may have
 * either sign, but all zeros of a list have the same. */
static inline void make_list(const merge_case *c, size_t list, bool coarse) {
    size_t most = c->part_k, count = list % 5 == 4 ? list % (most + 1) : most;
    float value = coarse ? 0.0f : -1.0f;
    for (size_t j = 0; j < most; j++) {
        uint64_t random = peri_random_mix(81, list * most + j);
        if (coarse ? random % 4 == 0 : random % 8 != 0) value += coarse ? 1.0f : 0x1p-10f;
        float signed_zero = list % 2 == 0 ? -0.0f : 0.0f;
        c->ids[list * most + j] = j < count ? (int64_t)(3 * j + list % 3) : PERI_ID_NONE;
        c->distances[list * most + j] = j >= count ? INFINITY : value == 0.0f ? signed_zero : value;
    }
}

static inline void check_merge(pair *t, size_t queries, size_t parts, size_t part_k, size_t k,
                               bool unique, bool based) {
    merge_case c = {
        .queries = queries, .parts = parts, .part_k = part_k, .k = k, .unique = unique
    };
    size_t count = queries * k, at = 0;
    c.ids = test_new(parts * queries * part_k, sizeof *c.ids);
    c.distances = test_new(parts * queries * part_k, sizeof *c.distances);
    for (size_t l = 0; l < parts * queries; l++) make_list(&c, l, unique);
    if (based) c.bases = test_new(parts, sizeof *c.bases);
    for (size_t p = 0; based && p < parts; p++) c.bases[p] = (int64_t)(p % 2) * 5000000000;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    place_must(merge_at(&t->ref, &c, wanted, wanted_values), "ref merge");
    if (went(t, PERI_OP_MERGE, "merge", merge_at(&t->tested, &c, found, found_values))) {
        while (at < count && wanted[at] == found[at] &&
               memcmp(&wanted_values[at], &found_values[at], sizeof(float)) == 0)
            at++;
        size_t bad = at < count ? at : 0;
        CHECK(at == count,
              "merge of %zu queries, %zu parts of %zu to %zu%s%s: query %zu rank %zu is %lld at "
              "%a, wanted %lld at %a",
              queries, parts, part_k, k, unique ? ", unique" : "", based ? ", based" : "", bad / k,
              bad % k, (long long)found[bad], (double)found_values[bad], (long long)wanted[bad],
              (double)wanted_values[bad]);
    }
    clear(t);
    free(c.ids);
    free(c.bases);
    free(c.distances);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
}

static inline void sweep_merge(pair *t) {
    static const struct {
        size_t queries, parts, part_k, k;
    } shapes[] = { { 1, 1, 1, 1 },    { 3, 1, 10, 10 },   { 1, 2, 10, 15 },   { 40, 2, 10, 10 },
                   { 7, 8, 10, 100 }, { 7, 33, 17, 10 },  { 2, 100, 64, 64 }, { 5, 3, 300, 200 },
                   { 2, 5, 1, 3 },    { 1, 300, 20, 20 }, { 2, 6, 700, 1500 } };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (int how = 0; how < 4; how++)
            check_merge(t, shapes[s].queries, shapes[s].parts, shapes[s].part_k, shapes[s].k,
                        how & 1, how & 2);
    if (t->small) return;
    check_merge(t, 3000, 4, 10, 10, false, true);
    for (int how = 0; how < 4; how++) {
        check_merge(t, 5000, 1 + (size_t)how, 10, 10 + (size_t)how, how & 1, how & 2);
        check_merge(t, 4200, 11, 7, 20, how & 1, how & 2);
    }
    check_merge(t, 2, 4, 16384, 16384, true, false);
}

/* ---- pairwise ----------------------------------------------------------------------------- */

static inline peri_status pairwise_at(place *p, const knn_case *c, float *out, size_t spare) {
    size_t q = c->queries.rows, n = c->rows.rows, stride = (n + spare) * sizeof *out;
    peri_op_pairwise op = { .kind = PERI_OP_PAIRWISE, .metric = c->metric };
    op.queries = place_put_view(p, &c->queries);
    op.rows = place_put_view(p, &c->rows);
    if (c->metric == PERI_COSINE) op.lengths = place_put(p, c->lengths, n * sizeof *c->lengths);
    op.out = (peri_view){ place_room(p, q * stride), q, n, stride, PERI_F32, p->device->place };
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, out, op.out.data, q * stride); /* the spare ones too */
    return status;
}

static inline void check_pairwise(pair *t, peri_dtype dtype, peri_metric metric, size_t queries,
                                  size_t rows, size_t cols, size_t spare) {
    knn_case c = { .metric = metric };
    c.queries = test_matrix(peri_query_dtype(dtype), queries, cols, spare, 91);
    c.rows = test_matrix(dtype, rows, cols, spare % 2, 92);
    c.lengths = test_lengths(&c.rows);
    size_t count = queries * (rows + spare), at = 0;
    float *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    place_must(pairwise_at(&t->ref, &c, wanted, spare), "ref pairwise");
    if (went(t, PERI_OP_PAIRWISE, "pairwise", pairwise_at(&t->tested, &c, found, spare)))
        CHECK(test_same_bits(wanted, found, count, &at),
              "pairwise %s %s, %zu x %zu of %zu, spare %zu: query %zu row %zu is %a, wanted %a",
              peri_dtype_name(dtype), peri_metric_name(metric), queries, rows, cols, spare,
              at / (rows + spare), at % (rows + spare), (double)found[at], (double)wanted[at]);
    clear(t);
    free(c.queries.data);
    free(c.rows.data);
    free(c.lengths);
    free(wanted);
    free(found);
}

static inline void sweep_pairwise(pair *t) {
    static const struct {
        size_t queries, rows, cols;
    } shapes[] = { { 1, 1, 1 },    { 3, 5, 31 },    { 2, 70, 32 },  { 33, 40, 33 },
                   { 65, 9, 100 }, { 70, 129, 64 }, { 5, 300, 257 } };
    static const size_t dims[] = { 1, 32, 96, 128, 129, 200, 768 }; /* of whole tiles, about */
    for (size_t a = 0; a < TEST_DTYPES; a++)
        for (size_t m = 0; m < PERI_METRIC_COUNT; m++) {
            if (!peri_metric_takes(metrics[m], dtypes[a])) continue;
            for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                check_pairwise(t, dtypes[a], metrics[m], shapes[s].queries, shapes[s].rows,
                               shapes[s].cols, s % 3);
            for (size_t d = 0; !t->small && d < sizeof dims / sizeof dims[0]; d++)
                check_pairwise(t, dtypes[a], metrics[m], d == 4 ? 200 : 65, 700, dims[d], d % 3);
        }
}

#endif
