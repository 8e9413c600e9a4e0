/* paths: where the command's own module is, seen from its executable. */
#ifndef PERI_COMMAND_PATHS_H
#define PERI_COMMAND_PATHS_H

#include <lua.h>

/* Puts the folders beside the executable in front of package.path and package.cpath.
 * Raises when memory is short; where the executable cannot be found, changes nothing. */
int peri_paths_add(lua_State *L);

#endif
