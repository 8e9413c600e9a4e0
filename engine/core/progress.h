/* progress.h: one stage of a build told as one span, though it runs many operations.
 *
 * Each operation polls with its own counts; a progress puts them into the part of the stage that
 * the operation is. Its control is handed down in place of the caller's. */
#ifndef PERI_CORE_PROGRESS_H
#define PERI_CORE_PROGRESS_H

#include "core/lane.h"

typedef struct peri_progress {
    peri_control control; /* to hand down */
    const peri_control *outer;
    const char *stage;
    size_t base, span, total; /* the operation now running covers base..base+span of total */
    size_t told;
} peri_progress;

void peri_progress_init(peri_progress *progress, const peri_control *outer, const char *stage,
                        size_t total);
/* The next operation covers `span` steps from `base`. */
void peri_progress_step(peri_progress *progress, size_t base, size_t span);

/* Polls from a loop on this thread. */
peri_status peri_progress_tell(peri_progress *progress, size_t done);

/* Runs one operation on a lane of its own and waits: a build that runs many must not keep the
 * scratch of all of them. */
peri_status peri_progress_run(peri_device *device, const peri_op *op, const peri_control *control,
                              size_t threads);

#endif
