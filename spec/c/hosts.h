/* hosts.h: what the tests of embedding hosts share. Such a program links liblua and not the
 * engine: as any host it loads the module, which lies beside its own build folder (../../lib
 * from here), and takes the functions of perigee_lua.h from it. */
#ifndef PERIGEE_SPEC_HOSTS_H
#define PERIGEE_SPEC_HOSTS_H

#include <dlfcn.h>
#include <lauxlib.h>
#include <lualib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "perigee_lua.h"

/* The folder of the build, from the path of this executable: …/spec/c/name. */
static inline bool host_build_folder(char *path, size_t size) {
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    if (length <= 0) return false;
    path[length] = '\0';
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(path, '/');
        if (slash == NULL) return false;
        *slash = '\0';
    }
    return true;
}

/* A state with the standard libraries that finds the module. NULL when there is no memory. */
static inline lua_State *host_open_state(void) {
    char folder[4096];
    lua_State *L = luaL_newstate();
    if (L == NULL || !host_build_folder(folder, sizeof folder)) return NULL;
    luaL_openlibs(L);
    lua_getglobal(L, "package");
    lua_pushfstring(L, "%s/lib/?.so", folder);
    lua_setfield(L, -2, "cpath");
    lua_pushliteral(L, "lua/?.lua;lua/?/init.lua");
    lua_setfield(L, -2, "path");
    lua_pop(L, 1);
    return L;
}

/* Runs Lua source; a failed check tells what it raised. */
static inline bool host_run(lua_State *L, const char *source) {
    if (luaL_dostring(L, source) == LUA_OK) return true;
    CHECK(false, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    return false;
}

/* A function of the module, as a host that does not link it finds it. */
static inline void *host_symbol(const char *name) {
    char path[4200];
    if (!host_build_folder(path, 4096)) return NULL;
    strcat(path, "/lib/perigee/core.so");
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL) fprintf(stderr, "%s\n", dlerror());
    return module == NULL ? NULL : dlsym(module, name);
}

#endif
