/* assign_block.h: the kernels of the coarse pass of assignment, one an instruction set.
 *
 * Panels are rows transposed and tiles are centroids transposed, in the shapes of knn_block.h. Each
 * lane, a row, keeps its two largest products and the centroid of the largest, which is all that a
 * certificate needs. */
#ifndef PERI_BACKEND_CPU_ASSIGN_BLOCK_H
#define PERI_BACKEND_CPU_ASSIGN_BLOCK_H

#include "backend/cpu/knn_block.h"

/* Of the rows of a panel, so far. */
typedef struct peri_assign_best {
    float *best, *second; /* -inf before the first */
    uint32_t *labels;
} peri_assign_best;

/* For each centroid i of the tile, in order, with v = start[i] + sum over j of tile[j, i] *
 * panel[j, r]: the two largest of best[r], second[r] and v; where v is above best[r], labels[r] =
 * first + i. */
typedef void (*peri_assign_tile_fn)(const float *panel, const float *tile, const float *start,
                                    uint32_t dim, uint32_t first, const peri_assign_best *at);

void peri_assign_tile_avx2(const float *panel, const float *tile, const float *start, uint32_t dim,
                           uint32_t first, const peri_assign_best *at);
void peri_assign_tile_avx512(const float *panel, const float *tile, const float *start,
                             uint32_t dim, uint32_t first, const peri_assign_best *at);
void peri_assign_tile_neon(const float *panel, const float *tile, const float *start, uint32_t dim,
                           uint32_t first, const peri_assign_best *at);

#endif
