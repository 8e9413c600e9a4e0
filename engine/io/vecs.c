/* vecs.c: .fvecs .bvecs .ivecs (TEXMEX): each row is its dimension, a little-endian i32, and its
 * values. There is no header: the first row's dimension and the file's length give the number of
 * rows, and each row that is read has its own dimension compared with the first one's
 * (matrix_file.c). */
#include "io/matrix_file.h"

peri_status peri_vecs_probe(const peri_matrix_format *format, peri_context *context,
                            const peri_file *file, peri_layout *out) {
    int32_t dim = 0;
    const char *path = peri_path_tail(file->path);
    (void)context;
    if (file->bytes < sizeof dim)
        return peri_fail(PERI_E_CORRUPT, "%s: %zu bytes are too few for a row of .%s", path,
                         file->bytes, format->name);
    PERI_TRY(peri_file_read(file, 0, &dim, sizeof dim));
    if (dim <= 0)
        return peri_fail(PERI_E_CORRUPT, "%s: row 0 claims the dimension %d, allowed: 1 and more",
                         path, dim);
    *out = (peri_layout){ .dtype = format->dtype,
                          .cols = (size_t)dim,
                          .prefix = sizeof dim,
                          .item_bytes = peri_dtype_bytes(format->dtype) };
    size_t stride = out->prefix + out->cols * out->item_bytes; /* below 2^34 */
    if (file->bytes % stride != 0)
        return peri_fail(PERI_E_CORRUPT,
                         "%s: row 0 claims the dimension %d, %zu bytes a row; the file's %zu bytes "
                         "are no multiple of that",
                         path, dim, stride, file->bytes);
    out->rows = file->bytes / stride;
    return peri_layout_check(file, out);
}

peri_status peri_vecs_head(const peri_matrix_format *format, const peri_view *view, char *text,
                           size_t *bytes) {
    (void)text;
    if (view->rows == 0)
        return peri_fail(PERI_E_ARGUMENT,
                         "rows: 0 given; .%s keeps the dimension in its rows, so "
                         "it needs at least one",
                         format->name);
    if (view->cols > INT32_MAX)
        return peri_fail(PERI_E_ARGUMENT, "cols: %zu given, .%s holds at most %d", view->cols,
                         format->name, INT32_MAX);
    *bytes = 0;
    return PERI_OK;
}
