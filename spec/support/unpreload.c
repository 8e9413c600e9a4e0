/* unpreload.c: preloaded into lua5.4 beside a sanitizer's runtime; keeps both from its children.
 *
 * A module built with a sanitizer loads only into a process that preloaded the runtime. The shells
 * and programs that a spec starts would inherit LD_PRELOAD: dash crashes under ThreadSanitizer's
 * runtime, and others report their own leaks. scripts/suite.lua puts a `lua5.4` first in PATH that
 * preloads again, so a child that is lua5.4 has what it needs. */
#include <stdlib.h>

__attribute__((constructor)) static void forget_preload(void) { unsetenv("LD_PRELOAD"); }
