/* container_layout.h: numbers of the container's layout, shared by saving and opening (container.h
 * has the layout itself). */
#ifndef PERI_IO_CONTAINER_LAYOUT_H
#define PERI_IO_CONTAINER_LAYOUT_H

#include "core/checked.h"
#include "io/container.h"

#define PERI_CONTAINER_MAGIC "PERIGEE\x1A"
#define PERI_CONTAINER_VERSION 1u
#define PERI_CONTAINER_ALIGN ((size_t)4096)
#define PERI_CONTAINER_HEADER_MAX ((size_t)1 << 20)
#define PERI_CONTAINER_ENTRIES_MAX 1024u /* parameters, and sections */

typedef struct peri_container_head {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint64_t file_bytes;
    uint32_t crc;
    uint8_t zeros[36];
} peri_container_head;

_Static_assert(sizeof(peri_container_head) == 64, "the head is 64 bytes on disk, without gaps");

/* What `crc` covers of the head. */
#define PERI_CONTAINER_HEAD_COVERED offsetof(peri_container_head, crc)

/* Kinds, keys and section names: 1..31 printable bytes without blanks. */
static inline bool peri_container_name_valid(const char *name) {
    size_t length = 0;
    for (; name[length] != '\0'; length++)
        if (length + 1 == PERI_SECTION_NAME_MAX || name[length] <= ' ' || name[length] > '~')
            return false;
    return length > 0;
}

#endif
