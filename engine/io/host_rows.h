/* host_rows.h: rows as packed host memory: a matrix to fill from a file, and the rows of any
 * matrix, a chunk at a time, to write to one. */
#ifndef PERI_IO_HOST_ROWS_H
#define PERI_IO_HOST_ROWS_H

#include "core/matrix.h"

/* A packed matrix on the host, not cleared: the caller fills all of peri_matrix_view(*out).data
 * before anyone sees it. A large file would otherwise be written to memory twice. */
peri_status peri_host_matrix_create(peri_context *context, size_t rows, size_t cols,
                                    peri_dtype dtype, peri_matrix **out);

typedef struct peri_row_reader {
    const peri_matrix *matrix;
    peri_view view;
    size_t row_bytes;
    size_t chunk; /* rows a step */
    size_t next;
    void *buffer; /* of `chunk` rows; NULL when they are read where they lie */
} peri_row_reader;

peri_status peri_row_reader_open(const peri_matrix *matrix, peri_row_reader *out);
/* The next `*count` rows, packed, valid until the next call; 0 at the end. */
peri_status peri_row_reader_next(peri_row_reader *reader, const void **data, size_t *count);
void peri_row_reader_close(peri_row_reader *reader);

static inline bool peri_place_on_host(peri_place place) {
    return place.kind == PERI_PLACE_CPU || place.kind == PERI_PLACE_REF;
}

#endif
