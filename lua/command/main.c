/* main: the command `perigee`, a Lua 5.4 interpreter that knows where its module is.
 *
 * What is asked is done in lua's order: version, environment, options as they stand, script, then
 * the prompt. All of it happens inside one protected call (run), so an error anywhere, a lack of
 * memory included, becomes a message and an exit code of 1 and never a panic.
 *
 * Threads: one; the module starts its own when it needs them. */
#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arguments.h"
#include "call.h"
#include "paths.h"
#include "repl.h"

static int run(lua_State *L);
static void set_arg(lua_State *L, const peri_arguments *arguments);
static int run_environment(lua_State *L);
static int run_options(lua_State *L, const peri_arguments *arguments);
static int run_script(lua_State *L, const peri_arguments *arguments);
static int run_word(lua_State *L, const peri_arguments *arguments);
static int run_loaded(lua_State *L, int status);
static int require_library(lua_State *L, const char *option);
static void print_lua_version(void);

int main(int argc, char **argv) {
    const char *program = argc > 0 && argv[0][0] != '\0' ? argv[0] : "perigee";
    lua_State *L = luaL_newstate();
    if (!L) {
        fprintf(stderr, "%s: cannot create state: not enough memory\n", program);
        return EXIT_FAILURE;
    }
    peri_arguments arguments = peri_arguments_read(argc, argv);
    peri_call_init(L, program);
    lua_pushcfunction(L, run);
    lua_pushlightuserdata(L, &arguments);
    lua_pushstring(L, program);
    const int status = peri_report(L, lua_pcall(L, 2, 1, 0));
    const int done = status == LUA_OK && lua_toboolean(L, -1);
    lua_close(L);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* (arguments, program) -> true when all went well; what did not has been reported. */
static int run(lua_State *L) {
    const peri_arguments *arguments = lua_touserdata(L, 1);
    const char *program = lua_tostring(L, 2);
    const int environment = !arguments->ignore_environment;
    luaL_checkversion(L);
    if (arguments->bad) {
        peri_arguments_complain(arguments, program, stderr);
        return 0;
    }
    if (arguments->help) {
        peri_arguments_help(program, stdout);
        lua_pushboolean(L, 1);
        return 1;
    }
    if (arguments->version) print_lua_version();
    if (!environment) { /* the package library looks at this */
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    luaL_openlibs(L);
    set_arg(L, arguments);
    peri_paths_add(L);
    lua_gc(L, LUA_GCGEN, 0, 0); /* as lua runs its scripts */

    const int has_script = arguments->script < arguments->count;
    if (environment && run_environment(L) != LUA_OK) return 0;
    if (run_options(L, arguments) != LUA_OK) return 0;
    if (arguments->word) {
        if (run_word(L, arguments) != LUA_OK) return 0;
    } else if (has_script && run_script(L, arguments) != LUA_OK) {
        return 0;
    }
    const int nothing_asked = !has_script && !arguments->execute && !arguments->version;
    if (arguments->interactive || (nothing_asked && isatty(STDIN_FILENO))) {
        if (peri_repl_run(L, environment) != LUA_OK) return 0;
    } else if (nothing_asked) {
        run_loaded(L, luaL_loadfile(L, NULL)); /* lua's exit code is 0 even when this fails */
    }
    lua_pushboolean(L, 1);
    return 1;
}

static void print_lua_version(void) {
    puts(LUA_COPYRIGHT);
    fflush(stdout);
}

/* The global `arg`: the script at 0, its arguments after, the interpreter and options before. */
static void set_arg(lua_State *L, const peri_arguments *arguments) {
    const int script = arguments->script < arguments->count ? arguments->script : 0;
    lua_createtable(L, arguments->count - script, script + 1);
    for (int i = 0; i < arguments->count; i++) {
        lua_pushstring(L, arguments->list[i]);
        lua_rawseti(L, -2, i - script);
    }
    lua_setglobal(L, "arg");
}

/* Calls the chunk on top of the stack when `status` says that it was loaded; reports failure. */
static int run_loaded(lua_State *L, int status) {
    if (status == LUA_OK) status = peri_call(L, 0, 0);
    return peri_report(L, status);
}

/* The variable for this version of Lua goes before the general one. */
static int run_environment(lua_State *L) {
    const char *chunkname = "=LUA_INIT_" LUA_VERSION_MAJOR "_" LUA_VERSION_MINOR;
    const char *code = getenv(chunkname + 1);
    if (!code) {
        chunkname = "=LUA_INIT";
        code = getenv(chunkname + 1);
    }
    if (!code) return LUA_OK;
    if (code[0] == '@') return run_loaded(L, luaL_loadfile(L, code + 1));
    return run_loaded(L, luaL_loadbuffer(L, code, strlen(code), chunkname));
}

/* Acts on -e, -l and -W in their order; the first that fails is the last. */
static int run_options(lua_State *L, const peri_arguments *arguments) {
    const int end = arguments->script;
    for (int i = 1; i < end; i++) {
        const char *option = arguments->list[i];
        if (option[1] == 'W') lua_warning(L, "@on", 0);
        if (option[1] != 'e' && option[1] != 'l') continue;
        const char *value = option[2] != '\0' ? option + 2 : arguments->list[++i];
        const int status = option[1] == 'l' ? require_library(L, value)
                                            : run_loaded(L, luaL_loadbuffer(L, value, strlen(value),
                                                                            "=(command line)"));
        if (status != LUA_OK) return status;
    }
    return LUA_OK;
}

/* -l module, or -l global=module */
static int require_library(lua_State *L, const char *option) {
    const char *equals = strchr(option, '=');
    if (equals)
        lua_pushlstring(L, option, (size_t)(equals - option));
    else
        lua_pushstring(L, option);
    lua_getglobal(L, "require");
    lua_pushstring(L, equals ? equals + 1 : option);
    const int status = peri_call(L, 1, 1);
    if (status == LUA_OK) lua_setglobal(L, lua_tostring(L, -2));
    const int result = peri_report(L, status);
    lua_pop(L, 1);
    return result;
}

/* The arguments are read from `arg`, which options that ran before may have changed. */
static int push_script_arguments(lua_State *L) {
    if (lua_getglobal(L, "arg") != LUA_TTABLE) luaL_error(L, "'arg' is not a table");
    const lua_Integer count = luaL_len(L, -1);
    if (count > INT_MAX - 3) luaL_error(L, "too many arguments to script");
    luaL_checkstack(L, (int)count + 3, "too many arguments to script");
    const int pushed = (int)count;
    for (int i = 1; i <= pushed; i++) lua_rawgeti(L, -i, i);
    lua_remove(L, -1 - pushed);
    return pushed;
}

static int run_script(lua_State *L, const peri_arguments *arguments) {
    const char *name = arguments->list[arguments->script];
    /* "-" is standard input, except after "--", where it is a file's name. */
    if (strcmp(name, "-") == 0 && strcmp(arguments->list[arguments->script - 1], "--") != 0)
        name = NULL;
    int status = luaL_loadfile(L, name);
    if (status == LUA_OK) status = peri_call(L, push_script_arguments(L), 0);
    return peri_report(L, status);
}

/* Words are in Lua (perigee.command): run(word, argument...). */
static int run_word(lua_State *L, const peri_arguments *arguments) {
    static const char code[] = "require('perigee.command').run(...)";
    int status = luaL_loadbuffer(L, code, sizeof code - 1, "=perigee");
    int count = 0;
    if (status == LUA_OK) {
        luaL_checkstack(L, arguments->count + 3, "too many arguments");
        for (int i = arguments->word; i < arguments->count; i++, count++)
            lua_pushstring(L, arguments->list[i]);
        status = peri_call(L, count, 0);
    }
    return peri_report(L, status);
}
