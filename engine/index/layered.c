/* layered.c: see layered.h. */
#include "index/layered.h"

#include "core/bitset.h"
#include "core/checked.h"
#include "core/memory.h"

/* Bits of the rows that are not removed; NULL when all are there. */
static peri_status make_present(const peri_index *index, uint64_t **out) {
    peri_matrix *deleted = peri_index_section(index, "deleted"), *host;
    *out = NULL;
    if (deleted == NULL || index->removed == 0) return PERI_OK;
    PERI_TRY(peri_matrix_move(deleted, PERI_CPU, &host));
    const uint8_t *gone = peri_matrix_view(host).data;
    peri_status status = peri_memory_acquire_zeroed(index->context, peri_bitset_words(index->rows),
                                                    sizeof **out, out);
    for (size_t row = 0; status == PERI_OK && row < index->rows; row++)
        if (gone[row] == 0) peri_bitset_add(*out, row);
    peri_matrix_release(host);
    return status;
}

static peri_status put_section(peri_index *index, const char *name, peri_matrix *matrix) {
    if (matrix != NULL) return peri_index_replace(index, name, matrix);
    peri_index_drop(index, name);
    return PERI_OK;
}

peri_status peri_layered_make(const peri_index *old, peri_index *next, peri_layers *layers) {
    uint64_t *present;
    PERI_TRY(make_present(next, &present));
    layers->rows = peri_index_section(next, "rows");
    layers->lengths = peri_index_section(next, "lengths");
    layers->metric = next->metric;
    layers->present = present;
    if (old != NULL) {
        layers->old_graph = peri_index_section(old, "graph");
        layers->old_first = peri_index_section(old, "first");
        layers->old_links = peri_index_section(old, "links");
    }
    peri_status status = peri_layers_make(layers);
    peri_memory_release(next->context, present, peri_bitset_words(next->rows), sizeof *present);
    PERI_TRY(status);
    next->holes = next->removed;
    PERI_TRY(put_section(next, "graph", layers->graph));
    PERI_TRY(put_section(next, "first", layers->first));
    return put_section(next, "links", layers->links);
}

peri_status peri_layered_count_holes(peri_index *index) {
    peri_matrix *deleted = peri_index_section(index, "deleted"), *marks = NULL, *host = NULL;
    peri_status status;
    index->holes = 0;
    if (deleted == NULL) return PERI_OK;
    PERI_GO(peri_matrix_move(deleted, PERI_CPU, &marks));
    PERI_GO(peri_matrix_move(peri_index_section(index, "graph"), PERI_CPU, &host));
    const uint8_t *gone = peri_matrix_view(marks).data;
    peri_view graph = peri_matrix_view(host);
    for (size_t row = 0; row < graph.rows; row++)
        index->holes += gone[row] != 0 &&
                        *(const uint32_t *)peri_view_row(&graph, row) == PERI_SLOT_NONE;
done:
    peri_matrix_release(marks);
    peri_matrix_release(host);
    return status;
}
