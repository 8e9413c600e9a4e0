/* support.cuh: what kernels take, and the reason in words when they don't: the checks that several
 * operations share. */
#ifndef PERI_CUDA_SUPPORT_CUH
#define PERI_CUDA_SUPPORT_CUH

#include "perigee_backend.h"

/* The selection of one block keeps its candidates in shared memory: 2 * 4096 keys of 8 bytes are
 * what a block has everywhere, once it asks. */
#define PERI_CUDA_K_MAX 4096u

/* Where the reason goes. */
struct peri_cuda_answer {
    char *text;
    size_t size;
};

/* Writes the reason and returns false. */
__attribute__((format(printf, 2, 3))) bool peri_cuda_refuse(peri_cuda_answer why,
                                                            const char *format, ...);

const char *peri_cuda_name(peri_dtype dtype);
const char *peri_cuda_name(peri_op_kind kind);

/* f32 f16 i8 u8. */
bool peri_cuda_is_vector(peri_dtype dtype);

/* A load of an element must be aligned to it. */
bool peri_cuda_aligned(const peri_view *view, peri_cuda_answer why);

/* Rows of a dtype and a dimension that are searched, aligned. */
bool peri_cuda_rows_taken(const peri_view *rows, peri_cuda_answer why);

/* Queries, rows and lengths of a search that fit each other, and any metric that the rows have. */
bool peri_cuda_scan_taken(peri_metric metric, const peri_view *queries, const peri_view *rows,
                          const float *lengths, peri_cuda_answer why);

/* The same, with a metric that follows from dot products or squared differences. */
bool peri_cuda_search_taken(peri_metric metric, const peri_view *queries, const peri_view *rows,
                            const float *lengths, peri_cuda_answer why);

#endif
