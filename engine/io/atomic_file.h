/* atomic_file.h: a file that appears whole or not at all: written beside its name, synced,
 * renamed. */
#ifndef PERI_IO_ATOMIC_FILE_H
#define PERI_IO_ATOMIC_FILE_H

#include "core/status.h"

typedef struct peri_atomic_file peri_atomic_file;

/* Takes the place of a regular file, whose permissions it keeps, or of nothing; follows a symbolic
 * link. PERI_E_IO when the path names something else or the folder can't be written. */
peri_status peri_atomic_file_open(peri_context *context, const char *path, peri_atomic_file **out);
/* Appends; buffered. After a failure every later call fails too: an unknown part has been
 * written. */
peri_status peri_atomic_file_write(peri_atomic_file *file, const void *data, size_t bytes);
/* Overwrites bytes that were appended before: a header whose checksums are known at the end. */
peri_status peri_atomic_file_patch(peri_atomic_file *file, size_t offset, const void *data,
                                   size_t bytes);
/* Bytes written so far. */
size_t peri_atomic_file_offset(const peri_atomic_file *file);
/* Syncs, renames, syncs the folder; frees in every case. On failure the old file is as it was,
 * except when only the last step failed: the new file is in place then, whole, and the message says
 * so. */
peri_status peri_atomic_file_commit(peri_atomic_file *file);
/* Drops what was written; NULL is allowed. */
void peri_atomic_file_discard(peri_atomic_file *file);

#endif
