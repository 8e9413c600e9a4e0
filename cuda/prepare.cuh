/* prepare.cuh: rows and queries made ready for the coarse pass: less a centre, times a power of
 * two, rounded to f16, padded to a depth; and what the certificate (certificate.cuh) needs to know
 * of them. All are enqueued; nothing waits. */
#ifndef PERI_CUDA_PREPARE_CUH
#define PERI_CUDA_PREPARE_CUH

#include <cuda_fp16.h>

#include "certificate.cuh"
#include "device.cuh"

/* On the device, one for an operation. Maxima are bits of floats that are not negative. */
struct peri_prepared_stats {
    float scale;            /* of the rows, a power of two */
    float norm_most;        /* a longer row (squared, scaled) is out of range */
    uint32_t norm_max;      /* of |Y|^2 */
    uint32_t residual_max;  /* of |dX|^2 */
    uint32_t length_max;    /* of |x|^2 */
    uint32_t fractions;     /* not 0: the sample is not of whole numbers, or cosine divides them */
    uint32_t row_fractions; /* not 0: some row is not, though the sample is */
    uint32_t arrived;       /* blocks that have seen their part of the sample */
    uint32_t shorter;       /* rows of the sample that are shorter less the centre */
    float largest[2]
                 [32]; /* of each group of the sample, less the centre and as it came: element, */
    float longest[2][32]; /* and squared length */
};

/* A query's part of the certificate. */
struct peri_prepared_query {
    peri_doubt_query doubt;
    uint32_t proves; /* 0: out of range */
    uint32_t whole;  /* of whole numbers, which are halves as they came */
};

/* How rows are seen. The same for the three below. */
struct peri_prepare {
    peri_metric metric;
    peri_view rows;
    size_t total;           /* rows that count: all, or those named; not 0 */
    const uint32_t *names;  /* [total] or NULL: 0, 1, 2 .. */
    const float *lengths;   /* of all rows; cosine */
    bool centred;           /* less a centre and scaled; else both are left out, as they are where
                              the sample is of whole numbers: sums of these can be exact */
    bool bytes;             /* rows of i8 and u8 stay what they are; else all become f16 */
    uint32_t depth;         /* elements, a multiple of 128 bytes, >= columns */
    const uint32_t *needed; /* NULL, or nothing is done when it is 0 */
    float *centre;          /* [depth] */
    peri_prepared_stats *stats;
    size_t sample_step; /* set by peri_prepare_begin */
};

/* Squared L2 counts |row|^2 into the value; the inner product and cosine don't. */
PERI_BOTH static inline bool peri_prepare_squared(peri_metric metric) {
    return metric == PERI_SQEUCLIDEAN || metric == PERI_EUCLIDEAN;
}

/* Fills centre and stats: of a sample of the rows, such that a few rows far from all others change
 * nothing. */
peri_status peri_prepare_begin(peri_stream *stream, peri_prepare *p);

/* Rows first .. first + count - 1 of those that count: out [count, depth], or NULL when rows are
 * used as they are; terms [count]. Adds to the maxima of the stats. */
peri_status peri_prepare_rows(peri_stream *stream, const peri_prepare *p, size_t first,
                              size_t count, void *out, float *terms);

/* Queries [q, d]: out [q, depth] as rows are, about [q]. */
peri_status peri_prepare_queries(peri_stream *stream, const peri_prepare *p,
                                 const peri_view *queries, void *out, peri_prepared_query *about);

/* The names of the rows that pass bits[0], ascending: names [passing]. Scratch of as many bytes as
 * peri_prepare_names_scratch() says. */
size_t peri_prepare_names_scratch(size_t rows);
peri_status peri_prepare_names(peri_stream *stream, const uint64_t *const *bits, size_t rows,
                               uint32_t *names, size_t passing, void *scratch);

#endif
