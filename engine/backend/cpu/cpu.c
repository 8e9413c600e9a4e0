/* cpu.c: the driver of the cpu backend: SIMD chosen at run time, on the threads of the context.
 *
 * This file holds the table and no policy: each operation has its own file. run() has finished when
 * it returns; a long operation polls the stream's control meanwhile. */
#include <stdio.h>
#include <unistd.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/ops.h"
#include "backend/drivers.h"
#include "backend/host_memory.h"
#include "backend/host_supports.h"
#include "core/status.h"

static peri_status device_count(const peri_host *host, uint32_t *out) {
    (void)host;
    *out = 1;
    return PERI_OK;
}

static peri_status device_stat(const peri_host *host, uint32_t number, peri_device *device,
                               peri_device_info *out) {
    (void)host;
    (void)number;
    *out = (peri_device_info){ .shares_host = 1 };
    snprintf(out->name, sizeof out->name, "cpu (%s)", peri_isa_name(peri_isa_chosen()));
    size_t used = 0;
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_present((peri_isa)isa) || used >= sizeof out->detail) continue;
        used += (size_t)snprintf(
            out->detail + used, sizeof out->detail - used, "%s%s",
            used > 0 ? ", " : "instruction sets: ", peri_isa_name((peri_isa)isa));
    }
    long page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_PHYS_PAGES);
    long spare = sysconf(_SC_AVPHYS_PAGES), cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (page > 0 && pages > 0) out->bytes_total = (size_t)page * (size_t)pages;
    if (page > 0 && spare > 0) out->bytes_free = (size_t)page * (size_t)spare;
    out->units = device != NULL ? device->threads : cpus > 0 ? (uint32_t)cpus : 1;
    return PERI_OK;
}

static peri_status device_open(const peri_host *host, peri_context *context, uint32_t number,
                               uint32_t threads, peri_device **out) {
    return peri_host_device_open(&peri_cpu_driver, host, context, number, threads, out);
}

static size_t scratch_bytes(const peri_device *device, const peri_op *op) {
    switch (op->kind) {
#define SCRATCH_CASE(NAME, name)                                                                   \
    case PERI_OP_##NAME: return peri_cpu_##name##_scratch(device, (const peri_op_##name *)op);
        PERI_OP_MAP(SCRATCH_CASE)
#undef SCRATCH_CASE
    case PERI_OP_COUNT: break;
    }
    return 0;
}

static peri_status run(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes) {
    switch (op->kind) {
#define RUN_CASE(NAME, name)                                                                       \
    case PERI_OP_##NAME: return peri_cpu_##name(stream, (const peri_op_##name *)op, scratch, bytes);
        PERI_OP_MAP(RUN_CASE)
#undef RUN_CASE
    case PERI_OP_COUNT: break;
    }
    return peri_fail(PERI_E_UNSUPPORTED, "operation %d is not known", op->kind);
}

const peri_driver peri_cpu_driver = {
    .abi = PERI_BACKEND_ABI,
    .name = "cpu",
    .kind = PERI_PLACE_CPU,
    .device_count = device_count,
    .device_stat = device_stat,
    .device_open = device_open,
    .device_close = peri_host_device_close,
    .mem_acquire = peri_host_mem_acquire,
    .mem_release = peri_host_mem_release,
    .mem_wrap = peri_host_mem_wrap,
    .stream_open = peri_host_stream_open,
    .stream_close = peri_host_stream_close,
    .stream_wait = peri_host_stream_wait,
    .copy = peri_host_copy,
    .fill = peri_host_fill,
    .supports = peri_host_supports,
    .scratch_bytes = scratch_bytes,
    .run = run,
    .plan_compile = peri_host_plan_compile,
    .plan_run = peri_host_plan_run,
    .plan_close = peri_host_plan_close,
};
