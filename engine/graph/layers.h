/* layers.h: a graph made by insertion, with the levels of HNSW above it or without: built,
 * extended, and mended when rows left. */
#ifndef PERI_GRAPH_LAYERS_H
#define PERI_GRAPH_LAYERS_H

#include "core/matrix.h"

typedef struct peri_layers {
    peri_matrix *rows;       /* [n, d] f32 f16 i8 u8; the work is done at their place */
    peri_matrix *lengths;    /* [n, 1] f32; cosine only, else may be NULL */
    const uint64_t *present; /* [words] host bits: rows that are to be in it; NULL = all */
    peri_metric metric;
    size_t degree; /* links of a row */
    size_t chosen; /* links that a new row chooses, <= degree; the others come back to it */
    size_t m;      /* links of a row on an upper level; 0 = no levels */
    size_t ef;     /* rows that a walk of the construction keeps */
    float alpha;   /* see peri_op_graph_link; of all levels */
    bool twice;    /* a first pass with alpha 1, a second one over all rows with alpha */
    uint64_t seed; /* of levels and order */
    size_t threads;
    const peri_control *control;
    /* What there was; NULL = nothing. Its first rows are those of `rows`. */
    peri_matrix *old_graph, *old_first, *old_links;
    uint32_t old_entry, old_level_max;
    /* out, at the rows' place */
    peri_matrix *graph;         /* u32 [n, degree] */
    peri_matrix *first, *links; /* see hierarchy.h; NULL when level_max is 0 */
    uint32_t entry, level_max;
} peri_layers;

/* Makes the graph: rows that the old one has keep their links as far as those are present, the
 * others are inserted. Every row that is present can be reached from the entry; nothing leads to
 * one that is not, and its row is empty. Equal rows are chained as in graph_build.h. No row
 * present: entry 0. Errors: PERI_E_MEMORY, PERI_E_UNSUPPORTED, what the control says; nothing is
 * left. The same input gives the same graph on any number of threads. */
peri_status peri_layers_make(peri_layers *layers);

#endif
