/* pq_kernels_avx512.c: as with AVX2 (pq_kernels_avx2.c), where a register holds two bytes of each
 * of the 32 entries of a group, and its four quarters the tables of two pieces, twice. */
#include <immintrin.h>

#include "backend/cpu/pq_kernels_avx512.h"

/* Tables of pieces j and j + 2, as they stand 32 bytes apart: each in two quarters. */
static inline __m512i tables_at(const uint8_t *table) {
    __m128i first = _mm_loadu_si128((const __m128i *)(const void *)table);
    __m128i second = _mm_loadu_si128((const __m128i *)(const void *)(table + 32));
    return _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(first), 0xFF00, second);
}

static inline uint32_t mask_of(__m512i words, __m512i odd, uint16_t limit) {
    __m256i w = _mm256_add_epi16(_mm512_castsi512_si256(words),
                                 _mm512_extracti64x4_epi64(words, 1));
    __m256i o = _mm256_add_epi16(_mm512_castsi512_si256(odd), _mm512_extracti64x4_epi64(odd, 1));
    __m256i e = _mm256_sub_epi16(w, _mm256_slli_epi16(o, 8)),
            most = _mm256_set1_epi16((short)limit);
    __m256i in = _mm256_mask_blend_epi8(0xAAAAAAAA,
                                        _mm256_movm_epi16(_mm256_cmple_epu16_mask(e, most)),
                                        _mm256_movm_epi16(_mm256_cmple_epu16_mask(o, most)));
    return _mm256_movepi8_mask(in);
}

static inline __attribute__((always_inline)) void fast_masks(const uint8_t *codes, size_t row_bytes,
                                                             const uint8_t *const *tables,
                                                             size_t queries, const uint32_t *limits,
                                                             uint32_t *masks) {
    __m512i words[PERI_PQ_FAST_QUERIES], odd[PERI_PQ_FAST_QUERIES];
    __m512i nibble = _mm512_set1_epi8(15);
    for (size_t q = 0; q < queries; q++) words[q] = odd[q] = _mm512_setzero_si512();
    for (size_t b = 0; b < row_bytes; b += 2) {
        /* the half of the last byte that is none has tables of zeros, and is not read */
        __mmask8 there = b + 1 < row_bytes ? 0xFF : 0x0F;
        __m512i byte = _mm512_maskz_loadu_epi64(there, codes + 32 * b);
        __m512i low = _mm512_and_si512(byte, nibble);
        __m512i high = _mm512_and_si512(_mm512_srli_epi16(byte, 4), nibble);
        for (size_t q = 0; q < queries; q++) {
            const uint8_t *table = tables[q] + 32 * b;
            __m512i sum = _mm512_add_epi8(_mm512_shuffle_epi8(tables_at(table), low),
                                          _mm512_shuffle_epi8(tables_at(table + 16), high));
            words[q] = _mm512_add_epi16(words[q], sum);
            odd[q] = _mm512_add_epi16(odd[q], _mm512_srli_epi16(sum, 8));
        }
    }
    for (size_t q = 0; q < queries; q++)
        masks[q * PERI_PQ_FAST_GROUPS] = mask_of(words[q], odd[q], short_limit(limits[q]));
}

static void avx512_masks(const uint8_t *codes, size_t row_bytes, size_t groups,
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

/* Tables of four pieces, `pieces` of them there, 16 bytes each, one after the other. */
static void avx512_shrink(const float *T, size_t pq_dim, bool squared, const float *lows,
                          float scale, uint8_t *out) {
    peri_pq_shrinking s = shrinking_of(T, lows, squared, scale);
    __m512i most = _mm512_set1_epi8(PERI_PQ_FAST_MOST);
    for (size_t j = 0; j < pq_dim; j += 4) {
        __m512i small = _mm512_min_epu8(shrink_four(&s, j, 1, pq_dim), most);
        _mm512_storeu_si512(out + j * PERI_PQ_FAST_WORDS, small);
    }
}

const peri_pq_kernels peri_pq_kernels_avx512 = { .most = PERI_PQ_FAST_MOST,
                                                 .tables = avx512_tables,
                                                 .sums = avx512_sums,
                                                 .picked = avx512_picked,
                                                 .spans = avx512_spans,
                                                 .shrink = avx512_shrink,
                                                 .masks = avx512_masks };
