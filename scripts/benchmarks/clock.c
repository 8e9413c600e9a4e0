/* clock: a Lua function that tells seconds of the clock that nobody sets. Lua's own os.clock counts
 * the time of the processor, of all threads together, and os.time whole seconds. */
#include <lauxlib.h>
#include <lua.h>
#include <time.h>

static int clock_now(lua_State *L) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
    return 1;
}

int luaopen_clock(lua_State *L) {
    lua_pushcfunction(L, clock_now);
    return 1;
}
