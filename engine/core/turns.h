/* turns.h: a random orthonormal rotation that costs D log D instead of D^2.
 *
 * Four rounds; each flips signs at random, runs a Hadamard transform over the largest power of
 * two that fits (the first columns in rounds 0 and 2, the last ones in 1 and 3), and, when D is
 * no power of two, mixes column i with column i + D / 2 by a turn of 45 degrees, so that every
 * column reaches every other. The input is padded with zeros from `dim` to D. Each step keeps
 * lengths, so the whole is orthonormal to rounding; undo() is its transpose.
 *
 * Source: Ailon & Chazelle, The fast Johnson-Lindenstrauss transform (2009) for signs and
 * Hadamard; the pairwise turns are Kac's walk. Plain sums in a fixed order: the same bits
 * everywhere. */
#ifndef PERI_CORE_TURNS_H
#define PERI_CORE_TURNS_H

#include <stddef.h>
#include <stdint.h>

#define PERI_TURNS_ROUNDS 4

typedef struct peri_turns {
    uint32_t dim, out_dim; /* dim <= out_dim */
    uint32_t power;        /* the largest power of two <= out_dim */
    const float *signs;    /* [PERI_TURNS_ROUNDS, out_dim] 1 or -1 */
} peri_turns;

static inline peri_turns peri_turns_of(uint32_t dim, uint32_t out_dim, const float *signs) {
    peri_turns turns = { dim, out_dim, 1, signs };
    while (turns.power <= out_dim / 2) turns.power *= 2;
    return turns;
}

/* out [out_dim] = rotation of x [dim]. */
void peri_turns_apply(const peri_turns *turns, const float *x, float *out);
/* The other way, in place: y [out_dim]; its first `dim` numbers are the result. */
void peri_turns_undo(const peri_turns *turns, float *y);

#endif
