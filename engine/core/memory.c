/* memory.c: the accounted allocator of a context.
 *
 * Counters are atomic and exact: a block's bytes are added before it is asked for and taken back
 * when the allocator declines, so the limit holds under any number of threads.
 *
 * Large blocks begin at a boundary of huge pages and ask the kernel for them: a walk reads rows
 * all over a set, and with pages of 4 KiB most of its reads also miss the table of pages. */
#include "core/memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/checked.h"
#include "core/context.h"

#define HUGE_PAGE ((size_t)1 << 21)
#define HUGE_LEAST (2 * HUGE_PAGE) /* smaller blocks are left to the C library */

/* Whole huge pages only: what is left over at the end costs no more than it did. */
static void *large_block(size_t bytes) {
    void *block = NULL;
    if (posix_memalign(&block, HUGE_PAGE, bytes) != 0) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(block, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* a wish: may be refused */
#endif
    return block;
}

/* The C library's allocator in the shape of ours. Aligned blocks can't be resized in place
 * there, so a resize is a copy. */
static void *library_resize(void *ud, void *p, size_t old_bytes, size_t new_bytes, size_t align) {
    (void)ud;
    if (new_bytes == 0) {
        free(p);
        return NULL;
    }
    void *block = new_bytes >= HUGE_LEAST ? large_block(new_bytes)
                                          : aligned_alloc(align, peri_round_up(new_bytes, align));
    if (block == NULL || p == NULL) return block;
    memcpy(block, p, peri_min_size(old_bytes, new_bytes));
    free(p);
    return block;
}

const peri_allocator peri_library_allocator = { NULL, library_resize };

static void raise_peak(peri_context *context, size_t bytes) {
    size_t peak = atomic_load(&context->bytes_peak);
    while (bytes > peak && !atomic_compare_exchange_weak(&context->bytes_peak, &peak, bytes)) {}
}

static peri_status over_limit(const peri_context *context, size_t bytes) {
    size_t held = atomic_load(&context->bytes);
    if (context->bytes_limit != 0)
        return peri_fail(PERI_E_MEMORY, "%zu bytes needed, %zu held, the limit is %zu bytes", bytes,
                         held, context->bytes_limit);
    return peri_fail(PERI_E_MEMORY, "%zu bytes needed, %zu held: the system gave none", bytes,
                     held);
}

/* Counts `more` bytes, or not at all when that passes the limit. */
static bool reserve(peri_context *context, size_t more) {
    size_t held = atomic_load(&context->bytes), sum;
    do {
        if (!peri_add_fits(held, more, &sum)) return false;
        if (context->bytes_limit != 0 && sum > context->bytes_limit) return false;
    } while (!atomic_compare_exchange_weak(&context->bytes, &held, sum));
    return true;
}

/* The one way in to the allocator. */
static void *resize(peri_context *context, void *p, size_t old_bytes, size_t new_bytes) {
    if (new_bytes > old_bytes && !reserve(context, new_bytes - old_bytes)) return NULL;
    void *block = context->allocator.resize(context->allocator.ud, p, old_bytes, new_bytes,
                                            PERI_ALIGN);
    if (block == NULL && new_bytes > 0) {
        if (new_bytes > old_bytes) atomic_fetch_sub(&context->bytes, new_bytes - old_bytes);
        return NULL;
    }
    if (new_bytes < old_bytes) atomic_fetch_sub(&context->bytes, old_bytes - new_bytes);
    if (old_bytes == 0) atomic_fetch_add(&context->blocks, 1);
    if (new_bytes == 0) atomic_fetch_sub(&context->blocks, 1);
    if (new_bytes > 0) atomic_fetch_add(&context->acquired, 1);
    raise_peak(context, atomic_load(&context->bytes));
    return block;
}

void *peri_memory_host_resize(peri_context *context, void *p, size_t old_bytes, size_t new_bytes) {
    if (old_bytes == 0 && new_bytes == 0) return NULL;
    return resize(context, p, old_bytes, new_bytes);
}

peri_status peri_memory_acquire(peri_context *context, size_t count, size_t size, void *out) {
    void **slot = (void **)out;
    *slot = NULL;
    size_t bytes;
    if (!peri_mul_fits(count, size, &bytes))
        return peri_fail(PERI_E_MEMORY, "%zu items of %zu bytes are more than memory can hold",
                         count, size);
    if (bytes == 0) return PERI_OK;
    *slot = resize(context, NULL, 0, bytes);
    return *slot == NULL ? over_limit(context, bytes) : PERI_OK;
}

peri_status peri_memory_acquire_zeroed(peri_context *context, size_t count, size_t size,
                                       void *out) {
    PERI_TRY(peri_memory_acquire(context, count, size, out));
    if (*(void **)out != NULL) memset(*(void **)out, 0, count * size);
    return PERI_OK;
}

peri_status peri_memory_resize(peri_context *context, void *pointer_of, size_t old_count,
                               size_t new_count, size_t size) {
    void **slot = (void **)pointer_of;
    size_t bytes;
    if (!peri_mul_fits(new_count, size, &bytes))
        return peri_fail(PERI_E_MEMORY, "%zu items of %zu bytes are more than memory can hold",
                         new_count, size);
    if (*slot == NULL) return peri_memory_acquire(context, new_count, size, slot);
    void *block = resize(context, *slot, old_count * size, bytes);
    if (block == NULL && bytes > 0) return over_limit(context, bytes);
    *slot = block;
    return PERI_OK;
}

void peri_memory_release(peri_context *context, void *block, size_t count, size_t size) {
    if (block != NULL) resize(context, block, count * size, 0);
}

peri_status peri_text_copy(peri_context *context, const char *text, char **out) {
    size_t bytes = strlen(text) + 1;
    PERI_TRY(peri_memory_acquire(context, bytes, 1, out));
    memcpy(*out, text, bytes);
    return PERI_OK;
}

void peri_text_release(peri_context *context, char *text) {
    if (text != NULL) peri_memory_release(context, text, strlen(text) + 1, 1);
}
