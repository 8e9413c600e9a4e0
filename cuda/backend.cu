/* backend.cu: the table of the plug-in and its one symbol. No kernels.
 *
 * The runtime is linked statically and loads the driver by itself, so the plug-in loads on machines
 * without a GPU and says so when it is asked for devices. */
#include "device.cuh"
#include "ops.h"

namespace {

/* NULL: not on this device. */
const peri_cuda_op *find(peri_op_kind kind) {
    switch (kind) {
#define OP_CASE(NAME, name)                                                                        \
    case PERI_OP_##NAME: return &peri_cuda_##name##_op;
        PERI_CUDA_OP_MAP(OP_CASE)
#undef OP_CASE
    default: return nullptr;
    }
}

bool supports(const peri_device *device, const peri_op *op, char *reason, size_t size) {
    const peri_cuda_answer why = { reason, size };
    const peri_cuda_op *found = find(op->kind);
    if (found != nullptr) return found->supports(device, op, why);
    return peri_cuda_refuse(why, "not on cuda: %s", peri_cuda_name(op->kind));
}

} /* namespace */

size_t peri_cuda_scratch_bytes(const peri_device *device, const peri_op *op) {
    const peri_cuda_op *found = find(op->kind);
    return found == nullptr || found->scratch == nullptr ? 0 : found->scratch(device, op);
}

peri_status peri_cuda_run(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes) {
    const peri_cuda_op *found = find(op->kind);
    if (found == nullptr)
        return stream->device->host->fail(PERI_E_UNSUPPORTED, "operation %s is not on cuda",
                                          peri_cuda_name(op->kind));
    peri_cuda_entered here(stream->device);
    if (here.status != PERI_OK) return here.status;
    return found->run(stream, op, scratch, bytes);
}

namespace {

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
    d.mem_check = peri_cuda_mem_check;
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
    d.supports = supports;
    d.scratch_bytes = peri_cuda_scratch_bytes;
    d.run = peri_cuda_run;
    d.plan_compile = peri_cuda_plan_compile;
    d.plan_run = peri_cuda_plan_run;
    d.plan_close = peri_cuda_plan_close;
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
