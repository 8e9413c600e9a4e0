/* numbers.c: Lua numbers, tables and packed strings to rows of the engine, and back.
 *
 * Tables are read raw: no metamethod runs, so their sizes cannot change while they are read.
 * Buffers are userdata on the stack of the call; an error leaves them to the collector. Rows and
 * columns are named from 0 in messages, as everywhere but in Lua sequences. */
#include <stdint.h>
#include <string.h>

#include "binding.h"

/* ---- one element -------------------------------------------------------------------------- */

static bool whole_range(peri_dtype dtype, lua_Integer *min, lua_Integer *max) {
    switch (dtype) {
    case PERI_I8: *min = INT8_MIN, *max = INT8_MAX; return true;
    case PERI_U8: *min = 0, *max = UINT8_MAX; return true;
    case PERI_I32: *min = INT32_MIN, *max = INT32_MAX; return true;
    case PERI_U32: *min = 0, *max = UINT32_MAX; return true;
    case PERI_I64: *min = INT64_MIN, *max = INT64_MAX; return true;
    default: return false;
    }
}

static void store_whole(peri_dtype dtype, lua_Integer value, char *to) {
    int8_t i8 = (int8_t)value;
    uint8_t u8 = (uint8_t)value;
    int32_t i32 = (int32_t)value;
    uint32_t u32 = (uint32_t)value;
    int64_t i64 = value;
    switch (dtype) {
    case PERI_I8: memcpy(to, &i8, sizeof i8); break;
    case PERI_U8: memcpy(to, &u8, sizeof u8); break;
    case PERI_I32: memcpy(to, &i32, sizeof i32); break;
    case PERI_U32: memcpy(to, &u32, sizeof u32); break;
    default: memcpy(to, &i64, sizeof i64); break;
    }
}

/* The value on top of the stack, as `dtype`, to `to`; pops it. */
static void store_number(lua_State *L, int arg, peri_dtype dtype, size_t row, size_t col,
                         char *to) {
    lua_Integer min = 0, max = 0;
    LUAI_UACINT r = (LUAI_UACINT)row, c = (LUAI_UACINT)col;
    if (lua_type(L, -1) != LUA_TNUMBER)
        lperi_argument(L, arg, "row %I, column %I: a %s, not a number", r, c, luaL_typename(L, -1));
    if (whole_range(dtype, &min, &max)) {
        int whole;
        lua_Integer value = lua_tointegerx(L, -1, &whole);
        if (!whole || value < min || value > max)
            lperi_argument(L, arg, "row %I, column %I: %s given, %s allows whole numbers %I..%I", r,
                           c, luaL_tolstring(L, -1, NULL), peri_dtype_name(dtype), (LUAI_UACINT)min,
                           (LUAI_UACINT)max);
        store_whole(dtype, value, to);
    } else {
        float value = (float)lua_tonumber(L, -1);
        memcpy(to, &value, sizeof value);
    }
    lua_pop(L, 1);
}

void lperi_pushnumber(lua_State *L, peri_dtype dtype, const void *element) {
    union {
        float f32;
        int8_t i8;
        uint8_t u8;
        int32_t i32;
        uint32_t u32;
        int64_t i64;
    } value;
    memcpy(&value, element, peri_dtype_bytes(dtype));
    switch (dtype) {
    case PERI_F32: lua_pushnumber(L, (lua_Number)value.f32); break;
    case PERI_I8: lua_pushinteger(L, value.i8); break;
    case PERI_U8: lua_pushinteger(L, value.u8); break;
    case PERI_I32: lua_pushinteger(L, value.i32); break;
    case PERI_U32: lua_pushinteger(L, value.u32); break;
    case PERI_I64: lua_pushinteger(L, value.i64); break;
    default: lua_pushnil(L); break;
    }
}

peri_dtype lperi_checkdtype(lua_State *L, int arg) {
    peri_dtype dtype = PERI_F32;
    const char *text = luaL_optstring(L, arg, NULL);
    if (text != NULL && peri_dtype_parse(text, &dtype) != PERI_OK)
        lperi_argument(L, arg, "%s", peri_error_detail());
    return dtype;
}

/* ---- tables ------------------------------------------------------------------------------- */

/* Shape of a table of rows, or of numbers (one row). */
static void table_shape(lua_State *L, int arg, size_t *rows, size_t *cols) {
    *rows = 1;
    *cols = (size_t)lua_rawlen(L, arg);
    if (lua_rawgeti(L, arg, 1) == LUA_TTABLE) {
        *rows = *cols;
        *cols = (size_t)lua_rawlen(L, -1);
    }
    lua_pop(L, 1);
}

/* The numbers of the table on top of the stack, `cols` of them. */
static void store_row(lua_State *L, int arg, peri_dtype dtype, size_t row, size_t cols, char *to) {
    size_t bytes = dtype == PERI_F16 ? sizeof(float) : peri_dtype_bytes(dtype);
    for (size_t c = 0; c < cols; c++) {
        lua_rawgeti(L, -1, (lua_Integer)c + 1);
        store_number(L, arg, dtype, row, c, to + c * bytes);
    }
}

static void store_table(lua_State *L, int arg, peri_dtype dtype, size_t rows, size_t cols, char *to,
                        size_t stride_bytes) {
    bool nested = lua_rawgeti(L, arg, 1) == LUA_TTABLE;
    lua_pop(L, 1);
    for (size_t r = 0; r < rows; r++) {
        if (nested)
            lua_rawgeti(L, arg, (lua_Integer)r + 1);
        else
            lua_pushvalue(L, arg);
        if (lua_type(L, -1) != LUA_TTABLE)
            lperi_argument(L, arg, "row %I: a %s, not a table", (LUAI_UACINT)r,
                           luaL_typename(L, -1));
        if (lua_rawlen(L, -1) != cols)
            lperi_argument(L, arg, "row %I: %I numbers, row 0 has %I", (LUAI_UACINT)r,
                           (LUAI_UACINT)lua_rawlen(L, -1), (LUAI_UACINT)cols);
        store_row(L, arg, dtype, r, cols, to + r * stride_bytes);
        lua_pop(L, 1);
    }
}

peri_status lperi_tablematrix(lua_State *L, int arg, peri_dtype dtype) {
    size_t rows, cols;
    peri_context *context;
    table_shape(L, arg, &rows, &cols);
    if (cols == 0) lperi_argument(L, arg, "an empty table has no columns");
    lperi_matrix *box = lperi_newmatrix(L);
    peri_status status = lperi_context(L, &context);
    peri_dtype first = dtype == PERI_F16 ? PERI_F32 : dtype;
    if (status == PERI_OK)
        status = peri_matrix_create(context, rows, cols, first, PERI_CPU, &box->handle);
    if (status != PERI_OK) return status;
    peri_view view = peri_matrix_view(box->handle);
    store_table(L, arg, dtype, rows, cols, view.data, view.stride_bytes);
    if (dtype != PERI_F16) return PERI_OK;
    lperi_matrix *half = lperi_newmatrix(L);
    status = peri_matrix_convert(box->handle, PERI_F16, &half->handle);
    lua_remove(L, -2);
    return status;
}

/* ---- ids ---------------------------------------------------------------------------------- */

static int64_t *id_buffer(lua_State *L, int arg, size_t count) {
    if (count > SIZE_MAX / sizeof(int64_t) / 2) lperi_argument(L, arg, "ids: too many");
    return lua_newuserdatauv(L, (count + 1) * sizeof(int64_t), 0);
}

static const int64_t *list_ids(lua_State *L, int arg, size_t *count) {
    *count = (size_t)lua_rawlen(L, arg);
    int64_t *ids = id_buffer(L, arg, *count);
    for (size_t i = 0; i < *count; i++) {
        int whole = 0;
        if (lua_rawgeti(L, arg, (lua_Integer)i + 1) == LUA_TNUMBER)
            ids[i] = lua_tointegerx(L, -1, &whole);
        if (!whole)
            lperi_argument(L, arg, "ids: element %I of the list is %s, not a whole number",
                           (LUAI_UACINT)i + 1, luaL_tolstring(L, -1, NULL));
        lua_pop(L, 1);
    }
    return ids;
}

const int64_t *lperi_checkids(lua_State *L, int arg, size_t *count) {
    if (lua_type(L, arg) == LUA_TTABLE) return list_ids(L, arg, count);
    peri_matrix *matrix = lperi_checkmatrix(L, arg);
    peri_view view = peri_matrix_view(matrix);
    if (view.dtype != PERI_I64 && view.dtype != PERI_I32 && view.dtype != PERI_U32)
        lperi_argument(L, arg, "ids: a matrix of %s given, allowed: i64, i32, u32",
                       peri_dtype_name(view.dtype));
    *count = view.rows * view.cols;
    bool packed = view.stride_bytes == view.cols * sizeof(int64_t);
    if (view.dtype == PERI_I64 && packed && lperi_onhost(view.place)) return view.data;
    int64_t *ids = id_buffer(L, arg, *count);
    /* The upper half of what becomes 64 bits an element; widened from the front, nothing is
     * overtaken. */
    size_t bytes = peri_dtype_bytes(view.dtype);
    char *raw = (char *)ids + (sizeof(int64_t) - bytes) * *count;
    lperi_result(L, peri_matrix_read(matrix, 0, view.rows, raw), 0);
    for (size_t i = 0; i < *count && view.dtype != PERI_I64; i++) {
        int32_t narrow;
        memcpy(&narrow, raw + i * bytes, sizeof narrow);
        ids[i] = view.dtype == PERI_I32 ? (int64_t)narrow : (int64_t)(uint32_t)narrow;
    }
    return ids;
}

/* ---- queries ------------------------------------------------------------------------------ */

static void packed_queries(lua_State *L, int arg, uint32_t dim, peri_view *out) {
    size_t bytes;
    const char *text = lua_tolstring(L, arg, &bytes);
    size_t row_bytes = dim * sizeof(float);
    if (bytes % row_bytes != 0)
        lperi_argument(L, arg, "queries: %I bytes given, allowed: a multiple of %I (dim %I, f32)",
                       (LUAI_UACINT)bytes, (LUAI_UACINT)row_bytes, (LUAI_UACINT)dim);
    out->data = (void *)text;
    if ((uintptr_t)text % sizeof(float) != 0) {
        out->data = lua_newuserdatauv(L, bytes + sizeof(float), 0);
        memcpy(out->data, text, bytes);
    }
    out->rows = bytes / row_bytes;
}

static void wrong_dim(lua_State *L, int arg, size_t given, uint32_t dim) {
    lperi_argument(L, arg, "queries: %I dimensions given, the searcher has %I", (LUAI_UACINT)given,
                   (LUAI_UACINT)dim);
}

peri_matrix *lperi_checkqueries(lua_State *L, int arg, uint32_t dim, peri_view *out) {
    *out = (peri_view){ .cols = dim, .stride_bytes = dim * sizeof(float), .dtype = PERI_F32 };
    size_t cols;
    switch (lua_type(L, arg)) {
    case LUA_TSTRING: packed_queries(L, arg, dim, out); return NULL;
    case LUA_TTABLE:
        table_shape(L, arg, &out->rows, &cols);
        if (cols != dim) wrong_dim(L, arg, cols, dim);
        out->data = lua_newuserdatauv(L, out->rows * out->stride_bytes, 0);
        store_table(L, arg, PERI_F32, out->rows, dim, out->data, out->stride_bytes);
        return NULL;
    default:
        *out = peri_matrix_view(lperi_checkmatrix(L, arg));
        if (out->cols != dim) wrong_dim(L, arg, out->cols, dim);
        return lperi_checkmatrix(L, arg);
    }
}
