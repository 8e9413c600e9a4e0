/* hnswlib_read.c: reads hnswlib's index format.
 *
 * The head fixes the size of level 0; what is left of the file must be the lengths and the rows of
 * the upper levels, so their number follows by division and no length of the file is believed
 * alone. */
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "io/file_map.h"
#include "io/follow.h"
#include "io/hnswlib_file.h"
#include "io/host_rows.h"

#define STAGING_BYTES ((size_t)256 << 10)
#define DELETED_BIT 0x10000u

typedef struct hnsw_reading {
    peri_context *context;
    peri_file file;
    peri_hnswlib_head head;
    peri_hnswlib_graph graph;
    size_t element_bytes, upper_bytes; /* of an element of level 0; of one row of an upper level */
    size_t upper_rows;
    size_t at; /* in the file */
    unsigned char *staging;
    size_t staging_bytes, held, taken; /* bytes in the staging, and used of them */
    uint8_t *levels;
    const peri_control *control;
} hnsw_reading;

/* ---- the head ----------------------------------------------------------------------------- */

static peri_status check_range(const hnsw_reading *r, const char *what, uint64_t value,
                               uint64_t min, uint64_t max) {
    if (value >= min && value <= max) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "%s: its head claims %s = %llu, allowed: %llu..%llu",
                     peri_path_tail(r->file.path), what, (unsigned long long)value,
                     (unsigned long long)min, (unsigned long long)max);
}

static peri_status check_numbers(const hnsw_reading *r) {
    const peri_hnswlib_head *h = &r->head;
    PERI_TRY(check_range(r, "the offset of level 0", h->offset_level0, 0, 0));
    PERI_TRY(check_range(r, "max elements", h->max_elements, 0, PERI_SLOTS_MAX));
    PERI_TRY(check_range(r, "elements", h->count, 0, h->max_elements));
    PERI_TRY(check_range(r, "M", h->m, 2, PERI_HNSWLIB_M_MAX));
    PERI_TRY(check_range(r, "max M", h->max_m, h->m, h->m));
    PERI_TRY(check_range(r, "max M0", h->max_m0, 1, PERI_HNSWLIB_M0_MAX));
    PERI_TRY(check_range(r, "ef_construction", h->ef_construction, 1, INT32_MAX));
    if (!isfinite(h->mult) || h->mult <= 0)
        return peri_fail(PERI_E_CORRUPT, "%s: its head claims mult = %g, allowed: above 0",
                         peri_path_tail(r->file.path), h->mult);
    if (h->count == 0) {
        PERI_TRY(check_range(r, "max level of no elements", (uint32_t)h->level_max, UINT32_MAX,
                             UINT32_MAX));
        return check_range(r, "the entry of no elements", h->entry, UINT32_MAX, UINT32_MAX);
    }
    PERI_TRY(check_range(r, "max level", (uint32_t)h->level_max, 0, PERI_HNSWLIB_LEVEL_MAX));
    return check_range(r, "the entry", h->entry, 0, h->count - 1);
}

/* Offsets inside an element: links, vector, label, without gaps. */
static peri_status check_offsets(hnsw_reading *r) {
    const peri_hnswlib_head *h = &r->head;
    uint64_t item = peri_dtype_bytes(r->graph.dtype);
    PERI_TRY(check_range(r, "the offset of vectors", h->data_offset, 4 + 4 * h->max_m0,
                         4 + 4 * h->max_m0));
    PERI_TRY(check_range(r, "the offset of labels", h->label_offset, h->data_offset + item,
                         h->data_offset + PERI_DIM_MAX * item));
    PERI_TRY(check_range(r, "bytes of an element", h->element_bytes, h->label_offset + 8,
                         h->label_offset + 8));
    uint64_t vector_bytes = h->label_offset - h->data_offset;
    if (vector_bytes % item != 0)
        return peri_fail(PERI_E_CORRUPT, "%s: a vector has %llu bytes, which is no number of %s",
                         peri_path_tail(r->file.path), (unsigned long long)vector_bytes,
                         peri_dtype_name(r->graph.dtype));
    r->graph.dim = (uint32_t)(vector_bytes / item);
    r->element_bytes = (size_t)h->element_bytes;
    r->upper_bytes = 4 + 4 * (size_t)h->max_m;
    return PERI_OK;
}

/* What level 0 leaves of the file: 4 bytes an element and a whole number of upper rows. */
static peri_status check_length(hnsw_reading *r) {
    const char *path = peri_path_tail(r->file.path);
    size_t count = (size_t)r->head.count, bytes;
    bool fits = peri_mul_fits(count, r->element_bytes + 4, &bytes) &&
                peri_add_fits(bytes, sizeof r->head, &bytes) && bytes <= r->file.bytes;
    if (!fits)
        return peri_fail(PERI_E_CORRUPT,
                         "%s: its head claims %zu elements of %zu bytes; the file has "
                         "%zu bytes",
                         path, count, r->element_bytes, r->file.bytes);
    size_t left = r->file.bytes - bytes;
    r->upper_rows = left / r->upper_bytes;
    if (left % r->upper_bytes == 0 && r->upper_rows <= PERI_SLOTS_MAX) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "%s: %zu bytes are left for upper levels, whose rows have %zu",
                     path, left, r->upper_bytes);
}

static peri_status read_head(hnsw_reading *r) {
    peri_hnswlib_graph *g = &r->graph;
    if (r->file.bytes < sizeof r->head)
        return peri_fail(PERI_E_CORRUPT,
                         "%s: an hnswlib file begins with %zu bytes of head, it has "
                         "%zu",
                         peri_path_tail(r->file.path), sizeof r->head, r->file.bytes);
    PERI_TRY(peri_file_read(&r->file, 0, &r->head, sizeof r->head));
    PERI_TRY(check_numbers(r));
    PERI_TRY(check_offsets(r));
    PERI_TRY(check_length(r));
    g->count = (size_t)r->head.count;
    g->m = g->max_m = (size_t)r->head.m;
    g->max_m0 = (size_t)r->head.max_m0;
    g->ef_construction = (size_t)r->head.ef_construction;
    g->level_max = g->count == 0 ? 0 : (uint32_t)r->head.level_max;
    g->entry = r->head.entry;
    r->at = sizeof r->head;
    return PERI_OK;
}

/* ---- the body ----------------------------------------------------------------------------- */

static peri_status create_matrices(hnsw_reading *r) {
    peri_hnswlib_graph *g = &r->graph;
    peri_context *context = r->context;
    PERI_TRY(peri_host_matrix_create(context, g->count, g->dim, g->dtype, &g->rows));
    PERI_TRY(peri_host_matrix_create(context, g->count, 1, PERI_I64, &g->labels));
    PERI_TRY(peri_host_matrix_create(context, g->count, g->max_m0, PERI_U32, &g->graph));
    PERI_TRY(peri_host_matrix_create(context, g->count, 1, PERI_U32, &g->first));
    PERI_TRY(peri_host_matrix_create(context, r->upper_rows, g->max_m, PERI_U32, &g->links));
    PERI_TRY(peri_memory_acquire(context, g->count, 1, &r->levels));
    r->staging_bytes = peri_max_size(STAGING_BYTES, r->element_bytes);
    return peri_memory_acquire(context, r->staging_bytes, 1, &r->staging);
}

/* The next `bytes` of the file, in the staging until the next call. */
static peri_status next_bytes(hnsw_reading *r, size_t bytes, const unsigned char **out) {
    if (r->held - r->taken < bytes) {
        size_t rest = r->held - r->taken;
        size_t more = peri_min_size(r->staging_bytes - rest, r->file.bytes - r->at);
        if (rest + more < bytes)
            return peri_fail(PERI_E_CORRUPT, "%s: its upper levels pass the end of the file",
                             peri_path_tail(r->file.path));
        PERI_TRY(peri_follow(r->control, "open", r->at, r->file.bytes));
        memmove(r->staging, r->staging + r->taken, rest);
        PERI_TRY(peri_file_read(&r->file, r->at, r->staging + rest, more));
        r->at += more;
        r->held = rest + more;
        r->taken = 0;
    }
    *out = r->staging + r->taken;
    r->taken += bytes;
    return PERI_OK;
}

/* Copies the links that a list has and ends the row; what lies beyond them in the file is
 * leftovers. */
static peri_status take_links(const hnsw_reading *r, const unsigned char *from, uint32_t count,
                              size_t width, uint32_t *to, size_t element) {
    if (count > width)
        return peri_fail(PERI_E_CORRUPT, "%s: element %zu claims %u links, allowed: 0..%zu",
                         peri_path_tail(r->file.path), element, count, width);
    memcpy(to, from, count * sizeof *to);
    for (size_t j = 0; j < count; j++) /* in a full row this would be taken for its end */
        if (to[j] == PERI_SLOT_NONE)
            return peri_fail(PERI_E_CORRUPT, "%s: element %zu links to %u, allowed: 0..%zu",
                             peri_path_tail(r->file.path), element, to[j], r->graph.count - 1);
    memset(to + count, 0xFF, (width - count) * sizeof *to);
    return PERI_OK;
}

/* Makes room for the marks when the first one is met. */
static peri_status mark_deleted(hnsw_reading *r, size_t element) {
    peri_hnswlib_graph *g = &r->graph;
    if (g->deleted == NULL) {
        PERI_TRY(peri_host_matrix_create(r->context, g->count, 1, PERI_U8, &g->deleted));
        memset(peri_matrix_view(g->deleted).data, 0, g->count);
    }
    ((uint8_t *)peri_matrix_view(g->deleted).data)[element] = 1;
    return PERI_OK;
}

static peri_status read_level0(hnsw_reading *r) {
    peri_hnswlib_graph *g = &r->graph;
    peri_view rows = peri_matrix_view(g->rows), graph = peri_matrix_view(g->graph);
    int64_t *labels = peri_matrix_view(g->labels).data;
    for (size_t i = 0; i < g->count; i++) {
        const unsigned char *element;
        uint32_t header;
        uint64_t label;
        PERI_TRY(next_bytes(r, r->element_bytes, &element));
        memcpy(&header, element, sizeof header);
        memcpy(&label, element + r->head.label_offset, sizeof label);
        if (header >> 17 != 0)
            return peri_fail(PERI_E_CORRUPT, "%s: element %zu has unknown marks, %#x",
                             peri_path_tail(r->file.path), i, header >> 16);
        if (label > INT64_MAX)
            return peri_fail(PERI_E_UNSUPPORTED,
                             "%s: element %zu has the label %llu, allowed: up to "
                             "2^63 - 1",
                             peri_path_tail(r->file.path), i, (unsigned long long)label);
        PERI_TRY(
            take_links(r, element + 4, header & 0xFFFFu, g->max_m0, peri_view_row(&graph, i), i));
        memcpy(peri_view_row(&rows, i), element + r->head.data_offset, rows.stride_bytes);
        labels[i] = (int64_t)label;
        if (header & DELETED_BIT) PERI_TRY(mark_deleted(r, i));
    }
    return PERI_OK;
}

static peri_status read_upper_rows(hnsw_reading *r, size_t element, size_t first, size_t count) {
    peri_view links = peri_matrix_view(r->graph.links);
    for (size_t row = first; row < first + count; row++) {
        const unsigned char *list;
        uint32_t header;
        PERI_TRY(next_bytes(r, r->upper_bytes, &list));
        memcpy(&header, list, sizeof header);
        PERI_TRY(
            take_links(r, list + 4, header, r->graph.max_m, peri_view_row(&links, row), element));
    }
    return PERI_OK;
}

static peri_status read_upper(hnsw_reading *r) {
    uint32_t *first = peri_matrix_view(r->graph.first).data;
    size_t row = 0;
    for (size_t i = 0; i < r->graph.count; i++) {
        const unsigned char *from;
        uint32_t bytes;
        PERI_TRY(next_bytes(r, sizeof bytes, &from));
        memcpy(&bytes, from, sizeof bytes);
        size_t count = bytes / r->upper_bytes;
        if (bytes % r->upper_bytes != 0 || count > r->upper_rows - row)
            return peri_fail(PERI_E_CORRUPT,
                             "%s: element %zu claims %u bytes of upper links, allowed: "
                             "a multiple of %zu up to %zu",
                             peri_path_tail(r->file.path), i, bytes, r->upper_bytes,
                             (r->upper_rows - row) * r->upper_bytes);
        first[i] = count == 0 ? PERI_SLOT_NONE : (uint32_t)row;
        PERI_TRY(read_upper_rows(r, i, row, count));
        row += count;
    }
    if (row == r->upper_rows) return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "%s: goes on after its last element",
                     peri_path_tail(r->file.path));
}

static peri_status read_all(hnsw_reading *r) {
    PERI_TRY(read_head(r));
    PERI_TRY(peri_follow(r->control, "open", 0, r->file.bytes));
    PERI_TRY(create_matrices(r));
    PERI_TRY(read_level0(r));
    PERI_TRY(read_upper(r));
    /* cuVS writes its base layer with a max level of 1 and no upper links; stock hnswlib crashes on
     * the first search of such a file. Level 0 is what it means. */
    if (r->upper_rows == 0 && r->graph.level_max == 1) r->graph.level_max = 0;
    return peri_hnswlib_check(&r->graph, PERI_E_CORRUPT, peri_path_tail(r->file.path), r->control,
                              r->levels);
}

peri_status peri_hnswlib_read(peri_context *context, const char *path, peri_dtype dtype,
                              const peri_control *control, peri_hnswlib_graph *out) {
    hnsw_reading r = { .context = context, .control = control };
    memset(out, 0, sizeof *out);
    if (dtype != PERI_F32 && dtype != PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "dtype: %s given, hnswlib files hold f32 or u8",
                         peri_dtype_name(dtype));
    r.graph.dtype = dtype;
    PERI_TRY(peri_file_open(path, &r.file));
    peri_status status = read_all(&r);
    peri_memory_release(context, r.levels, r.graph.count, 1);
    peri_memory_release(context, r.staging, r.staging_bytes, 1);
    peri_file_close(&r.file);
    if (status == PERI_OK)
        *out = r.graph;
    else
        peri_hnswlib_graph_release(&r.graph);
    return status;
}
