/* coarse.cuh: for each query the least keys among many rows, with values from the tensor cores:
 * the first, coarse pass of exact search and the whole of "which centroid is nearest".
 *
 *     value(i, j) = terms[j] + scale * dot(i, j)      one fused multiply-add in f32
 *     dot(i, j)   = products of the elements, exact, summed in f32 by the tensor cores, in their
 *                   order; S8 and U8 are summed in s32, which is then rounded to f32 once. TF32 are
 *                   floats of which the hardware uses 11 bits or more: whether it cuts or rounds is
 *                   its own affair, so that an element x stands for one within 2^-10 |x|; one whose
 *                   last 13 bits are 0 stands for itself
 *
 * Squared L2 up to the query's own length is terms = |row|^2, scale = -2; the inner product,
 * negated as the seam wants it, is terms = NULL, scale = -1. Two engines give it: coarse_wgmma.cu
 * (sm_90a: the bulk copy engine and wgmma) and coarse_mma.cu (sm_80 and every later one: mma.sync);
 * coarse.cu chooses and holds what both need. */
#ifndef PERI_CUDA_COARSE_CUH
#define PERI_CUDA_COARSE_CUH

#include <stddef.h>
#include <stdint.h>

#include "perigee_backend.h"

/* Up to 160 is cheap; above, a selection costs more and is as right. */
constexpr uint32_t PERI_COARSE_WANTED_MAX = 512;
/* depth * element bytes is a multiple of this. */
constexpr uint32_t PERI_COARSE_DEPTH_BYTES = 128;

typedef enum peri_coarse_type {
    PERI_COARSE_F16,
    PERI_COARSE_BF16,
    PERI_COARSE_TF32,
    PERI_COARSE_S8,
    PERI_COARSE_U8
} peri_coarse_type;

/* Which code runs; the second and third are for tests and comparisons. */
typedef enum peri_coarse_engine {
    PERI_COARSE_AUTO, /* by the device's compute capability */
    PERI_COARSE_MMA,
    PERI_COARSE_WGMMA
} peri_coarse_engine;

/* Terms made of the rows while they pass, so that these are read once. On the device. */
struct peri_coarse_norms {
    float most;   /* in: for the inner product, a row of a larger |row|^2 has the term -infinity and
                     comes first for all; at most PERI_COARSE_NORM_MOST */
    uint32_t max; /* in and out: bits of the largest |row|^2. Those above PERI_COARSE_NORM_MOST, and
                     NaN, have the term +infinity when terms are squares, and don't count; else
                     nothing is known of their values, and this is +infinity's bits */
    uint32_t parts; /* in and out: not 0: some element has more than 11 bits */
};
constexpr float PERI_COARSE_NORM_MOST = 1e37f;
constexpr double PERI_COARSE_LENGTH_MOST = 3.1e18; /* rows that are shorter are below that */
constexpr uint32_t PERI_COARSE_PARTS = 0x1FFF;     /* bits of a float beyond its first 11 */

/* All rows near enough in place of the least ones: query i collects the name of each row whose
 * value, as the upper half of a key, is at or under that of bounds[i]. */
struct peri_coarse_reach {
    uint64_t *bounds; /* [query_count]; 0: none */
    uint32_t *counts; /* [query_count] in and out: names of query i so far, in no order. Past the
                         room they are counted, roughly, and not kept */
    uint32_t *names;  /* [entries] in and out: query i's from i * room on */
    size_t entries;   /* room = entries / the number of queries, as queries_left has it */
};

/* keys[i] = the `wanted` least (value, name) among what keys[i] held before and all rows of this
 * call that pass the filter, ascending, as peri_key() of select.cuh makes them, PERI_KEY_NONE where
 * there are fewer. So rows can come chunk by chunk. A NaN counts as +infinity. The same bits each
 * time, whatever the tiles, the splits and the order of blocks. All pointers are the device's. */
struct peri_coarse {
    peri_coarse_type type;
    peri_coarse_engine engine;
    const void *queries;          /* [query_count, depth] packed, 128-byte aligned, zero-padded */
    const void *rows;             /* [row_count, columns] at row_stride_bytes, 16-byte aligned */
    size_t row_stride_bytes;      /* a multiple of 16; 0 = packed, depth elements */
    size_t query_count;           /* < 2^31 */
    size_t row_count;             /* < 2^31 */
    const uint32_t *queries_left; /* NULL, or only the first *queries_left queries are done: the
                                     launch is for query_count, what is beyond leaves at once */
    uint32_t depth;               /* elements; depth * element bytes is a multiple of 128 */
    uint32_t columns;             /* elements that a row really has, <= depth; 0 = depth */
    const float *terms;           /* [row_count], or NULL: 0 */
    peri_coarse_norms *norms;     /* NULL, or of TF32 in place of terms: made of the rows */
    bool squared;                 /* norms: terms are |row|^2, f32 sums of f32 squares; else 0 */
    float scale;
    uint32_t first;          /* the name of row j is first + j when names is NULL, */
    const uint32_t *names;   /* [row_count] else names[j] */
    peri_filter_view filter; /* by name; count 0 = all pass. For filters that differ by query
                                     (which != NULL): one for all is cheaper compacted before */
    uint32_t wanted;         /* 1 .. PERI_COARSE_WANTED_MAX */
    bool bounded;            /* what keys hold is a better bound than a sample of the rows gives */
    uint64_t *keys;          /* [query_count, wanted] in and out; 0xFF bytes at first */
    peri_coarse_reach reach; /* names != NULL: in place of keys; wanted is 1, bounded true */
};

/* An upper bound, in bytes. */
size_t peri_coarse_scratch(const peri_device *device, const peri_coarse *coarse);

/* Enqueues; scratch is 256-byte aligned and the stream's until it has run. PERI_E_ARGUMENT when the
 * plan breaks a rule above or scratch is short, PERI_E_DEVICE when CUDA refuses. */
peri_status peri_coarse_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                            size_t scratch_bytes);

/* ---- the engines, for coarse.cu: arguments are checked, there is at least one query */

size_t peri_coarse_wgmma_scratch(const peri_device *device, const peri_coarse *coarse);
peri_status peri_coarse_wgmma_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                                  size_t scratch_bytes);
size_t peri_coarse_mma_scratch(const peri_device *device, const peri_coarse *coarse);
peri_status peri_coarse_mma_run(peri_stream *stream, const peri_coarse *coarse, void *scratch,
                                size_t scratch_bytes);

static inline size_t peri_coarse_type_bytes(peri_coarse_type type) {
    if (type == PERI_COARSE_TF32) return 4;
    return type == PERI_COARSE_F16 || type == PERI_COARSE_BF16 ? 2 : 1;
}

#endif
