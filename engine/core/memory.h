/* memory.h: host memory of a context, accounted exactly: sizes are known when a block is given
 * back.
 *
 * Every block is 64-byte aligned. Nothing in the engine calls malloc. Threads: any. */
#ifndef PERI_CORE_MEMORY_H
#define PERI_CORE_MEMORY_H

#include "core/status.h"

#define PERI_ALIGN 64u

/* count * size bytes, not cleared; count 0 gives NULL and PERI_OK. `out` is the address of a
 * pointer of any type. PERI_E_MEMORY names the bytes and the limit. */
peri_status peri_memory_acquire(peri_context *context, size_t count, size_t size, void *out);

/* The same, cleared. */
peri_status peri_memory_acquire_zeroed(peri_context *context, size_t count, size_t size, void *out);

/* Grows or shrinks; on failure the old block stays as it was. */
peri_status peri_memory_resize(peri_context *context, void *pointer_of, size_t old_count,
                               size_t new_count, size_t size);

/* Gives back; NULL is allowed. `count` and `size` are those of the acquire. */
void peri_memory_release(peri_context *context, void *block, size_t count, size_t size);

/* The shape that backends are handed (peri_host.resize): bytes, NULL on failure, no detail. */
void *peri_memory_host_resize(peri_context *context, void *p, size_t old_bytes, size_t new_bytes);

/* The C library's allocator, the default of a context. */
extern const peri_allocator peri_library_allocator;

/* A copy of a text, released with peri_text_release. */
peri_status peri_text_copy(peri_context *context, const char *text, char **out);
void peri_text_release(peri_context *context, char *text);

#endif
