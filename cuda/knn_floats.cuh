/* knn_floats.cuh: the first rung of exact search for few queries over f32 rows: these are read
 * once, where they lie. */
#ifndef PERI_CUDA_KNN_FLOATS_CUH
#define PERI_CUDA_KNN_FLOATS_CUH

#include "device.cuh"

/* Whether an operation is worth it: f32 rows, squared L2 or the inner product, no filter, a batch
 * that memory binds. */
bool peri_knn_floats_takes(const peri_op_knn *op);

/* Upper bound, bytes; `scratch` below is aligned to 256. */
size_t peri_knn_floats_scratch(const peri_device *device, const peri_op_knn *op);

/* Bytes of the state. Its first words say how many queries are to be done in another way, and how
 * many were tried in this one: all or 0. What was tried in vain is counted in `redone`. */
constexpr size_t PERI_KNN_FLOATS_STATE = 512;
enum { PERI_KNN_FLOATS_AGAIN, PERI_KNN_FLOATS_TRIED };

/* Enqueues: answers of all queries or of none, and the state, which is apart from the scratch. */
peri_status peri_knn_floats_run(peri_stream *stream, const peri_op_knn *op, void *state,
                                void *scratch, size_t scratch_bytes);

#endif
