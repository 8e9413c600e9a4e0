/* build.c: how searchers come to be, move, and go to files.
 *
 * Each makes a closed box first and lets the engine fill it. What a call reads is retained
 * during it: a progress function may close any handle. */
#include "binding.h"

static int made(lua_State *L, peri_status status, const lperi_searcher *box) {
    if (status == PERI_OK) lperi_collectsearcher(L, box->handle);
    return lperi_result(L, status, 1);
}

/* ---- building ----------------------------------------------------------------------------- */

/* Option "ids": a matrix or a list of as many whole numbers as there are rows, as [n, 1] of i64.
 * Leaves it on the stack. */
static peri_status read_ids(lua_State *L, int options, size_t rows, peri_matrix **out) {
    size_t count;
    peri_context *context;
    int type = lperi_pushoption(L, options, "ids");
    *out = NULL;
    if (type == LUA_TNIL) return PERI_OK;
    if (type != LUA_TTABLE && luaL_testudata(L, -1, LPERI_MATRIX) == NULL)
        luaL_error(L, "option 'ids': a %s given, allowed: a matrix or a list of whole numbers",
                   lua_typename(L, type));
    const int64_t *ids = lperi_checkids(L, lua_gettop(L), &count);
    if (count != rows)
        luaL_error(L, "option 'ids': %I given, allowed: one for each of the %I rows",
                   (LUAI_UACINT)count, (LUAI_UACINT)rows);
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK)
        status = peri_matrix_create(context, count, 1, PERI_I64, PERI_CPU, &box->handle);
    if (status == PERI_OK) status = peri_matrix_write(box->handle, 0, count, ids);
    *out = box->handle;
    return status;
}

peri_status lperi_readrows(lua_State *L, int arg, peri_matrix **out) {
    *out = NULL;
    if (lua_type(L, arg) != LUA_TTABLE) {
        *out = lperi_checkmatrix(L, arg);
        return PERI_OK;
    }
    peri_status status = lperi_tablematrix(L, arg, PERI_F32);
    if (status == PERI_OK) *out = lperi_checkmatrix(L, -1);
    return status;
}

static peri_status run_build(const peri_build *build, peri_searcher **out) {
    peri_matrix_retain(build->rows);
    if (build->ids != NULL) peri_matrix_retain(build->ids);
    peri_status status = peri_searcher_build(build, out);
    peri_matrix_release(build->ids);
    peri_matrix_release(build->rows);
    return status;
}

/* <kind>.build(rows[, { place, ids, threads, progress, and build parameters }]) */
int lperi_build(lua_State *L) {
    static const char *const own[] = { "place", "ids", "threads", "progress", NULL };
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, "build");
    peri_build build = PERI_BUILD_INIT;
    build.kind = lua_tostring(L, lua_upvalueindex(1));
    peri_status status = lperi_readrows(L, 1, &build.rows);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    status = read_ids(L, options, peri_matrix_view(build.rows).rows, &build.ids);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    build.place = lperi_optionplace(L, options, "place");
    build.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    lperi_options params;
    lperi_readoptions(L, options, own, &params);
    build.options = (peri_options){ params.list, params.count };
    lperi_control control;
    lperi_control_begin(L, options, &control);
    build.control = &control.control;
    lperi_searcher *box = lperi_newsearcher(L);
    status = run_build(&build, &box->handle);
    lperi_control_end(L, &control);
    return made(L, status, box);
}

/* ---- extending and removing ---------------------------------------------------------------- */

static peri_status run_extend(peri_searcher *searcher, const peri_extension *more) {
    peri_searcher_retain(searcher);
    peri_matrix_retain(more->rows);
    if (more->ids != NULL) peri_matrix_retain(more->ids);
    peri_status status = peri_searcher_extend(searcher, more);
    peri_matrix_release(more->ids);
    peri_matrix_release(more->rows);
    peri_searcher_release(searcher);
    return status;
}

/* searcher:extend(rows[, { ids, threads, progress }]): the searcher */
int lperi_searcher_extend(lua_State *L) {
    static const char *const own[] = { "ids", "threads", "progress", NULL };
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    lua_settop(L, 3);
    int options = lperi_checkoptions(L, 3, own, NULL);
    peri_extension more = PERI_EXTENSION_INIT;
    peri_status status = lperi_readrows(L, 2, &more.rows);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    status = read_ids(L, options, peri_matrix_view(more.rows).rows, &more.ids);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    more.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    lperi_control control;
    lperi_control_begin(L, options, &control);
    more.control = &control.control;
    status = run_extend(searcher, &more);
    lperi_control_end(L, &control);
    lua_pushvalue(L, 1);
    return lperi_result(L, status, 1);
}

/* searcher:remove(ids[, { threads, progress }]): how many there were */
int lperi_searcher_remove(lua_State *L) {
    static const char *const own[] = { "threads", "progress", NULL };
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    size_t removed = 0;
    lua_settop(L, 3);
    int options = lperi_checkoptions(L, 3, own, NULL);
    peri_removal less = PERI_REMOVAL_INIT;
    less.ids = lperi_checkids(L, 2, &less.count);
    less.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    lperi_control control;
    lperi_control_begin(L, options, &control);
    less.control = &control.control;
    peri_searcher_retain(searcher);
    peri_status status = peri_searcher_remove(searcher, &less, &removed);
    peri_searcher_release(searcher);
    lperi_control_end(L, &control);
    lua_pushinteger(L, (lua_Integer)removed);
    return lperi_result(L, status, 1);
}

/* ---- wrapping and turning into another kind ------------------------------------------------ */

int lperi_searcher_filtered(lua_State *L) {
    peri_searcher *inner = lperi_checksearcher(L, 1);
    peri_filter *filter = lperi_checkfilter(L, 2);
    lperi_searcher *box = lperi_newsearcher(L);
    return lperi_result(L, peri_searcher_filtered(inner, filter, &box->handle), 1);
}

/* searcher:refined(rows[, { ratio }]) */
int lperi_searcher_refined(lua_State *L) {
    static const char *const own[] = { "ratio", NULL }, *const none[] = { NULL };
    peri_searcher *inner = lperi_checksearcher(L, 1);
    peri_matrix *rows = lperi_checkmatrix(L, 2);
    lperi_options params;
    int options = lperi_checkoptions(L, 3, own, NULL);
    lperi_readoptions(L, options, none, &params);
    peri_options list = { params.list, params.count };
    lperi_searcher *box = lperi_newsearcher(L);
    return lperi_result(L, peri_searcher_refined(inner, rows, list, &box->handle), 1);
}

/* searcher:to_hnsw([{ hierarchy, ef_construction, progress, … }]) */
int lperi_searcher_to_hnsw(lua_State *L) {
    static const char *const own[] = { "progress", NULL };
    peri_searcher *cagra = lperi_checksearcher(L, 1);
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, "to_hnsw");
    lperi_options params;
    lperi_readoptions(L, options, own, &params);
    lperi_control control;
    lperi_control_begin(L, options, &control);
    lperi_searcher *box = lperi_newsearcher(L);
    peri_options list = { params.list, params.count };
    peri_searcher_retain(cagra);
    peri_status status = peri_searcher_to_hnsw(cagra, list, &control.control, &box->handle);
    peri_searcher_release(cagra);
    lperi_control_end(L, &control);
    return made(L, status, box);
}

int lperi_searcher_to(lua_State *L) {
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    peri_place place;
    if (peri_place_parse(luaL_checkstring(L, 2), &place) != PERI_OK)
        return lperi_argument(L, 2, "%s", peri_error_detail());
    lperi_searcher *box = lperi_newsearcher(L);
    return made(L, peri_searcher_move(searcher, place, &box->handle), box);
}

/* ---- files -------------------------------------------------------------------------------- */

/* searcher:save(path[, { dataset, format, dtype, progress }]) */
int lperi_searcher_save(lua_State *L) {
    static const char *const own[] = { "dataset", "format", "dtype", "progress", NULL };
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    const char *path = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    int options = lperi_checkoptions(L, 3, own, NULL);
    peri_file_options file = PERI_FILE_OPTIONS_INIT;
    file.dataset = lperi_optionflag(L, options, "dataset", true);
    file.format = lperi_optiontext(L, options, "format");
    file.dtype = lperi_optiontext(L, options, "dtype");
    lperi_control control;
    lperi_control_begin(L, options, &control);
    file.control = &control.control;
    peri_searcher_retain(searcher);
    peri_status status = peri_searcher_save(searcher, path, &file);
    peri_searcher_release(searcher);
    lperi_control_end(L, &control);
    lua_pushboolean(L, 1);
    return lperi_result(L, status, 1);
}

/* Option "rows": the rows of an index that was saved without. Leaves the option on the stack. */
static peri_matrix *read_rows(lua_State *L, int options) {
    int type = lperi_pushoption(L, options, "rows");
    if (type == LUA_TNIL) return NULL;
    if (type != LUA_TUSERDATA)
        luaL_error(L, "option 'rows': a %s given, allowed: a matrix", lua_typename(L, type));
    return lperi_checkmatrix(L, -1);
}

/* open(path[, { place, map, format, metric, dtype, rows, progress }]) */
int lperi_open(lua_State *L) {
    static const char *const own[] = { "place", "map",  "format",   "metric",
                                       "dtype", "rows", "progress", NULL };
    const char *path = luaL_checkstring(L, 1);
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, NULL);
    peri_file_options file = PERI_FILE_OPTIONS_INIT;
    file.place = lperi_optionplace(L, options, "place");
    file.map = lperi_optionflag(L, options, "map", false);
    file.format = lperi_optiontext(L, options, "format");
    file.metric = lperi_optiontext(L, options, "metric");
    file.dtype = lperi_optiontext(L, options, "dtype");
    file.rows = read_rows(L, options);
    lperi_control control;
    lperi_control_begin(L, options, &control);
    file.control = &control.control;
    peri_context *context;
    lperi_searcher *box = lperi_newsearcher(L);
    peri_status status = lperi_context(L, &context);
    if (file.rows != NULL) peri_matrix_retain(file.rows); /* progress may close it */
    if (status == PERI_OK) status = peri_searcher_open(context, path, &file, &box->handle);
    peri_matrix_release(file.rows);
    lperi_control_end(L, &control);
    return made(L, status, box);
}
