/* removed.c: rows that are marked as removed. Their slots stay, as holes that no search answers;
 * an index that relinks or empties lists does so on top. */
#include "core/checked.h"
#include "core/memory.h"
#include "index/index.h"

/* The filter of the rows that are alive. */
static peri_status make_alive(peri_index *index, const uint8_t *gone) {
    peri_context *context = index->context;
    size_t bytes = peri_ceil_div(index->rows, 8), removed = 0;
    unsigned char *bits;
    PERI_TRY(peri_memory_acquire_zeroed(context, bytes, 1, &bits));
    for (size_t r = 0; r < index->rows; r++) {
        removed += gone[r] != 0;
        if (gone[r] == 0) bits[r / 8] = (unsigned char)(bits[r / 8] | 1u << (r % 8));
    }
    peri_filter *alive;
    peri_status status = peri_filter_bits(context, bits, index->rows, &alive);
    peri_memory_release(context, bits, bytes, 1);
    if (status != PERI_OK) return status;
    peri_filter_release(index->alive);
    index->alive = alive;
    index->removed = removed;
    return PERI_OK;
}

peri_status peri_index_set_deleted(peri_index *index, peri_matrix *deleted) {
    peri_view view = peri_matrix_view(deleted);
    if (view.dtype != PERI_U8 || view.cols != 1 || view.rows != index->rows)
        return peri_fail(PERI_E_CORRUPT, "section 'deleted' is %zu x %zu %s, expected %zu x 1 u8",
                         view.rows, view.cols, peri_dtype_name(view.dtype), index->rows);
    if (!peri_view_packed(&view))
        return peri_fail(PERI_E_ARGUMENT, "section 'deleted' is not packed");
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(deleted, PERI_CPU, &host));
    peri_status status = make_alive(index, peri_matrix_view(host).data);
    if (status == PERI_OK) return peri_index_replace(index, "deleted", host);
    peri_matrix_release(host);
    return status;
}
