/* hnsw.c: a graph with levels above it, walked from the top (Malkov & Yashunin: Efficient and
 * robust approximate nearest neighbor search using hierarchical navigable small world graphs,
 * 2018).
 *
 * It is built by insertion in batches (graph/layers.h), on all levels by the heuristic of the
 * paper, with two things of our own. Links are chosen with alpha 1.1 where the paper has 1: with a
 * third of the candidates the graph is then as good (recall@10 at ef 32 on 40 000 rows of SIFT,
 * m 16: 0.971 with ef_construction 200 and alpha 1, 0.973 with 64 and 1.1), and walks for them are
 * where most of a build goes. And a batch is searched for on a frozen graph, so that the graph
 * depends on the seed alone, and a row whose links overflow chooses once a batch, not once for
 * each new link. Candidates of a bulk build are found by walks too, not taken from a graph of
 * nearest rows: one path builds, extends and mends.
 *
 * Or it is made from a CAGRA graph: its rows and graph are shared, not copied. hierarchy
 * "none" leaves one level, walked from the graph's entry; "cpu" adds upper levels over rows
 * drawn as HNSW draws them. The nearest rows of a level are found exactly, and its links are
 * pruned as the base graph's are, not by the paper's heuristic. Extended and mended, such an
 * index is as any other of its kind. */
#include "index/hnsw.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "graph/graph_check.h"
#include "graph/hierarchy.h"
#include "index/combinators.h"
#include "index/handle.h"
#include "index/layered.h"

static const peri_param hnsw_saved_rows[] = { PERI_PARAMS_ROWS(peri_hnsw_params,
                                                               PERI_HNSW_PARAMS) };
enum { HNSW_SAVED_COUNT = sizeof hnsw_saved_rows / sizeof *hnsw_saved_rows };
static const peri_param_table hnsw_build_table = { "hnsw.build", hnsw_saved_rows,
                                                   HNSW_SAVED_COUNT - 2 };
static const peri_param_table hnsw_saved_table = { "hnsw.saved", hnsw_saved_rows,
                                                   HNSW_SAVED_COUNT };
_Static_assert(sizeof(peri_hnsw_params) <= PERI_PARAMS_BYTES, "the parameters fit an index");

#define HNSW_SEARCH_PARAMS(X, S)                                                                   \
    X(S, INT, ef, 200, 1, 16384, NULL, NULL,                                                       \
      "rows that the walk keeps: more is slower and finds more; at least k is used")               \
    PERI_WALK_RERANK_PARAM(X, S)

PERI_PARAMS_STRUCT(hnsw_search_params, HNSW_SEARCH_PARAMS)
static const peri_param hnsw_search_rows[] = { PERI_PARAMS_ROWS(hnsw_search_params,
                                                                HNSW_SEARCH_PARAMS) };
static const peri_param_table hnsw_search_table = { "hnsw.search", hnsw_search_rows, 2 };

#define TO_HNSW_PARAMS(X, S)                                                                       \
    X(S, CHOICE, hierarchy, 1, 0, 1, "none|cpu", NULL, "levels above the graph")                   \
    X(S, INT, ef_construction, 200, 1, 65535, NULL, NULL,                                          \
      "what a written file says of itself, for inserts by others")                                 \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the levels drawn")                   \
    X(S, CHOICE, codes, 0, 0, PERI_WALK_CODES_MAX, PERI_WALK_CODES_CHOICES,                        \
      "those of the CAGRA index", "what walks measure by in place of the rows")

PERI_PARAMS_STRUCT(to_hnsw_params, TO_HNSW_PARAMS)
static const peri_param to_hnsw_rows[] = { PERI_PARAMS_ROWS(to_hnsw_params, TO_HNSW_PARAMS) };
const peri_param_table peri_to_hnsw_table = { "cagra.to_hnsw", to_hnsw_rows, 4 };

peri_hnsw_params *peri_hnsw_params_of(peri_index *index) { return (void *)index->params; }

/* ---- building and changing ---------------------------------------------------------------- */

/* The graph of `next`, from that of `old` or from nothing. */
static peri_status make_graph(const peri_index *old, peri_index *next, size_t threads,
                              const peri_control *control) {
    peri_hnsw_params *params = peri_hnsw_params_of(next);
    size_t m = (size_t)params->m;
    peri_layers layers = { .degree = 2 * m,
                           .chosen = m,
                           .m = m,
                           .ef = (size_t)params->ef_construction,
                           .alpha = (float)params->alpha,
                           .seed = (uint64_t)params->seed,
                           .threads = threads,
                           .control = control };
    if (old != NULL) {
        layers.old_entry = (uint32_t)params->entry;
        layers.old_level_max = (uint32_t)params->level_max;
    }
    PERI_TRY(peri_layered_make(old, next, &layers));
    params->entry = layers.entry;
    params->level_max = layers.level_max;
    if (old == NULL) return PERI_OK;
    return peri_walk_codes_link(next, params->codes, threads, control);
}

static peri_status hnsw_build(peri_index *index, peri_matrix *rows, size_t threads,
                              const peri_control *control) {
    (void)rows; /* their section is at the index's place */
    PERI_TRY(make_graph(NULL, index, threads, control));
    return peri_walk_codes_make(index, &peri_hnsw_params_of(index)->codes, threads, control);
}

static peri_status hnsw_extend(const peri_index *old, peri_index *next, const peri_growth *growth) {
    PERI_TRY(peri_walk_codes_extend(old, next, growth, peri_hnsw_params_of(next)->codes));
    return make_graph(old, next, growth->threads, growth->control);
}

static peri_status hnsw_remove(const peri_index *old, peri_index *next, const peri_loss *loss) {
    return make_graph(old, next, loss->threads, loss->control);
}

/* ---- opening and searching ---------------------------------------------------------------- */

static peri_status hnsw_adopt(peri_index *index) {
    peri_hnsw_params *params = peri_hnsw_params_of(index);
    if ((uint64_t)params->entry >= index->rows)
        return peri_fail(PERI_E_CORRUPT, "entry %lld of %zu rows", (long long)params->entry,
                         index->rows);
    PERI_TRY(peri_graph_check(peri_index_section(index, "graph"), index->rows));
    PERI_TRY(peri_walk_codes_adopt(index, &params->codes));
    if (params->level_max > 0)
        PERI_TRY(peri_hierarchy_check(peri_index_section(index, "first"),
                                      peri_index_section(index, "links"), index->rows,
                                      (uint32_t)params->entry, (uint32_t)params->level_max));
    return peri_layered_count_holes(index, (size_t)params->entry);
}

static peri_status hnsw_walk(const peri_index *index, const peri_options *options, size_t k,
                             peri_op_graph_search *op) {
    const peri_hnsw_params *built = (const void *)index->params;
    hnsw_search_params params;
    peri_params_default(&hnsw_search_table, &params);
    PERI_TRY(peri_params_read(&hnsw_search_table, options, &params));
    peri_view graph = peri_matrix_view(peri_index_section(index, "graph"));
    op->graph = graph.data;
    op->degree = graph.cols;
    op->itopk_size = peri_max_size((size_t)params.ef, k);
    op->search_width = 1;
    peri_walk_codes_fill(index, params.rerank, op);
    op->hierarchy.entry = (uint32_t)built->entry;
    if (built->level_max == 0) return PERI_OK;
    peri_view links = peri_matrix_view(peri_index_section(index, "links"));
    op->hierarchy.level_max = (uint32_t)built->level_max;
    op->hierarchy.degree = links.cols;
    op->hierarchy.links = links.data;
    op->hierarchy.first = peri_matrix_view(peri_index_section(index, "first")).data;
    return PERI_OK;
}

static const char *const hnsw_sections[] = { "graph", "first", "links", PERI_WALK_CODES_SECTIONS,
                                             NULL };

const peri_kind peri_hnsw_kind = {
    .ops = PERI_INDEX_OPS("hnsw", &hnsw_search_table),
    .build_table = &hnsw_build_table,
    .saved_table = &hnsw_saved_table,
    .sections = hnsw_sections,
    .memory = "n * (dim * bytes + 8 * m + 4 + 4 * m / (m - 1) + " PERI_WALK_CODES_MEMORY(
        "2 * m") ")",
    .build = hnsw_build,
    .adopt = hnsw_adopt,
    .walk = hnsw_walk,
    .extend = hnsw_extend,
    .remove = hnsw_remove,
};

/* ---- from a CAGRA graph ------------------------------------------------------------------- */

/* hnswlib's base level has 2 M links a row, an even number and at least 4: a graph that has
 * fewer gets empty columns. */
static peri_status even_graph(peri_matrix *graph, size_t cols, peri_matrix **out) {
    peri_view from = peri_matrix_view(graph);
    if (from.cols == cols) {
        peri_matrix_retain(graph);
        *out = graph;
        return PERI_OK;
    }
    peri_matrix *host, *wide = NULL;
    PERI_TRY(peri_matrix_move(graph, PERI_CPU, &host));
    peri_status status = peri_matrix_create(peri_matrix_context(graph), from.rows, cols, PERI_U32,
                                            PERI_CPU, &wide);
    if (status == PERI_OK) {
        peri_view narrow = peri_matrix_view(host), to = peri_matrix_view(wide);
        memset(to.data, 0xFF, to.rows * to.stride_bytes);
        for (size_t r = 0; r < from.rows; r++)
            memcpy(peri_view_row(&to, r), peri_view_row(&narrow, r), from.cols * 4);
        status = peri_matrix_move(wide, from.place, out);
    }
    peri_matrix_release(wide);
    peri_matrix_release(host);
    return status;
}

/* Sections that both indexes share. */
static peri_status share_sections(const peri_index *from, peri_index *to) {
    peri_matrix *ids = peri_index_section(from, "ids");
    peri_matrix *deleted = peri_index_section(from, "deleted");
    PERI_TRY(peri_index_set_rows(to, peri_index_section(from, "rows")));
    if (deleted != NULL) PERI_TRY(peri_index_set_deleted(to, deleted));
    if (ids != NULL) PERI_TRY(peri_index_set_ids(to, ids));
    return peri_index_share(to, from, "lengths");
}

static peri_status add_hierarchy(peri_index *index, uint64_t seed, const peri_control *control) {
    peri_hnsw_params *params = peri_hnsw_params_of(index);
    peri_hierarchy_build build = { .rows = peri_index_section(index, "rows"),
                                   .lengths = peri_index_section(index, "lengths"),
                                   .metric = index->metric,
                                   .m = (size_t)params->m,
                                   .seed = seed,
                                   .control = control };
    peri_matrix *first, *links;
    uint32_t entry, level_max;
    PERI_TRY(peri_hierarchy_make(&build, &first, &links, &entry, &level_max));
    if (level_max == 0) { /* too few rows for a second level: the graph's own entry stays */
        peri_matrix_release(first);
        peri_matrix_release(links);
        return PERI_OK;
    }
    PERI_TRY(peri_index_add(index, "first", first));
    PERI_TRY(peri_index_add(index, "links", links));
    params->entry = entry;
    params->level_max = level_max;
    return PERI_OK;
}

static peri_status add_codes(const peri_index *from, peri_index *index, int64_t asked,
                             const peri_control *control) {
    peri_hnsw_params *params = peri_hnsw_params_of(index);
    int64_t had = peri_cagra_codes(from);
    params->codes = asked == PERI_WALK_CODES_AUTO ? had : asked;
    if (params->codes == had) return peri_walk_codes_share(index, from, had);
    return peri_walk_codes_make(index, &params->codes, 0, control);
}

static peri_status fill(const peri_index *from, peri_index *index, const to_hnsw_params *asked,
                        const peri_control *control) {
    peri_hnsw_params *params = peri_hnsw_params_of(index);
    peri_matrix *source = peri_index_section(from, "graph"), *graph;
    size_t degree = peri_matrix_view(source).cols;
    params->metric = (int64_t)from->metric;
    params->m = (int64_t)peri_max_size(2, (degree + 1) / 2);
    params->ef_construction = asked->ef_construction;
    params->entry = peri_cagra_entry(from);
    PERI_TRY(share_sections(from, index));
    PERI_TRY(even_graph(source, (size_t)params->m * 2, &graph));
    PERI_TRY(peri_index_add(index, "graph", graph));
    PERI_TRY(add_codes(from, index, asked->codes, control));
    if (asked->hierarchy == 0) return PERI_OK;
    return add_hierarchy(index, (uint64_t)asked->seed, control);
}

peri_status peri_searcher_to_hnsw(peri_searcher *cagra, peri_options options,
                                  const peri_control *control, peri_searcher **out) {
    static const peri_param_table *const tables[] = { &peri_to_hnsw_table };
    to_hnsw_params params;
    *out = NULL;
    if (cagra->ops != &peri_cagra_kind.ops)
        return peri_fail(PERI_E_UNSUPPORTED, "to_hnsw: '%s' given, allowed: cagra",
                         cagra->ops->kind);
    PERI_TRY(peri_options_check(&options, tables, 1));
    peri_params_default(&peri_to_hnsw_table, &params);
    PERI_TRY(peri_params_read(&peri_to_hnsw_table, &options, &params));
    peri_index *from = peri_handle_take(cagra), *index = NULL;
    peri_status status;
    PERI_GO(peri_index_create(cagra->context, &peri_hnsw_kind, cagra->device->place, &index));
    PERI_GO(fill(from, index, &params, control));
    status = peri_handle_create(index, out);
    index = NULL;
done:
    peri_index_release(index);
    peri_index_release(from);
    return status;
}
