/* ref.c: the driver of the reference backend: every operation, naive and obviously right.
 *
 * It is the oracle of the tests, and nothing here is fast: one thread, the canonical routine of
 * core/distance.h for each distance, no scratch unless an operation can't do without. */
#include <stdio.h>

#include "backend/drivers.h"
#include "backend/host_memory.h"
#include "backend/host_supports.h"
#include "backend/ref/ops.h"
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
    (void)device;
    *out = (peri_device_info){ .units = 1, .shares_host = 1 };
    snprintf(out->name, sizeof out->name, "ref");
    snprintf(out->detail, sizeof out->detail, "plain C, one thread: the oracle of the tests");
    return PERI_OK;
}

static peri_status device_open(const peri_host *host, peri_context *context, uint32_t number,
                               uint32_t threads, peri_device **out) {
    return peri_host_device_open(&peri_ref_driver, host, context, number, threads, out);
}

static size_t scratch_bytes(const peri_device *device, const peri_op *op) {
    switch (op->kind) {
#define SCRATCH_CASE(NAME, name)                                                                   \
    case PERI_OP_##NAME: return peri_ref_##name##_scratch(device, (const peri_op_##name *)op);
        PERI_OP_MAP(SCRATCH_CASE)
#undef SCRATCH_CASE
    case PERI_OP_COUNT: break;
    }
    return 0;
}

static peri_status run(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes) {
    switch (op->kind) {
#define RUN_CASE(NAME, name)                                                                       \
    case PERI_OP_##NAME: return peri_ref_##name(stream, (const peri_op_##name *)op, scratch, bytes);
        PERI_OP_MAP(RUN_CASE)
#undef RUN_CASE
    case PERI_OP_COUNT: break;
    }
    return peri_fail(PERI_E_UNSUPPORTED, "operation %d is not known", op->kind);
}

const peri_driver peri_ref_driver = {
    .abi = PERI_BACKEND_ABI,
    .name = "ref",
    .kind = PERI_PLACE_REF,
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
