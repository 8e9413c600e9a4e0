/* ivf.c: the coarse quantizer of the kinds on inverted lists. */
#include "index/ivf.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "quant/kmeans.h"

#define HIERARCHICAL_LISTS 4096 /* from here on k-means finds large clusters first */

static const peri_param search_rows[] = { PERI_PARAMS_ROWS(peri_ivf_search_params,
                                                           PERI_IVF_SEARCH_PARAMS) };
static const peri_param_table search_table = { "ivf.search", search_rows,
                                               sizeof search_rows / sizeof *search_rows };

peri_ivf_params peri_ivf_params_of(const peri_index *index) {
    peri_ivf_params params;
    memcpy(&params, index->params, sizeof params);
    return params;
}

static size_t n_lists_of(const peri_index *index) {
    return (size_t)peri_ivf_params_of(index).n_lists;
}

/* ---- training ----------------------------------------------------------------------------- */

static peri_status check_train(const peri_index *index, size_t rows) {
    peri_ivf_params params = peri_ivf_params_of(index);
    if (params.add_data_on_build == 0 && index->ids != NULL)
        return peri_fail(PERI_E_ARGUMENT,
                         "ids: given, but add_data_on_build = false adds no rows; give them to "
                         "extend");
    if ((uint64_t)params.n_lists <= rows) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT,
                     "n_lists: %lld given for %zu rows, allowed: 1..%zu; set it to about %.0f, the "
                     "square root of the rows",
                     (long long)params.n_lists, rows, rows, ceil(sqrt((double)rows)));
}

peri_status peri_ivf_train(peri_index *index, peri_matrix *rows, size_t threads,
                           const peri_control *control) {
    peri_ivf_params params = peri_ivf_params_of(index);
    peri_matrix *centroids;
    PERI_TRY(check_train(index, peri_matrix_view(rows).rows));
    peri_kmeans kmeans = {
        .rows = rows,
        .metric = index->metric,
        .n_clusters = (size_t)params.n_lists,
        .n_iters = (uint32_t)params.kmeans_n_iters,
        .train_fraction = params.kmeans_trainset_fraction,
        .init = PERI_KMEANS_PLUSPLUS,
        .balanced = true,
        .hierarchical = params.n_lists >= HIERARCHICAL_LISTS,
        .seed = (uint64_t)params.seed,
        .threads = threads,
        .control = control,
    };
    PERI_TRY(peri_kmeans_train(&kmeans, &centroids, NULL));
    return peri_index_add(index, "centroids", centroids);
}

peri_status peri_ivf_label(const peri_index *index, peri_matrix *rows, size_t threads,
                           const peri_control *control, peri_matrix **labels) {
    return peri_kmeans_assign(rows, peri_index_section(index, "centroids"), index->metric, threads,
                              control, labels, NULL);
}

/* ---- probing ------------------------------------------------------------------------------ */

static peri_status n_probes_of(const peri_index *index, const peri_options *options, size_t *out) {
    peri_ivf_search_params params;
    peri_params_default(&search_table, &params);
    PERI_TRY(peri_params_read(&search_table, options, &params));
    *out = peri_min_size((size_t)params.n_probes, n_lists_of(index));
    return PERI_OK;
}

/* Queries in f32, as centroids are. */
static peri_status widen(peri_lane *lane, const peri_view *queries, peri_view *out) {
    *out = *queries;
    if (queries->dtype == PERI_F32) return PERI_OK;
    out->dtype = PERI_F32;
    out->stride_bytes = queries->cols * sizeof(float);
    PERI_TRY(peri_lane_take(lane, queries->rows, out->stride_bytes, &out->data));
    peri_op_convert op = { PERI_OP_CONVERT, *queries, *out };
    return peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_ivf_probe(const peri_index *index, peri_lane *lane, const peri_scan *scan,
                           peri_ivf_probes *out) {
    bool squared = index->metric == PERI_SQEUCLIDEAN || index->metric == PERI_EUCLIDEAN;
    size_t queries = scan->queries.rows;
    memset(out, 0, sizeof *out);
    PERI_TRY(widen(lane, &scan->queries, &out->queries));
    PERI_TRY(n_probes_of(index, scan->options, &out->n_probes));
    if (scan->exhaustive) out->n_probes = n_lists_of(index);
    if (out->n_probes == n_lists_of(index)) return PERI_OK;
    peri_op_knn op = { .kind = PERI_OP_KNN,
                       .metric = squared ? PERI_SQEUCLIDEAN : PERI_INNER_PRODUCT,
                       .queries = out->queries,
                       .rows = peri_matrix_view(peri_index_section(index, "centroids")),
                       .k = out->n_probes };
    size_t items;
    if (!peri_mul_fits(queries, out->n_probes, &items)) items = SIZE_MAX;
    PERI_TRY(peri_lane_take(lane, items, sizeof *op.ids, &op.ids));
    PERI_TRY(peri_lane_take(lane, items, sizeof *op.distances, &op.distances));
    out->lists = op.ids;
    out->distances = op.distances;
    return peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_ivf_reach(const peri_index *index, const peri_options *options, double *out) {
    size_t n_probes;
    PERI_TRY(n_probes_of(index, options, &n_probes));
    *out = (double)n_probes / (double)n_lists_of(index);
    return PERI_OK;
}

/* ---- checking ----------------------------------------------------------------------------- */

peri_status peri_ivf_check(const peri_index *index) {
    peri_matrix *centroids = peri_index_section(index, "centroids");
    if (centroids == NULL) return peri_fail(PERI_E_CORRUPT, "section 'centroids' is missing");
    peri_view view = peri_matrix_view(centroids);
    if (view.rows != n_lists_of(index) || view.cols != index->dim || view.dtype != PERI_F32)
        return peri_fail(PERI_E_CORRUPT,
                         "section 'centroids' is %zu x %zu %s, expected %zu x %u "
                         "f32",
                         view.rows, view.cols, peri_dtype_name(view.dtype), n_lists_of(index),
                         index->dim);
    peri_status status = peri_matrix_check(centroids, false, "centroids", 0, NULL);
    return status == PERI_E_INVALID ? PERI_E_CORRUPT : status;
}

peri_status peri_ivf_check_op(const peri_index *index, const void *op) {
    peri_device *device = index->device;
    char reason[256] = "", place[32];
    if (device->driver->supports(device, op, reason, sizeof reason)) return PERI_OK;
    return peri_fail(PERI_E_UNSUPPORTED, "%s: %s",
                     peri_place_format(device->place, place, sizeof place), reason);
}
