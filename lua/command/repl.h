/* repl: the interactive prompt. */
#ifndef PERI_COMMAND_REPL_H
#define PERI_COMMAND_REPL_H

#include <lua.h>

/* Reads, runs and prints until the end of input; errors are printed and it goes on.
 *
 * environment  when 0, no file of the person's is read or written: no start file, no history.
 *
 * Returns LUA_OK, or the status of an error that kept the prompt from opening, then printed. */
int peri_repl_run(lua_State *L, int environment);

#endif
