/* random.h: seeded random numbers, the same on every backend (CUDA includes this file).
 *
 * Source: splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014);
 * its finalizer mixes a seed and a counter, so any number of a sequence is found without the
 * ones before. */
#ifndef PERI_CORE_RANDOM_H
#define PERI_CORE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define PERI_SHARED static __host__ __device__ inline
#else
#define PERI_SHARED static inline
#endif

/* Number `counter` of the sequence of `seed`, 64 random bits. */
PERI_SHARED uint64_t peri_random_mix(uint64_t seed, uint64_t counter) {
    uint64_t z = seed + (counter + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* A number in [0, bound), bound > 0. The bias, below bound / 2^32, is of no consequence here. */
PERI_SHARED uint32_t peri_random_below(uint64_t seed, uint64_t counter, uint32_t bound) {
    return (uint32_t)(((peri_random_mix(seed, counter) >> 32) * bound) >> 32);
}

/* A hash of bytes: what makes a walk's seeds depend on its query alone. */
PERI_SHARED uint64_t peri_random_bytes(const void *data, size_t bytes) {
    const unsigned char *p = (const unsigned char *)data;
    uint64_t h = peri_random_mix((uint64_t)bytes, 0);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        for (size_t j = 0; j < 8 && i + j < bytes; j++) word |= (uint64_t)p[i + j] << (8 * j);
        h = peri_random_mix(h ^ word, i);
    }
    return h;
}

#endif
