/* pairs.c: rows against rows: all distances of two matrices, and the nearest rows of every row. */
#include "binding.h"

/* ---- pairwise ----------------------------------------------------------------------------- */

static peri_metric read_metric(lua_State *L, int options) {
    peri_metric metric = PERI_SQEUCLIDEAN;
    const char *text = lperi_optiontext(L, options, "metric");
    if (text != NULL && peri_metric_parse(text, &metric) != PERI_OK)
        luaL_error(L, "option 'metric': %s", peri_error_detail());
    return metric;
}

static peri_status run_pairwise(lua_State *L, int options, peri_pairwise_options *asked,
                                peri_matrix **out) {
    lperi_control control;
    lperi_control_begin(L, options, &control);
    asked->control = &control.control;
    peri_matrix_retain(asked->a); /* progress may close them */
    peri_matrix_retain(asked->b);
    peri_status status = peri_pairwise(asked, out);
    peri_matrix_release(asked->b);
    peri_matrix_release(asked->a);
    lperi_control_end(L, &control);
    return status;
}

/* pairwise(a, b[, { metric, place, residence, threads, progress }]) -> distances */
int lperi_pairwise(lua_State *L) {
    static const char *const own[] = {
        "metric", "place", "residence", "threads", "progress", NULL
    };
    lua_settop(L, 3);
    int options = lperi_checkoptions(L, 3, own, NULL);
    peri_pairwise_options asked = PERI_PAIRWISE_OPTIONS_INIT;
    peri_place place;
    asked.metric = read_metric(L, options);
    asked.place = lperi_optionwhere(L, options, &place);
    asked.residence = lperi_optionresidence(L, options);
    asked.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    peri_status status = lperi_readrows(L, 1, &asked.a);
    if (status == PERI_OK) status = lperi_readrows(L, 2, &asked.b);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    lperi_matrix *box = lperi_newmatrix(L);
    int at = lua_gettop(L);
    status = run_pairwise(L, options, &asked, &box->handle);
    if (status == PERI_OK) lperi_collectmatrix(L, box->handle);
    lua_pushvalue(L, at);
    return lperi_result(L, status, 1);
}

/* ---- knn_graph ---------------------------------------------------------------------------- */

static peri_status run_graph(lua_State *L, int options, peri_knn_graph *asked,
                             peri_knn_lists *lists) {
    lperi_control control;
    lperi_control_begin(L, options, &control);
    asked->control = &control.control;
    peri_matrix_retain(asked->rows); /* progress may close them */
    peri_status status = peri_knn_graph_build(asked, lists);
    peri_matrix_release(asked->rows);
    if (control.failed) peri_knn_lists_reset(lists);
    lperi_control_end(L, &control);
    return status;
}

/* knn_graph(rows, k[, { place, residence, threads, progress, and parameters }])
 * -> neighbors, distances */
int lperi_knn_graph(lua_State *L) {
    static const char *const own[] = { "place", "residence", "threads", "progress", NULL };
    lua_settop(L, 3);
    int options = lperi_checkoptions(L, 3, own, "build");
    peri_knn_graph asked = PERI_KNN_GRAPH_INIT;
    peri_knn_lists lists = { NULL, NULL };
    asked.k = (size_t)lperi_checkrange(L, 2, "k", 1, 1024);
    asked.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    peri_place place;
    asked.place = lperi_optionwhere(L, options, &place);
    asked.residence = lperi_optionresidence(L, options);
    peri_status status = lperi_readrows(L, 1, &asked.rows);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    lperi_options params;
    lperi_readoptions(L, options, own, &params);
    asked.options = (peri_options){ params.list, params.count };
    lperi_matrix *neighbors = lperi_newmatrix(L), *distances = lperi_newmatrix(L);
    int at = lua_gettop(L);
    status = run_graph(L, options, &asked, &lists);
    neighbors->handle = lists.neighbors;
    distances->handle = lists.distances;
    if (status == PERI_OK) lperi_collectmatrix(L, lists.neighbors);
    lua_pushvalue(L, at - 1);
    lua_pushvalue(L, at);
    return lperi_result(L, status, 2);
}
