/* select_test: the k-th smallest, the filter and the sort of every instruction set against a plain
 * sort: lengths around the width of a register, ties, infinities, several spans. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/select.h"
#include "check.h"
#include "core/random.h"

#define MOST 2100

static float values[MOST + 32], sorted[MOST + 32];
static uint32_t slots[MOST + 32];

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Kinds: 0 spread, 1 few values, 2 all equal, 3 of both signs and every size, 4 some infinite. */
static void fill(size_t count, int kind) {
    for (size_t i = 0; i < MOST + 32; i++) {
        double draw = (double)peri_random_below((uint64_t)kind, i + count, 1u << 30) / (1 << 30);
        double value = kind == 1   ? floor(5 * draw)
                       : kind == 2 ? 0.25
                       : kind == 3 ? ldexp(draw - 0.5, (int)(i * 37 % 200) - 100)
                                   : draw;
        values[i] = kind == 4 && i % 3 == 0 ? INFINITY : (float)value;
        slots[i] = (uint32_t)((i * 7919) % 4001);
        if (i < count) sorted[i] = values[i];
    }
    qsort(sorted, count, sizeof *sorted, by_value);
}

static size_t count_to(float limit, size_t count) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += values[i] <= limit;
    return found;
}

static void check_kth(const peri_select_kernels *kernels, size_t count, size_t k,
                      const char *name) {
    peri_span spans[3] = { { values, count / 3 },
                           { values + count / 3, 0 },
                           { values + count / 3, count - count / 3 } };
    float kth = kernels->kth(spans, 3, k, k);
    CHECK(kth == sorted[k - 1], "%s: number %zu of %zu is %g, wanted %g", name, k, count,
          (double)kth, (double)sorted[k - 1]);
    size_t most = k + k / 4, found;
    kth = kernels->kth(spans, 3, k, most);
    found = count_to(kth, count);
    CHECK(found >= k && (found <= most || kth == sorted[k - 1]),
          "%s: %g for %zu to %zu of %zu has %zu", name, (double)kth, k, most, count, found);
}

/* Entries stay together and in their order. */
static void check_filter(const peri_select_kernels *kernels, size_t count, float limit,
                         const char *name) {
    float kept[MOST + 32];
    uint32_t names[MOST + 32];
    size_t expected = 0, wrong = 0;
    memcpy(kept, values, sizeof kept);
    memcpy(names, slots, sizeof names);
    size_t found = kernels->filter(kept, names, count, limit);
    for (size_t i = 0; i < count; i++) {
        if (!(values[i] <= limit)) continue;
        wrong += kept[expected] != values[i] || names[expected] != slots[i];
        expected++;
    }
    CHECK(found == expected && wrong == 0, "%s: %zu of %zu kept, wanted %zu; %zu differ", name,
          found, count, expected, wrong);
}

static void check_kernels(const peri_select_kernels *kernels, const char *name) {
    static const size_t counts[] = { 1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 255, MOST };
    for (int kind = 0; kind < 5; kind++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            size_t count = counts[c];
            fill(count, kind);
            for (size_t k = 1; k <= count; k += 1 + k / 3) {
                check_kth(kernels, count, k, name);
                check_filter(kernels, count, sorted[k - 1], name);
            }
            check_filter(kernels, count, -INFINITY, name);
        }
}

static void check_sort(size_t count, int kind) {
    static uint64_t keys[2 * MOST];
    size_t wrong = 0;
    fill(count, kind);
    for (size_t i = 0; i < count; i++) slots[i] = (uint32_t)((i * 7919) % 2111); /* a prime: once */
    peri_select_sort(values, slots, count, keys);
    for (size_t i = 0; i < count; i++) {
        wrong += values[i] != sorted[i];
        wrong += i > 0 && values[i] == values[i - 1] && slots[i] <= slots[i - 1];
    }
    CHECK(wrong == 0, "sort of %zu of kind %d: %zu places are wrong", count, kind, wrong);
}

int main(void) {
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) {
            check_skip(peri_isa_name((peri_isa)isa), "this CPU lacks it");
            continue;
        }
        check_kernels(peri_select_chosen(), peri_isa_name((peri_isa)isa));
    }
    peri_isa_force(PERI_ISA_COUNT);
    for (int kind = 0; kind < 5; kind++)
        for (size_t count = 0; count <= MOST; count += 1 + count / 2) check_sort(count, kind);
    return check_done();
}
