/* ivf_sq.c: inverted lists of scalar-quantized rows: 8 or 4 bits a column for what is left of a row
 * when its list's centroid is subtracted. For f16 in the lists, build ivf_flat of rows of f16.
 *
 * Sections: those of ivf_code_scan.h; "levels" f32 [2, dim], low and step of each column
 * (quant/sq.h). Under squared L2 and euclidean an entry has its `add`. */
#include "index/ivf_code_scan.h"
#include "quant/sq.h"

#define TRAIN_ROWS 65536u /* for the levels: more change the extremes of a column little */

#define IVF_SQ_PARAMS(X, S)                                                                        \
    PERI_IVF_PARAMS(X, S)                                                                          \
    X(S, INT, bits, 8, 4, 8, NULL, NULL, "bits a column: 8 or 4")                                  \
    X(S, FLAG, residual, 1, 0, 1, NULL, NULL,                                                      \
      "code what is left beside the list's centroid; false: the row itself")                       \
    X(S, REAL, quantile, 0, 0, 1, NULL, "1 for 8 bits, 0.99 for 4: less squared error",            \
      "share of a column's values that its levels span; the rest is clamped")

PERI_PARAMS_STRUCT(ivf_sq_params, IVF_SQ_PARAMS)
_Static_assert(sizeof(ivf_sq_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

static const peri_param build_rows[] = { PERI_PARAMS_ROWS(ivf_sq_params, IVF_SQ_PARAMS) };
static const peri_param_table build_table = { "ivf_sq.build", build_rows,
                                              sizeof build_rows / sizeof *build_rows };
static const peri_param search_rows[] = { PERI_PARAMS_ROWS(peri_ivf_search_params,
                                                           PERI_IVF_SEARCH_PARAMS) };
static const peri_param_table search_table = { "ivf_sq.search", search_rows,
                                               sizeof search_rows / sizeof *search_rows };

static const char *const sections[] = { PERI_CODE_SCAN_SECTIONS, "levels", NULL };
static const char *const shared[] = { PERI_CODE_SCAN_SHARED, "levels", NULL };

static ivf_sq_params *params_of(const peri_index *index) {
    return (ivf_sq_params *)(uintptr_t)index->params;
}

/* ---- codes -------------------------------------------------------------------------------- */

static void code_row(const void *quantizer, const peri_code_shape *shape, float *left,
                     const float *centroid, uint8_t *code, float *add, float *scale,
                     void *scratch) {
    const peri_sq *sq = quantizer;
    double sum = 0;
    (void)scale;
    (void)scratch;
    peri_sq_encode(sq, left, code);
    for (size_t j = 0; j < shape->cols && shape->adds; j++) {
        double y = (double)sq->low[j] +
                   (double)peri_codes_get(code, j, shape->bits) * (double)sq->step[j];
        sum += y * (y + (centroid == NULL ? 0 : 2 * (double)centroid[j]));
    }
    *add = (float)sum;
}

static peri_code_shape shape_of(const peri_index *index) {
    const ivf_sq_params *params = params_of(index);
    return (peri_code_shape){ .cols = index->dim,
                              .bits = (uint32_t)params->bits,
                              .whole = params->residual == 0,
                              .adds = peri_index_squared(index) };
}

/* The levels of an index, on the host. */
static peri_status sq_of(const peri_index *index, peri_sq *sq) {
    peri_matrix *levels = peri_index_section(index, "levels"), *here;
    if (levels == NULL) return peri_fail(PERI_E_CORRUPT, "section 'levels' is missing");
    PERI_TRY(peri_matrix_move(levels, PERI_CPU, &here));
    peri_status status = peri_sq_adopt(sq, index->context, index->dim,
                                       (uint32_t)params_of(index)->bits, here);
    peri_matrix_release(here);
    return status;
}

static peri_status encode(const peri_index *index, peri_lane *lane, const peri_ivf_chunk *chunk) {
    peri_sq sq;
    PERI_TRY(sq_of(index, &sq));
    peri_row_coder coder = { shape_of(index), code_row, &sq, 0 };
    peri_status status = peri_code_scan_encode(index, &coder, lane, chunk);
    peri_sq_reset(&sq);
    return status;
}

static peri_status make_coder(const peri_index *index, peri_ivf_coder *coder) {
    peri_code_shape shape = shape_of(index);
    peri_code_scan_coder(index, &shape, coder);
    coder->encode = encode;
    return PERI_OK;
}

/* ---- building and growing ----------------------------------------------------------------- */

static peri_status check_params(const peri_index *index) {
    ivf_sq_params *params = params_of(index);
    if (params->bits != 4 && params->bits != 8)
        return peri_fail(PERI_E_ARGUMENT, "option 'bits': %lld given, allowed: 4, 8",
                         (long long)params->bits);
    if (params->quantile == 0) params->quantile = params->bits == 4 ? 0.99 : 1;
    return PERI_OK;
}

static peri_status train(peri_index *index, peri_matrix *rows, size_t threads,
                         const peri_control *control) {
    peri_code_shape shape = shape_of(index);
    peri_matrix *sample = NULL, *here = NULL;
    peri_sq sq = { .context = index->context };
    peri_status status;
    PERI_GO(peri_code_scan_train(index, &shape, threads, control));
    PERI_GO(peri_code_scan_sample(index, &shape, rows, TRAIN_ROWS, threads, control, &sample));
    PERI_GO(peri_sq_train(&sq, sample, shape.bits, params_of(index)->quantile, threads, control));
    PERI_GO(peri_matrix_move(sq.levels, index->device->place, &here));
    PERI_GO(peri_index_add(index, "levels", here));
done:
    peri_sq_reset(&sq);
    peri_matrix_release(sample);
    return status;
}

static const peri_ivf_codes codes = { &peri_code_scan_layout, shared, train, make_coder };

static peri_status ivf_sq_build(peri_index *index, peri_matrix *given, size_t threads,
                                const peri_control *control) {
    PERI_TRY(check_params(index));
    return peri_ivf_codes_build(index, &codes, given, threads, control);
}

static peri_status ivf_sq_extend(const peri_index *old, peri_index *next,
                                 const peri_growth *growth) {
    return peri_ivf_codes_extend(old, next, &codes, growth);
}

static peri_status ivf_sq_adopt(peri_index *index) {
    peri_sq sq;
    peri_status status = check_params(index);
    if (status != PERI_OK) return status == PERI_E_ARGUMENT ? PERI_E_CORRUPT : status;
    PERI_TRY(sq_of(index, &sq));
    peri_sq_reset(&sq);
    peri_code_shape shape = shape_of(index);
    return peri_code_scan_check(index, &shape);
}

/* ---- searching ---------------------------------------------------------------------------- */

/* A query of 15 bits: the error of one of 7 would be near that of a code of 8. */
static peri_op_code_scan scan_op(const peri_index *index) {
    peri_code_shape shape = shape_of(index);
    peri_op_code_scan op = peri_code_scan_op(index, &shape);
    op.low = peri_matrix_view(peri_index_section(index, "levels")).data;
    op.step = op.low + index->dim;
    op.query_bytes = shape.bits == 8 ? 2 : 1;
    return op;
}

static peri_status ivf_sq_scan(const peri_index *index, peri_lane *lane, const peri_scan *scan) {
    peri_op_code_scan op = scan_op(index);
    return peri_code_scan_run(index, lane, scan, &op);
}

static peri_status ivf_sq_check_place(const peri_index *index) {
    peri_op_code_scan op = scan_op(index);
    return peri_code_scan_place(index, &op);
}

const peri_kind peri_ivf_sq_kind = {
    .ops = PERI_INDEX_OPS("ivf_sq", &search_table),
    .build_table = &build_table,
    .saved_table = &build_table,
    .sections = sections,
    .memory = "n * (math.ceil(dim * bits / 8) + 4 + "
              "(metric:match('euclidean') and 4 or 0)) + "
              "n_lists * (4 * dim * (residual and metric:match('euclidean') and 2 or 1) + 12) + "
              "12 * dim",
    .rowless = true,
    .build = ivf_sq_build,
    .adopt = ivf_sq_adopt,
    .scan = ivf_sq_scan,
    .reach = peri_ivf_reach,
    .check_place = ivf_sq_check_place,
    .extend = ivf_sq_extend,
    .remove = peri_code_scan_remove,
    .pack = peri_code_scan_pack,
    .describe = peri_lists_describe,
};
