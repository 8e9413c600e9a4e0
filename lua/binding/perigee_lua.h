/* perigee_lua.h: for a C host that keeps lua_States of its own.
 *
 * The host opens the module (`lperi_requiref`, or luaopen_perigee_core in its own way), may give
 * it a context first, and hands handles to scripts and takes them back. A handle that is pushed
 * is retained for Lua; one that is checked is borrowed: it lives as long as its userdata stays
 * open. Functions that begin with lperi_check raise a Lua error, so call them inside a protected
 * call.
 *
 * Threads: a lua_State belongs to one thread at a time, as always. Contexts, searchers, matrices
 * and filters may be pushed to any number of states. */
#ifndef PERIGEE_LUA_H
#define PERIGEE_LUA_H

#include <lua.h>

#include "perigee.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The module, in a state whose global table stays as it is. */
PERI_API int luaopen_perigee_core(lua_State *L);

/* Opens the module as package.loaded["perigee.core"] and leaves it on the stack. */
PERI_API void lperi_requiref(lua_State *L);

/* Gives this state a context of the host instead of the one that all states of a process share.
 * Call it before the module makes its first handle there; the context is retained until the
 * state closes. */
PERI_API void lperi_setcontext(lua_State *L, peri_context *context);

PERI_API void lperi_pushmatrix(lua_State *L, peri_matrix *matrix);
PERI_API void lperi_pushsearcher(lua_State *L, peri_searcher *searcher);
PERI_API void lperi_pushfilter(lua_State *L, peri_filter *filter);

PERI_API peri_matrix *lperi_checkmatrix(lua_State *L, int arg);
PERI_API peri_searcher *lperi_checksearcher(lua_State *L, int arg);
PERI_API peri_filter *lperi_checkfilter(lua_State *L, int arg);

#ifdef __cplusplus
}
#endif
#endif
