/* pq_wide_avx512vbmi.c: the fast scan of codes of 5 to 8 bits: a table of 256 bytes is four
 * registers, of which two permutations and a choice by the highest bit look up 64 codes of a piece:
 * of two groups at once. Where a list changes the table of floats, values come from the codewords
 * themselves: a table of 256 words serves a list of fewer entries badly. */
#include <immintrin.h>

#include "backend/cpu/pq_wide.h"
#include "core/codes.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS 4u  /* registers of 64 entries at once */
#define STEPS 4u /* registers of 16 words at once */
#define QUERIES PERI_PQ_FAST_QUERIES
#define PICKED_BYTES 32u

/* ---- codes -------------------------------------------------------------------------------- */

/* Where the codes of a piece are: in a byte, and the one behind it where they cross. */
typedef struct piece {
    size_t first, second; /* bytes of a row */
    __m128i down, up;     /* shifts of the two */
    uint8_t mask;
} piece;

INLINE piece piece_at(const peri_pq_shape *shape, size_t j) {
    size_t at = j * shape->pq_bits, shift = at % 8;
    bool crosses = shift + shape->pq_bits > 8;
    return (piece){ at / 8, at / 8 + crosses, _mm_cvtsi32_si128((int)shift),
                    _mm_cvtsi32_si128((int)(8 - shift)), (uint8_t)(shape->words - 1) };
}

INLINE __m512i codes_of(const piece *p, __m512i first, __m512i second) {
    __m512i low = _mm512_set1_epi16(0xFF), mask = _mm512_set1_epi8((char)p->mask);
    /* bytes one by one, in words of 16 bits: even, then odd */
    __m512i even = _mm512_or_si512(_mm512_and_si512(first, low),
                                   _mm512_slli_epi16(_mm512_and_si512(second, low), 8));
    __m512i odd = _mm512_or_si512(_mm512_srli_epi16(first, 8), _mm512_andnot_si512(low, second));
    even = _mm512_and_si512(_mm512_srl_epi16(even, p->down), low);
    odd = _mm512_and_si512(_mm512_srl_epi16(odd, p->down), low);
    return _mm512_and_si512(_mm512_or_si512(even, _mm512_slli_epi16(odd, 8)), mask);
}

/* Byte b of 64 entries: two groups, or one and zeros. */
INLINE __m512i bytes64(const uint8_t *codes, size_t group_bytes, bool both, size_t b) {
    const uint8_t *at = codes + b * PERI_CODES_GROUP;
    __m512i low = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)at));
    if (!both) return low;
    return _mm512_inserti64x4(
        low, _mm256_loadu_si256((const __m256i *)(const void *)(at + group_bytes)), 1);
}

INLINE __m512i codes64(const peri_pq_shape *shape, const uint8_t *codes, size_t group_bytes,
                       bool both, size_t j) {
    if (shape->pq_bits == 8) return bytes64(codes, group_bytes, both, j);
    piece p = piece_at(shape, j);
    return codes_of(&p, bytes64(codes, group_bytes, both, p.first),
                    bytes64(codes, group_bytes, both, p.second));
}

/* ---- look-ups ----------------------------------------------------------------------------- */

typedef struct sums16 {
    __m512i words, odd; /* as pq_kernels_avx2.c says */
} sums16;

INLINE void add_piece64(sums16 *s, const __m512i *table, __m512i codes) {
    __m512i low = _mm512_permutex2var_epi8(table[0], codes, table[1]);
    __m512i high = _mm512_permutex2var_epi8(table[2], codes, table[3]);
    __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
    s->words = _mm512_add_epi16(s->words, found);
    s->odd = _mm512_add_epi16(s->odd, _mm512_srli_epi16(found, 8));
}

INLINE uint64_t mask64(const sums16 *s, uint16_t limit) {
    __m512i even = _mm512_sub_epi16(s->words, _mm512_slli_epi16(s->odd, 8));
    __m512i most = _mm512_set1_epi16((short)limit);
    __m512i even_in = _mm512_movm_epi16(_mm512_cmple_epu16_mask(even, most));
    __m512i odd_in = _mm512_movm_epi16(_mm512_cmple_epu16_mask(s->odd, most));
    return _mm512_movepi8_mask(_mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAA, even_in, odd_in));
}

INLINE void rows_masks(const peri_pq_shape *shape, const uint8_t *codes, size_t rows, size_t groups,
                       const uint8_t *small, uint16_t limit, uint32_t *masks) {
    size_t bytes = shape->row_bytes * PERI_CODES_GROUP;
    sums16 sums[ROWS];
    for (size_t i = 0; i < rows; i++) sums[i].words = sums[i].odd = _mm512_setzero_si512();
    for (size_t j = 0; j < shape->pq_dim; j++, small += PERI_PQ_WIDE_TABLE) {
        __m512i table[4];
        for (size_t i = 0; i < 4; i++) table[i] = _mm512_loadu_si512(small + 64 * i);
        for (size_t i = 0; i < rows; i++)
            add_piece64(&sums[i], table,
                        codes64(shape, codes + 2 * i * bytes, bytes, 2 * i + 1 < groups, j));
    }
    for (size_t i = 0; i < rows; i++) {
        uint64_t mask = mask64(&sums[i], limit);
        masks[2 * i] = (uint32_t)mask;
        if (2 * i + 1 < groups) masks[2 * i + 1] = (uint32_t)(mask >> 32);
    }
}

static void wide_masks(const peri_pq_shape *shape, const uint8_t *codes, size_t groups,
                       const uint8_t *small, uint32_t most, uint32_t *masks) {
    uint16_t limit = (uint16_t)(most < UINT16_MAX ? most : UINT16_MAX);
    switch ((groups + 1) / 2) { /* so that the sums stay in registers */
    case 4: rows_masks(shape, codes, 4, groups, small, limit, masks); break;
    case 3: rows_masks(shape, codes, 3, groups, small, limit, masks); break;
    case 2: rows_masks(shape, codes, 2, groups, small, limit, masks); break;
    default: rows_masks(shape, codes, 1, groups, small, limit, masks); break;
    }
}

/* ---- small tables ------------------------------------------------------------------------- */

/* Four registers of whole numbers as bytes from 0 to `most`. */
INLINE __m512i pack_four(const __m512i *whole, __m512i most) {
    __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i packed = _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]),
                                         _mm512_packs_epi32(whole[2], whole[3]));
    return _mm512_min_epu8(_mm512_permutexvar_epi32(order, packed), most);
}

static void wide_shrink(const peri_pq_shape *shape, const float *T, const float *lows, float scale,
                        uint32_t most, uint8_t *small) {
    __m512 factor = _mm512_set1_ps(shape->squared ? scale : -scale);
    __m512i top = _mm512_set1_epi8((char)most), whole[STEPS];
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words, small += PERI_PQ_WIDE_TABLE) {
        __m512 low = _mm512_set1_ps(lows[j] * scale);
        for (size_t w = 0; w < shape->words; w += 16 * STEPS) {
            for (size_t s = 0; s < STEPS; s++) {
                whole[s] = _mm512_setzero_si512();
                if (w + 16 * s >= shape->words) continue;
                __m512 value = _mm512_fmsub_ps(_mm512_loadu_ps(T + w + 16 * s), factor, low);
                whole[s] = _mm512_cvttps_epi32(value);
            }
            _mm512_storeu_si512(small + w, pack_four(whole, top));
        }
    }
}

/* A block of words of a piece for some queries. */
typedef struct block {
    const float *words, *norms; /* of the block: words [pq_len, all words] */
    __m512i most;
} block;

INLINE __m512i shrunk(__m512 sum, float scale, float square) {
    __m512 value = _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), _mm512_set1_ps(square * scale));
    return _mm512_cvttps_epi32(value);
}

INLINE void fill_block(const peri_pq_shape *shape, const block *b, size_t steps, size_t queries,
                       const float *const *t, const float *squares, const float *scales,
                       uint8_t *const *small) {
    __m512 sum[QUERIES][STEPS];
    for (size_t s = 0; s < steps; s++)
        for (size_t q = 0; q < queries; q++) sum[q][s] = _mm512_loadu_ps(b->norms + 16 * s);
    for (size_t i = 0; i < shape->pq_len; i++) {
        const float *words = b->words + i * shape->words;
        for (size_t q = 0; q < queries; q++) {
            __m512 x = _mm512_set1_ps(-2 * t[q][i]);
            for (size_t s = 0; s < steps; s++)
                sum[q][s] = _mm512_fmadd_ps(x, _mm512_loadu_ps(words + 16 * s), sum[q][s]);
        }
    }
    for (size_t q = 0; q < queries; q++) {
        __m512i whole[STEPS];
        for (size_t s = 0; s < STEPS; s++)
            whole[s] = s < steps ? shrunk(sum[q][s], scales[q], squares[q])
                                 : _mm512_setzero_si512();
        _mm512_storeu_si512(small[q], pack_four(whole, b->most));
    }
}

INLINE void fill_tables(const peri_pq_shape *shape, const float *words, const float *norms,
                        size_t queries, const float *const *t, const float *scales, uint32_t most,
                        uint8_t *const *small) {
    size_t step = shape->one_book ? 0 : shape->words, wide = 16 * STEPS;
    for (size_t j = 0; j < shape->pq_dim; j++) {
        const float *x[QUERIES];
        float squares[QUERIES];
        for (size_t q = 0; q < queries; q++) {
            x[q] = t[q] + j * shape->pq_len;
            squares[q] = 0;
            for (size_t i = 0; i < shape->pq_len; i++) squares[q] += x[q][i] * x[q][i];
        }
        for (size_t w = 0; w < shape->words; w += wide) {
            uint8_t *out[QUERIES];
            block b = { words + j * step * shape->pq_len + w, norms + j * step + w,
                        _mm512_set1_epi8((char)most) };
            for (size_t q = 0; q < queries; q++) out[q] = small[q] + j * PERI_PQ_WIDE_TABLE + w;
            if (shape->words >= wide)
                fill_block(shape, &b, STEPS, queries, x, squares, scales, out);
            else
                fill_block(shape, &b, 2, queries, x, squares, scales, out);
        }
    }
}

static void wide_tables(const peri_pq_shape *shape, const float *words, const float *norms,
                        size_t queries, const float *const *t, const float *scales, uint32_t most,
                        uint8_t *const *small) {
    switch (queries) {
    case 4: fill_tables(shape, words, norms, 4, t, scales, most, small); break;
    case 3: fill_tables(shape, words, norms, 3, t, scales, most, small); break;
    case 2: fill_tables(shape, words, norms, 2, t, scales, most, small); break;
    default: fill_tables(shape, words, norms, 1, t, scales, most, small); break;
    }
}

/* ---- values ------------------------------------------------------------------------------- */

/* Bytes of picked entries side by side, a few bytes of each at a time. */
typedef struct picked {
    __attribute__((aligned(64))) uint8_t bytes[(PICKED_BYTES + 1) * PERI_PQ_PICKED];
    size_t first, count;
} picked;

INLINE void bring(const peri_pq_shape *shape, const uint8_t *const *codes, size_t first,
                  picked *p) {
    size_t left = shape->row_bytes - first;
    p->first = first;
    p->count = left < PICKED_BYTES + 1 ? left : PICKED_BYTES + 1;
    for (size_t i = 0; i < PERI_PQ_PICKED; i++) {
        const uint8_t *from = codes[i] + first * PERI_CODES_GROUP;
        for (size_t b = 0; b < p->count; b++)
            p->bytes[b * PERI_PQ_PICKED + i] = from[b * PERI_CODES_GROUP];
    }
}

INLINE __m128i bytes_at(const picked *p, size_t b) {
    return _mm_load_si128(
        (const __m128i *)(const void *)(p->bytes + (b - p->first) * PERI_PQ_PICKED));
}

/* Codes of piece j of 16 entries; their bytes are brought when they aren't there. */
INLINE __m128i codes16(const peri_pq_shape *shape, const uint8_t *const *codes, size_t j,
                       picked *p) {
    piece at = piece_at(shape, j);
    if (at.second >= p->first + p->count) bring(shape, codes, at.first, p);
    __m128i first = bytes_at(p, at.first);
    if (shape->pq_bits == 8) return first;
    return _mm512_castsi512_si128(codes_of(&at, _mm512_castsi128_si512(first),
                                           _mm512_castsi128_si512(bytes_at(p, at.second))));
}

/* Eight chains of look-ups, one by one: a gather of sixteen takes longer where it is made of as
 * many loads. (See CMakeLists.txt: the compiler would make vectors of them.) */
INLINE void eight_sums(const peri_pq_shape *shape, const float *T, const uint8_t *const *codes,
                       float *sums) {
    const uint8_t *c0 = codes[0], *c1 = codes[1], *c2 = codes[2], *c3 = codes[3];
    const uint8_t *c4 = codes[4], *c5 = codes[5], *c6 = codes[6], *c7 = codes[7];
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    size_t stop = (size_t)shape->pq_dim * PERI_CODES_GROUP;
    for (size_t at = 0; at < stop; at += PERI_CODES_GROUP, T += shape->words) {
        s0 += T[c0[at]];
        s1 += T[c1[at]];
        s2 += T[c2[at]];
        s3 += T[c3[at]];
        s4 += T[c4[at]];
        s5 += T[c5[at]];
        s6 += T[c6[at]];
        s7 += T[c7[at]];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    sums[4] = s4;
    sums[5] = s5;
    sums[6] = s6;
    sums[7] = s7;
}

static void wide_picked(const peri_pq_shape *shape, const float *T, const uint8_t *const *codes,
                        float *sums) {
    if (shape->pq_bits == 8) {
        eight_sums(shape, T, codes, sums);
        eight_sums(shape, T, codes + 8, sums + 8);
        return;
    }
    picked p;
    p.first = p.count = 0;
    __m512 sum = _mm512_setzero_ps();
    for (size_t j = 0; j < shape->pq_dim; j++, T += shape->words) {
        __m512i at = _mm512_cvtepu8_epi32(codes16(shape, codes, j, &p));
        sum = _mm512_add_ps(sum, _mm512_i32gather_ps(at, T, 4));
    }
    _mm512_storeu_ps(sums, sum);
}

INLINE __m512 add_square(__m512 sum, float t, __m512 word) {
    __m512 u = _mm512_sub_ps(_mm512_set1_ps(t), word);
    return _mm512_fmadd_ps(u, u, sum);
}

/* Four elements of the codewords of 16 entries, element by element: quarter r of register i is
 * those of entry 4 r + i, and four by four they are transposed. */
INLINE void four_elements(const float *book, size_t len, const uint8_t *codes, __m512 *out) {
    __m512 row[4];
    for (size_t i = 0; i < 4; i++) {
        __m512 all = _mm512_castps128_ps512(_mm_loadu_ps(book + codes[i] * len));
        all = _mm512_insertf32x4(all, _mm_loadu_ps(book + codes[4 + i] * len), 1);
        all = _mm512_insertf32x4(all, _mm_loadu_ps(book + codes[8 + i] * len), 2);
        row[i] = _mm512_insertf32x4(all, _mm_loadu_ps(book + codes[12 + i] * len), 3);
    }
    __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(row[0], row[1]));
    __m512d b = _mm512_castps_pd(_mm512_unpacklo_ps(row[2], row[3]));
    __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(row[0], row[1]));
    __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(row[2], row[3]));
    out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
    out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
    out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
}

/* T of piece j of 16 entries. */
INLINE __m512 square_of(const peri_pq_shape *shape, const float *t, const float *book,
                        __m128i codes) {
    uint8_t code[PERI_PQ_PICKED];
    size_t len = shape->pq_len, i = 0;
    __m512 sum = _mm512_setzero_ps(), word[4];
    _mm_storeu_si128((__m128i *)(void *)code, codes);
    for (; i + 4 <= len; i += 4) {
        four_elements(book + i, len, code, word);
        for (size_t e = 0; e < 4; e++) sum = add_square(sum, t[i + e], word[e]);
    }
    __m512i at = _mm512_mullo_epi32(_mm512_cvtepu8_epi32(codes), _mm512_set1_epi32((int)len));
    for (; i < len; i++) sum = add_square(sum, t[i], _mm512_i32gather_ps(at, book + i, 4));
    return sum;
}

static void wide_direct(const peri_pq_shape *shape, const float *t, const float *books,
                        const uint8_t *const *codes, float *sums) {
    picked p;
    p.first = p.count = 0;
    __m512 sum = _mm512_setzero_ps();
    size_t step = shape->one_book ? 0 : (size_t)shape->words * shape->pq_len;
    for (size_t j = 0; j < shape->pq_dim; j++, t += shape->pq_len, books += step)
        sum = _mm512_add_ps(sum, square_of(shape, t, books, codes16(shape, codes, j, &p)));
    _mm512_storeu_ps(sums, sum);
}

const peri_pq_wide peri_pq_wide_avx512vbmi = { .tables = wide_tables,
                                               .shrink = wide_shrink,
                                               .masks = wide_masks,
                                               .picked = wide_picked,
                                               .direct = wide_direct };
