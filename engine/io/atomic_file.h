/* atomic_file.h: a file that appears whole or not at all: written beside its name, synced, renamed. */
#ifndef PERI_IO_ATOMIC_FILE_H
#define PERI_IO_ATOMIC_FILE_H

#include "core/status.h"

typedef struct peri_atomic_file peri_atomic_file;

peri_status peri_atomic_file_open(peri_context *context, const char *path, peri_atomic_file **out);
/* Appends; buffered. */
peri_status peri_atomic_file_write(peri_atomic_file *file, const void *data, size_t bytes);
/* Bytes written so far. */
size_t peri_atomic_file_offset(const peri_atomic_file *file);
/* Syncs, renames, syncs the folder; frees in every case. On failure the old file is as it was. */
peri_status peri_atomic_file_commit(peri_atomic_file *file);
/* Drops what was written; NULL is allowed. */
void peri_atomic_file_discard(peri_atomic_file *file);

#endif
