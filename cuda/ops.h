/* ops.h: the operations of the plug-in, one a file, each a small table: whether it takes what is
 * asked, the scratch it needs, and the launch, which enqueues on the stream and returns. What is
 * not in PERI_CUDA_OP_MAP is refused by name. */
#ifndef PERI_CUDA_OPS_H
#define PERI_CUDA_OPS_H

#include <cuda_runtime_api.h>

#include "support.cuh"

/* X(NAME, name): peri_cuda_<name>_op is defined in <name>.cu. */
#define PERI_CUDA_OP_MAP(X)                                                                        \
    X(CONVERT, convert)                                                                            \
    X(LENGTHS, lengths)                                                                            \
    X(GATHER, gather)                                                                              \
    X(SCATTER, scatter)                                                                            \
    X(SELECT_K, select_k)                                                                          \
    X(MERGE, merge)                                                                                \
    X(PAIRWISE, pairwise)                                                                          \
    X(KNN, knn)                                                                                    \
    X(OTHERS, others)                                                                              \
    X(ASSIGN, assign)                                                                              \
    X(CLUSTER_SUMS, cluster_sums)                                                                  \
    X(REFINE, refine)                                                                              \
    X(REPORT, report)                                                                              \
    X(LIST_SCAN, list_scan)                                                                        \
    X(RANGE_SCAN, range_scan)                                                                      \
    X(ROTATE, rotate)                                                                              \
    X(PQ_ENCODE, pq_encode)

/* The caller has made the device current, and asked supports() before the others. */
struct peri_cuda_op {
    bool (*supports)(const peri_device *device, const peri_op *op, peri_cuda_answer why);
    /* An upper bound in bytes; NULL: none is needed. */
    size_t (*scratch)(const peri_device *device, const peri_op *op);
    peri_status (*run)(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes);
};

#define PERI_CUDA_OP_TABLE(NAME, name) extern const peri_cuda_op peri_cuda_##name##_op;
PERI_CUDA_OP_MAP(PERI_CUDA_OP_TABLE)
#undef PERI_CUDA_OP_TABLE

/* Whether this build holds code for the current device. */
cudaError_t peri_cuda_code_check(void);

#endif
