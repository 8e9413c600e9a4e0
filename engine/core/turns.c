/* turns.c: signs, Hadamard and pairwise turns. */
#include "core/turns.h"

#include <math.h>
#include <string.h>

/* The sums over neighbours and then over pairs, which are too short for a loop. */
static inline void first_two(float *x) {
    float a = x[0] + x[1], b = x[0] - x[1], c = x[2] + x[3], d = x[2] - x[3];
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
}

/* Hadamard's matrix times x [n], n a power of two, scaled to keep lengths. Its own transpose. */
static void hadamard(float *x, size_t n) {
    size_t begun = 1;
    if (n >= 4) {
        for (size_t i = 0; i < n; i += 4) first_two(x + i);
        begun = 4;
    }
    for (size_t half = begun; half < n; half *= 2)
        for (size_t first = 0; first < n; first += 2 * half) {
            float *a = x + first, *b = a + half;
            for (size_t i = 0; i < half; i++) {
                float sum = a[i] + b[i], difference = a[i] - b[i];
                a[i] = sum;
                b[i] = difference;
            }
        }
    float scale = 1.0f / sqrtf((float)n);
    for (size_t i = 0; i < n; i++) x[i] *= scale;
}

/* Columns i and i + n / 2 turned by 45 degrees: its own transpose too. */
static void mix_halves(float *x, size_t n) {
    const float scale = 0.70710678f;
    float *a = x, *b = x + n / 2;
    for (size_t i = 0; i < n / 2; i++) {
        float sum = (a[i] + b[i]) * scale, difference = (a[i] - b[i]) * scale;
        a[i] = sum;
        b[i] = difference;
    }
}

static void flip(const peri_turns *turns, int round, float *x) {
    const float *signs = turns->signs + (size_t)round * turns->out_dim;
    for (size_t i = 0; i < turns->out_dim; i++) x[i] *= signs[i];
}

static float *transformed_part(const peri_turns *turns, int round, float *x) {
    return round % 2 == 0 ? x : x + turns->out_dim - turns->power;
}

void peri_turns_apply(const peri_turns *turns, const float *x, float *out) {
    uint32_t n = turns->out_dim;
    memcpy(out, x, turns->dim * sizeof *x);
    memset(out + turns->dim, 0, (n - turns->dim) * sizeof *out);
    for (int round = 0; round < PERI_TURNS_ROUNDS; round++) {
        flip(turns, round, out);
        hadamard(transformed_part(turns, round, out), turns->power);
        if (turns->power != n) mix_halves(out, n);
    }
}

void peri_turns_undo(const peri_turns *turns, float *y) {
    uint32_t n = turns->out_dim;
    for (int round = PERI_TURNS_ROUNDS - 1; round >= 0; round--) {
        if (turns->power != n) mix_halves(y, n);
        hadamard(transformed_part(turns, round, y), turns->power);
        flip(turns, round, y);
    }
}
