/* handle.c: the searcher around an index that can be replaced.
 *
 * The pointer is guarded by the context's lock, which a search takes for its lane anyway and which
 * a fork leaves free. The lock of the writers is held for as long as an extension takes, so a
 * child of a fork may find it held by a thread that it does not have: it then makes a new one. */
#include "index/handle.h"

#include <pthread.h>

#include "core/memory.h"
#include "core/threads.h"

typedef struct handle {
    peri_searcher base;
    peri_index *current;
    pthread_mutex_t writer;
    uint64_t generation; /* of the process that made `writer` */
} handle;

static bool is_handle(const peri_searcher *searcher) {
    return searcher->ops->release == peri_handle_free;
}

peri_status peri_handle_create(peri_index *index, peri_searcher **out) {
    handle *self;
    *out = NULL;
    peri_status status = peri_memory_acquire_zeroed(index->context, 1, sizeof *self, &self);
    if (status != PERI_OK) {
        peri_index_release(index);
        return status;
    }
    peri_searcher_init(&self->base, &index->kind->ops, index->context, NULL);
    self->base.device = index->device;
    self->base.metric = index->metric;
    self->base.dim = index->dim;
    atomic_init(&self->base.rows, index->rows);
    self->current = index;
    self->generation = peri_process_generation();
    pthread_mutex_init(&self->writer, NULL);
    *out = &self->base;
    return PERI_OK;
}

void peri_handle_free(peri_searcher *searcher) {
    handle *self = (handle *)searcher;
    peri_context *context = searcher->context;
    peri_lanes_settle(searcher->device); /* searches that were left hold the index too */
    peri_index_release(self->current);
    pthread_mutex_destroy(&self->writer);
    peri_memory_release(context, self, 1, sizeof *self);
}

peri_index *peri_handle_take(const peri_searcher *searcher) {
    if (!is_handle(searcher)) return NULL;
    pthread_mutex_lock(&searcher->context->lock);
    peri_index *index = ((const handle *)searcher)->current;
    peri_index_retain(index);
    pthread_mutex_unlock(&searcher->context->lock);
    return index;
}

void peri_handle_begin(peri_searcher *searcher) {
    handle *self = (handle *)searcher;
    pthread_mutex_lock(&searcher->context->lock);
    if (self->generation != peri_process_generation()) {
        pthread_mutex_init(&self->writer, NULL);
        self->generation = peri_process_generation();
    }
    pthread_mutex_unlock(&searcher->context->lock);
    pthread_mutex_lock(&self->writer);
}

void peri_handle_done(peri_searcher *searcher, peri_index *next) {
    handle *self = (handle *)searcher;
    peri_index *before = NULL;
    if (next != NULL) {
        pthread_mutex_lock(&searcher->context->lock);
        before = self->current;
        self->current = next;
        atomic_store(&searcher->rows, next->rows);
        pthread_mutex_unlock(&searcher->context->lock);
    }
    pthread_mutex_unlock(&self->writer);
    peri_index_release(before);
}
