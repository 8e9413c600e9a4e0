/* file_map.h: a regular file to read from, at offsets or mapped.
 *
 * Reading copies, so a file that changes meanwhile gives wrong bytes at worst, never a crash. A
 * mapped file is trusted to keep its length: if another process cuts it, touching the lost part
 * kills this one (SIGBUS). Mapped pages are private: a write to them stays in this process.
 * Threads: any. */
#ifndef PERI_IO_FILE_MAP_H
#define PERI_IO_FILE_MAP_H

#include <string.h>

#include "core/status.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "every file format here is little-endian and is read and written without swapping"
#endif

typedef struct peri_file {
    const char *path; /* the caller's, for messages */
    int fd;           /* -1: closed */
    size_t bytes;
} peri_file;

#define PERI_FILE_CLOSED ((peri_file){ NULL, -1, 0 })

/* Opens a regular file that holds at least one byte. PERI_E_IO for anything else: a directory, a
 * FIFO, a device, an empty or absent file. Never blocks. */
peri_status peri_file_open(const char *path, peri_file *out);
void peri_file_close(peri_file *file);

/* All of `bytes` at `offset`. PERI_E_IO when they are not there. */
peri_status peri_file_read(const peri_file *file, size_t offset, void *data, size_t bytes);

typedef struct peri_file_map peri_file_map;

/* The whole file; one reference, which outlives the peri_file. */
peri_status peri_file_map_open(peri_context *context, const peri_file *file, peri_file_map **out);
void *peri_file_map_data(const peri_file_map *map);
void peri_file_map_retain(peri_file_map *map);
/* Takes a peri_file_map; NULL is allowed. The type is that of a matrix's anchor. */
void peri_file_map_release(void *map);

/* The end of a path, short enough for a message: the name is there, not the folders. */
static inline const char *peri_path_tail(const char *path) {
    size_t length = strlen(path);
    return length > 200 ? path + length - 200 : path;
}

#endif
