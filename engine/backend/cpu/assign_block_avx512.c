/* assign_block_avx512.c: the coarse pass of assignment with AVX-512: 32 rows by 12 centroids. */
#include <immintrin.h>

#include "backend/cpu/assign_block.h"

#define ROWS 32
#define CENTROIDS 12
#define INLINE static inline __attribute__((always_inline))

typedef struct lanes {
    __m512 best, second;
    __m512i labels;
} lanes;

INLINE lanes load_lanes(const peri_assign_best *at, size_t lane) {
    return (lanes){ _mm512_loadu_ps(at->best + lane), _mm512_loadu_ps(at->second + lane),
                    _mm512_loadu_si512(at->labels + lane) };
}

INLINE void store_lanes(const peri_assign_best *at, size_t lane, lanes l) {
    _mm512_storeu_ps(at->best + lane, l.best);
    _mm512_storeu_ps(at->second + lane, l.second);
    _mm512_storeu_si512(at->labels + lane, l.labels);
}

INLINE lanes offer(lanes l, __m512 value, uint32_t label) {
    __mmask16 above = _mm512_cmp_ps_mask(value, l.best, _CMP_GT_OQ);
    l.second = _mm512_max_ps(l.second, _mm512_min_ps(value, l.best));
    l.best = _mm512_max_ps(l.best, value);
    l.labels = _mm512_mask_set1_epi32(l.labels, above, (int)label);
    return l;
}

void peri_assign_tile_avx512(const float *panel, const float *tile, const float *start,
                             uint32_t dim, uint32_t first, const peri_assign_best *at) {
    __m512 low[CENTROIDS], high[CENTROIDS];
#pragma GCC unroll 12
    for (int i = 0; i < CENTROIDS; i++) low[i] = high[i] = _mm512_set1_ps(start[i]);
    for (size_t j = 0; j < dim; j++, panel += ROWS, tile += CENTROIDS) {
        __m512 x0 = _mm512_loadu_ps(panel), x1 = _mm512_loadu_ps(panel + 16);
#pragma GCC unroll 12
        for (int i = 0; i < CENTROIDS; i++) {
            __m512 c = _mm512_set1_ps(tile[i]);
            low[i] = _mm512_fmadd_ps(c, x0, low[i]);
            high[i] = _mm512_fmadd_ps(c, x1, high[i]);
        }
    }
    lanes l = load_lanes(at, 0), h = load_lanes(at, 16);
#pragma GCC unroll 12
    for (int i = 0; i < CENTROIDS; i++) {
        l = offer(l, low[i], first + (uint32_t)i);
        h = offer(h, high[i], first + (uint32_t)i);
    }
    store_lanes(at, 0, l);
    store_lanes(at, 16, h);
}
