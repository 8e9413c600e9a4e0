/* memory.cu: memory of the device and of the host for it, and copies.
 *
 * Device memory comes from a pool of our own (cudaMemPoolCreate), which keeps what is given back,
 * up to a threshold, for the next that asks: neither asks the driver, and neither waits for the
 * device, as cudaMalloc and cudaFree do. The pool is ordered by a stream on which nothing else
 * runs, and each acquire waits for it, so that a block may be used on any stream at once. What is
 * released is idle by contract, but for memory that was given out of the library (`shared`):
 * before that the device is waited for.
 *
 * Device bytes are counted by use when they are acquired and given back, so what is held is
 * exact. Running out is no failure of the device: what the pool keeps idle is given back to the
 * driver and the call is made again; then the error is cleared and the message says what was
 * needed and free. */
#include <string.h>

#include "device.cuh"

namespace {

/* Idle bytes that the pool keeps at most, unless the device is small; taste. */
constexpr uint64_t POOL_KEEPS = UINT64_C(1) << 30;

} /* namespace */

/* Without pools (a driver may have none for a virtual device) memory comes from cudaMalloc. */
peri_status peri_cuda_pool_open(peri_cuda_device *self) {
    const peri_device *device = &self->base;
    int number = (int)device->place.number, pools = 0;
    CU_TRY(device, cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, number));
    if (pools == 0) return PERI_OK;
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = number;
    CU_TRY(device, cudaMemPoolCreate(&self->pool, &properties));
    size_t bytes_free = 0, total = 0;
    CU_TRY(device, cudaMemGetInfo(&bytes_free, &total));
    uint64_t keeps = total / 16 < POOL_KEEPS ? total / 16 : POOL_KEEPS;
    CU_TRY(device, cudaMemPoolSetAttribute(self->pool, cudaMemPoolAttrReleaseThreshold, &keeps));
    CU_TRY(device, cudaStreamCreateWithFlags(&self->pool_stream, cudaStreamNonBlocking));
    return PERI_OK;
}

void peri_cuda_pool_close(peri_cuda_device *self) {
    if (self->pool_stream != nullptr) {
        (void)cudaStreamSynchronize(self->pool_stream);
        (void)cudaStreamDestroy(self->pool_stream);
    }
    if (self->pool != nullptr) (void)cudaMemPoolDestroy(self->pool);
    (void)cudaGetLastError();
}

size_t peri_cuda_pool_idle(const peri_cuda_device *self) {
    uint64_t reserved = 0, used = 0;
    if (self->pool == nullptr) return 0;
    (void)cudaMemPoolGetAttribute(self->pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
    (void)cudaMemPoolGetAttribute(self->pool, cudaMemPoolAttrUsedMemCurrent, &used);
    return reserved > used ? (size_t)(reserved - used) : 0;
}

size_t peri_cuda_bytes_held(const peri_cuda_device *device) {
    size_t held = 0;
    for (int use = 0; use < PERI_USE_COUNT; use++)
        held += __atomic_load_n(&device->bytes[use], __ATOMIC_SEQ_CST);
    return held;
}

namespace {

peri_status mem_create(peri_device *device, size_t bytes, peri_memory_kind kind,
                       peri_memory_use use, peri_mem **out) {
    auto *mem = (peri_mem *)device->host->resize(device->context, nullptr, 0, sizeof(peri_mem));
    *out = mem;
    if (mem == nullptr)
        return device->host->fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                                  sizeof(peri_mem));
    memset((void *)mem, 0, sizeof *mem);
    mem->device = device;
    mem->bytes = bytes;
    mem->kind = kind;
    mem->use = use;
    return PERI_OK;
}

peri_status over_limit(const peri_cuda_device *self, size_t bytes, size_t others, size_t limit) {
    return self->base.host->fail(PERI_E_MEMORY,
                                 "cuda:%u: %zu bytes needed, %zu bytes free of a "
                                 "limit of %zu",
                                 (unsigned)self->base.place.number, bytes,
                                 limit > others ? limit - others : 0, limit);
}

/* Two threads at the limit may both be refused where one would fit; none passes it. What is more
 * than the whole limit is not counted at all: a sum of it could wrap around. */
peri_status reserve(peri_cuda_device *self, size_t bytes, peri_memory_use use) {
    size_t limit = __atomic_load_n(&self->limit, __ATOMIC_SEQ_CST);
    if (limit != 0 && bytes > limit)
        return over_limit(self, bytes, peri_cuda_bytes_held(self), limit);
    __atomic_add_fetch(&self->bytes[use], bytes, __ATOMIC_SEQ_CST);
    size_t held = peri_cuda_bytes_held(self);
    if (limit == 0 || held <= limit) return PERI_OK;
    __atomic_sub_fetch(&self->bytes[use], bytes, __ATOMIC_SEQ_CST);
    return over_limit(self, bytes, held - bytes, limit);
}

peri_status acquire_failed(peri_device *device, cudaError_t error, size_t bytes,
                           peri_memory_kind kind) {
    if (error != cudaErrorMemoryAllocation)
        return peri_cuda_failed(device, error,
                                kind == PERI_MEMORY_DEVICE ? "cudaMallocFromPoolAsync"
                                                           : "cudaHostAlloc");
    (void)cudaGetLastError();
    size_t bytes_free = 0, total = 0;
    (void)cudaMemGetInfo(&bytes_free, &total);
    (void)cudaGetLastError();
    if (kind != PERI_MEMORY_DEVICE)
        return device->host->fail(PERI_E_MEMORY,
                                  "cuda:%u: %zu bytes of page-locked host memory "
                                  "needed: none given",
                                  (unsigned)device->place.number, bytes);
    return device->host->fail(PERI_E_MEMORY, "cuda:%u: %zu bytes needed, %zu bytes free of %zu",
                              (unsigned)device->place.number, bytes, bytes_free, total);
}

cudaError_t acquire_once(peri_cuda_device *self, peri_mem *mem) {
    if (self->pool == nullptr) return cudaMalloc(&mem->data, mem->bytes);
    cudaError_t error = cudaMallocFromPoolAsync(&mem->data, mem->bytes, self->pool,
                                                self->pool_stream);
    return error != cudaSuccess ? error : cudaStreamSynchronize(self->pool_stream);
}

/* Once more after the pool gave back what it keeps idle. */
cudaError_t acquire_device(peri_cuda_device *self, peri_mem *mem) {
    cudaError_t error = acquire_once(self, mem);
    if (error != cudaErrorMemoryAllocation || self->pool == nullptr) return error;
    (void)cudaGetLastError();
    error = cudaStreamSynchronize(self->pool_stream);
    if (error == cudaSuccess) error = cudaMemPoolTrimTo(self->pool, 0);
    return error != cudaSuccess ? error : acquire_once(self, mem);
}

/* Addresses of host memory are the device's too (unified addressing), for both host kinds. */
cudaError_t acquire(peri_cuda_device *self, peri_mem *mem) {
    if (mem->bytes == 0) return cudaSuccess;
    switch (mem->kind) {
    case PERI_MEMORY_PINNED: return cudaHostAlloc(&mem->data, mem->bytes, cudaHostAllocPortable);
    case PERI_MEMORY_MAPPED:
        return cudaHostAlloc(&mem->data, mem->bytes, cudaHostAllocPortable | cudaHostAllocMapped);
    case PERI_MEMORY_DEVICE: break;
    }
    return acquire_device(self, mem);
}

/* Gives back what acquire() gave. */
void release(peri_cuda_device *self, peri_mem *mem) {
    if (mem->kind != PERI_MEMORY_DEVICE) {
        (void)cudaFreeHost(mem->data);
    } else if (self->pool == nullptr) {
        (void)cudaFree(mem->data);
    } else {
        if (mem->shared) (void)cudaDeviceSynchronize();
        (void)cudaFreeAsync(mem->data, self->pool_stream);
    }
    (void)cudaGetLastError();
}

} /* namespace */

peri_status peri_cuda_mem_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                  peri_memory_use use, peri_mem **out) {
    *out = nullptr;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    peri_cuda_device *self = peri_cuda_of(device);
    peri_mem *mem;
    peri_status status = mem_create(device, bytes, kind, use, &mem);
    if (status != PERI_OK) return status;
    if (kind == PERI_MEMORY_DEVICE) status = reserve(self, bytes, use);
    if (status == PERI_OK) {
        cudaError_t error = acquire(self, mem);
        if (error != cudaSuccess) {
            if (kind == PERI_MEMORY_DEVICE)
                __atomic_sub_fetch(&self->bytes[use], bytes, __ATOMIC_SEQ_CST);
            status = acquire_failed(device, error, bytes, kind);
        }
    }
    if (status != PERI_OK) {
        device->host->resize(device->context, mem, sizeof *mem, 0);
        return status;
    }
    *out = mem;
    return PERI_OK;
}

void peri_cuda_mem_release(peri_mem *mem) {
    if (mem == nullptr) return;
    peri_device *device = mem->device;
    if (!mem->foreign) {
        peri_cuda_entered here(device);
        if (here.status == PERI_OK && mem->data != nullptr) release(peri_cuda_of(device), mem);
        if (mem->kind == PERI_MEMORY_DEVICE)
            __atomic_sub_fetch(&peri_cuda_of(device)->bytes[mem->use], mem->bytes,
                               __ATOMIC_SEQ_CST);
    }
    device->host->resize(device->context, mem, sizeof *mem, 0);
}

namespace {

/* What CUDA knows of an address as this device's, or as the host's for all devices. */
peri_status address_check(const peri_device *device, const char *at, const char *which,
                          cudaMemoryType *type) {
    cudaPointerAttributes known;
    CU_TRY(device, cudaPointerGetAttributes(&known, at));
    int number = (int)device->place.number;
    bool own = known.type == cudaMemoryTypeDevice && known.device == number;
    *type = known.type;
    if (own || known.type == cudaMemoryTypeHost || known.type == cudaMemoryTypeManaged)
        return PERI_OK;
    if (known.type == cudaMemoryTypeDevice)
        return device->host->fail(PERI_E_ARGUMENT,
                                  "cuda:%d: the memory at %p, %s, is of cuda:%d, allowed: "
                                  "memory of cuda:%d",
                                  number, at, which, known.device, number);
    return device->host->fail(PERI_E_ARGUMENT,
                              "cuda:%d: the memory at %p, %s, is not known to CUDA, allowed: "
                              "memory of cuda:%d",
                              number, at, which, number);
}

/* `type` is that of the first byte. */
peri_status range_check(const peri_device *device, const void *data, size_t bytes,
                        cudaMemoryType *type) {
    cudaMemoryType last;
    uintptr_t end;
    peri_status status = address_check(device, (const char *)data, "the first byte", type);
    if (status != PERI_OK || bytes <= 1) return status;
    if (__builtin_add_overflow((uintptr_t)data, bytes - 1, &end))
        return device->host->fail(PERI_E_ARGUMENT, "cuda:%u: %zu bytes at %p wrap around",
                                  (unsigned)device->place.number, bytes, data);
    return address_check(device, (const char *)end, "the last byte", &last);
}

} /* namespace */

/* Memory of the device, or host memory that CUDA knows: anything else would fault in a kernel. The
 * first and the last byte are asked for: where an allocation ends CUDA tells of some kinds only. */
peri_status peri_cuda_mem_check(peri_device *device, const void *data, size_t bytes) {
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    cudaMemoryType type;
    return range_check(device, data, bytes, &type);
}

peri_status peri_cuda_mem_wrap(peri_device *device, void *data, size_t bytes, peri_mem **out) {
    *out = nullptr;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    cudaMemoryType type;
    peri_mem *mem;
    peri_status status = range_check(device, data, bytes, &type);
    if (status != PERI_OK) return status;
    peri_memory_kind kind = type == cudaMemoryTypeHost ? PERI_MEMORY_MAPPED : PERI_MEMORY_DEVICE;
    status = mem_create(device, bytes, kind, PERI_USE_OTHER, &mem);
    if (status != PERI_OK) return status;
    mem->data = data;
    mem->foreign = true;
    *out = mem;
    return PERI_OK;
}

peri_status peri_cuda_mem_limit(peri_device *device, size_t bytes) {
    __atomic_store_n(&peri_cuda_of(device)->limit, bytes, __ATOMIC_SEQ_CST);
    return PERI_OK;
}

namespace {

constexpr size_t PITCH_MAX = 0x7FFFFFFF; /* of CUDA's strided copy; a packed one has no bound */

/* Rows that are so far apart are few. */
cudaError_t copy_rows(char *to, size_t to_stride, const char *from, size_t from_stride, size_t rows,
                      size_t row_bytes, cudaStream_t handle) {
    cudaError_t error = cudaSuccess;
    if (to_stride <= PITCH_MAX && from_stride <= PITCH_MAX)
        return cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, rows,
                                 cudaMemcpyDefault, handle);
    for (size_t r = 0; r < rows && error == cudaSuccess; r++)
        error = cudaMemcpyAsync(to + r * to_stride, from + r * from_stride, row_bytes,
                                cudaMemcpyDefault, handle);
    return error;
}

} /* namespace */

/* CUDA tells host from device by the address. */
peri_status peri_cuda_copy(peri_stream *stream, void *to, size_t to_stride, peri_device *to_device,
                           const void *from, size_t from_stride, peri_device *from_device,
                           size_t rows, size_t row_bytes) {
    (void)to_device;
    (void)from_device;
    peri_device *device = stream->device;
    if (rows == 0 || row_bytes == 0) return PERI_OK;
    peri_cuda_entered here(device);
    if (here.status != PERI_OK) return here.status;
    cudaStream_t handle = peri_cuda_handle(stream);
    size_t bytes;
    if (__builtin_mul_overflow(rows, row_bytes, &bytes))
        return device->host->fail(PERI_E_DEVICE, "copy: %zu rows of %zu bytes wrap around", rows,
                                  row_bytes);
    bool packed = rows == 1 || (to_stride == row_bytes && from_stride == row_bytes);
    if (packed)
        CU_TRY(device, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle));
    else
        CU_TRY(device,
               copy_rows(static_cast<char *>(to), to_stride, static_cast<const char *>(from),
                         from_stride, rows, row_bytes, handle));
    return PERI_OK;
}

peri_status peri_cuda_fill(peri_stream *stream, void *to, int byte, size_t bytes) {
    if (bytes == 0) return PERI_OK;
    peri_cuda_entered here(stream->device);
    if (here.status != PERI_OK) return here.status;
    CU_TRY(stream->device, cudaMemsetAsync(to, byte, bytes, peri_cuda_handle(stream)));
    return PERI_OK;
}
