/* paths: where the command's own module is, seen from its executable.
 *
 * One rule: the executable is PREFIX/bin/perigee, Lua files are in PREFIX/share/lua/5.4 and modules
 * in PREFIX/lib/lua/5.4. It holds in an installed prefix, in a tree of LuaRocks and in the build
 * folder, which mirrors one, so no path is written into the binary and a prefix can be moved. */
#include "paths.h"

#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

/* Longer than any path that Linux resolves (PATH_MAX is 4096, its end included). */
#define PREFIX_SIZE_MAX 4096

static int find_prefix(char *prefix);
static void prepend(lua_State *L, const char *field, const char *first);

int peri_paths_add(lua_State *L) {
    char prefix[PREFIX_SIZE_MAX];
    if (!find_prefix(prefix)) return 0;
    const char *version = LUA_VERSION_MAJOR "." LUA_VERSION_MINOR;
    prepend(L, "path",
            lua_pushfstring(L, "%s/share/lua/%s/?.lua;%s/share/lua/%s/?/init.lua", prefix, version,
                            prefix, version));
    prepend(L, "cpath", lua_pushfstring(L, "%s/lib/lua/%s/?.so", prefix, version));
    lua_pop(L, 2);
    return 0;
}

/* The folder above that of the executable. A path with `;` or `?` cannot be said in package.path,
 * and is left out. */
static int find_prefix(char *prefix) {
    const ssize_t size = readlink("/proc/self/exe", prefix, PREFIX_SIZE_MAX - 1);
    if (size <= 0 || size >= PREFIX_SIZE_MAX - 1) return 0;
    prefix[size] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(prefix, '/');
        if (!slash) return 0;
        *slash = '\0';
    }
    return strpbrk(prefix, ";?") == NULL;
}

static void prepend(lua_State *L, const char *field, const char *first) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, field);
    lua_pushfstring(L, "%s;%s", first, lua_tostring(L, -1));
    lua_setfield(L, -3, field);
    lua_pop(L, 2);
}
