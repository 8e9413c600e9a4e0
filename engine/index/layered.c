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

/* Bits of the rows that a section links to. */
static peri_status add_linked(const peri_index *index, const char *name, uint64_t *linked) {
    peri_matrix *section = peri_index_section(index, name), *host;
    if (section == NULL) return PERI_OK;
    PERI_TRY(peri_matrix_move(section, PERI_CPU, &host));
    peri_view links = peri_matrix_view(host);
    for (size_t row = 0; row < links.rows; row++) {
        const uint32_t *list = peri_view_row(&links, row);
        for (size_t i = 0; i < links.cols && list[i] != PERI_SLOT_NONE; i++)
            peri_bitset_add(linked, list[i]);
    }
    peri_matrix_release(host);
    return PERI_OK;
}

peri_status peri_layered_count_holes(peri_index *index, size_t entry) {
    peri_matrix *deleted = peri_index_section(index, "deleted");
    peri_context *context = index->context;
    size_t words = peri_bitset_words(index->rows);
    uint64_t *linked = NULL;
    peri_status status;
    index->holes = 0;
    if (deleted == NULL) return PERI_OK;
    PERI_GO(peri_memory_acquire_zeroed(context, words, sizeof *linked, &linked));
    PERI_GO(add_linked(index, "graph", linked));
    PERI_GO(add_linked(index, "links", linked));
    peri_bitset_add(linked, entry);
    const uint8_t *gone = peri_matrix_view(deleted).data; /* on the host: removed.c */
    for (size_t row = 0; row < index->rows; row++)
        index->holes += gone[row] != 0 && !peri_bitset_test(linked, row);
done:
    peri_memory_release(context, linked, words, sizeof *linked);
    return status;
}
