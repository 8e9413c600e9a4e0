/* knn_block.h: the kernels of the coarse pass of exact search, one set an instruction set.
 *
 * A panel is `rows` rows transposed: panel[j * rows + r]; a tile is `queries` queries transposed:
 * tile[j * queries + i]. The products of a tile and a panel stay in registers from the first column
 * to the last, and only one bit a pair leaves: whether the row may be among the k nearest of the
 * query.
 *
 * Rows of f32 and f16 are multiplied as f32. Rows of i8 and u8 are widened to 16 bits and columns
 * go by pairs, the second of the last one 0 when their number is odd: an element of panel and tile
 * is then the pair (2 j, 2 j + 1), two products a lane and instruction, exact. */
#ifndef PERI_BACKEND_CPU_KNN_BLOCK_H
#define PERI_BACKEND_CPU_KNN_BLOCK_H

#include "perigee_backend.h"

#define PERI_BLOCK_ROWS_MAX 32u
#define PERI_BLOCK_QUERIES_MAX 12u

/* panel[j, r] = (rows[r][j] - centre[j]) * scale[r] and norms[r] = the sum of their squares. centre
 * or scale may be NULL. */
typedef void (*peri_block_pack_fn)(peri_dtype dtype, const char *const *rows, uint32_t dim,
                                   const float *centre, const float *scale, float *panel,
                                   float *norms);

/* Bit r of masks[i] = not (start[r] + sum over j of tile[j, i] * panel[j, r] < least[i]); NaN gives
 * 1. */
typedef void (*peri_block_tile_fn)(const float *panel, const float *start, const float *tile,
                                   uint32_t dim, const float *least, uint32_t *masks);

/* The same for pairs of 16-bit columns, without centre, scale and norms. */
typedef void (*peri_block_pack_pairs_fn)(peri_dtype dtype, const char *const *rows, uint32_t dim,
                                         int16_t *panel);

/* As tile, of start[r] + scale[r] * product, rounded twice. */
typedef void (*peri_block_tile_pairs_fn)(const int16_t *panel, const float *start,
                                         const float *scale, const int16_t *tile, uint32_t pairs,
                                         const float *least, uint32_t *masks);

typedef struct peri_block_kernels {
    size_t rows, queries;
    peri_block_pack_fn pack;
    peri_block_tile_fn tile;
    peri_block_pack_pairs_fn pack_pairs;
    peri_block_tile_pairs_fn tile_pairs;
} peri_block_kernels;

extern const peri_block_kernels peri_block_avx2, peri_block_avx512;

/* Of the instruction set in use; NULL when it has none. */
const peri_block_kernels *peri_block_chosen(void);

#endif
