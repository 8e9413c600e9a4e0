/* grow.c: rows that come to an index and rows that leave it.
 *
 * Both make the next index beside the one there is: sections that do not change are shared, those
 * that grow are appended to (core/append.h: in place when there is room behind them), and then the
 * handle is given the next index. A failure leaves everything as it was. */
#include <string.h>

#include "core/append.h"
#include "core/checked.h"
#include "core/memory.h"
#include "index/handle.h"

/* ---- coming ------------------------------------------------------------------------------- */

static peri_status check_growth(const peri_index *old, const peri_extension *more) {
    if (old->kind->extend == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s can't be extended", old->kind->ops.kind);
    if (more->rows == NULL) return peri_fail(PERI_E_ARGUMENT, "rows: none given");
    peri_view view = peri_matrix_view(more->rows);
    if (view.cols != old->dim || view.dtype != old->dtype)
        return peri_fail(PERI_E_ARGUMENT, "rows: %zu columns of %s given, the index has %u of %s",
                         view.cols, peri_dtype_name(view.dtype), old->dim,
                         peri_dtype_name(old->dtype));
    if (view.rows > PERI_SLOTS_MAX - old->rows)
        return peri_fail(PERI_E_ARGUMENT, "rows: %zu more than %zu, allowed: %u in all", view.rows,
                         old->rows, PERI_SLOTS_MAX);
    if (more->ids == NULL && old->ids != NULL)
        return peri_fail(PERI_E_ARGUMENT, "ids: none given, the index has ids of its own");
    return peri_matrix_check(more->rows, old->metric == PERI_COSINE, "rows", more->threads,
                             more->control);
}

/* Adds section `name` of the old index with `tail` behind it. */
static peri_status append_section(const peri_index *old, peri_index *next, const char *name,
                                  peri_matrix *tail) {
    peri_matrix *longer;
    PERI_TRY(peri_matrix_append(peri_index_section(old, name), tail, &longer));
    return peri_index_add(next, name, longer);
}

static peri_status append_lengths(const peri_index *old, peri_index *next, peri_matrix *rows) {
    peri_matrix *lengths;
    if (peri_index_section(old, "lengths") == NULL) return PERI_OK;
    PERI_TRY(peri_index_make_lengths(old, rows, &lengths));
    peri_status status = append_section(old, next, "lengths", lengths);
    peri_matrix_release(lengths);
    return status;
}

static peri_status append_deleted(const peri_index *old, peri_index *next, size_t more) {
    peri_matrix *deleted = peri_index_section(old, "deleted"), *none, *longer = NULL;
    if (deleted == NULL) return PERI_OK;
    PERI_TRY(peri_matrix_create(old->context, more, 1, PERI_U8, PERI_CPU, &none));
    peri_status status = peri_matrix_append(deleted, none, &longer);
    if (status == PERI_OK) status = peri_index_set_deleted(next, longer);
    peri_matrix_release(longer);
    peri_matrix_release(none);
    return status;
}

/* Row numbers 0..n-1 as ids, for the rows that came before the first ids that were given. */
static peri_status number_rows(const peri_index *old, peri_matrix **out) {
    PERI_TRY(peri_matrix_create(old->context, old->rows, 1, PERI_I64, PERI_CPU, out));
    int64_t *ids = peri_matrix_view(*out).data;
    for (size_t r = 0; r < old->rows; r++) ids[r] = (int64_t)r;
    return PERI_OK;
}

static peri_status append_ids(const peri_index *old, peri_index *next, peri_matrix *ids,
                              size_t more) {
    if (ids == NULL) return PERI_OK;
    peri_view view = peri_matrix_view(ids);
    if (view.rows != more || view.cols != 1 || view.dtype != PERI_I64)
        return peri_fail(PERI_E_ARGUMENT, "ids: %zu x %zu %s given, allowed: %zu x 1 i64",
                         view.rows, view.cols, peri_dtype_name(view.dtype), more);
    peri_matrix *before = peri_index_section(old, "ids"), *tail = NULL, *longer = NULL;
    peri_status status;
    if (before == NULL)
        PERI_GO(number_rows(old, &before));
    else
        peri_matrix_retain(before);
    PERI_GO(peri_matrix_move(ids, PERI_CPU, &tail));
    PERI_GO(peri_matrix_append(before, tail, &longer));
    PERI_GO(peri_index_set_ids(next, longer));
done:
    peri_matrix_release(longer);
    peri_matrix_release(tail);
    peri_matrix_release(before);
    return status;
}

/* A new index like the old one, without sections. */
static peri_status make_next(const peri_index *old, size_t rows, peri_index **out) {
    PERI_TRY(peri_index_create(old->context, old->kind, old->device->place, out));
    memcpy((*out)->params, old->params, sizeof old->params);
    (*out)->streamed = old->streamed;
    return peri_index_set_shape(*out, rows, old->dim, old->dtype);
}

static peri_status extend_index(const peri_index *old, const peri_extension *more,
                                peri_index **out) {
    peri_index *next = NULL;
    peri_growth growth = { NULL, old->rows, more->threads, more->control };
    peri_status status;
    PERI_GO(check_growth(old, more));
    PERI_GO(peri_matrix_move(more->rows, peri_index_rows_place(old), &growth.rows));
    size_t count = peri_matrix_view(growth.rows).rows;
    PERI_GO(make_next(old, old->rows + count, &next));
    if (!old->kind->rowless) PERI_GO(append_section(old, next, "rows", growth.rows));
    PERI_GO(append_deleted(old, next, count));
    PERI_GO(append_ids(old, next, more->ids, count));
    PERI_GO(append_lengths(old, next, growth.rows));
    PERI_GO(old->kind->extend(old, next, &growth));
    *out = next;
    next = NULL;
done:
    peri_index_release(next);
    peri_matrix_release(growth.rows);
    return status;
}

peri_status peri_searcher_extend(peri_searcher *searcher, const peri_extension *more) {
    if (more->size != sizeof *more)
        return peri_fail(PERI_E_ARGUMENT, "extension.size: %u given, this library takes %zu",
                         more->size, sizeof *more);
    peri_index *next = NULL, *old = peri_handle_take(searcher);
    if (old == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s can't be extended: extend what it wraps",
                         searcher->ops->kind);
    peri_index_release(old);
    peri_handle_begin(searcher);
    old = peri_handle_take(searcher); /* what the writer before left */
    peri_status status = extend_index(old, more, &next);
    peri_handle_done(searcher, next);
    peri_index_release(old);
    return status;
}

/* ---- leaving ------------------------------------------------------------------------------ */

/* The marks with those of `ids` that are found, and their slots in ascending order. */
static void mark(const peri_index *old, const int64_t *ids, size_t count, uint8_t *gone) {
    for (size_t i = 0; i < count; i++) {
        int64_t row = peri_index_find(old, ids[i]);
        if (row != PERI_ID_NONE) gone[row] = 1;
    }
}

static size_t take_slots(const uint8_t *gone, const uint8_t *before, size_t rows, uint32_t *slots) {
    size_t count = 0;
    for (size_t r = 0; r < rows; r++)
        if (gone[r] != 0 && (before == NULL || before[r] == 0)) {
            if (slots != NULL) slots[count] = (uint32_t)r;
            count++;
        }
    return count;
}

/* All sections but "deleted" and what goes with it. */
static peri_status share_sections(const peri_index *old, peri_index *next, peri_matrix *deleted) {
    if (deleted != NULL) PERI_TRY(peri_index_set_deleted(next, deleted));
    for (size_t i = 0; i < old->section_count; i++) {
        const char *name = old->sections[i].name;
        if (strcmp(name, "deleted") == 0) continue;
        if (strcmp(name, "ids") == 0)
            PERI_TRY(peri_index_set_ids(next, old->sections[i].matrix));
        else
            PERI_TRY(peri_index_share(next, old, name));
    }
    return PERI_OK;
}

static peri_status remove_slots(const peri_index *old, peri_matrix *deleted, peri_loss *loss,
                                peri_index **out) {
    peri_index *next = NULL;
    peri_status status;
    PERI_GO(make_next(old, old->rows, &next));
    PERI_GO(share_sections(old, next, deleted));
    if (old->kind->remove != NULL) PERI_GO(old->kind->remove(old, next, loss));
    *out = next;
    next = NULL;
done:
    peri_index_release(next);
    return status;
}

static peri_status remove_ids(const peri_index *old, const peri_removal *less, peri_index **out,
                              size_t *removed) {
    peri_matrix *before = peri_index_section(old, "deleted"), *deleted = NULL;
    peri_context *context = old->context;
    uint32_t *slots = NULL;
    size_t count = 0;
    peri_status status;
    PERI_GO(peri_matrix_create(context, old->rows, 1, PERI_U8, PERI_CPU, &deleted));
    uint8_t *gone = peri_matrix_view(deleted).data;
    const uint8_t *marked = before == NULL ? NULL : peri_matrix_view(before).data;
    if (marked != NULL) memcpy(gone, marked, old->rows);
    mark(old, less->ids, less->count, gone);
    count = take_slots(gone, marked, old->rows, NULL);
    *removed = count;
    if (count == 0) goto done;
    PERI_GO(peri_memory_acquire(context, count, sizeof *slots, &slots));
    take_slots(gone, marked, old->rows, slots);
    peri_loss loss = { slots, count, less->threads, less->control };
    PERI_GO(remove_slots(old, deleted, &loss, out));
done:
    peri_memory_release(context, slots, count, sizeof *slots);
    peri_matrix_release(deleted);
    return status;
}

peri_status peri_searcher_remove(peri_searcher *searcher, const peri_removal *less,
                                 size_t *removed) {
    *removed = 0;
    if (less->size != sizeof *less)
        return peri_fail(PERI_E_ARGUMENT, "removal.size: %u given, this library takes %zu",
                         less->size, sizeof *less);
    peri_index *next = NULL, *old = peri_handle_take(searcher);
    if (old == NULL)
        return peri_fail(PERI_E_UNSUPPORTED,
                         "%s holds no rows to remove: remove from what it wraps",
                         searcher->ops->kind);
    peri_index_release(old);
    peri_handle_begin(searcher);
    old = peri_handle_take(searcher);
    peri_status status = remove_ids(old, less, &next, removed);
    if (status != PERI_OK) *removed = 0;
    peri_handle_done(searcher, next);
    peri_index_release(old);
    return status;
}

/* ---- packing ------------------------------------------------------------------------------ */

static peri_status pack_index(const peri_index *old, peri_index *next) {
    peri_matrix *deleted = peri_index_section(old, "deleted");
    peri_status status = share_sections(old, next, deleted);
    return status == PERI_OK ? old->kind->pack(old, next) : status;
}

peri_status peri_index_pack(peri_index *index, peri_index **out) {
    *out = NULL;
    if (!index->loose || index->kind->pack == NULL) {
        peri_index_retain(index);
        *out = index;
        return PERI_OK;
    }
    peri_index *next = NULL;
    peri_status status = make_next(index, index->rows, &next);
    if (status == PERI_OK) status = pack_index(index, next);
    if (status == PERI_OK)
        *out = next;
    else
        peri_index_release(next);
    return status;
}
