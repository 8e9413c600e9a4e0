/* device.cuh: what the files of the plug-in share: the structs behind the handles, and how a CUDA
 * error becomes a status.
 *
 * Who may touch what: `bytes`, `limit` and `dead` change by atomic operations; `dead_detail` is
 * written once, by the thread that turns `dead` from 0 to 1, before it becomes 2. A stream is one
 * thread's at a time. The rest never changes once a device is open. */
#ifndef PERI_CUDA_DEVICE_CUH
#define PERI_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

#include "perigee_backend.h"

struct peri_cuda_device {
    peri_device base;
    int multiprocessors;
    bool hopper; /* wgmma and bulk copies: of compute capability 9.0, and sm_90a was compiled */
    int dead;    /* 0 alive, 1 being marked, 2 dead: its CUDA context is lost */
    char dead_detail[256];
    size_t bytes[PERI_USE_COUNT]; /* of the device's own memory, held */
    size_t limit;                 /* 0 = all it has */
    cudaMemPool_t pool;           /* of its memory; NULL: the driver has no pools */
    cudaStream_t pool_stream;     /* orders the pool; nothing else runs there */
};

struct peri_cuda_stream {
    peri_stream base;
    cudaStream_t handle;
    bool foreign;
};

static inline peri_cuda_device *peri_cuda_of(const peri_device *device) {
    return (peri_cuda_device *)device;
}
static inline cudaStream_t peri_cuda_handle(const peri_stream *stream) {
    return ((const peri_cuda_stream *)stream)->handle;
}

static inline size_t peri_cuda_dtype_bytes(peri_dtype dtype) {
    switch (dtype) {
#define PERI_CUDA_BYTES(name, word, bytes)                                                         \
    case PERI_##name: return bytes;
        PERI_DTYPE_MAP(PERI_CUDA_BYTES)
#undef PERI_CUDA_BYTES
    case PERI_DTYPE_COUNT: break;
    }
    return 0;
}

/* PERI_E_DEVICE with what CUDA says of `error`, after clearing it; `call` is the source text. An
 * error that CUDA keeps for ever marks the device dead; want of memory is PERI_E_MEMORY. */
peri_status peri_cuda_failed(const peri_device *device, cudaError_t error, const char *call);

#define CU_TRY(device, call)                                                                       \
    do {                                                                                           \
        cudaError_t cu_error_ = (call);                                                            \
        if (cu_error_ != cudaSuccess) return peri_cuda_failed((device), cu_error_, #call);         \
    } while (0)

/* After a launch. With PERI_CUDA_SYNC, waits, so that the launch at fault is the one that is
 * blamed. */
static inline peri_status peri_cuda_launched(const peri_stream *stream) {
    CU_TRY(stream->device, cudaGetLastError());
#ifdef PERI_CUDA_SYNC
    cudaStreamCaptureStatus capture; /* of a plan: nothing runs yet */
    CU_TRY(stream->device, cudaStreamIsCapturing(peri_cuda_handle(stream), &capture));
    if (capture == cudaStreamCaptureStatusNone)
        CU_TRY(stream->device, cudaStreamSynchronize(peri_cuda_handle(stream)));
#endif
    return PERI_OK;
}

/* Makes a device current for one call and puts back what was: the thread is the caller's, and so
 * may be the CUDA context that it uses otherwise. `status` says why not: forked, dead, CUDA's own
 * reason. */
class peri_cuda_entered {
  public:
    explicit peri_cuda_entered(const peri_device *device);
    ~peri_cuda_entered();
    peri_cuda_entered(const peri_cuda_entered &) = delete;
    peri_cuda_entered &operator=(const peri_cuda_entered &) = delete;
    peri_status status;

  private:
    void *before; /* a CUcontext, or NULL */
};

/* ---- the slots of device.cu, stream.cu, plan.cu and memory.cu, for the table in backend.cu */

peri_status peri_cuda_device_count(const peri_host *host, uint32_t *out);
peri_status peri_cuda_device_stat(const peri_host *host, uint32_t number, peri_device *device,
                                  peri_device_info *out);
peri_status peri_cuda_device_open(const peri_host *host, peri_context *context, uint32_t number,
                                  uint32_t threads, peri_device **out);
void peri_cuda_device_close(peri_device *device);
peri_status peri_cuda_stream_open(peri_device *device, peri_stream **out);
void peri_cuda_stream_close(peri_stream *stream);
peri_status peri_cuda_stream_wrap(peri_device *device, void *foreign, peri_stream **out);
peri_status peri_cuda_stream_wait(peri_stream *stream, const peri_control *control);
peri_status peri_cuda_stream_notify(peri_stream *stream, peri_notify_fn fn, void *ud);
peri_status peri_cuda_event_open(peri_device *device, peri_event **out);
peri_status peri_cuda_event_record(peri_event *event, peri_stream *stream);
peri_status peri_cuda_event_wait(peri_event *event, peri_stream *stream);
void peri_cuda_event_close(peri_event *event);
peri_status peri_cuda_plan_compile(peri_stream *stream, const peri_op *const *ops,
                                   void *const *scratch, size_t count, void **out);
peri_status peri_cuda_plan_run(peri_stream *stream, void *compiled);
void peri_cuda_plan_close(void *compiled);

peri_status peri_cuda_mem_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                  peri_memory_use use, peri_mem **out);
void peri_cuda_mem_release(peri_mem *mem);
peri_status peri_cuda_mem_wrap(peri_device *device, void *data, size_t bytes, peri_mem **out);
peri_status peri_cuda_mem_check(peri_device *device, const void *data, size_t bytes);
peri_status peri_cuda_mem_limit(peri_device *device, size_t bytes);
peri_status peri_cuda_copy(peri_stream *stream, void *to, size_t to_stride, peri_device *to_device,
                           const void *from, size_t from_stride, peri_device *from_device,
                           size_t rows, size_t row_bytes);
peri_status peri_cuda_fill(peri_stream *stream, void *to, int byte, size_t bytes);

/* Bytes of the device's own memory that are held, all uses together. */
size_t peri_cuda_bytes_held(const peri_cuda_device *device);
/* Bytes that nobody holds and that the pool would hand out next. */
size_t peri_cuda_pool_idle(const peri_cuda_device *device);
/* For opening and closing a device, which is current. */
peri_status peri_cuda_pool_open(peri_cuda_device *device);
void peri_cuda_pool_close(peri_cuda_device *device);

/* ---- backend.cu: the operations by their kind */

size_t peri_cuda_scratch_bytes(const peri_device *device, const peri_op *op);
peri_status peri_cuda_run(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes);

#endif
