/* stream.cu: streams and events. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "device.cuh"

namespace {

/* Between looks at a busy stream: an eighth of what it took so far, so that a short wait is not
 * made a long one. */
constexpr long PAUSE_NANOSECONDS_LEAST = 5000, PAUSE_NANOSECONDS_MOST = 1000000;
constexpr long POLL_NANOSECONDS = 20000000; /* between the caller's polls; 20 ms, taste */

} /* namespace */

/* ---- streams ------------------------------------------------------------------------------ */

namespace {

peri_status stream_create(peri_device *device, peri_cuda_stream **out) {
    auto *self = (peri_cuda_stream *)device->host->resize(device->context, nullptr, 0,
                                                          sizeof(peri_cuda_stream));
    *out = self;
    if (self == nullptr)
        return device->host->fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                                  sizeof(peri_cuda_stream));
    memset((void *)self, 0, sizeof *self);
    self->base.device = device;
    return PERI_OK;
}

} /* namespace */

peri_status peri_cuda_stream_open(peri_device *device, peri_stream **out) {
    *out = nullptr;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    peri_cuda_stream *self;
    peri_status status = stream_create(device, &self);
    if (status != PERI_OK) return status;
    cudaError_t error = cudaStreamCreateWithFlags(&self->handle, cudaStreamNonBlocking);
    if (error != cudaSuccess) {
        device->host->resize(device->context, self, sizeof *self, 0);
        return peri_cuda_failed(device, error, "cudaStreamCreateWithFlags");
    }
    *out = &self->base;
    return PERI_OK;
}

namespace {

/* A stream of another device is told here, not by the first thing that is enqueued. A driver that
 * can't say (before CUDA 12.8) is taken at the caller's word. */
peri_status foreign_check(const peri_device *device, cudaStream_t foreign) {
#if CUDART_VERSION >= 12080
    unsigned number = device->place.number;
    int found = (int)number;
    cudaError_t error = cudaStreamGetDevice(foreign, &found);
    if (error == cudaSuccess && found != (int)number)
        return device->host->fail(PERI_E_ARGUMENT,
                                  "stream: %p given, which is of cuda:%d, allowed: one of cuda:%u",
                                  (void *)foreign, found, number);
    if (error == cudaErrorInvalidResourceHandle) {
        (void)cudaGetLastError();
        return device->host->fail(PERI_E_ARGUMENT,
                                  "stream: %p given, which is none, allowed: one of cuda:%u",
                                  (void *)foreign, number);
    }
    (void)cudaGetLastError();
#else
    (void)device;
    (void)foreign;
#endif
    return PERI_OK;
}

} /* namespace */

peri_status peri_cuda_stream_wrap(peri_device *device, void *foreign, peri_stream **out) {
    *out = nullptr;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    peri_cuda_stream *self;
    peri_status status = foreign_check(device, (cudaStream_t)foreign);
    if (status != PERI_OK) return status;
    status = stream_create(device, &self);
    if (status != PERI_OK) return status;
    self->handle = (cudaStream_t)foreign;
    self->foreign = true;
    *out = &self->base;
    return PERI_OK;
}

void peri_cuda_stream_close(peri_stream *stream) {
    if (stream == nullptr) return;
    auto *self = (peri_cuda_stream *)stream;
    peri_device *device = stream->device;
    if (!self->foreign) {
        peri_cuda_entered here(device);
        if (here.status == PERI_OK) {
            (void)cudaStreamSynchronize(self->handle);
            (void)cudaStreamDestroy(self->handle);
            (void)cudaGetLastError();
        }
    }
    device->host->resize(device->context, self, sizeof *self, 0);
}

namespace {

long now() {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (long)time.tv_sec * 1000000000 + time.tv_nsec;
}

} /* namespace */

/* With a control the stream is looked at, so that it can be left; without, CUDA waits, which is
 * quicker. */
peri_status peri_cuda_stream_wait(peri_stream *stream, const peri_control *control) {
    peri_cuda_entered here(stream->device);
    if (here.status != PERI_OK) return here.status;
    cudaStream_t handle = peri_cuda_handle(stream);
    peri_status ended = PERI_OK;
    if (control != nullptr && control->poll != nullptr) {
        long began = now(), asked = began;
        while (ended == PERI_OK && cudaStreamQuery(handle) == cudaErrorNotReady) {
            (void)cudaGetLastError();
            long at = now(), pause = (at - began) / 8;
            if (pause < PAUSE_NANOSECONDS_LEAST) pause = PAUSE_NANOSECONDS_LEAST;
            if (pause > PAUSE_NANOSECONDS_MOST) pause = PAUSE_NANOSECONDS_MOST;
            const struct timespec time = { 0, pause };
            nanosleep(&time, nullptr);
            if (at - asked < POLL_NANOSECONDS) continue;
            asked = at;
            ended = control->poll(control->ud, "waiting", 0, 0);
        }
    }
    cudaError_t error = cudaStreamSynchronize(handle);
    if (error == cudaSuccess) return ended;
    return peri_cuda_failed(stream->device, error, "what was enqueued");
}

namespace {

struct notice {
    peri_notify_fn fn;
    void *ud;
    peri_device *device;
};

/* No CUDA call may be made in here. */
void CUDART_CB notify(cudaStream_t, cudaError_t error, void *ud) {
    notice told = *(notice *)ud;
    told.device->host->resize(told.device->context, ud, sizeof(notice), 0);
    if (error == cudaSuccess) {
        told.fn(told.ud, PERI_OK, "");
        return;
    }
    char detail[256];
    snprintf(detail, sizeof detail, "cuda:%u: %s (%s)", (unsigned)told.device->place.number,
             cudaGetErrorString(error), cudaGetErrorName(error));
    told.fn(told.ud, PERI_E_DEVICE, detail);
}

} /* namespace */

/* cudaLaunchHostFunc would be the newer call, but it is not made after a failure: whoever waits
 * for the notice would wait for ever. The callback is, and is told the error. */
peri_status peri_cuda_stream_notify(peri_stream *stream, peri_notify_fn fn, void *ud) {
    peri_device *device = stream->device;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    auto *told = (notice *)device->host->resize(device->context, nullptr, 0, sizeof(notice));
    if (told == nullptr)
        return device->host->fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                                  sizeof(notice));
    *told = notice{ fn, ud, device };
    cudaError_t error = cudaStreamAddCallback(peri_cuda_handle(stream), notify, told, 0);
    if (error == cudaSuccess) return PERI_OK;
    device->host->resize(device->context, told, sizeof *told, 0);
    return peri_cuda_failed(device, error, "cudaStreamAddCallback");
}

/* ---- events ------------------------------------------------------------------------------- */

struct peri_event {
    peri_device *device;
    cudaEvent_t handle;
};

peri_status peri_cuda_event_open(peri_device *device, peri_event **out) {
    *out = nullptr;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    auto *event = (peri_event *)device->host->resize(device->context, nullptr, 0,
                                                     sizeof(peri_event));
    if (event == nullptr)
        return device->host->fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                                  sizeof(peri_event));
    event->device = device;
    cudaError_t error = cudaEventCreateWithFlags(&event->handle, cudaEventDisableTiming);
    if (error != cudaSuccess) {
        device->host->resize(device->context, event, sizeof *event, 0);
        return peri_cuda_failed(device, error, "cudaEventCreateWithFlags");
    }
    *out = event;
    return PERI_OK;
}

peri_status peri_cuda_event_record(peri_event *event, peri_stream *stream) {
    peri_cuda_entered here(stream->device);
    if (here.status != PERI_OK) return here.status;
    CU_TRY(stream->device, cudaEventRecord(event->handle, peri_cuda_handle(stream)));
    return PERI_OK;
}

peri_status peri_cuda_event_wait(peri_event *event, peri_stream *stream) {
    peri_cuda_entered here(stream->device);
    if (here.status != PERI_OK) return here.status;
    CU_TRY(stream->device, cudaStreamWaitEvent(peri_cuda_handle(stream), event->handle, 0));
    return PERI_OK;
}

void peri_cuda_event_close(peri_event *event) {
    if (event == nullptr) return;
    peri_device *device = event->device;
    {
        peri_cuda_entered here(device);
        if (here.status == PERI_OK) (void)cudaEventDestroy(event->handle);
    }
    device->host->resize(device->context, event, sizeof *event, 0);
}
