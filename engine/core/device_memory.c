/* device_memory.c: memory of devices above the seam: what is short is looked for once more. */
#include "core/lane.h"
#include "core/ring.h"

/* Idle lanes keep scratch for the next search of their shape; who needs memory now goes first. */
peri_status peri_device_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                peri_memory_use use, peri_mem **out) {
    const peri_driver *driver = device->driver;
    peri_status status = driver->mem_acquire(device, bytes, kind, use, out);
    if (status != PERI_E_MEMORY || !peri_lanes_trim(device)) return status;
    return driver->mem_acquire(device, bytes, kind, use, out);
}

peri_status peri_device_limit(peri_context *context, peri_place place, size_t bytes) {
    peri_device *device;
    char word[32];
    PERI_TRY(peri_context_device(context, place, &device));
    if (device->driver->mem_limit == NULL)
        return peri_fail(PERI_E_UNSUPPORTED,
                         "%s uses the host's memory: it is the context that limits it",
                         peri_place_format(place, word, sizeof word));
    return device->driver->mem_limit(device, bytes);
}

peri_status peri_device_trim(peri_context *context, peri_place place) {
    peri_device *device;
    PERI_TRY(peri_context_device(context, place, &device));
    (void)peri_lanes_trim(device);
    (void)peri_rings_trim(device);
    return PERI_OK;
}
