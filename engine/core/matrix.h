/* matrix.h: rows somewhere. A matrix owns memory at a place, or anchors what does: a parent
 * (slice) or a mapped file. Immutable once filled: shared freely between threads. */
#ifndef PERI_CORE_MATRIX_H
#define PERI_CORE_MATRIX_H

#include "core/context.h"

/* Called once when the last reference goes. */
typedef void (*peri_anchor_fn)(void *anchor);

/* A matrix over memory that `anchor` keeps alive; release(anchor) is called at the end, also
 * when this fails. */
peri_status peri_matrix_anchor(peri_context *context, peri_view view, peri_anchor_fn release,
                               void *anchor, peri_matrix **out);

/* For a matrix that was anchored without a release: what it keeps from now on, and what its memory
 * is. Before anyone else sees it. */
void peri_matrix_adopt(peri_matrix *matrix, peri_anchor_fn release, void *anchor, bool pinned,
                       bool read_only);

/* `part`, which was anchored, lies in the memory of `whole` and is what it is: page-locked, shared,
 * read-only. */
void peri_matrix_borrow(peri_matrix *part, const peri_matrix *whole);

/* What keeps an anchored matrix alive, when `release` is how it is given back; else NULL. */
void *peri_matrix_anchored(const peri_matrix *matrix, peri_anchor_fn release);

/* Copies all rows of `from` to rows first.. of `to`; same columns and dtype (the caller checked),
 * any two places. For who is still filling `to`. */
peri_status peri_matrix_copy_into(peri_matrix *to, size_t first, const peri_matrix *from);

/* As peri_matrix_create, but not cleared: for what is written whole at once. */
peri_status peri_matrix_acquire(peri_context *context, size_t rows, size_t cols, peri_dtype dtype,
                                peri_place place, peri_matrix **out);

/* Row r of a host view. */
static inline void *peri_view_row(const peri_view *view, size_t row) {
    return (char *)view->data + row * view->stride_bytes;
}

static inline bool peri_view_packed(const peri_view *view) {
    return view->stride_bytes == view->cols * peri_dtype_bytes(view->dtype);
}

static inline bool peri_place_equal(peri_place a, peri_place b) {
    return a.kind == b.kind && a.number == b.number;
}

/* Fails with PERI_E_INVALID and row and column of the first NaN or Inf, `what` naming the
 * argument; with `zeros`, also for a row of zeros (cosine). `view` is on the host. */
peri_status peri_view_check(const peri_view *view, bool zeros, const char *what);

/* The same for a matrix anywhere, in parallel. */
peri_status peri_matrix_check(peri_matrix *matrix, bool zeros, const char *what, size_t threads,
                              const peri_control *control);

#endif
