/* devices.c: the places there are, and how much memory of them is used. */
#include "binding.h"

/* Sets "bytes_held" of the table on top: by use, of the device's own memory. */
static void push_held(lua_State *L, const peri_device_info *info) {
    static const char *const uses[] = {
#define USE_WORD(name, word) word,
        PERI_USE_MAP(USE_WORD)
#undef USE_WORD
    };
    lua_createtable(L, 0, PERI_USE_COUNT);
    for (int use = 0; use < PERI_USE_COUNT; use++) {
        lua_pushinteger(L, (lua_Integer)info->bytes_held[use]);
        lua_setfield(L, -2, uses[use]);
    }
    lua_setfield(L, -2, "bytes_held");
}

/* Pushes what is known of a device, or of why it cannot be used. */
static void push_device(lua_State *L, peri_context *context, peri_place place) {
    char word[LPERI_PLACE_SIZE];
    peri_device_info info;
    peri_status status = peri_device_stat(context, place, &info);
    lua_createtable(L, 0, 8);
    lua_pushstring(L, peri_place_format(place, word, sizeof word));
    lua_setfield(L, -2, "place");
    if (status != PERI_OK) {
        lua_pushstring(L, peri_error_detail());
        lua_setfield(L, -2, "reason");
        return;
    }
    lua_pushstring(L, info.name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, info.detail);
    lua_setfield(L, -2, "detail");
    lua_pushinteger(L, (lua_Integer)info.bytes_total);
    lua_setfield(L, -2, "bytes_total");
    lua_pushinteger(L, (lua_Integer)info.bytes_free);
    lua_setfield(L, -2, "bytes_free");
    lua_pushinteger(L, (lua_Integer)info.units);
    lua_setfield(L, -2, "units");
    lua_pushboolean(L, info.shares_host != 0);
    lua_setfield(L, -2, "shares_host");
    if (info.shares_host == 0) push_held(L, &info);
}

/* devices() -> a list of { place, name, … } and of { place, reason } for kinds that have none */
int lperi_devices(lua_State *L) {
    static const peri_place_kind kinds[] = { PERI_PLACE_CPU, PERI_PLACE_REF, PERI_PLACE_FAKE,
                                             PERI_PLACE_CUDA };
    peri_context *context;
    lua_Integer listed = 0;
    peri_status status = lperi_context(L, &context);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    lua_newtable(L);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        uint32_t count = 0;
        status = peri_device_count(context, kinds[i], &count);
        for (uint32_t n = 0; n < count; n++) {
            push_device(L, context, (peri_place){ (uint16_t)kinds[i], (uint16_t)n });
            lua_rawseti(L, -2, ++listed);
        }
        if (count > 0) continue;
        push_device(L, context, (peri_place){ (uint16_t)kinds[i], 0 });
        lua_rawseti(L, -2, ++listed);
    }
    return 1;
}

static peri_place check_place(lua_State *L, int arg) {
    peri_place place = PERI_CPU;
    if (peri_place_parse(luaL_checkstring(L, arg), &place) != PERI_OK)
        lperi_argument(L, arg, "%s", peri_error_detail());
    return place;
}

/* limit(place, bytes): true */
int lperi_limit(lua_State *L) {
    peri_place place = check_place(L, 1);
    lua_Integer bytes = lperi_checkrange(L, 2, "bytes", 0, LUA_MAXINTEGER);
    peri_context *context;
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK) status = peri_device_limit(context, place, (size_t)bytes);
    lua_pushboolean(L, 1);
    return lperi_result(L, status, 1);
}

/* trim(place): true */
int lperi_trim(lua_State *L) {
    peri_place place = check_place(L, 1);
    peri_context *context;
    peri_status status = lperi_context(L, &context);
    if (status == PERI_OK) status = peri_device_trim(context, place);
    lua_pushboolean(L, 1);
    return lperi_result(L, status, 1);
}
