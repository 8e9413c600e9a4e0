/* npy.c: the header of .npy (NumPy's format, versions 1 to 3): magic, version, the header's length,
 * and a Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (5, 7), } padded with
 * blanks.
 *
 * The literal is read by a scanner for this one shape of dict: three keys in any order, strings in
 * either quote, a tuple of whole numbers. Anything else is refused. */
#include "io/matrix_file.h"

#include <stdio.h>

#include "core/checked.h"
#include "core/memory.h"

#define MAGIC "\x93NUMPY"
#define MAGIC_BYTES 6
#define LITERAL_MAX 65536u /* NumPy itself writes below 300 bytes for the dtypes that we take */
#define HEAD_ALIGN 64

/* X(descr, dtype, bytes in the file). f8 becomes f32. */
#define DESCR_MAP(X)                                                                               \
    X("<f4", PERI_F32, 4)                                                                          \
    X("<f2", PERI_F16, 2)                                                                          \
    X("<f8", PERI_F32, 8)                                                                          \
    X("|i1", PERI_I8, 1)                                                                           \
    X("|u1", PERI_U8, 1)                                                                           \
    X("<i4", PERI_I32, 4)                                                                          \
    X("<u4", PERI_U32, 4)                                                                          \
    X("<i8", PERI_I64, 8)

typedef struct descr_row {
    const char *descr;
    peri_dtype dtype;
    size_t bytes;
} descr_row;

static const descr_row descrs[] = {
#define DESCR_ROW(descr, dtype, bytes) { descr, dtype, bytes },
    DESCR_MAP(DESCR_ROW)
#undef DESCR_ROW
};

typedef struct scan {
    const char *at, *stop;
} scan;

typedef struct literal {
    bool has_descr, has_order, has_shape;
    bool structured; /* descr is no string */
    char descr[24];  /* what is printable of it */
    bool fortran_order;
    size_t sides[2], side_count; /* side_count may be more than two */
} literal;

/* ---- the literal -------------------------------------------------------------------------- */

static void skip_blanks(scan *s) {
    while (s->at < s->stop && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n')) s->at++;
}

static bool take(scan *s, char c) {
    skip_blanks(s);
    if (s->at == s->stop || *s->at != c) return false;
    s->at++;
    return true;
}

static bool take_word(scan *s, const char *word) {
    size_t length = strlen(word);
    skip_blanks(s);
    if ((size_t)(s->stop - s->at) < length || memcmp(s->at, word, length) != 0) return false;
    s->at += length;
    return true;
}

/* A quoted string without escapes; it is cut to fit and made printable. */
static bool take_string(scan *s, char *text, size_t size) {
    skip_blanks(s);
    if (s->at == s->stop || (*s->at != '\'' && *s->at != '"')) return false;
    char quote = *s->at++;
    size_t used = 0;
    for (; s->at < s->stop && *s->at != quote; s->at++) {
        if (*s->at == '\\') return false;
        if (used + 1 < size) text[used++] = *s->at > ' ' && *s->at <= '~' ? *s->at : '?';
    }
    text[used] = '\0';
    return take(s, quote);
}

static bool take_count(scan *s, size_t *out) {
    skip_blanks(s);
    const char *first = s->at;
    *out = 0;
    for (; s->at < s->stop && *s->at >= '0' && *s->at <= '9'; s->at++) {
        if (!peri_mul_fits(*out, 10, out) || !peri_add_fits(*out, (size_t)(*s->at - '0'), out))
            return false;
    }
    return s->at > first;
}

static bool take_shape(scan *s, literal *out) {
    if (!take(s, '(')) return false;
    while (!take(s, ')')) {
        size_t side;
        if (!take_count(s, &side)) return false;
        if (out->side_count < 2) out->sides[out->side_count] = side;
        out->side_count++;
        if (take(s, ',')) continue;
        if (!take(s, ')')) return false;
        return out->side_count > 1; /* (5) is a number, (5,) a tuple */
    }
    return true;
}

static bool take_pair(scan *s, literal *out) {
    char key[24];
    if (!take_string(s, key, sizeof key) || !take(s, ':')) return false;
    if (strcmp(key, "descr") == 0 && !out->has_descr) {
        out->has_descr = true;
        skip_blanks(s);
        out->structured = s->at < s->stop && (*s->at == '[' || *s->at == '(');
        return out->structured || take_string(s, out->descr, sizeof out->descr);
    }
    if (strcmp(key, "fortran_order") == 0 && !out->has_order) {
        out->has_order = true;
        out->fortran_order = take_word(s, "True");
        return out->fortran_order || take_word(s, "False");
    }
    if (strcmp(key, "shape") == 0 && !out->has_shape) {
        out->has_shape = true;
        return take_shape(s, out);
    }
    return false;
}

/* False when it is no such dict. A structured descr ends the reading: it is refused anyway. */
static bool take_literal(const char *text, size_t bytes, literal *out) {
    scan s = { text, text + bytes };
    memset(out, 0, sizeof *out);
    if (!take(&s, '{')) return false;
    while (!take(&s, '}')) {
        if (!take_pair(&s, out)) return false;
        if (out->structured) return true;
        if (take(&s, ',')) continue;
        if (!take(&s, '}')) return false;
        break;
    }
    skip_blanks(&s);
    return s.at == s.stop && out->has_descr && out->has_order && out->has_shape;
}

/* ---- reading ------------------------------------------------------------------------------ */

static const descr_row *find_descr(const char *descr) {
    for (size_t i = 0; i < sizeof descrs / sizeof *descrs; i++)
        if (strcmp(descr, descrs[i].descr) == 0) return &descrs[i];
    return NULL;
}

static peri_status refuse_descr(const char *path, const literal *found) {
    if (found->descr[0] == '>')
        return peri_fail(
            PERI_E_UNSUPPORTED,
            "%s: dtype '%s' is big-endian, allowed: little-endian f2 f4 f8 i1 u1 i4 u4 "
            "i8; in NumPy: a.astype(a.dtype.newbyteorder('<'))",
            path, found->descr);
    return peri_fail(PERI_E_UNSUPPORTED, "%s: dtype '%s', allowed: <f2 <f4 <f8 |i1 |u1 <i4 <u4 <i8",
                     path, found->structured ? "structured" : found->descr);
}

static peri_status to_layout(const peri_file *file, const literal *found, size_t offset,
                             peri_layout *out) {
    const char *path = peri_path_tail(file->path);
    const descr_row *row = found->structured ? NULL : find_descr(found->descr);
    if (row == NULL) return refuse_descr(path, found);
    if (found->side_count != 1 && found->side_count != 2)
        return peri_fail(PERI_E_UNSUPPORTED, "%s: the array has %zu dimensions, allowed: 1 or 2",
                         path, found->side_count);
    /* With one row or one column both orders are the same bytes. */
    size_t cols = found->side_count == 2 ? found->sides[1] : 1;
    if (found->fortran_order && found->sides[0] > 1 && cols > 1)
        return peri_fail(PERI_E_UNSUPPORTED,
                         "%s: the array is in Fortran (column) order, rows are "
                         "needed; in NumPy: numpy.ascontiguousarray(a)",
                         path);
    *out = (peri_layout){ .dtype = row->dtype,
                          .rows = found->sides[0],
                          .cols = cols,
                          .offset = offset,
                          .item_bytes = row->bytes,
                          .doubles = row->dtype == PERI_F32 && row->bytes == 8 };
    return peri_layout_check(file, out);
}

/* Finds where the literal is: `*offset` and `*bytes`. */
static peri_status find_literal(const peri_file *file, size_t *offset, size_t *bytes) {
    unsigned char head[12] = { 0 };
    const char *path = peri_path_tail(file->path);
    PERI_TRY(peri_file_read(file, 0, head, peri_min_size(file->bytes, sizeof head)));
    if (memcmp(head, MAGIC, MAGIC_BYTES) != 0)
        return peri_fail(PERI_E_CORRUPT, "%s: does not begin as a .npy file does", path);
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return peri_fail(PERI_E_UNSUPPORTED, "%s: .npy version %u.%u, allowed: 1.0 2.0 3.0", path,
                         head[6], head[7]);
    *offset = head[6] == 1 ? 10 : 12;
    *bytes = (size_t)head[8] | (size_t)head[9] << 8;
    if (head[6] != 1) *bytes |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    if (*offset > file->bytes || *bytes > file->bytes - *offset)
        return peri_fail(PERI_E_CORRUPT, "%s: claims a header of %zu bytes; the file has %zu bytes",
                         path, *bytes, file->bytes);
    if (*bytes > LITERAL_MAX)
        return peri_fail(PERI_E_UNSUPPORTED, "%s: a header of %zu bytes, allowed: up to %u", path,
                         *bytes, LITERAL_MAX);
    return PERI_OK;
}

peri_status peri_npy_probe(const peri_matrix_format *format, peri_context *context,
                           const peri_file *file, peri_layout *out) {
    size_t offset = 0, bytes = 0;
    char *text;
    literal found;
    (void)format;
    PERI_TRY(find_literal(file, &offset, &bytes));
    PERI_TRY(peri_memory_acquire(context, bytes, 1, &text));
    peri_status status = peri_file_read(file, offset, text, bytes);
    if (status == PERI_OK && !take_literal(text, bytes, &found))
        status = peri_fail(PERI_E_CORRUPT,
                           "%s: its header is no dict of descr, fortran_order and "
                           "shape, with a shape of whole numbers",
                           peri_path_tail(file->path));
    peri_memory_release(context, text, bytes, 1);
    PERI_TRY(status);
    return to_layout(file, &found, offset + bytes, out);
}

/* ---- writing ------------------------------------------------------------------------------ */

peri_status peri_npy_head(const peri_matrix_format *format, const peri_view *view, char *text,
                          size_t *bytes) {
    const char *descr = NULL;
    (void)format;
    for (size_t i = 0; i < sizeof descrs / sizeof *descrs && descr == NULL; i++) {
        if (descrs[i].dtype == view->dtype && descrs[i].bytes == peri_dtype_bytes(view->dtype))
            descr = descrs[i].descr;
    }
    PERI_ASSERT(descr != NULL);
    int length = snprintf(text + 10, PERI_MATRIX_HEAD_MAX - 10,
                          "{'descr': '%s', 'fortran_order': False, 'shape': (%zu, %zu), }", descr,
                          view->rows, view->cols);
    size_t used = 10 + (size_t)length + 1, whole = peri_round_up(used, HEAD_ALIGN);
    memset(text + used - 1, ' ', whole - used);
    text[whole - 1] = '\n';
    memcpy(text, MAGIC "\x01\x00", 8);
    text[8] = (char)((whole - 10) & 255);
    text[9] = (char)((whole - 10) >> 8);
    *bytes = whole;
    return PERI_OK;
}
