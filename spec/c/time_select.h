/* time_select.h: selection, merging and tables of distances at a place, timed against the rate at
 * which it copies memory, which is measured beside them.
 *
 * The time is the median of the runs, from run() to the end of stream_wait(), with the data at the
 * place; that what comes out is right is the parity test's. */
#ifndef PERIGEE_SPEC_TIME_SELECT_H
#define PERIGEE_SPEC_TIME_SELECT_H

#include <time.h>

#include "place.h"

#define TIME_RUNS 5

typedef struct timing {
    place *at;
    double bytes_second; /* of a copy, read and written */
    bool large;
} timing;

static inline double time_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline int time_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Runs an operation; the first warms up. 0 when the place declines it. */
static inline double time_of(timing *t, const char *name, const void *operation) {
    const peri_driver *driver = t->at->device->driver;
    const peri_op *op = operation;
    double times[TIME_RUNS];
    char reason[256] = "";
    if (!driver->supports(t->at->device, op, reason, sizeof reason)) {
        check_skip(name, reason);
        return 0;
    }
    size_t bytes = driver->scratch_bytes(t->at->device, op);
    void *scratch = place_room(t->at, bytes);
    place_wait(t->at);
    for (size_t i = 0; i < TIME_RUNS + 1; i++) {
        double began = time_now();
        place_must(driver->run(t->at->stream, op, scratch, bytes), name);
        place_wait(t->at);
        if (i > 0) times[i - 1] = time_now() - began;
    }
    qsort(times, TIME_RUNS, sizeof times[0], time_order);
    CHECK(times[TIME_RUNS / 2] > 0, "%s took no time", name);
    return times[TIME_RUNS / 2];
}

static inline void time_copy(timing *t) {
    const size_t bytes = t->large ? (size_t)2 << 30 : (size_t)1 << 20;
    const peri_driver *driver = t->at->device->driver;
    char *from = place_room(t->at, bytes), *to = place_room(t->at, bytes);
    double least = INFINITY;
    place_wait(t->at);
    for (size_t i = 0; i < TIME_RUNS; i++) {
        double began = time_now();
        place_must(driver->copy(t->at->stream, to, bytes, t->at->device, from, bytes, t->at->device,
                                1, bytes),
                   "copy");
        place_wait(t->at);
        least = fmin(least, time_now() - began);
    }
    t->bytes_second = 2.0 * (double)bytes / least;
    printf("copy of %zu MiB: %.2f TB/s\n", bytes >> 20, 1e-12 * t->bytes_second);
    place_clear(t->at);
}

static inline void time_tell(const timing *t, const char *what, double seconds, double bytes) {
    if (seconds == 0) return;
    printf("%s: %.3f ms, %.0f%% of the rate of a copy\n", what, 1e3 * seconds,
           100 * bytes / seconds / t->bytes_second);
}

/* Random floats of every size, made from few: each row is the same block, turned. */
static inline peri_view time_values(timing *t, size_t rows, size_t columns) {
    peri_view block = test_matrix(PERI_F32, 1, columns, 0, 5);
    peri_view view = { place_room(t->at, rows * columns * sizeof(float)),
                       rows,
                       columns,
                       columns * sizeof(float),
                       PERI_F32,
                       t->at->device->place };
    for (size_t i = 0; i < rows; i++) {
        size_t turn = i * 997 % columns, rest = columns - turn;
        float *to = peri_view_row(&view, i), *from = block.data;
        const peri_driver *driver = t->at->device->driver;
        place_must(driver->copy(t->at->stream, to, rest * 4, t->at->device, from + turn, rest * 4,
                                NULL, 1, rest * 4),
                   "copy");
        if (turn == 0) continue;
        place_must(driver->copy(t->at->stream, to + rest, turn * 4, t->at->device, from, turn * 4,
                                NULL, 1, turn * 4),
                   "copy");
    }
    place_wait(t->at);
    free(block.data);
    return view;
}

static inline void time_select(timing *t, size_t rows, size_t columns, size_t k) {
    char what[96];
    peri_op_select_k op = { .kind = PERI_OP_SELECT_K, .k = k };
    op.values = time_values(t, rows, columns);
    op.best_ids = place_room(t->at, rows * k * sizeof *op.best_ids);
    op.best_values = place_room(t->at, rows * k * sizeof *op.best_values);
    snprintf(what, sizeof what, "select_k, %zu x %zu, k %zu", rows, columns, k);
    time_tell(t, what, time_of(t, "select_k", &op), 4.0 * (double)rows * (double)columns);
    place_clear(t->at);
}

static inline void time_merge(timing *t, size_t queries, size_t parts, size_t k) {
    char what[96];
    size_t entries = parts * queries * k;
    peri_op_merge op = { .kind = PERI_OP_MERGE, .queries = queries, .parts = parts };
    int64_t *ids = test_new(entries, sizeof *ids);
    float *distances = test_new(entries, sizeof *distances);
    for (size_t i = 0; i < entries; i++) {
        ids[i] = (int64_t)i;
        distances[i] = (i % k == 0 ? 0 : distances[i - 1]) + 1.0f + test_uniform(6, i);
    }
    op.part_k = op.k = k;
    op.ids = place_put(t->at, ids, entries * sizeof *ids);
    op.distances = place_put(t->at, distances, entries * sizeof *distances);
    op.best_ids = place_room(t->at, queries * k * sizeof *op.best_ids);
    op.best_distances = place_room(t->at, queries * k * sizeof *op.best_distances);
    snprintf(what, sizeof what, "merge, %zu queries, %zu parts of %zu", queries, parts, k);
    time_tell(t, what, time_of(t, "merge", &op), 12.0 * (double)(entries + queries * k));
    place_clear(t->at);
    free(ids);
    free(distances);
}

static inline void time_pairwise(timing *t, size_t queries, size_t rows, size_t dim) {
    char what[96];
    peri_op_pairwise op = { .kind = PERI_OP_PAIRWISE, .metric = PERI_SQEUCLIDEAN };
    peri_view a = test_matrix(PERI_F32, queries, dim, 0, 7);
    peri_view b = test_matrix(PERI_F32, rows, dim, 0, 8);
    op.queries = place_put_view(t->at, &a);
    op.rows = place_put_view(t->at, &b);
    op.out = (peri_view){ place_room(t->at, queries * rows * sizeof(float)),
                          queries,
                          rows,
                          rows * sizeof(float),
                          PERI_F32,
                          t->at->device->place };
    double seconds = time_of(t, "pairwise", &op);
    snprintf(what, sizeof what, "pairwise, %zu x %zu of %zu, %.1f G pairs/s", queries, rows, dim,
             1e-9 * (double)queries * (double)rows / (seconds == 0 ? 1 : seconds));
    time_tell(t, what, seconds, 4.0 * (double)queries * (double)rows);
    place_clear(t->at);
    free(a.data);
    free(b.data);
}

static inline void time_selection(place *at, bool large) {
    timing t = { .at = at, .large = large };
    time_copy(&t);
    if (!large) {
        time_select(&t, 10, 5000, 10);
        time_merge(&t, 20, 3, 10);
        time_pairwise(&t, 30, 300, 24);
        return;
    }
    time_select(&t, 1000, 1000000, 64);
    time_select(&t, 1000, 1000000, 256);
    time_select(&t, 10000, 4096, 10);
    time_select(&t, 1, 100000000, 64);
    time_merge(&t, 10000, 8, 10);
    time_merge(&t, 10000, 8, 100);
    time_pairwise(&t, 10000, 50000, 128);
    time_pairwise(&t, 10000, 20000, 768);
}

#endif
