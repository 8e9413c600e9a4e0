/* synthetic.h: the made-up vectors of all large measurements. Any row of a set of any size is made
 * from its number alone, to the same bits on every processor (CUDA includes this file).
 *
 * A row is a point of a cluster in a space of few dimensions, mapped to many, with noise:
 *
 *     latent[j] = center_scale * center[cluster(row)][j] + within_scale * N      for j < latents
 *     value[i]  = (sum over j of map[i][j] * latent[j]) / 2^6 + noise_scale * N  for i < dim
 *
 * which is how real embeddings look to an index: the latent dimensions make the work, the width
 * only its cost, and the noise keeps rows apart in all directions. All of it is whole numbers of 32
 * bits; the sum is turned to a float once, in units of 2^-16. N is a sum of the bytes of hashes of
 * (seed, what, stream, row, column): no logarithm or cosine, which differ between libraries, no
 * product that a compiler may fuse with an addition, no state that one row would leave for the
 * next. So rows are made by range, by any number of threads, in any order, or where they are used.
 *
 * Streams are sets of rows of the same clusters that share nothing else: base and queries. */
#ifndef PERI_BENCHMARKS_SYNTHETIC_H
#define PERI_BENCHMARKS_SYNTHETIC_H

#include <stddef.h>
#include <stdint.h>

#include "core/random.h"

#define PERI_SYNTHETIC_LATENTS_MAX 32
#define PERI_SYNTHETIC_SCALE_MAX 24 /* center_scale + within_scale at most: latents fit 16 bits */
#define PERI_SYNTHETIC_COLUMNS 64   /* that are summed at a time */

typedef enum peri_synthetic_stream {
    PERI_SYNTHETIC_BASE = 0,
    PERI_SYNTHETIC_QUERIES = 1,
    PERI_SYNTHETIC_LEARN = 2, /* more rows like the base, for training apart */
} peri_synthetic_stream;

typedef struct peri_synthetic {
    uint64_t seed;
    uint32_t dim;      /* columns of a row */
    uint32_t latents;  /* 1..PERI_SYNTHETIC_LATENTS_MAX */
    uint32_t clusters; /* at least 1 */
    int32_t center_scale, within_scale;
    int32_t noise_scale; /* 0..2^16 */
} peri_synthetic;

#define PERI_SYNTHETIC_SEED UINT64_C(0x5065726967656521) /* "Perigee!" */

/* The two sets that measurements name, frozen: a change of any bit of them is caught by their
 * checksums, and would part all measurements made before it from those after.
 *
 * The settings were chosen by scripts/benchmarks/calibrate, at 1 000 000 x 128, with 1 000 queries,
 * by stock hnswlib (M 16, ef_construction 200); recall@10 / distances computed a query:
 *
 *                  ef 16        ef 32        ef 64        ef 128       local dimension (median)
 *   synthetic-16   .883/ 491    .958/ 738    .991/1205    .999/2060    16.7
 *   synthetic-32   .720/ 603    .840/ 905    .920/1475    .972/2581    24.9
 *
 * The first was to reach 0.96 +- 0.01 at ef 32 with 700 to 800 distances, which is what real sets
 * of that size ask. The second has twice as many latent dimensions and clusters that overlap. */
PERI_SHARED peri_synthetic peri_synthetic_16(uint32_t dim) {
    peri_synthetic set = { PERI_SYNTHETIC_SEED, dim, 16, 1000, 11, 8, 20 };
    return set;
}

PERI_SHARED peri_synthetic peri_synthetic_32(uint32_t dim) {
    peri_synthetic set = { PERI_SYNTHETIC_SEED, dim, 32, 1000, 8, 8, 20 };
    return set;
}

/* Whether all sums of a set fit their 32 bits. */
PERI_SHARED int peri_synthetic_check(const peri_synthetic *set) {
    return set->dim > 0 && set->latents > 0 && set->latents <= PERI_SYNTHETIC_LATENTS_MAX &&
           set->clusters > 0 && set->center_scale >= 0 && set->within_scale >= 0 &&
           set->center_scale <= PERI_SYNTHETIC_SCALE_MAX - set->within_scale &&
           set->noise_scale >= 0 && set->noise_scale <= 1 << 16;
}

/* What is hashed apart. */
enum {
    PERI_SYNTHETIC_OF_CLUSTER = 1,
    PERI_SYNTHETIC_OF_CENTERS = 2,
    PERI_SYNTHETIC_OF_LATENTS = 3,
    PERI_SYNTHETIC_OF_MAP = 4,
    PERI_SYNTHETIC_OF_NOISE = 5
};

PERI_SHARED uint64_t peri_synthetic_key(uint64_t seed, uint64_t what, uint64_t stream,
                                        uint64_t row) {
    return peri_random_mix(peri_random_mix(peri_random_mix(seed, what), stream), row);
}

/* Near normal: the sum of the eight bytes of a hash, -1020..1020, of deviation 209. */
PERI_SHARED int32_t peri_synthetic_normal(uint64_t key, uint64_t counter) {
    const uint64_t even = UINT64_C(0x00FF00FF00FF00FF);
    const uint64_t bits = peri_random_mix(key, counter);
    const uint64_t pairs = (bits & even) + (bits >> 8 & even);
    return (int32_t)((pairs * UINT64_C(0x0001000100010001)) >> 48) - 1020;
}

/* Coordinate j of a row in the latent space. The caller knows the two keys and the cluster. */
PERI_SHARED int32_t peri_synthetic_latent(const peri_synthetic *set, uint64_t center_key,
                                          uint64_t row_key, uint32_t j) {
    return set->center_scale * peri_synthetic_normal(center_key, j) +
           set->within_scale * peri_synthetic_normal(row_key, j);
}

PERI_SHARED uint32_t peri_synthetic_cluster(const peri_synthetic *set, uint64_t stream,
                                            uint64_t row) {
    const uint64_t key = peri_synthetic_key(set->seed, PERI_SYNTHETIC_OF_CLUSTER, stream, row);
    return peri_random_below(key, 0, set->clusters);
}

/* All latent coordinates of a row. */
PERI_SHARED void peri_synthetic_latents(const peri_synthetic *set, uint64_t stream, uint64_t row,
                                        int32_t *latents) {
    const uint32_t cluster = peri_synthetic_cluster(set, stream, row);
    const uint64_t center = peri_synthetic_key(set->seed, PERI_SYNTHETIC_OF_CENTERS, 0, cluster);
    const uint64_t own = peri_synthetic_key(set->seed, PERI_SYNTHETIC_OF_LATENTS, stream, row);
    for (uint32_t j = 0; j < set->latents; j++)
        latents[j] = peri_synthetic_latent(set, center, own, j);
}

/* The noise of columns 2 * pair and 2 * pair + 1: sums of four bytes, of deviation 148. */
PERI_SHARED void peri_synthetic_noise(uint64_t key, uint32_t pair, int32_t *first,
                                      int32_t *second) {
    const uint64_t even = UINT64_C(0x00FF00FF00FF00FF);
    const uint64_t bits = peri_random_mix(key, pair);
    uint64_t sums = (bits & even) + (bits >> 8 & even);
    sums += sums >> 16;
    *first = (int32_t)(sums & 0xFFFF) - 510;
    *second = (int32_t)(sums >> 32 & 0xFFFF) - 510;
}

/* Entry (column i, latent j) of the map; map[j * dim + i] of the table below. */
PERI_SHARED int16_t peri_synthetic_map_entry(const peri_synthetic *set, uint32_t i, uint32_t j) {
    const uint64_t key = peri_synthetic_key(set->seed, PERI_SYNTHETIC_OF_MAP, 0, i);
    return (int16_t)peri_synthetic_normal(key, j);
}

/* The number of a value, from the sum of its column and its noise. The shift rounds down. */
PERI_SHARED float peri_synthetic_value(const peri_synthetic *set, int32_t sum, int32_t noise) {
    const int32_t whole = (int32_t)(((uint32_t)sum + (1U << 31)) >> 6) - (1 << 25);
    return (float)(whole + set->noise_scale * noise) * (1.0F / 65536);
}

/* Fills the table of the map, [latents, dim]. */
static inline void peri_synthetic_map(const peri_synthetic *set, int16_t *map) {
    for (uint32_t j = 0; j < set->latents; j++)
        for (uint32_t i = 0; i < set->dim; i++)
            map[(size_t)j * set->dim + i] = peri_synthetic_map_entry(set, i, j);
}

/* Row `row` of a stream, `dim` values. map: as peri_synthetic_map filled it. */
static inline void peri_synthetic_row(const peri_synthetic *set, const int16_t *map,
                                      uint64_t stream, uint64_t row, float *values) {
    const uint64_t key = peri_synthetic_key(set->seed, PERI_SYNTHETIC_OF_NOISE, stream, row);
    int32_t latents[PERI_SYNTHETIC_LATENTS_MAX];
    peri_synthetic_latents(set, stream, row, latents);
    for (uint32_t from = 0; from < set->dim; from += PERI_SYNTHETIC_COLUMNS) {
        const uint32_t left = set->dim - from;
        const uint32_t columns = left < PERI_SYNTHETIC_COLUMNS ? left : PERI_SYNTHETIC_COLUMNS;
        int32_t sums[PERI_SYNTHETIC_COLUMNS] = { 0 }, noise[PERI_SYNTHETIC_COLUMNS];
        for (uint32_t j = 0; j < set->latents; j++) {
            const int16_t *entries = map + (size_t)j * set->dim + from;
            for (uint32_t i = 0; i < columns; i++) sums[i] += entries[i] * latents[j];
        }
        for (uint32_t i = 0; i < columns; i += 2)
            peri_synthetic_noise(key, (from + i) / 2, noise + i, noise + i + 1);
        for (uint32_t i = 0; i < columns; i++)
            values[from + i] = peri_synthetic_value(set, sums[i], noise[i]);
    }
}

#endif
