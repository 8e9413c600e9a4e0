/* call: protected calls that Ctrl-C can stop, and the messages of those that fail.
 *
 * A signal handler may not touch a Lua state, with one exception that Lua promises: lua_sethook.
 * So the handler sets a hook that the interpreter meets at its next instruction, call or return,
 * and that raises the error from there. Native code of the module looks for the appearance of a
 * hook while it works and returns to Lua early, so a build or a search stops the same way.
 *
 * The handler also puts back the default action: when something is stuck in C code that looks for
 * nothing, a second Ctrl-C ends the process. Every call arms the handler afresh, and puts back what
 * was there before, so outside of calls Ctrl-C does what the caller arranged.
 *
 * Threads: the handler runs on any thread of the process; it writes only through lua_sethook.
 * Source: the mechanism of the standalone interpreter of Lua 5.4. */
#include "call.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>

static lua_State *called_state;
static const char *program_name;

static void on_interrupt(int number);
static void raise_interrupted(lua_State *L, lua_Debug *where);
static int add_traceback(lua_State *L);

void peri_call_init(lua_State *L, const char *program) {
    called_state = L;
    program_name = program;
}

int peri_call(lua_State *L, int arguments, int results) {
    const int base = lua_gettop(L) - arguments;
    lua_pushcfunction(L, add_traceback);
    lua_insert(L, base);

    struct sigaction action = { .sa_handler = on_interrupt };
    struct sigaction before;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &before);
    const int status = lua_pcall(L, arguments, results, base);
    sigaction(SIGINT, &before, NULL);

    /* The call may have ended by itself, or native code may have raised, before the hook did. */
    if (lua_gethook(L) == raise_interrupted) lua_sethook(L, NULL, 0, 0);
    lua_remove(L, base);
    return status;
}

int peri_report(lua_State *L, int status) {
    if (status == LUA_OK) return status;
    const char *message = lua_tostring(L, -1);
    fflush(stdout); /* on a terminal, what was printed before the error stands before it */
    if (program_name) fprintf(stderr, "%s: ", program_name);
    fprintf(stderr, "%s\n", message ? message : "(error message not a string)");
    fflush(stderr);
    lua_pop(L, 1);
    return status;
}

static void on_interrupt(int number) {
    const int anywhere = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;
    struct sigaction action = { .sa_handler = SIG_DFL };
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
    lua_sethook(called_state, raise_interrupted, anywhere, 1);
}

static void raise_interrupted(lua_State *L, lua_Debug *where) {
    (void)where;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, "interrupted!");
}

/* The message handler: a text gets a traceback, an object that can say itself speaks alone. */
static int add_traceback(lua_State *L) {
    const char *message = lua_tostring(L, 1);
    if (!message) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) return 1;
        message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    }
    luaL_traceback(L, L, message, 1);
    return 1;
}
