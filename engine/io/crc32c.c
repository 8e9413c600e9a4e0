/* crc32c.c: CRC-32C by SSE4.2, else by eight tables, eight bytes a step.
 *
 * Table k holds the CRC of each byte followed by k zero bytes, so the CRC of eight bytes is the
 * exclusive or of eight look-ups (Kounavis, Berry: A systematic approach to building high
 * performance software-based CRC generators, 2005). Which way is taken is decided once a
 * process. */
#include "io/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#define POLYNOMIAL 0x82F63B78u /* 0x1EDC6F41 with its bits reversed */

static pthread_once_t prepare_once = PTHREAD_ONCE_INIT;
static uint32_t tables[8][256];
#if defined(__x86_64__)
static bool has_instruction;
#endif

static void prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        tables[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = tables[k - 1][byte];
            tables[k][byte] = crc >> 8 ^ tables[0][crc & 255];
        }
    }
#if defined(__x86_64__)
    has_instruction = __builtin_cpu_supports("sse4.2") != 0;
#endif
}

uint32_t peri_crc32c_table(uint32_t crc, const void *data, size_t bytes) {
    const unsigned char *p = data;
    pthread_once(&prepare_once, prepare);
    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, sizeof word);
        word ^= crc; /* little-endian: the first byte of the data is the lowest of the word */
        crc = 0;
        for (int k = 0; k < 8; k++) crc ^= tables[7 - k][word >> (8 * k) & 255];
    }
    for (; bytes > 0; bytes--, p++) crc = crc >> 8 ^ tables[0][(crc ^ *p) & 255];
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const void *data,
                                                                 size_t bytes) {
    const unsigned char *p = data;
    uint64_t wide = ~crc;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, sizeof word);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; bytes > 0; bytes--, p++) crc = _mm_crc32_u8(crc, *p);
    return ~crc;
}
#endif

uint32_t peri_crc32c(uint32_t crc, const void *data, size_t bytes) {
    pthread_once(&prepare_once, prepare);
#if defined(__x86_64__)
    if (has_instruction) return by_instruction(crc, data, bytes);
#endif
    return peri_crc32c_table(crc, data, bytes);
}
