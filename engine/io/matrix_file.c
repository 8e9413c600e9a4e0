/* matrix_file.c: matrices from and to files. A format gives a layout (matrix_file.h); from there on
 * all formats are read, mapped and written by the same few loops.
 *
 * Invariant: before anything is allocated, the layout has been compared with the file's length, so
 * a matrix is never larger than its file. */
#include "io/matrix_file.h"

#include <stdio.h>
#include <strings.h>

#include "core/checked.h"
#include "core/memory.h"
#include "io/atomic_file.h"
#include "io/follow.h"
#include "io/host_rows.h"

#define STAGING_BYTES ((size_t)256 << 10)
#define COLS_MAX 0x7FFFFFFFu /* what .?vecs can say; a file of no rows could claim anything */
#define FORMAT_NAMES "npy fvecs bvecs ivecs fbin f16bin u8bin i8bin ibin"

static const peri_matrix_format formats[] = {
    { "npy", PERI_DTYPE_COUNT, 0, peri_npy_probe, peri_npy_head },
    { "fvecs", PERI_F32, 4, peri_vecs_probe, peri_vecs_head },
    { "bvecs", PERI_U8, 4, peri_vecs_probe, peri_vecs_head },
    { "ivecs", PERI_I32, 4, peri_vecs_probe, peri_vecs_head },
    { "fbin", PERI_F32, 0, peri_bin_probe, peri_bin_head },
    { "f16bin", PERI_F16, 0, peri_bin_probe, peri_bin_head },
    { "u8bin", PERI_U8, 0, peri_bin_probe, peri_bin_head },
    { "i8bin", PERI_I8, 0, peri_bin_probe, peri_bin_head },
    { "ibin", PERI_I32, 0, peri_bin_probe, peri_bin_head },
};

/* ---- what the formats use ----------------------------------------------------------------- */

static size_t stride_of(const peri_layout *layout) {
    return layout->prefix + layout->cols * layout->item_bytes;
}

peri_status peri_layout_check(const peri_file *file, const peri_layout *layout) {
    size_t bytes;
    const char *path = peri_path_tail(file->path);
    if (layout->cols == 0)
        return peri_fail(PERI_E_CORRUPT, "%s: the header claims %zu rows of no values", path,
                         layout->rows);
    if (layout->cols > COLS_MAX)
        return peri_fail(PERI_E_CORRUPT, "%s: the header claims rows of %zu values, allowed: 1..%u",
                         path, layout->cols, COLS_MAX);
    bool fits = peri_mul_fits(layout->cols, layout->item_bytes, &bytes) &&
                peri_add_fits(bytes, layout->prefix, &bytes) &&
                peri_mul_fits(bytes, layout->rows, &bytes) &&
                peri_add_fits(bytes, layout->offset, &bytes);
    if (fits && bytes == file->bytes) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT,
                     "%s: the header claims %zu rows of %zu values of %zu bytes; the file has %zu "
                     "bytes",
                     path, layout->rows, layout->cols, layout->item_bytes, file->bytes);
}

/* The format of a name, or of a path's ending; NULL when there is none such. */
static const peri_matrix_format *find_format(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcasecmp(name, formats[i].name) == 0) return &formats[i];
    return NULL;
}

static peri_status choose_format(const char *path, const char *name,
                                 const peri_matrix_format **out) {
    const char *slash = strrchr(path, '/');
    const char *dot = strrchr(slash == NULL ? path : slash, '.');
    if (name != NULL) {
        *out = find_format(name);
        if (*out != NULL) return PERI_OK;
        return peri_fail(PERI_E_ARGUMENT, "format: '%.40s' given, allowed: " FORMAT_NAMES, name);
    }
    *out = dot == NULL ? NULL : find_format(dot + 1);
    if (*out != NULL) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT,
                     "%s: the ending '%.40s' names no format, allowed: " FORMAT_NAMES
                     " (or give the option format)",
                     peri_path_tail(path), dot == NULL ? "" : dot);
}

/* ---- reading ------------------------------------------------------------------------------ */

/* One load: rows [first, first + count) of the file. */
typedef struct reading {
    peri_context *context;
    const peri_file *file;
    peri_layout layout;
    size_t first, count;
    const peri_control *control;
} reading;

static peri_status check_prefix(const reading *r, size_t row, const void *prefix) {
    int32_t dim;
    memcpy(&dim, prefix, sizeof dim);
    if (dim >= 0 && (size_t)dim == r->layout.cols) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "%s: row %zu claims the dimension %d, row 0 has %zu",
                     peri_path_tail(r->file->path), row, dim, r->layout.cols);
}

/* Rows that lie in the file as they will in memory. */
static peri_status read_plain(const reading *r, char *to) {
    size_t stride = stride_of(&r->layout), bytes = r->count * stride;
    size_t offset = r->layout.offset + r->first * stride;
    for (size_t done = 0; done < bytes;) {
        size_t some = peri_min_size(PERI_FOLLOW_BYTES, bytes - done);
        PERI_TRY(peri_follow(r->control, "load", done, bytes));
        PERI_TRY(peri_file_read(r->file, offset + done, to + done, some));
        done += some;
    }
    return peri_follow(r->control, "load", bytes, bytes);
}

/* f64 to f32, as one long row: a chunk may end anywhere. */
static peri_status read_doubles(const reading *r, float *to) {
    size_t stride = stride_of(&r->layout), count = r->count * r->layout.cols;
    size_t offset = r->layout.offset + r->first * stride, chunk = STAGING_BYTES / sizeof(double);
    double *staging;
    PERI_TRY(peri_memory_acquire(r->context, chunk, sizeof *staging, &staging));
    peri_status status = PERI_OK;
    for (size_t done = 0; done < count;) {
        size_t some = peri_min_size(chunk, count - done);
        PERI_GO(peri_follow(r->control, "load", done, count));
        PERI_GO(peri_file_read(r->file, offset + done * sizeof *staging, staging,
                               some * sizeof *staging));
        for (size_t i = 0; i < some; i++) to[done + i] = (float)staging[i];
        done += some;
    }
done:
    peri_memory_release(r->context, staging, chunk, sizeof *staging);
    return status;
}

/* One row of dimension and values that is too long to be staged. */
static peri_status read_long_row(const reading *r, size_t row, char *to) {
    char prefix[4];
    size_t offset = r->layout.offset + row * stride_of(&r->layout);
    PERI_TRY(peri_file_read(r->file, offset, prefix, sizeof prefix));
    PERI_TRY(check_prefix(r, row, prefix));
    return peri_file_read(r->file, offset + sizeof prefix, to,
                          r->layout.cols * r->layout.item_bytes);
}

static peri_status unpack_rows(const reading *r, size_t row, size_t count, const char *from,
                               char *to) {
    size_t stride = stride_of(&r->layout), row_bytes = stride - r->layout.prefix;
    for (size_t i = 0; i < count; i++) {
        PERI_TRY(check_prefix(r, row + i, from + i * stride));
        memcpy(to + i * row_bytes, from + i * stride + r->layout.prefix, row_bytes);
    }
    return PERI_OK;
}

static peri_status read_prefixed(const reading *r, char *to) {
    size_t stride = stride_of(&r->layout), row_bytes = stride - r->layout.prefix;
    size_t chunk = STAGING_BYTES / stride;
    char *staging;
    PERI_TRY(peri_memory_acquire(r->context, chunk, stride, &staging));
    peri_status status = PERI_OK;
    for (size_t done = 0; done < r->count;) {
        size_t row = r->first + done, some = peri_min_size(chunk, r->count - done);
        PERI_GO(peri_follow(r->control, "load", done, r->count));
        if (chunk == 0) {
            some = 1;
            PERI_GO(read_long_row(r, row, to + done * row_bytes));
        } else {
            PERI_GO(peri_file_read(r->file, row * stride, staging, some * stride));
            PERI_GO(unpack_rows(r, row, some, staging, to + done * row_bytes));
        }
        done += some;
    }
done:
    peri_memory_release(r->context, staging, chunk, stride);
    return status;
}

static peri_status read_rows(const reading *r, peri_matrix **out) {
    const peri_layout *layout = &r->layout;
    PERI_TRY(peri_host_matrix_create(r->context, r->count, layout->cols, layout->dtype, out));
    void *to = peri_matrix_view(*out).data;
    peri_status status = layout->doubles      ? read_doubles(r, to)
                         : layout->prefix > 0 ? read_prefixed(r, to)
                                              : read_plain(r, to);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

/* ---- mapping ------------------------------------------------------------------------------ */

/* Values must be aligned in every row: a .npy header may end anywhere. */
static bool can_map(const peri_layout *layout) {
    return !layout->doubles && (layout->offset + layout->prefix) % layout->item_bytes == 0 &&
           stride_of(layout) % layout->item_bytes == 0;
}

static peri_status check_prefixes(const reading *r, const char *data) {
    size_t stride = stride_of(&r->layout), chunk = peri_max_size(1, PERI_FOLLOW_BYTES / stride);
    for (size_t i = 0; i < r->count && r->layout.prefix > 0; i++) {
        if (i % chunk == 0) PERI_TRY(peri_follow(r->control, "load", i, r->count));
        PERI_TRY(check_prefix(r, r->first + i, data + (r->first + i) * stride));
    }
    return PERI_OK;
}

static peri_status map_rows(const reading *r, peri_matrix **out) {
    const peri_layout *layout = &r->layout;
    size_t stride = stride_of(layout);
    peri_file_map *map;
    PERI_TRY(peri_file_map_open(r->context, r->file, &map));
    char *data = (char *)peri_file_map_data(map) + layout->offset;
    peri_status status = check_prefixes(r, data);
    if (status != PERI_OK) {
        peri_file_map_release(map);
        return status;
    }
    peri_view view = { data + r->first * stride + layout->prefix,
                       r->count,
                       layout->cols,
                       stride,
                       layout->dtype,
                       PERI_CPU };
    return peri_matrix_anchor(r->context, view, peri_file_map_release, map, out);
}

/* ---- loading ------------------------------------------------------------------------------ */

static peri_status choose_rows(const peri_load_options *options, const char *path, reading *r) {
    size_t rows = r->layout.rows, stop = options->stop == SIZE_MAX ? rows : options->stop;
    if (options->first > stop || stop > rows)
        return peri_fail(PERI_E_ARGUMENT, "rows: first %zu, stop %zu given; %s has %zu rows",
                         options->first, stop, peri_path_tail(path), rows);
    r->first = options->first;
    r->count = stop - options->first;
    return PERI_OK;
}

peri_status peri_matrix_load(peri_context *context, const char *path,
                             const peri_load_options *options, peri_matrix **out) {
    static const peri_load_options plain = PERI_LOAD_OPTIONS_INIT;
    const peri_matrix_format *format;
    *out = NULL;
    if (context == NULL || path == NULL)
        return peri_fail(PERI_E_ARGUMENT, "%s: none given", path == NULL ? "path" : "context");
    if (options == NULL) options = &plain;
    if (options->size != sizeof *options)
        return peri_fail(PERI_E_ARGUMENT, "options.size: %u given, this library takes %zu",
                         options->size, sizeof *options);
    PERI_TRY(choose_format(path, options->format, &format));
    peri_file file;
    PERI_TRY(peri_file_open(path, &file));
    reading r = { .context = context, .file = &file, .control = options->control };
    peri_status status;
    PERI_GO(format->probe(format, context, &file, &r.layout));
    PERI_GO(choose_rows(options, path, &r));
    PERI_GO(options->map && can_map(&r.layout) ? map_rows(&r, out) : read_rows(&r, out));
done:
    peri_file_close(&file);
    return status;
}

/* ---- saving ------------------------------------------------------------------------------- */

static peri_status check_dtype(const peri_matrix_format *format, peri_dtype dtype) {
    char suited[64] = "npy";
    if (format->dtype == PERI_DTYPE_COUNT || format->dtype == dtype) return PERI_OK;
    size_t used = strlen(suited);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (formats[i].dtype != dtype) continue;
        used += (size_t)snprintf(suited + used, sizeof suited - used, " %s", formats[i].name);
    }
    return peri_fail(PERI_E_ARGUMENT, "format: .%s holds %s, the matrix is %s; allowed for it: %s",
                     format->name, peri_dtype_name(format->dtype), peri_dtype_name(dtype), suited);
}

static peri_status write_rows(peri_atomic_file *file, const peri_matrix_format *format,
                              const peri_row_reader *reader, const char *rows, size_t count) {
    if (format->prefix == 0) return peri_atomic_file_write(file, rows, count * reader->row_bytes);
    int32_t dim = (int32_t)reader->view.cols;
    for (size_t i = 0; i < count; i++) {
        PERI_TRY(peri_atomic_file_write(file, &dim, sizeof dim));
        PERI_TRY(peri_atomic_file_write(file, rows + i * reader->row_bytes, reader->row_bytes));
    }
    return PERI_OK;
}

static peri_status write_matrix(peri_atomic_file *file, const peri_matrix_format *format,
                                const peri_matrix *matrix) {
    peri_row_reader reader;
    const void *rows;
    size_t count;
    PERI_TRY(peri_row_reader_open(matrix, &reader));
    peri_status status;
    do {
        PERI_GO(peri_row_reader_next(&reader, &rows, &count));
        PERI_GO(write_rows(file, format, &reader, rows, count));
    } while (count > 0);
done:
    peri_row_reader_close(&reader);
    return status;
}

peri_status peri_matrix_save(const peri_matrix *matrix, const char *path, const char *format_name) {
    const peri_matrix_format *format;
    char head[PERI_MATRIX_HEAD_MAX];
    size_t head_bytes = 0;
    if (matrix == NULL || path == NULL)
        return peri_fail(PERI_E_ARGUMENT, "%s: none given", path == NULL ? "path" : "matrix");
    peri_view view = peri_matrix_view(matrix);
    PERI_TRY(choose_format(path, format_name, &format));
    PERI_TRY(check_dtype(format, view.dtype));
    PERI_TRY(format->head(format, &view, head, &head_bytes));
    peri_atomic_file *file;
    PERI_TRY(peri_atomic_file_open(peri_matrix_context(matrix), path, &file));
    peri_status status = peri_atomic_file_write(file, head, head_bytes);
    if (status == PERI_OK) status = write_matrix(file, format, matrix);
    if (status == PERI_OK) return peri_atomic_file_commit(file);
    peri_atomic_file_discard(file);
    return status;
}
