/* work.c: what a task does, on the queue's thread, while the memory it needs is open. */
#include <string.h>

#include "backend/drivers.h"
#include "backend/fake/fake.h"

/* The caller's memory is read and written here, as a copy engine would, not at the time of the
 * call. */
static void copy_rows(const peri_fake_copy *copy) {
    char *to = copy->to;
    const char *from = copy->from;
    if (copy->to_stride == copy->row_bytes && copy->from_stride == copy->row_bytes) {
        memcpy(to, from, copy->rows * copy->row_bytes);
        return;
    }
    for (size_t r = 0; r < copy->rows; r++)
        memcpy(to + r * copy->to_stride, from + r * copy->from_stride, copy->row_bytes);
}

static peri_status work_copy(const peri_fake_copy *copy) {
    if (copy->to_device != NULL) peri_fake_memory_open(copy->to_device);
    if (copy->from_device != NULL) peri_fake_memory_open(copy->from_device);
    copy_rows(copy);
    if (copy->from_device != NULL) peri_fake_memory_close(copy->from_device);
    if (copy->to_device != NULL) peri_fake_memory_close(copy->to_device);
    return PERI_OK;
}

static peri_status work_fill(peri_fake_device *device, const peri_fake_fill *fill) {
    peri_fake_memory_open(device);
    memset(fill->to, fill->byte, fill->bytes);
    peri_fake_memory_close(device);
    return PERI_OK;
}

static peri_status work_run(peri_fake_device *device, peri_fake_stream *stream,
                            const peri_fake_task *task) {
    const peri_op *op = &task->as.run.op.head;
    peri_fake_memory_open(device);
    peri_status status = peri_fake_filter_check(device, op);
    if (status == PERI_OK)
        status = peri_cpu_driver.run(stream->cpu, op, task->as.run.scratch,
                                     task->as.run.scratch_bytes);
    peri_fake_memory_close(device);
    return status;
}

/* Whether this is the task that peri_fake_fail() named. */
static bool told_to_fail(peri_fake_device *device) {
    pthread_mutex_lock(&device->lock);
    bool told = device->tasks_to_failure == 1;
    if (device->tasks_to_failure > 0) device->tasks_to_failure--;
    pthread_mutex_unlock(&device->lock);
    return told;
}

peri_status peri_fake_work(peri_fake_device *device, peri_fake_stream *stream,
                           peri_fake_task *task) {
    if (told_to_fail(device))
        return peri_fail(PERI_E_DEVICE, "fake:%u: failed as it was told to",
                         (unsigned)device->base.place.number);
    if (task->kind == PERI_FAKE_COPY) return work_copy(&task->as.copy);
    if (task->kind == PERI_FAKE_FILL) return work_fill(device, &task->as.fill);
    return work_run(device, stream, task);
}
