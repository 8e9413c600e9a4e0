/* perigee_dlpack.h: matrices from and to the tensors of other libraries in the process, without a
 * copy. A part of the public C API; a program that includes DLPack's own header may do so before or
 * after this one. */
#ifndef PERIGEE_DLPACK_H
#define PERIGEE_DLPACK_H

#include "perigee.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tensors as DLPack describes them (https://dmlc.github.io/dlpack), from and to other libraries of
 * the process: one or two axes, packed columns, f32 f16 i8 u8 i32 u32 i64, in the memory of the
 * host, of a CUDA device, or of both. Nothing is copied. */
struct DLManagedTensor;
struct DLManagedTensorVersioned;

/* Where a tensor says that it is, page-locked memory being the host's: whose queue is waited for
 * before it is taken. */
PERI_API peri_status peri_dlpack_place(const struct DLManagedTensor *tensor, peri_place *out);
PERI_API peri_status peri_dlpack_place_versioned(const struct DLManagedTensorVersioned *tensor,
                                                 peri_place *out);
/* A matrix over the tensor's memory; one axis of n is n rows of one column. From then on the tensor
 * is the matrix's, which calls its deleter at the end, on any thread; when this fails, it stays the
 * caller's. What was enqueued to fill it must be done: see peri_queue_wait. PERI_E_ARGUMENT: a
 * type, shape, stride, device or address that is not taken, named. */
PERI_API peri_status peri_matrix_from_dlpack(peri_context *context, struct DLManagedTensor *tensor,
                                             peri_matrix **out);
PERI_API peri_status peri_matrix_from_dlpack_versioned(peri_context *context,
                                                       struct DLManagedTensorVersioned *tensor,
                                                       peri_matrix **out);
/* A tensor over the matrix's memory, which it retains; whoever takes it calls its deleter. A matrix
 * is a value: who writes to it changes what all see. PERI_E_UNSUPPORTED: a stride that is no whole
 * number of elements. */
PERI_API peri_status peri_matrix_to_dlpack(peri_matrix *matrix, struct DLManagedTensor **out);
PERI_API peri_status peri_matrix_to_dlpack_versioned(peri_matrix *matrix,
                                                     struct DLManagedTensorVersioned **out);

#ifdef __cplusplus
}
#endif
#endif
