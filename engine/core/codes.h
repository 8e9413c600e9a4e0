/* codes.h: small unsigned codes packed into bytes: how every quantizer writes a row.
 *
 * Code j of a row is bits [j * bits, (j + 1) * bits) of the row, least significant bit of byte 0
 * first: 8 bits are bytes, 4 bits two a byte (even j in the low nibble), 1 bit a bitset. This is
 * the layout of files; a scan may want another one and makes it itself. */
#ifndef PERI_CORE_CODES_H
#define PERI_CORE_CODES_H

#include <stddef.h>
#include <stdint.h>

#define PERI_CODE_BITS_MAX 8u

/* Bytes of a row of `count` codes; the spare bits of the last byte are 0. */
static inline size_t peri_codes_bytes(size_t count, uint32_t bits) {
    return (count * bits + 7) / 8;
}

static inline uint32_t peri_codes_get(const uint8_t *row, size_t j, uint32_t bits) {
    size_t at = j * bits;
    uint32_t shift = (uint32_t)(at % 8), word = (uint32_t)row[at / 8] >> shift;
    if (shift + bits > 8) word |= (uint32_t)row[at / 8 + 1] << (8 - shift);
    return word & ((1u << bits) - 1u);
}

/* Into a row whose bits of code j are 0. */
static inline void peri_codes_put(uint8_t *row, size_t j, uint32_t bits, uint32_t code) {
    size_t at = j * bits;
    uint32_t word = code << (at % 8);
    row[at / 8] = (uint8_t)(row[at / 8] | word);
    if (word > 0xFF) row[at / 8 + 1] = (uint8_t)(row[at / 8 + 1] | word >> 8);
}

/* All codes of a row: bytes in, packed out, and back. */
static inline void peri_codes_pack(const uint8_t *codes, size_t count, uint32_t bits,
                                   uint8_t *row) {
    uint32_t held = 0, word = 0;
    for (size_t j = 0; j < count; j++) {
        word |= (uint32_t)codes[j] << held;
        for (held += bits; held >= 8; held -= 8, word >>= 8) *row++ = (uint8_t)word;
    }
    if (held > 0) *row = (uint8_t)word;
}

static inline void peri_codes_unpack(const uint8_t *row, size_t count, uint32_t bits,
                                     uint8_t *codes) {
    for (size_t j = 0; j < count; j++) codes[j] = (uint8_t)peri_codes_get(row, j, bits);
}

#endif
