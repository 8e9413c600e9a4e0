/* ivf_pq.c: inverted lists of product-quantized codes (Jegou, Douze, Schmid: Product quantization
 * for nearest neighbor search, PAMI 2011, section IV: IVFADC).
 *
 * A search answers with the distance from the query to what a code stands for: re-rank with the
 * rows (refined) where that is not enough. With pq_bits = 4 codes go through the fast scan of
 * PERI_OP_PQ_SCAN.
 *
 * Sections: those of ivf.h and lists.h; "codebooks" f32 [books * 2^pq_bits, pq_len]; where rows are
 * rotated "rotation" f32 [rotated_dim, dim] and "rotated_centroids" f32 [n_lists, rotated_dim];
 * "list_codes" u8 [capacity, row bytes], packed (core/codes.h), in memory interleaved. */
#include "index/ivf_pq.h"

#include <string.h>

static const peri_param build_rows[] = { PERI_PARAMS_ROWS(peri_ivf_pq_params, PERI_IVF_PQ_PARAMS) };
static const peri_param_table build_table = { "ivf_pq.build", build_rows,
                                              sizeof build_rows / sizeof *build_rows };
_Static_assert(sizeof(peri_ivf_pq_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

#define SEARCH_PARAMS(X, S)                                                                        \
    PERI_IVF_SEARCH_PARAMS(X, S)                                                                   \
    X(S, CHOICE, lut_dtype, 0, 0, 2, "f32|f16|u8", NULL,                                           \
      "the coarsest type that tables of distances may be kept in; a CPU always answers by f32")

PERI_PARAMS_STRUCT(ivf_pq_search, SEARCH_PARAMS)
static const peri_param search_rows[] = { PERI_PARAMS_ROWS(ivf_pq_search, SEARCH_PARAMS) };
static const peri_param_table search_table = { "ivf_pq.search", search_rows,
                                               sizeof search_rows / sizeof *search_rows };

static const char *const sections[] = { "centroids",  "rotated_centroids", "rotation",
                                        "codebooks",  "list_offsets",      "list_sizes",
                                        "list_slots", "list_codes",        NULL };
static const char *const shared[] = { "centroids", "rotated_centroids", "rotation", "codebooks",
                                      NULL };
static const peri_lists_layout layout = { PERI_CODES_GROUP, { "list_codes", NULL }, 1 };

/* ---- the quantizer ------------------------------------------------------------------------ */

peri_status peri_ivf_pq_of(const peri_index *index, peri_pq *pq) {
    const peri_ivf_pq_params *params = peri_ivf_pq_params_of(index);
    PERI_TRY(peri_pq_shape(pq, index->dim, (uint32_t)params->pq_dim, (uint32_t)params->pq_bits));
    pq->codebook_kind = (peri_codebook_kind)params->codebook_kind;
    pq->rotation = peri_index_section(index, "rotation");
    pq->codebooks = peri_index_section(index, "codebooks");
    return PERI_OK;
}

size_t peri_ivf_pq_books(const peri_index *index, const peri_pq *pq) {
    return pq->codebook_kind == PERI_PER_CLUSTER ? (size_t)peri_ivf_params_of(index).n_lists
                                                 : pq->pq_dim;
}

static const float *data_of(peri_matrix *matrix) {
    return matrix == NULL ? NULL : peri_matrix_view(matrix).data;
}

peri_ivf_turn peri_ivf_pq_turn(const peri_index *index, const peri_pq *pq) {
    bool residual = peri_ivf_pq_params_of(index)->residual != 0;
    return (peri_ivf_turn){ .centroids = residual ? data_of(peri_index_section(index, "centroids"))
                                                  : NULL,
                            .rotation = data_of(pq->rotation),
                            .cols = pq->rotated_dim };
}

/* ---- building and growing ----------------------------------------------------------------- */

static peri_status encode(const peri_index *index, peri_lane *lane, const peri_ivf_chunk *chunk) {
    peri_pq pq;
    PERI_TRY(peri_ivf_pq_of(index, &pq));
    return peri_pq_encode(&pq, lane, &chunk->turned, chunk->labels, chunk->parts[0].data);
}

static peri_status make_coder(const peri_index *index, peri_ivf_coder *coder) {
    peri_pq pq;
    PERI_TRY(peri_ivf_pq_of(index, &pq));
    coder->turn = peri_ivf_pq_turn(index, &pq);
    coder->parts[0].cols = peri_pq_row_bytes(pq.pq_dim, pq.pq_bits);
    coder->parts[0].dtype = PERI_U8;
    coder->encode = encode;
    return PERI_OK;
}

static const peri_ivf_codes codes = { &layout, shared, peri_ivf_pq_train, make_coder };

static peri_status ivf_pq_build(peri_index *index, peri_matrix *given, size_t threads,
                                const peri_control *control) {
    return peri_ivf_codes_build(index, &codes, given, threads, control);
}

static peri_status ivf_pq_extend(const peri_index *old, peri_index *next,
                                 const peri_growth *growth) {
    return peri_ivf_codes_extend(old, next, &codes, growth);
}

static peri_status ivf_pq_remove(const peri_index *old, peri_index *next, const peri_loss *loss) {
    return peri_lists_remove(old, next, &layout, loss);
}

static peri_status ivf_pq_pack(const peri_index *old, peri_index *next) {
    return peri_lists_pack(old, next, &layout);
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status check_rotated(const peri_index *index, const peri_pq *pq) {
    peri_matrix *rotated = peri_index_section(index, "rotated_centroids");
    if ((rotated != NULL) != (pq->rotation != NULL))
        return peri_fail(PERI_E_CORRUPT,
                         "section 'rotated_centroids' comes with a rotation, and only then");
    if (rotated == NULL) return PERI_OK;
    peri_view view = peri_matrix_view(rotated);
    size_t n_lists = (size_t)peri_ivf_params_of(index).n_lists;
    if (view.rows != n_lists || view.cols != pq->rotated_dim || view.dtype != PERI_F32 ||
        !peri_view_packed(&view))
        return peri_fail(
            PERI_E_CORRUPT, "section 'rotated_centroids' is %zu x %zu %s, expected %zu x %u f32",
            view.rows, view.cols, peri_dtype_name(view.dtype), n_lists, pq->rotated_dim);
    peri_status status = peri_matrix_check(rotated, false, "rotated_centroids", 0, NULL);
    return status == PERI_E_INVALID ? PERI_E_CORRUPT : status;
}

static peri_status check_codes(const peri_index *index, const peri_pq *pq) {
    peri_matrix *list = peri_index_section(index, "list_codes");
    size_t bytes = peri_pq_row_bytes(pq->pq_dim, pq->pq_bits);
    if (list == NULL) return peri_fail(PERI_E_CORRUPT, "section 'list_codes' is missing");
    peri_view view = peri_matrix_view(list);
    if (view.cols == bytes && view.dtype == PERI_U8) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT,
                     "section 'list_codes' has %zu columns of %s, expected %zu of u8", view.cols,
                     peri_dtype_name(view.dtype), bytes);
}

static peri_status ivf_pq_adopt(peri_index *index) {
    peri_pq pq;
    peri_status status = peri_ivf_pq_of(index, &pq);
    if (status != PERI_OK) return status == PERI_E_ARGUMENT ? PERI_E_CORRUPT : status;
    PERI_TRY(peri_ivf_check(index));
    PERI_TRY(peri_pq_check(&pq, peri_ivf_pq_books(index, &pq)));
    PERI_TRY(check_rotated(index, &pq));
    PERI_TRY(check_codes(index, &pq));
    PERI_TRY(peri_lists_check(index, &layout, (size_t)peri_ivf_params_of(index).n_lists));
    return peri_lists_interleave(index, &layout);
}

/* ---- searching ---------------------------------------------------------------------------- */

static peri_op_pq_scan scan_op(const peri_index *index, const peri_pq *pq) {
    const char *centroids = pq->rotation == NULL ? "centroids" : "rotated_centroids";
    bool residual = peri_ivf_pq_params_of(index)->residual != 0;
    return (peri_op_pq_scan){
        .kind = PERI_OP_PQ_SCAN,
        .metric = index->metric,
        .lists = peri_lists_of(index),
        .centroids = residual ? data_of(peri_index_section(index, centroids)) : NULL,
        .codebooks = data_of(pq->codebooks),
        .per_cluster = pq->codebook_kind == PERI_PER_CLUSTER,
        .pq_dim = pq->pq_dim,
        .pq_len = pq->pq_len,
        .pq_bits = pq->pq_bits,
        .codes = peri_matrix_view(peri_index_section(index, "list_codes")).data,
        .lut_dtype = PERI_F32
    };
}

/* Queries as the codes are of rows. */
static peri_status turn_queries(const peri_index *index, peri_lane *lane, const peri_pq *pq,
                                const peri_view *queries, peri_view *out) {
    peri_ivf_turn turn = { NULL, data_of(pq->rotation), pq->rotated_dim };
    *out = *queries;
    if (pq->rotation == NULL && index->metric != PERI_COSINE) return PERI_OK;
    out->cols = pq->rotated_dim;
    out->stride_bytes = out->cols * sizeof(float);
    PERI_TRY(peri_lane_take(lane, out->rows, out->stride_bytes, &out->data));
    return peri_ivf_turn_rows(index, lane, &turn, queries, NULL, out);
}

static peri_status read_search(const peri_options *options, peri_op_pq_scan *op) {
    static const peri_dtype dtypes[] = { PERI_F32, PERI_F16, PERI_U8 };
    ivf_pq_search params;
    peri_params_default(&search_table, &params);
    PERI_TRY(peri_params_read(&search_table, options, &params));
    op->lut_dtype = dtypes[params.lut_dtype];
    return PERI_OK;
}

static peri_status ivf_pq_scan(const peri_index *index, peri_lane *lane, const peri_scan *scan) {
    peri_ivf_probes probes;
    peri_pq pq;
    PERI_TRY(peri_ivf_pq_of(index, &pq));
    peri_op_pq_scan op = scan_op(index, &pq);
    PERI_TRY(read_search(scan->options, &op));
    PERI_TRY(peri_ivf_probe(index, lane, scan, &probes));
    PERI_TRY(turn_queries(index, lane, &pq, &probes.queries, &op.queries));
    op.probes = probes.lists;
    op.n_probes = probes.n_probes;
    op.filter = scan->filter;
    op.k = scan->k;
    op.ids = scan->ids;
    op.distances = scan->distances;
    op.visited = scan->visited;
    return peri_lane_run(lane, (const peri_op *)&op);
}

static peri_status ivf_pq_check_place(const peri_index *index) {
    peri_pq pq;
    PERI_TRY(peri_ivf_pq_of(index, &pq));
    peri_op_pq_scan op = scan_op(index, &pq);
    op.queries = (peri_view){ NULL,           0,
                              pq.rotated_dim, pq.rotated_dim * sizeof(float),
                              PERI_F32,       index->device->place };
    op.k = 1;
    return peri_ivf_check_op(index, &op);
}

static void ivf_pq_describe(const peri_index *index, peri_field_fn field, void *ud) {
    peri_pq pq;
    peri_lists_describe(index, field, ud);
    if (peri_ivf_pq_of(index, &pq) != PERI_OK) return;
    peri_value rotated = { PERI_VALUE_FLAG, { .flag = pq.rotation != NULL } };
    peri_field_int(field, ud, "pq_len", pq.pq_len);
    peri_field_int(field, ud, "rotated_dim", pq.rotated_dim);
    peri_field_int(field, ud, "padding", pq.rotated_dim - pq.dim);
    peri_field_int(field, ud, "code_bytes", (int64_t)peri_pq_row_bytes(pq.pq_dim, pq.pq_bits));
    field(ud, "rotation", &rotated);
}

const peri_kind peri_ivf_pq_kind = {
    .ops = PERI_INDEX_OPS("ivf_pq", &search_table),
    .build_table = &build_table,
    .saved_table = &build_table,
    .sections = sections,
    .memory = "(n + 15.5 * n_lists) * (math.ceil(pq_dim * pq_bits / 8) + 4) + "
              "n_lists * (4 * dim + 12) + math.ceil(dim / pq_dim) * 4 * ("
              "(codebook_kind == 'per_cluster' and n_lists or pq_dim) * 2 ^ pq_bits + "
              "((opq or force_random_rotation or dim % pq_dim ~= 0) and "
              "pq_dim * (dim + n_lists) or 0))",
    .rowless = true,
    .build = ivf_pq_build,
    .adopt = ivf_pq_adopt,
    .scan = ivf_pq_scan,
    .reach = peri_ivf_reach,
    .check_place = ivf_pq_check_place,
    .extend = ivf_pq_extend,
    .remove = ivf_pq_remove,
    .pack = ivf_pq_pack,
    .describe = ivf_pq_describe,
};
