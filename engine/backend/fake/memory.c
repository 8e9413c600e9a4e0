/* memory.c: device memory that the host can't touch.
 *
 * Each block is a mapping of its own: pages that are PROT_NONE while the device's queue is at
 * rest, and one page after them that never opens. The data ends against that page (up to its
 * 64-byte alignment), so an operation that runs past its memory faults on the queue's thread.
 * mprotect() holds for the whole process: while a queue works, a stray touch from the host goes
 * unseen; at rest it never does. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/fake/fake.h"
#include "core/checked.h"

#define ALIGN 64u

static peri_fake_device *device_of(peri_device *device) { return (peri_fake_device *)device; }

/* Pinned and mapped memory: the host's own, 64-byte aligned by the context's allocator. */
static peri_status host_block(peri_device *device, peri_fake_block *block, size_t bytes) {
    if (bytes == 0) return PERI_OK;
    block->mem.data = device->host->resize(device->context, NULL, 0, bytes);
    if (block->mem.data == NULL)
        return peri_fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given", bytes);
    return PERI_OK;
}

void peri_fake_short(peri_device *device, size_t acquires) {
    peri_fake_device *fake = device_of(device);
    pthread_mutex_lock(&fake->memory_lock);
    fake->acquires_to_failure = acquires;
    pthread_mutex_unlock(&fake->memory_lock);
}

/* Counts the bytes against the limit, all or nothing. */
static peri_status reserve(peri_fake_device *device, size_t bytes, peri_memory_use use) {
    pthread_mutex_lock(&device->memory_lock);
    size_t left = device->limit > device->bytes ? device->limit - device->bytes : 0;
    if (device->acquires_to_failure > 1)
        device->acquires_to_failure--;
    else if (device->acquires_to_failure == 1)
        left = 0;
    bool fits = bytes <= left;
    if (fits) device->bytes += bytes;
    if (fits) device->held[use] += bytes;
    pthread_mutex_unlock(&device->memory_lock);
    if (fits) return PERI_OK;
    return peri_fail(PERI_E_MEMORY, "fake:%u: %zu bytes needed, %zu bytes free",
                     (unsigned)device->base.place.number, bytes, left);
}

static peri_status device_block(peri_fake_device *device, peri_fake_block *block, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used, mapped;
    if (bytes == 0) return PERI_OK;
    if (!peri_add_fits(bytes, page + ALIGN, &used) || !peri_add_fits(used, page, &mapped))
        return peri_fail(PERI_E_MEMORY, "%zu bytes are more than an address space", bytes);
    PERI_TRY(reserve(device, bytes, block->mem.use));
    block->pages_bytes = peri_round_up(bytes, page);
    char *pages = mmap(NULL, block->pages_bytes + page, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        pthread_mutex_lock(&device->memory_lock);
        device->bytes -= bytes;
        device->held[block->mem.use] -= bytes;
        pthread_mutex_unlock(&device->memory_lock);
        return peri_fail(PERI_E_MEMORY, "fake:%u: %zu bytes needed: the system gave none",
                         (unsigned)device->base.place.number, bytes);
    }
    block->pages = pages;
    block->mem.data = pages + (block->pages_bytes - peri_round_up(bytes, ALIGN));
    return PERI_OK;
}

/* A queue may be at work on other blocks, and the next task open nothing: open the new block then
 * too. */
static void link_block(peri_fake_device *device, peri_fake_block *block) {
    pthread_mutex_lock(&device->memory_lock);
    if (device->opened > 0 && block->pages != NULL)
        (void)mprotect(block->pages, block->pages_bytes, PROT_READ | PROT_WRITE);
    block->next = device->blocks;
    if (block->next != NULL) block->next->previous = block;
    device->blocks = block;
    pthread_mutex_unlock(&device->memory_lock);
}

static peri_status block_create(peri_device *device, peri_fake_block **out) {
    const peri_host *host = device->host;
    *out = host->resize(device->context, NULL, 0, sizeof **out);
    if (*out == NULL)
        return peri_fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given",
                         sizeof **out);
    memset(*out, 0, sizeof **out);
    (*out)->mem.device = device;
    return PERI_OK;
}

peri_status peri_fake_mem_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                  peri_memory_use use, peri_mem **out) {
    *out = NULL;
    PERI_TRY(peri_fake_check(device));
    peri_fake_block *block;
    PERI_TRY(block_create(device, &block));
    block->mem.bytes = bytes;
    block->mem.kind = kind;
    block->mem.use = use;
    peri_status status = kind == PERI_MEMORY_DEVICE ? device_block(device_of(device), block, bytes)
                                                    : host_block(device, block, bytes);
    if (status != PERI_OK) {
        device->host->resize(device->context, block, sizeof *block, 0);
        return status;
    }
    link_block(device_of(device), block);
    *out = &block->mem;
    return PERI_OK;
}

/* Memory of the device alone: a host pointer is what a GPU would fault at. */
peri_status peri_fake_mem_check(peri_device *device, const void *data, size_t bytes) {
    PERI_TRY(peri_fake_check(device));
    if (peri_fake_memory_holds(device_of(device), data, bytes)) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "fake:%u: %zu bytes at %p are not memory of this device",
                     (unsigned)device->place.number, bytes, data);
}

peri_status peri_fake_mem_wrap(peri_device *device, void *data, size_t bytes, peri_mem **out) {
    *out = NULL;
    PERI_TRY(peri_fake_mem_check(device, data, bytes));
    peri_fake_block *block;
    PERI_TRY(block_create(device, &block));
    block->mem.data = data;
    block->mem.bytes = bytes;
    block->mem.kind = PERI_MEMORY_DEVICE;
    block->mem.use = PERI_USE_OTHER;
    block->mem.foreign = true;
    link_block(device_of(device), block);
    *out = &block->mem;
    return PERI_OK;
}

/* In a child of a fork the list may have been caught half changed: it is not walked there. */
static void unlink_block(peri_fake_device *device, peri_fake_block *block) {
    pthread_mutex_lock(&device->memory_lock);
    if (block->previous != NULL)
        block->previous->next = block->next;
    else
        device->blocks = block->next;
    if (block->next != NULL) block->next->previous = block->previous;
    if (block->pages != NULL) {
        device->bytes -= block->mem.bytes;
        device->held[block->mem.use] -= block->mem.bytes;
    }
    pthread_mutex_unlock(&device->memory_lock);
}

void peri_fake_mem_release(peri_mem *mem) {
    if (mem == NULL) return;
    peri_fake_block *block = (peri_fake_block *)mem;
    peri_device *device = mem->device;
    const peri_host *host = device->host;
    if (host->generation() == device->generation) {
        if (mem->shared) peri_fake_queue_rest(device_of(device));
        PERI_ASSERT(!peri_fake_queue_names(device_of(device), mem->data, mem->bytes));
        unlink_block(device_of(device), block);
    }
    if (block->pages != NULL)
        munmap(block->pages, block->pages_bytes + (size_t)sysconf(_SC_PAGESIZE));
    else if (!mem->foreign && mem->data != NULL)
        host->resize(device->context, mem->data, mem->bytes, 0);
    host->resize(device->context, block, sizeof *block, 0);
}

peri_status peri_fake_mem_limit(peri_device *device, size_t bytes) {
    PERI_TRY(peri_fake_check(device));
    peri_fake_device *fake = device_of(device);
    pthread_mutex_lock(&fake->memory_lock);
    fake->limit = bytes == 0 ? PERI_FAKE_BYTES : bytes;
    pthread_mutex_unlock(&fake->memory_lock);
    return PERI_OK;
}

/* A mapping that can't change its protection has run out of areas: the fault that follows says
 * where. */
static void protect_all(const peri_fake_device *device, int protection) {
    for (peri_fake_block *b = device->blocks; b != NULL; b = b->next)
        if (b->pages != NULL) (void)mprotect(b->pages, b->pages_bytes, protection);
}

void peri_fake_memory_open(peri_fake_device *device) {
    pthread_mutex_lock(&device->memory_lock);
    if (device->opened++ == 0) protect_all(device, PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&device->memory_lock);
}

void peri_fake_memory_close(peri_fake_device *device) {
    pthread_mutex_lock(&device->memory_lock);
    PERI_ASSERT(device->opened > 0);
    if (--device->opened == 0) protect_all(device, PROT_NONE);
    pthread_mutex_unlock(&device->memory_lock);
}

bool peri_fake_memory_holds(peri_fake_device *device, const void *data, size_t bytes) {
    bool found = false;
    uintptr_t at = (uintptr_t)data;
    pthread_mutex_lock(&device->memory_lock);
    for (peri_fake_block *b = device->blocks; b != NULL && !found; b = b->next) {
        uintptr_t begin = (uintptr_t)b->mem.data;
        found = at >= begin && at - begin <= b->mem.bytes && bytes <= b->mem.bytes - (at - begin);
    }
    pthread_mutex_unlock(&device->memory_lock);
    return found;
}
