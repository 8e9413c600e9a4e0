/* sample.c: a seeded sample that needs no list of all rows. */
#include "quant/sample.h"

#include "core/memory.h"
#include "core/random.h"

/* Row i of the sample lies in [i * n / most, (i + 1) * n / most): distinct, ascending, and as
 * many from each part of the data. The product is taken in 128 bits. */
static void draw(size_t n, size_t most, uint64_t seed, int64_t *ids) {
    for (size_t i = 0; i < most; i++) {
        size_t first = (size_t)((unsigned __int128)i * n / most);
        size_t stop = (size_t)((unsigned __int128)(i + 1) * n / most);
        ids[i] = (int64_t)(first + peri_random_mix(seed, i) % (stop - first));
    }
}

peri_status peri_sample_rows(peri_matrix *rows, size_t most, uint64_t seed, peri_matrix **out) {
    peri_context *context = peri_matrix_context(rows);
    size_t n = peri_matrix_view(rows).rows;
    peri_matrix *some = NULL;
    int64_t *ids = NULL;
    peri_status status = PERI_OK;
    *out = NULL;
    if (n <= most) {
        peri_matrix_retain(rows);
        some = rows;
    } else {
        PERI_GO(peri_memory_acquire(context, most, sizeof *ids, &ids));
        draw(n, most, seed, ids);
        PERI_GO(peri_matrix_gather(rows, ids, most, &some));
    }
    if (peri_matrix_view(some).dtype == PERI_F32) {
        *out = some;
        some = NULL;
    } else {
        PERI_GO(peri_matrix_convert(some, PERI_F32, out));
    }
done:
    peri_matrix_release(some);
    peri_memory_release(context, ids, most, sizeof *ids);
    return status;
}

peri_status peri_host_floats(peri_matrix *rows, peri_matrix **out) {
    peri_matrix *wide = NULL;
    *out = NULL;
    if (peri_matrix_view(rows).dtype == PERI_F32) return peri_matrix_move(rows, PERI_CPU, out);
    PERI_TRY(peri_matrix_convert(rows, PERI_F32, &wide));
    peri_status status = peri_matrix_move(wide, PERI_CPU, out);
    peri_matrix_release(wide);
    return status;
}
