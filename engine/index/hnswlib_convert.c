/* hnswlib_convert.c: an HNSW index from and to hnswlib's file, by way of the neutral graph of
 * engine/io. */
#include "index/hnswlib_convert.h"

#include <string.h>

#include "graph/graph_check.h"
#include "index/handle.h"
#include "index/hnsw.h"
#include "io/hnswlib_file.h"
#include "core/distance.h"

#define FILE_METRICS "sqeuclidean euclidean inner_product cosine" /* of its spaces */

static peri_status file_dtype(const peri_file_options *options, peri_dtype *out) {
    *out = PERI_F32;
    if (options->dtype == NULL || strcmp(options->dtype, "f32") == 0) return PERI_OK;
    *out = PERI_U8;
    if (strcmp(options->dtype, "u8") == 0) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "dtype: '%.40s' given, allowed for hnswlib: f32 u8",
                     options->dtype);
}

/* ---- writing ------------------------------------------------------------------------------ */

/* The rows as hnswlib's spaces want them: unit length for cosine, which it searches by inner
 * product. */
static peri_status file_rows(const peri_index *index, peri_dtype dtype, peri_matrix **out) {
    peri_matrix *rows = peri_index_section(index, "rows"), *host = NULL;
    peri_status status;
    *out = NULL;
    if (rows == NULL)
        return peri_fail(PERI_E_UNSUPPORTED,
                         "hnswlib's file holds the rows, and the index has none");
    PERI_GO(peri_matrix_move(rows, PERI_CPU, &host));
    if (dtype == PERI_U8 && (index->dtype != PERI_U8 || index->metric == PERI_COSINE)) {
        status = peri_fail(PERI_E_ARGUMENT, "dtype: 'u8' given, allowed for %s rows under %s: f32",
                           peri_dtype_name(index->dtype), peri_metric_name(index->metric));
        goto done;
    }
    if (index->metric == PERI_COSINE)
        PERI_GO(peri_matrix_normalize(host, out));
    else
        PERI_GO(peri_matrix_convert(host, dtype, out));
done:
    peri_matrix_release(host);
    return status;
}

static peri_status host_section(const peri_index *index, const char *name, peri_matrix **out) {
    peri_matrix *section = peri_index_section(index, name);
    *out = NULL;
    return section == NULL ? PERI_OK : peri_matrix_move(section, PERI_CPU, out);
}

peri_status peri_hnswlib_save(peri_index *index, const char *path,
                              const peri_file_options *options) {
    if (index->kind != &peri_hnsw_kind)
        return peri_fail(PERI_E_UNSUPPORTED,
                         "hnswlib's format holds an HNSW index, this is '%s': "
                         "call to_hnsw first",
                         index->kind->ops.kind);
    const peri_hnsw_params *params = peri_hnsw_params_of(index);
    peri_dtype dtype;
    PERI_TRY(file_dtype(options, &dtype));
    if (!peri_metric_by_products(index->metric))
        return peri_fail(PERI_E_UNSUPPORTED, "hnswlib searches no %s, only " FILE_METRICS,
                         peri_metric_name(index->metric));
    peri_hnswlib_graph graph = { .count = index->rows,
                                 .dim = index->dim,
                                 .dtype = dtype,
                                 .m = (size_t)params->m,
                                 .max_m = (size_t)params->m,
                                 .max_m0 = (size_t)params->m * 2,
                                 .ef_construction = (size_t)params->ef_construction,
                                 .level_max = (uint32_t)params->level_max,
                                 .entry = (uint32_t)params->entry };
    peri_status status;
    PERI_GO(file_rows(index, dtype, &graph.rows));
    PERI_GO(host_section(index, "ids", &graph.labels));
    PERI_GO(host_section(index, "graph", &graph.graph));
    PERI_GO(host_section(index, "first", &graph.first));
    PERI_GO(host_section(index, "links", &graph.links));
    PERI_GO(host_section(index, "deleted", &graph.deleted));
    PERI_GO(peri_hnswlib_write(index->context, path, &graph, options->control));
done:
    peri_hnswlib_graph_release(&graph);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------ */

/* Whether labels are the row numbers, which need no section. */
static bool plain_labels(peri_matrix *labels) {
    peri_view view = peri_matrix_view(labels);
    for (size_t r = 0; r < view.rows; r++)
        if (*(const int64_t *)peri_view_row(&view, r) != (int64_t)r) return false;
    return true;
}

/* Adds a matrix of the file at the index's place. */
static peri_status add_matrix(peri_index *index, const char *name, peri_matrix *matrix) {
    peri_matrix *here;
    if (matrix == NULL) return PERI_OK;
    PERI_TRY(peri_matrix_move(matrix, index->device->place, &here));
    return peri_index_add(index, name, here);
}

static peri_status fill(peri_index *index, const peri_hnswlib_graph *graph, peri_metric metric,
                        const peri_control *control) {
    peri_hnsw_params *params = peri_hnsw_params_of(index);
    params->metric = (int64_t)metric;
    params->m = (int64_t)graph->m;
    params->ef_construction = (int64_t)graph->ef_construction;
    params->entry = graph->entry;
    params->codes = PERI_WALK_CODES_NONE;
    params->level_max = graph->level_max;
    if (graph->count == 0) return peri_fail(PERI_E_UNSUPPORTED, "the file holds no elements");
    PERI_TRY(peri_matrix_check(graph->rows, metric == PERI_COSINE, "vectors", 0, control));
    PERI_TRY(peri_index_set_rows(index, graph->rows));
    if (graph->deleted != NULL) PERI_TRY(peri_index_set_deleted(index, graph->deleted));
    if (!plain_labels(graph->labels)) PERI_TRY(peri_index_set_ids(index, graph->labels));
    PERI_TRY(add_matrix(index, "graph", graph->graph));
    if (graph->level_max > 0) {
        PERI_TRY(add_matrix(index, "first", graph->first));
        PERI_TRY(add_matrix(index, "links", graph->links));
    }
    PERI_TRY(peri_index_add_lengths(index));
    PERI_TRY(index->kind->adopt(index));
    return peri_index_check_place(index);
}

peri_status peri_hnswlib_open(peri_context *context, const char *path,
                              const peri_file_options *options, peri_searcher **out) {
    peri_metric metric;
    peri_dtype dtype;
    if (options->metric == NULL)
        return peri_fail(PERI_E_ARGUMENT,
                         "metric: none given; hnswlib's file does not say it: " FILE_METRICS);
    PERI_TRY(peri_metric_parse(options->metric, &metric));
    if (!peri_metric_by_products(metric))
        return peri_fail(PERI_E_ARGUMENT, "metric: '%s' given, allowed for hnswlib: " FILE_METRICS,
                         options->metric);
    PERI_TRY(file_dtype(options, &dtype));
    peri_hnswlib_graph graph;
    peri_index *index = NULL;
    PERI_TRY(peri_hnswlib_read(context, path, dtype, options->control, &graph));
    peri_status status;
    PERI_GO(peri_index_create(context, &peri_hnsw_kind, options->place, &index));
    PERI_GO(fill(index, &graph, metric, options->control));
    status = peri_handle_create(index, out);
    index = NULL;
done:
    peri_index_release(index);
    peri_hnswlib_graph_release(&graph);
    return status;
}
