/* pq_kernels_avx512vbmi.c: the fast scan where bytes can be permuted over a whole register.
 *
 * A register holds four bytes of each of 16 entries, side by side: eight pieces. One permutation
 * looks up four of them in the 64 bytes of their four tables: the code's place within them is
 * the entry's 4 bits and, above them, which byte it is. One dot product with ones adds the four to
 * a sum of 32 bits, so that a number of a table may have all 8 bits. Of 256 look-ups for a query
 * that is 8 instructions, where shuffles of 16 bytes and sums of 16 bits take 18. */
#include "backend/cpu/pq_kernels_avx512.h"
#include "backend/cpu/pq_wide.h"

/* Four bytes of each of 16 entries, from two registers of two bytes of 32 entries each. */
#define FOUR(e) (e), (e) + 32, (e) + 64, (e) + 96
#define SIXTEEN(e)                                                                                 \
    FOUR(e), FOUR(e + 1), FOUR(e + 2), FOUR(e + 3), FOUR(e + 4), FOUR(e + 5), FOUR(e + 6),         \
        FOUR(e + 7), FOUR(e + 8), FOUR(e + 9), FOUR(e + 10), FOUR(e + 11), FOUR(e + 12),           \
        FOUR(e + 13), FOUR(e + 14), FOUR(e + 15)
static const uint8_t head_bytes[64] = { SIXTEEN(0) }, tail_bytes[64] = { SIXTEEN(16) };

/* The bytes of what row_bytes has of b and b + 1. */
static inline __m512i two_bytes(const uint8_t *codes, size_t b, size_t row_bytes) {
    if (b + 1 < row_bytes) return _mm512_loadu_si512(codes + b * PERI_CODES_GROUP);
    if (b >= row_bytes) return _mm512_setzero_si512();
    return _mm512_zextsi256_si512(
        _mm256_loadu_si256((const __m256i *)(const void *)(codes + b * PERI_CODES_GROUP)));
}

typedef struct places {
    __m512i head, tail; /* how four bytes of entries 0..15 and 16..31 are brought together */
    __m512i nibble, at; /* at: the table of a byte */
} places;

/* (x & nibble) | at */
static inline __m512i place_of(const places *p, __m512i x) {
    return _mm512_ternarylogic_epi32(x, p->nibble, p->at, 0xEA);
}

static inline __attribute__((always_inline)) void
fast_masks(const places *p, const uint8_t *codes, size_t row_bytes, const uint8_t *const *tables,
           size_t queries, const uint32_t *limits, uint32_t *masks) {
    __m512i head[PERI_PQ_FAST_QUERIES], tail[PERI_PQ_FAST_QUERIES], one = _mm512_set1_epi8(1);
    for (size_t q = 0; q < queries; q++) head[q] = tail[q] = _mm512_setzero_si512();
    for (size_t b = 0; b < row_bytes; b += 4) {
        __m512i first = two_bytes(codes, b, row_bytes), second = two_bytes(codes, b + 2, row_bytes);
        __m512i x = _mm512_permutex2var_epi8(first, p->head, second);
        __m512i y = _mm512_permutex2var_epi8(first, p->tail, second);
        __m512i x_low = place_of(p, x), x_high = place_of(p, _mm512_srli_epi16(x, 4));
        __m512i y_low = place_of(p, y), y_high = place_of(p, _mm512_srli_epi16(y, 4));
        for (size_t q = 0; q < queries; q++) {
            __m512i low = _mm512_loadu_si512(tables[q] + 32 * b);
            __m512i high = _mm512_loadu_si512(tables[q] + 32 * b + 64);
            head[q] = _mm512_dpbusd_epi32(head[q], _mm512_permutexvar_epi8(x_low, low), one);
            tail[q] = _mm512_dpbusd_epi32(tail[q], _mm512_permutexvar_epi8(y_low, low), one);
            head[q] = _mm512_dpbusd_epi32(head[q], _mm512_permutexvar_epi8(x_high, high), one);
            tail[q] = _mm512_dpbusd_epi32(tail[q], _mm512_permutexvar_epi8(y_high, high), one);
        }
    }
    for (size_t q = 0; q < queries; q++) {
        __m512i most = _mm512_set1_epi32((int)limits[q]);
        uint32_t low = _mm512_cmple_epu32_mask(head[q], most);
        uint32_t high = _mm512_cmple_epu32_mask(tail[q], most);
        masks[q * PERI_PQ_FAST_GROUPS] = low | high << 16;
    }
}

static void vbmi_masks(const uint8_t *codes, size_t row_bytes, size_t groups,
                       const uint8_t *const *tables, size_t queries, const uint32_t *limits,
                       uint32_t *masks) {
    places p = { _mm512_loadu_si512(head_bytes), _mm512_loadu_si512(tail_bytes),
                 _mm512_set1_epi8(15), _mm512_set1_epi32(0x30201000) };
    for (size_t g = 0; g < groups; g++, codes += row_bytes * PERI_CODES_GROUP, masks++) {
        switch (queries) { /* so that the sums of each query stay in registers */
        case 4: fast_masks(&p, codes, row_bytes, tables, 4, limits, masks); break;
        case 3: fast_masks(&p, codes, row_bytes, tables, 3, limits, masks); break;
        case 2: fast_masks(&p, codes, row_bytes, tables, 2, limits, masks); break;
        default: fast_masks(&p, codes, row_bytes, tables, 1, limits, masks); break;
        }
    }
}

/* Of eight pieces, the low halves of four bytes, then the high ones. */
static void vbmi_shrink(const float *T, size_t pq_dim, bool squared, const float *lows, float scale,
                        uint8_t *out) {
    peri_pq_shrinking s = shrinking_of(T, lows, squared, scale);
    for (size_t j = 0; j < pq_dim; j += 8, out += PERI_PQ_FAST_TABLE) {
        _mm512_storeu_si512(out, shrink_four(&s, j, 2, pq_dim));
        _mm512_storeu_si512(out + 64, shrink_four(&s, j + 1, 2, pq_dim));
    }
}

const peri_pq_kernels peri_pq_kernels_avx512vbmi = { .most = 255,
                                                     .tables = avx512_tables,
                                                     .sums = avx512_sums,
                                                     .picked = avx512_picked,
                                                     .spans = avx512_spans,
                                                     .shrink = vbmi_shrink,
                                                     .masks = vbmi_masks,
                                                     .wide = &peri_pq_wide_avx512vbmi };
