/* combinators.h: the parameter tables of what wraps or turns one searcher into another. */
#ifndef PERI_INDEX_COMBINATORS_H
#define PERI_INDEX_COMBINATORS_H

#include "core/params.h"

extern const peri_param_table peri_refined_table; /* "ratio": at construction and at search */
extern const peri_param_table peri_to_hnsw_table;

#endif
