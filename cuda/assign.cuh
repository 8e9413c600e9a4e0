/* assign.cuh: what the ways to assign share: a chunk of the rows, or a list of some of them, and
 * the key that each row ends with (select.cuh: the nearest centroid and its distance). */
#ifndef PERI_CUDA_ASSIGN_CUH
#define PERI_CUDA_ASSIGN_CUH

#include <cuda_fp16.h>

#include "device.cuh"

struct peri_assign_part {
    peri_op_assign op;
    size_t first, count;        /* rows first .. first + count - 1 */
    const uint32_t *list;       /* some of them, counted from `first`; NULL = all */
    const uint32_t *list_count; /* how many; on the device, as the list is */
    uint64_t *keys;             /* [count] by place in the list, or in the chunk without one */
};

/* Canonical distances of the rows to every centroid; writes labels and distances. */
peri_status peri_assign_direct(peri_stream *stream, const peri_assign_part *part);

/* ---- the coarse way ----------------------------------------------------------------------- */

/* The largest over all centroids, as the bits of positive floats. */
struct peri_assign_most {
    unsigned largest;  /* element, before it is scaled */
    unsigned norm;     /* length of the halves */
    unsigned residual; /* length of what rounding took */
    unsigned length;   /* as they came; inner product only */
};

/* Of a row: as struct peri_doubt_query has it. */
struct peri_assign_known {
    double norm;
    float residual, length, scale;
};

constexpr size_t PERI_ASSIGN_TERMS = 128; /* terms are in whole tiles of so many */
constexpr uint32_t PERI_ASSIGN_NEAREST = 3;

struct peri_assign_coarse_job {
    peri_op_assign op;
    uint32_t depth, wanted;   /* wanted: 2..32 */
    bool wide;                /* rows can be read 4 elements at a time */
    float *centre;            /* [d]; squared L2, else NULL */
    peri_assign_most *most;   /* [1] */
    __half *centroids, *rows; /* [c, depth], [chunk, depth] */
    float *terms;             /* [c], then +infinity to the end of the tile; 0 but for squared L2 */
    peri_assign_known *known; /* [chunk] */
    uint64_t *keys;           /* [chunk, wanted] */
    uint32_t *list;           /* [chunk] rows that are not settled, in any order */
    uint32_t *list_count;     /* [1] */
};

/* Makes centre, most, centroids and terms. */
peri_status peri_assign_coarse_centroids(peri_stream *stream, const peri_assign_coarse_job *job);
/* Makes rows and known of rows first .. first + count - 1, and clears keys and list. */
peri_status peri_assign_coarse_rows(peri_stream *stream, const peri_assign_coarse_job *job,
                                    size_t first, size_t count);
/* Fills the keys of `count` rows, wanted PERI_ASSIGN_NEAREST: no centroid that they don't name has
 * a coarse value below the last one's. Hopper, and depths of 64 and 128 alone. */
bool peri_assign_nearest_takes(const peri_device *device, uint32_t depth);
peri_status peri_assign_nearest(peri_stream *stream, const peri_assign_coarse_job *job,
                                size_t count);
/* From keys to labels and distances, or an entry of the list. */
peri_status peri_assign_coarse_settle(peri_stream *stream, const peri_assign_coarse_job *job,
                                      size_t first, size_t count);

/* Rows of T as the f32 that they stand for. */
template <typename T> __device__ inline float peri_assign_wide(T x) { return (float)x; }

#endif
