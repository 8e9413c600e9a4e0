/* ops.h: the launchers of the plug-in, one operation a file. Each enqueues on the stream and
 * returns; the caller has made the device current. peri_cuda_<op>_scratch() is an upper bound, in
 * bytes. */
#ifndef PERI_CUDA_OPS_H
#define PERI_CUDA_OPS_H

#include <cuda_runtime_api.h>

#include "perigee_backend.h"

/* The selection keeps its candidates in shared memory: 2 * 1024 keys of 8 bytes. */
#define PERI_CUDA_K_MAX 1024u

#ifdef __cplusplus
extern "C" {
#endif

peri_status peri_cuda_convert(peri_stream *stream, const peri_op_convert *op);
peri_status peri_cuda_lengths(peri_stream *stream, const peri_op_lengths *op);
peri_status peri_cuda_gather(peri_stream *stream, const peri_op_gather *op);
peri_status peri_cuda_knn(peri_stream *stream, const peri_op_knn *op, void *scratch,
                          size_t scratch_bytes);
size_t peri_cuda_knn_scratch(const peri_device *device, const peri_op_knn *op);
peri_status peri_cuda_refine(peri_stream *stream, const peri_op_refine *op);

/* Whether this build holds code for the current device. */
cudaError_t peri_cuda_code_check(void);

#ifdef __cplusplus
}
#endif
#endif
