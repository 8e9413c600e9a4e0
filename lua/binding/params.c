/* params.c: the engine's parameter tables as plain Lua tables, for defaults() and help(). */
#include <string.h>

#include "binding.h"

/* Pushes the default of a parameter: a choice as its word. */
static void push_fallback(lua_State *L, const peri_param *param) {
    if (param->type == PERI_VALUE_REAL) {
        lua_pushnumber(L, param->fallback);
    } else if (param->type == PERI_VALUE_FLAG) {
        lua_pushboolean(L, param->fallback > 0); /* -1: automatic */
    } else if (param->type == PERI_VALUE_INT || param->choices == NULL) {
        lua_pushinteger(L, (lua_Integer)param->fallback);
    } else {
        const char *from = param->choices;
        for (int skip = (int)param->fallback; skip > 0 && strchr(from, '|') != NULL; skip--)
            from = strchr(from, '|') + 1;
        lua_pushlstring(L, from, strcspn(from, "|"));
    }
}

static const char *type_word(const peri_param *param) {
    switch (param->type) {
    case PERI_VALUE_INT: return "integer";
    case PERI_VALUE_REAL: return "number";
    case PERI_VALUE_FLAG: return "boolean";
    case PERI_VALUE_TEXT: break;
    }
    return param->choices == NULL ? "string" : "choice";
}

static void push_row(lua_State *L, const peri_param *param) {
    lua_createtable(L, 0, 8);
    lua_pushstring(L, param->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, type_word(param));
    lua_setfield(L, -2, "type");
    push_fallback(L, param);
    lua_setfield(L, -2, "default");
    lua_pushnumber(L, param->min);
    lua_setfield(L, -2, "min");
    lua_pushnumber(L, param->max);
    lua_setfield(L, -2, "max");
    lua_pushstring(L, param->choices);
    lua_setfield(L, -2, "choices");
    lua_pushstring(L, param->rule);
    lua_setfield(L, -2, "rule");
    lua_pushstring(L, param->meaning);
    lua_setfield(L, -2, "meaning");
}

/* params(kind, verb) -> rows in the table's order, or nil when there is no such table. Its field
 * `memory` is the formula for what is built. */
int lperi_params(lua_State *L) {
    const peri_param_table *table = peri_params_find(luaL_checkstring(L, 1),
                                                     luaL_checkstring(L, 2));
    if (table == NULL) {
        lua_pushnil(L);
        return 1;
    }
    lua_createtable(L, (int)table->count, 1);
    for (size_t i = 0; i < table->count; i++) {
        push_row(L, &table->list[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushstring(L, table->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, peri_kind_memory(lua_tostring(L, 1)));
    lua_setfield(L, -2, "memory");
    return 1;
}

/* defaults([verb]) -> values by name, and the rules of those that are automatic. */
int lperi_defaults(lua_State *L) {
    const char *kind = lua_tostring(L, lua_upvalueindex(1));
    const char *verb = luaL_optstring(L, 1, "build");
    const peri_param_table *table = peri_params_find(kind, verb);
    if (table == NULL && lua_isnoneornil(L, 1)) table = peri_params_find(kind, "search");
    if (table == NULL && lua_isnoneornil(L, 1)) table = peri_params_find(kind, "train");
    if (table == NULL)
        return lperi_argument(L, 1, "verb: '%s' given, %s has none such", verb, kind);
    lua_createtable(L, 0, (int)table->count);
    lua_newtable(L);
    for (size_t i = 0; i < table->count; i++) {
        push_fallback(L, &table->list[i]);
        lua_setfield(L, -3, table->list[i].name);
        if (table->list[i].rule == NULL) continue;
        lua_pushstring(L, table->list[i].rule);
        lua_setfield(L, -2, table->list[i].name);
    }
    return 2;
}
