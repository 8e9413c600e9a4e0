/* select_body.h: the kernels of select.h in plain C; each file that includes it is compiled for its
 * instruction set, and the compiler makes vectors of the loops. */
#ifndef PERI_BACKEND_CPU_SELECT_BODY_H
#define PERI_BACKEND_CPU_SELECT_BODY_H

#include <string.h>

#include "backend/cpu/select.h"

/* Floats as whole numbers of the same order, and back. */
static inline int32_t select_order(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits ^ ((bits >> 31) & INT32_MAX);
}

static inline float select_value(int32_t order) {
    float value;
    order ^= (order >> 31) & INT32_MAX;
    memcpy(&value, &order, sizeof value);
    return value;
}

static inline size_t select_count(const peri_span *span, float most) {
    uint32_t count = 0;
    for (size_t i = 0; i < span->count; i++) count += span->values[i] <= most;
    return count;
}

/* The largest value that is at most `most`. */
static inline int32_t select_largest(const peri_span *span, float most, int32_t largest) {
    for (size_t i = 0; i < span->count; i++) {
        int32_t order = span->values[i] <= most ? select_order(span->values[i]) : INT32_MIN;
        largest = order > largest ? order : largest;
    }
    return largest;
}

static inline void select_ends(const peri_span *span, int32_t *least, int32_t *most) {
    int32_t low = *least, high = *most;
    for (size_t i = 0; i < span->count; i++) {
        int32_t order = select_order(span->values[i]);
        low = order < low ? order : low;
        high = order > high ? order : high;
    }
    *least = low;
    *most = high;
}

/* How an instruction set does the loops. */
typedef struct select_loops {
    size_t (*count)(const peri_span *span, float most);
    int32_t (*largest)(const peri_span *span, float most, int32_t largest);
    void (*ends)(const peri_span *span, int32_t *least, int32_t *most);
} select_loops;

static const select_loops select_plain_loops = { select_count, select_largest, select_ends };

/* `loops` is a constant of the caller: the calls are inlined. */
__attribute__((always_inline)) static inline float select_kth(const select_loops *loops,
                                                              const peri_span *spans,
                                                              size_t span_count, size_t k,
                                                              size_t most) {
    int32_t low = INT32_MAX, high = INT32_MIN, largest = INT32_MIN;
    for (size_t s = 0; s < span_count; s++) loops->ends(&spans[s], &low, &high);
    while (low < high) {
        int32_t middle = (int32_t)(((int64_t)low + high) >> 1);
        float limit = select_value(middle);
        size_t count = 0;
        for (size_t s = 0; s < span_count; s++) count += loops->count(&spans[s], limit);
        if (count >= k && count <= most) {
            for (size_t s = 0; s < span_count; s++)
                largest = loops->largest(&spans[s], limit, largest);
            return select_value(largest);
        }
        if (count > k)
            high = middle;
        else
            low = middle + 1;
    }
    return select_value(low);
}

/* A key's place is how many are less, and how many before it are equal. */
__attribute__((always_inline)) static inline void select_sort(const uint64_t *keys, size_t count,
                                                              uint64_t *out) {
    for (size_t i = 0; i < count; i++) {
        uint64_t key = keys[i], place = 0;
        for (size_t j = 0; j < i; j++) place += keys[j] <= key;
        for (size_t j = i + 1; j < count; j++) place += keys[j] < key;
        out[place] = key;
    }
}

#endif
