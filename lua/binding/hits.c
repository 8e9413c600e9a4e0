/* hits.c: perigee.Hits, the answer to a batch: ids and distances, [queries, k], on the host, or at
 * the place where a search was told to leave them.
 *
 * The fields `neighbors` and `distances` are Matrix handles on the same memory, made once and
 * kept in the uservalues. A search with `out` fills that memory again when the shape is the
 * same, so a handle taken before shows the new answer. */
#include <string.h>

#include "binding.h"

enum { NEIGHBORS_VALUE = 1, DISTANCES_VALUE = 2 };

/* ---- the box ------------------------------------------------------------------------------ */

lperi_hits *lperi_newhits(lua_State *L) {
    lperi_hits *box = lua_newuserdatauv(L, sizeof *box, 2);
    memset(box, 0, sizeof *box);
    luaL_setmetatable(L, LPERI_HITS);
    return box;
}

static void let_go(lperi_hits *box) {
    peri_matrix *neighbors = box->neighbors, *distances = box->distances;
    box->neighbors = box->distances = NULL;
    peri_matrix_release(neighbors);
    peri_matrix_release(distances);
}

peri_status lperi_shapehits(lperi_hits *hits, peri_context *context, peri_place place,
                            size_t queries, size_t k) {
    if (hits->neighbors != NULL) {
        peri_view view = peri_matrix_view(hits->neighbors);
        bool there = view.place.kind == place.kind && view.place.number == place.number;
        if (there && view.rows == queries && view.cols == k) return PERI_OK;
    }
    let_go(hits);
    peri_status status = peri_matrix_create(context, queries, k, PERI_I64, place, &hits->neighbors);
    if (status == PERI_OK)
        status = peri_matrix_create(context, queries, k, PERI_F32, place, &hits->distances);
    if (status != PERI_OK) let_go(hits);
    return status;
}

lperi_hits *lperi_checkhits(lua_State *L, int arg) {
    lperi_hits *box = luaL_checkudata(L, arg, LPERI_HITS);
    if (box->neighbors == NULL) lperi_argument(L, arg, "these hits are closed");
    return box;
}

/* A matrix of a table that option "out" is; on top of the stack. */
static peri_matrix *out_matrix(lua_State *L, int table, const char *field, peri_dtype dtype) {
    lua_getfield(L, table, field);
    const lperi_matrix *box = luaL_testudata(L, -1, LPERI_MATRIX);
    if (box != NULL && box->handle == NULL)
        luaL_error(L, "option 'out': the matrix of field '%s' is closed", field);
    if (box == NULL) {
        luaL_error(L, "option 'out': field '%s' is a %s, not a matrix", field,
                   luaL_typename(L, -1));
        return NULL;
    }
    peri_view view = peri_matrix_view(box->handle);
    if (view.dtype != dtype || view.stride_bytes != view.cols * peri_dtype_bytes(dtype) ||
        peri_matrix_read_only(box->handle))
        luaL_error(L, "option 'out': '%s' of %s given, allowed: %s, packed, that may be written",
                   field, peri_dtype_name(view.dtype), peri_dtype_name(dtype));
    return box->handle;
}

lperi_hits *lperi_tablehits(lua_State *L, int table, size_t queries, size_t k) {
    lperi_hits *box = lperi_newhits(L);
    int hits = lua_gettop(L);
    peri_matrix *neighbors = out_matrix(L, table, "neighbors", PERI_I64);
    lua_setiuservalue(L, hits, NEIGHBORS_VALUE);
    peri_matrix *distances = out_matrix(L, table, "distances", PERI_F32);
    lua_setiuservalue(L, hits, DISTANCES_VALUE);
    peri_view a = peri_matrix_view(neighbors), b = peri_matrix_view(distances);
    bool shaped = a.rows == queries && b.rows == queries && a.cols == k && b.cols == k;
    if (!shaped || a.place.kind != b.place.kind || a.place.number != b.place.number)
        luaL_error(L,
                   "option 'out': matrices of %I x %I and %I x %I given, allowed: %I x %I both, "
                   "at one place",
                   (LUAI_UACINT)a.rows, (LUAI_UACINT)a.cols, (LUAI_UACINT)b.rows,
                   (LUAI_UACINT)b.cols, (LUAI_UACINT)queries, (LUAI_UACINT)k);
    peri_matrix_retain(neighbors);
    peri_matrix_retain(distances);
    box->neighbors = neighbors;
    box->distances = distances;
    return box;
}

/* hits(neighbors, distances, like[, visited]): an answer put together in Lua; `like` lends its
 * info. */
int lperi_hits_new(lua_State *L) {
    peri_view ids = lperi_checkhostview(L, 1), values = lperi_checkhostview(L, 2);
    const lperi_hits *like = lperi_checkhits(L, 3);
    if (ids.dtype != PERI_I64 || values.dtype != PERI_F32 || ids.rows != values.rows ||
        ids.cols != values.cols)
        return lperi_argument(L, 2, "neighbors of i64 and distances of f32, of one shape");
    double visited = luaL_optnumber(L, 4, like->info.visited);
    lperi_hits *box = lperi_newhits(L);
    box->info = like->info;
    box->metric = like->metric;
    box->info.visited = visited;
    box->info.missing = 0;
    for (size_t i = 0; i < ids.rows * ids.cols; i++)
        box->info.missing += ((const int64_t *)ids.data)[i] == PERI_ID_NONE;
    peri_matrix *neighbors = lperi_checkmatrix(L, 1), *distances = lperi_checkmatrix(L, 2);
    peri_matrix_retain(neighbors);
    peri_matrix_retain(distances);
    box->neighbors = neighbors;
    box->distances = distances;
    return 1;
}

/* ---- fields ------------------------------------------------------------------------------- */

/* Pushes the Matrix that uservalue `value` keeps, made anew when it is closed or of other
 * memory. */
static int push_matrix(lua_State *L, peri_matrix *matrix, int value) {
    lua_getiuservalue(L, 1, value);
    const lperi_matrix *kept = luaL_testudata(L, -1, LPERI_MATRIX);
    if (kept != NULL && kept->handle == matrix) return 1;
    lua_pop(L, 1);
    lperi_pushmatrix(L, matrix);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, value);
    return 1;
}

static int push_info(lua_State *L, const lperi_hits *box) {
    char place[LPERI_PLACE_SIZE];
    lua_createtable(L, 0, 7);
    lua_pushstring(L, box->info.path);
    lua_setfield(L, -2, "path");
    lua_pushstring(L, peri_place_format(box->info.place, place, sizeof place));
    lua_setfield(L, -2, "place");
    lua_pushnumber(L, box->info.visited);
    lua_setfield(L, -2, "visited");
    lua_pushnumber(L, box->info.selectivity);
    lua_setfield(L, -2, "selectivity");
    lua_pushinteger(L, (lua_Integer)box->info.redone);
    lua_setfield(L, -2, "redone");
    lua_pushinteger(L, (lua_Integer)box->info.scanned);
    lua_setfield(L, -2, "scanned");
    lua_pushinteger(L, (lua_Integer)box->info.missing);
    lua_setfield(L, -2, "missing");
    return 1;
}

static const char *const hits_fields[] = { "neighbors", "distances", "info", "queries",
                                           "k",         "metric",    NULL };

static int hits_index(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
    if (lua_type(L, 2) != LUA_TSTRING) return 0;
    const char *key = lua_tostring(L, 2);
    const lperi_hits *box = lperi_checkhits(L, 1);
    peri_view view = peri_matrix_view(box->neighbors);
    if (strcmp(key, "neighbors") == 0) return push_matrix(L, box->neighbors, NEIGHBORS_VALUE);
    if (strcmp(key, "distances") == 0) return push_matrix(L, box->distances, DISTANCES_VALUE);
    if (strcmp(key, "info") == 0) return push_info(L, box);
    if (strcmp(key, "queries") == 0)
        lua_pushinteger(L, (lua_Integer)view.rows);
    else if (strcmp(key, "k") == 0)
        lua_pushinteger(L, (lua_Integer)view.cols);
    else if (strcmp(key, "metric") == 0)
        lua_pushstring(L, peri_metric_name(box->metric));
    else
        return 0;
    return 1;
}

/* ---- methods ------------------------------------------------------------------------------ */

/* Upvalues: the hits, the query's row, how many were given. */
static int each_next(lua_State *L) {
    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    const lperi_hits *box = lperi_checkhits(L, 1);
    size_t row = (size_t)lua_tointeger(L, lua_upvalueindex(2));
    size_t given = (size_t)lua_tointeger(L, lua_upvalueindex(3));
    peri_view ids = peri_matrix_view(box->neighbors), values = peri_matrix_view(box->distances);
    if (row >= ids.rows || given >= ids.cols) return 0;
    int64_t id = ((const int64_t *)ids.data)[row * ids.cols + given];
    if (id == PERI_ID_NONE) return 0;
    lua_pushinteger(L, (lua_Integer)given + 1);
    lua_replace(L, lua_upvalueindex(3));
    lua_pushinteger(L, id);
    lua_pushnumber(L, (lua_Number)((const float *)values.data)[row * ids.cols + given]);
    return 2;
}

/* hits:to(place): the same answer at another place */
static int hits_to(lua_State *L) {
    const lperi_hits *from = lperi_checkhits(L, 1);
    peri_place place;
    if (peri_place_parse(luaL_checkstring(L, 2), &place) != PERI_OK)
        return lperi_argument(L, 2, "%s", peri_error_detail());
    lperi_hits *box = lperi_newhits(L);
    box->info = from->info;
    box->metric = from->metric;
    peri_status status = peri_matrix_move(from->neighbors, place, &box->neighbors);
    if (status == PERI_OK) status = peri_matrix_move(from->distances, place, &box->distances);
    if (status != PERI_OK) let_go(box);
    return lperi_result(L, status, 1);
}

/* hits:each([row]) */
static int hits_each(lua_State *L) {
    peri_view ids = peri_matrix_view(lperi_checkhits(L, 1)->neighbors);
    lua_Integer row = 0;
    char place[LPERI_PLACE_SIZE];
    if (!lperi_onhost(ids.place))
        return lperi_argument(L, 1, "hits on %s given, allowed: on the host, as h:to \"cpu\" gives",
                              peri_place_format(ids.place, place, sizeof place));
    if (ids.rows == 0) return lperi_argument(L, 2, "row: there are no queries");
    if (!lua_isnoneornil(L, 2)) row = lperi_checkrange(L, 2, "row", 0, (lua_Integer)ids.rows - 1);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, row);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, each_next, 3);
    return 1;
}

static int hits_unpack(lua_State *L) {
    const lperi_hits *box = lperi_checkhits(L, 1);
    push_matrix(L, box->distances, DISTANCES_VALUE);
    push_matrix(L, box->neighbors, NEIGHBORS_VALUE);
    return 2;
}

static int hits_len(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)peri_matrix_view(lperi_checkhits(L, 1)->neighbors).rows);
    return 1;
}

static int hits_tostring(lua_State *L) {
    const lperi_hits *box = luaL_checkudata(L, 1, LPERI_HITS);
    char place[LPERI_PLACE_SIZE];
    if (box->neighbors == NULL) {
        lua_pushliteral(L, "Hits (closed)");
        return 1;
    }
    peri_view view = peri_matrix_view(box->neighbors);
    lua_pushfstring(L, "Hits %I x %I (%s, %s)", (LUAI_UACINT)view.rows, (LUAI_UACINT)view.cols,
                    box->info.path == NULL ? "no search" : box->info.path,
                    peri_place_format(box->info.place, place, sizeof place));
    return 1;
}

static int hits_close(lua_State *L) {
    let_go(luaL_checkudata(L, 1, LPERI_HITS));
    return 0;
}

/* ---- measuring ---------------------------------------------------------------------------- */

/* A host view at `arg` with its first k columns, or false for nil. */
static bool optional_view(lua_State *L, int arg, size_t k, peri_view *out) {
    if (lua_isnoneornil(L, arg)) return false;
    *out = lperi_checkhostview(L, arg);
    if (k > 0 && out->cols > k) out->cols = k;
    return true;
}

/* recall(found_ids, found_values | nil, truth_ids, truth_values | nil, metric, k | nil) */
int lperi_recall(lua_State *L) {
    peri_view found, found_values, truth, truth_values;
    peri_metric metric;
    double recall = 0;
    size_t k = 0;
    lua_settop(L, 6);
    luaL_checkany(L, 1);
    if (!lua_isnil(L, 6)) k = (size_t)lperi_checkrange(L, 6, "k", 1, PERI_K_MAX);
    found = lperi_checkhostview(L, 1);
    if (k > found.cols)
        return lperi_argument(L, 6, "k: %I given, %I were found", (LUAI_UACINT)k,
                              (LUAI_UACINT)found.cols);
    if (k > 0) found.cols = k;
    truth = lperi_checkhostview(L, 3);
    bool by_value = optional_view(L, 2, found.cols, &found_values) &&
                    optional_view(L, 4, 0, &truth_values);
    if (peri_metric_parse(luaL_checkstring(L, 5), &metric) != PERI_OK)
        return lperi_argument(L, 5, "%s", peri_error_detail());
    peri_status status = peri_recall(&found, by_value ? &found_values : NULL, &truth,
                                     by_value ? &truth_values : NULL, metric, &recall);
    lua_pushnumber(L, recall);
    return lperi_result(L, status, 1);
}

/* ---- registration ------------------------------------------------------------------------- */

static const luaL_Reg hits_methods[] = {
    { "each", hits_each },   { "to", hits_to }, { "unpack", hits_unpack },
    { "close", hits_close }, { NULL, NULL },
};

static const luaL_Reg hits_meta[] = {
    { "__gc", hits_close }, { "__close", hits_close },
    { "__len", hits_len },  { "__tostring", hits_tostring },
    { NULL, NULL },
};

void lperi_openhits(lua_State *L) {
    static const lperi_type type = { LPERI_HITS, hits_methods, hits_meta, hits_index, hits_fields };
    lperi_newtype(L, &type, "Hits");
}
