/* cagra.c: a graph of fixed degree, walked from random rows (Ootomo et al.: CAGRA, arXiv
 * 2308.15136).
 *
 * Building is engine/graph's; the walk is an operation of the backends. Here are the parameters,
 * under the field's names and defaults, and what the automatic ones become. Different from the
 * reference implementation: the walk on a CPU ends when nothing nearer is left to open, not
 * after a number of iterations that grows with itopk_size; every walk also begins at one fixed
 * row from which all rows are reachable, and at one row of each bunch of near rows
 * (landmarks.h), so clustered data needs no luck. */
#include <string.h>

#include "core/memory.h"
#include "graph/graph_build.h"
#include "graph/graph_check.h"
#include "graph/landmarks.h"
#include "index/hnsw.h"
#include "index/layered.h"
#include "index/walk_codes.h"

#define CHANGE_ALPHA 1.2f /* Vamana's: rows that overflow keep most of their links */
#define DEGREE_MAX 1024

#define CAGRA_BUILD_PARAMS(X, S)                                                                   \
    PERI_METRIC_PARAM(X, S)                                                                        \
    X(S, INT, graph_degree, 64, 1, DEGREE_MAX, NULL, NULL, "links of a row")                       \
    X(S, INT, intermediate_graph_degree, 0, 0, DEGREE_MAX, NULL,                                   \
      "graph_degree + 32, at most twice graph_degree",                                             \
      "nearest rows found for each row before pruning; at least graph_degree")                     \
    X(S, CHOICE, build_algo, 0, 0, 3, "auto|exact|nn_descent|ivf_flat", "the cheapest",            \
      "how the nearest rows are found")                                                            \
    X(S, INT, nn_descent_niter, 20, 1, 1000, NULL, NULL, "iterations of nn_descent at most")       \
    X(S, REAL, termination_threshold, 0.0001, 0, 1, NULL, NULL,                                    \
      "nn_descent ends when a smaller share of its lists changed")                                 \
    X(S, FLAG, guarantee_connectivity, 1, 0, 1, NULL, NULL,                                        \
      "every row can be reached from the entry")                                                   \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the random choices")                 \
    PERI_WALK_CODES_PARAM(X, S)

#define CAGRA_SAVED_PARAMS(X, S)                                                                   \
    CAGRA_BUILD_PARAMS(X, S)                                                                       \
    X(S, INT, entry, 0, 0, 4294967295, NULL, NULL, "the row where every walk begins too")

PERI_PARAMS_STRUCT(cagra_params, CAGRA_SAVED_PARAMS)

static const peri_param cagra_saved_rows[] = { PERI_PARAMS_ROWS(cagra_params, CAGRA_SAVED_PARAMS) };
enum { CAGRA_SAVED_COUNT = sizeof cagra_saved_rows / sizeof *cagra_saved_rows };
static const peri_param_table cagra_build_table = { "cagra.build", cagra_saved_rows,
                                                    CAGRA_SAVED_COUNT - 1 };
static const peri_param_table cagra_saved_table = { "cagra.saved", cagra_saved_rows,
                                                    CAGRA_SAVED_COUNT };
_Static_assert(sizeof(cagra_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

/* Half as many again are as good as twice as many from degree 64 on, and cost less: recall@10 at
 * itopk_size 32 of 64 from 96 and from 128, by 872 and 891 distances: 0.9962 and 0.9936 on
 * debian-packages-96 (sift-debian-photos: 0.9990 and 0.9986); at degree 32 it takes twice as many:
 * 0.9897 from 48, 0.9921 from 64, 0.9928 from 96. */
static peri_status resolve(cagra_params *params) {
    if (params->intermediate_graph_degree == 0) {
        int64_t more = params->graph_degree < 32 ? params->graph_degree : 32;
        int64_t wanted = params->graph_degree + more;
        params->intermediate_graph_degree = wanted < DEGREE_MAX ? wanted : DEGREE_MAX;
    }
    if (params->intermediate_graph_degree < params->graph_degree)
        return peri_fail(PERI_E_ARGUMENT,
                         "option 'intermediate_graph_degree': %lld given, allowed: "
                         "at least graph_degree, which is %lld",
                         (long long)params->intermediate_graph_degree,
                         (long long)params->graph_degree);
    return PERI_OK;
}

static const char *const cagra_sections[] = { "graph", "landmarks", PERI_WALK_CODES_SECTIONS,
                                              NULL };

static peri_status cagra_build(peri_index *index, peri_matrix *rows, size_t threads,
                               const peri_control *control) {
    cagra_params *params = (cagra_params *)(void *)index->params;
    (void)rows; /* their section is at the index's place */
    PERI_TRY(resolve(params));
    peri_graph_build build = {
        .rows = peri_index_section(index, "rows"),
        .lengths = peri_index_section(index, "lengths"),
        .metric = index->metric,
        .graph_degree = (size_t)params->graph_degree,
        .intermediate_graph_degree = (size_t)params->intermediate_graph_degree,
        .algo = (peri_graph_algo)params->build_algo,
        .nn_descent_niter = (uint32_t)params->nn_descent_niter,
        .termination_threshold = params->termination_threshold,
        .guarantee_connectivity = params->guarantee_connectivity != 0,
        .seed = (uint64_t)params->seed,
        .threads = threads,
        .control = control,
    };
    peri_matrix *graph, *landmarks;
    uint32_t entry = 0;
    build.landmarks = &landmarks;
    PERI_TRY(peri_graph_make(&build, &graph, &entry));
    params->entry = entry;
    params->build_algo = (int64_t)build.algo;
    PERI_TRY(peri_index_add(index, "graph", graph));
    if (landmarks != NULL) PERI_TRY(peri_index_add(index, "landmarks", landmarks));
    return peri_walk_codes_make(index, &params->codes, threads, control);
}

/* ---- rows that come and go ---------------------------------------------------------------- */

/* Those of the bunches of the graph; a removed row is a bunch of its own, and no landmark. */
static peri_status find_landmarks(peri_index *index) {
    peri_matrix *host = NULL, *matrix = NULL, *here = NULL;
    uint32_t *found = NULL;
    size_t count = 0, kept = 0;
    peri_status status;
    peri_index_drop(index, "landmarks");
    PERI_GO(peri_matrix_move(peri_index_section(index, "graph"), PERI_CPU, &host));
    peri_view graph = peri_matrix_view(host);
    PERI_GO(peri_landmarks_find(index->context, &graph, &found, &count));
    for (size_t i = 0; i < count; i++) {
        const uint32_t *links = peri_view_row(&graph, found[i]);
        if (links[0] != PERI_SLOT_NONE) found[kept++] = found[i];
    }
    if (kept == 0) goto done;
    PERI_GO(peri_matrix_create(index->context, kept, 1, PERI_U32, PERI_CPU, &matrix));
    PERI_GO(peri_matrix_write(matrix, 0, kept, found));
    PERI_GO(peri_matrix_move(matrix, index->device->place, &here));
    PERI_GO(peri_index_add(index, "landmarks", here));
done:
    peri_memory_release(index->context, found, count, sizeof *found);
    peri_matrix_release(matrix);
    peri_matrix_release(host);
    return status;
}

/* New rows are inserted and the neighbours of those that left linked anew (graph/layers.h); the
 * other rows keep the links that the build gave them. */
static peri_status change_graph(const peri_index *old, peri_index *next, size_t threads,
                                const peri_control *control) {
    cagra_params *params = (cagra_params *)(void *)next->params;
    peri_layers layers = { .degree = (size_t)params->graph_degree,
                           .chosen = (size_t)params->graph_degree,
                           .ef = (size_t)params->intermediate_graph_degree,
                           .alpha = CHANGE_ALPHA,
                           .seed = (uint64_t)params->seed,
                           .threads = threads,
                           .control = control,
                           .old_entry = (uint32_t)params->entry };
    PERI_TRY(peri_layered_make(old, next, &layers));
    params->entry = layers.entry;
    PERI_TRY(find_landmarks(next));
    return peri_walk_codes_link(next, params->codes, threads, control);
}

static peri_status cagra_extend(const peri_index *old, peri_index *next,
                                const peri_growth *growth) {
    const cagra_params *params = (const cagra_params *)(const void *)next->params;
    PERI_TRY(peri_walk_codes_extend(old, next, growth, params->codes));
    return change_graph(old, next, growth->threads, growth->control);
}

static peri_status cagra_remove(const peri_index *old, peri_index *next, const peri_loss *loss) {
    return change_graph(old, next, loss->threads, loss->control);
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status check_landmarks(const peri_index *index) {
    peri_matrix *landmarks = peri_index_section(index, "landmarks"), *host;
    peri_matrix *deleted = peri_index_section(index, "deleted");
    const uint8_t *gone = deleted == NULL ? NULL : peri_matrix_view(deleted).data;
    if (landmarks == NULL) return PERI_OK;
    peri_view view = peri_matrix_view(landmarks);
    if (view.dtype != PERI_U32 || view.cols != 1)
        return peri_fail(PERI_E_CORRUPT, "section 'landmarks' is %zu x %zu %s, expected u32 of 1",
                         view.rows, view.cols, peri_dtype_name(view.dtype));
    PERI_TRY(peri_matrix_move(landmarks, PERI_CPU, &host));
    view = peri_matrix_view(host);
    peri_status status = PERI_OK;
    for (size_t i = 0; i < view.rows && status == PERI_OK; i++) {
        uint32_t row = *(const uint32_t *)peri_view_row(&view, i);
        if (row >= index->rows)
            status = peri_fail(PERI_E_CORRUPT, "landmark %zu is row %u of %zu", i, row,
                               index->rows);
        else if (gone != NULL && gone[row] != 0)
            status = peri_fail(PERI_E_CORRUPT, "landmark %zu is row %u, which is removed", i, row);
    }
    peri_matrix_release(host);
    return status;
}

static peri_status cagra_adopt(peri_index *index) {
    cagra_params *params = (cagra_params *)(void *)index->params;
    if (index->rows > 0 && (uint64_t)params->entry >= index->rows)
        return peri_fail(PERI_E_CORRUPT, "entry %lld of %zu rows", (long long)params->entry,
                         index->rows);
    PERI_TRY(check_landmarks(index));
    PERI_TRY(peri_graph_check(peri_index_section(index, "graph"), index->rows));
    PERI_TRY(peri_walk_codes_adopt(index, &params->codes));
    return peri_layered_count_holes(index, (size_t)params->entry);
}

int64_t peri_cagra_entry(const peri_index *cagra) {
    return ((const cagra_params *)(const void *)cagra->params)->entry;
}

int64_t peri_cagra_codes(const peri_index *cagra) {
    return ((const cagra_params *)(const void *)cagra->params)->codes;
}

/* ---- searching ---------------------------------------------------------------------------- */

#define CAGRA_SEARCH_PARAMS(X, S)                                                                  \
    X(S, INT, itopk_size, 64, 1, 16384, NULL, NULL,                                                \
      "rows that the walk keeps: more is slower and finds more; at least k is used")               \
    X(S, INT, search_width, 1, 1, 64, NULL, NULL, "rows opened in one iteration")                  \
    X(S, INT, max_iterations, 0, 0, 1000000, NULL, "until nothing nearer is left to open",         \
      "iterations at most")                                                                        \
    X(S, INT, min_iterations, 0, 0, 1000000, NULL, NULL, "iterations at least")                    \
    X(S, INT, num_random_samplings, 1, 0, 64, NULL, NULL,                                          \
      "random rows that the walk begins at, times itopk_size")                                     \
    X(S, INT, rand_xor_mask, 0x128394, 0, 9007199254740991, NULL, NULL, "seed of the random rows") \
    PERI_WALK_RERANK_PARAM(X, S)

PERI_PARAMS_STRUCT(cagra_search_params, CAGRA_SEARCH_PARAMS)
static const peri_param cagra_search_rows[] = { PERI_PARAMS_ROWS(cagra_search_params,
                                                                 CAGRA_SEARCH_PARAMS) };
static const peri_param_table cagra_search_table = {
    "cagra.search", cagra_search_rows, sizeof cagra_search_rows / sizeof *cagra_search_rows
};

static peri_status cagra_walk(const peri_index *index, const peri_options *options, size_t k,
                              peri_op_graph_search *op) {
    cagra_search_params params;
    const cagra_params *built = (const cagra_params *)(const void *)index->params;
    peri_params_default(&cagra_search_table, &params);
    PERI_TRY(peri_params_read(&cagra_search_table, options, &params));
    peri_view graph = peri_matrix_view(peri_index_section(index, "graph"));
    op->graph = graph.data;
    op->degree = graph.cols;
    op->hierarchy = (peri_hierarchy){ .entry = (uint32_t)built->entry };
    peri_matrix *landmarks = peri_index_section(index, "landmarks");
    if (landmarks != NULL) {
        op->landmarks = peri_matrix_view(landmarks).data;
        op->landmark_count = peri_matrix_view(landmarks).rows;
    }
    op->itopk_size = (size_t)params.itopk_size < k ? k : (size_t)params.itopk_size;
    op->search_width = (size_t)params.search_width;
    op->max_iterations = (size_t)params.max_iterations;
    op->min_iterations = (size_t)params.min_iterations;
    op->seeds = (size_t)(params.num_random_samplings * params.itopk_size);
    op->rand_xor_mask = (uint64_t)params.rand_xor_mask;
    peri_walk_codes_fill(index, params.rerank, op);
    return PERI_OK;
}

const peri_kind peri_cagra_kind = {
    .ops = PERI_INDEX_OPS("cagra", &cagra_search_table),
    .build_table = &cagra_build_table,
    .saved_table = &cagra_saved_table,
    .sections = cagra_sections,
    .memory = "n * (dim * bytes + 4 * graph_degree + " PERI_WALK_CODES_MEMORY("graph_degree") ")",
    .build = cagra_build,
    .adopt = cagra_adopt,
    .walk = cagra_walk,
    .extend = cagra_extend,
    .remove = cagra_remove,
};
