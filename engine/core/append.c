/* append.c: matrices that share a store with room behind them. */
#include "core/append.h"

#include "core/checked.h"
#include "core/memory.h"

typedef struct store {
    atomic_size_t references;
    peri_matrix *rows;    /* [capacity, cols] */
    atomic_size_t filled; /* rows that belong to some matrix */
} store;

static void store_release(void *anchor) {
    store *s = anchor;
    if (atomic_fetch_sub(&s->references, 1) != 1) return;
    peri_context *context = peri_matrix_context(s->rows);
    peri_context_retain(context);
    peri_matrix_release(s->rows);
    peri_memory_release(context, s, 1, sizeof *s);
    peri_context_release(context);
}

/* The first `rows` rows of a store, as a matrix. */
static peri_status prefix(store *s, size_t rows, peri_matrix **out) {
    peri_view view = peri_matrix_view(s->rows);
    view.rows = rows;
    atomic_fetch_add(&s->references, 1);
    PERI_TRY(peri_matrix_anchor(peri_matrix_context(s->rows), view, store_release, s, out));
    peri_matrix_borrow(*out, s->rows);
    return PERI_OK;
}

static peri_status store_create(const peri_matrix *base, size_t rows, store **out) {
    peri_view view = peri_matrix_view(base);
    peri_context *context = peri_matrix_context(base);
    size_t capacity;
    if (!peri_add_fits(rows, rows / 2, &capacity)) capacity = rows;
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof **out, out));
    atomic_init(&(*out)->references, 1);
    peri_status status = peri_matrix_create(context, capacity, view.cols, view.dtype, view.place,
                                            &(*out)->rows);
    if (status != PERI_OK) {
        peri_memory_release(context, *out, 1, sizeof **out);
        *out = NULL;
    }
    return status;
}

/* Room for `more` rows behind the first `rows`, when they are the last ones of their store. */
static store *claim(const peri_matrix *base, size_t rows, size_t more) {
    store *s = peri_matrix_anchored(base, store_release);
    if (s == NULL || peri_matrix_view(s->rows).rows - rows < more) return NULL;
    size_t expected = rows;
    return atomic_compare_exchange_strong(&s->filled, &expected, rows + more) ? s : NULL;
}

static peri_status append_copied(peri_matrix *base, peri_matrix *tail, size_t rows, size_t more,
                                 peri_matrix **out) {
    store *s;
    peri_status status;
    PERI_TRY(store_create(base, rows + more, &s));
    atomic_init(&s->filled, rows + more);
    PERI_GO(peri_matrix_copy_into(s->rows, 0, base));
    PERI_GO(peri_matrix_copy_into(s->rows, rows, tail));
    PERI_GO(prefix(s, rows + more, out));
done:
    store_release(s);
    return status;
}

peri_status peri_matrix_append(peri_matrix *base, peri_matrix *tail, peri_matrix **out) {
    peri_view head = peri_matrix_view(base), rest = peri_matrix_view(tail);
    size_t rows;
    *out = NULL;
    if (head.cols != rest.cols || head.dtype != rest.dtype)
        return peri_fail(PERI_E_ARGUMENT, "%zu columns of %s given, expected %zu of %s", rest.cols,
                         peri_dtype_name(rest.dtype), head.cols, peri_dtype_name(head.dtype));
    if (!peri_add_fits(head.rows, rest.rows, &rows))
        return peri_fail(PERI_E_MEMORY, "%zu and %zu rows are more than memory can hold", head.rows,
                         rest.rows);
    if (rest.rows == 0) {
        peri_matrix_retain(base);
        *out = base;
        return PERI_OK;
    }
    store *s = claim(base, head.rows, rest.rows);
    if (s == NULL) return append_copied(base, tail, head.rows, rest.rows, out);
    PERI_TRY(peri_matrix_copy_into(s->rows, head.rows, tail));
    return prefix(s, rows, out);
}
