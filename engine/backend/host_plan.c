/* host_plan.c: plans of the backends that have no graphs: the operations are kept and run one after
 * the other. */
#include <string.h>

#include "backend/host_memory.h"
#include "core/checked.h"
#include "core/status.h"

#define ALIGN 64u

typedef struct entry {
    const peri_op *op;
    void *scratch;
    size_t scratch_bytes;
} entry;

/* One block: this, the entries, the operations. */
typedef struct plan {
    peri_device *device;
    size_t bytes, count;
    entry entries[];
} plan;

size_t peri_op_bytes(peri_op_kind kind) {
    static const size_t bytes[PERI_OP_COUNT] = {
#define OP_BYTES(NAME, name) [PERI_OP_##NAME] = sizeof(peri_op_##name),
        PERI_OP_MAP(OP_BYTES)
#undef OP_BYTES
    };
    return bytes[kind];
}

peri_status peri_host_plan_compile(peri_stream *stream, const peri_op *const *ops,
                                   void *const *scratch, size_t count, void **out) {
    peri_device *device = stream->device;
    size_t at = peri_round_up(sizeof(plan) + count * sizeof(entry), ALIGN), bytes = at;
    *out = NULL;
    for (size_t i = 0; i < count; i++) bytes += peri_round_up(peri_op_bytes(ops[i]->kind), ALIGN);
    plan *self = device->host->resize(device->context, NULL, 0, bytes);
    if (self == NULL)
        return device->host->fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                                  bytes);
    self->device = device;
    self->bytes = bytes;
    self->count = count;
    for (size_t i = 0; i < count; i++) {
        peri_op *op = (peri_op *)(void *)((char *)self + at);
        memcpy(op, ops[i], peri_op_bytes(ops[i]->kind));
        self->entries[i] = (entry){ op, scratch[i], device->driver->scratch_bytes(device, op) };
        at += peri_round_up(peri_op_bytes(op->kind), ALIGN);
    }
    *out = self;
    return PERI_OK;
}

peri_status peri_host_plan_run(peri_stream *stream, void *compiled) {
    const plan *self = compiled;
    for (size_t i = 0; i < self->count; i++) {
        const entry *e = &self->entries[i];
        PERI_TRY(self->device->driver->run(stream, e->op, e->scratch, e->scratch_bytes));
    }
    return PERI_OK;
}

void peri_host_plan_close(void *compiled) {
    plan *self = compiled;
    if (self == NULL) return;
    self->device->host->resize(self->device->context, self, self->bytes, 0);
}
