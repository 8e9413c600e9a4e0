/* index.c: the life of an index: sections, lengths, moving, describing. */
#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "core/distance.h"
#include "core/memory.h"
#include "index/handle.h"
#include "index/walk_codes.h"

const peri_kind *const peri_kinds[] = { &peri_flat_kind,   &peri_ivf_flat_kind,   &peri_ivf_pq_kind,
                                        &peri_ivf_sq_kind, &peri_ivf_rabitq_kind, &peri_cagra_kind,
                                        &peri_hnsw_kind,   &peri_vamana_kind };
const size_t peri_kind_count = sizeof peri_kinds / sizeof *peri_kinds;

const peri_kind *peri_kind_find(const char *name) {
    for (size_t i = 0; i < peri_kind_count; i++)
        if (strcmp(peri_kinds[i]->ops.kind, name) == 0) return peri_kinds[i];
    return NULL;
}

peri_status peri_index_create(peri_context *context, const peri_kind *kind, peri_place place,
                              peri_index **out) {
    *out = NULL;
    peri_device *device;
    PERI_TRY(peri_context_device(context, place, &device));
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof **out, out));
    atomic_init(&(*out)->references, 1);
    peri_context_retain(context);
    (*out)->context = context;
    (*out)->device = device;
    (*out)->kind = kind;
    peri_params_default(kind->saved_table, (*out)->params);
    return PERI_OK;
}

void peri_index_retain(peri_index *index) { atomic_fetch_add(&index->references, 1); }

void peri_index_release(peri_index *index) {
    if (index == NULL || atomic_fetch_sub(&index->references, 1) != 1) return;
    for (size_t i = 0; i < index->section_count; i++)
        peri_matrix_release(index->sections[i].matrix);
    peri_filter_release(index->alive);
    peri_context *context = index->context;
    size_t count = index->map.count;
    peri_memory_release(context, (void *)(uintptr_t)index->map.ids, count, sizeof(int64_t));
    peri_memory_release(context, (void *)(uintptr_t)index->map.rows, count, sizeof(uint32_t));
    peri_memory_release(context, index, 1, sizeof *index);
    peri_context_release(context);
}

/* ---- sections ----------------------------------------------------------------------------- */

peri_status peri_index_add(peri_index *index, const char *name, peri_matrix *matrix) {
    PERI_ASSERT(index->section_count < PERI_SECTIONS_MAX);
    peri_section *section = &index->sections[index->section_count++];
    snprintf(section->name, sizeof section->name, "%s", name);
    section->matrix = matrix;
    return PERI_OK;
}

static peri_section *find_section(peri_index *index, const char *name) {
    for (size_t i = 0; i < index->section_count; i++)
        if (strcmp(index->sections[i].name, name) == 0) return &index->sections[i];
    return NULL;
}

peri_matrix *peri_index_section(const peri_index *index, const char *name) {
    const peri_section *section = find_section((peri_index *)(uintptr_t)index, name);
    return section == NULL ? NULL : section->matrix;
}

peri_status peri_index_replace(peri_index *index, const char *name, peri_matrix *matrix) {
    peri_section *section = find_section(index, name);
    if (section == NULL) return peri_index_add(index, name, matrix);
    peri_matrix_release(section->matrix);
    section->matrix = matrix;
    return PERI_OK;
}

void peri_index_drop(peri_index *index, const char *name) {
    peri_section *section = find_section(index, name);
    if (section == NULL) return;
    peri_matrix_release(section->matrix);
    *section = index->sections[--index->section_count];
}

peri_status peri_index_share(peri_index *index, const peri_index *from, const char *name) {
    peri_matrix *matrix = peri_index_section(from, name);
    if (matrix == NULL) return PERI_OK;
    peri_matrix_retain(matrix);
    return peri_index_add(index, name, matrix);
}

peri_status peri_index_set_shape(peri_index *index, size_t rows, size_t dim, peri_dtype dtype) {
    if (dtype > PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "rows: dtype %s given, allowed: f32 f16 i8 u8",
                         peri_dtype_name(dtype));
    if (dim < 1 || dim > PERI_DIM_MAX)
        return peri_fail(PERI_E_ARGUMENT, "rows: dim %zu given, allowed: 1..%u", dim, PERI_DIM_MAX);
    int64_t metric;
    memcpy(&metric, index->params, sizeof metric);
    if (!peri_metric_takes((peri_metric)metric, dtype))
        return peri_fail(PERI_E_ARGUMENT,
                         "option 'metric': '%s' given for rows of %s, allowed: rows of u8, whose "
                         "bits it compares",
                         peri_metric_name((peri_metric)metric), peri_dtype_name(dtype));
    index->metric = (peri_metric)metric;
    index->dim = (uint32_t)dim;
    index->rows = rows;
    index->dtype = dtype;
    return PERI_OK;
}

peri_status peri_index_set_rows(peri_index *index, peri_matrix *rows) {
    peri_view view = peri_matrix_view(rows);
    PERI_TRY(peri_index_set_shape(index, view.rows, view.cols, view.dtype));
    if (index->kind->rowless) return PERI_OK;
    peri_matrix *here;
    if (index->kind->streams != NULL) PERI_TRY(index->kind->streams(index, rows, &index->streamed));
    PERI_TRY(peri_matrix_move(rows, peri_index_rows_place(index), &here));
    return peri_index_add(index, "rows", here);
}

/* ---- lengths ------------------------------------------------------------------------------ */

peri_status peri_index_make_lengths(const peri_index *index, peri_matrix *rows, peri_matrix **out) {
    peri_view view = peri_matrix_view(rows);
    peri_matrix *lengths = NULL;
    peri_device *device;
    peri_lane *lane = NULL;
    peri_status status;
    *out = NULL;
    PERI_GO(peri_context_device(index->context, view.place, &device));
    PERI_GO(peri_matrix_create(index->context, view.rows, 1, PERI_F32, view.place, &lengths));
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_op_lengths op = { PERI_OP_LENGTHS, view, peri_matrix_view(lengths).data };
    if (view.rows > 0) PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, NULL));
    PERI_GO(peri_matrix_move(lengths, index->device->place, out));
done:
    peri_lane_release(lane);
    peri_matrix_release(lengths);
    return status;
}

peri_status peri_index_add_lengths(peri_index *index) {
    peri_matrix *lengths;
    if (index->metric != PERI_COSINE || peri_index_section(index, "lengths") != NULL ||
        index->kind->rowless)
        return PERI_OK;
    PERI_TRY(peri_index_make_lengths(index, peri_index_section(index, "rows"), &lengths));
    return peri_index_add(index, "lengths", lengths);
}

const float *peri_index_lengths(const peri_index *index) {
    peri_matrix *lengths = peri_index_section(index, "lengths");
    return lengths == NULL ? NULL : peri_matrix_view(lengths).data;
}

/* ---- moving ------------------------------------------------------------------------------- */

/* Section by section; "rows", "ids" and "deleted" set more than their section. */
static peri_status take_section(peri_index *to, const peri_section *section) {
    peri_matrix *there;
    if (peri_walk_codes_derived(section->name)) return PERI_OK;
    if (strcmp(section->name, "rows") == 0) return peri_index_set_rows(to, section->matrix);
    if (strcmp(section->name, "ids") == 0) return peri_index_set_ids(to, section->matrix);
    if (strcmp(section->name, "deleted") == 0) return peri_index_set_deleted(to, section->matrix);
    PERI_TRY(peri_matrix_move(section->matrix, to->device->place, &there));
    return peri_index_add(to, section->name, there);
}

static peri_status move_index(peri_index *loose, peri_place place, peri_searcher **out) {
    peri_index *from = NULL, *to = NULL;
    peri_status status;
    PERI_GO(peri_index_pack(loose, &from));
    PERI_GO(peri_index_create(from->context, from->kind, place, &to));
    memcpy(to->params, from->params, sizeof to->params);
    PERI_GO(peri_index_set_shape(to, from->rows, from->dim, from->dtype));
    for (size_t i = 0; i < from->section_count; i++) /* before "ids": a removed row's is free */
        if (strcmp(from->sections[i].name, "deleted") == 0)
            PERI_GO(take_section(to, &from->sections[i]));
    for (size_t i = 0; i < from->section_count; i++)
        if (strcmp(from->sections[i].name, "deleted") != 0)
            PERI_GO(take_section(to, &from->sections[i]));
    PERI_GO(to->kind->adopt(to));
    PERI_GO(peri_index_check_place(to));
    status = peri_handle_create(to, out);
    to = NULL;
done:
    peri_index_release(to);
    peri_index_release(from);
    return status;
}

peri_status peri_searcher_move(peri_searcher *searcher, peri_place place, peri_searcher **out) {
    *out = NULL;
    peri_index *from = peri_handle_take(searcher);
    if (from == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s can't be moved: move what it wraps",
                         searcher->ops->kind);
    peri_status status = PERI_OK;
    if (peri_place_equal(searcher->device->place, place)) {
        peri_searcher_retain(searcher);
        *out = searcher;
    } else {
        status = move_index(from, place, out);
    }
    peri_index_release(from);
    return status;
}

peri_status peri_searcher_dataset(peri_searcher *searcher, peri_matrix **out) {
    peri_index *index = peri_handle_take(searcher);
    *out = index == NULL ? NULL : peri_index_section(index, "rows");
    if (*out != NULL) peri_matrix_retain(*out);
    peri_index_release(index);
    return PERI_OK;
}

/* ---- describing --------------------------------------------------------------------------- */

static size_t section_bytes(const peri_section *section) {
    peri_view view = peri_matrix_view(section->matrix);
    return view.rows * view.cols * peri_dtype_bytes(view.dtype);
}

void peri_index_describe(const peri_searcher *self, peri_field_fn field, void *ud) {
    peri_index *index = peri_handle_take(self);
    size_t bytes = 0;
    peri_field_text(field, ud, "dtype", peri_dtype_name(index->dtype));
    for (size_t i = 0; i < index->section_count; i++) {
        char key[64];
        size_t size = section_bytes(&index->sections[i]);
        snprintf(key, sizeof key, "sections.%s", index->sections[i].name);
        peri_field_int(field, ud, key, (int64_t)size);
        bytes += size;
    }
    peri_field_int(field, ud, "bytes", (int64_t)bytes);
    if (index->removed > 0) peri_field_int(field, ud, "removed", (int64_t)index->removed);
    if (index->kind->streams != NULL) peri_field_flag(field, ud, "streamed", index->streamed);
    if (index->kind->describe != NULL) index->kind->describe(index, field, ud);
    peri_field_params(field, ud, index->kind->saved_table, index->params);
    peri_index_release(index);
}

static const char *way(const peri_index *index) {
    if (index->streamed) return "exact scan, rows streamed from the host";
    if (index->kind->scan != NULL) return "list scan";
    return index->kind->walk != NULL ? "graph walk" : "exact scan";
}

void peri_index_line(const peri_searcher *self, char *text, size_t size) {
    peri_index *index = peri_handle_take(self);
    char place[32];
    snprintf(text, size, "%s(%zu x %u %s, %s)\t%s\t%s", self->ops->kind, index->rows, self->dim,
             peri_dtype_name(index->dtype), peri_metric_name(self->metric),
             peri_place_format(self->device->place, place, sizeof place), way(index));
    peri_index_release(index);
}
