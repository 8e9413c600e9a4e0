/* knn_chunks.h: the exact nearest rows of some queries among rows that pass a device in chunks. */
#ifndef PERI_GRAPH_KNN_CHUNKS_H
#define PERI_GRAPH_KNN_CHUNKS_H

#include "core/chunks.h"

typedef struct peri_knn_chunks {
    /* What the caller sets. */
    peri_metric metric;
    peri_view queries;    /* [q, d] at the place, as operation KNN takes them */
    const float *lengths; /* [n] of the rows at the place; NULL: found for each chunk, if needed */
    size_t k;
    void *ud;
    /* (optional) The filters of rows [first, first + count), at the place or in the lane's arena */
    peri_status (*filter)(void *ud, peri_lane *lane, size_t first, size_t count,
                          peri_filter_view *out);

    /* [q, k] at the place after a pass: the answer of one scan over all rows, to the bit. */
    int64_t *best_ids;
    float *best_distances;

    int64_t *ids[2]; /* [2, q, k] each: best so far and best of a chunk */
    float *distances[2];
    size_t turn;
} peri_knn_chunks;

/* Takes the room for lists from the lane, which keeps the answer. */
peri_status peri_knn_chunks_open(peri_knn_chunks *knn, peri_lane *lane);

/* One pass: of `chunks` the device, rows, threads and progress with its base are set. */
peri_status peri_knn_chunks_pass(peri_knn_chunks *knn, peri_chunks *chunks);

/* Whether the place does what this needs besides the scan. */
peri_status peri_knn_chunks_check(const peri_device *device);

#endif
