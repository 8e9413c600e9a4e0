/* hnswlib_write.c: writes hnswlib's index format, so that stock hnswlib loads and searches it. */
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "io/atomic_file.h"
#include "io/follow.h"
#include "io/hnswlib_file.h"
#include "io/host_rows.h"

typedef struct hnsw_writing {
    const peri_hnswlib_graph *graph;
    peri_atomic_file *file;
    uint8_t *levels;
    const peri_control *control;
    size_t done, total; /* elements, each counted twice: level 0, upper levels */
} hnsw_writing;

/* ---- checks ------------------------------------------------------------------------------- */

static peri_status check_number(const char *what, size_t value, size_t min, size_t max) {
    if (value >= min && value <= max) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "hnswlib: %s = %zu, allowed: %zu..%zu", what, value, min,
                     max);
}

/* `rows` SIZE_MAX: any number. */
static peri_status check_matrix(const char *what, const peri_matrix *matrix, size_t rows,
                                size_t cols, peri_dtype dtype) {
    if (matrix == NULL) return peri_fail(PERI_E_ARGUMENT, "hnswlib: no %s", what);
    peri_view view = peri_matrix_view(matrix);
    if ((rows == SIZE_MAX || view.rows == rows) && view.cols == cols && view.dtype == dtype &&
        peri_place_on_host(view.place))
        return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT,
                     "hnswlib: %s is %zu x %zu %s, needed: %zu x %zu %s on the host", what,
                     view.rows, view.cols, peri_dtype_name(view.dtype),
                     rows == SIZE_MAX ? view.rows : rows, cols, peri_dtype_name(dtype));
}

static peri_status check_shapes(const peri_hnswlib_graph *g) {
    PERI_TRY(check_number("elements", g->count, 0, PERI_SLOTS_MAX));
    PERI_TRY(check_number("dim", g->dim, 1, PERI_DIM_MAX));
    PERI_TRY(check_number("M", g->m, 2, PERI_HNSWLIB_M_MAX));
    PERI_TRY(check_number("max M", g->max_m, g->m, g->m));
    PERI_TRY(check_number("max M0", g->max_m0, 1, PERI_HNSWLIB_M0_MAX));
    PERI_TRY(check_number("ef_construction", g->ef_construction, 1, INT32_MAX));
    if (g->dtype != PERI_F32 && g->dtype != PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "dtype: %s given, hnswlib files hold f32 or u8",
                         peri_dtype_name(g->dtype));
    PERI_TRY(check_matrix("rows", g->rows, g->count, g->dim, g->dtype));
    PERI_TRY(check_matrix("graph", g->graph, g->count, g->max_m0, PERI_U32));
    if (g->labels != NULL) PERI_TRY(check_matrix("labels", g->labels, g->count, 1, PERI_I64));
    if (g->deleted != NULL) PERI_TRY(check_matrix("deleted", g->deleted, g->count, 1, PERI_U8));
    if (g->first == NULL) return PERI_OK;
    PERI_TRY(check_matrix("first", g->first, g->count, 1, PERI_U32));
    return g->links == NULL ? PERI_OK
                            : check_matrix("links", g->links, SIZE_MAX, g->max_m, PERI_U32);
}

/* ---- writing ------------------------------------------------------------------------------ */

static peri_status follow(hnsw_writing *w) {
    if (w->done++ % 1024 != 0) return PERI_OK;
    return peri_follow(w->control, "save", w->done - 1, w->total);
}

static peri_status write_head(const hnsw_writing *w) {
    const peri_hnswlib_graph *g = w->graph;
    uint64_t data_offset = 4 + 4 * (uint64_t)g->max_m0;
    uint64_t label_offset = data_offset + g->dim * (uint64_t)peri_dtype_bytes(g->dtype);
    peri_hnswlib_head head = { .max_elements = g->count,
                               .count = g->count,
                               .element_bytes = label_offset + 8,
                               .label_offset = label_offset,
                               .data_offset = data_offset,
                               .level_max = g->count == 0 ? -1 : (int32_t)g->level_max,
                               .entry = g->entry,
                               .max_m = g->max_m,
                               .max_m0 = g->max_m0,
                               .m = g->m,
                               .mult = 1 / log((double)g->m),
                               .ef_construction = g->ef_construction };
    return peri_atomic_file_write(w->file, &head, sizeof head);
}

/* A u32 header and the links, zeros after the last one. */
static peri_status write_links(const hnsw_writing *w, const uint32_t *links, size_t width,
                               uint32_t marks) {
    static const uint32_t zeros[256];
    size_t count = 0;
    while (count < width && links[count] != PERI_SLOT_NONE) count++;
    uint32_t header = (uint32_t)count | marks;
    PERI_TRY(peri_atomic_file_write(w->file, &header, sizeof header));
    PERI_TRY(peri_atomic_file_write(w->file, links, count * sizeof *links));
    for (size_t left = width - count; left > 0;) {
        size_t some = peri_min_size(left, sizeof zeros / sizeof *zeros);
        PERI_TRY(peri_atomic_file_write(w->file, zeros, some * sizeof *zeros));
        left -= some;
    }
    return PERI_OK;
}

static peri_status label_of(const peri_hnswlib_graph *g, size_t element, uint64_t *out) {
    *out = element;
    if (g->labels == NULL) return PERI_OK;
    peri_view labels = peri_matrix_view(g->labels);
    int64_t label = *(const int64_t *)peri_view_row(&labels, element);
    *out = (uint64_t)label;
    if (label >= 0) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "hnswlib: label %zu is %lld, allowed: 0 and more", element,
                     (long long)label);
}

static peri_status write_level0(hnsw_writing *w) {
    const peri_hnswlib_graph *g = w->graph;
    peri_view rows = peri_matrix_view(g->rows), graph = peri_matrix_view(g->graph), deleted;
    size_t row_bytes = rows.cols * peri_dtype_bytes(rows.dtype);
    if (g->deleted != NULL) deleted = peri_matrix_view(g->deleted);
    for (size_t i = 0; i < g->count; i++) {
        uint64_t label;
        uint32_t marks = 0;
        if (g->deleted != NULL && *(const uint8_t *)peri_view_row(&deleted, i) != 0)
            marks = 1u << 16;
        PERI_TRY(follow(w));
        PERI_TRY(label_of(g, i, &label));
        PERI_TRY(write_links(w, peri_view_row(&graph, i), g->max_m0, marks));
        PERI_TRY(peri_atomic_file_write(w->file, peri_view_row(&rows, i), row_bytes));
        PERI_TRY(peri_atomic_file_write(w->file, &label, sizeof label));
    }
    return PERI_OK;
}

static peri_status write_upper(hnsw_writing *w) {
    const peri_hnswlib_graph *g = w->graph;
    peri_view first = { 0 }, links = { 0 };
    if (g->first != NULL) first = peri_matrix_view(g->first);
    if (g->links != NULL) links = peri_matrix_view(g->links);
    for (size_t i = 0; i < g->count; i++) {
        uint32_t level = w->levels[i], row = 0;
        uint32_t bytes = level * (4 + 4 * (uint32_t)g->max_m);
        PERI_TRY(follow(w));
        PERI_TRY(peri_atomic_file_write(w->file, &bytes, sizeof bytes));
        if (level > 0) row = *(const uint32_t *)peri_view_row(&first, i);
        for (uint32_t l = 0; l < level; l++)
            PERI_TRY(write_links(w, peri_view_row(&links, row + l), g->max_m, 0));
    }
    return PERI_OK;
}

static peri_status write_all(hnsw_writing *w) {
    PERI_TRY(write_head(w));
    PERI_TRY(write_level0(w));
    PERI_TRY(write_upper(w));
    return peri_follow(w->control, "save", w->total, w->total);
}

peri_status peri_hnswlib_write(peri_context *context, const char *path,
                               const peri_hnswlib_graph *graph, const peri_control *control) {
    hnsw_writing w = { .graph = graph, .control = control, .total = 2 * graph->count };
    PERI_TRY(check_shapes(graph));
    peri_status status;
    PERI_GO(peri_memory_acquire(context, graph->count, 1, &w.levels));
    PERI_GO(peri_hnswlib_check(graph, PERI_E_ARGUMENT, "hnswlib", control, w.levels));
    PERI_GO(peri_atomic_file_open(context, path, &w.file));
    PERI_GO(write_all(&w));
    peri_atomic_file *file = w.file;
    w.file = NULL;
    status = peri_atomic_file_commit(file);
done:
    peri_atomic_file_discard(w.file);
    peri_memory_release(context, w.levels, graph->count, 1);
    return status;
}
