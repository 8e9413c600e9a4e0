/* index.c: the life of an index: sections, ids, lengths, moving, describing. */
#include "index/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"

static const peri_kind *const kinds[] = { &peri_flat_kind, &peri_cagra_kind, &peri_hnsw_kind };

const peri_kind *peri_kind_find(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i]->ops.kind, name) == 0) return kinds[i];
    return NULL;
}

peri_index *peri_index_of(peri_searcher *searcher) {
    const peri_kind *kind = peri_kind_find(searcher->ops->kind);
    return kind == NULL ? NULL : (peri_index *)searcher;
}

peri_status peri_index_create(peri_context *context, const peri_kind *kind, peri_place place,
                              peri_index **out) {
    *out = NULL;
    peri_device *device;
    PERI_TRY(peri_context_device(context, place, &device));
    PERI_TRY(peri_memory_acquire_zeroed(context, 1, sizeof **out, out));
    peri_searcher_init(&(*out)->base, &kind->ops, context, NULL);
    (*out)->base.device = device;
    (*out)->kind = kind;
    peri_params_default(kind->saved_table, (*out)->params);
    return PERI_OK;
}

void peri_index_free(peri_searcher *self) {
    peri_index *index = (peri_index *)self;
    for (size_t i = 0; i < index->section_count; i++)
        peri_matrix_release(index->sections[i].matrix);
    peri_filter_release(index->alive);
    peri_context *context = self->context;
    size_t count = index->map.count;
    peri_memory_release(context, (void *)(uintptr_t)index->map.ids, count, sizeof(int64_t));
    peri_memory_release(context, (void *)(uintptr_t)index->map.rows, count, sizeof(uint32_t));
    peri_memory_release(context, index, 1, sizeof *index);
}

peri_status peri_index_add(peri_index *index, const char *name, peri_matrix *matrix) {
    PERI_ASSERT(index->section_count < PERI_SECTIONS_MAX);
    peri_section *section = &index->sections[index->section_count++];
    snprintf(section->name, sizeof section->name, "%s", name);
    section->matrix = matrix;
    return PERI_OK;
}

peri_matrix *peri_index_section(const peri_index *index, const char *name) {
    for (size_t i = 0; i < index->section_count; i++)
        if (strcmp(index->sections[i].name, name) == 0) return index->sections[i].matrix;
    return NULL;
}

peri_status peri_index_set_rows(peri_index *index, peri_matrix *rows) {
    peri_view view = peri_matrix_view(rows);
    if (view.dtype > PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "rows: dtype %s given, allowed: f32 f16 i8 u8",
                         peri_dtype_name(view.dtype));
    if (view.cols > PERI_DIM_MAX)
        return peri_fail(PERI_E_ARGUMENT, "rows: dim %zu given, allowed: 1..%u", view.cols,
                         PERI_DIM_MAX);
    int64_t metric;
    memcpy(&metric, index->params, sizeof metric);
    index->base.metric = (peri_metric)metric;
    index->base.dim = (uint32_t)view.cols;
    index->base.rows = view.rows;
    index->dtype = view.dtype;
    peri_matrix *here;
    PERI_TRY(peri_matrix_move(rows, index->base.device->place, &here));
    return peri_index_add(index, "rows", here);
}

/* ---- ids ---------------------------------------------------------------------------------- */

typedef struct id_row {
    int64_t id;
    uint32_t row;
} id_row;

static int compare_pairs(const void *a, const void *b) {
    const id_row *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static peri_status check_pairs(const id_row *pairs, size_t count) {
    if (count > 0 && pairs[0].id < 0)
        return peri_fail(PERI_E_INVALID, "ids: row %u has id %lld, allowed: 0 and more",
                         pairs[0].row, (long long)pairs[0].id);
    for (size_t i = 1; i < count; i++)
        if (pairs[i].id == pairs[i - 1].id)
            return peri_fail(PERI_E_INVALID, "ids: rows %u and %u both have id %lld",
                             pairs[i - 1].row, pairs[i].row, (long long)pairs[i].id);
    return PERI_OK;
}

static peri_status make_map(peri_index *index, const int64_t *ids, size_t count) {
    static atomic_uint_fast64_t serials = 1;
    peri_context *context = index->base.context;
    id_row *pairs = NULL;
    int64_t *sorted = NULL;
    uint32_t *rows = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire(context, count, sizeof *pairs, &pairs));
    for (size_t i = 0; i < count; i++) pairs[i] = (id_row){ ids[i], (uint32_t)i };
    if (count > 0) qsort(pairs, count, sizeof *pairs, compare_pairs);
    PERI_GO(check_pairs(pairs, count));
    PERI_GO(peri_memory_acquire(context, count, sizeof *sorted, &sorted));
    PERI_GO(peri_memory_acquire(context, count, sizeof *rows, &rows));
    for (size_t i = 0; i < count; i++) {
        sorted[i] = pairs[i].id;
        rows[i] = pairs[i].row;
    }
    index->map = (peri_id_map){ atomic_fetch_add(&serials, 1), sorted, rows, count };
    sorted = NULL;
done:
    peri_memory_release(context, pairs, count, sizeof *pairs);
    peri_memory_release(context, sorted, count, sizeof *sorted);
    if (status != PERI_OK) peri_memory_release(context, rows, count, sizeof *rows);
    return status;
}

peri_status peri_index_set_ids(peri_index *index, peri_matrix *ids) {
    peri_view view = peri_matrix_view(ids);
    if (view.dtype != PERI_I64 || view.cols != 1 || view.rows != index->base.rows)
        return peri_fail(PERI_E_ARGUMENT, "ids: %zu x %zu %s given, allowed: %zu x 1 i64",
                         view.rows, view.cols, peri_dtype_name(view.dtype), index->base.rows);
    peri_matrix *host, *packed = NULL;
    PERI_TRY(peri_matrix_move(ids, PERI_CPU, &host));
    peri_status status = PERI_OK;
    if (!peri_view_packed(&(peri_view){
            .cols = 1, .dtype = PERI_I64, .stride_bytes = peri_matrix_view(host).stride_bytes })) {
        status = peri_matrix_convert(host, PERI_I64, &packed);
        peri_matrix_release(host);
        host = packed;
    }
    if (status == PERI_OK) status = make_map(index, peri_matrix_view(host).data, view.rows);
    if (status != PERI_OK) {
        peri_matrix_release(host);
        return status;
    }
    index->ids = peri_matrix_view(host).data;
    return peri_index_add(index, "ids", host);
}

/* ---- lengths ------------------------------------------------------------------------------ */

peri_status peri_index_add_lengths(peri_index *index) {
    if (index->base.metric != PERI_COSINE || peri_index_section(index, "lengths") != NULL)
        return PERI_OK;
    peri_device *device = index->base.device;
    peri_matrix *lengths = NULL;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_GO(peri_matrix_create(index->base.context, index->base.rows, 1, PERI_F32, device->place,
                               &lengths));
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_op_lengths op = { PERI_OP_LENGTHS, peri_matrix_view(peri_index_section(index, "rows")),
                           peri_matrix_view(lengths).data };
    if (op.rows.rows > 0) PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, NULL));
    PERI_GO(peri_index_add(index, "lengths", lengths));
    lengths = NULL;
done:
    peri_lane_release(lane);
    peri_matrix_release(lengths);
    return status;
}

const float *peri_index_lengths(const peri_index *index) {
    peri_matrix *lengths = peri_index_section(index, "lengths");
    return lengths == NULL ? NULL : peri_matrix_view(lengths).data;
}

/* ---- moving ------------------------------------------------------------------------------- */

peri_status peri_searcher_move(peri_searcher *searcher, peri_place place, peri_searcher **out) {
    *out = NULL;
    peri_index *from = peri_index_of(searcher), *to = NULL;
    if (from == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s can't be moved: move what it wraps",
                         searcher->ops->kind);
    if (peri_place_equal(searcher->device->place, place)) {
        peri_searcher_retain(searcher);
        *out = searcher;
        return PERI_OK;
    }
    peri_status status;
    PERI_GO(peri_index_create(searcher->context, from->kind, place, &to));
    memcpy(to->params, from->params, sizeof to->params);
    for (size_t i = 0; i < from->section_count; i++) {
        const char *name = from->sections[i].name;
        peri_matrix *matrix = from->sections[i].matrix, *there;
        if (strcmp(name, "rows") == 0) {
            PERI_GO(peri_index_set_rows(to, matrix));
        } else if (strcmp(name, "ids") == 0) {
            PERI_GO(peri_index_set_ids(to, matrix));
        } else {
            PERI_GO(peri_matrix_move(matrix, place, &there));
            PERI_GO(peri_index_add(to, name, there));
        }
    }
    PERI_GO(to->kind->adopt(to));
    PERI_GO(peri_index_check_place(to));
    *out = &to->base;
    return PERI_OK;
done:
    if (to != NULL) peri_searcher_release(&to->base);
    return status;
}

peri_status peri_searcher_dataset(peri_searcher *searcher, peri_matrix **out) {
    peri_index *index = peri_index_of(searcher);
    *out = index == NULL ? NULL : peri_index_section(index, "rows");
    if (*out != NULL) peri_matrix_retain(*out);
    return PERI_OK;
}

/* ---- describing --------------------------------------------------------------------------- */

static size_t section_bytes(const peri_section *section) {
    peri_view view = peri_matrix_view(section->matrix);
    return view.rows * view.cols * peri_dtype_bytes(view.dtype);
}

void peri_index_describe(const peri_searcher *self, peri_field_fn field, void *ud) {
    const peri_index *index = (const peri_index *)self;
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
    peri_field_params(field, ud, index->kind->saved_table, index->params);
}

void peri_index_line(const peri_searcher *self, char *text, size_t size) {
    const peri_index *index = (const peri_index *)self;
    char place[32];
    snprintf(text, size, "%s(%zu x %u %s, %s)\t%s\t%s", self->ops->kind, self->rows, self->dim,
             peri_dtype_name(index->dtype), peri_metric_name(self->metric),
             peri_place_format(self->device->place, place, sizeof place),
             index->kind->walk == NULL ? "exact scan" : "graph walk");
}
