/* nearest.h: the exact nearest rows of a few rows of the same matrix, among those that bits
 * allow. */
#ifndef PERI_GRAPH_NEAREST_H
#define PERI_GRAPH_NEAREST_H

#include "core/matrix.h"

typedef struct peri_nearest {
    peri_matrix *rows;    /* [n, d] at any place */
    peri_matrix *lengths; /* [n, 1] f32; cosine */
    peri_metric metric;
    size_t threads;
    const peri_control *control;
} peri_nearest;

/* ids[i, j] = the j-th nearest row to row slots[i] among the rows set in bits[which[i]] (which
 * NULL: all use bits[0]), PERI_ID_NONE when there are fewer. Everything but the matrices is on
 * the host. */
peri_status peri_nearest_find(const peri_nearest *nearest, const uint32_t *slots, size_t count,
                              const uint64_t *const *bits, size_t bits_count, const uint32_t *which,
                              size_t k, int64_t *ids);

/* The row nearest to the mean of the rows, by the Euclidean distance. `host` is the same rows. */
peri_status peri_nearest_to_mean(const peri_nearest *nearest, const peri_view *host, uint64_t seed,
                                 uint32_t *out);

#endif
