/* filter.h: a filter bound to rows: a bitset and its count, kept with the filter for the next
 * search. */
#ifndef PERI_FILTER_FILTER_H
#define PERI_FILTER_FILTER_H

#include <stdatomic.h>

#include "core/context.h"

/* The ids of an index's rows, for filters that speak of ids: pairs sorted by id. */
typedef struct peri_id_map {
    uint64_t serial;      /* differs for every map of the process; 0 = ids are row numbers */
    const int64_t *ids;   /* [count] ascending */
    const uint32_t *rows; /* [count] row of ids[i] */
    size_t count;
} peri_id_map;

/* A filter over `rows` rows, shared and immutable. */
typedef struct peri_bound {
    atomic_size_t references;
    peri_context *context;
    size_t rows, words, passing;
    uint64_t serial;
    uint64_t bits[]; /* [words] */
} peri_bound;

/* The filter over an index's rows, from what the filter kept or worked out now, O(n / 64 + ids). */
peri_status peri_filter_bind(peri_filter *filter, size_t rows, const peri_id_map *map,
                             peri_bound **out);
void peri_bound_release(peri_bound *bound);

#endif
