/* check.h: what the C tests share: counting checks and saying how they went:
 * "N passed, N failed, N skipped" at the end, and a failure for the shell if any failed.
 *
 *     CHECK(a == b, "row %zu: %d, wanted %d", i, a, b);   a false one prints the place and the text
 *     check_skip("avx512", "the CPU lacks it");           a part that can't run here, by name
 *     return check_done();                                prints the counts; the exit code
 *
 * Only the first failures are printed in full; all are counted. One thread. */
#ifndef PERIGEE_SPEC_CHECK_H
#define PERIGEE_SPEC_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK_PRINTED_MAX 20

static struct { size_t passed, failed, skipped; } check_counts;

__attribute__((format(printf, 4, 5))) static inline bool
check_that(bool condition, const char *file, int line, const char *format, ...) {
    if (condition) {
        check_counts.passed++;
        return true;
    }
    if (check_counts.failed++ >= CHECK_PRINTED_MAX) return false;
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    __builtin_va_end(arguments);
    return false;
}

/* Where files of a moment go. */
static inline const char *check_folder(void) {
    const char *folder = getenv("TMPDIR");
    return folder == NULL || folder[0] == '\0' ? "/tmp" : folder;
}

/* True when the condition holds, so that a test can stop where going on makes no sense. */
#define CHECK(condition, ...) check_that((condition), __FILE__, __LINE__, __VA_ARGS__)

static inline void check_skip(const char *name, const char *why) {
    check_counts.skipped++;
    printf("skipped: %s: %s\n", name, why);
}

static inline int check_done(void) {
    printf("%zu passed, %zu failed, %zu skipped\n", check_counts.passed, check_counts.failed,
           check_counts.skipped);
    return check_counts.failed == 0 && check_counts.passed > 0 ? 0 : 1;
}

#endif
