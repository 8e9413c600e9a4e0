/* host_memory.c: devices, memory and streams of the backends that live in the host's memory.
 *
 * Everything comes from host->resize, so it is accounted with the context. A stream's run() has
 * finished when it returns, so waiting is nothing. Threads: a stream belongs to one thread at a
 * time; memory is acquired and released from any. */
#include "backend/host_memory.h"

#include <string.h>

#include "core/status.h"

static peri_status short_of_memory(const peri_device *device, size_t bytes) {
    peri_context_stats stats;
    peri_context_stat(device->context, &stats);
    if (stats.bytes_limit != 0)
        return device->host->fail(PERI_E_MEMORY,
                                  "%zu bytes needed, %zu held, the limit is %zu bytes", bytes,
                                  stats.bytes, stats.bytes_limit);
    return device->host->fail(PERI_E_MEMORY, "%zu bytes needed, %zu held: the system gave none",
                              bytes, stats.bytes);
}

peri_status peri_host_device_open(const peri_driver *driver, const peri_host *host,
                                  peri_context *context, uint32_t number, uint32_t threads,
                                  peri_device **out) {
    *out = NULL;
    peri_device *device = host->resize(context, NULL, 0, sizeof *device);
    if (device == NULL)
        return host->fail(PERI_E_MEMORY, "%zu bytes needed for a device", sizeof *device);
    *device = (peri_device){ .driver = driver,
                             .host = host,
                             .context = context,
                             .place = { (uint16_t)driver->kind, (uint16_t)number },
                             .threads = threads,
                             .shares_host = 1,
                             .generation = host->generation() };
    *out = device;
    return PERI_OK;
}

void peri_host_device_close(peri_device *device) {
    if (device != NULL) device->host->resize(device->context, device, sizeof *device, 0);
}

static peri_status mem_header(peri_device *device, peri_mem **out) {
    peri_mem *mem = device->host->resize(device->context, NULL, 0, sizeof *mem);
    *out = mem;
    if (mem == NULL) return short_of_memory(device, sizeof *mem);
    *mem = (peri_mem){ .device = device };
    return PERI_OK;
}

peri_status peri_host_mem_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                  peri_memory_use use, peri_mem **out) {
    peri_mem *mem;
    *out = NULL;
    PERI_TRY(mem_header(device, &mem));
    mem->bytes = bytes;
    mem->kind = kind;
    mem->use = use;
    if (bytes > 0) {
        mem->data = device->host->resize(device->context, NULL, 0, bytes);
        if (mem->data == NULL) {
            device->host->resize(device->context, mem, sizeof *mem, 0);
            return short_of_memory(device, bytes);
        }
    }
    *out = mem;
    return PERI_OK;
}

void peri_host_mem_release(peri_mem *mem) {
    if (mem == NULL) return;
    peri_device *device = mem->device;
    if (!mem->foreign && mem->data != NULL)
        device->host->resize(device->context, mem->data, mem->bytes, 0);
    device->host->resize(device->context, mem, sizeof *mem, 0);
}

peri_status peri_host_mem_wrap(peri_device *device, void *data, size_t bytes, peri_mem **out) {
    PERI_TRY(mem_header(device, out));
    (*out)->data = data;
    (*out)->bytes = bytes;
    (*out)->foreign = true;
    return PERI_OK;
}

peri_status peri_host_stream_open(peri_device *device, peri_stream **out) {
    peri_stream *stream = device->host->resize(device->context, NULL, 0, sizeof *stream);
    *out = stream;
    if (stream == NULL) return short_of_memory(device, sizeof *stream);
    *stream = (peri_stream){ .device = device };
    return PERI_OK;
}

void peri_host_stream_close(peri_stream *stream) {
    if (stream == NULL) return;
    stream->device->host->resize(stream->device->context, stream, sizeof *stream, 0);
}

peri_status peri_host_stream_wait(peri_stream *stream, const peri_control *control) {
    (void)stream;
    (void)control;
    return PERI_OK;
}

peri_status peri_host_copy(peri_stream *stream, void *to, size_t to_stride, peri_device *to_device,
                           const void *from, size_t from_stride, peri_device *from_device,
                           size_t rows, size_t row_bytes) {
    (void)stream;
    (void)to_device;
    (void)from_device;
    if (rows == 0 || row_bytes == 0) return PERI_OK;
    if (to_stride == row_bytes && from_stride == row_bytes) {
        memcpy(to, from, rows * row_bytes);
        return PERI_OK;
    }
    for (size_t i = 0; i < rows; i++)
        memcpy((char *)to + i * to_stride, (const char *)from + i * from_stride, row_bytes);
    return PERI_OK;
}

peri_status peri_host_fill(peri_stream *stream, void *to, int byte, size_t bytes) {
    (void)stream;
    if (bytes > 0) memset(to, byte, bytes);
    return PERI_OK;
}
