/* parity.h: what the tests of a place against ref share: the two places, data with ties, filters,
 * the comparison of answers. */
#ifndef PERIGEE_SPEC_PARITY_H
#define PERIGEE_SPEC_PARITY_H

#include "place.h"

typedef struct pair {
    peri_context *context;
    place ref, tested;
    bool small;
    char declined[PERI_OP_COUNT][256]; /* the last reason, told once it changes */
} pair;

static const peri_dtype dtypes[TEST_DTYPES] = { PERI_F32, PERI_F16, PERI_I8, PERI_U8 };
static const peri_metric metrics[PERI_METRIC_COUNT] = {
    PERI_SQEUCLIDEAN, PERI_EUCLIDEAN, PERI_INNER_PRODUCT, PERI_COSINE, PERI_L1, PERI_HAMMING
};

/* Whether a run at the tested place went on; a refusal is skipped, once for each reason. */
static inline bool went(pair *t, peri_op_kind kind, const char *name, peri_status status) {
    if (status != PERI_E_UNSUPPORTED)
        return CHECK(status == PERI_OK, "%s: %s", name, peri_error_detail());
    if (strcmp(t->declined[kind], peri_error_detail()) != 0) {
        snprintf(t->declined[kind], sizeof t->declined[kind], "%s", peri_error_detail());
        check_skip(name, t->declined[kind]);
    }
    return false;
}

static inline void clear(pair *t) {
    place_clear(&t->ref);
    place_clear(&t->tested);
}

/* Small whole numbers: many ties, dot products of zero of both signs, equal rows. */
static inline peri_view coarse_matrix(peri_dtype dtype, size_t rows, size_t cols, uint64_t seed) {
    peri_view view = test_matrix(dtype, rows, cols, 0, seed);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            int value = (int)peri_random_below(seed, i * cols + j, 3) - (dtype == PERI_U8 ? 0 : 1);
            void *row = peri_view_row(&view, i);
            if (dtype == PERI_I8)
                ((int8_t *)row)[j] = (int8_t)value;
            else if (dtype == PERI_U8)
                ((uint8_t *)row)[j] = (uint8_t)value;
            else
                test_store(dtype, row, j, (float)value);
        }
        /* no row of zeros: cosine has none to offer */
        if (dtype == PERI_I8 || dtype == PERI_U8)
            ((uint8_t *)peri_view_row(&view, i))[0] = 1;
        else
            test_store(dtype, peri_view_row(&view, i), 0, 1.0f);
    }
    return view;
}

/* ---- filters and answers ------------------------------------------------------------------ */

/* Filters as a test makes them, on the host. */
typedef struct filters {
    uint32_t count;
    size_t words;
    uint64_t *bits[4];
    uint32_t *lists[4];
    size_t passing[4];
    uint32_t *which; /* may be NULL */
} filters;

/* Filter i keeps: 0 half the rows, 1 one row, 2 none, 3 all. Those of odd number have no list. */
static inline filters filters_make(uint32_t count, size_t rows, size_t queries) {
    filters f = { .count = count, .words = (rows + 63) / 64 };
    if (count == 0) return f;
    for (uint32_t i = 0; i < count; i++) {
        f.bits[i] = test_new(f.words, sizeof(uint64_t));
        uint32_t *list = test_new(rows, sizeof *list);
        for (size_t r = 0; r < rows; r++) {
            bool keep = i == 0 ? peri_random_mix(9, r) & 1 : i == 1 ? r == rows / 2 : i == 3;
            if (!keep) continue;
            f.bits[i][r / 64] |= UINT64_C(1) << (r % 64);
            list[f.passing[i]++] = (uint32_t)r;
        }
        if (i % 2 == 0)
            f.lists[i] = list;
        else
            free(list);
    }
    if (count > 1) {
        f.which = test_new(queries, sizeof *f.which);
        for (size_t q = 0; q < queries; q++) f.which[q] = peri_random_below(11, q, count);
    }
    return f;
}

static inline void filters_free(filters *f) {
    for (uint32_t i = 0; i < f->count; i++) {
        free(f->bits[i]);
        free(f->lists[i]);
    }
    free(f->which);
}

/* `passing` is read by host and device: memory of both. */
static peri_filter_view filters_put(place *p, const filters *f, size_t queries) {
    peri_filter_view view = { .count = f->count, .words = f->words };
    if (f->count == 0) return view;
    const uint64_t *bits[4];
    const uint32_t *lists[4];
    for (uint32_t i = 0; i < f->count; i++) {
        bits[i] = place_put(p, f->bits[i], f->words * sizeof(uint64_t));
        lists[i] = place_put(p, f->lists[i], f->passing[i] * sizeof(uint32_t));
    }
    view.bits = place_put(p, bits, f->count * sizeof *bits);
    view.lists = place_put(p, lists, f->count * sizeof *lists);
    view.which = place_put(p, f->which, queries * sizeof *f->which);
    size_t *passing = place_room_of(p, sizeof f->passing, PERI_MEMORY_MAPPED);
    memcpy(passing, f->passing, sizeof f->passing);
    view.passing = passing;
    place_wait(p); /* bits[] and lists[] end with this function */
    return view;
}

typedef struct knn_case {
    peri_metric metric;
    peri_view queries, rows;
    float *lengths;
    filters filters;
    size_t k;
    const char *what;
} knn_case;

static inline void compare_hits(const char *op, const knn_case *c, const int64_t *wanted,
                                const float *wanted_values, const int64_t *found,
                                const float *found_values) {
    size_t count = c->queries.rows * c->k, i = 0;
    while (i < count && wanted[i] == found[i] &&
           memcmp(&wanted_values[i], &found_values[i], sizeof *found_values) == 0)
        i++;
    size_t at = i < count ? i : 0;
    CHECK(i == count,
          "%s %s: %s %s, %zu x %zu, %zu queries, k %zu, %u filters: query %zu rank %zu is %lld at "
          "%a, wanted %lld at %a",
          op, c->what, peri_dtype_name(c->rows.dtype), peri_metric_name(c->metric), c->rows.rows,
          c->rows.cols, c->queries.rows, c->k, c->filters.count, at / c->k, at % c->k,
          (long long)found[at], (double)found_values[at], (long long)wanted[at],
          (double)wanted_values[at]);
}

#endif
