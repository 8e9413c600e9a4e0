/* bin.c: the .fbin family of the big-ann benchmarks: u32 rows, u32 columns, then the values. */
#include "io/matrix_file.h"

#define HEAD_BYTES 8

peri_status peri_bin_probe(const peri_matrix_format *format, peri_context *context,
                           const peri_file *file, peri_layout *out) {
    uint32_t head[2];
    (void)context;
    if (file->bytes < HEAD_BYTES)
        return peri_fail(PERI_E_CORRUPT,
                         "%s: a .%s file begins with %d bytes of header, it has %zu",
                         peri_path_tail(file->path), format->name, HEAD_BYTES, file->bytes);
    PERI_TRY(peri_file_read(file, 0, head, sizeof head));
    *out = (peri_layout){ .dtype = format->dtype,
                          .rows = head[0],
                          .cols = head[1],
                          .offset = HEAD_BYTES,
                          .item_bytes = peri_dtype_bytes(format->dtype) };
    return peri_layout_check(file, out);
}

peri_status peri_bin_head(const peri_matrix_format *format, const peri_view *view, char *text,
                          size_t *bytes) {
    if (view->rows > UINT32_MAX || view->cols > UINT32_MAX)
        return peri_fail(PERI_E_ARGUMENT,
                         "%zu x %zu is more than .%s can hold: %u rows and columns", view->rows,
                         view->cols, format->name, UINT32_MAX);
    uint32_t head[2] = { (uint32_t)view->rows, (uint32_t)view->cols };
    memcpy(text, head, sizeof head);
    *bytes = sizeof head;
    return PERI_OK;
}
