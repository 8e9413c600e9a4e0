/* hnswlib_file.h: hnswlib's index format, as arrays that know no index kind.
 *
 * Layout (little-endian): a head of 96 bytes; for each element a u32 link header (low 16 bits:
 * links; bit 16: deleted), max_m0 u32 links, the vector, a u64 label; then for each element a u32
 * length in bytes and, for each level from 1 up, a u32 count and max_m u32 links. The metric and
 * the dtype are not in the file.
 *
 * Reading trusts nothing: all counts are compared with each other and with the file's length, which
 * must fit to the byte, before memory is acquired; every link must name an element that has the
 * link's level. The values of vectors (NaN) and the uniqueness of labels are the caller's to
 * check. */
#ifndef PERI_IO_HNSWLIB_FILE_H
#define PERI_IO_HNSWLIB_FILE_H

#include "core/matrix.h"

#define PERI_HNSWLIB_M_MAX 10000u  /* hnswlib's own cap */
#define PERI_HNSWLIB_M0_MAX 65535u /* a count of links is 16 bits */
/* -ln(2^-64) / ln(2) = 64 is the most that a level can be drawn. */
#define PERI_HNSWLIB_LEVEL_MAX 255

typedef struct peri_hnswlib_graph {
    size_t count; /* elements */
    uint32_t dim;
    peri_dtype dtype;     /* f32 or u8 */
    size_t m;             /* what `mult` = 1 / ln(m) comes from, 2 and more */
    size_t max_m, max_m0; /* links on an upper level, equal to m; and on level 0 */
    size_t ef_construction;
    uint32_t level_max;  /* 0: no upper levels */
    uint32_t entry;      /* an element of level level_max; PERI_SLOT_NONE when there are none */
    peri_matrix *rows;   /* [count, dim] */
    peri_matrix *labels; /* [count, 1] i64, 0 and more; write: NULL = element numbers */
    peri_matrix *graph;  /* [count, max_m0] u32, PERI_SLOT_NONE ends a short row */
    peri_matrix *first;  /* [count, 1] u32, row of `links` of level 1 (level l: + l - 1), ascending;
                                PERI_SLOT_NONE: level 0 only. Write: NULL = no upper levels */
    peri_matrix *links;  /* [., max_m] u32; the rows of an element are one after the other */
    peri_matrix *deleted; /* [count, 1] u8, 1 = marked deleted; NULL: none is */
} peri_hnswlib_graph;

/* Fills `out` with matrices of its own. `dtype` says what the vectors are: f32 or u8. A file of
 * cuVS that has a level 1 without any links (its base layer alone) is read as one of level 0.
 * PERI_E_IO, PERI_E_CORRUPT, PERI_E_UNSUPPORTED (labels past 2^63 - 1), PERI_E_ARGUMENT (dtype). */
peri_status peri_hnswlib_read(peri_context *context, const char *path, peri_dtype dtype,
                              const peri_control *control, peri_hnswlib_graph *out);

/* Writes beside, syncs, renames. All matrices are on the host. PERI_E_ARGUMENT names what is wrong
 * with the graph: what would be refused when read is refused here. */
peri_status peri_hnswlib_write(peri_context *context, const char *path,
                               const peri_hnswlib_graph *graph, const peri_control *control);

/* Releases the matrices and clears the struct. */
void peri_hnswlib_graph_release(peri_hnswlib_graph *graph);

/* ---- shared by both ways ------------------------------------------------------------------ */

typedef struct peri_hnswlib_head {
    uint64_t offset_level0; /* 0 */
    uint64_t max_elements;
    uint64_t count;
    uint64_t element_bytes;
    uint64_t label_offset;
    uint64_t data_offset;
    int32_t level_max; /* -1 when there are no elements */
    uint32_t entry;
    uint64_t max_m;
    uint64_t max_m0;
    uint64_t m;
    double mult;
    uint64_t ef_construction;
} peri_hnswlib_head;

_Static_assert(sizeof(peri_hnswlib_head) == 96, "the head is 96 bytes on disk, without gaps");

/* Checks the graph's links, levels and entry; `blame` is the status of a failure and `name` begins
 * its message. `levels` [count] receives the level of each element. */
peri_status peri_hnswlib_check(const peri_hnswlib_graph *graph, peri_status blame, const char *name,
                               const peri_control *control, uint8_t *levels);

#endif
