/* index_file.c: saving and opening: one generic walk over an index's sections, in our container.
 * The other formats are given on to who knows them. */
#include <string.h>

#include "core/memory.h"
#include "index/handle.h"
#include "index/hnswlib_convert.h"
#include "index/walk_codes.h"
#include "quant/quantizer.h"

#define OPTIONS_MAX 40
#define WORD_MAX 48

/* The build struct as typed options. Choices are written as words, so that their numbers may
 * change. */
static size_t params_options(const peri_index *index, peri_option *list, char words[][WORD_MAX]) {
    const peri_param_table *table = index->kind->saved_table;
    PERI_ASSERT(table->count <= OPTIONS_MAX);
    for (size_t i = 0; i < table->count; i++) {
        list[i].key = table->list[i].name;
        list[i].value = peri_param_value(&table->list[i], index->params, words[i], WORD_MAX);
    }
    return table->count;
}

/* What a rowless kind says of the rows that it does not keep: i64 [1, 3] count, dim, dtype. */
static peri_status make_shape(const peri_index *index, peri_matrix **out) {
    int64_t shape[3] = { (int64_t)index->rows, index->dim, (int64_t)index->dtype };
    PERI_TRY(peri_matrix_create(index->context, 1, 3, PERI_I64, PERI_CPU, out));
    return peri_matrix_write(*out, 0, 1, shape);
}

static peri_status save_container(peri_index *index, const char *path,
                                  const peri_file_options *options) {
    peri_option list[OPTIONS_MAX];
    char words[OPTIONS_MAX][WORD_MAX];
    peri_options params = { list, params_options(index, list, words) };
    peri_section sections[PERI_SECTIONS_MAX + 1] = { { "shape", NULL } };
    size_t count = 0;
    peri_status status = PERI_OK;
    if (index->kind->rowless) status = make_shape(index, &sections[count++].matrix);
    for (size_t i = 0; i < index->section_count; i++) {
        const char *name = index->sections[i].name;
        bool rows = strcmp(name, "rows") == 0;
        if (peri_walk_codes_derived(name)) continue;
        if (!rows || options->dataset) sections[count++] = index->sections[i];
    }
    if (status == PERI_OK)
        status = peri_container_save(index->context, path, index->kind->ops.kind, &params, sections,
                                     count, options->control);
    if (index->kind->rowless) peri_matrix_release(sections[0].matrix);
    return status;
}

static peri_status check_file_options(const peri_file_options *options) {
    if (options->size != sizeof *options)
        return peri_fail(PERI_E_ARGUMENT, "options.size: %u given, this library takes %zu",
                         options->size, sizeof *options);
    if (options->format == NULL || strcmp(options->format, "perigee") == 0 ||
        strcmp(options->format, "hnswlib") == 0)
        return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "format: '%.40s' given, allowed: perigee hnswlib",
                     options->format);
}

static bool is_hnswlib(const peri_file_options *options) {
    return options->format != NULL && strcmp(options->format, "hnswlib") == 0;
}

peri_status peri_searcher_save(peri_searcher *searcher, const char *path,
                               const peri_file_options *options) {
    static const peri_file_options plain = PERI_FILE_OPTIONS_INIT;
    if (options == NULL) options = &plain;
    PERI_TRY(check_file_options(options));
    peri_index *index = peri_handle_take(searcher);
    if (index == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s is not saved: save the index that it wraps",
                         searcher->ops->kind);
    peri_index *packed = NULL;
    peri_status status = peri_index_pack(index, &packed);
    if (status == PERI_OK)
        status = is_hnswlib(options) ? peri_hnswlib_save(packed, path, options)
                                     : save_container(packed, path, options);
    peri_index_release(packed);
    peri_index_release(index);
    return status;
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status add_section(peri_index *index, peri_container *container, const char *name) {
    peri_matrix *matrix, *here = NULL;
    if (peri_index_section(index, name) != NULL) return PERI_OK; /* rows that the caller gave */
    PERI_TRY(peri_container_section(container, name, &matrix));
    if (matrix == NULL) return PERI_OK;
    peri_status status;
    if (strcmp(name, "rows") == 0) {
        status = peri_index_set_rows(index, matrix);
    } else if (strcmp(name, "ids") == 0) {
        status = peri_index_set_ids(index, matrix);
    } else if (strcmp(name, "deleted") == 0) {
        status = peri_index_set_deleted(index, matrix);
    } else {
        status = peri_matrix_move(matrix, index->device->place, &here);
        if (status == PERI_OK) status = peri_index_add(index, name, here);
    }
    peri_matrix_release(matrix);
    return status == PERI_E_ARGUMENT ? PERI_E_CORRUPT : status;
}

/* Lengths in a file are no more trusted than the rest: they must be those of the rows. */
static peri_status check_lengths(peri_index *index) {
    peri_matrix *lengths = peri_index_section(index, "lengths");
    if (index->metric != PERI_COSINE) return PERI_OK;
    if (lengths == NULL) return peri_fail(PERI_E_CORRUPT, "section 'lengths' is missing");
    peri_view view = peri_matrix_view(lengths);
    if (view.dtype != PERI_F32 || view.cols != 1 || view.rows != index->rows)
        return peri_fail(PERI_E_CORRUPT, "section 'lengths' is %zu x %zu %s, expected %zu x 1 f32",
                         view.rows, view.cols, peri_dtype_name(view.dtype), index->rows);
    return PERI_OK;
}

/* Rows that the caller gave must be as many as the graph has; the file says no more of them. */
static peri_status check_given_rows(const peri_index *index, peri_matrix *given) {
    peri_matrix *graph = peri_index_section(index, "graph");
    if (given == NULL || graph == NULL) return PERI_OK;
    size_t saved = peri_matrix_view(graph).rows, rows = peri_matrix_view(given).rows;
    if (rows == saved) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "rows: %zu given, the index was saved with %zu", rows, saved);
}

static peri_status take_shape(peri_index *index, peri_container *container) {
    peri_matrix *matrix;
    PERI_TRY(peri_container_section(container, "shape", &matrix));
    if (matrix == NULL) return peri_fail(PERI_E_CORRUPT, "section 'shape' is missing");
    peri_view view = peri_matrix_view(matrix);
    int64_t shape[3] = { -1, -1, -1 };
    if (view.rows == 1 && view.cols == 3 && view.dtype == PERI_I64)
        memcpy(shape, view.data, sizeof shape);
    peri_matrix_release(matrix);
    bool good = shape[0] >= 0 && shape[0] <= (int64_t)PERI_SLOTS_MAX && shape[1] >= 1 &&
                shape[1] <= (int64_t)PERI_DIM_MAX && shape[2] >= 0 && shape[2] <= (int64_t)PERI_U8;
    if (!good)
        return peri_fail(PERI_E_CORRUPT, "section 'shape' says %lld rows of %lld in dtype %lld",
                         (long long)shape[0], (long long)shape[1], (long long)shape[2]);
    return peri_index_set_shape(index, (size_t)shape[0], (size_t)shape[1], (peri_dtype)shape[2]);
}

static peri_status check_rows(peri_index *index, const peri_file_options *options) {
    peri_matrix *rows = peri_index_section(index, "rows");
    if (rows == NULL)
        return peri_fail(PERI_E_UNSUPPORTED,
                         "the file was saved without its rows: give them to open");
    PERI_TRY(peri_matrix_check(rows, index->metric == PERI_COSINE, "rows", 0, options->control));
    return check_lengths(index);
}

/* "deleted" comes before "ids": the id of a removed row may be another's now. */
static peri_status adopt(peri_index *index, peri_container *container,
                         const peri_file_options *options) {
    static const char *const common[] = { "rows", "deleted", "ids", "lengths" };
    const peri_kind *kind = index->kind;
    peri_options params = peri_container_params(container);
    peri_status status = peri_params_read(kind->saved_table, &params, index->params);
    if (status != PERI_OK) return status == PERI_E_ARGUMENT ? PERI_E_CORRUPT : status;
    if (kind->rowless) PERI_TRY(take_shape(index, container));
    if (options->rows != NULL && !kind->rowless)
        PERI_TRY(peri_index_set_rows(index, options->rows));
    for (size_t i = kind->rowless ? 1 : 0; i < sizeof common / sizeof *common; i++)
        PERI_TRY(add_section(index, container, common[i]));
    for (const char *const *name = kind->sections; *name != NULL; name++)
        PERI_TRY(add_section(index, container, *name));
    PERI_TRY(check_given_rows(index, options->rows));
    if (!kind->rowless) PERI_TRY(check_rows(index, options));
    PERI_TRY(kind->adopt(index));
    return peri_index_check_place(index);
}

static peri_status open_container(peri_context *context, const char *path,
                                  const peri_file_options *options, peri_searcher **out) {
    peri_container *container = NULL;
    peri_index *index = NULL;
    peri_status status;
    PERI_GO(peri_container_open(context, path, options->map, options->control, &container));
    const peri_kind *kind = peri_kind_find(peri_container_kind(container));
    if (kind == NULL && peri_quantizer_kind_find(peri_container_kind(container)) != NULL) {
        status = peri_fail(PERI_E_UNSUPPORTED, "'%s' holds a quantizer: open it as %s", path,
                           peri_container_kind(container));
        goto done;
    }
    if (kind == NULL) {
        status = peri_fail(PERI_E_UNSUPPORTED,
                           "'%s' holds an index of kind '%.40s', which this "
                           "version does not know",
                           path, peri_container_kind(container));
        goto done;
    }
    PERI_GO(peri_index_create(context, kind, options->place, &index));
    PERI_GO(adopt(index, container, options));
    status = peri_handle_create(index, out);
    index = NULL;
done:
    peri_index_release(index);
    peri_container_close(container);
    return status;
}

peri_status peri_searcher_open(peri_context *context, const char *path,
                               const peri_file_options *options, peri_searcher **out) {
    static const peri_file_options plain = PERI_FILE_OPTIONS_INIT;
    *out = NULL;
    if (options == NULL) options = &plain;
    PERI_TRY(check_file_options(options));
    if (is_hnswlib(options)) return peri_hnswlib_open(context, path, options, out);
    return open_container(context, path, options, out);
}
