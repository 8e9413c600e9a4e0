/* threads.h: the pool of a context. Started on first use, rebuilt after a fork, never OpenMP.
 *
 * A parallel loop runs tasks 0..tasks-1 in any order; the caller's thread works too, so a pool
 * of one thread starts none. The first failure stops the loop and is restated on the caller's
 * thread. Results must not depend on which worker runs a task. Loops don't nest: a task may not
 * start one. */
#ifndef PERI_CORE_THREADS_H
#define PERI_CORE_THREADS_H

#include "core/status.h"

/* `worker` is below peri_threads(): it indexes scratch of one's own. */
typedef peri_status (*peri_task_fn)(void *ud, size_t task, size_t worker);

typedef struct peri_loop {
    const char *stage;           /* what progress calls it; NULL = not told */
    size_t threads;              /* at most this many; 0 = the pool's */
    const peri_control *control; /* may be NULL; polled on the caller's thread only */
} peri_loop;

/* Threads that a loop with this limit may use, the caller counted; >= 1. */
size_t peri_threads(const peri_context *context, size_t limit);

peri_status peri_parallel(peri_context *context, const peri_loop *loop, size_t tasks,
                          peri_task_fn fn, void *ud);

/* Whether the caller is a task of a loop, which may not start another. */
bool peri_inside_task(void);

/* Changes in every child of a fork. */
uint64_t peri_process_generation(void);

#endif
