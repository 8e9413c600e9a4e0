/* container_open.c: opens an index file and trusts none of it.
 *
 * Order: the head (magic, version, lengths), the header's checksum, the header (counts, names,
 * types; each section's place must be the one that follows from the sizes before it), the file's
 * length, the zeros between, and only then memory for sections and their checksums. A valid
 * checksum proves nothing about a file that was made to deceive, so every number is checked as if
 * there were none. Threads: a container belongs to one thread at a time; its matrices to any. */
#include <string.h>

#include "core/memory.h"
#include "io/container_layout.h"
#include "io/crc32c.h"
#include "io/file_map.h"
#include "io/follow.h"
#include "io/host_rows.h"

typedef struct entry {
    const char *name; /* in the header */
    peri_dtype dtype;
    size_t rows, cols, offset, bytes;
    uint32_t crc;
    peri_matrix *matrix;
} entry;

struct peri_container {
    peri_context *context;
    char *header; /* kind, keys, names and texts point into it */
    size_t header_bytes;
    const char *kind;
    peri_option *params;
    size_t param_count;
    entry *sections;
    size_t count;
};

typedef struct opening {
    peri_container *c;
    peri_file file;
    peri_file_map *map; /* NULL: read */
    size_t at;          /* in the header */
    size_t total;       /* bytes of all sections */
    const peri_control *control;
} opening;

static peri_status corrupt(const opening *o, const char *what) {
    return peri_fail(PERI_E_CORRUPT, "%s: %s", peri_path_tail(o->file.path), what);
}

/* ---- the header, byte by byte ------------------------------------------------------------- */

static peri_status get(opening *o, void *out, size_t bytes) {
    if (bytes > o->c->header_bytes - o->at) return corrupt(o, "its header ends too early");
    memcpy(out, o->c->header + o->at, bytes);
    o->at += bytes;
    return PERI_OK;
}

static peri_status get_size(opening *o, size_t *out) {
    uint64_t value = 0;
    PERI_TRY(get(o, &value, sizeof value));
    *out = (size_t)value;
    return PERI_OK;
}

static peri_status get_text(opening *o, const char **out) {
    uint32_t length = 0;
    PERI_TRY(get(o, &length, sizeof length));
    if (length >= o->c->header_bytes - o->at) return corrupt(o, "its header ends inside a text");
    *out = o->c->header + o->at;
    if (memchr(*out, '\0', length) != NULL || (*out)[length] != '\0')
        return corrupt(o, "a text of its header does not end where it says");
    o->at += (size_t)length + 1;
    return PERI_OK;
}

static peri_status get_name(opening *o, const char **out) {
    PERI_TRY(get_text(o, out));
    return peri_container_name_valid(*out) ? PERI_OK
                                           : corrupt(o, "a name of its header is not valid");
}

static peri_status get_count(opening *o, const char *what, size_t *out) {
    uint32_t count = 0;
    PERI_TRY(get(o, &count, sizeof count));
    if (count > PERI_CONTAINER_ENTRIES_MAX || count > o->c->header_bytes)
        return peri_fail(PERI_E_CORRUPT, "%s: claims %u %s, allowed: up to %u",
                         peri_path_tail(o->file.path), count, what, PERI_CONTAINER_ENTRIES_MAX);
    *out = count;
    return PERI_OK;
}

static peri_status get_value(opening *o, peri_value *out) {
    uint8_t type = 0, flag = 0;
    PERI_TRY(get(o, &type, 1));
    memset(out, 0, sizeof *out);
    out->type = (peri_value_type)type;
    switch (type) {
    case PERI_VALUE_INT: return get(o, &out->as.i, sizeof out->as.i);
    case PERI_VALUE_REAL: return get(o, &out->as.r, sizeof out->as.r);
    case PERI_VALUE_FLAG:
        PERI_TRY(get(o, &flag, 1));
        out->as.flag = flag == 1;
        return flag <= 1 ? PERI_OK : corrupt(o, "a flag is neither 0 nor 1");
    case PERI_VALUE_TEXT: return get_text(o, &out->as.text);
    default: return corrupt(o, "a parameter is of no known type");
    }
}

static peri_status get_params(opening *o) {
    peri_container *c = o->c;
    size_t count = 0;
    PERI_TRY(get_count(o, "parameters", &count));
    PERI_TRY(peri_memory_acquire_zeroed(c->context, count, sizeof *c->params, &c->params));
    c->param_count = count;
    for (size_t i = 0; i < count; i++) {
        PERI_TRY(get_name(o, &c->params[i].key));
        PERI_TRY(get_value(o, &c->params[i].value));
        for (size_t j = 0; j < i; j++)
            if (strcmp(c->params[i].key, c->params[j].key) == 0)
                return corrupt(o, "a parameter appears twice");
    }
    return PERI_OK;
}

/* One row of the table; `*stop` is where the file has been accounted for up to now. */
static peri_status get_section(opening *o, entry *e, size_t *stop) {
    uint32_t dtype = 0;
    size_t row_bytes, offset = peri_round_up(*stop, PERI_CONTAINER_ALIGN);
    PERI_TRY(get_name(o, &e->name));
    PERI_TRY(get(o, &dtype, sizeof dtype));
    PERI_TRY(get_size(o, &e->rows));
    PERI_TRY(get_size(o, &e->cols));
    PERI_TRY(get_size(o, &e->offset));
    PERI_TRY(get(o, &e->crc, sizeof e->crc));
    if (dtype >= PERI_DTYPE_COUNT) return corrupt(o, "a section is of no known dtype");
    e->dtype = (peri_dtype)dtype;
    bool fits = e->cols > 0 && peri_mul_fits(e->cols, peri_dtype_bytes(e->dtype), &row_bytes) &&
                peri_mul_fits(row_bytes, e->rows, &e->bytes) && row_bytes <= SIZE_MAX / 2;
    if (!fits || offset > o->file.bytes || e->bytes > o->file.bytes - offset)
        return peri_fail(PERI_E_CORRUPT,
                         "%s: section %s claims %zu x %zu %s at byte %zu; the file has %zu bytes",
                         peri_path_tail(o->file.path), e->name, e->rows, e->cols,
                         peri_dtype_name(e->dtype), e->offset, o->file.bytes);
    if (e->offset != offset)
        return peri_fail(PERI_E_CORRUPT, "%s: section %s claims to begin at byte %zu, not at %zu",
                         peri_path_tail(o->file.path), e->name, e->offset, offset);
    *stop = offset + e->bytes;
    o->total += e->bytes;
    return PERI_OK;
}

static peri_status get_sections(opening *o) {
    peri_container *c = o->c;
    size_t count = 0, stop = sizeof(peri_container_head) + c->header_bytes;
    PERI_TRY(get_count(o, "sections", &count));
    PERI_TRY(peri_memory_acquire_zeroed(c->context, count, sizeof *c->sections, &c->sections));
    c->count = count;
    for (size_t i = 0; i < count; i++) {
        PERI_TRY(get_section(o, &c->sections[i], &stop));
        for (size_t j = 0; j < i; j++)
            if (strcmp(c->sections[i].name, c->sections[j].name) == 0)
                return corrupt(o, "a section appears twice");
    }
    if (o->at != c->header_bytes) return corrupt(o, "its header is longer than what it holds");
    if (stop != o->file.bytes)
        return peri_fail(PERI_E_CORRUPT, "%s: its sections end at byte %zu, the file at %zu",
                         peri_path_tail(o->file.path), stop, o->file.bytes);
    return PERI_OK;
}

/* ---- head and header ---------------------------------------------------------------------- */

static peri_status check_head(const opening *o, const peri_container_head *head) {
    const char *path = peri_path_tail(o->file.path);
    if (memcmp(head->magic, PERI_CONTAINER_MAGIC, sizeof head->magic) != 0)
        return corrupt(o, "is no index file of Perigee");
    if (head->version != PERI_CONTAINER_VERSION)
        return peri_fail(PERI_E_UNSUPPORTED, "%s: is of version %u, this library reads version %u",
                         path, head->version, PERI_CONTAINER_VERSION);
    if (head->file_bytes != o->file.bytes)
        return peri_fail(PERI_E_CORRUPT, "%s: was written with %llu bytes, it has %zu", path,
                         (unsigned long long)head->file_bytes, o->file.bytes);
    if (head->header_bytes > PERI_CONTAINER_HEADER_MAX ||
        head->header_bytes > o->file.bytes - sizeof *head)
        return peri_fail(PERI_E_CORRUPT, "%s: claims a header of %u bytes; the file has %zu bytes",
                         path, head->header_bytes, o->file.bytes);
    for (size_t i = 0; i < sizeof head->zeros; i++)
        if (head->zeros[i] != 0) return corrupt(o, "the unused part of its head is not zero");
    return PERI_OK;
}

static peri_status read_header(opening *o) {
    peri_container *c = o->c;
    peri_container_head head;
    if (o->file.bytes < sizeof head) return corrupt(o, "is too short for an index file of Perigee");
    PERI_TRY(peri_file_read(&o->file, 0, &head, sizeof head));
    PERI_TRY(check_head(o, &head));
    PERI_TRY(peri_memory_acquire(c->context, head.header_bytes, 1, &c->header));
    c->header_bytes = head.header_bytes;
    PERI_TRY(peri_file_read(&o->file, sizeof head, c->header, c->header_bytes));
    uint32_t crc = peri_crc32c(0, &head, PERI_CONTAINER_HEAD_COVERED);
    if (peri_crc32c(crc, c->header, c->header_bytes) != head.crc)
        return corrupt(o, "the checksum of its header is wrong");
    PERI_TRY(get_name(o, &c->kind));
    PERI_TRY(get_params(o));
    return get_sections(o);
}

/* ---- sections ----------------------------------------------------------------------------- */

static peri_status check_zeros(const opening *o, size_t first, size_t stop) {
    char gap[4096];
    PERI_ASSERT(first <= stop && stop - first < sizeof gap);
    PERI_TRY(peri_file_read(&o->file, first, gap, stop - first));
    for (size_t i = 0; i < stop - first; i++)
        if (gap[i] != 0)
            return peri_fail(PERI_E_CORRUPT, "%s: byte %zu, between sections, is not zero",
                             peri_path_tail(o->file.path), first + i);
    return PERI_OK;
}

static peri_status make_matrix(const opening *o, entry *e) {
    peri_context *context = o->c->context;
    if (o->map == NULL)
        return peri_host_matrix_create(context, e->rows, e->cols, e->dtype, &e->matrix);
    peri_file_map_retain(o->map);
    peri_view view = { (char *)peri_file_map_data(o->map) + e->offset, e->rows,  e->cols,
                       e->cols * peri_dtype_bytes(e->dtype),           e->dtype, PERI_CPU };
    return peri_matrix_anchor(context, view, peri_file_map_release, o->map, &e->matrix);
}

static peri_status fill_section(const opening *o, entry *e, size_t *done) {
    PERI_TRY(make_matrix(o, e));
    char *data = peri_matrix_view(e->matrix).data;
    uint32_t crc = 0;
    for (size_t at = 0; at < e->bytes;) {
        size_t some = peri_min_size(PERI_FOLLOW_BYTES, e->bytes - at);
        PERI_TRY(peri_follow(o->control, "open", *done, o->total));
        if (o->map == NULL) PERI_TRY(peri_file_read(&o->file, e->offset + at, data + at, some));
        crc = peri_crc32c(crc, data + at, some);
        at += some;
        *done += some;
    }
    if (crc == e->crc) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "%s: the checksum of section %s is wrong",
                     peri_path_tail(o->file.path), e->name);
}

static peri_status fill_sections(opening *o, bool map) {
    size_t done = 0, stop = sizeof(peri_container_head) + o->c->header_bytes;
    for (size_t i = 0; i < o->c->count; i++) {
        const entry *e = &o->c->sections[i];
        PERI_TRY(check_zeros(o, stop, e->offset));
        stop = e->offset + e->bytes;
    }
    if (map) PERI_TRY(peri_file_map_open(o->c->context, &o->file, &o->map));
    for (size_t i = 0; i < o->c->count; i++) PERI_TRY(fill_section(o, &o->c->sections[i], &done));
    return peri_follow(o->control, "open", o->total, o->total);
}

/* ---- the container ------------------------------------------------------------------------ */

peri_status peri_container_open(peri_context *context, const char *path, bool map,
                                const peri_control *control, peri_container **out) {
    opening o = { .control = control };
    *out = NULL;
    PERI_TRY(peri_file_open(path, &o.file));
    peri_status status;
    PERI_GO(peri_memory_acquire_zeroed(context, 1, sizeof *o.c, &o.c));
    peri_context_retain(context);
    o.c->context = context;
    PERI_GO(read_header(&o));
    PERI_GO(fill_sections(&o, map));
    *out = o.c;
    o.c = NULL;
done:
    peri_container_close(o.c);
    peri_file_map_release(o.map);
    peri_file_close(&o.file);
    return status;
}

void peri_container_close(peri_container *container) {
    if (container == NULL) return;
    peri_context *context = container->context;
    for (size_t i = 0; i < container->count; i++)
        peri_matrix_release(container->sections[i].matrix);
    peri_memory_release(context, container->sections, container->count, sizeof(entry));
    peri_memory_release(context, container->params, container->param_count, sizeof(peri_option));
    peri_memory_release(context, container->header, container->header_bytes, 1);
    peri_memory_release(context, container, 1, sizeof *container);
    peri_context_release(context);
}

const char *peri_container_kind(const peri_container *container) { return container->kind; }

peri_options peri_container_params(const peri_container *container) {
    return (peri_options){ container->params, container->param_count };
}

peri_status peri_container_section(peri_container *container, const char *name, peri_matrix **out) {
    *out = NULL;
    for (size_t i = 0; i < container->count && *out == NULL; i++)
        if (strcmp(name, container->sections[i].name) == 0) *out = container->sections[i].matrix;
    if (*out != NULL) peri_matrix_retain(*out);
    return PERI_OK;
}
