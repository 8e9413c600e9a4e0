/* ids.c: from rows to ids and back. An id belongs to one row that is alive; the id of a removed
 * row is free again. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "index/index.h"

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

/* The pairs of the rows that are alive; there are index->rows - index->removed of them. */
static void take_pairs(const peri_index *index, const int64_t *ids, id_row *pairs) {
    peri_matrix *deleted = peri_index_section(index, "deleted");
    const uint8_t *gone = deleted == NULL ? NULL : peri_matrix_view(deleted).data;
    size_t count = 0;
    for (size_t i = 0; i < index->rows; i++)
        if (gone == NULL || gone[i] == 0) pairs[count++] = (id_row){ ids[i], (uint32_t)i };
}

static peri_status make_map(peri_index *index, const int64_t *ids) {
    static atomic_uint_fast64_t serials = 1;
    peri_context *context = index->context;
    size_t count = index->rows - index->removed;
    id_row *pairs = NULL;
    int64_t *sorted = NULL;
    uint32_t *rows = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire(context, count, sizeof *pairs, &pairs));
    take_pairs(index, ids, pairs);
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
    if (view.dtype != PERI_I64 || view.cols != 1 || view.rows != index->rows)
        return peri_fail(PERI_E_ARGUMENT, "ids: %zu x %zu %s given, allowed: %zu x 1 i64",
                         view.rows, view.cols, peri_dtype_name(view.dtype), index->rows);
    peri_matrix *host, *packed = NULL;
    PERI_TRY(peri_matrix_move(ids, PERI_CPU, &host));
    peri_status status = PERI_OK;
    if (!peri_view_packed(&(peri_view){
            .cols = 1, .dtype = PERI_I64, .stride_bytes = peri_matrix_view(host).stride_bytes })) {
        status = peri_matrix_convert(host, PERI_I64, &packed);
        peri_matrix_release(host);
        host = packed;
    }
    if (status == PERI_OK) status = make_map(index, peri_matrix_view(host).data);
    if (status != PERI_OK) {
        peri_matrix_release(host);
        return status;
    }
    index->ids = peri_matrix_view(host).data;
    return peri_index_add(index, "ids", host);
}

static bool is_alive(const peri_index *index, size_t row) {
    peri_matrix *deleted = peri_index_section(index, "deleted");
    return deleted == NULL || ((const uint8_t *)peri_matrix_view(deleted).data)[row] == 0;
}

int64_t peri_index_find(const peri_index *index, int64_t id) {
    const peri_id_map *map = &index->map;
    if (map->serial == 0) {
        bool known = id >= 0 && (uint64_t)id < index->rows && is_alive(index, (size_t)id);
        return known ? id : PERI_ID_NONE;
    }
    size_t low = 0, high = map->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (map->ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low == map->count || map->ids[low] != id ? PERI_ID_NONE : (int64_t)map->rows[low];
}
