/* crc32c.h: the Castagnoli checksum, CRC-32C (RFC 3720, appendix B.4). */
#ifndef PERI_IO_CRC32C_H
#define PERI_IO_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Extends `crc` (0 to begin) over more bytes, with the CPU's instruction where there is one. */
uint32_t peri_crc32c(uint32_t crc, const void *data, size_t bytes);

/* The same by tables; what CPUs without the instruction run, and what a test compares it with. */
uint32_t peri_crc32c_table(uint32_t crc, const void *data, size_t bytes);

#endif
