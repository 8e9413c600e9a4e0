/* synthetic_test: the made-up rows of the large measurements are frozen: checksums of ranges of
 * both sets. And a row depends on its number alone: not on the range it is made in, on the rows
 * made before it, or on the thread. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "io/crc32c.h"
#include "scripts/benchmarks/synthetic.h"

static void *must(void *memory) {
    if (!memory) abort();
    return memory;
}

static peri_synthetic set_of(int latents, uint32_t dim) {
    return latents == 16 ? peri_synthetic_16(dim) : peri_synthetic_32(dim);
}

static int16_t *map_of(const peri_synthetic *set) {
    int16_t *map = must(malloc(sizeof *map * set->latents * set->dim));
    peri_synthetic_map(set, map);
    return map;
}

/* Rows [first, first + count), to be freed. */
static float *make_rows(const peri_synthetic *set, uint64_t stream, uint64_t first, size_t count) {
    int16_t *map = map_of(set);
    float *rows = must(malloc(sizeof *rows * count * set->dim));
    for (size_t i = 0; i < count; i++)
        peri_synthetic_row(set, map, stream, first + i, rows + i * set->dim);
    free(map);
    return rows;
}

/* ---- frozen ------------------------------------------------------------------------------- */

typedef struct frozen {
    int latents;
    uint32_t dim;
    peri_synthetic_stream stream;
    uint64_t first;
    size_t count;
    uint32_t crc;
} frozen;

/* Ranges that begin inside and go across the blocks in which files are written (4096 rows), odd
 * dimensions and those that are no multiple of what is summed at a time, and rows past 2^32. */
static const frozen frozen_list[] = {
    { 16, 128, PERI_SYNTHETIC_BASE, 0, 10000, 0x28BD389D },
    { 16, 128, PERI_SYNTHETIC_BASE, 999000, 1000, 0xDC32D5E7 },
    { 16, 128, PERI_SYNTHETIC_QUERIES, 0, 1000, 0x29ADCF4A },
    { 16, 128, PERI_SYNTHETIC_LEARN, 4000, 200, 0x1D24275D },
    { 16, 1, PERI_SYNTHETIC_BASE, 0, 5000, 0xF36793EB },
    { 16, 96, PERI_SYNTHETIC_BASE, 77, 1000, 0x1C8B2913 },
    { 16, 131, PERI_SYNTHETIC_BASE, 4095, 500, 0x8C85F72A },
    { 16, 768, PERI_SYNTHETIC_QUERIES, 5, 300, 0x3C33251E },
    { 16, 128, PERI_SYNTHETIC_BASE, UINT64_C(0x1234567890), 1000, 0x8F836A1E },
    { 32, 128, PERI_SYNTHETIC_BASE, 0, 10000, 0x67CB1238 },
    { 32, 128, PERI_SYNTHETIC_BASE, 999000, 1000, 0xDE9B54C0 },
    { 32, 128, PERI_SYNTHETIC_QUERIES, 0, 1000, 0x58052C04 },
    { 32, 33, PERI_SYNTHETIC_LEARN, 4095, 500, 0x56D5A0AF },
    { 32, 960, PERI_SYNTHETIC_BASE, 1, 200, 0x2E02AA4E },
    { 32, 128, PERI_SYNTHETIC_QUERIES, UINT64_MAX - 99, 100, 0xF00717B2 },
};

static void check_frozen(const frozen *wanted) {
    peri_synthetic set = set_of(wanted->latents, wanted->dim);
    float *rows = make_rows(&set, wanted->stream, wanted->first, wanted->count);
    uint32_t crc = peri_crc32c(0, rows, sizeof *rows * wanted->count * set.dim);
    CHECK(crc == wanted->crc,
          "synthetic-%d x %u, stream %d, %zu rows from %llu: 0x%08X, not 0x%08X", wanted->latents,
          wanted->dim, (int)wanted->stream, wanted->count, (unsigned long long)wanted->first, crc,
          wanted->crc);
    free(rows);
}

/* ---- a row is its number ------------------------------------------------------------------ */

static void check_split(const peri_synthetic *set, uint64_t stream) {
    const size_t count = 700, dim = set->dim;
    int16_t *map = map_of(set);
    float *whole = make_rows(set, stream, 40, count), *row = must(malloc(sizeof *row * dim));
    for (size_t i = count; i-- > 0;) {
        peri_synthetic_row(set, map, stream, 40 + i, row);
        if (!CHECK(memcmp(row, whole + i * dim, sizeof *row * dim) == 0,
                   "row %zu of stream %d differs when made alone", 40 + i, (int)stream))
            break;
    }
    for (size_t i = 1; i < count; i++)
        if (!CHECK(memcmp(whole, whole + i * dim, sizeof *row * dim) != 0, "row %zu is row 0", i))
            break;
    free(row);
    free(whole);
    free(map);
}

/* Streams share clusters and nothing else: no row of one is a row of another. */
static void check_streams(const peri_synthetic *set) {
    const size_t count = 200, row_bytes = sizeof(float) * set->dim;
    float *rows[3];
    for (uint64_t stream = 0; stream < 3; stream++) rows[stream] = make_rows(set, stream, 0, count);
    size_t equal = 0;
    for (int a = 0; a < 3; a++)
        for (int b = a + 1; b < 3; b++)
            for (size_t i = 0; i < count; i++)
                equal += memcmp(rows[a] + i * set->dim, rows[b] + i * set->dim, row_bytes) == 0;
    CHECK(equal == 0, "%zu rows are in two streams", equal);
    for (int a = 0; a < 3; a++) free(rows[a]);
}

typedef struct share {
    pthread_t thread;
    const peri_synthetic *set;
    const int16_t *map;
    float *rows;
    size_t begin, step, count;
} share;

static void *make_share(void *argument) {
    share *self = argument;
    for (size_t i = self->begin; i < self->count; i += self->step)
        peri_synthetic_row(self->set, self->map, PERI_SYNTHETIC_BASE, i,
                           self->rows + i * self->set->dim);
    return NULL;
}

static void check_threads(const peri_synthetic *set) {
    enum { ROWS = 1000 };
    int16_t *map = map_of(set);
    float *alone = make_rows(set, PERI_SYNTHETIC_BASE, 0, ROWS);
    for (size_t threads = 2; threads <= 5; threads++) {
        share shares[5];
        float *rows = must(calloc(ROWS * set->dim, sizeof *rows));
        for (size_t t = 0; t < threads; t++) {
            shares[t] = (share){
                .set = set, .map = map, .rows = rows, .begin = t, .step = threads, .count = ROWS
            };
            if (pthread_create(&shares[t].thread, NULL, make_share, &shares[t]) != 0) abort();
        }
        for (size_t t = 0; t < threads; t++) pthread_join(shares[t].thread, NULL);
        CHECK(memcmp(rows, alone, sizeof *rows * ROWS * set->dim) == 0,
              "%zu threads make other rows than one", threads);
        free(rows);
    }
    free(alone);
    free(map);
}

/* ---- what may be asked -------------------------------------------------------------------- */

static void check_settings(void) {
    for (int latents = 16; latents <= 32; latents += 16) {
        peri_synthetic set = set_of(latents, 128);
        CHECK(peri_synthetic_check(&set), "synthetic-%d is a set", latents);
        set.dim = 0;
        CHECK(!peri_synthetic_check(&set), "no columns");
        set = set_of(latents, 128);
        set.latents = PERI_SYNTHETIC_LATENTS_MAX + 1;
        CHECK(!peri_synthetic_check(&set), "too many latent dimensions");
        set = set_of(latents, 128);
        set.clusters = 0;
        CHECK(!peri_synthetic_check(&set), "no cluster");
        set = set_of(latents, 128);
        set.center_scale = PERI_SYNTHETIC_SCALE_MAX - set.within_scale + 1;
        CHECK(!peri_synthetic_check(&set), "scales that leave the 16 bits of a latent");
    }
}

int main(void) {
    for (size_t i = 0; i < sizeof frozen_list / sizeof *frozen_list; i++)
        check_frozen(&frozen_list[i]);
    for (int latents = 16; latents <= 32; latents += 16)
        for (uint32_t dim = 127; dim <= 129; dim++) {
            peri_synthetic set = set_of(latents, dim);
            for (uint64_t stream = 0; stream < 3; stream++) check_split(&set, stream);
            check_streams(&set);
            check_threads(&set);
        }
    check_settings();
    return check_done();
}
