/* container_save.c: writes an index file: zeros where the head and header go, the sections with
 * their checksums, then head and header in their place, sync, rename. */
#include <string.h>

#include "core/memory.h"
#include "io/atomic_file.h"
#include "io/container_layout.h"
#include "io/crc32c.h"
#include "io/follow.h"
#include "io/host_rows.h"

/* What the header says of a section beyond the section itself. */
typedef struct placed {
    uint64_t offset;
    uint32_t crc;
} placed;

typedef struct saving {
    peri_context *context;
    const char *kind;
    const peri_options *params;
    const peri_section *sections;
    size_t count;
    placed *placed; /* [count] */
    size_t header_bytes;
    size_t total; /* bytes of all sections, for progress */
    peri_atomic_file *file;
    const peri_control *control;
} saving;

/* ---- checks ------------------------------------------------------------------------------- */

static peri_status check_name(const char *what, const char *name) {
    if (name != NULL && peri_container_name_valid(name)) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "%s: '%.40s' given, allowed: 1..%d printable bytes", what,
                     name == NULL ? "" : name, PERI_SECTION_NAME_MAX - 1);
}

static peri_status check_params(const peri_options *params) {
    if (params->count > PERI_CONTAINER_ENTRIES_MAX)
        return peri_fail(PERI_E_ARGUMENT, "params: %zu given, allowed: up to %u", params->count,
                         PERI_CONTAINER_ENTRIES_MAX);
    for (size_t i = 0; i < params->count; i++) {
        const peri_option *option = &params->list[i];
        PERI_TRY(check_name("params", option->key));
        if ((unsigned)option->value.type > PERI_VALUE_TEXT)
            return peri_fail(PERI_E_ARGUMENT, "params: %s has the type %d, which is none",
                             option->key, (int)option->value.type);
        if (option->value.type == PERI_VALUE_TEXT && option->value.as.text == NULL)
            return peri_fail(PERI_E_ARGUMENT, "params: %s has no text", option->key);
        for (size_t j = 0; j < i; j++)
            if (strcmp(option->key, params->list[j].key) == 0)
                return peri_fail(PERI_E_ARGUMENT, "params: %s is given twice", option->key);
    }
    return PERI_OK;
}

static peri_status check_sections(const peri_section *sections, size_t count, size_t *total) {
    if (count > PERI_CONTAINER_ENTRIES_MAX)
        return peri_fail(PERI_E_ARGUMENT, "sections: %zu given, allowed: up to %u", count,
                         PERI_CONTAINER_ENTRIES_MAX);
    *total = 0;
    for (size_t i = 0; i < count; i++) {
        if (memchr(sections[i].name, '\0', sizeof sections[i].name) == NULL)
            return peri_fail(PERI_E_ARGUMENT, "sections: name %zu does not end", i);
        PERI_TRY(check_name("sections", sections[i].name));
        if (sections[i].matrix == NULL)
            return peri_fail(PERI_E_ARGUMENT, "sections: %s has no matrix", sections[i].name);
        for (size_t j = 0; j < i; j++)
            if (strcmp(sections[i].name, sections[j].name) == 0)
                return peri_fail(PERI_E_ARGUMENT, "sections: %s is given twice", sections[i].name);
        peri_view view = peri_matrix_view(sections[i].matrix);
        *total += view.rows * view.cols * peri_dtype_bytes(view.dtype);
    }
    return PERI_OK;
}

/* ---- the header --------------------------------------------------------------------------- */

/* Bytes one after the other; with `data` NULL they are only counted. */
typedef struct emitter {
    char *data;
    size_t used;
} emitter;

static void put(emitter *e, const void *data, size_t bytes) {
    if (e->data != NULL) memcpy(e->data + e->used, data, bytes);
    e->used += bytes;
}

static void put_u32(emitter *e, uint32_t value) { put(e, &value, sizeof value); }
static void put_u64(emitter *e, uint64_t value) { put(e, &value, sizeof value); }

static void put_text(emitter *e, const char *text) {
    size_t length = strlen(text);
    put_u32(e, (uint32_t)peri_min_size(length, UINT32_MAX));
    put(e, text, length + 1);
}

static void put_value(emitter *e, const peri_value *value) {
    uint8_t type = (uint8_t)value->type, flag = 0;
    put(e, &type, 1);
    switch (value->type) {
    case PERI_VALUE_INT: put(e, &value->as.i, sizeof value->as.i); break;
    case PERI_VALUE_REAL: put(e, &value->as.r, sizeof value->as.r); break;
    case PERI_VALUE_FLAG:
        flag = value->as.flag ? 1 : 0;
        put(e, &flag, 1);
        break;
    case PERI_VALUE_TEXT: put_text(e, value->as.text); break;
    }
}

static void put_header(emitter *e, const saving *s) {
    put_text(e, s->kind);
    put_u32(e, (uint32_t)s->params->count);
    for (size_t i = 0; i < s->params->count; i++) {
        put_text(e, s->params->list[i].key);
        put_value(e, &s->params->list[i].value);
    }
    put_u32(e, (uint32_t)s->count);
    for (size_t i = 0; i < s->count; i++) {
        peri_view view = peri_matrix_view(s->sections[i].matrix);
        put_text(e, s->sections[i].name);
        put_u32(e, (uint32_t)view.dtype);
        put_u64(e, view.rows);
        put_u64(e, view.cols);
        put_u64(e, s->placed[i].offset);
        put_u32(e, s->placed[i].crc);
    }
}

/* ---- writing ------------------------------------------------------------------------------ */

static peri_status write_zeros(peri_atomic_file *file, size_t stop) {
    static const char zeros[4096];
    while (peri_atomic_file_offset(file) < stop) {
        size_t left = stop - peri_atomic_file_offset(file);
        PERI_TRY(peri_atomic_file_write(file, zeros, peri_min_size(left, sizeof zeros)));
    }
    return PERI_OK;
}

static peri_status write_section(const saving *s, size_t i, size_t *done) {
    peri_row_reader reader;
    const void *rows;
    size_t count;
    peri_status status;
    placed *at = &s->placed[i];
    size_t offset = peri_round_up(peri_atomic_file_offset(s->file), PERI_CONTAINER_ALIGN);
    PERI_TRY(write_zeros(s->file, offset));
    *at = (placed){ offset, 0 };
    PERI_TRY(peri_row_reader_open(s->sections[i].matrix, &reader));
    do {
        PERI_GO(peri_follow(s->control, "save", *done, s->total));
        PERI_GO(peri_row_reader_next(&reader, &rows, &count));
        at->crc = peri_crc32c(at->crc, rows, count * reader.row_bytes);
        PERI_GO(peri_atomic_file_write(s->file, rows, count * reader.row_bytes));
        *done += count * reader.row_bytes;
    } while (count > 0);
done:
    peri_row_reader_close(&reader);
    return status;
}

static peri_status write_head(const saving *s, char *header) {
    peri_container_head head = { .magic = PERI_CONTAINER_MAGIC,
                                 .version = PERI_CONTAINER_VERSION,
                                 .header_bytes = (uint32_t)s->header_bytes,
                                 .file_bytes = peri_atomic_file_offset(s->file) };
    emitter e = { header, 0 };
    put_header(&e, s);
    PERI_ASSERT(e.used == s->header_bytes);
    head.crc = peri_crc32c(0, &head, PERI_CONTAINER_HEAD_COVERED);
    head.crc = peri_crc32c(head.crc, header, s->header_bytes);
    PERI_TRY(peri_atomic_file_patch(s->file, 0, &head, sizeof head));
    return peri_atomic_file_patch(s->file, sizeof head, header, s->header_bytes);
}

static peri_status write_all(saving *s, const char *path) {
    emitter measure = { NULL, 0 };
    char *header = NULL;
    size_t done = 0;
    put_header(&measure, s);
    s->header_bytes = measure.used;
    if (s->header_bytes > PERI_CONTAINER_HEADER_MAX)
        return peri_fail(PERI_E_ARGUMENT, "params: %zu bytes of header, allowed: up to %zu",
                         s->header_bytes, PERI_CONTAINER_HEADER_MAX);
    peri_status status;
    PERI_GO(peri_memory_acquire(s->context, s->header_bytes, 1, &header));
    PERI_GO(peri_atomic_file_open(s->context, path, &s->file));
    PERI_GO(write_zeros(s->file, sizeof(peri_container_head) + s->header_bytes));
    for (size_t i = 0; i < s->count; i++) PERI_GO(write_section(s, i, &done));
    PERI_GO(write_head(s, header));
    peri_atomic_file *file = s->file;
    s->file = NULL;
    status = peri_atomic_file_commit(file);
done:
    peri_atomic_file_discard(s->file);
    peri_memory_release(s->context, header, s->header_bytes, 1);
    return status;
}

peri_status peri_container_save(peri_context *context, const char *path, const char *kind,
                                const peri_options *params, const peri_section *sections,
                                size_t count, const peri_control *control) {
    static const peri_options none;
    saving s = { .context = context,
                 .kind = kind,
                 .params = params == NULL ? &none : params,
                 .sections = sections,
                 .count = count,
                 .control = control };
    PERI_TRY(check_name("kind", kind));
    PERI_TRY(check_params(s.params));
    PERI_TRY(check_sections(sections, count, &s.total));
    PERI_TRY(peri_memory_acquire_zeroed(context, count, sizeof *s.placed, &s.placed));
    peri_status status = write_all(&s, path);
    peri_memory_release(context, s.placed, count, sizeof *s.placed);
    return status;
}
