/* select_test: the k-th smallest, the filter, the sort and what is kept of a stream, of every
 * instruction set against a plain sort: lengths around the width of a register, ties, infinities,
 * several spans. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/list_keep.h"
#include "check.h"
#include "core/random.h"
#include "core/status.h"

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

/* What is kept of a stream is the head of its sort, whatever was dropped on the way. */
static void check_keep(size_t count, size_t k, int kind, const char *name) {
    static float kept[4 * MOST], distances[MOST];
    static uint32_t names[4 * MOST];
    static uint64_t keys[2 * MOST];
    static int64_t ids[MOST];
    peri_list_keep keep;
    size_t wrong = 0;
    fill(count, kind);
    for (size_t i = 0; i < count; i++) slots[i] = (uint32_t)((i * 7919) % 2111);
    peri_list_keep_init(&keep, kept, names, k);
    for (size_t i = 0; i < count; i++) {
        peri_list_keep_offer(&keep, values[i], slots[i]);
        if (i % 19 == 0) wrong += peri_list_keep_bound(&keep) < sorted[k <= count ? k - 1 : 0];
    }
    peri_list_keep_finish(&keep, distances, ids, keys);
    peri_select_sort(values, slots, count, keys);
    for (size_t i = 0; i < k; i++)
        wrong += i < count ? ids[i] != (int64_t)slots[i] || distances[i] != values[i]
                           : ids[i] != PERI_ID_NONE || distances[i] != INFINITY;
    CHECK(wrong == 0, "%s: %zu of %zu of kind %d kept: %zu places are wrong", name, k, count, kind,
          wrong);
}

static void check_keeps(const char *name) {
    static const size_t counts[] = { 0, 1, 16, 47, 48, 49, 400, MOST };
    for (int kind = 0; kind < 5; kind++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (size_t k = 1; k < MOST; k = 3 * k + 1) check_keep(counts[c], k, kind, name);
}

static void check_equal_keys(const char *name) {
    uint64_t keys[100], out[100], wrong = 0;
    for (uint64_t i = 0; i < 100; i++) keys[i] = i * i % 23 << 33;
    peri_select_chosen()->sort(keys, 100, out);
    for (size_t i = 1; i < 100; i++) wrong += out[i] < out[i - 1];
    CHECK(wrong == 0, "%s: %llu places of equal keys are wrong", name, (unsigned long long)wrong);
}

int main(void) {
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) {
            check_skip(peri_isa_name((peri_isa)isa), "this CPU lacks it");
            continue;
        }
        check_kernels(peri_select_chosen(), peri_isa_name((peri_isa)isa));
        check_keeps(peri_isa_name((peri_isa)isa));
        check_equal_keys(peri_isa_name((peri_isa)isa));
    }
    peri_isa_force(PERI_ISA_COUNT);
    for (int kind = 0; kind < 5; kind++)
        for (size_t count = 0; count <= MOST; count += 1 + count / 2) check_sort(count, kind);
    return check_done();
}
