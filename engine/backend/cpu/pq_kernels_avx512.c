/* pq_kernels_avx512.c: as with AVX2 (pq_kernels_avx2.c), where a register holds two bytes of each
 * of the 32 entries of a group, and its four quarters the tables of two pieces, twice. */
#include <immintrin.h>

#include "backend/cpu/pq_scan_body.h"

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

static inline __attribute__((always_inline)) void
fast_masks(const uint8_t *codes, size_t row_bytes, const uint8_t *tables, size_t table_bytes,
           size_t queries, const uint16_t *limits, uint32_t *masks) {
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
            const uint8_t *table = tables + q * table_bytes + 32 * b;
            __m512i sum = _mm512_add_epi8(_mm512_shuffle_epi8(tables_at(table), low),
                                          _mm512_shuffle_epi8(tables_at(table + 16), high));
            words[q] = _mm512_add_epi16(words[q], sum);
            odd[q] = _mm512_add_epi16(odd[q], _mm512_srli_epi16(sum, 8));
        }
    }
    for (size_t q = 0; q < queries; q++) masks[q] = mask_of(words[q], odd[q], limits[q]);
}

static void avx512_masks(const uint8_t *codes, size_t row_bytes, const uint8_t *tables,
                         size_t table_bytes, size_t queries, const uint16_t *limits,
                         uint32_t *masks) {
    switch (queries) { /* so that the sums of each query stay in registers */
    case 4: fast_masks(codes, row_bytes, tables, table_bytes, 4, limits, masks); break;
    case 3: fast_masks(codes, row_bytes, tables, table_bytes, 3, limits, masks); break;
    case 2: fast_masks(codes, row_bytes, tables, table_bytes, 2, limits, masks); break;
    default: fast_masks(codes, row_bytes, tables, table_bytes, 1, limits, masks); break;
    }
}

/* 16 words are one register. */
static inline __m512 piece_table(const peri_pq_shape *shape, const float *t, const float *words) {
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < shape->pq_len; i++, words += PERI_PQ_FAST_WORDS) {
        __m512 x = _mm512_set1_ps(t[i]), w = _mm512_loadu_ps(words), u = _mm512_sub_ps(x, w);
        sum = shape->squared ? _mm512_fmadd_ps(u, u, sum) : _mm512_fmadd_ps(x, w, sum);
    }
    return sum;
}

static void avx512_tables(const peri_pq_shape *shape, const float *x, const float *centroid,
                          float *scratch, const float *words, float *T) {
    if (shape->words != PERI_PQ_FAST_WORDS) {
        plain_tables(shape, x, centroid, scratch, words, T);
        return;
    }
    const float *t = less_centroid(shape, x, centroid, scratch);
    size_t step = shape->one_book ? 0 : (size_t)shape->pq_len * PERI_PQ_FAST_WORDS;
    for (size_t j = 0; j < shape->pq_dim; j++)
        _mm512_storeu_ps(T + j * PERI_PQ_FAST_WORDS,
                         piece_table(shape, t + j * shape->pq_len, words + j * step));
}

static void avx512_spans(const float *T, size_t pq_dim, bool squared, float *lows,
                         peri_pq_span *span) {
    __m512 most = _mm512_setzero_ps();
    if (!squared) {
        plain_spans(T, pq_dim, squared, lows, span);
        return;
    }
    for (size_t j = 0; j < pq_dim; j++)
        most = _mm512_max_ps(most, _mm512_loadu_ps(T + j * PERI_PQ_FAST_WORDS));
    memset(lows, 0, pq_dim * sizeof *lows);
    span->widest = _mm512_reduce_max_ps(most);
    span->low_sum = 0;
    span->largest = (double)pq_dim * span->widest;
}

static void avx512_shrink(const float *T, size_t pq_dim, bool squared, const float *lows,
                          float scale, uint8_t *out) {
    __m512 factor = _mm512_set1_ps(squared ? scale : -scale), times = _mm512_set1_ps(scale);
    for (size_t j = 0; j < pq_dim; j++, T += PERI_PQ_FAST_WORDS, out += PERI_PQ_FAST_WORDS) {
        __m512 low = _mm512_mul_ps(_mm512_set1_ps(lows[j]), times);
        __m512 value = _mm512_fmsub_ps(_mm512_loadu_ps(T), factor, low);
        __m512i whole = _mm512_max_epi32(_mm512_cvttps_epi32(value), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(whole));
    }
}

static void avx512_sums(const peri_pq_shape *shape, const float *T, const uint8_t *codes,
                        float *sums) {
    uint8_t piece[PERI_CODES_GROUP];
    __m512 first = _mm512_setzero_ps(), second = first;
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words) {
        const uint8_t *at = codes + j * PERI_CODES_GROUP;
        if (shape->pq_bits != 8) {
            take_codes(shape, codes, j, piece);
            at = piece;
        }
        __m512i a = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));
        __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(at + 16)));
        first = _mm512_add_ps(first, _mm512_i32gather_ps(a, T, 4));
        second = _mm512_add_ps(second, _mm512_i32gather_ps(b, T, 4));
    }
    _mm512_storeu_ps(sums, first);
    _mm512_storeu_ps(sums + 16, second);
}

const peri_pq_kernels peri_pq_kernels_avx512 = { avx512_tables, avx512_sums, avx512_spans,
                                                 avx512_shrink, avx512_masks };
