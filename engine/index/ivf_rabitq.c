/* ivf_rabitq.c: inverted lists of RaBitQ codes: rows less their list's centroid, rotated at random,
 * 1 to 8 bits a dimension with two factors, and distances estimated without bias (Gao & Long:
 * RaBitQ, SIGMOD 2024; arXiv 2409.09913 for more bits).
 *
 * Sections: those of ivf_codes.h with all its parts but, under inner_product and cosine, "list_adds".
 * The rotation follows from the parameters (quant/rabitq.h); its matrix is for queries. */
#include "index/ivf_codes.h"
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

static const char *const sections[] = { PERI_IVF_CODES_SECTIONS, "rotation", NULL };
static const char *const of_kind[] = { NULL };

/* ---- codes -------------------------------------------------------------------------------- */

static void rabitq_rotate(const peri_ivf_coder *coder, const float *row, float *out) {
    peri_rabitq_rotate(coder->quantizer, row, out);
}

/* peri_rabitq_encode writes the factors behind the code. */
static void rabitq_encode(const peri_ivf_coder *coder, const float *row, const float *centroid,
                          uint8_t *code, float *add, float *scale, void *scratch) {
    const peri_rabitq *rabitq = coder->quantizer;
    size_t bytes = peri_rabitq_code_bytes(coder->cols, coder->bits);
    uint8_t *whole = (uint8_t *)scratch + peri_rabitq_scratch_bytes(rabitq);
    peri_rabitq_encode(rabitq, row, centroid, whole, NULL, scratch);
    peri_rabitq_factors factors = peri_rabitq_row_factors(whole, bytes);
    memcpy(code, whole, bytes);
    *add = factors.add;
    *scale = factors.scale;
}

static peri_ivf_coder coder_of(const peri_index *index, const peri_rabitq *rabitq) {
    const ivf_rabitq_params *params = (const ivf_rabitq_params *)(const void *)index->params;
    peri_ivf_coder coder = { .cols = peri_rabitq_padded_dim(index->dim),
                             .bits = (uint32_t)params->bits_per_dim,
                             .adds = peri_ivf_squared(index),
                             .scales = true,
                             .rotate = rabitq_rotate,
                             .encode = rabitq_encode,
                             .quantizer = rabitq };
    coder.scratch_bytes = (size_t)coder.cols * (sizeof(float) + 1) +
                          peri_rabitq_row_bytes(coder.cols, coder.bits);
    return coder;
}

static peri_status rabitq_of(const peri_index *index, peri_rabitq *rabitq) {
    const ivf_rabitq_params *params = (const ivf_rabitq_params *)(const void *)index->params;
    return peri_rabitq_init(rabitq, index->context, index->dim, (uint32_t)params->bits_per_dim,
                            (uint64_t)params->seed);
}

static peri_status add_rotation(peri_index *index, const peri_rabitq *rabitq) {
    peri_matrix *host, *here;
    PERI_TRY(
        peri_rotation_matrix(index->context, rabitq->dim, rabitq->padded_dim, rabitq->seed, &host));
    peri_status status = peri_matrix_move(host, index->device->place, &here);
    peri_matrix_release(host);
    PERI_TRY(status);
    return peri_index_add(index, "rotation", here);
}

static peri_status ivf_rabitq_build(peri_index *index, peri_matrix *given, size_t threads,
                                    const peri_control *control) {
    peri_matrix *rows = NULL;
    peri_rabitq rabitq = { .dim = 0 };
    peri_status status;
    PERI_GO(peri_matrix_move(given, index->device->place, &rows));
    PERI_GO(peri_ivf_train(index, rows, threads, control));
    PERI_GO(rabitq_of(index, &rabitq));
    peri_ivf_coder coder = coder_of(index, &rabitq);
    PERI_GO(add_rotation(index, &rabitq));
    PERI_GO(peri_ivf_codes_train(index, &coder));
    PERI_GO(peri_ivf_codes_fill(index, &coder, rows, threads, control));
done:
    peri_rabitq_reset(&rabitq);
    peri_matrix_release(rows);
    return status;
}

static peri_status ivf_rabitq_extend(const peri_index *old, peri_index *next,
                                     const peri_growth *growth) {
    peri_rabitq rabitq;
    PERI_TRY(rabitq_of(old, &rabitq));
    peri_ivf_coder coder = coder_of(old, &rabitq);
    peri_status status = peri_ivf_codes_extend(old, next, &coder, growth, of_kind);
    peri_rabitq_reset(&rabitq);
    return status;
}

static peri_status ivf_rabitq_adopt(peri_index *index) {
    peri_ivf_coder coder = coder_of(index, NULL);
    return peri_ivf_codes_check(index, &coder);
}

/* ---- searching ---------------------------------------------------------------------------- */

static peri_op_code_scan scan_op(const peri_index *index) {
    peri_ivf_coder coder = coder_of(index, NULL);
    peri_op_code_scan op = peri_ivf_codes_op(index, &coder);
    op.query_bytes = coder.bits >= FINE_BITS ? 2 : 1;
    return op;
}

static peri_status ivf_rabitq_scan(const peri_index *index, peri_lane *lane,
                                   const peri_scan *scan) {
    peri_op_code_scan op = scan_op(index);
    return peri_ivf_codes_scan(index, lane, scan, &op);
}

static peri_status ivf_rabitq_check_place(const peri_index *index) {
    peri_op_code_scan op = scan_op(index);
    return peri_ivf_codes_check_place(index, &op);
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
    .remove = peri_ivf_codes_remove,
    .pack = peri_ivf_codes_pack,
    .describe = peri_lists_describe,
};
