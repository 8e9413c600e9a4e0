/* host_memory.h: what the backends on the host share: devices and streams whose memory is the
 * host's and whose run() has finished when it returns. ref and cpu differ in their operations
 * only. */
#ifndef PERI_BACKEND_HOST_MEMORY_H
#define PERI_BACKEND_HOST_MEMORY_H

#include "perigee_backend.h"

/* Slots for a driver's table. */
peri_status peri_host_device_open(const peri_driver *driver, const peri_host *host,
                                  peri_context *context, uint32_t number, uint32_t threads,
                                  peri_device **out);
void peri_host_device_close(peri_device *device);
peri_status peri_host_mem_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                  peri_memory_use use, peri_mem **out);
void peri_host_mem_release(peri_mem *mem);
peri_status peri_host_mem_wrap(peri_device *device, void *data, size_t bytes, peri_mem **out);
peri_status peri_host_stream_open(peri_device *device, peri_stream **out);
void peri_host_stream_close(peri_stream *stream);
peri_status peri_host_stream_wait(peri_stream *stream, const peri_control *control);
peri_status peri_host_copy(peri_stream *stream, void *to, size_t to_stride, peri_device *to_device,
                           const void *from, size_t from_stride, peri_device *from_device,
                           size_t rows, size_t row_bytes);
peri_status peri_host_fill(peri_stream *stream, void *to, int byte, size_t bytes);

/* Bytes of the struct of an operation. */
size_t peri_op_bytes(peri_op_kind kind);

/* Plans that run their operations one by one; host_plan.c. */
peri_status peri_host_plan_compile(peri_stream *stream, const peri_op *const *ops,
                                   void *const *scratch, size_t count, void **out);
peri_status peri_host_plan_run(peri_stream *stream, void *compiled);
void peri_host_plan_close(void *compiled);

#endif
