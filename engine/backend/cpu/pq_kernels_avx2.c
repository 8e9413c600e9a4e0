/* pq_kernels_avx2.c: a register holds a byte of each of the 32 entries of a group; a table of 16
 * numbers lies in both of its halves. Sums of bytes are widened without unpacking: one register
 * adds up all 16-bit words, which mixes each odd byte into the high half of its even neighbour,
 * another one adds the odd bytes alone; the difference at the end leaves the even ones. */
#include <immintrin.h>

#include "backend/cpu/pq_scan_body.h"

static inline __m256i table_at(const uint8_t *table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
}

static inline uint32_t mask_of(__m256i words, __m256i odd, uint16_t limit) {
    __m256i even = _mm256_sub_epi16(words, _mm256_slli_epi16(odd, 8));
    __m256i most = _mm256_set1_epi16((short)limit), zero = _mm256_setzero_si256();
    __m256i even_in = _mm256_cmpeq_epi16(_mm256_subs_epu16(even, most), zero);
    __m256i odd_in = _mm256_cmpeq_epi16(_mm256_subs_epu16(odd, most), zero);
    __m256i both = _mm256_blendv_epi8(even_in, odd_in, _mm256_set1_epi16((short)0xFF00));
    return (uint32_t)_mm256_movemask_epi8(both);
}

static inline __attribute__((always_inline)) void fast_masks(const uint8_t *codes, size_t row_bytes,
                                                             const uint8_t *const *tables,
                                                             size_t queries, const uint32_t *limits,
                                                             uint32_t *masks) {
    __m256i words[PERI_PQ_FAST_QUERIES], odd[PERI_PQ_FAST_QUERIES];
    __m256i nibble = _mm256_set1_epi8(15);
    for (size_t q = 0; q < queries; q++) words[q] = odd[q] = _mm256_setzero_si256();
    for (size_t b = 0; b < row_bytes; b++) {
        __m256i byte = _mm256_loadu_si256((const __m256i *)(const void *)(codes + 32 * b));
        __m256i low = _mm256_and_si256(byte, nibble);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(byte, 4), nibble);
        for (size_t q = 0; q < queries; q++) {
            const uint8_t *table = tables[q] + 32 * b;
            __m256i sum = _mm256_add_epi8(_mm256_shuffle_epi8(table_at(table), low),
                                          _mm256_shuffle_epi8(table_at(table + 16), high));
            words[q] = _mm256_add_epi16(words[q], sum);
            odd[q] = _mm256_add_epi16(odd[q], _mm256_srli_epi16(sum, 8));
        }
    }
    for (size_t q = 0; q < queries; q++)
        masks[q * PERI_PQ_FAST_GROUPS] = mask_of(words[q], odd[q], short_limit(limits[q]));
}

static void avx2_masks(const uint8_t *codes, size_t row_bytes, size_t groups,
                       const uint8_t *const *tables, size_t queries, const uint32_t *limits,
                       uint32_t *masks) {
    for (size_t g = 0; g < groups; g++, codes += row_bytes * PERI_CODES_GROUP, masks++) {
        switch (queries) { /* so that the sums of each query stay in registers */
        case 4: fast_masks(codes, row_bytes, tables, 4, limits, masks); break;
        case 3: fast_masks(codes, row_bytes, tables, 3, limits, masks); break;
        case 2: fast_masks(codes, row_bytes, tables, 2, limits, masks); break;
        default: fast_masks(codes, row_bytes, tables, 1, limits, masks); break;
        }
    }
}

static void avx2_sums(const peri_pq_shape *shape, const float *T, const uint8_t *codes,
                      float *sums) {
    uint8_t piece[PERI_CODES_GROUP];
    __m256 sum[4];
    for (size_t i = 0; i < 4; i++) sum[i] = _mm256_setzero_ps();
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words) {
        take_codes(shape, codes, j, piece);
        for (size_t i = 0; i < 4; i++) {
            __m128i eight = _mm_loadl_epi64((const __m128i *)(const void *)(piece + 8 * i));
            __m256i at = _mm256_cvtepu8_epi32(eight);
            sum[i] = _mm256_add_ps(sum[i], _mm256_i32gather_ps(T, at, 4));
        }
    }
    for (size_t i = 0; i < 4; i++) _mm256_storeu_ps(sums + 8 * i, sum[i]);
}

static float avx2_tables(const peri_pq_shape *shape, const float *x, const float *centroid,
                         float *scratch, const float *words, float *T) {
    return plain_tables(shape, x, centroid, scratch, words, T);
}

const peri_pq_kernels peri_pq_kernels_avx2 = { .most = PERI_PQ_FAST_MOST,
                                               .tables = avx2_tables,
                                               .sums = avx2_sums,
                                               .spans = plain_spans,
                                               .shrink = plain_shrink,
                                               .masks = avx2_masks };
