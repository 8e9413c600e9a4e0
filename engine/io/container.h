/* container.h: the file of an index: a versioned header, named sections, a checksum for each.
 *
 * Layout (little-endian), version 1
 *     0  magic "PERIGEE\x1A"
 *     8  u32 version, u32 bytes of the header, u64 bytes of the file
 *    24  u32 crc32c of bytes 0..23 and of the header, so that it covers its own length
 *    28  zeros up to 64
 *    64  the header
 *          text kind
 *          u32 count of parameters: text key, u8 type, value (i64, f64, u8 flag or text)
 *          u32 count of sections: text name, u32 dtype, u64 rows, u64 cols, u64 offset, u32 crc32c
 *        a text is u32 bytes, the bytes, and a zero byte that is not counted
 * then the sections, packed rows, each at the next multiple of 4096, so that a mapped one can be
 * used where it lies; zeros between. The file ends with its last section. The offsets follow from
 * the sizes and must agree with them: a count is stored once. Every byte is covered by a checksum
 * or must be zero. */
#ifndef PERI_IO_CONTAINER_H
#define PERI_IO_CONTAINER_H

#include "core/matrix.h"

#define PERI_SECTION_NAME_MAX 32

typedef struct peri_section {
    char name[PERI_SECTION_NAME_MAX]; /* "rows", "graph", "lengths", "ids", … */
    peri_matrix *matrix;              /* any place; read back in slices when it is not the host's */
} peri_section;

/* Writes beside, syncs file and folder, renames. Names and keys are printable, without blanks,
 * below PERI_SECTION_NAME_MAX bytes, and appear once. */
peri_status peri_container_save(peri_context *context, const char *path, const char *kind,
                                const peri_options *params, const peri_section *sections,
                                size_t count, const peri_control *control);

typedef struct peri_container peri_container;

/* Reads everything and checks all but what the sections mean: sizes against the file's length
 * before any allocation, all checksums. With `map` the sections stay in the mapped file; their
 * checksums are still verified, once, here. PERI_E_IO, PERI_E_CORRUPT, PERI_E_UNSUPPORTED (a newer
 * version). */
peri_status peri_container_open(peri_context *context, const char *path, bool map,
                                const peri_control *control, peri_container **out);
void peri_container_close(peri_container *container);

const char *peri_container_kind(const peri_container *container);
/* The parameters; text values live as long as the container. */
peri_options peri_container_params(const peri_container *container);
/* A section as a host matrix, retained for the caller; NULL with PERI_OK when there is none. */
peri_status peri_container_section(peri_container *container, const char *name, peri_matrix **out);

#endif
