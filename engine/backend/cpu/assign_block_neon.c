/* assign_block_neon.c: the coarse pass of assignment with NEON: 16 rows by 6 centroids. */
#include <arm_neon.h>

#include "backend/cpu/assign_block.h"

#define ROWS 16
#define CENTROIDS 6
#define PARTS 4 /* registers of 4 rows */

void peri_assign_tile_neon(const float *panel, const float *tile, const float *start, uint32_t dim,
                           uint32_t first, const peri_assign_best *at) {
    float32x4_t sums[CENTROIDS][PARTS];
#pragma GCC unroll 6
    for (int i = 0; i < CENTROIDS; i++)
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) sums[i][p] = vdupq_n_f32(start[i]);
    for (size_t j = 0; j < dim; j++, panel += ROWS, tile += CENTROIDS) {
        float32x4_t four = vld1q_f32(tile);
        float32x2_t two = vld1_f32(tile + 4);
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) {
            float32x4_t x = vld1q_f32(panel + 4 * p);
            sums[0][p] = vfmaq_laneq_f32(sums[0][p], x, four, 0);
            sums[1][p] = vfmaq_laneq_f32(sums[1][p], x, four, 1);
            sums[2][p] = vfmaq_laneq_f32(sums[2][p], x, four, 2);
            sums[3][p] = vfmaq_laneq_f32(sums[3][p], x, four, 3);
            sums[4][p] = vfmaq_lane_f32(sums[4][p], x, two, 0);
            sums[5][p] = vfmaq_lane_f32(sums[5][p], x, two, 1);
        }
    }
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) {
        float32x4_t best = vld1q_f32(at->best + 4 * p), second = vld1q_f32(at->second + 4 * p);
        uint32x4_t labels = vld1q_u32(at->labels + 4 * p);
#pragma GCC unroll 6
        for (int i = 0; i < CENTROIDS; i++) { /* a NaN stays, and is no certificate */
            uint32x4_t above = vcgtq_f32(sums[i][p], best);
            second = vmaxq_f32(second, vminq_f32(sums[i][p], best));
            best = vmaxq_f32(best, sums[i][p]);
            labels = vbslq_u32(above, vdupq_n_u32(first + (uint32_t)i), labels);
        }
        vst1q_f32(at->best + 4 * p, best);
        vst1q_f32(at->second + 4 * p, second);
        vst1q_u32(at->labels + 4 * p, labels);
    }
}
