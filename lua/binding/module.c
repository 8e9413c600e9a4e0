/* module.c: luaopen_perigee_core, and the context that all states of a process share.
 *
 * The shared context is made on first use and lives as long as the process: the module is never
 * unloaded, and handles are process-wide. It is published with one compare-and-swap, so there is
 * no lock that a fork could leave held; a thread that loses the race releases its own, of which
 * nothing was used. A host that wants another context gives it to the state with
 * lperi_setcontext, where the registry keeps it. */
#include <stdatomic.h>
#include <unistd.h>

#include "binding.h"

static _Atomic(peri_context *) shared;

static const char host_key = 0, hooks_key = 0; /* their addresses are keys of the registry */

/* ---- contexts ----------------------------------------------------------------------------- */

typedef struct host_context {
    peri_context *handle;
} host_context;

static int host_context_gc(lua_State *L) {
    host_context *box = lua_touserdata(L, 1);
    peri_context *context = box->handle;
    box->handle = NULL;
    peri_context_release(context);
    return 0;
}

void lperi_setcontext(lua_State *L, peri_context *context) {
    luaL_checkstack(L, 4, NULL);
    host_context *box = lua_newuserdatauv(L, sizeof *box, 0);
    box->handle = NULL;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, host_context_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    peri_context_retain(context);
    box->handle = context;
    lua_rawsetp(L, LUA_REGISTRYINDEX, &host_key);
}

static peri_context *context_of_host(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
    const host_context *box = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return box == NULL ? NULL : box->handle;
}

/* Makes the shared context with these options; `mine` tells whether it was this call that did. */
static peri_status share_context(const peri_context_options *options, bool *mine) {
    peri_context *made = NULL, *none = NULL;
    *mine = false;
    if (atomic_load(&shared) != NULL) return PERI_OK;
    peri_status status = peri_context_create(options, &made);
    if (status != PERI_OK) return status;
    *mine = atomic_compare_exchange_strong(&shared, &none, made);
    if (!*mine) peri_context_release(made);
    return PERI_OK;
}

peri_status lperi_context(lua_State *L, peri_context **out) {
    bool mine;
    *out = context_of_host(L);
    if (*out != NULL) return PERI_OK;
    peri_status status = share_context(NULL, &mine);
    *out = atomic_load(&shared);
    return status;
}

/* configure { threads, memory_bytes } */
static int configure(lua_State *L) {
    static const char *const own[] = { "threads", "memory_bytes", NULL };
    luaL_checktype(L, 1, LUA_TTABLE);
    int options = lperi_checkoptions(L, 1, own, NULL);
    peri_context_options wanted = PERI_CONTEXT_OPTIONS_INIT;
    wanted.threads = (uint32_t)lperi_optioncount(L, options, "threads", 0, 1024);
    wanted.memory_bytes = lperi_optioncount(L, options, "memory_bytes", 0, (size_t)1 << 62);
    bool mine = false;
    peri_context *host = context_of_host(L);
    peri_status status = host == NULL ? share_context(&wanted, &mine) : PERI_OK;
    if (status != PERI_OK) return lperi_result(L, status, 0);
    peri_context_stats now;
    peri_context_stat(host == NULL ? atomic_load(&shared) : host, &now);
    bool same = now.bytes_limit == wanted.memory_bytes &&
                (wanted.threads == 0 || wanted.threads == now.threads);
    if (mine || same) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushnil(L);
    lua_pushfstring(L,
                    "configure comes before first use: the context already has %d threads and "
                    "a limit of %I bytes",
                    (int)now.threads, (LUAI_UACINT)now.bytes_limit);
    lua_pushstring(L, peri_status_code(PERI_E_BUSY));
    return 3;
}

/* stats() -> what the context holds */
static int stats(lua_State *L) {
    peri_context *context;
    peri_context_stats now;
    peri_status status = lperi_context(L, &context);
    if (status != PERI_OK) return lperi_result(L, status, 0);
    peri_context_stat(context, &now);
    lua_createtable(L, 0, 7);
    lua_pushinteger(L, (lua_Integer)now.bytes);
    lua_setfield(L, -2, "bytes");
    lua_pushinteger(L, (lua_Integer)now.bytes_peak);
    lua_setfield(L, -2, "bytes_peak");
    lua_pushinteger(L, (lua_Integer)now.bytes_limit);
    lua_setfield(L, -2, "bytes_limit");
    lua_pushinteger(L, (lua_Integer)now.blocks);
    lua_setfield(L, -2, "blocks");
    lua_pushinteger(L, (lua_Integer)now.acquired);
    lua_setfield(L, -2, "acquired");
    lua_pushinteger(L, (lua_Integer)now.threads);
    lua_setfield(L, -2, "threads");
    lua_pushinteger(L, (lua_Integer)now.numa_nodes);
    lua_setfield(L, -2, "numa_nodes");
    return 1;
}

/* ---- the terminal -------------------------------------------------------------------------- */

/* terminal() -> whether a person may be watching stderr: a bar is drawn only there */
static int terminal(lua_State *L) {
    lua_pushboolean(L, isatty(STDERR_FILENO));
    return 1;
}

/* ---- types and hooks ----------------------------------------------------------------------- */

void lperi_newtype(lua_State *L, const lperi_type *type, const char *word) {
    luaL_newmetatable(L, type->name);
    luaL_setfuncs(L, type->meta, 0);
    lua_newtable(L);
    luaL_setfuncs(L, type->methods, 0);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, type->index, 1);
    lua_setfield(L, -3, "__index");
    lua_newtable(L);
    for (int i = 0; type->fields[i] != NULL; i++) {
        lua_pushstring(L, type->fields[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -3, "fields");
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "methods");
    lua_pushboolean(L, 0);
    lua_setfield(L, -3, "__metatable");
    lua_setfield(L, -3, word);
    lua_pop(L, 1);
}

/* members(value) -> the word of its type, its table of methods, its list of fields; nil for
 * others */
static int members(lua_State *L) {
    static const char *const names[] = { LPERI_MATRIX, LPERI_SEARCHER, LPERI_FILTER, LPERI_HITS,
                                         LPERI_QUANTIZER };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (luaL_testudata(L, 1, names[i]) == NULL) continue;
        luaL_getmetatable(L, names[i]);
        lua_pushstring(L, names[i] + sizeof "perigee." - 1);
        lua_getfield(L, -2, "methods");
        lua_getfield(L, -3, "fields");
        return 3;
    }
    lua_pushnil(L);
    return 1;
}

/* methods(value) -> a list of the names that may follow it; for completion at a prompt */
static int methods(lua_State *L) {
    lua_settop(L, 1);
    lua_newtable(L);
    lua_pushcfunction(L, members);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 3);
    if (lua_isnil(L, 3)) {
        lua_settop(L, 2);
        return 1;
    }
    lua_Integer listed = 0;
    for (lua_pushnil(L); lua_next(L, 4) != 0; lua_pop(L, 1)) {
        lua_pushvalue(L, -2);
        lua_rawseti(L, 2, ++listed);
    }
    for (lua_Integer i = 1; lua_rawgeti(L, 5, i) != LUA_TNIL; i++) lua_rawseti(L, 2, ++listed);
    lua_settop(L, 2);
    return 1;
}

void lperi_pushhook(lua_State *L, const char *name) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &hooks_key);
    if (lua_getfield(L, -1, name) != LUA_TFUNCTION)
        luaL_error(L, "'%s' needs require \"perigee\", not only perigee.core", name);
    lua_remove(L, -2);
}

/* ---- the module ---------------------------------------------------------------------------- */

/* module[kind] = { build, defaults } */
static void add_kind(lua_State *L, const char *kind) {
    lua_newtable(L);
    lua_pushstring(L, kind);
    lua_pushcclosure(L, lperi_build, 1);
    lua_setfield(L, -2, "build");
    lua_pushstring(L, kind);
    lua_pushcclosure(L, lperi_defaults, 1);
    lua_setfield(L, -2, "defaults");
    lua_setfield(L, -2, kind);
}

/* module[kind] = { train, open, defaults } */
static void add_quantizer(lua_State *L, const char *kind) {
    static const luaL_Reg entries[] = {
        { "train", lperi_quantizer_train },
        { "open", lperi_quantizer_open },
        { "defaults", lperi_defaults },
        { NULL, NULL },
    };
    lua_newtable(L);
    lua_pushstring(L, kind);
    luaL_setfuncs(L, entries, 1);
    lua_setfield(L, -2, kind);
}

/* Each kind by its name, and `kinds`: the names of those of indexes, in order. */
static void add_kinds(lua_State *L) {
    const char *name;
    for (size_t i = 0; (name = peri_kind_name(i)) != NULL; i++) add_kind(L, name);
    for (size_t i = 0; (name = peri_quantizer_kind_name(i)) != NULL; i++) add_quantizer(L, name);
    lua_newtable(L);
    for (size_t i = 0; (name = peri_kind_name(i)) != NULL; i++) {
        lua_pushstring(L, name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "kinds");
}

/* libraries() -> a list of { name, file } and of { name, reason }: what is loaded when needed */
static int libraries(lua_State *L) {
    const char *file;
    peri_status status = peri_library_find("lapack", &file);
    lua_newtable(L);
    lua_createtable(L, 0, 2);
    lua_pushliteral(L, "lapack");
    lua_setfield(L, -2, "name");
    lua_pushstring(L, status == PERI_OK ? file : peri_error_detail());
    lua_setfield(L, -2, status == PERI_OK ? "file" : "reason");
    lua_rawseti(L, -2, 1);
    return 1;
}

static const luaL_Reg functions[] = {
    { "configure", configure },     { "stats", stats },
    { "devices", lperi_devices },   { "limit", lperi_limit },
    { "trim", lperi_trim },         { "libraries", libraries },
    { "members", members },         { "methods", methods },
    { "terminal", terminal },       { "load", lperi_load },
    { "matrix", lperi_matrix_new }, { "pack", lperi_pack },
    { "unpack", lperi_unpack },     { "from_dlpack", lperi_from_dlpack },
    { "open", lperi_open },         { "hits", lperi_hits_new },
    { "recall", lperi_recall },     { "kmeans", lperi_kmeans },
    { "pairwise", lperi_pairwise }, { "knn_graph", lperi_knn_graph },
    { "params", lperi_params },     { NULL, NULL },
};

static const luaL_Reg filters[] = {
    { "ids", lperi_filter_ids },
    { "range", lperi_filter_range },
    { "bits", lperi_filter_bits },
    { NULL, NULL },
};

int luaopen_perigee_core(lua_State *L) {
    luaL_checkversion(L);
    luaL_newlib(L, functions);
    lperi_openmatrix(L);
    lperi_openfilter(L);
    lperi_openhits(L);
    lperi_opensearcher(L);
    lperi_openquantizer(L);
    luaL_newlib(L, filters);
    lua_setfield(L, -2, "filter");
    add_kinds(L);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &hooks_key);
    lua_setfield(L, -2, "hooks");
    lua_pushliteral(L, PERI_VERSION);
    lua_setfield(L, -2, "version");
    return 1;
}

void lperi_requiref(lua_State *L) { luaL_requiref(L, "perigee.core", luaopen_perigee_core, 0); }
