/* flat.c: exact search: every search scans the rows that pass. Cost O(q * n * dim), blocked. */
#include "index/index.h"

#define FLAT_BUILD_PARAMS(X, S)                                                                    \
    X(S, CHOICE, metric, 0, 0, 3, "sqeuclidean|euclidean|inner_product|cosine", NULL,              \
      "what near means")

PERI_PARAMS_STRUCT(flat_params, FLAT_BUILD_PARAMS)

static const peri_param flat_build_rows[] = { PERI_PARAMS_ROWS(flat_params, FLAT_BUILD_PARAMS) };
static const peri_param_table flat_build_table = { "flat.build", flat_build_rows, 1 };
static const peri_param_table flat_search_table = { "flat.search", NULL, 0 };

_Static_assert(sizeof(flat_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

static const char *const flat_sections[] = { NULL };

static peri_status flat_build(peri_index *index, peri_matrix *rows, size_t threads,
                              const peri_control *control) {
    (void)index;
    (void)rows;
    (void)threads;
    (void)control;
    return PERI_OK;
}

static peri_status flat_adopt(peri_index *index) {
    (void)index;
    return PERI_OK;
}

/* The rows are all there is. */
static peri_status flat_extend(const peri_index *old, peri_index *next, const peri_growth *growth) {
    (void)old;
    (void)next;
    (void)growth;
    return PERI_OK;
}

const peri_kind peri_flat_kind = {
    .ops = PERI_INDEX_OPS("flat", &flat_search_table),
    .build_table = &flat_build_table,
    .saved_table = &flat_build_table,
    .sections = flat_sections,
    .memory = "n * dim * bytes",
    .build = flat_build,
    .adopt = flat_adopt,
    .extend = flat_extend,
};
