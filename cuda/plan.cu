/* plan.cu: a bound list of operations as a CUDA graph: captured once, launched as one.
 *
 * A launch of a graph costs about what one kernel's does, so that a search of several kernels on
 * little data gains a few microseconds for each but the first. Operations only enqueue, which is
 * what a capture takes; one that needs more fails its capture with CUDA's reason, and the caller
 * runs it plainly. */
#include <string.h>

#include "device.cuh"

namespace {

struct plan {
    peri_device *device;
    cudaGraphExec_t graph;
};

/* Enqueues the operations between the beginning and the end of a capture; the end is always
 * called, since a stream is of no use before it. */
peri_status capture(peri_stream *stream, const peri_op *const *ops, void *const *scratch,
                    size_t count, cudaGraph_t *out) {
    const peri_device *device = stream->device;
    cudaStream_t handle = peri_cuda_handle(stream);
    *out = nullptr;
    CU_TRY(device, cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal));
    peri_status status = PERI_OK;
    for (size_t i = 0; i < count && status == PERI_OK; i++)
        status = peri_cuda_run(stream, ops[i], scratch[i], peri_cuda_scratch_bytes(device, ops[i]));
    cudaError_t error = cudaStreamEndCapture(handle, out);
    if (status == PERI_OK && error != cudaSuccess)
        status = peri_cuda_failed(device, error, "cudaStreamEndCapture");
    (void)cudaGetLastError();
    if (status == PERI_OK || *out == nullptr) return status;
    (void)cudaGraphDestroy(*out);
    *out = nullptr;
    return status;
}

} /* namespace */

peri_status peri_cuda_plan_compile(peri_stream *stream, const peri_op *const *ops,
                                   void *const *scratch, size_t count, void **out) {
    peri_device *device = stream->device;
    const peri_host *host = device->host;
    cudaGraph_t graph;
    *out = nullptr;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    auto *self = (plan *)host->resize(device->context, nullptr, 0, sizeof(plan));
    if (self == nullptr)
        return host->fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                          sizeof(plan));
    *self = plan{ device, nullptr };
    peri_status status = capture(stream, ops, scratch, count, &graph);
    if (status == PERI_OK) {
        cudaError_t error = cudaGraphInstantiate(&self->graph, graph, 0);
        if (error != cudaSuccess) status = peri_cuda_failed(device, error, "cudaGraphInstantiate");
        (void)cudaGraphDestroy(graph);
    }
    if (status != PERI_OK) {
        host->resize(device->context, self, sizeof *self, 0);
        return status;
    }
    *out = self;
    return PERI_OK;
}

peri_status peri_cuda_plan_run(peri_stream *stream, void *compiled) {
    peri_cuda_entered here(stream->device);
    if (here.status != PERI_OK) return here.status;
    CU_TRY(stream->device, cudaGraphLaunch(((plan *)compiled)->graph, peri_cuda_handle(stream)));
    return PERI_OK;
}

void peri_cuda_plan_close(void *compiled) {
    auto *self = (plan *)compiled;
    if (self == nullptr) return;
    peri_device *device = self->device;
    {
        peri_cuda_entered here(device);
        if (here.status == PERI_OK) (void)cudaGraphExecDestroy(self->graph);
        (void)cudaGetLastError();
    }
    device->host->resize(device->context, self, sizeof *self, 0);
}
