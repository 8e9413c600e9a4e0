/* rotation.c: signs, Hadamard and pairwise turns, and their matrix. */
#include "quant/rotation.h"

#include <math.h>
#include <string.h>

#include "core/memory.h"
#include "core/random.h"
#include "io/host_rows.h"

enum { ROUNDS = 4 };

peri_status peri_rotation_init(peri_rotation *rotation, peri_context *context, uint32_t dim,
                               uint32_t out_dim, uint64_t seed) {
    PERI_ASSERT(dim > 0 && dim <= out_dim);
    *rotation = (peri_rotation){ context, dim, out_dim, 1, NULL };
    while (rotation->power <= out_dim / 2) rotation->power *= 2;
    size_t count = (size_t)ROUNDS * out_dim;
    PERI_TRY(peri_memory_acquire(context, count, sizeof(float), &rotation->signs));
    for (size_t i = 0; i < count; i++)
        rotation->signs[i] = peri_random_mix(seed, i) >> 63 ? 1.0f : -1.0f;
    return PERI_OK;
}

void peri_rotation_reset(peri_rotation *rotation) {
    if (rotation->signs == NULL) return;
    peri_memory_release(rotation->context, rotation->signs, (size_t)ROUNDS * rotation->out_dim,
                        sizeof(float));
    rotation->signs = NULL;
}

/* Hadamard's matrix times x [n], n a power of two, scaled to keep lengths. Its own transpose. */
static void hadamard(float *x, size_t n) {
    for (size_t half = 1; half < n; half *= 2)
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

static void flip(const peri_rotation *rotation, int round, float *x) {
    const float *signs = rotation->signs + (size_t)round * rotation->out_dim;
    for (size_t i = 0; i < rotation->out_dim; i++) x[i] *= signs[i];
}

static float *transformed_part(const peri_rotation *rotation, int round, float *x) {
    return round % 2 == 0 ? x : x + rotation->out_dim - rotation->power;
}

void peri_rotation_apply(const peri_rotation *rotation, const float *x, float *out) {
    uint32_t n = rotation->out_dim;
    memcpy(out, x, rotation->dim * sizeof *x);
    memset(out + rotation->dim, 0, (n - rotation->dim) * sizeof *out);
    for (int round = 0; round < ROUNDS; round++) {
        flip(rotation, round, out);
        hadamard(transformed_part(rotation, round, out), rotation->power);
        if (rotation->power != n) mix_halves(out, n);
    }
}

void peri_rotation_undo(const peri_rotation *rotation, float *y) {
    uint32_t n = rotation->out_dim;
    for (int round = ROUNDS - 1; round >= 0; round--) {
        if (rotation->power != n) mix_halves(y, n);
        hadamard(transformed_part(rotation, round, y), rotation->power);
        flip(rotation, round, y);
    }
}

peri_status peri_rotation_matrix(peri_context *context, uint32_t dim, uint32_t out_dim,
                                 uint64_t seed, peri_matrix **out) {
    peri_rotation rotation = { .signs = NULL };
    float *unit = NULL, *column = NULL;
    peri_status status;
    *out = NULL;
    PERI_GO(peri_rotation_init(&rotation, context, dim, out_dim, seed));
    PERI_GO(peri_memory_acquire_zeroed(context, dim, sizeof *unit, &unit));
    PERI_GO(peri_memory_acquire(context, out_dim, sizeof *column, &column));
    PERI_GO(peri_host_matrix_create(context, out_dim, dim, PERI_F32, out));
    float *matrix = peri_matrix_view(*out).data;
    for (size_t j = 0; j < dim; j++) {
        unit[j] = 1.0f;
        peri_rotation_apply(&rotation, unit, column);
        unit[j] = 0.0f;
        for (size_t i = 0; i < out_dim; i++) matrix[i * dim + j] = column[i];
    }
done:
    peri_memory_release(context, unit, dim, sizeof *unit);
    peri_memory_release(context, column, out_dim, sizeof *column);
    peri_rotation_reset(&rotation);
    return status;
}
