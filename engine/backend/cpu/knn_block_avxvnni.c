/* knn_block_avxvnni.c: the kernels of the coarse pass on CPUs with AVX2 and AVX-VNNI but without
 * AVX-512. i8 and u8 as in knn_block_avx512.c, at half the width; the others are those of AVX2. */
#include "backend/cpu/knn_block_ymm.h"

/* 32 elements as X, of which `count` are there: eight groups of four; the others are 0. */
INLINE __m256 load_whole(peri_dtype dtype, const char *at, size_t count) {
    __m256i bytes, flip = _mm256_set1_epi8(dtype == PERI_I8 ? (char)0x80 : 0);
    if (count >= 32) {
        bytes = load_words(at);
    } else {
        char padded[32];
        memset(padded, dtype == PERI_I8 ? 0x80 : 0, sizeof padded);
        memcpy(padded, at, count);
        bytes = load_words(padded);
    }
    return _mm256_castsi256_ps(_mm256_xor_si256(bytes, flip));
}

/* Eight rows into eight lanes of the panel. */
INLINE void pack_whole8(peri_dtype dtype, const char *const *rows, uint32_t dim, char *panel,
                        int32_t *sums, int32_t *squares) {
    __m256i sum = _mm256_setzero_si256(), square = sum;
    __m256i one = _mm256_set1_epi8(1), half = _mm256_set1_epi8((char)0x80);
    __m256 r[8];
    for (size_t j = 0; j < dim; j += 32) {
        size_t left = dim - j;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) r[i] = load_whole(dtype, rows[i] + j, left);
        transpose(r);
#pragma GCC unroll 8
        for (size_t c = 0; c < 8; c++) {
            if (4 * c >= left) continue;
            __m256i x = _mm256_castps_si256(r[c]);
            _mm256_storeu_si256((void *)(panel + (j / 4 + c) * 4 * ROWS), x);
            sum = _mm256_dpbusd_avx_epi32(sum, x, one);
            square = _mm256_dpbusd_avx_epi32(square, x, _mm256_xor_si256(x, half));
        }
    }
    _mm256_storeu_si256((void *)sums, sum);
    _mm256_storeu_si256((void *)squares, square);
}

static void pack_whole(peri_dtype dtype, const char *const *rows, uint32_t dim, void *panel,
                       int32_t *sums, int32_t *squares) {
    for (size_t half = 0; half < ROWS; half += 8) {
        char *lanes = (char *)panel + 4 * half;
        if (dtype == PERI_I8)
            pack_whole8(PERI_I8, rows + half, dim, lanes, sums + half, squares + half);
        else
            pack_whole8(PERI_U8, rows + half, dim, lanes, sums + half, squares + half);
    }
}

INLINE void multiply_whole(const char *panel, const int32_t *start, const char *queries,
                           uint32_t groups, __m256i low[QUERIES], __m256i high[QUERIES]) {
#pragma GCC unroll 6
    for (int i = 0; i < QUERIES; i++) {
        low[i] = load_words(start);
        high[i] = load_words(start + 8);
    }
    for (size_t g = 0; g < groups; g++, panel += 4 * ROWS, queries += 4 * QUERIES) {
        __m256i x0 = load_words(panel), x1 = load_words(panel + 32);
#pragma GCC unroll 6
        for (int i = 0; i < QUERIES; i++) {
            int32_t four;
            memcpy(&four, queries + 4 * i, sizeof four);
            __m256i q = _mm256_set1_epi32(four);
            low[i] = _mm256_dpbusd_avx_epi32(low[i], x0, q);
            high[i] = _mm256_dpbusd_avx_epi32(high[i], x1, q);
            HOLD(low[i]);
            HOLD(high[i]);
        }
    }
}

static uint32_t tile_whole(const void *panel, const int32_t *start, const void *queries,
                           uint32_t groups, const int32_t *least, uint32_t *masks,
                           int32_t *scores) {
    __m256i low[QUERIES], high[QUERIES];
    multiply_whole(panel, start, queries, groups, low, high);
    return hits_whole(low, high, least, masks, scores);
}

static uint32_t tile_scaled(const void *panel, const int32_t *start, const float *scale,
                            const void *queries, uint32_t groups, const int32_t *base,
                            const float *least, uint32_t *masks, int32_t *scores) {
    __m256i low[QUERIES], high[QUERIES];
    multiply_whole(panel, start, queries, groups, low, high);
    return hits_scaled(low, high, scale, base, least, masks, scores);
}

const peri_block_kernels peri_block_avxvnni = { .rows = ROWS,
                                                .queries = QUERIES,
                                                .group = 4,
                                                .pack = peri_block_pack_avx2,
                                                .tile = peri_block_tile_avx2,
                                                .pack_whole = pack_whole,
                                                .tile_whole = tile_whole,
                                                .tile_scaled = tile_scaled,
                                                .take = peri_block_take_avx2 };
