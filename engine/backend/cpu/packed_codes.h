/* packed_codes.h: values of packed codes of a walk (core/code.h): of some rows, and of all links of
 * a row from the codes beside them, which need no sums across a register: a lane is a link. One set
 * of kernels an instruction set; whole numbers, so all of them give the same. */
#ifndef PERI_BACKEND_CPU_PACKED_CODES_H
#define PERI_BACKEND_CPU_PACKED_CODES_H

#include "core/code.h"

typedef struct peri_packed_codes {
    uint32_t bits;
    size_t dim, code_bytes;
    const uint8_t *rows;
    size_t stride;
    const uint8_t *linked; /* NULL: none */
    size_t block;
} peri_packed_codes;

/* values[i] of row slots[i]. */
typedef void (*peri_packed_rows_fn)(const peri_packed_codes *codes, const peri_packed_query *query,
                                    const uint32_t *slots, size_t count, float *values);

/* Of links[0..count-1], whose codes begin at `group` (those of a whole group), the ones of a value
 * that is not above `bound`: their slots and values, in order; returns how many. Both have room for
 * whole groups. */
typedef size_t (*peri_packed_links_fn)(const peri_packed_codes *codes,
                                       const peri_packed_query *query, const uint8_t *group,
                                       const uint32_t *links, size_t count, float bound,
                                       uint32_t *slots, float *values);

typedef struct peri_packed_kernels {
    peri_packed_rows_fn rows;
    peri_packed_links_fn links;
} peri_packed_kernels;

peri_packed_codes peri_packed_codes_of(const peri_codes_view *view, size_t degree);

/* Those of the best instruction set. */
peri_packed_kernels peri_packed_kernels_chosen(void);

#define PERI_PACKED_DECLARE(isa)                                                                   \
    void peri_packed_rows_##isa(const peri_packed_codes *codes, const peri_packed_query *query,    \
                                const uint32_t *slots, size_t count, float *values);               \
    size_t peri_packed_links_##isa(const peri_packed_codes *codes, const peri_packed_query *query, \
                                   const uint8_t *group, const uint32_t *links, size_t count,      \
                                   float bound, uint32_t *slots, float *values);
PERI_PACKED_DECLARE(avx2)
PERI_PACKED_DECLARE(avx512)
#undef PERI_PACKED_DECLARE

#endif
