/* select.c: the kernels of select.h without wider instructions, which of them is used, and the sort
 * of what was selected. */
#include "backend/cpu/select.h"

#include <math.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/select_body.h"

#define INSERTION_MOST 12u /* entries of a run of equal values (taste) */
#define COMPARE_MOST 160u  /* entries: up to here comparing all pairs costs less than digits */

static float kth(const peri_span *spans, size_t span_count, size_t k, size_t most) {
    return select_kth(&select_plain_loops, spans, span_count, k, most);
}

/* Without a branch that depends on the values. */
static size_t filter(float *values, uint32_t *slots, size_t count, float most) {
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        float value = values[i];
        uint32_t slot = slots[i];
        values[kept] = value;
        slots[kept] = slot;
        kept += value <= most;
    }
    return kept;
}

static void sort(const uint64_t *keys, size_t count, uint64_t *out) {
    select_sort(keys, count, out);
}

const peri_select_kernels peri_select_plain = { kth, filter, sort };

const peri_select_kernels *peri_select_chosen(void) {
    switch (peri_isa_chosen()) {
#if defined(__x86_64__)
    case PERI_ISA_AVX512: return &peri_select_avx512;
    case PERI_ISA_AVX2: return &peri_select_avx2;
#endif
    default: return &peri_select_plain;
    }
}

/* Of the entries with that value only the `wanted` of lowest slot stay. */
static size_t drop_ties(float *values, uint32_t *slots, size_t count, float value, size_t wanted) {
    uint32_t low = 0, high = UINT32_MAX;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        size_t found = 0;
        for (size_t i = 0; i < count; i++) found += values[i] == value && slots[i] <= middle;
        if (found >= wanted)
            high = middle;
        else
            low = middle + 1;
    }
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        values[kept] = values[i];
        slots[kept] = slots[i];
        kept += values[kept] != value || slots[kept] <= low;
    }
    return kept;
}

float peri_select_best(const peri_select_kernels *kernels, float *values, uint32_t *slots,
                       size_t *count, size_t k, size_t most) {
    if (*count < k) return INFINITY;
    peri_span span = { values, *count };
    float kth = kernels->kth(&span, 1, k, most);
    size_t kept = kernels->filter(values, slots, *count, kth), ties = 0;
    if (kept > most) {
        for (size_t i = 0; i < kept; i++) ties += values[i] == kth;
        kept = drop_ties(values, slots, kept, kth, k - (kept - ties));
    }
    *count = kept;
    return kth;
}

/* ---- sorting ------------------------------------------------------------------------------ */

static void insertion_sort(uint64_t *keys, size_t count) {
    for (size_t i = 1; i < count; i++) {
        uint64_t key = keys[i];
        size_t at = i;
        for (; at > 0 && keys[at - 1] > key; at--) keys[at] = keys[at - 1];
        keys[at] = key;
    }
}

/* One digit of the radix sort: from `from` to `to`, stable. */
static void place_by_digit(const uint64_t *from, uint64_t *to, size_t count, unsigned shift) {
    uint32_t ends[256] = { 0 };
    for (size_t i = 0; i < count; i++) ends[(from[i] >> shift) & 255]++;
    for (uint32_t digit = 0, sum = 0; digit < 256; digit++) {
        uint32_t here = ends[digit];
        ends[digit] = sum;
        sum += here;
    }
    for (size_t i = 0; i < count; i++) to[ends[(from[i] >> shift) & 255]++] = from[i];
}

/* Sorts by the bytes first..stop-1 of the keys, counted from the lowest; the others are equal or in
 * order. */
static void radix_sort(uint64_t *keys, uint64_t *spare, size_t count, unsigned first,
                       unsigned stop) {
    uint64_t differ = 0, *from = keys, *to = spare;
    for (size_t i = 1; i < count; i++) differ |= keys[i] ^ keys[0];
    for (unsigned byte = first; byte < stop; byte++) {
        if (((differ >> (8 * byte)) & 255) == 0) continue;
        place_by_digit(from, to, count, 8 * byte);
        uint64_t *other = from;
        from = to;
        to = other;
    }
    if (from != keys) memcpy(keys, from, count * sizeof *keys);
}

/* By value first, then each run of equal values by slot: runs are few and short in most data. */
static void sort_keys(uint64_t *keys, uint64_t *spare, size_t count) {
    radix_sort(keys, spare, count, 4, 8);
    for (size_t i = 0, stop; i < count; i = stop) {
        for (stop = i + 1; stop < count && keys[stop] >> 32 == keys[i] >> 32;) stop++;
        if (stop - i > INSERTION_MOST)
            radix_sort(keys + i, spare, stop - i, 0, 4);
        else
            insertion_sort(keys + i, stop - i);
    }
}

/* Zeros of both signs don't occur among the values of one query: no sum here begins with -0. */
void peri_select_sort(float *values, uint32_t *slots, size_t count, uint64_t *keys) {
    for (size_t i = 0; i < count; i++)
        keys[i] = (uint64_t)((uint32_t)select_order(values[i]) ^ UINT32_C(0x80000000)) << 32 |
                  slots[i];
    const uint64_t *sorted = keys;
    if (count <= COMPARE_MOST) {
        sorted = keys + count;
        peri_select_chosen()->sort(keys, count, keys + count);
    } else {
        sort_keys(keys, keys + count, count);
    }
    for (size_t i = 0; i < count; i++) {
        values[i] = select_value((int32_t)((uint32_t)(sorted[i] >> 32) ^ UINT32_C(0x80000000)));
        slots[i] = (uint32_t)sorted[i];
    }
}
