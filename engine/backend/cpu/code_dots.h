/* code_dots.h: sums of products of codes and a query's bytes, one set of kernels an instruction
 * set. Whole numbers: all of them give the same. */
#ifndef PERI_BACKEND_CPU_CODE_DOTS_H
#define PERI_BACKEND_CPU_CODE_DOTS_H

#include <stddef.h>
#include <stdint.h>

#define PERI_CODE_CHUNK 64u  /* entries at a time */
#define PERI_CODE_STRIDE 64u /* values and unpacked codes are padded to a multiple of it */

/* The bytes of a query: `bytes` rows of `stride`, zeros from `cols` on. */
typedef struct peri_code_values {
    const int8_t *data;
    size_t bytes, stride, cols;
} peri_code_values;

/* dots[b * PERI_CODE_CHUNK + i] = sum over j < cols of codes[i * stride + j] * v_b[j], for i below
 * count <= PERI_CODE_CHUNK. Nothing past a row's cols is read but inside of another row. */
typedef void (*peri_code_dots_fn)(const uint8_t *codes, size_t stride, size_t count,
                                  const peri_code_values *values, int32_t *dots);

/* A packed row to a byte a code; there is room for a multiple of PERI_CODE_STRIDE codes. */
typedef void (*peri_code_unpack_fn)(const uint8_t *row, size_t cols, uint32_t bits, uint8_t *codes);

/* The same for a whole chunk whose codes are transposed: lanes[g * PERI_CODE_CHUNK + i] is codes 4g
 * .. 4g + 3 of entry i, for g below stride / 4; nothing is folded, which pays once some queries
 * share the transposing. */
typedef void (*peri_code_lanes_fn)(const uint32_t *lanes, const peri_code_values *values,
                                   int32_t *dots);

typedef struct peri_code_kernels {
    peri_code_dots_fn dots;
    peri_code_lanes_fn lanes; /* NULL: it has none */
    peri_code_unpack_fn unpack;
} peri_code_kernels;

/* Those of the best instruction set. code_dots.c */
peri_code_kernels peri_code_kernels_chosen(void);

void peri_code_dots_avx2(const uint8_t *codes, size_t stride, size_t count,
                         const peri_code_values *values, int32_t *dots);
void peri_code_unpack_avx2(const uint8_t *row, size_t cols, uint32_t bits, uint8_t *codes);
void peri_code_dots_avx512(const uint8_t *codes, size_t stride, size_t count,
                           const peri_code_values *values, int32_t *dots);
void peri_code_lanes_avx512(const uint32_t *lanes, const peri_code_values *values, int32_t *dots);
void peri_code_unpack_avx512(const uint8_t *row, size_t cols, uint32_t bits, uint8_t *codes);

#endif
