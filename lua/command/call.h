/* call: protected calls that Ctrl-C can stop, and the messages of those that fail. */
#ifndef PERI_COMMAND_CALL_H
#define PERI_COMMAND_CALL_H

#include <lua.h>

/* Names the state that Ctrl-C stops and the program that messages begin with (NULL: none). */
void peri_call_init(lua_State *L, const char *program);

/* lua_pcall with a traceback added to the message; while it runs, Ctrl-C raises an error in it. */
int peri_call(lua_State *L, int arguments, int results);

/* When `status` is an error's, prints the message on top of the stack to stderr and pops it.
 * Returns `status`. */
int peri_report(lua_State *L, int status);

#endif
