/* select.h: selection of the nearest by counting, one pair of kernels an instruction set.
 *
 * The k-th smallest of many values is found by bisection over the order of floats: each step counts
 * the values up to a middle, a vector comparison for each register of them. About fifteen steps
 * suffice for values that differ, five when the rank may be a little larger, 32 always, and no
 * element moves; a quickselect of the same array is bound by branches that nothing predicts. */
#ifndef PERI_BACKEND_CPU_SELECT_H
#define PERI_BACKEND_CPU_SELECT_H

#include <stddef.h>
#include <stdint.h>

/* A part of the values that are selected from. */
typedef struct peri_span {
    const float *values;
    size_t count;
} peri_span;

typedef struct peri_select_kernels {
    /* A value that k to `most` of all spans' values don't exceed, or the k-th smallest where ties
     * let no such number be; the k-th smallest with most = k. 1 <= k <= their number, k <= most. No
     * NaN; -0 is 0. */
    float (*kth)(const peri_span *spans, size_t span_count, size_t k, size_t most);
    /* Moves the entries whose value is at most `most` to the front, in their order; returns how
     * many there are. Both arrays have room for `count` rounded up to a multiple of 16; what is
     * behind the entries is read and overwritten. */
    size_t (*filter)(float *values, uint32_t *slots, size_t count, float most);
    /* out = keys in ascending order, which compares each with each: for a few. */
    void (*sort)(const uint64_t *keys, size_t count, uint64_t *out);
} peri_select_kernels;

extern const peri_select_kernels peri_select_plain, peri_select_avx2, peri_select_avx512;

/* Of the instruction set in use. */
const peri_select_kernels *peri_select_chosen(void);

/* Of `count` entries without an order, moves the k best by (value, slot) to the front, or up to
 * `most` of the best, and says how many in `count`. Returns a value that the k-th best does not
 * exceed, and none that is left: +inf when there are fewer than k. Arrays as those of filter; -0
 * does not occur. */
float peri_select_best(const peri_select_kernels *kernels, float *values, uint32_t *slots,
                       size_t *count, size_t k, size_t most);

/* Sorts entries by (value, slot), ascending. `keys` has room for 2 * count. */
void peri_select_sort(float *values, uint32_t *slots, size_t count, uint64_t *keys);

#endif
