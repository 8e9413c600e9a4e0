/* vamana.c: a graph of one level whose links reach far (Subramanya et al.: DiskANN: Fast accurate
 * billion-point nearest neighbor search on a single node, NeurIPS 2019).
 *
 * Built by insertion in batches (graph/layers.h) in two passes, as the paper does: links chosen
 * with alpha 1, then every row once more with alpha, from the rows that a walk keeps and those it
 * is linked to. Walks begin at the medoid: the row nearest to the mean. As in the authors' code,
 * alpha applies to the values that are compared (squared distances), and a row chooses among the
 * best visited_size rows of its walk, not among all that it came by. Different: rows are inserted
 * one by one into an empty graph, not into a random one, so the first pass has half of the rows
 * to search; and rows that equal others are chained, so every row is reached. */
#include "graph/graph_check.h"
#include "index/layered.h"
#include "index/walk_codes.h"

#define VAMANA_BUILD_PARAMS(X, S)                                                                  \
    PERI_METRIC_PARAM(X, S)                                                                        \
    X(S, INT, graph_degree, 64, 1, 1024, NULL, NULL, "links of a row: R of the paper")             \
    X(S, INT, visited_size, 100, 1, 16384, NULL, NULL,                                             \
      "rows that a walk keeps while the graph is built, of which links are chosen: L")             \
    X(S, REAL, alpha, 1.2, 1, 4, NULL, NULL,                                                       \
      "how much nearer to a link than to the row another must be to be dropped for it")            \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the order of the rows")              \
    PERI_WALK_CODES_PARAM(X, S)

#define VAMANA_SAVED_PARAMS(X, S)                                                                  \
    VAMANA_BUILD_PARAMS(X, S)                                                                      \
    X(S, INT, entry, 0, 0, 4294967295, NULL, NULL, "the row where every walk begins")

PERI_PARAMS_STRUCT(vamana_params, VAMANA_SAVED_PARAMS)

static const peri_param vamana_saved_rows[] = { PERI_PARAMS_ROWS(vamana_params,
                                                                 VAMANA_SAVED_PARAMS) };
enum { VAMANA_SAVED_COUNT = sizeof vamana_saved_rows / sizeof *vamana_saved_rows };
static const peri_param_table vamana_build_table = { "vamana.build", vamana_saved_rows,
                                                     VAMANA_SAVED_COUNT - 1 };
static const peri_param_table vamana_saved_table = { "vamana.saved", vamana_saved_rows,
                                                     VAMANA_SAVED_COUNT };
_Static_assert(sizeof(vamana_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

static const char *const vamana_sections[] = { "graph", PERI_WALK_CODES_SECTIONS, NULL };

/* ---- building and changing ---------------------------------------------------------------- */

/* The graph of `next`, from that of `old` or from nothing. */
static peri_status make_graph(const peri_index *old, peri_index *next, size_t threads,
                              const peri_control *control) {
    vamana_params *params = (void *)next->params;
    peri_layers layers = { .degree = (size_t)params->graph_degree,
                           .chosen = (size_t)params->graph_degree,
                           .ef = (size_t)params->visited_size,
                           .alpha = (float)params->alpha,
                           .twice = true,
                           .seed = (uint64_t)params->seed,
                           .threads = threads,
                           .control = control };
    if (old != NULL) layers.old_entry = (uint32_t)params->entry;
    PERI_TRY(peri_layered_make(old, next, &layers));
    params->entry = layers.entry;
    if (old == NULL) return PERI_OK;
    return peri_walk_codes_link(next, params->codes, threads, control);
}

static peri_status vamana_build(peri_index *index, peri_matrix *rows, size_t threads,
                                const peri_control *control) {
    (void)rows; /* their section is at the index's place */
    PERI_TRY(make_graph(NULL, index, threads, control));
    return peri_walk_codes_make(index, &((vamana_params *)(void *)index->params)->codes, threads,
                                control);
}

static peri_status vamana_extend(const peri_index *old, peri_index *next,
                                 const peri_growth *growth) {
    const vamana_params *params = (const void *)next->params;
    PERI_TRY(peri_walk_codes_extend(old, next, growth, params->codes));
    return make_graph(old, next, growth->threads, growth->control);
}

static peri_status vamana_remove(const peri_index *old, peri_index *next, const peri_loss *loss) {
    return make_graph(old, next, loss->threads, loss->control);
}

static peri_status vamana_adopt(peri_index *index) {
    vamana_params *params = (void *)index->params;
    peri_matrix *graph = peri_index_section(index, "graph");
    if ((uint64_t)params->entry >= index->rows)
        return peri_fail(PERI_E_CORRUPT, "entry %lld of %zu rows", (long long)params->entry,
                         index->rows);
    PERI_TRY(peri_graph_check(graph, index->rows));
    if (peri_matrix_view(graph).cols != (size_t)params->graph_degree)
        return peri_fail(PERI_E_CORRUPT, "graph: %zu links a row, graph_degree is %lld",
                         peri_matrix_view(graph).cols, (long long)params->graph_degree);
    PERI_TRY(peri_walk_codes_adopt(index, &params->codes));
    return peri_layered_count_holes(index, (size_t)params->entry);
}

/* ---- searching ---------------------------------------------------------------------------- */

#define VAMANA_SEARCH_PARAMS(X, S)                                                                 \
    X(S, INT, itopk_size, 64, 1, 16384, NULL, NULL,                                                \
      "rows that the walk keeps, L of the paper: more is slower and finds more; at least k is "    \
      "used")                                                                                      \
    X(S, INT, search_width, 1, 1, 64, NULL, NULL, "rows opened in one iteration")                  \
    PERI_WALK_RERANK_PARAM(X, S)

PERI_PARAMS_STRUCT(vamana_search_params, VAMANA_SEARCH_PARAMS)
static const peri_param vamana_search_rows[] = { PERI_PARAMS_ROWS(vamana_search_params,
                                                                  VAMANA_SEARCH_PARAMS) };
static const peri_param_table vamana_search_table = {
    "vamana.search", vamana_search_rows, sizeof vamana_search_rows / sizeof *vamana_search_rows
};

static peri_status vamana_walk(const peri_index *index, const peri_options *options, size_t k,
                               peri_op_graph_search *op) {
    vamana_search_params params;
    const vamana_params *built = (const void *)index->params;
    peri_params_default(&vamana_search_table, &params);
    PERI_TRY(peri_params_read(&vamana_search_table, options, &params));
    peri_view graph = peri_matrix_view(peri_index_section(index, "graph"));
    op->graph = graph.data;
    op->degree = graph.cols;
    op->hierarchy = (peri_hierarchy){ .entry = (uint32_t)built->entry };
    op->itopk_size = (size_t)params.itopk_size < k ? k : (size_t)params.itopk_size;
    op->search_width = (size_t)params.search_width;
    peri_walk_codes_fill(index, params.rerank, op);
    return PERI_OK;
}

const peri_kind peri_vamana_kind = {
    .ops = PERI_INDEX_OPS("vamana", &vamana_search_table),
    .build_table = &vamana_build_table,
    .saved_table = &vamana_saved_table,
    .sections = vamana_sections,
    .memory = "n * (dim * bytes + 4 * graph_degree + " PERI_WALK_CODES_MEMORY("graph_degree") ")",
    .build = vamana_build,
    .adopt = vamana_adopt,
    .walk = vamana_walk,
    .extend = vamana_extend,
    .remove = vamana_remove,
};
