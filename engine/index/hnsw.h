/* hnsw.h: what an HNSW index remembers, for those who read and write it. */
#ifndef PERI_INDEX_HNSW_H
#define PERI_INDEX_HNSW_H

#include "index/index.h"
#include "index/walk_codes.h"

#define PERI_HNSW_PARAMS(X, S)                                                                     \
    PERI_METRIC_PARAM(X, S)                                                                        \
    X(S, INT, m, 16, 2, 10000, NULL, NULL, "links a row on an upper level; twice that below")      \
    X(S, INT, ef_construction, 100, 1, 65535, NULL, NULL,                                          \
      "rows that a walk keeps while the graph is built, of which links are chosen")                \
    X(S, REAL, alpha, 1.1, 1, 4, NULL, NULL,                                                       \
      "how much nearer to a link than to the row another must be to be dropped for it; 1 is the "  \
      "rule of the paper, more keeps more links")                                                  \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the levels drawn and the order")     \
    PERI_WALK_CODES_PARAM(X, S)                                                                    \
    X(S, INT, entry, 0, 0, 4294967295, NULL, NULL, "the row where every walk begins")              \
    X(S, INT, level_max, 0, 0, 255, NULL, NULL, "upper levels; 0 = the graph alone")

PERI_PARAMS_STRUCT(peri_hnsw_params, PERI_HNSW_PARAMS)

peri_hnsw_params *peri_hnsw_params_of(peri_index *index);

/* The row where walks of a CAGRA index begin (cagra.c). */
int64_t peri_cagra_entry(const peri_index *cagra);
/* The codes of a CAGRA index, a peri_walk_codes that was chosen (cagra.c). */
int64_t peri_cagra_codes(const peri_index *cagra);

#endif
