/* knn_block.h: the kernels of the coarse pass of exact search, one set an instruction set.
 *
 * A panel is `rows` rows transposed, a tile is `queries` queries transposed. Their products stay in
 * registers from the first column to the last; what leaves is which rows may be among the nearest
 * of which query (masks), and for those queries the products themselves (scores), from which `take`
 * makes the entries of a selection.
 *
 * A caller packs rows into a panel, tiles its queries once, and for each pair of them: tile(), then
 * for each query of the returned bits take() on its 32 scores. knn_coarse.c is the example.
 *
 * f32 and f16 are multiplied as f32: panel[j * rows + r], tile[j * queries + i].
 *
 * i8 and u8 are multiplied exactly, `group` columns at a time; a group is 32 bits of panel and
 * tile: panel[(g * rows + r) * group + c] is X of column g * group + c of row r, tile[(g * queries
 * + i) * group + c] is Q. One side must be unsigned and one signed for the instruction that
 * multiplies four pairs of bytes, so
 *     X = x for u8, x + 128 for i8: 0..255, what pack_whole() makes;
 *     Q = q - 128 for u8, q for i8: -128..127, what the caller writes;
 * and 0 in both past the last column. With group 4 the elements are uint8_t and int8_t, with groups
 * 1 and 2 both are int16_t. |sum of Q X| <= 128 * 255 * PERI_DIM_MAX < 2^31. */
#ifndef PERI_BACKEND_CPU_KNN_BLOCK_H
#define PERI_BACKEND_CPU_KNN_BLOCK_H

#include "perigee_backend.h"

#define PERI_BLOCK_ROWS_MAX 32u
#define PERI_BLOCK_QUERIES_MAX 12u
#define PERI_BLOCK_SCORES_MAX (PERI_BLOCK_ROWS_MAX * PERI_BLOCK_QUERIES_MAX)

/* panel[j, r] = (rows[r][j] - centre[j]) * scale[r] and norms[r] = the sum of their squares. centre
 * or scale may be NULL. */
typedef void (*peri_block_pack_fn)(peri_dtype dtype, const char *const *rows, uint32_t dim,
                                   const float *centre, const float *scale, float *panel,
                                   float *norms);

/* score[i, r] = start[r] + sum over j of tile[j, i] * panel[j, r], a chain of fused multiply-adds.
 * Bit r of masks[i] = not (score < least[i]); NaN gives 1. Returns bit i for each query with a mask
 * other than 0; only their scores[i * rows + r] are written. */
typedef uint32_t (*peri_block_tile_fn)(const float *panel, const float *start, const float *tile,
                                       uint32_t dim, const float *least, uint32_t *masks,
                                       float *scores);

/* The panel of rows of i8 or u8; sums[r] = sum of X, squares[r] = sum of X (X - 128). */
typedef void (*peri_block_pack_whole_fn)(peri_dtype dtype, const char *const *rows, uint32_t dim,
                                         void *panel, int32_t *sums, int32_t *squares);

/* As tile, in integers: score[i, r] = start[r] + sum of Q X, bit = score >= least[i]. */
typedef uint32_t (*peri_block_tile_whole_fn)(const void *panel, const int32_t *start,
                                             const void *tile, uint32_t groups,
                                             const int32_t *least, uint32_t *masks,
                                             int32_t *scores);

/* As tile_whole; bit = not (scale[r] * (base[i] + score) < least[i]), in f32. */
typedef uint32_t (*peri_block_tile_scaled_fn)(const void *panel, const int32_t *start,
                                              const float *scale, const void *tile, uint32_t groups,
                                              const int32_t *base, const float *least,
                                              uint32_t *masks, int32_t *scores);

/* How a score becomes the value of an entry. */
typedef enum peri_block_form {
    PERI_BLOCK_FLOAT,   /* offset - score */
    PERI_BLOCK_SQUARED, /* (float)(base - 2 score - odd[r]) */
    PERI_BLOCK_DOT,     /* -(float)(base + score) */
    PERI_BLOCK_COSINE   /* 1 - (float)(base + score) / (length * lengths[r]), NaN is +inf */
} peri_block_form;

typedef struct peri_block_rule {
    peri_block_form form;
    float offset;
    int32_t base;
    float length;
    const int32_t *odd;   /* [rows] */
    const float *lengths; /* [rows] */
} peri_block_rule;

/* Appends the value and the slot of each row in `mask` and returns how many there are. Writes up to
 * PERI_BLOCK_ROWS_MAX entries whatever the mask: there must be room for them. scores[r] of one
 * query: float for PERI_BLOCK_FLOAT, else int32_t. */
typedef size_t (*peri_block_take_fn)(const peri_block_rule *rule, const void *scores, uint32_t mask,
                                     const uint32_t *slots, float *values, uint32_t *out_slots);

typedef struct peri_block_kernels {
    size_t rows, queries;
    size_t group; /* columns of i8 and u8 that are multiplied at a time */
    peri_block_pack_fn pack;
    peri_block_tile_fn tile;
    peri_block_pack_whole_fn pack_whole;
    peri_block_tile_whole_fn tile_whole;
    peri_block_tile_scaled_fn tile_scaled;
    peri_block_take_fn take;
} peri_block_kernels;

extern const peri_block_kernels peri_block_avx2, peri_block_avxvnni, peri_block_avx512,
    peri_block_neon;

/* Of the instruction set in use; NULL when it has none. */
const peri_block_kernels *peri_block_chosen(void);
/* The CPU has AVX2 and AVX-VNNI, the form of the byte products that needs no AVX-512. */
bool peri_block_has_avxvnni(void);

#endif
