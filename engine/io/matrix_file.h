/* matrix_file.h: what the matrix formats share. A format turns its header into a layout, or a
 * matrix's shape into a header; matrix_file.c does all the reading, mapping and writing of rows. */
#ifndef PERI_IO_MATRIX_FILE_H
#define PERI_IO_MATRIX_FILE_H

#include "core/matrix.h"
#include "io/file_map.h"

/* Where the rows of a file are: row r begins at offset + r * (prefix + cols * item_bytes). */
typedef struct peri_layout {
    peri_dtype dtype; /* of the matrix */
    size_t rows, cols;
    size_t offset;
    size_t prefix; /* bytes before the values of each row: 4, its dimension, in .?vecs; else 0 */
    size_t item_bytes; /* of one value in the file */
    bool doubles;      /* the values are f64 and become f32, rounded to nearest */
} peri_layout;

#define PERI_MATRIX_HEAD_MAX 256

typedef struct peri_matrix_format peri_matrix_format;
struct peri_matrix_format {
    const char *name; /* also the file's ending */
    peri_dtype dtype; /* of its values; PERI_DTYPE_COUNT: the header says */
    size_t prefix;
    /* Reads the header. The layout's sizes have passed peri_layout_check(). */
    peri_status (*probe)(const peri_matrix_format *format, peri_context *context,
                         const peri_file *file, peri_layout *out);
    /* Writes the header of a matrix; PERI_E_ARGUMENT when the format can't hold it. */
    peri_status (*head)(const peri_matrix_format *format, const peri_view *view, char *text,
                        size_t *bytes);
};

/* Compares what a header claims with the file's length, which it must match exactly. */
peri_status peri_layout_check(const peri_file *file, const peri_layout *layout);

peri_status peri_npy_probe(const peri_matrix_format *format, peri_context *context,
                           const peri_file *file, peri_layout *out);
peri_status peri_npy_head(const peri_matrix_format *format, const peri_view *view, char *text,
                          size_t *bytes);
peri_status peri_vecs_probe(const peri_matrix_format *format, peri_context *context,
                            const peri_file *file, peri_layout *out);
peri_status peri_vecs_head(const peri_matrix_format *format, const peri_view *view, char *text,
                           size_t *bytes);
peri_status peri_bin_probe(const peri_matrix_format *format, peri_context *context,
                           const peri_file *file, peri_layout *out);
peri_status peri_bin_head(const peri_matrix_format *format, const peri_view *view, char *text,
                          size_t *bytes);

#endif
