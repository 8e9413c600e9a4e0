/* matrix.c: perigee.Matrix, rows somewhere. A value: what changes rows returns a new one.
 *
 * A slice keeps its parent's memory alive by the engine's own counting, so closing or collecting
 * the parent is harmless. */
#include <string.h>

#include "binding.h"

/* ---- the box ------------------------------------------------------------------------------ */

lperi_matrix *lperi_newmatrix(lua_State *L) {
    lperi_matrix *box = lua_newuserdatauv(L, sizeof *box, 0);
    box->handle = NULL;
    luaL_setmetatable(L, LPERI_MATRIX);
    return box;
}

peri_matrix *lperi_checkmatrix(lua_State *L, int arg) {
    const lperi_matrix *box = luaL_checkudata(L, arg, LPERI_MATRIX);
    if (box->handle == NULL) lperi_argument(L, arg, "this matrix is closed");
    return box->handle;
}

void lperi_pushmatrix(lua_State *L, peri_matrix *matrix) {
    lperi_matrix *box = lperi_newmatrix(L);
    peri_matrix_retain(matrix);
    box->handle = matrix;
}

bool lperi_onhost(peri_place place) {
    return place.kind == PERI_PLACE_CPU || place.kind == PERI_PLACE_REF;
}

peri_view lperi_checkhostview(lua_State *L, int arg) {
    peri_view view = peri_matrix_view(lperi_checkmatrix(L, arg));
    char place[LPERI_PLACE_SIZE];
    if (!lperi_onhost(view.place))
        lperi_argument(L, arg, "a matrix on %s given, allowed: on the host, as m:to \"cpu\" gives",
                       peri_place_format(view.place, place, sizeof place));
    return view;
}

void lperi_collectmatrix(lua_State *L, const peri_matrix *matrix) {
    peri_view view = peri_matrix_view(matrix);
    lperi_collect(L, view.rows * view.stride_bytes);
}

/* A new matrix is on top of the stack: tell the collector, or say why there is none. */
static int made(lua_State *L, peri_status status, const lperi_matrix *box) {
    if (status == PERI_OK) lperi_collectmatrix(L, box->handle);
    return lperi_result(L, status, 1);
}

/* ---- making ------------------------------------------------------------------------------- */

/* Option "rows": { first, stop }. */
static void read_rows(lua_State *L, int options, peri_load_options *load) {
    int type = lperi_pushoption(L, options, "rows");
    if (type != LUA_TNIL) {
        if (type != LUA_TTABLE)
            luaL_error(L, "option 'rows': a %s given, allowed: { first, stop }",
                       lua_typename(L, type));
        lua_Integer span[2] = { 0, -1 };
        for (int i = 0; i < 2; i++) {
            int whole, given = lua_rawgeti(L, -1, i + 1);
            lua_Integer value = lua_tointegerx(L, -1, &whole);
            if (given == LUA_TNUMBER && whole && value >= 0)
                span[i] = value;
            else if (given != LUA_TNIL || i == 0)
                luaL_error(L, "option 'rows': element %d is %s, allowed: whole numbers from 0",
                           i + 1, luaL_tolstring(L, -1, NULL));
            lua_pop(L, 1);
        }
        load->first = (size_t)span[0];
        load->stop = span[1] < 0 ? SIZE_MAX : (size_t)span[1];
    }
    lua_pop(L, 1);
}

/* load(path[, { rows, format, map, progress }]) */
int lperi_load(lua_State *L) {
    static const char *const own[] = { "rows", "format", "map", "progress", NULL };
    const char *path = luaL_checkstring(L, 1);
    lua_settop(L, 2);
    int options = lperi_checkoptions(L, 2, own, NULL);
    peri_load_options load = PERI_LOAD_OPTIONS_INIT;
    read_rows(L, options, &load);
    load.format = lperi_optiontext(L, options, "format");
    load.map = lperi_optionflag(L, options, "map", false);
    peri_context *context;
    lperi_control control;
    lperi_control_begin(L, options, &control);
    load.control = &control.control;
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK) status = peri_matrix_load(context, path, &load, &box->handle);
    lperi_control_end(L, &control);
    if (load.map) return lperi_result(L, status, 1); /* the page cache's bytes are not ours */
    return made(L, status, box);
}

/* A place, or "pinned": memory of the host that is page-locked for cuda:0; "pinned:" and a place:
 * for that. */
static peri_place check_place(lua_State *L, int arg, bool *pinned) {
    static const char word[] = "pinned";
    const char *text = luaL_checkstring(L, arg);
    peri_place place = { PERI_PLACE_CUDA, 0 };
    *pinned = strncmp(text, word, sizeof word - 1) == 0;
    if (*pinned) text += sizeof word - 1;
    if (*pinned && *text == '\0') return place;
    if (*pinned && *text == ':') text++;
    if (peri_place_parse(text, &place) != PERI_OK)
        lperi_argument(L, arg, "%s", peri_error_detail());
    return place;
}

/* matrix(rows, cols[, dtype[, place]]), matrix(table[, dtype]) */
int lperi_matrix_new(lua_State *L) {
    if (lua_type(L, 1) == LUA_TTABLE) {
        peri_status status = lperi_tablematrix(L, 1, lperi_checkdtype(L, 2));
        return status == PERI_OK ? 1 : lperi_result(L, status, 0);
    }
    size_t rows = (size_t)lperi_checkrange(L, 1, "rows", 0, LUA_MAXINTEGER);
    size_t cols = (size_t)lperi_checkrange(L, 2, "cols", 1, LUA_MAXINTEGER);
    peri_dtype dtype = lperi_checkdtype(L, 3);
    peri_place place = PERI_CPU;
    bool pinned = false;
    peri_context *context;
    if (!lua_isnoneornil(L, 4)) place = check_place(L, 4, &pinned);
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK)
        status = pinned ? peri_matrix_create_pinned(context, rows, cols, dtype, place, &box->handle)
                        : peri_matrix_create(context, rows, cols, dtype, place, &box->handle);
    return made(L, status, box);
}

/* unpack(string[, dtype[, cols]]) */
int lperi_unpack(lua_State *L) {
    size_t bytes;
    const char *text = luaL_checklstring(L, 1, &bytes);
    peri_dtype dtype = lperi_checkdtype(L, 2);
    size_t size = peri_dtype_bytes(dtype), values = bytes / size;
    size_t cols = values;
    if (!lua_isnoneornil(L, 3))
        cols = (size_t)lperi_checkrange(L, 3, "cols", 1, (lua_Integer)1 << 40);
    if (bytes % size != 0 || cols == 0 || values % cols != 0)
        return lperi_argument(L, 1, "packed: %I bytes given, allowed: a multiple of %I",
                              (LUAI_UACINT)bytes, (LUAI_UACINT)(size * (cols == 0 ? 1 : cols)));
    peri_context *context;
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK)
        status = peri_matrix_create(context, values / cols, cols, dtype, PERI_CPU, &box->handle);
    if (status == PERI_OK) status = peri_matrix_write(box->handle, 0, values / cols, text);
    return made(L, status, box);
}

/* ---- taking out --------------------------------------------------------------------------- */

static int pack_matrix(lua_State *L, peri_matrix *matrix) {
    peri_view view = peri_matrix_view(matrix);
    luaL_Buffer buffer;
    size_t bytes = view.rows * view.cols * peri_dtype_bytes(view.dtype);
    char *to = luaL_buffinitsize(L, &buffer, bytes);
    peri_status status = peri_matrix_read(matrix, 0, view.rows, to);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    luaL_pushresultsize(&buffer, bytes);
    return 1;
}

static int matrix_pack(lua_State *L) { return pack_matrix(L, lperi_checkmatrix(L, 1)); }

/* pack(matrix), pack(table[, dtype]) */
int lperi_pack(lua_State *L) {
    if (lua_type(L, 1) != LUA_TTABLE) return matrix_pack(L);
    peri_status status = lperi_tablematrix(L, 1, lperi_checkdtype(L, 2));
    if (status != PERI_OK) return lperi_result(L, status, 0);
    return pack_matrix(L, lperi_checkmatrix(L, -1));
}

/* Pushes a table of the numbers of row `row`. */
static int push_row(lua_State *L, peri_matrix *matrix, size_t row) {
    peri_view view = peri_matrix_view(matrix);
    if (view.dtype == PERI_F16) {
        lperi_matrix *slice = lperi_newmatrix(L), *wide = lperi_newmatrix(L);
        peri_status status = peri_matrix_slice(matrix, row, row + 1, &slice->handle);
        if (status == PERI_OK) status = peri_matrix_convert(slice->handle, PERI_F32, &wide->handle);
        return status == PERI_OK ? push_row(L, wide->handle, 0) : lperi_result(L, status, 0);
    }
    size_t bytes = peri_dtype_bytes(view.dtype);
    const char *from = (const char *)view.data + row * view.stride_bytes;
    if (!lperi_onhost(view.place)) {
        char *copy = lua_newuserdatauv(L, view.cols * bytes, 0);
        peri_status status = peri_matrix_read(matrix, row, 1, copy);
        if (status != PERI_OK) return lperi_result(L, status, 0);
        from = copy;
    }
    lua_createtable(L, view.cols > INT32_MAX ? 0 : (int)view.cols, 0);
    for (size_t c = 0; c < view.cols; c++) {
        lperi_pushnumber(L, view.dtype, from + c * bytes);
        lua_rawseti(L, -2, (lua_Integer)c + 1);
    }
    return 1;
}

static int matrix_row(lua_State *L) {
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    size_t rows = peri_matrix_view(matrix).rows;
    if (rows == 0) return lperi_argument(L, 2, "row: the matrix has none");
    return push_row(L, matrix, (size_t)lperi_checkrange(L, 2, "row", 0, (lua_Integer)rows - 1));
}

static int each_next(lua_State *L) {
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    lua_Integer row = luaL_checkinteger(L, 2) + 1;
    if (row < 0 || (size_t)row >= peri_matrix_view(matrix).rows) return 0;
    int values = push_row(L, matrix, (size_t)row);
    if (values != 1) return values;
    lua_pushinteger(L, row);
    lua_insert(L, -2);
    return 2;
}

static int matrix_each(lua_State *L) {
    lperi_checkmatrix(L, 1);
    lua_pushcfunction(L, each_next);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, -1);
    return 3;
}

/* ---- new ones from old -------------------------------------------------------------------- */

static int matrix_slice(lua_State *L) {
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    lua_Integer rows = (lua_Integer)peri_matrix_view(matrix).rows;
    lua_Integer first = lperi_checkrange(L, 2, "first", 0, rows);
    lua_Integer stop = lua_isnoneornil(L, 3) ? rows : lperi_checkrange(L, 3, "stop", first, rows);
    lperi_matrix *box = lperi_newmatrix(L);
    return lperi_result(L, peri_matrix_slice(matrix, (size_t)first, (size_t)stop, &box->handle), 1);
}

static int matrix_gather(lua_State *L) {
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    size_t count;
    const int64_t *ids = lperi_checkids(L, 2, &count);
    lperi_matrix *box = lperi_newmatrix(L);
    return made(L, peri_matrix_gather(matrix, ids, count, &box->handle), box);
}

static int matrix_as(lua_State *L) {
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    luaL_checkstring(L, 2);
    peri_dtype dtype = lperi_checkdtype(L, 2);
    lperi_matrix *box = lperi_newmatrix(L);
    return made(L, peri_matrix_convert(matrix, dtype, &box->handle), box);
}

static int matrix_normalize(lua_State *L) {
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    lperi_matrix *box = lperi_newmatrix(L);
    return made(L, peri_matrix_normalize(matrix, &box->handle), box);
}

/* matrix:to(place[, { stream }]) */
static int matrix_to(lua_State *L) {
    static const char *const own[] = { "stream", NULL };
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    bool pinned;
    lua_settop(L, 3);
    peri_place place = check_place(L, 2, &pinned);
    int options = lperi_checkoptions(L, 3, own, NULL);
    peri_queue queue = lperi_optionqueue(L, options, "stream");
    peri_place from = peri_matrix_view(matrix).place;
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = peri_queue_wait(peri_matrix_context(matrix),
                                         lperi_onhost(from) ? place : from, queue);
    if (status == PERI_OK)
        status = pinned ? peri_matrix_pin(matrix, place, &box->handle)
                        : peri_matrix_move(matrix, place, &box->handle);
    return made(L, status, box);
}

static int matrix_save(lua_State *L) {
    static const char *const own[] = { "format", NULL };
    peri_matrix *matrix = lperi_checkmatrix(L, 1);
    const char *path = luaL_checkstring(L, 2);
    int options = lperi_checkoptions(L, 3, own, NULL);
    const char *format = lperi_optiontext(L, options, "format");
    peri_status status = peri_matrix_save(matrix, path, format);
    lua_pushboolean(L, 1);
    return lperi_result(L, status, 1);
}

/* ---- looking ------------------------------------------------------------------------------ */

/* The bytes of a row: in place on the host, else copied to `buffer`. */
static const void *row_bytes(peri_matrix *matrix, size_t row, void *buffer, peri_status *status) {
    peri_view view = peri_matrix_view(matrix);
    if (lperi_onhost(view.place)) return (const char *)view.data + row * view.stride_bytes;
    *status = peri_matrix_read(matrix, row, 1, buffer);
    return buffer;
}

/* Whether both hold the same bytes in the same shape and dtype, wherever they are. */
static int matrix_equals(lua_State *L) {
    peri_matrix *left = lperi_checkmatrix(L, 1), *right = lperi_checkmatrix(L, 2);
    peri_view a = peri_matrix_view(left), b = peri_matrix_view(right);
    bool equal = a.rows == b.rows && a.cols == b.cols && a.dtype == b.dtype;
    size_t bytes = a.cols * peri_dtype_bytes(a.dtype);
    char *buffer = lua_newuserdatauv(L, 2 * bytes, 0);
    peri_status status = PERI_OK;
    for (size_t r = 0; equal && status == PERI_OK && r < a.rows; r++) {
        const void *x = row_bytes(left, r, buffer, &status);
        const void *y = row_bytes(right, r, buffer + bytes, &status);
        equal = status == PERI_OK && memcmp(x, y, bytes) == 0;
    }
    lua_pushboolean(L, equal);
    return lperi_result(L, status, 1);
}

static const char *const matrix_fields[] = { "rows", "cols", "dtype", "place", NULL };

static bool push_field(lua_State *L, const peri_view *view, const char *key) {
    char place[LPERI_PLACE_SIZE];
    if (strcmp(key, "rows") == 0)
        lua_pushinteger(L, (lua_Integer)view->rows);
    else if (strcmp(key, "cols") == 0)
        lua_pushinteger(L, (lua_Integer)view->cols);
    else if (strcmp(key, "dtype") == 0)
        lua_pushstring(L, peri_dtype_name(view->dtype));
    else if (strcmp(key, "place") == 0)
        lua_pushstring(L, peri_place_format(view->place, place, sizeof place));
    else
        return false;
    return true;
}

static int matrix_index(lua_State *L) {
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
    if (lua_type(L, 2) == LUA_TNUMBER)
        return luaL_error(L, "a matrix is not indexed by [%s]: use m:row(r), which counts from 0",
                          luaL_tolstring(L, 2, NULL));
    if (lua_type(L, 2) != LUA_TSTRING) return 0;
    peri_view view = peri_matrix_view(lperi_checkmatrix(L, 1));
    return push_field(L, &view, lua_tostring(L, 2)) ? 1 : 0;
}

static int matrix_info(lua_State *L) {
    peri_view view = peri_matrix_view(lperi_checkmatrix(L, 1));
    lua_newtable(L);
    for (size_t i = 0; matrix_fields[i] != NULL; i++) {
        push_field(L, &view, matrix_fields[i]);
        lua_setfield(L, -2, matrix_fields[i]);
    }
    lua_pushinteger(L, (lua_Integer)(view.rows * view.stride_bytes));
    lua_setfield(L, -2, "bytes");
    lua_pushboolean(L, peri_matrix_pinned(lperi_checkmatrix(L, 1)));
    lua_setfield(L, -2, "pinned");
    return 1;
}

static int matrix_len(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)peri_matrix_view(lperi_checkmatrix(L, 1)).rows);
    return 1;
}

static int matrix_tostring(lua_State *L) {
    const lperi_matrix *box = luaL_checkudata(L, 1, LPERI_MATRIX);
    char place[LPERI_PLACE_SIZE];
    if (box->handle == NULL) {
        lua_pushliteral(L, "Matrix (closed)");
        return 1;
    }
    peri_view view = peri_matrix_view(box->handle);
    lua_pushfstring(L, "Matrix %I x %I %s on %s", (LUAI_UACINT)view.rows, (LUAI_UACINT)view.cols,
                    peri_dtype_name(view.dtype),
                    peri_place_format(view.place, place, sizeof place));
    return 1;
}

static int matrix_close(lua_State *L) {
    lperi_matrix *box = luaL_checkudata(L, 1, LPERI_MATRIX);
    peri_matrix *matrix = box->handle;
    box->handle = NULL;
    peri_matrix_release(matrix);
    return 0;
}

/* ---- registration ------------------------------------------------------------------------- */

static const luaL_Reg matrix_methods[] = {
    { "slice", matrix_slice },
    { "gather", matrix_gather },
    { "row", matrix_row },
    { "each", matrix_each },
    { "normalize", matrix_normalize },
    { "as", matrix_as },
    { "to", matrix_to },
    { "to_dlpack", lperi_matrix_to_dlpack },
    { "save", matrix_save },
    { "pack", matrix_pack },
    { "equals", matrix_equals },
    { "info", matrix_info },
    { "close", matrix_close },
    { NULL, NULL },
};

static const luaL_Reg matrix_meta[] = {
    { "__gc", matrix_close }, { "__close", matrix_close },
    { "__len", matrix_len },  { "__tostring", matrix_tostring },
    { NULL, NULL },
};

void lperi_openmatrix(lua_State *L) {
    static const lperi_type type = { LPERI_MATRIX, matrix_methods, matrix_meta, matrix_index,
                                     matrix_fields };
    lperi_newtype(L, &type, "Matrix");
}
