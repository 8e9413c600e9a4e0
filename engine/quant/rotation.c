/* rotation.c: drawing the signs, and the rotation as a matrix. */
#include "quant/rotation.h"

#include "core/memory.h"
#include "core/random.h"
#include "core/turns.h"
#include "io/host_rows.h"

peri_status peri_rotation_init(peri_rotation *rotation, peri_context *context, uint32_t dim,
                               uint32_t out_dim, uint64_t seed) {
    PERI_ASSERT(dim > 0 && dim <= out_dim);
    *rotation = (peri_rotation){ context, dim, out_dim, NULL };
    size_t count = (size_t)PERI_TURNS_ROUNDS * out_dim;
    PERI_TRY(peri_memory_acquire(context, count, sizeof(float), &rotation->signs));
    for (size_t i = 0; i < count; i++)
        rotation->signs[i] = peri_random_mix(seed, i) >> 63 ? 1.0f : -1.0f;
    return PERI_OK;
}

void peri_rotation_reset(peri_rotation *rotation) {
    if (rotation->signs == NULL) return;
    peri_memory_release(rotation->context, rotation->signs,
                        (size_t)PERI_TURNS_ROUNDS * rotation->out_dim, sizeof(float));
    rotation->signs = NULL;
}

static peri_turns turns_of(const peri_rotation *rotation) {
    return peri_turns_of(rotation->dim, rotation->out_dim, rotation->signs);
}

void peri_rotation_apply(const peri_rotation *rotation, const float *x, float *out) {
    peri_turns turns = turns_of(rotation);
    peri_turns_apply(&turns, x, out);
}

void peri_rotation_undo(const peri_rotation *rotation, float *y) {
    peri_turns turns = turns_of(rotation);
    peri_turns_undo(&turns, y);
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
