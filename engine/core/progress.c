/* progress.c: see progress.h. */
#include "core/progress.h"

static peri_status poll_outer(void *ud, const char *stage, size_t done, size_t total) {
    peri_progress *p = ud;
    /* A loop without a stage prepares another one and has counts of its own: only the poll
     * matters. */
    if (stage != NULL && total > 0) {
        double share = (double)done / (double)total;
        p->told = p->base + (size_t)(share * (double)p->span);
    }
    return p->outer->poll(p->outer->ud, p->stage, p->told, p->total);
}

void peri_progress_init(peri_progress *progress, const peri_control *outer, const char *stage,
                        size_t total) {
    bool polled = outer != NULL && outer->poll != NULL;
    *progress = (peri_progress){ .outer = outer, .stage = stage, .total = total };
    progress->control = (peri_control){ polled ? poll_outer : NULL, progress };
}

void peri_progress_step(peri_progress *progress, size_t base, size_t span) {
    progress->base = progress->told = base;
    progress->span = span;
}

peri_status peri_progress_run(peri_device *device, const peri_op *op, const peri_control *control,
                              size_t threads) {
    peri_lane *lane;
    PERI_TRY(peri_lane_acquire(device, &lane));
    peri_lane_follow(lane, control, threads);
    peri_status status = peri_lane_run(lane, op);
    if (status == PERI_OK) status = peri_lane_wait(lane, control);
    peri_lane_close(lane);
    return status;
}

peri_status peri_progress_tell(peri_progress *progress, size_t done) {
    if (progress->control.poll == NULL) return PERI_OK;
    progress->told = done;
    return progress->outer->poll(progress->outer->ud, progress->stage, done, progress->total);
}
