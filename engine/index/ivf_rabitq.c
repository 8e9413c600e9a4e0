/* ivf_rabitq.c: inverted lists of RaBitQ codes: rows less their list's centroid, rotated at random,
 * 1 to 8 bits a dimension with two factors, and distances estimated without bias (Gao & Long:
 * RaBitQ, SIGMOD 2024; arXiv 2409.09913 for more bits).
 *
 * Sections: those of ivf_code_scan.h; "list_adds" only under squared L2 and euclidean. "rotation"
 * is made from the seed (quant/rotation.h). */
#include "index/ivf_code_scan.h"
#include "quant/rabitq.h"

#define FINE_BITS 5 /* from here on a query of 7 bits would add more error than the code has */

#define IVF_RABITQ_PARAMS(X, S)                                                                    \
    PERI_IVF_PARAMS(X, S)                                                                          \
    X(S, INT, bits_per_dim, 3, 1, 8, NULL, NULL, "bits a dimension; 1 to 4 are meant for refined()")

PERI_PARAMS_STRUCT(ivf_rabitq_params, IVF_RABITQ_PARAMS)
_Static_assert(sizeof(ivf_rabitq_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

static const peri_param build_rows[] = { PERI_PARAMS_ROWS(ivf_rabitq_params, IVF_RABITQ_PARAMS) };
static const peri_param_table build_table = { "ivf_rabitq.build", build_rows,
                                              sizeof build_rows / sizeof *build_rows };
static const peri_param search_rows[] = { PERI_PARAMS_ROWS(peri_ivf_search_params,
                                                           PERI_IVF_SEARCH_PARAMS) };
static const peri_param_table search_table = { "ivf_rabitq.search", search_rows,
                                               sizeof search_rows / sizeof *search_rows };

static const char *const sections[] = { PERI_CODE_SCAN_SECTIONS, "rotation", NULL };
static const char *const shared[] = { PERI_CODE_SCAN_SHARED, "rotation", NULL };

/* ---- codes -------------------------------------------------------------------------------- */

/* The coder takes row and centroid, and writes the factors behind the code. */
static void code_row(const void *quantizer, const peri_code_shape *shape, float *left,
                     const float *centroid, uint8_t *code, float *add, float *scale,
                     void *scratch) {
    const peri_rabitq *rabitq = quantizer;
    size_t bytes = peri_rabitq_code_bytes(shape->cols, shape->bits);
    uint8_t *whole = (uint8_t *)scratch + peri_rabitq_scratch_bytes(rabitq);
    for (size_t j = 0; j < shape->cols; j++) left[j] += centroid[j];
    memset(whole, 0, bytes);
    peri_rabitq_encode(rabitq, left, centroid, whole, NULL, scratch);
    peri_rabitq_factors factors = peri_rabitq_row_factors(whole, bytes);
    memcpy(code, whole, bytes);
    *add = factors.add;
    *scale = factors.scale;
}

static const ivf_rabitq_params *params_of(const peri_index *index) {
    return (const ivf_rabitq_params *)(const void *)index->params;
}

static peri_code_shape shape_of(const peri_index *index) {
    return (peri_code_shape){ .cols = peri_rabitq_padded_dim(index->dim),
                              .bits = (uint32_t)params_of(index)->bits_per_dim,
                              .rotated = true,
                              .adds = peri_index_squared(index),
                              .scales = true };
}

static peri_status encode(const peri_index *index, peri_lane *lane, const peri_ivf_chunk *chunk) {
    peri_row_coder coder = { .shape = shape_of(index), .code = code_row };
    peri_rabitq rabitq = { .dim = index->dim,
                           .padded_dim = coder.shape.cols,
                           .bits = coder.shape.bits }; /* rows come rotated */
    coder.quantizer = &rabitq;
    coder.scratch_bytes = peri_rabitq_scratch_bytes(&rabitq) +
                          peri_rabitq_row_bytes(coder.shape.cols, coder.shape.bits);
    return peri_code_scan_encode(index, &coder, lane, chunk);
}

static peri_status make_coder(const peri_index *index, peri_ivf_coder *coder) {
    peri_code_shape shape = shape_of(index);
    peri_code_scan_coder(index, &shape, coder);
    coder->encode = encode;
    return PERI_OK;
}

/* ---- building and growing ----------------------------------------------------------------- */

static peri_status train(peri_index *index, peri_matrix *rows, size_t threads,
                         const peri_control *control) {
    peri_code_shape shape = shape_of(index);
    peri_matrix *host, *here;
    (void)rows;
    PERI_TRY(peri_rotation_matrix(index->context, index->dim, shape.cols,
                                  (uint64_t)params_of(index)->seed, &host));
    peri_status status = peri_matrix_move(host, index->device->place, &here);
    peri_matrix_release(host);
    PERI_TRY(status);
    PERI_TRY(peri_index_add(index, "rotation", here));
    return peri_code_scan_train(index, &shape, threads, control);
}

static const peri_ivf_codes codes = { &peri_code_scan_layout, shared, train, make_coder };

static peri_status ivf_rabitq_build(peri_index *index, peri_matrix *given, size_t threads,
                                    const peri_control *control) {
    return peri_ivf_codes_build(index, &codes, given, threads, control);
}

static peri_status ivf_rabitq_extend(const peri_index *old, peri_index *next,
                                     const peri_growth *growth) {
    return peri_ivf_codes_extend(old, next, &codes, growth);
}

static peri_status ivf_rabitq_adopt(peri_index *index) {
    peri_code_shape shape = shape_of(index);
    return peri_code_scan_check(index, &shape);
}

/* ---- searching ---------------------------------------------------------------------------- */

static peri_op_code_scan scan_op(const peri_index *index) {
    peri_code_shape shape = shape_of(index);
    peri_op_code_scan op = peri_code_scan_op(index, &shape);
    op.query_bytes = shape.bits >= FINE_BITS ? 2 : 1;
    return op;
}

static peri_status ivf_rabitq_scan(const peri_index *index, peri_lane *lane,
                                   const peri_scan *scan) {
    peri_op_code_scan op = scan_op(index);
    return peri_code_scan_run(index, lane, scan, &op);
}

static peri_status ivf_rabitq_check_place(const peri_index *index) {
    peri_op_code_scan op = scan_op(index);
    return peri_code_scan_place(index, &op);
}

const peri_kind peri_ivf_rabitq_kind = {
    .ops = PERI_INDEX_OPS("ivf_rabitq", &search_table),
    .build_table = &build_table,
    .saved_table = &build_table,
    .sections = sections,
    .memory = "n * (math.ceil(dim / 32) * 4 * bits_per_dim + 8 + "
              "(metric:match('euclidean') and 4 or 0)) + "
              "n_lists * (4 * (dim + math.ceil(dim / 32) * 32) + 12) + "
              "math.ceil(dim / 32) * 128 * dim",
    .rowless = true,
    .build = ivf_rabitq_build,
    .adopt = ivf_rabitq_adopt,
    .scan = ivf_rabitq_scan,
    .reach = peri_ivf_reach,
    .check_place = ivf_rabitq_check_place,
    .extend = ivf_rabitq_extend,
    .remove = peri_code_scan_remove,
    .pack = peri_code_scan_pack,
    .describe = peri_lists_describe,
};
