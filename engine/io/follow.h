/* follow.h: asks the caller of a long read or write whether to go on. */
#ifndef PERI_IO_FOLLOW_H
#define PERI_IO_FOLLOW_H

#include "core/status.h"

/* What is read or written between two polls: 4 MiB take below 50 ms on a disk of 100 MB/s. */
#define PERI_FOLLOW_BYTES ((size_t)4 << 20)

static inline peri_status peri_follow(const peri_control *control, const char *stage, size_t done,
                                      size_t total) {
    if (control == NULL || control->poll == NULL) return PERI_OK;
    peri_status status = control->poll(control->ud, stage, done, total);
    if (status == PERI_OK) return PERI_OK;
    return peri_fail(status, "%s during %s", peri_status_text(status), stage);
}

#endif
