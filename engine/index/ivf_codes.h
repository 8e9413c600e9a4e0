/* ivf_codes.h: what the kinds share whose lists hold codes of rows: how rows get there.
 *
 * A row becomes, chunk by chunk, what is coded of it: its f32 numbers (of length 1 under cosine),
 * less the centroid of its list where codes are of residuals, rotated where there is a rotation.
 * The kind codes that. Entries are made at the index's place; chunks bound what that takes. */
#ifndef PERI_INDEX_IVF_CODES_H
#define PERI_INDEX_IVF_CODES_H

#include "index/ivf.h"

/* What is coded of a row. */
typedef struct peri_ivf_turn {
    const float *centroids; /* [n_lists, dim]; NULL: whole rows */
    const float *rotation;  /* [cols, dim] or NULL */
    size_t cols;
} peri_ivf_turn;

/* A chunk of rows that become entries; everything is at the place. */
typedef struct peri_ivf_chunk {
    peri_view turned;                     /* f32 [m, cols] */
    const uint32_t *labels;               /* [m] */
    peri_view parts[PERI_LIST_PARTS_MAX]; /* [m, .] out */
} peri_ivf_chunk;

/* How an index codes rows: filled from its sections. */
typedef struct peri_ivf_coder {
    peri_ivf_turn turn;
    struct {
        size_t cols;
        peri_dtype dtype;
    } parts[PERI_LIST_PARTS_MAX]; /* of the layout's; cols 0: this index has no such part */
    /* Enqueues the codes of a chunk. */
    peri_status (*encode)(const peri_index *index, peri_lane *lane, const peri_ivf_chunk *chunk);
} peri_ivf_coder;

typedef struct peri_ivf_codes {
    const peri_lists_layout *layout;
    const char *const *shared; /* sections that extending does not change; ends with NULL */
    /* Adds the sections that coding needs, "centroids" being there. */
    peri_status (*train)(peri_index *index, peri_matrix *rows, size_t threads,
                         const peri_control *control);
    peri_status (*coder)(const peri_index *index, peri_ivf_coder *coder);
} peri_ivf_codes;

/* Enqueues: rows [m, dim] of the index's dtype or f32, turned, into out f32 [m, cols]; labels may
 * be NULL without centroids. */
peri_status peri_ivf_turn_rows(const peri_index *index, peri_lane *lane, const peri_ivf_turn *turn,
                               const peri_view *rows, const uint32_t *labels, const peri_view *out);

/* The same as a new matrix at the place; waits. */
peri_status peri_ivf_turned(const peri_index *index, const peri_ivf_turn *turn, peri_matrix *rows,
                            peri_matrix *labels, size_t threads, const peri_control *control,
                            peri_matrix **out);

/* peri_kind.build and peri_kind.extend of such a kind. */
peri_status peri_ivf_codes_build(peri_index *index, const peri_ivf_codes *codes, peri_matrix *given,
                                 size_t threads, const peri_control *control);
peri_status peri_ivf_codes_extend(const peri_index *old, peri_index *next,
                                  const peri_ivf_codes *codes, const peri_growth *growth);

#endif
