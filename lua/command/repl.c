/* repl: the interactive prompt.
 *
 * What the prompt does is in Lua (perigee.repl): reading complete chunks, printing, completion,
 * history. This file gives it a table of functions that Lua itself lacks (`host`), and the loop:
 *
 *     read   -> a function to run, in Lua, on the editor
 *     call   -> the function, called from here, so that its traceback shows nothing of the prompt
 *     finish -> its values or its error, printed
 *
 * Each of the three is a protected call that Ctrl-C stops, so a value that takes an hour to print
 * can be stopped like one that takes an hour to compute. */
#include "repl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "call.h"
#include "editor.h"

/* Slots of the stack through the life of the prompt. */
enum { HOST = 1, SESSION = 2, BASE = 2 };

typedef struct host_editor {
    peri_editor *editor;
    lua_State *L;      /* valid while a line is read */
    int complete_slot; /* where the completion function is on its stack */
} host_editor;

static int open_session(lua_State *L);
static void push_host(lua_State *L, int environment);
static int turn(lua_State *L);

int peri_repl_run(lua_State *L, int environment) {
    peri_call_init(L, NULL); /* messages at the prompt begin with no program's name */
    lua_settop(L, 0);
    lua_pushcfunction(L, open_session);
    lua_pushboolean(L, environment);
    const int status = peri_report(L, peri_call(L, 1, 2));
    if (status != LUA_OK) return status;

    /* Between two calls a Ctrl-C has nothing to stop; it must not end the process. */
    struct sigaction ignore = { .sa_handler = SIG_IGN };
    struct sigaction before;
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGINT, &ignore, &before);
    while (turn(L)) lua_settop(L, BASE);
    sigaction(SIGINT, &before, NULL);
    lua_settop(L, 0);
    return LUA_OK;
}

/* (environment) -> host, session */
static int open_session(lua_State *L) {
    const int environment = lua_toboolean(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "perigee.repl");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "open");
    push_host(L, environment);
    lua_pushvalue(L, -1);
    lua_insert(L, 2);
    lua_call(L, 1, 1);
    lua_pushvalue(L, 2);
    lua_insert(L, -2);
    return 2;
}

/* Reads one chunk, runs it and shows its outcome; 0 at the end of input. */
static int turn(lua_State *L) {
    lua_getfield(L, SESSION, "read");
    lua_pushvalue(L, SESSION);
    int status = peri_call(L, 1, 1);
    if (status != LUA_OK) {
        peri_report(L, status);
        return 1;
    }
    if (lua_isnil(L, -1)) return 0;
    if (!lua_isfunction(L, -1)) return 1; /* a line that was dropped, or a command of the prompt */

    status = peri_call(L, 0, LUA_MULTRET);
    const int answers = status == LUA_OK ? lua_gettop(L) - BASE : 0;
    peri_report(L, status);
    luaL_checkstack(L, 4, "too many results to print");
    lua_getfield(L, SESSION, "finish");
    lua_insert(L, BASE + 1);
    lua_pushvalue(L, SESSION);
    lua_insert(L, BASE + 2);
    lua_pushboolean(L, status == LUA_OK);
    lua_insert(L, BASE + 3);
    status = peri_call(L, answers + 2, 0);
    peri_report(L, status);
    return 1;
}

/* ---- host: what Lua lacks -------------------------------------------------------------------- */

static void on_complete(void *ud, peri_editor *editor, const char *text, size_t size);

static peri_editor *check_editor(lua_State *L) {
    return ((host_editor *)lua_touserdata(L, lua_upvalueindex(1)))->editor;
}

/* host.read(prompt, complete) -> line | false (Ctrl-C) | nil (end of input) */
static int host_read(lua_State *L) {
    host_editor *host = lua_touserdata(L, lua_upvalueindex(1));
    const char *prompt = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    const char *line;
    size_t size;
    host->L = L;
    host->complete_slot = 2;
    const peri_editor_answer answer = peri_editor_read(host->editor, prompt, &line, &size);
    host->L = NULL;
    switch (answer) {
    case PERI_EDITOR_LINE: lua_pushlstring(L, line, size); return 1;
    case PERI_EDITOR_INTERRUPTED: lua_pushboolean(L, 0); return 1;
    case PERI_EDITOR_NO_MEMORY: return luaL_error(L, "not enough memory for a line");
    default: lua_pushnil(L); return 1;
    }
}

/* Calls complete(text) -> insert, list, each a string or nil. An error in it means no completion:
 * Tab must not be what ends a line. */
static void on_complete(void *ud, peri_editor *editor, const char *text, size_t size) {
    host_editor *host = ud;
    lua_State *L = host->L;
    if (!L || !lua_checkstack(L, 8)) return;
    const int top = lua_gettop(L);
    lua_pushvalue(L, host->complete_slot);
    lua_pushlstring(L, text, size);
    if (lua_pcall(L, 1, 2, 0) == LUA_OK) {
        if (lua_type(L, -2) == LUA_TSTRING) peri_editor_insert(editor, lua_tostring(L, -2));
        if (lua_type(L, -1) == LUA_TSTRING) peri_editor_list(editor, lua_tostring(L, -1));
    }
    lua_settop(L, top);
}

/* host.remember(line): Up brings it back. */
static int host_remember(lua_State *L) {
    peri_editor_remember(check_editor(L), luaL_checkstring(L, 1));
    return 0;
}

/* host.columns() -> width of the terminal */
static int host_columns(lua_State *L) {
    lua_pushinteger(L, peri_editor_columns());
    return 1;
}

/* host.clock() -> seconds that have passed on the wall */
static int host_clock(lua_State *L) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (lua_Number)now.tv_sec + 1e-9 * (lua_Number)now.tv_nsec);
    return 1;
}

/* host.entries(folder) -> names in it, folders with "/" at their end; nil when it cannot be read */
static int host_entries(lua_State *L) {
    const char *folder = luaL_checkstring(L, 1);
    DIR **stream = lua_newuserdatauv(L, sizeof(DIR *), 0);
    *stream = NULL;
    luaL_setmetatable(L, "perigee.command.folder"); /* closes it, when a name is one too many */
    *stream = opendir(folder);
    if (!*stream) return 0;
    lua_newtable(L);
    lua_Integer count = 0;
    for (struct dirent *entry; (entry = readdir(*stream)) != NULL;) {
        struct stat found;
        const int is_folder = fstatat(dirfd(*stream), entry->d_name, &found, 0) == 0 &&
                              S_ISDIR(found.st_mode);
        lua_pushfstring(L, "%s%s", entry->d_name, is_folder ? "/" : "");
        lua_rawseti(L, -2, ++count);
    }
    closedir(*stream);
    *stream = NULL;
    return 1;
}

static int folder_gc(lua_State *L) {
    DIR **stream = lua_touserdata(L, 1);
    if (*stream) closedir(*stream);
    *stream = NULL;
    return 0;
}

static int close_file(lua_State *L) {
    luaL_Stream *stream = luaL_checkudata(L, 1, LUA_FILEHANDLE);
    return luaL_fileresult(L, fclose(stream->f) == 0, NULL);
}

/* Makes the folders above `path` that are missing, for this user alone. */
static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* host.open_private(path) -> file to read and append, which only this user can read
 *                          | nil, message, errno */
static int host_open_private(lua_State *L) {
    size_t size;
    const char *path = luaL_checklstring(L, 1, &size);
    char *copy = lua_newuserdatauv(L, size + 1, 0);
    memcpy(copy, path, size + 1);
    luaL_Stream *stream = lua_newuserdatauv(L, sizeof *stream, 0);
    stream->closef = NULL; /* closed, until it is open */
    luaL_setmetatable(L, LUA_FILEHANDLE);
    make_folders(copy);
    const int file = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return luaL_fileresult(L, 0, path);
    fchmod(file, 0600); /* made by an older umask, or by hand */
    stream->f = fdopen(file, "a+");
    if (!stream->f) {
        const int error = errno;
        close(file);
        errno = error;
        return luaL_fileresult(L, 0, path);
    }
    rewind(stream->f);
    stream->closef = close_file;
    return 1;
}

static int editor_gc(lua_State *L) {
    host_editor *host = lua_touserdata(L, 1);
    peri_editor_close(host->editor);
    host->editor = NULL;
    return 0;
}

static void push_host(lua_State *L, int environment) {
    static const luaL_Reg functions[] = {
        { "read", host_read },
        { "remember", host_remember },
        { "columns", host_columns },
        { "clock", host_clock },
        { "entries", host_entries },
        { "open_private", host_open_private },
        { NULL, NULL },
    };
    luaL_newmetatable(L, "perigee.command.folder");
    lua_pushcfunction(L, folder_gc);
    lua_setfield(L, -2, "__gc");
    luaL_newmetatable(L, "perigee.command.editor");
    lua_pushcfunction(L, editor_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 2);

    luaL_newlibtable(L, functions);
    host_editor *host = lua_newuserdatauv(L, sizeof *host, 0);
    *host = (host_editor){ NULL, NULL, 0 };
    luaL_setmetatable(L, "perigee.command.editor");
    host->editor = peri_editor_open(environment, on_complete, host);
    if (!host->editor) luaL_error(L, "not enough memory for the prompt");
    luaL_setfuncs(L, functions, 1);
    lua_pushboolean(L, peri_editor_edits(host->editor));
    lua_setfield(L, -2, "edits");
    lua_pushboolean(L, environment);
    lua_setfield(L, -2, "environment");
}
