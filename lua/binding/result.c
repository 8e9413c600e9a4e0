/* result.c: how the binding speaks of failure, and of memory that the collector cannot see.
 *
 * luaL_error puts the position of the Lua caller before the message, which is why functions of
 * the module are C functions that scripts call directly, not wrapped. */
#include <stdarg.h>

#include "binding.h"

#define COLLECT_BYTES_MAX ((size_t)64 << 20)

/* A poll that ends a call writes no detail, so the last one told is about something else. */
static const char *message_of(peri_status status) {
    if (status == PERI_E_INTERRUPTED || status == PERI_E_CANCELLED) return peri_status_text(status);
    const char *detail = peri_error_detail();
    return detail[0] != '\0' ? detail : peri_status_text(status);
}

int lperi_result(lua_State *L, peri_status status, int values) {
    if (status == PERI_OK) return values;
    if (status == PERI_E_ARGUMENT || status == PERI_E_CLOSED)
        return luaL_error(L, "%s", message_of(status));
    luaL_checkstack(L, 3, NULL);
    lua_pushnil(L);
    lua_pushstring(L, message_of(status));
    lua_pushstring(L, peri_status_code(status));
    return 3;
}

int lperi_argument(lua_State *L, int arg, const char *format, ...) {
    va_list list;
    va_start(list, format);
    const char *text = lua_pushvfstring(L, format, list);
    va_end(list);
    return luaL_argerror(L, arg, text);
}

lua_Integer lperi_checkrange(lua_State *L, int arg, const char *name, lua_Integer min,
                             lua_Integer max) {
    int whole = 0;
    lua_Integer value = lua_type(L, arg) == LUA_TNUMBER ? lua_tointegerx(L, arg, &whole) : 0;
    if (whole && value >= min && value <= max) return value;
    const char *given = lua_type(L, arg) == LUA_TNUMBER ? luaL_tolstring(L, arg, NULL)
                                                        : luaL_typename(L, arg);
    if (max == LUA_MAXINTEGER)
        lperi_argument(L, arg, "%s: %s given, allowed: whole numbers from %I", name, given,
                       (LUAI_UACINT)min);
    lperi_argument(L, arg, "%s: %s given, allowed: %I..%I", name, given, (LUAI_UACINT)min,
                   (LUAI_UACINT)max);
    return 0;
}

void lperi_collect(lua_State *L, size_t bytes) {
    if (bytes > COLLECT_BYTES_MAX) bytes = COLLECT_BYTES_MAX;
    /* A step of 0 would be a basic one of the collector's choice; a stopped collector stays
     * stopped. */
    if (bytes >= 1024 && lua_gc(L, LUA_GCISRUNNING)) lua_gc(L, LUA_GCSTEP, (int)(bytes / 1024));
}
