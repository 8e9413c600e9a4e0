/* host_supports.c: the limits of the operations on the host, each with its reason in words.
 *
 * ref and cpu take the same: f32, f16, i8 and u8 rows under every metric that they have. What is
 * refused here would be a wrong answer or an address out of range below. */
#include "backend/host_supports.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/code.h"
#include "core/codes.h"
#include "core/distance.h"

typedef struct reason {
    char *text;
    size_t size;
} reason;

__attribute__((format(printf, 2, 3))) static bool refuse(reason why, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (why.size > 0) vsnprintf(why.text, why.size, format, arguments);
    va_end(arguments);
    return false;
}

static bool is_vector_dtype(peri_dtype dtype) {
    return dtype == PERI_F32 || dtype == PERI_F16 || dtype == PERI_I8 || dtype == PERI_U8;
}

static bool rows_taken(const peri_view *rows, reason why) {
    if (!is_vector_dtype(rows->dtype))
        return refuse(why, "rows of %s are not searched, only f32 f16 i8 u8",
                      peri_dtype_name(rows->dtype));
    if (rows->cols == 0 || rows->cols > PERI_DIM_MAX)
        return refuse(why, "%zu columns given, 1..%u are taken", rows->cols, PERI_DIM_MAX);
    return true;
}

static bool slots_taken(size_t rows, reason why) {
    if (rows > PERI_SLOTS_MAX)
        return refuse(why, "%zu rows given, at most %u are addressed", rows, PERI_SLOTS_MAX);
    return true;
}

static bool metric_taken(peri_metric metric, const peri_view *rows, const float *lengths,
                         reason why) {
    if ((unsigned)metric >= PERI_METRIC_COUNT) return refuse(why, "metric %d is not known", metric);
    if (!peri_metric_takes(metric, rows->dtype))
        return refuse(why, "%s compares the bits of u8 rows, not of %s", peri_metric_name(metric),
                      peri_dtype_name(rows->dtype));
    if (metric == PERI_COSINE && lengths == NULL && rows->rows > 0)
        return refuse(why, "cosine needs the lengths of the rows");
    return true;
}

static bool queries_taken(const peri_view *queries, const peri_view *rows, reason why) {
    if (queries->cols != rows->cols)
        return refuse(why, "queries have %zu columns, rows %zu", queries->cols, rows->cols);
    if (queries->dtype != peri_query_dtype(rows->dtype))
        return refuse(why, "queries of %s on rows of %s, %s is taken",
                      peri_dtype_name(queries->dtype), peri_dtype_name(rows->dtype),
                      peri_dtype_name(peri_query_dtype(rows->dtype)));
    return true;
}

static bool k_taken(size_t k, size_t least, reason why) {
    if (k < least || k > PERI_K_MAX)
        return refuse(why, "k: %zu given, %zu..%u are taken", k, least, PERI_K_MAX);
    return true;
}

static bool convert_taken(const peri_op_convert *op, reason why) {
    if (op->in.rows != op->out.rows || op->in.cols != op->out.cols)
        return refuse(why, "shapes differ: %zu x %zu to %zu x %zu", op->in.rows, op->in.cols,
                      op->out.rows, op->out.cols);
    if (op->in.dtype == op->out.dtype) return true;
    if (!is_vector_dtype(op->in.dtype) || !is_vector_dtype(op->out.dtype))
        return refuse(why, "%s is not converted to %s", peri_dtype_name(op->in.dtype),
                      peri_dtype_name(op->out.dtype));
    return true;
}

static bool gather_taken(const peri_op_gather *op, reason why) {
    if (op->rows.cols != op->out.cols || op->rows.dtype != op->out.dtype)
        return refuse(why, "%zu columns of %s are not gathered into %zu of %s", op->rows.cols,
                      peri_dtype_name(op->rows.dtype), op->out.cols,
                      peri_dtype_name(op->out.dtype));
    return true;
}

static bool scatter_taken(const peri_op_scatter *op, reason why) {
    if (op->rows.cols != op->out.cols || op->rows.dtype != op->out.dtype)
        return refuse(why, "%zu columns of %s are not scattered into %zu of %s", op->rows.cols,
                      peri_dtype_name(op->rows.dtype), op->out.cols,
                      peri_dtype_name(op->out.dtype));
    if ((op->rows_interleaved || op->out_interleaved) && op->rows.dtype != PERI_U8)
        return refuse(why, "rows of %s are not interleaved, only u8",
                      peri_dtype_name(op->rows.dtype));
    return true;
}

static bool others_taken(const peri_op_others *op, reason why) {
    if (op->other_distances != NULL && op->distances == NULL)
        return refuse(why, "distances of others need those of all");
    if (op->degree > 0 && op->first <= PERI_SLOTS_MAX && op->count <= PERI_SLOTS_MAX - op->first)
        return true;
    return refuse(why, "lists of %zu for rows %zu .. %zu", op->degree, op->first,
                  op->first + op->count);
}

static bool select_k_taken(const peri_op_select_k *op, reason why) {
    if (op->values.dtype != PERI_F32)
        return refuse(why, "values of %s are not selected, only f32",
                      peri_dtype_name(op->values.dtype));
    if (op->k == 0 || op->k > PERI_SELECT_K_MAX)
        return refuse(why, "k: %zu given, 1..%u are taken", op->k, PERI_SELECT_K_MAX);
    return slots_taken(op->values.cols, why);
}

static bool merge_taken(const peri_op_merge *op, reason why) {
    if (op->parts == 0) return refuse(why, "parts: 0 given, 1 and more are taken");
    return k_taken(op->part_k, 1, why) && k_taken(op->k, 1, why);
}

static bool pairwise_taken(const peri_op_pairwise *op, reason why) {
    const peri_view *out = &op->out;
    if (!rows_taken(&op->rows, why) || !slots_taken(op->rows.rows, why) ||
        !metric_taken(op->metric, &op->rows, op->lengths, why) ||
        !queries_taken(&op->queries, &op->rows, why))
        return false;
    if (out->dtype == PERI_F32 && out->rows == op->queries.rows && out->cols == op->rows.rows)
        return true;
    return refuse(why, "distances of %zu queries to %zu rows do not go into %zu x %zu %s",
                  op->queries.rows, op->rows.rows, out->rows, out->cols,
                  peri_dtype_name(out->dtype));
}

static bool list_scan_taken(const peri_op_list_scan *op, reason why) {
    return rows_taken(&op->rows, why) && metric_taken(op->metric, &op->rows, op->lengths, why) &&
           queries_taken(&op->queries, &op->rows, why) && k_taken(op->k, 1, why);
}

static bool code_scan_taken(const peri_op_code_scan *op, reason why) {
    if (op->queries.dtype != PERI_F32)
        return refuse(why, "queries of %s on codes, f32 is taken",
                      peri_dtype_name(op->queries.dtype));
    if (op->queries.cols == 0 || op->queries.cols > PERI_DIM_MAX)
        return refuse(why, "%zu columns given, 1..%u are taken", op->queries.cols, PERI_DIM_MAX);
    if ((unsigned)op->metric >= PERI_METRIC_COUNT || !peri_metric_by_products(op->metric))
        return refuse(why,
                      "metric: %s over codes, sqeuclidean euclidean inner_product cosine "
                      "are taken",
                      peri_metric_name(op->metric));
    if (op->bits < 1 || op->bits > PERI_CODE_BITS_MAX)
        return refuse(why, "codes of %u bits, 1..%u are taken", op->bits, PERI_CODE_BITS_MAX);
    if (op->query_bytes != 1 && op->query_bytes != 2)
        return refuse(why, "queries of %u bytes, 1 and 2 are taken", op->query_bytes);
    if ((op->low == NULL) != (op->step == NULL)) return refuse(why, "low and step go together");
    return k_taken(op->k, 1, why);
}

static bool range_scan_taken(const peri_op_range_scan *op, reason why) {
    return rows_taken(&op->rows, why) && metric_taken(op->metric, &op->rows, op->lengths, why) &&
           queries_taken(&op->queries, &op->rows, why);
}

static bool pieces_taken(uint32_t pq_dim, uint32_t pq_len, uint32_t pq_bits, size_t cols,
                         reason why) {
    if (pq_bits < 1 || pq_bits > 8)
        return refuse(why, "pq_bits: %u given, 1..8 are taken", pq_bits);
    if (pq_dim == 0 || pq_len == 0 || cols != (size_t)pq_dim * pq_len)
        return refuse(why, "%zu columns are not %u pieces of %u", cols, pq_dim, pq_len);
    return true;
}

static bool pq_scan_taken(const peri_op_pq_scan *op, reason why) {
    if (op->queries.dtype != PERI_F32)
        return refuse(why, "queries of %s on codes, f32 is taken",
                      peri_dtype_name(op->queries.dtype));
    if ((unsigned)op->metric >= PERI_METRIC_COUNT || !peri_metric_by_products(op->metric))
        return refuse(why,
                      "metric: %s over codes, sqeuclidean euclidean inner_product cosine "
                      "are taken",
                      peri_metric_name(op->metric));
    if (op->lut_dtype != PERI_F32 && op->lut_dtype != PERI_F16 && op->lut_dtype != PERI_U8)
        return refuse(why, "tables of %s, f32 f16 u8 are taken", peri_dtype_name(op->lut_dtype));
    return pieces_taken(op->pq_dim, op->pq_len, op->pq_bits, op->queries.cols, why) &&
           k_taken(op->k, 1, why);
}

static bool knn_taken(const peri_op_knn *op, reason why) {
    return rows_taken(&op->rows, why) && slots_taken(op->rows.rows, why) &&
           metric_taken(op->metric, &op->rows, op->lengths, why) &&
           queries_taken(&op->queries, &op->rows, why) && k_taken(op->k, 1, why);
}

static bool centroids_taken(const peri_view *centroids, const peri_view *rows, reason why) {
    if (!rows_taken(rows, why)) return false;
    if (centroids->dtype != PERI_F32 || centroids->cols != rows->cols)
        return refuse(why,
                      "centroids of %zu columns of %s for rows of %zu, f32 of as many is taken",
                      centroids->cols, peri_dtype_name(centroids->dtype), rows->cols);
    if (centroids->rows == 0 || centroids->rows > PERI_SLOTS_MAX)
        return refuse(why, "%zu centroids given, 1..%u are taken", centroids->rows, PERI_SLOTS_MAX);
    return true;
}

static bool assign_taken(const peri_op_assign *op, reason why) {
    return centroids_taken(&op->centroids, &op->rows, why) &&
           metric_taken(op->metric, &op->centroids, op->lengths, why);
}

static bool sums_taken(const peri_op_cluster_sums *op, reason why) {
    return centroids_taken(&op->centroids, &op->rows, why) && slots_taken(op->rows.rows, why);
}

static bool refine_taken(const peri_op_refine *op, reason why) {
    return rows_taken(&op->rows, why) && slots_taken(op->rows.rows, why) &&
           metric_taken(op->metric, &op->rows, op->lengths, why) &&
           queries_taken(&op->queries, &op->rows, why) && k_taken(op->k, 0, why);
}

static bool join_taken(const peri_op_list_join *op, reason why) {
    if (!rows_taken(&op->rows, why) || !slots_taken(op->rows.rows, why) ||
        !metric_taken(op->metric, &op->rows, op->lengths, why))
        return false;
    if (op->degree == 0 || op->degree > PERI_K_MAX)
        return refuse(why, "degree: %zu given, 1..%u are taken", op->degree, PERI_K_MAX);
    if (op->probe_count == 0 || op->probe_count > UINT16_MAX) /* cpu numbers pairs in 32 bits */
        return refuse(why, "probe_count: %zu given, 1..%d are taken", op->probe_count, UINT16_MAX);
    return true;
}

static bool descent_taken(const peri_op_graph_descent *op, reason why) {
    if (!rows_taken(&op->rows, why) || !slots_taken(op->rows.rows, why) ||
        !metric_taken(op->metric, &op->rows, op->lengths, why))
        return false;
    if (op->degree == 0 || op->degree >= op->rows.rows)
        return refuse(why, "degree: %zu given for %zu rows, 1..rows - 1 are taken", op->degree,
                      op->rows.rows);
    return true;
}

static bool prune_taken(const peri_op_graph_prune *op, reason why) {
    if (!slots_taken(op->rows, why)) return false;
    if (op->degree == 0 || op->degree > op->knn_degree)
        return refuse(why, "degree: %zu given, 1..%zu are taken", op->degree, op->knn_degree);
    if (op->knn_degree > UINT16_MAX) /* cpu keeps ranks in 16 bits */
        return refuse(why, "knn_degree: %zu given, at most %d are taken", op->knn_degree,
                      UINT16_MAX);
    return true;
}

static bool link_taken(const peri_op_graph_link *op, reason why) {
    if (!rows_taken(&op->rows, why) || !slots_taken(op->rows.rows, why) ||
        !metric_taken(op->metric, &op->rows, op->lengths, why))
        return false;
    if (op->degree == 0) return refuse(why, "degree: 0 given, 1 and more are taken");
    if (!(op->alpha >= 1.0f && op->alpha <= 1024.0f))
        return refuse(why, "alpha: %g given, 1..1024 is taken", (double)op->alpha);
    if (op->metric == PERI_INNER_PRODUCT && op->alpha > 1.0f && op->lengths == NULL)
        return refuse(why, "alpha above 1 under inner_product needs the lengths of the rows");
    return true;
}

static bool codes_of_8_bits_taken(const peri_op_graph_search *op, reason why) {
    const peri_view *codes = &op->codes.rows;
    if (op->rows.dtype != PERI_F32 && op->rows.dtype != PERI_F16)
        return refuse(why, "codes of %s rows are not walked, only of f32 f16",
                      peri_dtype_name(op->rows.dtype));
    if (codes->dtype != PERI_U8 || codes->rows != op->rows.rows || codes->cols % 32 != 0 ||
        codes->cols < op->rows.cols)
        return refuse(why, "codes of %zu x %zu %s for %zu x %zu rows", codes->rows, codes->cols,
                      peri_dtype_name(codes->dtype), op->rows.rows, op->rows.cols);
    return true;
}

static bool packed_codes_taken(const peri_op_graph_search *op, reason why) {
    const peri_view *codes = &op->codes.rows;
    uint32_t bits = op->codes.bits, dim = op->codes.dim;
    if (bits != 1 && bits != 2 && bits != 4)
        return refuse(why, "codes of %u bits are not walked, only of 1 2 4", bits);
    if (dim % 32 != 0 || dim < op->rows.cols || dim >= 2 * PERI_DIM_MAX)
        return refuse(why, "codes of %u numbers for %zu columns", dim, op->rows.cols);
    if (codes->dtype != PERI_U8 || codes->rows != op->rows.rows ||
        codes->cols != peri_packed_row_bytes(dim, bits))
        return refuse(why, "codes of %zu x %zu %s for %zu rows and %u numbers of %u bits",
                      codes->rows, codes->cols, peri_dtype_name(codes->dtype), op->rows.rows, dim,
                      bits);
    return true;
}

static bool codes_taken(const peri_op_graph_search *op, reason why) {
    if (op->codes.rows.data == NULL) return true;
    if ((unsigned)op->metric >= PERI_METRIC_COUNT || !peri_metric_by_products(op->metric))
        return refuse(why, "codes are not walked under %s", peri_metric_name(op->metric));
    if (!(op->codes.bits == 0 ? codes_of_8_bits_taken : packed_codes_taken)(op, why)) return false;
    if (op->rerank < op->k || op->rerank > op->itopk_size)
        return refuse(why, "rerank: %zu given, k..itopk_size is taken, which is %zu..%zu",
                      op->rerank, op->k, op->itopk_size);
    return true;
}

static bool search_taken(const peri_op_graph_search *op, reason why) {
    if (!rows_taken(&op->rows, why) || !slots_taken(op->rows.rows, why) ||
        !metric_taken(op->metric, &op->rows, op->lengths, why) ||
        !queries_taken(&op->queries, &op->rows, why) || !k_taken(op->k, 1, why))
        return false;
    if (op->itopk_size < op->k)
        return refuse(why, "itopk_size: %zu given, at least k = %zu is taken", op->itopk_size,
                      op->k);
    return codes_taken(op, why);
}

static bool rotate_taken(const peri_op_rotate *op, reason why) {
    if (!rows_taken(&op->rows, why)) return false;
    if (op->out.dtype != PERI_F32 || op->out.rows != op->rows.rows || op->out.cols == 0 ||
        (op->rotation == NULL && op->out.cols < op->rows.cols))
        return refuse(why, "%zu x %zu rows are not rotated into %zu x %zu %s", op->rows.rows,
                      op->rows.cols, op->out.rows, op->out.cols, peri_dtype_name(op->out.dtype));
    return true;
}

static bool pq_encode_taken(const peri_op_pq_encode *op, reason why) {
    if (op->rows.dtype != PERI_F32)
        return refuse(why, "rows of %s are not coded, only f32", peri_dtype_name(op->rows.dtype));
    if (!pieces_taken(op->pq_dim, op->pq_len, op->pq_bits, op->rows.cols, why)) return false;
    if (op->labels == NULL && op->books != op->pq_dim)
        return refuse(why, "%zu codebooks for %u pieces without labels", op->books, op->pq_dim);
    return true;
}

bool peri_host_supports(const peri_device *device, const peri_op *op, char *text, size_t size) {
    (void)device;
    reason why = { text, size };
    switch (op->kind) {
    case PERI_OP_CONVERT: return convert_taken((const peri_op_convert *)op, why);
    case PERI_OP_LENGTHS: return rows_taken(&((const peri_op_lengths *)op)->rows, why);
    case PERI_OP_GATHER: return gather_taken((const peri_op_gather *)op, why);
    case PERI_OP_SCATTER: return scatter_taken((const peri_op_scatter *)op, why);
    case PERI_OP_SELECT_K: return select_k_taken((const peri_op_select_k *)op, why);
    case PERI_OP_MERGE: return merge_taken((const peri_op_merge *)op, why);
    case PERI_OP_PAIRWISE: return pairwise_taken((const peri_op_pairwise *)op, why);
    case PERI_OP_LIST_SCAN: return list_scan_taken((const peri_op_list_scan *)op, why);
    case PERI_OP_CODE_SCAN: return code_scan_taken((const peri_op_code_scan *)op, why);
    case PERI_OP_RANGE_SCAN: return range_scan_taken((const peri_op_range_scan *)op, why);
    case PERI_OP_PQ_SCAN: return pq_scan_taken((const peri_op_pq_scan *)op, why);
    case PERI_OP_OTHERS: return others_taken((const peri_op_others *)op, why);
    case PERI_OP_KNN: return knn_taken((const peri_op_knn *)op, why);
    case PERI_OP_ASSIGN: return assign_taken((const peri_op_assign *)op, why);
    case PERI_OP_CLUSTER_SUMS: return sums_taken((const peri_op_cluster_sums *)op, why);
    case PERI_OP_REFINE: return refine_taken((const peri_op_refine *)op, why);
    case PERI_OP_LIST_JOIN: return join_taken((const peri_op_list_join *)op, why);
    case PERI_OP_GRAPH_DESCENT: return descent_taken((const peri_op_graph_descent *)op, why);
    case PERI_OP_GRAPH_PRUNE: return prune_taken((const peri_op_graph_prune *)op, why);
    case PERI_OP_GRAPH_LINK: return link_taken((const peri_op_graph_link *)op, why);
    case PERI_OP_GRAPH_SEARCH: return search_taken((const peri_op_graph_search *)op, why);
    case PERI_OP_ROTATE: return rotate_taken((const peri_op_rotate *)op, why);
    case PERI_OP_PQ_ENCODE: return pq_encode_taken((const peri_op_pq_encode *)op, why);
    case PERI_OP_REPORT: return true;
    case PERI_OP_COUNT: break;
    }
    return refuse(why, "operation %d is not known", op->kind);
}
