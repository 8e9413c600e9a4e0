/* check.h: the harness of the C tests: CHECK counts, check_done() prints the sum. */
#ifndef PERI_SPEC_CHECK_H
#define PERI_SPEC_CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static size_t check_passed, check_failed, check_skipped;

__attribute__((format(printf, 5, 6))) static inline bool
check_note(bool good, const char *file, int line, const char *condition, const char *format, ...) {
    if (good) {
        check_passed++;
        return true;
    }
    check_failed++;
    if (check_failed > 50) return false; /* the first ones tell the story */
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: %s: ", file, line, condition);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return false;
}

#define CHECK(condition, ...) check_note((condition), __FILE__, __LINE__, #condition, __VA_ARGS__)

static inline void check_skip(const char *name, const char *reason) {
    check_skipped++;
    printf("skipped: %s: %s\n", name, reason);
}

/* What main() returns. */
static inline int check_done(void) {
    printf("%zu passed, %zu failed, %zu skipped\n", check_passed, check_failed, check_skipped);
    return check_failed == 0 ? 0 : 1;
}

#endif
