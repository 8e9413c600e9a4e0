/* host_rows.c: matrices over the context's own memory, and reading any matrix in chunks. */
#include "io/host_rows.h"

#include "core/checked.h"
#include "core/memory.h"
#include "core/numa.h"

#define CHUNK_BYTES ((size_t)1 << 20)

/* The anchor lies before the rows, in one block with them; PERI_ALIGN bytes keep the rows
 * aligned. */
typedef struct host_block {
    peri_context *context; /* the matrix holds the reference */
    size_t bytes;          /* of the block */
} host_block;

_Static_assert(sizeof(host_block) <= PERI_ALIGN, "the rows begin PERI_ALIGN bytes into the block");

static void block_release(void *anchor) {
    host_block *block = anchor;
    peri_memory_release(block->context, block, block->bytes, 1);
}

peri_status peri_host_matrix_create(peri_context *context, size_t rows, size_t cols,
                                    peri_dtype dtype, peri_matrix **out) {
    size_t row_bytes, bytes;
    *out = NULL;
    if (!peri_mul_fits(cols, peri_dtype_bytes(dtype), &row_bytes) ||
        !peri_mul_fits(rows, row_bytes, &bytes) || !peri_add_fits(bytes, PERI_ALIGN, &bytes))
        return peri_fail(PERI_E_MEMORY, "%zu x %zu %s is more than memory can hold", rows, cols,
                         peri_dtype_name(dtype));
    host_block *block;
    PERI_TRY(peri_memory_acquire(context, bytes, 1, &block));
    (void)peri_numa_spread(context, block, bytes);
    *block = (host_block){ context, bytes };
    peri_view view = { (char *)block + PERI_ALIGN, rows, cols, row_bytes, dtype, PERI_CPU };
    return peri_matrix_anchor(context, view, block_release, block, out);
}

peri_status peri_row_reader_open(const peri_matrix *matrix, peri_row_reader *out) {
    peri_view view = peri_matrix_view(matrix);
    size_t row_bytes = view.cols * peri_dtype_bytes(view.dtype);
    size_t chunk = peri_max_size(1, CHUNK_BYTES / row_bytes);
    *out = (peri_row_reader){ matrix, view, row_bytes, peri_min_size(chunk, view.rows), 0, NULL };
    if (peri_place_on_host(view.place) && peri_view_packed(&view)) return PERI_OK;
    return peri_memory_acquire(peri_matrix_context(matrix), out->chunk, row_bytes, &out->buffer);
}

peri_status peri_row_reader_next(peri_row_reader *reader, const void **data, size_t *count) {
    size_t first = reader->next, rows = peri_min_size(reader->chunk, reader->view.rows - first);
    *count = 0;
    *data = NULL;
    if (rows == 0) return PERI_OK;
    if (reader->buffer == NULL) {
        *data = peri_view_row(&reader->view, first);
    } else {
        PERI_TRY(peri_matrix_read(reader->matrix, first, rows, reader->buffer));
        *data = reader->buffer;
    }
    *count = rows;
    reader->next += rows;
    return PERI_OK;
}

void peri_row_reader_close(peri_row_reader *reader) {
    if (reader->matrix == NULL) return;
    peri_memory_release(peri_matrix_context(reader->matrix), reader->buffer, reader->chunk,
                        reader->row_bytes);
    reader->buffer = NULL;
}
