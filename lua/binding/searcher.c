/* searcher.c: perigee.Searcher, what answers queries: indexes and the combinators around them.
 *
 * A search crosses from Lua to C once a batch. What it reads and fills is retained during the
 * call, since a progress function runs in the middle of it and may close any handle. */
#include <stdio.h>
#include <string.h>

#include "binding.h"

/* ---- the box ------------------------------------------------------------------------------ */

lperi_searcher *lperi_newsearcher(lua_State *L) {
    lperi_searcher *box = lua_newuserdatauv(L, sizeof *box, 0);
    box->handle = NULL;
    luaL_setmetatable(L, LPERI_SEARCHER);
    return box;
}

peri_searcher *lperi_checksearcher(lua_State *L, int arg) {
    const lperi_searcher *box = luaL_checkudata(L, arg, LPERI_SEARCHER);
    if (box->handle == NULL) lperi_argument(L, arg, "this searcher is closed");
    return box->handle;
}

void lperi_pushsearcher(lua_State *L, peri_searcher *searcher) {
    lperi_searcher *box = lperi_newsearcher(L);
    peri_searcher_retain(searcher);
    box->handle = searcher;
}

/* ---- describing --------------------------------------------------------------------------- */

typedef struct field_wanted {
    const char *key;
    char text[64];
    int64_t whole;
} field_wanted;

/* Copies one field; touches no Lua. */
static void want_field(void *ud, const char *key, const peri_value *value) {
    field_wanted *wanted = ud;
    if (strcmp(key, wanted->key) != 0) return;
    if (value->type == PERI_VALUE_TEXT && value->as.text != NULL)
        snprintf(wanted->text, sizeof wanted->text, "%s", value->as.text);
    else if (value->type == PERI_VALUE_INT)
        wanted->whole = value->as.i;
}

void lperi_collectsearcher(lua_State *L, const peri_searcher *searcher) {
    field_wanted wanted = { "bytes", "", 0 };
    peri_searcher_describe(searcher, want_field, &wanted);
    lperi_collect(L, wanted.whole < 0 ? 0 : (size_t)wanted.whole);
}

static void push_value(lua_State *L, const peri_value *value) {
    switch (value->type) {
    case PERI_VALUE_INT: lua_pushinteger(L, value->as.i); break;
    case PERI_VALUE_REAL: lua_pushnumber(L, value->as.r); break;
    case PERI_VALUE_FLAG: lua_pushboolean(L, value->as.flag); break;
    case PERI_VALUE_TEXT: lua_pushstring(L, value->as.text); break;
    }
}

typedef struct told_field {
    const char *key;
    const peri_value *value;
} told_field;

/* Protected: table[a][b] = value for the key "a.b". */
static int set_field(lua_State *L) {
    const told_field *field = lua_touserdata(L, 2);
    const char *key = field->key, *dot;
    lua_settop(L, 1);
    for (; (dot = strchr(key, '.')) != NULL; key = dot + 1) {
        luaL_checkstack(L, 4, NULL);
        lua_pushlstring(L, key, (size_t)(dot - key));
        lua_pushvalue(L, -1);
        if (lua_rawget(L, -3) == LUA_TTABLE) continue;
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, -5);
    }
    lua_pushstring(L, key);
    push_value(L, field->value);
    lua_rawset(L, -3);
    return 0;
}

typedef struct description {
    lua_State *L;
    int table;
    bool failed; /* the error is on top of the stack */
} description;

/* In frames of the engine: an error of Lua's must not jump over them. */
static void describe_field(void *ud, const char *key, const peri_value *value) {
    description *told = ud;
    if (told->failed) return;
    told_field field = { key, value };
    lua_pushcfunction(told->L, set_field);
    lua_pushvalue(told->L, told->table);
    lua_pushlightuserdata(told->L, &field);
    told->failed = lua_pcall(told->L, 2, 0, 0) != LUA_OK;
}

int lperi_pushdescription(lua_State *L, lperi_describe_fn describe, const void *handle) {
    lua_newtable(L);
    description told = { L, lua_gettop(L), false };
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    describe(handle, describe_field, &told);
    return told.failed ? lua_error(L) : 1;
}

static void describe_searcher(const void *handle, peri_field_fn field, void *ud) {
    peri_searcher_describe(handle, field, ud);
}

static int searcher_info(lua_State *L) {
    return lperi_pushdescription(L, describe_searcher, lperi_checksearcher(L, 1));
}

/* Length of the column at `text`, which a tab or the end ends. */
static size_t column_length(const char *text) { return strcspn(text, "\t"); }

static void add_spaces(luaL_Buffer *text, size_t count) {
    for (size_t i = 0; i < count; i++) luaL_addchar(text, ' ');
}

/* One line of a searcher is columns between tabs; the tree aligns the first two of them. */
static void add_line(luaL_Buffer *text, size_t depth, const char *line, const size_t *widths) {
    size_t used = 3 * depth; /* of the first column */
    if (depth > 0) {
        luaL_addchar(text, '\n');
        add_spaces(text, used - 3);
        luaL_addstring(text, "└─ ");
    }
    for (size_t column = 0;; column++) {
        size_t length = column_length(line);
        luaL_addlstring(text, line, length);
        if (line[length] == '\0') return;
        if (column < 2 && used + length < widths[column])
            add_spaces(text, widths[column] - used - length);
        luaL_addstring(text, "  ");
        line += length + 1;
        used = 0;
    }
}

static int searcher_explain(lua_State *L) {
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    char line[512];
    size_t widths[2] = { 0, 0 };
    for (size_t depth = 0; peri_searcher_explain(searcher, depth, line, sizeof line); depth++) {
        size_t first = column_length(line);
        size_t second = line[first] == '\0' ? 0 : column_length(line + first + 1);
        if (3 * depth + first > widths[0]) widths[0] = 3 * depth + first;
        if (second > widths[1]) widths[1] = second;
    }
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    for (size_t depth = 0; peri_searcher_explain(searcher, depth, line, sizeof line); depth++)
        add_line(&text, depth, line, widths);
    luaL_pushresult(&text);
    return 1;
}

static const char *const searcher_fields[] = { "kind",  "rows",  "dim", "metric",
                                               "dtype", "place", NULL };

static int searcher_index(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
    if (lua_type(L, 2) != LUA_TSTRING) return 0;
    const char *key = lua_tostring(L, 2);
    const peri_searcher *searcher = lperi_checksearcher(L, 1);
    if (strcmp(key, "kind") == 0) {
        lua_pushstring(L, peri_searcher_kind(searcher));
    } else if (strcmp(key, "rows") == 0) {
        lua_pushinteger(L, (lua_Integer)peri_searcher_rows(searcher));
    } else if (strcmp(key, "dim") == 0) {
        lua_pushinteger(L, peri_searcher_dim(searcher));
    } else if (strcmp(key, "metric") == 0) {
        lua_pushstring(L, peri_metric_name(peri_searcher_metric(searcher)));
    } else if (strcmp(key, "dtype") == 0 || strcmp(key, "place") == 0) {
        field_wanted wanted = { key, "", 0 };
        peri_searcher_describe(searcher, want_field, &wanted);
        lua_pushstring(L, wanted.text);
    } else {
        return 0;
    }
    return 1;
}

/* ---- searching ---------------------------------------------------------------------------- */

static const char *const search_own[] = { "filter",  "out",      "place",  "accept",
                                          "threads", "progress", "stream", NULL };

/* One filter, or a list of one a query, into `request`; retained until release_filters. */
static void read_filters(lua_State *L, int options, peri_filter **single, peri_request *request) {
    size_t queries = request->queries.rows;
    int type = lperi_pushoption(L, options, "filter");
    if (type == LUA_TNIL) return;
    lperi_filter *box = luaL_testudata(L, -1, LPERI_FILTER);
    size_t count = box != NULL ? 1 : type == LUA_TTABLE ? (size_t)lua_rawlen(L, -1) : 0;
    if (box == NULL && type != LUA_TTABLE)
        luaL_error(L, "option 'filter': a %s given, allowed: a filter or a list of them",
                   lua_typename(L, type));
    if (count != 1 && count != queries)
        luaL_error(L, "option 'filter': %I given, allowed: 1 or %I, one for each query",
                   (LUAI_UACINT)count, (LUAI_UACINT)queries);
    int list = lua_gettop(L);
    peri_filter **filters = single;
    if (count > 1) filters = lua_newuserdatauv(L, count * sizeof *filters, 0);
    for (size_t i = 0; i < count; i++) {
        if (box == NULL || i > 0) {
            lua_rawgeti(L, list, (lua_Integer)i + 1);
            box = luaL_testudata(L, -1, LPERI_FILTER);
            if (box == NULL)
                luaL_error(L, "option 'filter': element %I of the list is a %s, not a filter",
                           (LUAI_UACINT)i + 1, luaL_typename(L, -1));
            lua_pop(L, 1); /* the list keeps it */
        }
        if (box->handle == NULL)
            luaL_error(L, "option 'filter': number %I is closed", (LUAI_UACINT)i + 1);
        filters[i] = box->handle;
        box = NULL;
    }
    request->filters = filters;
    request->filter_count = count;
}

/* Option "out": hits, or a table of two matrices; or new hits. */
static lperi_hits *read_out(lua_State *L, int options, const peri_request *request) {
    int type = lperi_pushoption(L, options, "out");
    if (type == LUA_TNIL) {
        lua_pop(L, 1);
        return lperi_newhits(L);
    }
    if (type == LUA_TTABLE)
        return lperi_tablehits(L, lua_gettop(L), request->queries.rows, request->k);
    lperi_hits *hits = luaL_testudata(L, -1, LPERI_HITS);
    if (hits == NULL)
        luaL_error(L,
                   "option 'out': a %s given, allowed: hits of an earlier search, or a table of "
                   "matrices: neighbors, distances",
                   luaL_typename(L, -1));
    else if (hits->neighbors == NULL)
        luaL_error(L, "option 'out': these hits are closed");
    return hits;
}

/* Where the answer goes: option "place", or where the hits to fill again are, or the host. */
static peri_place answer_place(lua_State *L, int options, const lperi_hits *hits) {
    int type = lperi_pushoption(L, options, "place");
    lua_pop(L, 1);
    if (type != LUA_TNIL) return lperi_optionplace(L, options, "place");
    return hits->neighbors == NULL ? PERI_CPU : peri_matrix_view(hits->neighbors).place;
}

/* A caller's queue may work on these after this call, and a collector take them meanwhile. */
static void share(const peri_request *request, peri_matrix *queries, const lperi_hits *box) {
    if (!request->queue.given) return;
    if (queries != NULL) peri_matrix_share(queries);
    peri_matrix_share(box->neighbors);
    peri_matrix_share(box->distances);
}

/* The call itself: nothing in here raises. */
static peri_status run_search(peri_searcher *searcher, peri_matrix *queries,
                              const peri_request *request, lperi_hits *box) {
    peri_matrix *neighbors = box->neighbors, *distances = box->distances;
    peri_hits hits = { .ids = peri_matrix_view(neighbors).data,
                       .distances = peri_matrix_view(distances).data,
                       .place = peri_matrix_view(neighbors).place };
    peri_searcher_retain(searcher);
    if (queries != NULL) peri_matrix_retain(queries);
    peri_matrix_retain(neighbors);
    peri_matrix_retain(distances);
    for (size_t i = 0; i < request->filter_count; i++) peri_filter_retain(request->filters[i]);
    peri_status status = peri_searcher_search(searcher, request, &hits);
    box->info = hits.info;
    box->metric = peri_searcher_metric(searcher);
    for (size_t i = 0; i < request->filter_count; i++) peri_filter_release(request->filters[i]);
    peri_matrix_release(distances);
    peri_matrix_release(neighbors);
    peri_matrix_release(queries);
    peri_searcher_release(searcher);
    return status;
}

/* accept: the Lua side asks this searcher for more and more until enough is accepted. */
static bool wants_accept(lua_State *L, int options) {
    int type = lperi_pushoption(L, options, "accept");
    lua_pop(L, 1);
    if (type != LUA_TNIL && type != LUA_TFUNCTION)
        luaL_error(L, "option 'accept': a %s given, allowed: a function", lua_typename(L, type));
    return type == LUA_TFUNCTION;
}

/* searcher:search(queries, k[, { filter, out, place, stream, accept, threads, progress, and search
 * parameters }]) */
static int searcher_search(lua_State *L) {
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    lua_settop(L, 4);
    int options = lperi_checkoptions(L, 4, search_own, "search");
    if (wants_accept(L, options)) {
        lperi_pushhook(L, "accept");
        lua_insert(L, 1);
        lua_call(L, 4, LUA_MULTRET);
        return lua_gettop(L);
    }
    peri_request request = PERI_REQUEST_INIT;
    request.k = (size_t)lperi_checkrange(L, 3, "k", 1, PERI_K_MAX);
    peri_matrix *queries = lperi_checkqueries(L, 2, peri_searcher_dim(searcher), &request.queries);
    peri_filter *single;
    read_filters(L, options, &single, &request);
    request.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    lperi_options params;
    lperi_readoptions(L, options, search_own, &params);
    request.options = (peri_options){ params.list, params.count };
    lperi_control control;
    lperi_control_begin(L, options, &control);
    request.control = &control.control;
    request.queue = lperi_optionqueue(L, options, "stream");
    lperi_hits *box = read_out(L, options, &request);
    const peri_matrix *before = box->neighbors;
    peri_status status = lperi_shapehits(box, peri_searcher_context(searcher),
                                         answer_place(L, options, box), request.queries.rows,
                                         request.k);
    bool fresh = box->neighbors != before;
    if (status == PERI_OK) share(&request, queries, box);
    if (status == PERI_OK) status = run_search(searcher, queries, &request, box);
    lperi_control_end(L, &control);
    if (status == PERI_OK && fresh) lperi_collect(L, request.queries.rows * request.k * 12);
    return lperi_result(L, status, 1);
}

/* ---- searching by distance ---------------------------------------------------------------- */

static const char *const range_own[] = { "filter", "max_results", "threads", "progress", NULL };

/* The call itself: nothing in here raises. */
static peri_status run_range(peri_searcher *searcher, peri_matrix *queries,
                             const peri_request *request, float radius, peri_range_hits *hits) {
    peri_searcher_retain(searcher);
    if (queries != NULL) peri_matrix_retain(queries);
    for (size_t i = 0; i < request->filter_count; i++) peri_filter_retain(request->filters[i]);
    peri_status status = peri_searcher_range(searcher, request, radius, hits);
    for (size_t i = 0; i < request->filter_count; i++) peri_filter_release(request->filters[i]);
    peri_matrix_release(queries);
    peri_searcher_release(searcher);
    return status;
}

/* searcher:range_search(queries, radius[, { filter, max_results, threads, progress, and search
 * parameters }]) -> offsets, ids, distances */
static int searcher_range_search(lua_State *L) {
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    lua_settop(L, 4);
    int options = lperi_checkoptions(L, 4, range_own, "search");
    float radius = (float)luaL_checknumber(L, 3);
    peri_request request = PERI_REQUEST_INIT;
    peri_matrix *queries = lperi_checkqueries(L, 2, peri_searcher_dim(searcher), &request.queries);
    peri_filter *single;
    read_filters(L, options, &single, &request);
    request.threads = lperi_optioncount(L, options, "threads", 0, 1024);
    request.k = lperi_optioncount(L, options, "max_results", 0, PERI_SLOTS_MAX);
    lperi_options params;
    lperi_readoptions(L, options, range_own, &params);
    request.options = (peri_options){ params.list, params.count };
    lperi_matrix *boxes[3];
    for (int i = 0; i < 3; i++) boxes[i] = lperi_newmatrix(L);
    int first = lua_gettop(L) - 2;
    lperi_control control;
    lperi_control_begin(L, options, &control);
    request.control = &control.control;
    peri_range_hits hits = { NULL, NULL, NULL };
    peri_status status = run_range(searcher, queries, &request, radius, &hits);
    boxes[0]->handle = hits.offsets;
    boxes[1]->handle = hits.ids;
    boxes[2]->handle = hits.distances;
    lperi_control_end(L, &control);
    if (status != PERI_OK) return lperi_result(L, status, 3);
    lperi_collect(L, 12 * peri_matrix_view(hits.ids).rows);
    lua_settop(L, first + 2);
    return 3;
}

/* searcher:score(queries, ids): exact values of ids[i, j] for query i. */
static int searcher_score(lua_State *L) {
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    peri_view queries;
    size_t count;
    lua_settop(L, 3);
    const int64_t *ids = lperi_checkids(L, 3, &count);
    lperi_checkqueries(L, 2, peri_searcher_dim(searcher), &queries);
    if (queries.rows == 0 || count == 0 || count % queries.rows != 0)
        return lperi_argument(L, 3, "ids: %I given for %I queries, allowed: as many for each",
                              (LUAI_UACINT)count, (LUAI_UACINT)queries.rows);
    size_t columns = count / queries.rows;
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = peri_matrix_create(peri_searcher_context(searcher), queries.rows, columns,
                                            PERI_F32, PERI_CPU, &box->handle);
    if (status == PERI_OK)
        status = peri_searcher_score(searcher, &queries, ids, columns,
                                     peri_matrix_view(box->handle).data);
    return lperi_result(L, status, 1);
}

static int searcher_dataset(lua_State *L) {
    peri_searcher *searcher = lperi_checksearcher(L, 1);
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = peri_searcher_dataset(searcher, &box->handle);
    if (status == PERI_OK && box->handle == NULL) {
        lua_pushnil(L);
        lua_pushliteral(L, "the searcher holds no rows");
        lua_pushstring(L, peri_status_code(PERI_E_UNSUPPORTED));
        return 3;
    }
    return lperi_result(L, status, 1);
}

/* ---- the rest of the metatable ------------------------------------------------------------ */

static int searcher_len(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)peri_searcher_rows(lperi_checksearcher(L, 1)));
    return 1;
}

static int searcher_tostring(lua_State *L) {
    const lperi_searcher *box = luaL_checkudata(L, 1, LPERI_SEARCHER);
    if (box->handle == NULL) {
        lua_pushliteral(L, "Searcher (closed)");
        return 1;
    }
    field_wanted place = { "place", "", 0 };
    peri_searcher_describe(box->handle, want_field, &place);
    lua_pushfstring(L, "Searcher %s, %I x %I %s on %s", peri_searcher_kind(box->handle),
                    (LUAI_UACINT)peri_searcher_rows(box->handle),
                    (LUAI_UACINT)peri_searcher_dim(box->handle),
                    peri_metric_name(peri_searcher_metric(box->handle)), place.text);
    return 1;
}

static int searcher_close(lua_State *L) {
    lperi_searcher *box = luaL_checkudata(L, 1, LPERI_SEARCHER);
    peri_searcher *searcher = box->handle;
    box->handle = NULL;
    peri_searcher_release(searcher);
    return 0;
}

static const luaL_Reg searcher_methods[] = {
    { "search", searcher_search },
    { "range_search", searcher_range_search },
    { "score", searcher_score },
    { "dataset", searcher_dataset },
    { "info", searcher_info },
    { "explain", searcher_explain },
    { "filtered", lperi_searcher_filtered },
    { "refined", lperi_searcher_refined },
    { "to_hnsw", lperi_searcher_to_hnsw },
    { "to", lperi_searcher_to },
    { "save", lperi_searcher_save },
    { "extend", lperi_searcher_extend },
    { "remove", lperi_searcher_remove },
    { "close", searcher_close },
    { NULL, NULL },
};

static const luaL_Reg searcher_meta[] = {
    { "__gc", searcher_close },
    { "__close", searcher_close },
    { "__len", searcher_len },
    { "__tostring", searcher_tostring },
    { NULL, NULL },
};

void lperi_opensearcher(lua_State *L) {
    static const lperi_type type = { LPERI_SEARCHER, searcher_methods, searcher_meta,
                                     searcher_index, searcher_fields };
    lperi_newtype(L, &type, "Searcher");
}
