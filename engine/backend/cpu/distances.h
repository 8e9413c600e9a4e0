/* distances.h: many canonical distances of one query at a time, by the best instruction set found.
 *
 * Bit-identical to core/distance.h on every instruction set. The kernel is chosen once for each
 * operation (never for each call) from what the CPU has. */
#ifndef PERI_BACKEND_CPU_DISTANCES_H
#define PERI_BACKEND_CPU_DISTANCES_H

#include "perigee_backend.h"

typedef enum peri_isa {
    PERI_ISA_SCALAR,
    PERI_ISA_AVX2,
    PERI_ISA_AVX512,
    PERI_ISA_NEON,
    PERI_ISA_COUNT
} peri_isa;

const char *peri_isa_name(peri_isa isa);
bool peri_isa_present(peri_isa isa);
/* The best one present, or a lower one that a test asked for. */
peri_isa peri_isa_chosen(void);
/* For tests: forces one; PERI_ISA_COUNT = automatic again. False when the CPU lacks it. */
bool peri_isa_force(peri_isa isa);

/* sums[i] = canonical sum (squared L2, dot, l1 or hamming) of the query and row slots[i] (or row i
 * when slots is NULL). Rows are at `rows + slot * stride`; the kernel prefetches ahead. */
typedef void (*peri_sums_fn)(const void *query, const void *rows, size_t stride,
                             const uint32_t *slots, size_t count, uint32_t dim, float *sums);

typedef struct peri_distances {
    peri_metric metric;
    peri_dtype dtype; /* of the rows */
    uint32_t dim;
    const void *rows;
    size_t stride;
    const float *lengths; /* of the rows; cosine */
    peri_sums_fn sums;
    peri_sums_fn dots; /* for query lengths: on (query, query) with the query's dtype */
} peri_distances;

void peri_distances_init(peri_distances *d, peri_metric metric, const peri_view *rows,
                         const float *lengths);

/* Values of codes in place of distances: the query is what peri_code_query makes of it. */
void peri_distances_codes(peri_distances *d, peri_metric metric, const peri_codes_view *codes);

/* Length of a query: 0 unless the metric is cosine. */
float peri_distances_query_length(const peri_distances *d, const void *query);

/* Values inside (smaller is nearer) of the query to the rows named, or to rows
 * first..first+count-1. */
void peri_distances_slots(const peri_distances *d, const void *query, float query_length,
                          const uint32_t *slots, size_t count, float *out);
void peri_distances_range(const peri_distances *d, const void *query, float query_length,
                          size_t first, size_t count, float *out);

#endif
