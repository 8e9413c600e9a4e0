/* assign.cuh: what the ways to assign share: a chunk of the rows, or a list of some of them, and
 * the key that each row ends with (select.cuh: the nearest centroid and its distance). */
#ifndef PERI_CUDA_ASSIGN_CUH
#define PERI_CUDA_ASSIGN_CUH

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

/* Rows of T as the f32 that they stand for. */
template <typename T> __device__ inline float peri_assign_wide(T x) { return (float)x; }

#endif
