/* hnsw.h: what an HNSW index remembers, for those who read and write it. */
#ifndef PERI_INDEX_HNSW_H
#define PERI_INDEX_HNSW_H

#include "index/index.h"
#include "index/walk_codes.h"

#define PERI_HNSW_PARAMS(X, S)                                                                     \
    X(S, CHOICE, metric, 0, 0, 3, "sqeuclidean|euclidean|inner_product|cosine", NULL,              \
      "what near means")                                                                           \
    X(S, INT, m, 16, 2, 10000, NULL, NULL, "links a row on an upper level; twice that below")      \
    X(S, INT, ef_construction, 200, 1, 65535, NULL, NULL, "what a written file says of itself")    \
    X(S, INT, entry, 0, 0, 4294967295, NULL, NULL, "the row where every walk begins")              \
    X(S, INT, level_max, 0, 0, 255, NULL, NULL, "upper levels; 0 = the graph alone")               \
    PERI_WALK_CODES_PARAM(X, S)

PERI_PARAMS_STRUCT(peri_hnsw_params, PERI_HNSW_PARAMS)

peri_hnsw_params *peri_hnsw_params_of(peri_index *index);

/* The row where walks of a CAGRA index begin (cagra.c). */
int64_t peri_cagra_entry(const peri_index *cagra);
/* The codes of a CAGRA index, a peri_walk_codes that was chosen (cagra.c). */
int64_t peri_cagra_codes(const peri_index *cagra);

#endif
