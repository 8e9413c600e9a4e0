/* device.cu: devices, and what a failure of CUDA's means.
 *
 * CUDA is touched as late as can be: counting devices starts the driver but makes no context; a
 * context is made when a device is opened, and never in the child of a process that used CUDA,
 * where it can't work. After an error that CUDA keeps (a kernel that faulted), nothing on the
 * device works until the process ends: the device is marked dead and each later call says what
 * killed it. */
#include <cuda.h>
#include <stdio.h>
#include <string.h>

#include "device.cuh"
#include "ops.h"

namespace {

/* The generation in which this process first called CUDA; 0 = not yet. Generations begin at any
 * number, so it is kept one higher. */
uint64_t started_in;

bool forked_since_start(const peri_host *host) {
    uint64_t now = host->generation() + 1, none = 0;
    __atomic_compare_exchange_n(&started_in, &none, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return __atomic_load_n(&started_in, __ATOMIC_SEQ_CST) != now;
}

const char *const FORKED = "CUDA was used in the parent process and can't be in its child: "
                           "fork before the first use, or start a new process";

/* Errors after which every call on the context fails. */
bool is_kept(cudaError_t error) {
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorMpsClientTerminated:
#if CUDART_VERSION >= 13000
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
#endif
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorDevicesUnavailable:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown: return true;
    default: return false;
    }
}

void mark_dead(peri_cuda_device *device, cudaError_t error) {
    int alive = 0;
    if (!__atomic_compare_exchange_n(&device->dead, &alive, 1, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
        return;
    snprintf(device->dead_detail, sizeof device->dead_detail, "%s (%s)", cudaGetErrorString(error),
             cudaGetErrorName(error));
    __atomic_store_n(&device->dead, 2, __ATOMIC_SEQ_CST);
}

/* The two calls of the driver that no runtime call stands for; found when a device is opened, the
 * same each time. */
CUresult (*context_get)(CUcontext *);
CUresult (*context_set)(CUcontext);

void *driver_call(const char *name) {
    void *call = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion(name, &call, 12000, cudaEnableDefault, &found) ==
            cudaSuccess &&
        found == cudaDriverEntryPointSuccess)
        return call;
    (void)cudaGetLastError();
    return nullptr;
}

void find_driver_calls() {
    auto get = reinterpret_cast<CUresult (*)(CUcontext *)>(driver_call("cuCtxGetCurrent"));
    auto set = reinterpret_cast<CUresult (*)(CUcontext)>(driver_call("cuCtxSetCurrent"));
    __atomic_store_n(&context_get, get, __ATOMIC_SEQ_CST);
    __atomic_store_n(&context_set, set, __ATOMIC_SEQ_CST);
}

} /* namespace */

peri_status peri_cuda_failed(const peri_device *device, cudaError_t error, const char *call) {
    (void)cudaGetLastError();
    if (is_kept(error)) mark_dead(peri_cuda_of(device), error);
    const char *end = strchr(call, '(');
    int length = end == nullptr ? (int)strlen(call) : (int)(end - call);
    unsigned number = device->place.number;
    if (error != cudaErrorMemoryAllocation)
        return device->host->fail(PERI_E_DEVICE, "cuda:%u: %.*s: %s (%s)", number, length, call,
                                  cudaGetErrorString(error), cudaGetErrorName(error));
    /* a launch, a stream or a graph may be what finds no memory left: no failure of the device */
    size_t bytes_free = 0, total = 0;
    (void)cudaMemGetInfo(&bytes_free, &total);
    (void)cudaGetLastError();
    return device->host->fail(PERI_E_MEMORY,
                              "cuda:%u: %.*s: memory needed by the driver, %zu bytes free of %zu",
                              number, length, call, bytes_free, total);
}

peri_cuda_entered::peri_cuda_entered(const peri_device *device) : status(PERI_OK), before(nullptr) {
    const peri_host *host = device->host;
    unsigned number = device->place.number;
    if (host->generation() != device->generation) {
        status = host->fail(PERI_E_FORK, "cuda:%u was opened before a fork; %s", number, FORKED);
        return;
    }
    const peri_cuda_device *self = peri_cuda_of(device);
    if (__atomic_load_n(&self->dead, __ATOMIC_SEQ_CST) != 0) {
        bool told = __atomic_load_n(&self->dead, __ATOMIC_SEQ_CST) == 2;
        status = host->fail(PERI_E_DEVICE,
                            "cuda:%u is lost to this process since an earlier failure: %s", number,
                            told ? self->dead_detail : "being recorded");
        return;
    }
    auto get = __atomic_load_n(&context_get, __ATOMIC_SEQ_CST);
    CUcontext context = nullptr;
    if (get != nullptr && get(&context) == CUDA_SUCCESS) before = context;
    cudaError_t error = cudaSetDevice((int)number);
    if (error != cudaSuccess) status = peri_cuda_failed(device, error, "cudaSetDevice");
}

peri_cuda_entered::~peri_cuda_entered() {
    auto set = __atomic_load_n(&context_set, __ATOMIC_SEQ_CST);
    /* a thread that had none keeps ours: the runtime binds one in any case */
    if (before != nullptr && set != nullptr) (void)set((CUcontext)before);
}

/* ---- devices ------------------------------------------------------------------------------ */

peri_status peri_cuda_device_count(const peri_host *host, uint32_t *out) {
    *out = 0;
    if (forked_since_start(host)) return host->fail(PERI_E_FORK, "%s", FORKED);
    int count = 0, version = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) {
        *out = (uint32_t)count;
        return PERI_OK;
    }
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0)
        (void)host->fail(PERI_E_DEVICE, "no CUDA device: no NVIDIA driver is installed");
    else if (error == cudaSuccess)
        (void)host->fail(PERI_E_DEVICE, "no CUDA device: the driver sees none");
    else
        (void)host->fail(PERI_E_DEVICE,
                         "no CUDA device: %s (driver for CUDA %d.%d, built for %d.%d)",
                         cudaGetErrorString(error), version / 1000, version % 1000 / 10,
                         CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    (void)cudaGetLastError();
    return PERI_OK;
}

namespace {

peri_status no_device(const peri_host *host, uint32_t number, cudaError_t error) {
    (void)cudaGetLastError();
    return host->fail(PERI_E_DEVICE, "cuda:%u: %s", (unsigned)number, cudaGetErrorString(error));
}

uint64_t peers_of(uint32_t number) {
    int count = 0;
    uint64_t peers = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    for (int i = 0; i < count && i < 64; i++) {
        int reached = 0;
        if (i != (int)number && cudaDeviceCanAccessPeer(&reached, (int)number, i) == cudaSuccess &&
            reached != 0)
            peers |= UINT64_C(1) << i;
    }
    (void)cudaGetLastError();
    return peers;
}

} /* namespace */

/* Free memory is known once the device is open: asking for it makes a context. */
peri_status peri_cuda_device_stat(const peri_host *host, uint32_t number, peri_device *device,
                                  peri_device_info *out) {
    memset(out, 0, sizeof *out);
    if (forked_since_start(host)) return host->fail(PERI_E_FORK, "%s", FORKED);
    if (device != nullptr) { /* one that is lost says so before anything else does */
        peri_cuda_entered here(device);
        if (here.status != PERI_OK) return here.status;
    }
    cudaDeviceProp properties;
    int version = 0;
    cudaError_t error = cudaGetDeviceProperties(&properties, (int)number);
    if (error != cudaSuccess) return no_device(host, number, error);
    (void)cudaDriverGetVersion(&version);
    snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, properties.name);
    snprintf(out->detail, sizeof out->detail,
             "compute capability %d.%d, %d multiprocessors, driver for CUDA %d.%d%s",
             properties.major, properties.minor, properties.multiProcessorCount, version / 1000,
             version % 1000 / 10, device == nullptr ? ", free memory known once opened" : "");
    out->units = (uint32_t)properties.multiProcessorCount;
    out->bytes_total = properties.totalGlobalMem;
    out->peers = peers_of(number);
    if (device == nullptr) return PERI_OK;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    CU_TRY(device, cudaMemGetInfo(&out->bytes_free, &out->bytes_total));
    const peri_cuda_device *self = peri_cuda_of(device);
    out->bytes_free += peri_cuda_pool_idle(self);
    size_t limit = __atomic_load_n(&self->limit, __ATOMIC_SEQ_CST);
    size_t held = peri_cuda_bytes_held(self);
    if (limit != 0) {
        size_t left = limit > held ? limit - held : 0;
        out->bytes_total = limit;
        if (left < out->bytes_free) out->bytes_free = left;
    }
    for (int use = 0; use < PERI_USE_COUNT; use++)
        out->bytes_held[use] = __atomic_load_n(&self->bytes[use], __ATOMIC_SEQ_CST);
    return PERI_OK;
}

namespace {

/* Whether this build holds code for the device; makes the context. */
peri_status device_begin(peri_cuda_device *self) {
    peri_cuda_entered here(&self->base);
    if (here.status != PERI_OK) return here.status;
    cudaDeviceProp properties;
    CU_TRY(&self->base, cudaGetDeviceProperties(&properties, self->base.place.number));
    self->multiprocessors = properties.multiProcessorCount;
    self->hopper = PERI_CUDA_SM90A && properties.major == 9 && properties.minor == 0;
    cudaError_t error = peri_cuda_code_check();
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        (void)cudaGetLastError();
        return self->base.host->fail(PERI_E_DEVICE,
                                     "cuda:%u: this build holds no code for %s (compute "
                                     "capability %d.%d): build with PERI_CUDA_GENCODE for it",
                                     (unsigned)self->base.place.number, properties.name,
                                     properties.major, properties.minor);
    }
    if (error != cudaSuccess) return peri_cuda_failed(&self->base, error, "the first kernel");
    return peri_cuda_pool_open(self);
}

/* The primary context stays: others in the process may use it. */
void device_end(peri_cuda_device *self) {
    peri_cuda_entered here(&self->base);
    if (here.status == PERI_OK) peri_cuda_pool_close(self);
}

} /* namespace */

peri_status peri_cuda_device_open(const peri_host *host, peri_context *context, uint32_t number,
                                  uint32_t threads, peri_device **out) {
    *out = nullptr;
    if (forked_since_start(host)) return host->fail(PERI_E_FORK, "%s", FORKED);
    find_driver_calls();
    auto *self = (peri_cuda_device *)host->resize(context, nullptr, 0, sizeof(peri_cuda_device));
    if (self == nullptr)
        return host->fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                          sizeof(peri_cuda_device));
    memset((void *)self, 0, sizeof *self);
    self->base.host = host;
    self->base.context = context;
    self->base.place = peri_place{ PERI_PLACE_CUDA, (uint16_t)number };
    self->base.threads = threads;
    self->base.generation = host->generation();
    peri_status status = device_begin(self);
    if (status != PERI_OK) {
        device_end(self);
        host->resize(context, self, sizeof *self, 0);
        return status;
    }
    *out = &self->base;
    return PERI_OK;
}

void peri_cuda_device_close(peri_device *device) {
    if (device == nullptr) return;
    device_end(peri_cuda_of(device));
    device->host->resize(device->context, device, sizeof(peri_cuda_device), 0);
}
