/* filter.c: perigee.Filter, which rows may be returned. A value: operators make new ones.
 *
 * The number of rows is bound at a search; given here (n), count and selectivity need no
 * argument. */
#include <string.h>

#include "binding.h"

/* ---- the box ------------------------------------------------------------------------------ */

lperi_filter *lperi_newfilter(lua_State *L) {
    lperi_filter *box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = (lperi_filter){ NULL, false, 0 };
    luaL_setmetatable(L, LPERI_FILTER);
    return box;
}

static lperi_filter *check_filter(lua_State *L, int arg) {
    lperi_filter *box = luaL_checkudata(L, arg, LPERI_FILTER);
    if (box->handle == NULL) lperi_argument(L, arg, "this filter is closed");
    return box;
}

peri_filter *lperi_checkfilter(lua_State *L, int arg) { return check_filter(L, arg)->handle; }

void lperi_pushfilter(lua_State *L, peri_filter *filter) {
    lperi_filter *box = lperi_newfilter(L);
    peri_filter_retain(filter);
    box->handle = filter;
}

/* An optional number of rows at `arg`. */
static void bind(lua_State *L, int arg, lperi_filter *box) {
    if (lua_isnoneornil(L, arg)) return;
    box->n = (size_t)lperi_checkrange(L, arg, "n", 0, PERI_SLOTS_MAX);
    box->bound = true;
}

/* ---- making ------------------------------------------------------------------------------- */

int lperi_filter_ids(lua_State *L) {
    size_t count;
    peri_context *context;
    lua_settop(L, 2);
    const int64_t *ids = lperi_checkids(L, 1, &count);
    lperi_filter *box = lperi_newfilter(L);
    bind(L, 2, box);
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK) status = peri_filter_ids(context, ids, count, &box->handle);
    return lperi_result(L, status, 1);
}

int lperi_filter_range(lua_State *L) {
    lua_Integer first = lperi_checkrange(L, 1, "first", 0, LUA_MAXINTEGER);
    lua_Integer stop = lperi_checkrange(L, 2, "stop", first, LUA_MAXINTEGER);
    peri_context *context;
    lua_settop(L, 3);
    lperi_filter *box = lperi_newfilter(L);
    bind(L, 3, box);
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK) status = peri_filter_range(context, first, stop, &box->handle);
    return lperi_result(L, status, 1);
}

int lperi_filter_bits(lua_State *L) {
    size_t bytes;
    const char *bits = luaL_checklstring(L, 1, &bytes);
    peri_context *context;
    lua_settop(L, 2);
    size_t count = bytes > PERI_SLOTS_MAX / 8 ? PERI_SLOTS_MAX : bytes * 8;
    lperi_filter *box = lperi_newfilter(L);
    if (!lua_isnoneornil(L, 2)) {
        count = (size_t)lperi_checkrange(L, 2, "n", 0, (lua_Integer)count);
        bind(L, 2, box);
    }
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK) status = peri_filter_bits(context, bits, count, &box->handle);
    return lperi_result(L, status, 1);
}

/* ---- combining ---------------------------------------------------------------------------- */

/* An operand: whichever of the two is no filter is named by its type. */
static lperi_filter *operand(lua_State *L, int arg, const char *sign) {
    lperi_filter *box = luaL_testudata(L, arg, LPERI_FILTER);
    if (box == NULL)
        luaL_error(L, "'%s' joins two filters; one operand is a %s", sign, luaL_typename(L, arg));
    else if (box->handle == NULL)
        luaL_error(L, "an operand of '%s' is a closed filter", sign);
    return box;
}

static int join(lua_State *L, peri_filter_op op, const char *sign) {
    lperi_filter *left = operand(L, 1, sign), *right = operand(L, 2, sign);
    if (left->bound && right->bound && left->n != right->n)
        return luaL_error(L, "'%s' joins filters over %I and %I rows", sign, (LUAI_UACINT)left->n,
                          (LUAI_UACINT)right->n);
    lperi_filter *box = lperi_newfilter(L);
    box->bound = left->bound || right->bound;
    box->n = left->bound ? left->n : right->n;
    return lperi_result(L, peri_filter_join(op, left->handle, right->handle, &box->handle), 1);
}

static int filter_and(lua_State *L) { return join(L, PERI_FILTER_AND, "&"); }
static int filter_or(lua_State *L) { return join(L, PERI_FILTER_OR, "|"); }
static int filter_minus(lua_State *L) { return join(L, PERI_FILTER_MINUS, "-"); }

static int filter_not(lua_State *L) {
    lperi_filter *one = operand(L, 1, "~"), *box = lperi_newfilter(L);
    box->bound = one->bound;
    box->n = one->n;
    return lperi_result(L, peri_filter_not(one->handle, &box->handle), 1);
}

/* ---- looking ------------------------------------------------------------------------------ */

static size_t check_n(lua_State *L, const lperi_filter *box) {
    if (!lua_isnoneornil(L, 2)) return (size_t)lperi_checkrange(L, 2, "n", 0, PERI_SLOTS_MAX);
    if (!box->bound) lperi_argument(L, 2, "n: none given, and the filter was made without");
    return box->n;
}

static int filter_count(lua_State *L) {
    lperi_filter *box = check_filter(L, 1);
    size_t count = 0;
    peri_status status = peri_filter_count(box->handle, check_n(L, box), &count);
    lua_pushinteger(L, (lua_Integer)count);
    return lperi_result(L, status, 1);
}

static int filter_selectivity(lua_State *L) {
    lperi_filter *box = check_filter(L, 1);
    size_t count = 0, n = check_n(L, box);
    peri_status status = peri_filter_count(box->handle, n, &count);
    lua_pushnumber(L, n == 0 ? 0 : (lua_Number)count / (lua_Number)n);
    return lperi_result(L, status, 1);
}

static int filter_test(lua_State *L) {
    lperi_filter *box = check_filter(L, 1);
    bool passes = false;
    lua_Integer id = lperi_checkrange(L, 2, "id", 0, LUA_MAXINTEGER);
    peri_status status = peri_filter_test(box->handle, id, &passes);
    lua_pushboolean(L, passes && !(box->bound && (uint64_t)id >= box->n));
    return lperi_result(L, status, 1);
}

static int filter_info(lua_State *L) {
    lperi_filter *box = check_filter(L, 1);
    size_t count = 0;
    peri_status status = box->bound ? peri_filter_count(box->handle, box->n, &count) : PERI_OK;
    lua_newtable(L);
    if (box->bound && status == PERI_OK) {
        lua_pushinteger(L, (lua_Integer)box->n);
        lua_setfield(L, -2, "n");
        lua_pushinteger(L, (lua_Integer)count);
        lua_setfield(L, -2, "count");
    }
    return lperi_result(L, status, 1);
}

static int filter_tostring(lua_State *L) {
    lperi_filter *box = luaL_checkudata(L, 1, LPERI_FILTER);
    size_t count = 0;
    if (box->handle == NULL)
        lua_pushliteral(L, "Filter (closed)");
    else if (box->bound && peri_filter_count(box->handle, box->n, &count) == PERI_OK)
        lua_pushfstring(L, "Filter %I of %I rows", (LUAI_UACINT)count, (LUAI_UACINT)box->n);
    else
        lua_pushliteral(L, "Filter");
    return 1;
}

static int filter_close(lua_State *L) {
    lperi_filter *box = luaL_checkudata(L, 1, LPERI_FILTER);
    peri_filter *filter = box->handle;
    box->handle = NULL;
    peri_filter_release(filter);
    return 0;
}

static int filter_index(lua_State *L) {
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

/* ---- registration ------------------------------------------------------------------------- */

static const luaL_Reg filter_methods[] = {
    { "count", filter_count }, { "test", filter_test },   { "selectivity", filter_selectivity },
    { "info", filter_info },   { "close", filter_close }, { NULL, NULL },
};

static const luaL_Reg filter_meta[] = {
    { "__gc", filter_close },
    { "__close", filter_close },
    { "__tostring", filter_tostring },
    { "__band", filter_and },
    { "__bor", filter_or },
    { "__bnot", filter_not },
    { "__sub", filter_minus },
    { NULL, NULL },
};

void lperi_openfilter(lua_State *L) {
    static const char *const fields[] = { NULL };
    static const lperi_type type = { LPERI_FILTER, filter_methods, filter_meta, filter_index,
                                     fields };
    lperi_newtype(L, &type, "Filter");
}
