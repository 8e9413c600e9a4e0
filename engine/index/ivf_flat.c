/* ivf_flat.c: inverted lists of whole rows: a search compares the rows of the lists nearest to the
 * query, exactly (Sivic & Zisserman: Video Google, ICCV 2003).
 *
 * Sections: those of ivf.h and lists.h; "list_rows" [capacity, dim], the rows in the order of the
 * lists; "list_lengths" f32 [capacity, 1], their lengths, under cosine. */
#include "core/distance.h"
#include "index/ivf.h"

#define IVF_FLAT_PARAMS(X, S)                                                                      \
    PERI_IVF_PARAMS(X, S)                                                                          \
    X(S, FLAG, adaptive_centers, 0, 0, 1, NULL, NULL,                                              \
      "extend moves the centroids to the mean of all their rows")

PERI_PARAMS_STRUCT(ivf_flat_params, IVF_FLAT_PARAMS)
_Static_assert(sizeof(ivf_flat_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

static const peri_param build_rows[] = { PERI_PARAMS_ROWS(ivf_flat_params, IVF_FLAT_PARAMS) };
static const peri_param_table build_table = { "ivf_flat.build", build_rows,
                                              sizeof build_rows / sizeof *build_rows };
static const peri_param search_rows[] = { PERI_PARAMS_ROWS(peri_ivf_search_params,
                                                           PERI_IVF_SEARCH_PARAMS) };
static const peri_param_table search_table = { "ivf_flat.search", search_rows,
                                               sizeof search_rows / sizeof *search_rows };

static const char *const sections[] = { "centroids", "list_offsets", "list_sizes", "list_slots",
                                        "list_rows", "list_lengths", NULL };

enum { PART_ROWS, PART_LENGTHS };
static const peri_lists_layout layout = { 1, { "list_rows", "list_lengths", NULL }, 0 };

static const float *lengths_of(const peri_index *index) {
    peri_matrix *lengths = peri_index_section(index, "list_lengths");
    return lengths == NULL ? NULL : peri_matrix_view(lengths).data;
}

/* ---- entries ------------------------------------------------------------------------------ */

/* Lengths of rows, f32 [m, 1] at their place. */
static peri_status measure(const peri_index *index, peri_matrix *rows, peri_matrix **out) {
    peri_view view = peri_matrix_view(rows);
    peri_lane *lane = NULL;
    peri_status status;
    PERI_TRY(peri_matrix_create(index->context, view.rows, 1, PERI_F32, view.place, out));
    PERI_GO(peri_lane_acquire(index->device, &lane));
    peri_op_lengths op = { PERI_OP_LENGTHS, view, peri_matrix_view(*out).data };
    if (view.rows > 0) PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, NULL));
done:
    peri_lane_release(lane);
    if (status == PERI_OK) return status;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

static void entries_close(peri_entries *entries) {
    peri_matrix_release(entries->labels);
    peri_matrix_release(entries->parts[PART_LENGTHS]);
}

/* What rows (borrowed) become in the lists whose centroids `index` has. */
static peri_status entries_open(const peri_index *index, peri_matrix *rows, peri_entries *entries) {
    peri_status status;
    entries->parts[PART_ROWS] = rows;
    PERI_GO(peri_ivf_label(index, rows, entries->threads, entries->control, &entries->labels));
    if (index->metric == PERI_COSINE) PERI_GO(measure(index, rows, &entries->parts[PART_LENGTHS]));
done:
    if (status != PERI_OK) entries_close(entries);
    return status;
}

static peri_status ivf_flat_build(peri_index *index, peri_matrix *given, size_t threads,
                                  const peri_control *control) {
    peri_ivf_params params = peri_ivf_params_of(index);
    peri_entries entries = { .threads = threads, .control = control };
    peri_matrix *rows = NULL, *added = NULL;
    peri_status status;
    PERI_GO(peri_matrix_move(given, index->device->place, &rows));
    PERI_GO(peri_ivf_train(index, rows, threads, control));
    size_t count = params.add_data_on_build != 0 ? peri_matrix_view(rows).rows : 0;
    PERI_GO(peri_matrix_slice(rows, 0, count, &added));
    PERI_GO(peri_index_set_shape(index, count, index->dim, index->dtype));
    PERI_GO(entries_open(index, added, &entries));
    status = peri_lists_create(index, &layout, (size_t)params.n_lists, &entries);
    entries_close(&entries);
done:
    peri_matrix_release(added);
    peri_matrix_release(rows);
    return status;
}

/* ---- coming and leaving ------------------------------------------------------------------- */

static peri_status move_centroids(const peri_index *old, const peri_entries *entries,
                                  peri_matrix *centroids, peri_lane *lane) {
    peri_view sizes = peri_matrix_view(peri_index_section(old, "list_sizes"));
    peri_op_cluster_sums op = { .kind = PERI_OP_CLUSTER_SUMS, .unit = old->metric == PERI_COSINE };
    peri_matrix *host;
    double *weights, *placed;
    op.rows = peri_matrix_view(entries->parts[PART_ROWS]);
    op.labels = peri_matrix_view(entries->labels).data;
    op.centroids = peri_matrix_view(centroids);
    if (op.unit) op.lengths = peri_matrix_view(entries->parts[PART_LENGTHS]).data;
    PERI_TRY(peri_lane_take_host(lane, sizes.rows, sizeof *weights, &weights));
    PERI_TRY(peri_matrix_move(peri_index_section(old, "list_sizes"), PERI_CPU, &host));
    for (size_t l = 0; l < sizes.rows; l++)
        weights[l] = ((const uint32_t *)peri_matrix_view(host).data)[l];
    peri_matrix_release(host);
    PERI_TRY(peri_lane_upload(lane, weights, sizes.rows, sizeof *weights, &placed));
    op.weights = placed;
    PERI_TRY(peri_lane_take(lane, sizes.rows, sizeof *op.counts, &op.counts));
    peri_lane_follow(lane, entries->control, entries->threads);
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    return peri_lane_wait(lane, entries->control);
}

/* Centroids of the next index: the same, or moved to the mean of the rows there were and those that
 * come. Rows stay in the lists that they are in. */
static peri_status next_centroids(const peri_index *old, peri_index *next,
                                  const peri_entries *entries) {
    const ivf_flat_params *params = (const ivf_flat_params *)(const void *)old->params;
    peri_matrix *before = peri_index_section(old, "centroids"), *moved;
    peri_view view = peri_matrix_view(before);
    peri_lane *lane = NULL;
    peri_status status;
    if (params->adaptive_centers == 0 || peri_matrix_view(entries->labels).rows == 0)
        return peri_index_share(next, old, "centroids");
    PERI_TRY(peri_matrix_create(old->context, view.rows, view.cols, PERI_F32, view.place, &moved));
    PERI_GO(peri_matrix_copy_into(moved, 0, before));
    PERI_GO(peri_lane_acquire(old->device, &lane));
    PERI_GO(move_centroids(old, entries, moved, lane));
done:
    peri_lane_release(lane);
    if (status == PERI_OK) return peri_index_add(next, "centroids", moved);
    peri_matrix_release(moved);
    return status;
}

static peri_status ivf_flat_extend(const peri_index *old, peri_index *next,
                                   const peri_growth *growth) {
    peri_entries entries = { .first = growth->first,
                             .threads = growth->threads,
                             .control = growth->control };
    PERI_TRY(entries_open(old, growth->rows, &entries));
    peri_status status = next_centroids(old, next, &entries);
    if (status == PERI_OK) status = peri_lists_extend(old, next, &layout, &entries);
    entries_close(&entries);
    return status;
}

static peri_status ivf_flat_remove(const peri_index *old, peri_index *next, const peri_loss *loss) {
    return peri_lists_remove(old, next, &layout, loss);
}

static peri_status ivf_flat_pack(const peri_index *old, peri_index *next) {
    return peri_lists_pack(old, next, &layout);
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status check_rows(const peri_index *index) {
    peri_matrix *rows = peri_index_section(index, "list_rows");
    peri_matrix *lengths = peri_index_section(index, "list_lengths");
    if (rows == NULL) return peri_fail(PERI_E_CORRUPT, "section 'list_rows' is missing");
    peri_view view = peri_matrix_view(rows);
    if (view.cols != index->dim || view.dtype != index->dtype)
        return peri_fail(PERI_E_CORRUPT,
                         "section 'list_rows' has %zu columns of %s, expected %u "
                         "of %s",
                         view.cols, peri_dtype_name(view.dtype), index->dim,
                         peri_dtype_name(index->dtype));
    if ((lengths != NULL) != (index->metric == PERI_COSINE))
        return peri_fail(PERI_E_CORRUPT, "section 'list_lengths' is for cosine, and needed there");
    if (lengths != NULL &&
        (peri_matrix_view(lengths).cols != 1 || peri_matrix_view(lengths).dtype != PERI_F32))
        return peri_fail(PERI_E_CORRUPT, "section 'list_lengths' is not f32 of 1 column");
    peri_status status = peri_matrix_check(rows, false, "list_rows", 0, NULL);
    return status == PERI_E_INVALID ? PERI_E_CORRUPT : status;
}

static peri_status ivf_flat_adopt(peri_index *index) {
    PERI_TRY(peri_ivf_check(index));
    PERI_TRY(check_rows(index));
    return peri_lists_check(index, &layout, (size_t)peri_ivf_params_of(index).n_lists);
}

/* ---- searching ---------------------------------------------------------------------------- */

static peri_op_list_scan scan_op(const peri_index *index) {
    return (peri_op_list_scan){ .kind = PERI_OP_LIST_SCAN,
                                .metric = index->metric,
                                .lists = peri_lists_of(index),
                                .rows = peri_matrix_view(peri_index_section(index, "list_rows")),
                                .lengths = lengths_of(index) };
}

static peri_status ivf_flat_scan(const peri_index *index, peri_lane *lane, const peri_scan *scan) {
    peri_op_list_scan op = scan_op(index);
    peri_ivf_probes probes;
    PERI_TRY(peri_ivf_probe(index, lane, scan, &probes));
    op.queries = scan->queries;
    op.probes = probes.lists;
    op.n_probes = probes.n_probes;
    op.filter = scan->filter;
    op.k = scan->k;
    op.ids = scan->ids;
    op.distances = scan->distances;
    op.visited = scan->visited;
    return peri_lane_run(lane, (const peri_op *)&op);
}

static peri_status ivf_flat_range(const peri_index *index, peri_lane *lane,
                                  const peri_range_scan *scan) {
    peri_op_list_scan like = scan_op(index);
    peri_scan asked = { .options = scan->options, .queries = scan->queries };
    peri_ivf_probes probes;
    PERI_TRY(peri_ivf_probe(index, lane, &asked, &probes));
    peri_op_range_scan op = { PERI_OP_RANGE_SCAN, index->metric, scan->queries,  probes.lists,
                              probes.n_probes,    like.lists,    like.rows,      like.lengths,
                              scan->filter,       scan->radius,  scan->counts,   scan->offsets,
                              scan->room,         scan->ids,     scan->distances };
    return peri_lane_run(lane, (const peri_op *)&op);
}

static peri_status ivf_flat_check_place(const peri_index *index) {
    peri_op_list_scan op = scan_op(index);
    op.queries = op.rows;
    op.queries.rows = 0;
    op.queries.dtype = peri_query_dtype(index->dtype);
    op.queries.stride_bytes = index->dim * peri_dtype_bytes(op.queries.dtype);
    op.k = 1;
    return peri_ivf_check_op(index, &op);
}

const peri_kind peri_ivf_flat_kind = {
    .ops = PERI_INDEX_OPS("ivf_flat", &search_table),
    .build_table = &build_table,
    .saved_table = &build_table,
    .sections = sections,
    .memory = "n * (dim * bytes + 4) + n_lists * (4 * dim + 12) + "
              "(metric == 'cosine' and 4 * n or 0)",
    .rowless = true,
    .build = ivf_flat_build,
    .adopt = ivf_flat_adopt,
    .scan = ivf_flat_scan,
    .range = ivf_flat_range,
    .reach = peri_ivf_reach,
    .check_place = ivf_flat_check_place,
    .extend = ivf_flat_extend,
    .remove = ivf_flat_remove,
    .pack = ivf_flat_pack,
    .describe = peri_lists_describe,
};
