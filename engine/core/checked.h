/* checked.h: products and sums of counts that may not wrap. */
#ifndef PERI_CORE_CHECKED_H
#define PERI_CORE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>

static inline bool peri_mul_fits(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool peri_add_fits(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static inline size_t peri_ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* The next multiple of a power of two; the caller knows that it fits. */
static inline size_t peri_round_up(size_t a, size_t power) {
    return (a + power - 1) & ~(power - 1);
}

static inline size_t peri_min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t peri_max_size(size_t a, size_t b) { return a > b ? a : b; }

#endif
