/* ivf_codes.h: what the kinds share whose lists hold codes that CODE_SCAN takes (ivf_sq,
 * ivf_rabitq): the space of the codes, making entries of rows, the search.
 *
 * A row is prepared for coding: brought to length 1 under cosine, the origin subtracted under
 * squared L2 and euclidean (distances stay, and a query, which is rounded, keeps no digits for what
 * all rows have in common), then rotated if the kind says so. Queries go the same way by ROTATE;
 * under cosine they keep their length.
 *
 * Sections: those of ivf.h and lists.h;
 *   "origin"         f32 [1, dim]         the mean of the centroids; squared L2 and euclidean
 *   "code_centroids" f32 [n_lists, cols]  prepared centroids; not there when rows are coded whole
 *   "rotation"       f32 [cols, dim]      of a kind that rotates
 *   "list_codes" u8 [capacity, ceil(cols * bits / 8)], "list_adds" and "list_scales" f32
 *   [capacity, 1], as CODE_SCAN wants them, as far as the kind has them */
#ifndef PERI_INDEX_IVF_CODES_H
#define PERI_INDEX_IVF_CODES_H

#include "index/ivf.h"

typedef struct peri_ivf_coder peri_ivf_coder;

/* How a kind codes one row. */
struct peri_ivf_coder {
    uint32_t cols, bits;
    bool whole;        /* rows, not what is left of them beside the centroid */
    bool adds, scales; /* entries have them */
    /* out [cols] from row [dim]; NULL: as it is, and cols = dim */
    void (*rotate)(const peri_ivf_coder *coder, const float *row, float *out);
    /* The code and factors of a prepared row [cols]; centroid [cols] or NULL. */
    void (*encode)(const peri_ivf_coder *coder, const float *row, const float *centroid,
                   uint8_t *code, float *add, float *scale, void *scratch);
    size_t scratch_bytes;
    const void *quantizer; /* the kind's */
};

enum { PERI_IVF_CODES, PERI_IVF_ADDS, PERI_IVF_SCALES };
extern const peri_lists_layout peri_ivf_codes_layout;
#define PERI_IVF_CODES_SECTIONS                                                                    \
    "centroids", "list_offsets", "list_sizes", "list_slots", "origin", "code_centroids",           \
        "list_codes", "list_adds", "list_scales"

/* Whether the metric compares squared differences. */
static inline bool peri_ivf_squared(const peri_index *index) {
    return index->metric == PERI_SQEUCLIDEAN || index->metric == PERI_EUCLIDEAN;
}

/* After peri_ivf_train: adds "origin" and "code_centroids". */
peri_status peri_ivf_codes_train(peri_index *index, const peri_ivf_coder *coder);

/* What at most `most` of the rows leave beside their centroids (or are, coded whole), prepared:
 * f32 [m, cols] on the host. */
peri_status peri_ivf_codes_sample(const peri_index *index, const peri_ivf_coder *coder,
                                  peri_matrix *rows, size_t most, size_t threads,
                                  const peri_control *control, peri_matrix **out);

/* The rows (at the place) that an index is built with, none of them without add_data_on_build:
 * sets its shape and makes its lists. */
peri_status peri_ivf_codes_fill(peri_index *index, const peri_ivf_coder *coder, peri_matrix *rows,
                                size_t threads, const peri_control *control);

/* peri_kind.extend with a coder of the old index: shares the sections named, which ends with NULL,
 * besides those of this file. */
peri_status peri_ivf_codes_extend(const peri_index *old, peri_index *next,
                                  const peri_ivf_coder *coder, const peri_growth *growth,
                                  const char *const *more);
peri_status peri_ivf_codes_remove(const peri_index *old, peri_index *next, const peri_loss *loss);
peri_status peri_ivf_codes_pack(const peri_index *old, peri_index *next);

/* Checks all sections of this file. */
peri_status peri_ivf_codes_check(peri_index *index, const peri_ivf_coder *coder);
/* One of f32; PERI_E_CORRUPT when it is missing, not of this shape, or holds NaN or Inf. */
peri_status peri_ivf_codes_floats(const peri_index *index, const char *name, size_t rows,
                                  size_t cols);

/* The operation without queries; the kind adds low, step and query_bytes. */
peri_op_code_scan peri_ivf_codes_op(const peri_index *index, const peri_ivf_coder *coder);
/* Enqueues the search by that operation. */
peri_status peri_ivf_codes_scan(const peri_index *index, peri_lane *lane, const peri_scan *scan,
                                peri_op_code_scan *op);
/* peri_kind.check_place with that operation. */
peri_status peri_ivf_codes_check_place(const peri_index *index, peri_op_code_scan *op);

#endif
