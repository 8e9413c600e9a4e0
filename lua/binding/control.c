/* control.c: follows a long call: progress to Lua, false cancels, Ctrl-C comes through.
 *
 * The engine polls on the calling thread, at least every 50 ms. An error must not jump over its
 * frames, so the progress function runs in a protected call; what it raises ends the call and is
 * raised again after.
 *
 * Ctrl-C: lua.c and our command set a count hook from their SIGINT handler, and a hook cannot
 * run while C does. The poll compares the hooks with those of the start; when one came, the call
 * ends, control returns to Lua and the hook raises there. The handler sets it on the main thread
 * of the state, which need not be the coroutine that called us, so both are watched. We set no
 * hook. */
#include <string.h>
#include <time.h>

#include "binding.h"

#define TELL_EVERY_MS 100

typedef struct lperi_report {
    const char *stage;
    size_t done, total;
} lperi_report;

static int64_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static lperi_hook hook_of(lua_State *thread) {
    return (lperi_hook){ thread, lua_gethook(thread), lua_gethookmask(thread),
                         lua_gethookcount(thread) };
}

static bool hook_appeared(const lperi_hook *before) {
    lperi_hook now = hook_of(before->thread);
    if (now.function == NULL || !(now.mask & LUA_MASKCOUNT)) return false;
    return now.function != before->function || now.mask != before->mask ||
           now.count != before->count;
}

/* Protected: progress(stage, done, total). */
static int report(lua_State *L) {
    const lperi_report *told = lua_touserdata(L, 2);
    lua_settop(L, 1);
    lua_pushstring(L, told->stage);
    lua_pushinteger(L, (lua_Integer)told->done);
    lua_pushinteger(L, (lua_Integer)told->total);
    lua_call(L, 3, 1);
    return 1;
}

/* Whether this poll is told: a new stage, its end, or 100 ms after the last. */
static bool worth_telling(lperi_control *control, const lperi_report *told) {
    bool end = told->total > 0 && told->done >= told->total;
    bool fresh = strncmp(control->stage, told->stage, sizeof control->stage - 1) != 0;
    if (!fresh && !(end && !control->told_end) && now_ms() < control->next_ms) return false;
    if (fresh) {
        strncpy(control->stage, told->stage, sizeof control->stage - 1);
        control->stage[sizeof control->stage - 1] = '\0';
    }
    control->told_end = end;
    control->next_ms = now_ms() + TELL_EVERY_MS;
    return true;
}

static peri_status poll(void *ud, const char *stage, size_t done, size_t total) {
    lperi_control *control = ud;
    lua_State *L = control->L;
    if (hook_appeared(&control->hooks[0]) || hook_appeared(&control->hooks[1]))
        return PERI_E_INTERRUPTED;
    lperi_report told = { stage == NULL ? "" : stage, done, total };
    if (control->progress == 0 || !worth_telling(control, &told)) return PERI_OK;
    lua_pushcfunction(L, report);
    lua_pushvalue(L, control->progress);
    lua_pushlightuserdata(L, &told);
    if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
        control->failed = true;
        lua_replace(L, control->failure);
        return PERI_E_CANCELLED;
    }
    bool stop = lua_isboolean(L, -1) && !lua_toboolean(L, -1);
    lua_pop(L, 1);
    return stop ? PERI_E_CANCELLED : PERI_OK;
}

void lperi_control_begin(lua_State *L, int options, lperi_control *control) {
    memset(control, 0, sizeof *control);
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    int type = lperi_pushoption(L, options, "progress");
    if (type == LUA_TBOOLEAN && lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        lperi_pushhook(L, "progress");
        lua_call(L, 0, 1);
        control->bar = lua_isfunction(L, -1);
    } else if (type != LUA_TFUNCTION && type != LUA_TNIL && type != LUA_TBOOLEAN) {
        luaL_error(L, "option 'progress': a %s given, allowed: a function, true or false",
                   lua_typename(L, type));
    }
    if (lua_isfunction(L, -1)) control->progress = lua_gettop(L);
    lua_pushnil(L);
    control->failure = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    control->hooks[0] = hook_of(L);
    control->hooks[1] = hook_of(lua_tothread(L, -1));
    lua_pop(L, 1);
    control->L = L;
    control->control = (peri_control){ poll, control };
}

void lperi_control_end(lua_State *L, lperi_control *control) {
    if (control->bar) { /* without arguments: the end, wipe the line */
        lua_pushvalue(L, control->progress);
        if (lua_pcall(L, 0, 0, 0) != LUA_OK) lua_pop(L, 1);
    }
    if (!control->failed) return;
    lua_pushvalue(L, control->failure);
    lua_error(L);
}
