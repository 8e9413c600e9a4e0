/* pq_nearest.h: the nearest codeword of each of many pieces, one kernel an instruction set.
 *
 * The book is transposed, [len, codes]: a register holds one column of neighbouring codewords, so
 * each sum runs in its own lane in the order of the definition and nothing is folded. `codes` is
 * a power of two; books of fewer codewords than a register holds take the plain kernel. */
#ifndef PERI_BACKEND_CPU_PQ_NEAREST_H
#define PERI_BACKEND_CPU_PQ_NEAREST_H

#include <stddef.h>
#include <stdint.h>

/* out[i] = code of the piece at x + i * stride (in floats), i = 0..count-1. */
typedef void (*peri_pq_nearest_fn)(const float *x, size_t stride, size_t count, const float *book,
                                   uint32_t codes, uint32_t len, uint8_t *out);

void peri_pq_nearest_scalar(const float *x, size_t stride, size_t count, const float *book,
                            uint32_t codes, uint32_t len, uint8_t *out);
void peri_pq_nearest_avx2(const float *x, size_t stride, size_t count, const float *book,
                          uint32_t codes, uint32_t len, uint8_t *out); /* codes >= 8 */
void peri_pq_nearest_avx512(const float *x, size_t stride, size_t count, const float *book,
                            uint32_t codes, uint32_t len, uint8_t *out); /* codes >= 16 */
void peri_pq_nearest_neon(const float *x, size_t stride, size_t count, const float *book,
                          uint32_t codes, uint32_t len, uint8_t *out); /* codes >= 4 */

#endif
