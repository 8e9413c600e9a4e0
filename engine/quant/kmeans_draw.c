/* kmeans_draw.c: running sums by blocks, and a draw by them. */
#include "quant/kmeans_draw.h"

#include "core/checked.h"

#define SIDE_BY_SIDE 8u

static inline double positive(float weight) { return weight > 0 ? (double)weight : 0; }

static double sum_block(const float *weights, size_t count) {
    double sums[SIDE_BY_SIDE] = { 0 }, sum = 0;
    size_t i = 0;
    for (; i + SIDE_BY_SIDE <= count; i += SIDE_BY_SIDE)
        for (size_t s = 0; s < SIDE_BY_SIDE; s++) sums[s] += positive(weights[i + s]);
    for (size_t s = 0; i < count; i++, s++) sums[s] += positive(weights[i]);
    for (size_t s = 0; s < SIDE_BY_SIDE; s++) sum += sums[s];
    return sum;
}

double peri_draw_fill(const float *weights, size_t rows, double *sums) {
    double sum = 0;
    for (size_t b = 0; b < peri_draw_blocks(rows); b++) {
        size_t first = b * PERI_DRAW_BLOCK;
        sum += sum_block(weights + first, peri_min_size(PERI_DRAW_BLOCK, rows - first));
        sums[b] = sum;
    }
    return sum;
}

double peri_draw_lower(const float *weights, const float *others, size_t rows, float *out,
                       double *sums) {
    double sum = 0;
    for (size_t b = 0; b < peri_draw_blocks(rows); b++) {
        size_t first = b * PERI_DRAW_BLOCK, stop = peri_min_size(first + PERI_DRAW_BLOCK, rows);
        for (size_t i = first; i < stop; i++)
            out[i] = others[i] < weights[i] ? others[i] : weights[i];
        sum += sum_block(out + first, stop - first);
        sums[b] = sum;
    }
    return sum;
}

size_t peri_draw_row(const float *weights, size_t rows, const double *sums, double share) {
    size_t low = 0, high = peri_draw_blocks(rows) - 1;
    double wanted = share * sums[high], sum;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (sums[middle] > wanted)
            high = middle;
        else
            low = middle + 1;
    }
    size_t first = low * PERI_DRAW_BLOCK, stop = peri_min_size(first + PERI_DRAW_BLOCK, rows);
    size_t found = first; /* rounding may keep the sum in the block below what is wanted */
    sum = low == 0 ? 0 : sums[low - 1];
    for (size_t i = first; i < stop && sum <= wanted; i++) {
        if (!(weights[i] > 0)) continue;
        sum += (double)weights[i];
        found = i;
    }
    return found;
}
