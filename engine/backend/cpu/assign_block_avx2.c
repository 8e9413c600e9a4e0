/* assign_block_avx2.c: the coarse pass of assignment with AVX2 and FMA: 16 rows by 6 centroids. */
#include <immintrin.h>

#include "backend/cpu/assign_block.h"

#define ROWS 16
#define CENTROIDS 6
#define INLINE static inline __attribute__((always_inline))

typedef struct lanes {
    __m256 best, second, labels; /* labels: bits of integers */
} lanes;

INLINE lanes load_lanes(const peri_assign_best *at, size_t lane) {
    return (lanes){ _mm256_loadu_ps(at->best + lane), _mm256_loadu_ps(at->second + lane),
                    _mm256_loadu_ps((const float *)(const void *)(at->labels + lane)) };
}

INLINE void store_lanes(const peri_assign_best *at, size_t lane, lanes l) {
    _mm256_storeu_ps(at->best + lane, l.best);
    _mm256_storeu_ps(at->second + lane, l.second);
    _mm256_storeu_ps((float *)(void *)(at->labels + lane), l.labels);
}

INLINE lanes offer(lanes l, __m256 value, uint32_t label) {
    __m256 above = _mm256_cmp_ps(value, l.best, _CMP_GT_OQ);
    __m256 labels = _mm256_castsi256_ps(_mm256_set1_epi32((int)label));
    l.second = _mm256_max_ps(l.second, _mm256_min_ps(value, l.best));
    l.best = _mm256_max_ps(l.best, value);
    l.labels = _mm256_blendv_ps(l.labels, labels, above);
    return l;
}

void peri_assign_tile_avx2(const float *panel, const float *tile, const float *start, uint32_t dim,
                           uint32_t first, const peri_assign_best *at) {
    __m256 low[CENTROIDS], high[CENTROIDS];
#pragma GCC unroll 6
    for (int i = 0; i < CENTROIDS; i++) low[i] = high[i] = _mm256_broadcast_ss(start + i);
    for (size_t j = 0; j < dim; j++, panel += ROWS, tile += CENTROIDS) {
        __m256 x0 = _mm256_loadu_ps(panel), x1 = _mm256_loadu_ps(panel + 8);
#pragma GCC unroll 6
        for (int i = 0; i < CENTROIDS; i++) {
            __m256 c = _mm256_broadcast_ss(tile + i);
            low[i] = _mm256_fmadd_ps(c, x0, low[i]);
            high[i] = _mm256_fmadd_ps(c, x1, high[i]);
        }
    }
    lanes l = load_lanes(at, 0), h = load_lanes(at, 8);
#pragma GCC unroll 6
    for (int i = 0; i < CENTROIDS; i++) {
        l = offer(l, low[i], first + (uint32_t)i);
        h = offer(h, high[i], first + (uint32_t)i);
    }
    store_lanes(at, 0, l);
    store_lanes(at, 8, h);
}
