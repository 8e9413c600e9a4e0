/* backend.cu: the table of the plug-in and its one symbol. No kernels.
 *
 * The runtime is linked statically and loads the driver by itself, so the plug-in loads on machines
 * without a GPU and says so when it is asked for devices. */
#include "device.cuh"
#include "ops.h"

namespace {

size_t scratch_bytes(const peri_device *device, const peri_op *op) {
    return op->kind == PERI_OP_KNN ? peri_cuda_knn_scratch(device, (const peri_op_knn *)op) : 0;
}

peri_status run(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes) {
    peri_cuda_entered here(stream->device);
    if (here.status != PERI_OK) return here.status;
    switch (op->kind) {
    case PERI_OP_CONVERT: return peri_cuda_convert(stream, (const peri_op_convert *)op);
    case PERI_OP_LENGTHS: return peri_cuda_lengths(stream, (const peri_op_lengths *)op);
    case PERI_OP_GATHER: return peri_cuda_gather(stream, (const peri_op_gather *)op);
    case PERI_OP_KNN: return peri_cuda_knn(stream, (const peri_op_knn *)op, scratch, bytes);
    case PERI_OP_REFINE: return peri_cuda_refine(stream, (const peri_op_refine *)op);
    default: break;
    }
    return stream->device->host->fail(PERI_E_UNSUPPORTED, "operation %d is not on cuda", op->kind);
}

peri_driver make_driver() {
    peri_driver d = {};
    d.abi = PERI_BACKEND_ABI;
    d.name = "cuda";
    d.kind = PERI_PLACE_CUDA;
    d.device_count = peri_cuda_device_count;
    d.device_stat = peri_cuda_device_stat;
    d.device_open = peri_cuda_device_open;
    d.device_close = peri_cuda_device_close;
    d.mem_acquire = peri_cuda_mem_acquire;
    d.mem_release = peri_cuda_mem_release;
    d.mem_wrap = peri_cuda_mem_wrap;
    d.mem_limit = peri_cuda_mem_limit;
    d.stream_open = peri_cuda_stream_open;
    d.stream_close = peri_cuda_stream_close;
    d.stream_wrap = peri_cuda_stream_wrap;
    d.stream_wait = peri_cuda_stream_wait;
    d.stream_notify = peri_cuda_stream_notify;
    d.copy = peri_cuda_copy;
    d.fill = peri_cuda_fill;
    d.event_open = peri_cuda_event_open;
    d.event_record = peri_cuda_event_record;
    d.event_wait = peri_cuda_event_wait;
    d.event_close = peri_cuda_event_close;
    d.supports = peri_cuda_supports;
    d.scratch_bytes = scratch_bytes;
    d.run = run;
    return d;
}

const peri_driver driver = make_driver();

} /* namespace */

extern "C" PERI_API const peri_driver *perigee_plugin(uint32_t abi, const peri_host *host);

extern "C" PERI_API const peri_driver *perigee_plugin(uint32_t abi, const peri_host *host) {
    if (abi == PERI_BACKEND_ABI && host->abi == PERI_BACKEND_ABI) return &driver;
    (void)host->fail(PERI_E_DEVICE,
                     "the CUDA plug-in is of interface %u, this library of %u: "
                     "build both together",
                     PERI_BACKEND_ABI, (unsigned)abi);
    return nullptr;
}
