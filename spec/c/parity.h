/* parity.h: what the parts of device_parity_test share: the two places, and data with many ties. */
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
static const peri_metric metrics[PERI_METRIC_COUNT] = { PERI_SQEUCLIDEAN, PERI_EUCLIDEAN,
                                                        PERI_INNER_PRODUCT, PERI_COSINE };

/* Whether a run at the tested place went on; a refusal is skipped, once for each reason. */
static bool went(pair *t, peri_op_kind kind, const char *name, peri_status status) {
    if (status != PERI_E_UNSUPPORTED)
        return CHECK(status == PERI_OK, "%s: %s", name, peri_error_detail());
    if (strcmp(t->declined[kind], peri_error_detail()) != 0) {
        snprintf(t->declined[kind], sizeof t->declined[kind], "%s", peri_error_detail());
        check_skip(name, t->declined[kind]);
    }
    return false;
}

static void clear(pair *t) {
    place_clear(&t->ref);
    place_clear(&t->tested);
}

/* Small whole numbers: many ties, dot products of zero of both signs, equal rows. */
static peri_view coarse_matrix(peri_dtype dtype, size_t rows, size_t cols, uint64_t seed) {
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

#endif
