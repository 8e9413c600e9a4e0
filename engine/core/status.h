/* status.h: how a failure is told. Detail text is thread-local, 512 bytes.
 *
 * PERI_TRY(expr) forwards a failure; peri_fail() writes the detail and returns the status, so
 * that a function ends with `return peri_fail(PERI_E_IO, "…")`. Cleanup is one `done` label:
 * PERI_GO(expr) stores the status in a local `status` and jumps there. */
#ifndef PERI_CORE_STATUS_H
#define PERI_CORE_STATUS_H

#include "perigee.h"

#ifndef __cplusplus
#include <assert.h>
#endif

#define PERI_TRY(expr)                                                                             \
    do {                                                                                           \
        peri_status try_status_ = (expr);                                                          \
        if (try_status_ != PERI_OK) return try_status_;                                            \
    } while (0)

#define PERI_GO(expr)                                                                              \
    do {                                                                                           \
        status = (expr);                                                                           \
        if (status != PERI_OK) goto done;                                                          \
    } while (0)

/* On in Debug and in the sanitizer builds: a failed one is a bug of ours, never of a user. */
#ifdef PERI_DEBUG
#define PERI_ASSERT(condition) assert(condition)
#else
#define PERI_ASSERT(condition) ((void)0)
#endif

/* Writes the detail of this thread and returns `status`. */
peri_status peri_fail(peri_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Restates a failure that another thread recorded. */
peri_status peri_fail_again(peri_status status, const char *detail);

#endif
