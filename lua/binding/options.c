/* options.c: the trailing option table of Lua to peri_options.
 *
 * Some keys are the binding's own (place, ids, filter, progress, ...); a function names those it
 * takes. The rest goes to the engine, whose parameter tables check types and ranges. A key that
 * neither knows is refused here, because only here are both known and the nearest can be named.
 * Tables are read raw. */
#include <string.h>

#include "binding.h"

#define NAME_LENGTH_MAX 47

static bool in_list(const char *const *list, const char *key) {
    for (size_t i = 0; list[i] != NULL; i++)
        if (strcmp(list[i], key) == 0) return true;
    return false;
}

/* ---- unknown keys ------------------------------------------------------------------------- */

static bool is_param(const char *verb, const char *key) {
    const char *kind;
    for (size_t i = 0; verb != NULL && (kind = peri_params_name(i)) != NULL; i++) {
        const peri_param_table *table = peri_params_find(kind, verb);
        for (size_t p = 0; table != NULL && p < table->count; p++)
            if (strcmp(table->list[p].name, key) == 0) return true;
    }
    return false;
}

/* How many letters to add, drop or change (Levenshtein 1966), one row at a time. */
static size_t letters_apart(const char *a, const char *b) {
    size_t row[NAME_LENGTH_MAX + 1];
    size_t n = strnlen(a, NAME_LENGTH_MAX), m = strnlen(b, NAME_LENGTH_MAX);
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[m];
}

static void nearer(const char *key, const char *name, const char **nearest, size_t *apart) {
    size_t letters = letters_apart(key, name);
    if (letters >= *apart) return;
    *apart = letters;
    *nearest = name;
}

static void unknown_option(lua_State *L, const char *const *own, const char *verb,
                           const char *key) {
    const char *nearest = NULL;
    size_t apart = NAME_LENGTH_MAX;
    for (size_t i = 0; own[i] != NULL; i++) nearer(key, own[i], &nearest, &apart);
    const char *kind;
    for (size_t i = 0; verb != NULL && (kind = peri_params_name(i)) != NULL; i++) {
        const peri_param_table *table = peri_params_find(kind, verb);
        for (size_t p = 0; table != NULL && p < table->count; p++)
            nearer(key, table->list[p].name, &nearest, &apart);
    }
    if (nearest == NULL) luaL_error(L, "unknown option '%s': none is taken", key);
    luaL_error(L, "unknown option '%s': did you mean '%s'?", key, nearest);
}

int lperi_checkoptions(lua_State *L, int arg, const char *const *own, const char *verb) {
    if (lua_isnoneornil(L, arg)) return 0;
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, arg) != 0) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            lperi_argument(L, arg, "options: a key that is a %s, allowed: names",
                           luaL_typename(L, -1));
        const char *key = lua_tostring(L, -1);
        if (!in_list(own, key) && !is_param(verb, key)) unknown_option(L, own, verb, key);
    }
    return arg;
}

/* ---- values ------------------------------------------------------------------------------- */

static peri_value value_of(lua_State *L, int index, const char *key) {
    peri_value value = { PERI_VALUE_INT, { 0 } };
    switch (lua_type(L, index)) {
    case LUA_TBOOLEAN:
        value.type = PERI_VALUE_FLAG;
        value.as.flag = lua_toboolean(L, index);
        break;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index)) {
            value.as.i = lua_tointeger(L, index);
        } else {
            value.type = PERI_VALUE_REAL;
            value.as.r = lua_tonumber(L, index);
        }
        break;
    case LUA_TSTRING:
        value.type = PERI_VALUE_TEXT;
        value.as.text = lua_tostring(L, index);
        break;
    default:
        luaL_error(L, "option '%s': a %s given, allowed: a number, a string, true or false", key,
                   luaL_typename(L, index));
    }
    return value;
}

void lperi_readoptions(lua_State *L, int options, const char *const *own, lperi_options *out) {
    out->count = 0;
    if (options == 0) return;
    luaL_checkstack(L, 2 * LPERI_OPTIONS_MAX + 8, "too many options");
    lua_pushnil(L);
    while (lua_next(L, options) != 0) {
        const char *key = lua_tostring(L, -2);
        if (in_list(own, key)) {
            lua_pop(L, 1);
            continue;
        }
        if (out->count == LPERI_OPTIONS_MAX)
            luaL_error(L, "options: more than %d given", LPERI_OPTIONS_MAX);
        out->list[out->count++] = (peri_option){ key, value_of(L, -1, key) };
        lua_pushvalue(L, -2); /* key, value, key: the lower two stay as anchors */
    }
}

int lperi_pushoption(lua_State *L, int options, const char *key) {
    luaL_checkstack(L, 4, NULL);
    if (options == 0) {
        lua_pushnil(L);
        return LUA_TNIL;
    }
    lua_pushstring(L, key);
    return lua_rawget(L, options);
}

static void wrong_type(lua_State *L, const char *key, const char *allowed) {
    luaL_error(L, "option '%s': a %s given, allowed: %s", key, luaL_typename(L, -1), allowed);
}

const char *lperi_optiontext(lua_State *L, int options, const char *key) {
    int type = lperi_pushoption(L, options, key);
    if (type != LUA_TNIL && type != LUA_TSTRING) wrong_type(L, key, "a string");
    return lua_tostring(L, -1);
}

bool lperi_optionflag(lua_State *L, int options, const char *key, bool fallback) {
    int type = lperi_pushoption(L, options, key);
    if (type != LUA_TNIL && type != LUA_TBOOLEAN) wrong_type(L, key, "true or false");
    bool flag = type == LUA_TNIL ? fallback : lua_toboolean(L, -1);
    lua_pop(L, 1);
    return flag;
}

size_t lperi_optioncount(lua_State *L, int options, const char *key, size_t fallback, size_t max) {
    int type = lperi_pushoption(L, options, key), whole = 0;
    lua_Integer value = type == LUA_TNUMBER ? lua_tointegerx(L, -1, &whole) : 0;
    if (type == LUA_TNIL) {
        lua_pop(L, 1);
        return fallback;
    }
    if (!whole || value < 0 || (size_t)value > max) {
        const char *allowed = lua_pushfstring(L, "0..%I", (LUAI_UACINT)max);
        lua_insert(L, -2);
        if (type != LUA_TNUMBER) wrong_type(L, key, allowed);
        luaL_error(L, "option '%s': %s given, allowed: %s", key, luaL_tolstring(L, -1, NULL),
                   allowed);
    }
    lua_pop(L, 1);
    return (size_t)value;
}

peri_place lperi_optionplace(lua_State *L, int options, const char *key) {
    peri_place place = PERI_CPU;
    const char *text = lperi_optiontext(L, options, key);
    if (text != NULL) lperi_result(L, peri_place_parse(text, &place), 0);
    lua_pop(L, 1);
    return place;
}

const peri_place *lperi_optionwhere(lua_State *L, int options, peri_place *room) {
    int type = lperi_pushoption(L, options, "place");
    lua_pop(L, 1);
    if (type == LUA_TNIL) return NULL;
    *room = lperi_optionplace(L, options, "place");
    return room;
}

peri_residence lperi_optionresidence(lua_State *L, int options) {
    static const char *const words[] = { "auto", "device", "host" };
    const char *text = lperi_optiontext(L, options, "residence");
    int found = text == NULL ? PERI_RESIDENCE_AUTO : -1;
    for (int i = 0; found < 0 && i < 3; i++)
        if (strcmp(text, words[i]) == 0) found = i;
    if (found < 0)
        luaL_error(L, "option 'residence': '%s' given, allowed: auto, device, host", text);
    lua_pop(L, 1);
    return (peri_residence)found;
}

peri_queue lperi_optionqueue(lua_State *L, int options, const char *key) {
    peri_queue queue = { true, NULL };
    int whole = 0, type = lperi_pushoption(L, options, key);
    if (type == LUA_TNIL)
        queue.given = false;
    else if (type == LUA_TLIGHTUSERDATA)
        queue.handle = lua_touserdata(L, -1);
    else if (type == LUA_TNUMBER)
        queue.handle = (void *)(uintptr_t)lua_tointegerx(L, -1, &whole);
    if (type == LUA_TNUMBER ? !whole : type != LUA_TNIL && type != LUA_TLIGHTUSERDATA)
        wrong_type(L, key, "the address of a stream, as a light userdata or an integer");
    lua_pop(L, 1);
    return queue;
}
