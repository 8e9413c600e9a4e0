/* driver.c: the table of the fake backend, its devices, and the slots that enqueue. See fake.h. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backend/drivers.h"
#include "backend/fake/fake.h"
#include "backend/host_memory.h"
#include "core/checked.h"

static peri_fake_device *device_of(peri_device *device) { return (peri_fake_device *)device; }

peri_status peri_fake_check(const peri_device *device) {
    if (device->host->generation() == device->generation) return PERI_OK;
    return peri_fail(PERI_E_FORK, "fake:%u was opened before a fork: open it again here",
                     (unsigned)device->place.number);
}

void peri_fake_fail(peri_device *device, size_t tasks) {
    peri_fake_device *fake = device_of(device);
    pthread_mutex_lock(&fake->lock);
    fake->tasks_to_failure = tasks;
    pthread_mutex_unlock(&fake->lock);
}

static peri_status device_count(const peri_host *host, uint32_t *out) {
    (void)host;
    *out = PERI_FAKE_DEVICES;
    return PERI_OK;
}

static peri_status number_check(uint32_t number) {
    if (number < PERI_FAKE_DEVICES) return PERI_OK;
    return peri_fail(PERI_E_DEVICE, "fake:%u does not exist: there are %u, counted from 0",
                     (unsigned)number, PERI_FAKE_DEVICES);
}

static peri_status device_stat(const peri_host *host, uint32_t number, peri_device *device,
                               peri_device_info *out) {
    (void)host;
    memset(out, 0, sizeof *out);
    PERI_TRY(number_check(number));
    snprintf(out->name, sizeof out->name, "fake device %u", (unsigned)number);
    snprintf(out->detail, sizeof out->detail,
             "the cpu backend behind a queue, with memory of its own; for tests");
    out->bytes_total = out->bytes_free = PERI_FAKE_BYTES;
    out->units = 1;
    out->peers = ((UINT64_C(1) << PERI_FAKE_DEVICES) - 1) & ~(UINT64_C(1) << number);
    if (device == NULL) return PERI_OK;
    PERI_TRY(peri_fake_check(device));
    peri_fake_device *fake = device_of(device);
    pthread_mutex_lock(&fake->memory_lock);
    out->bytes_total = fake->limit;
    out->bytes_free = fake->limit > fake->bytes ? fake->limit - fake->bytes : 0;
    memcpy(out->bytes_held, fake->held, sizeof out->bytes_held);
    pthread_mutex_unlock(&fake->memory_lock);
    return PERI_OK;
}

/* Waits are timed by the clock that nobody sets. */
static void locks_init(peri_fake_device *device) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&device->lock, NULL);
    pthread_mutex_init(&device->memory_lock, NULL);
    pthread_cond_init(&device->work, NULL);
    pthread_cond_init(&device->idle, &attributes);
    pthread_condattr_destroy(&attributes);
}

static peri_status device_open(const peri_host *host, peri_context *context, uint32_t number,
                               uint32_t threads, peri_device **out) {
    (void)threads; /* the queue's one thread does all */
    *out = NULL;
    PERI_TRY(number_check(number));
    peri_fake_device *device = host->resize(context, NULL, 0, sizeof *device);
    if (device == NULL)
        return peri_fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                         sizeof *device);
    memset(device, 0, sizeof *device);
    peri_status status = peri_cpu_driver.device_open(host, context, 0, 1, &device->cpu);
    if (status != PERI_OK) {
        host->resize(context, device, sizeof *device, 0);
        return status;
    }
    device->base.driver = &peri_fake_driver;
    device->base.host = host;
    device->base.context = context;
    device->base.place = (peri_place){ PERI_PLACE_FAKE, (uint16_t)number };
    device->base.threads = 1;
    device->base.generation = host->generation();
    device->limit = PERI_FAKE_BYTES;
    locks_init(device);
    *out = &device->base;
    return PERI_OK;
}

static void device_close(peri_device *device) {
    if (device == NULL) return;
    peri_fake_device *fake = device_of(device);
    const peri_host *host = device->host;
    peri_fake_stream_close(fake->plain);
    if (host->generation() == device->generation) {
        PERI_ASSERT(fake->streams == NULL && fake->blocks == NULL);
        peri_fake_queue_end(fake);
        pthread_mutex_destroy(&fake->lock);
        pthread_mutex_destroy(&fake->memory_lock);
        pthread_cond_destroy(&fake->work);
        pthread_cond_destroy(&fake->idle);
    }
    peri_cpu_driver.device_close(fake->cpu);
    host->resize(device->context, fake, sizeof *fake, 0);
}

/* ---- what enqueues ------------------------------------------------------------------------ */

/* Bytes from the first to past the last of rows at a stride; false when they wrap. */
static bool span(size_t rows, size_t stride, size_t row_bytes, size_t *out) {
    return peri_mul_fits(rows - 1, stride, out) && peri_add_fits(*out, row_bytes, out);
}

static peri_status side_check(peri_device *device, const void *data, size_t rows, size_t stride,
                              size_t row_bytes, const char *side) {
    size_t bytes;
    if (stride < row_bytes && rows > 1)
        return peri_fail(PERI_E_DEVICE, "copy: the stride %s, %zu bytes, is below a row's %zu",
                         side, stride, row_bytes);
    if (!span(rows, stride, row_bytes, &bytes))
        return peri_fail(PERI_E_DEVICE, "copy: %zu rows of %zu bytes wrap around", rows, stride);
    if (device == NULL) return PERI_OK;
    PERI_TRY(peri_fake_check(device));
    if (peri_fake_memory_holds(device_of(device), data, bytes)) return PERI_OK;
    return peri_fail(PERI_E_DEVICE, "copy: %zu bytes at %p are not memory of fake:%u", bytes, data,
                     (unsigned)device->place.number);
}

static peri_status copy(peri_stream *stream, void *to, size_t to_stride, peri_device *to_device,
                        const void *from, size_t from_stride, peri_device *from_device, size_t rows,
                        size_t row_bytes) {
    PERI_TRY(peri_fake_check(stream->device));
    if (rows == 0 || row_bytes == 0) return PERI_OK;
    PERI_TRY(side_check(to_device, to, rows, to_stride, row_bytes, "to"));
    PERI_TRY(side_check(from_device, from, rows, from_stride, row_bytes, "from"));
    peri_fake_task task = peri_fake_task_of(PERI_FAKE_COPY);
    task.as.copy = (peri_fake_copy){ .to = to,
                                     .from = from,
                                     .to_stride = to_stride,
                                     .from_stride = from_stride,
                                     .rows = rows,
                                     .row_bytes = row_bytes,
                                     .to_device = to_device == NULL ? NULL : device_of(to_device),
                                     .from_device = from_device == NULL ? NULL
                                                                        : device_of(from_device) };
    return peri_fake_enqueue(peri_fake_stream_of(stream), &task);
}

static peri_status fill(peri_stream *stream, void *to, int byte, size_t bytes) {
    PERI_TRY(peri_fake_check(stream->device));
    if (bytes == 0) return PERI_OK;
    if (!peri_fake_memory_holds(device_of(stream->device), to, bytes))
        return peri_fail(PERI_E_DEVICE, "fill: %zu bytes at %p are not memory of fake:%u", bytes,
                         to, (unsigned)stream->device->place.number);
    peri_fake_task task = peri_fake_task_of(PERI_FAKE_FILL);
    task.as.fill = (peri_fake_fill){ .to = to, .bytes = bytes, .byte = byte };
    return peri_fake_enqueue(peri_fake_stream_of(stream), &task);
}

void peri_fake_decline(peri_device *device, const bool *declined) {
    peri_fake_device *fake = device_of(device);
    memcpy(fake->declined, declined, sizeof fake->declined);
}

static const char *op_name(peri_op_kind kind) {
    static const char *const names[PERI_OP_COUNT] = {
#define OP_NAME(NAME, name) [PERI_OP_##NAME] = #name,
        PERI_OP_MAP(OP_NAME)
#undef OP_NAME
    };
    return names[kind];
}

static bool supports(const peri_device *device, const peri_op *op, char *reason, size_t size) {
    const peri_fake_device *fake = (const peri_fake_device *)device;
    if (!fake->declined[op->kind]) return peri_cpu_driver.supports(fake->cpu, op, reason, size);
    snprintf(reason, size, "not on this fake: %s", op_name(op->kind));
    return false;
}

static size_t scratch_bytes(const peri_device *device, const peri_op *op) {
    return peri_cpu_driver.scratch_bytes(((const peri_fake_device *)device)->cpu, op);
}

static peri_status run(peri_stream *stream, const peri_op *op, void *scratch, size_t bytes) {
    PERI_TRY(peri_fake_check(stream->device));
    PERI_ASSERT(op->kind < PERI_OP_COUNT);
    peri_fake_device *device = device_of(stream->device);
    PERI_TRY(peri_fake_pointers_check(device, op));
    if (bytes > 0 && !peri_fake_memory_holds(device, scratch, bytes))
        return peri_fail(PERI_E_DEVICE, "scratch, %zu bytes at %p, is not memory of fake:%u", bytes,
                         scratch, (unsigned)device->base.place.number);
    peri_fake_task task = peri_fake_task_of(PERI_FAKE_RUN);
    memcpy(&task.as.run.op, op, peri_op_bytes(op->kind));
    task.as.run.scratch = scratch;
    task.as.run.scratch_bytes = bytes;
    return peri_fake_enqueue(peri_fake_stream_of(stream), &task);
}

const peri_driver peri_fake_driver = {
    .abi = PERI_BACKEND_ABI,
    .name = "fake",
    .kind = PERI_PLACE_FAKE,
    .device_count = device_count,
    .device_stat = device_stat,
    .device_open = device_open,
    .device_close = device_close,
    .mem_acquire = peri_fake_mem_acquire,
    .mem_release = peri_fake_mem_release,
    .mem_wrap = peri_fake_mem_wrap,
    .mem_check = peri_fake_mem_check,
    .mem_limit = peri_fake_mem_limit,
    .stream_open = peri_fake_stream_open,
    .stream_close = peri_fake_stream_close,
    .stream_wrap = peri_fake_stream_wrap,
    .stream_wait = peri_fake_stream_wait,
    .stream_notify = peri_fake_stream_notify,
    .copy = copy,
    .fill = fill,
    .event_open = peri_fake_event_open,
    .event_record = peri_fake_event_record,
    .event_wait = peri_fake_event_wait,
    .event_close = peri_fake_event_close,
    .supports = supports,
    .scratch_bytes = scratch_bytes,
    .run = run,
    .plan_compile = peri_host_plan_compile,
    .plan_run = peri_host_plan_run,
    .plan_close = peri_host_plan_close,
};
