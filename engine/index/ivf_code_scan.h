/* ivf_code_scan.h: what the kinds share whose codes CODE_SCAN takes (ivf_sq, ivf_rabitq): the space
 * of the codes, coding of chunks (ivf_codes.h), the search.
 *
 * Codes are of what is left of a row beside its list's centroid, rotated if the kind rotates. An
 * entry's `add` and the queries are relative to the origin under squared L2 and euclidean, so that
 * a query, which is rounded, keeps no digits for what all rows have in common.
 *
 * Sections: those of ivf.h and lists.h;
 *   "origin"         f32 [1, dim]         the mean of the centroids; squared L2 and euclidean
 *   "rotation"       f32 [cols, dim]      of a kind that rotates
 *   "code_centroids" f32 [n_lists, cols]  less the origin, rotated; where they are not "centroids"
 *   "list_codes" u8 [capacity, ceil(cols * bits / 8)], "list_adds" and "list_scales" f32
 *   [capacity, 1], as CODE_SCAN wants them, as far as the index has them */
#ifndef PERI_INDEX_IVF_CODE_SCAN_H
#define PERI_INDEX_IVF_CODE_SCAN_H

#include "index/ivf_codes.h"

/* What an index's codes are. */
typedef struct peri_code_shape {
    uint32_t cols, bits;
    bool rotated;
    bool whole; /* of rows, not of what is left of them; not with a rotation */
    bool adds, scales;
} peri_code_shape;

/* Codes one row: left [cols], may be written; centroid [cols] in the space of the codes, or NULL.
 * Fills code (cleared) and what the shape has of add and scale. */
typedef void (*peri_code_row_fn)(const void *quantizer, const peri_code_shape *shape, float *left,
                                 const float *centroid, uint8_t *code, float *add, float *scale,
                                 void *scratch);

typedef struct peri_row_coder {
    peri_code_shape shape;
    peri_code_row_fn code;
    const void *quantizer;
    size_t scratch_bytes; /* a worker */
} peri_row_coder;

extern const peri_lists_layout peri_code_scan_layout;
#define PERI_CODE_SCAN_SHARED "centroids", "origin", "code_centroids"
#define PERI_CODE_SCAN_SECTIONS                                                                    \
    PERI_CODE_SCAN_SHARED, "list_offsets", "list_sizes", "list_slots", "list_codes", "list_adds",  \
        "list_scales"

static inline bool peri_index_squared(const peri_index *index) {
    return index->metric == PERI_SQEUCLIDEAN || index->metric == PERI_EUCLIDEAN;
}

/* With "centroids" and "rotation" there: adds "origin" and "code_centroids". */
peri_status peri_code_scan_train(peri_index *index, const peri_code_shape *shape, size_t threads,
                                 const peri_control *control);

/* What is coded of at most `most` rows: f32 [m, cols] on the host. */
peri_status peri_code_scan_sample(const peri_index *index, const peri_code_shape *shape,
                                  peri_matrix *rows, size_t most, size_t threads,
                                  const peri_control *control, peri_matrix **out);

/* The coder of such an index, but for `encode`. */
void peri_code_scan_coder(const peri_index *index, const peri_code_shape *shape,
                          peri_ivf_coder *coder);
/* Codes a chunk on the host; waits. */
peri_status peri_code_scan_encode(const peri_index *index, const peri_row_coder *coder,
                                  peri_lane *lane, const peri_ivf_chunk *chunk);

peri_status peri_code_scan_remove(const peri_index *old, peri_index *next, const peri_loss *loss);
peri_status peri_code_scan_pack(const peri_index *old, peri_index *next);

/* Checks all sections named above. PERI_E_CORRUPT. */
peri_status peri_code_scan_check(peri_index *index, const peri_code_shape *shape);

/* The operation without queries; the kind adds low, step and query_bytes. */
peri_op_code_scan peri_code_scan_op(const peri_index *index, const peri_code_shape *shape);
/* Enqueues the search by that operation. */
peri_status peri_code_scan_run(const peri_index *index, peri_lane *lane, const peri_scan *scan,
                               peri_op_code_scan *op);
/* peri_kind.check_place with that operation. */
peri_status peri_code_scan_place(const peri_index *index, peri_op_code_scan *op);

#endif
