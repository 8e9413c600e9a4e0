/* pool.h: what context.c needs of the thread pool. */
#ifndef PERI_CORE_POOL_H
#define PERI_CORE_POOL_H

#include "core/context.h"

/* Stops and frees the pool of a context that nobody uses any more, or, in a child of a fork,
 * drops it. */
void peri_pool_close(peri_context *context);

/* Called in the child of a fork: raises the generation. */
void peri_process_forked(void);

#endif
