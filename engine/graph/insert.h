/* insert.h: rows put into a graph, batch by batch. */
#ifndef PERI_GRAPH_INSERT_H
#define PERI_GRAPH_INSERT_H

#include "core/matrix.h"
#include "perigee_backend.h"

typedef struct peri_insert {
    peri_matrix *rows;    /* [n, d] f32 f16 i8 u8; the work is done at their place */
    peri_matrix *lengths; /* [n, 1] f32; cosine only, else may be NULL */
    peri_metric metric;
    uint32_t *graph; /* host [n, degree], changed in place; rows not inserted yet are empty */
    size_t degree;
    size_t m;  /* links chosen for a new row, <= degree */
    size_t ef; /* rows that a walk keeps: the candidates */
    float alpha;
    const uint32_t *order;    /* host [count] rows to insert, in this order */
    size_t count, linked;     /* linked: rows in the graph before */
    bool again;               /* the rows are in the graph: they choose anew among what a walk
                                  finds and the links they have */
    peri_hierarchy hierarchy; /* host; where walks begin: rows that are in the graph. When linked
                                  is 0, `entry` must be among the first rows of the order */
    size_t hierarchy_rows;    /* rows of hierarchy.links */
    size_t threads;
    const peri_control *control;
} peri_insert;

/* Inserts. The same rows, order and parameters give the same graph on any number of threads. */
peri_status peri_graph_insert(const peri_insert *insert);

#endif
