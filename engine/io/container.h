/* container.h: the file of an index: a versioned header, named sections, a checksum for each.
 *
 * Layout (little-endian): a 64-byte head (magic, version, header bytes, file bytes, crc32c of the
 * header), the header (kind, parameters, a table of sections: name, dtype, rows, cols, offset, crc32c),
 * then the sections, each at a multiple of 4096 so that a mapped one can be used where it lies. A count is
 * stored once; every byte is covered by a checksum that covers its own length; padding must be zero. */
#ifndef PERI_IO_CONTAINER_H
#define PERI_IO_CONTAINER_H

#include "core/matrix.h"

#define PERI_SECTION_NAME_MAX 32

typedef struct peri_section {
    char name[PERI_SECTION_NAME_MAX]; /* "rows", "graph", "lengths", "ids", … */
    peri_matrix *matrix;              /* any place; read back in slices when it is not the host's */
} peri_section;

/* Writes beside, syncs file and folder, renames. */
peri_status peri_container_save(peri_context *context, const char *path, const char *kind,
                                const peri_options *params, const peri_section *sections,
                                size_t count, const peri_control *control);

typedef struct peri_container peri_container;

/* Reads and checks everything but the contents of mapped sections' meaning: sizes against the file's
 * length before any allocation, all checksums. With `map` the sections stay in the mapped file. */
peri_status peri_container_open(peri_context *context, const char *path, bool map,
                                const peri_control *control, peri_container **out);
void peri_container_close(peri_container *container);

const char *peri_container_kind(const peri_container *container);
/* The parameters; text values live as long as the container. */
peri_options peri_container_params(const peri_container *container);
/* A section as a host matrix, retained for the caller; NULL with PERI_OK when there is none. */
peri_status peri_container_section(peri_container *container, const char *name, peri_matrix **out);

#endif
