/* graph_check.c: see graph_check.h. Rows are checked in parallel; the lowest bad one is not
 * sought: any names the damage. */
#include "graph/graph_check.h"

#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/memory.h"
#include "core/threads.h"

#define ROWS_A_TASK 1024u
#define FILTER_BITS 2048u

static bool seen_before(const uint32_t *links, size_t count, uint32_t link) {
    for (size_t i = 0; i < count; i++)
        if (links[i] == link) return true;
    return false;
}

/* A filter of bits says "new" for nearly every link, so the slow look back is rare. */
static peri_status check_row(const uint32_t *links, size_t degree, size_t rows, size_t row) {
    uint64_t filter[FILTER_BITS / 64] = { 0 };
    bool ended = false;
    for (size_t i = 0; i < degree; i++) {
        uint32_t link = links[i];
        if (link == PERI_SLOT_NONE) {
            ended = true;
            continue;
        }
        if (ended || link >= rows || link == row)
            return peri_fail(PERI_E_CORRUPT, "graph: row %zu, link %zu is %u: %s", row, i, link,
                             ended          ? "after the end of the row"
                             : link >= rows ? "no row"
                                            : "the row itself");
        size_t bit = link % FILTER_BITS;
        if (peri_bitset_test(filter, bit) && seen_before(links, i, link))
            return peri_fail(PERI_E_CORRUPT, "graph: row %zu, link %zu is %u: there twice", row, i,
                             link);
        peri_bitset_add(filter, bit);
    }
    return PERI_OK;
}

static peri_status check_rows(void *ud, size_t task, size_t worker) {
    (void)worker;
    const peri_view *graph = ud;
    size_t stop = peri_min_size((task + 1) * ROWS_A_TASK, graph->rows);
    for (size_t row = task * ROWS_A_TASK; row < stop; row++)
        PERI_TRY(check_row(peri_view_row(graph, row), graph->cols, graph->rows, row));
    return PERI_OK;
}

peri_status peri_graph_check(peri_matrix *graph, size_t rows) {
    if (graph == NULL) return peri_fail(PERI_E_CORRUPT, "graph: missing");
    peri_view view = peri_matrix_view(graph);
    if (view.dtype != PERI_U32 || view.rows != rows || view.rows > PERI_SLOTS_MAX)
        return peri_fail(PERI_E_CORRUPT, "graph: %zu x %zu %s, expected %zu rows of u32", view.rows,
                         view.cols, peri_dtype_name(view.dtype), rows);
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(graph, PERI_CPU, &host));
    view = peri_matrix_view(host);
    peri_status status = peri_parallel(peri_matrix_context(graph), NULL,
                                       peri_ceil_div(rows, ROWS_A_TASK), check_rows, &view);
    peri_matrix_release(host);
    return status;
}

static size_t walk_all(const peri_view *graph, uint32_t entry, uint64_t *seen, uint32_t *queue) {
    size_t head = 0, tail = 0;
    peri_bitset_add(seen, entry);
    queue[tail++] = entry;
    while (head < tail) {
        const uint32_t *links = peri_view_row(graph, queue[head++]);
        for (size_t i = 0; i < graph->cols && links[i] != PERI_SLOT_NONE; i++) {
            if (peri_bitset_test(seen, links[i])) continue;
            peri_bitset_add(seen, links[i]);
            queue[tail++] = links[i];
        }
    }
    return tail;
}

peri_status peri_graph_reachable(peri_matrix *graph, uint32_t entry, size_t *out) {
    peri_context *context = peri_matrix_context(graph);
    size_t n = peri_matrix_view(graph).rows, words = peri_bitset_words(n);
    peri_matrix *host = NULL;
    uint64_t *seen = NULL;
    uint32_t *queue = NULL;
    peri_status status;
    *out = 0;
    if (entry >= n) return PERI_OK;
    PERI_GO(peri_matrix_move(graph, PERI_CPU, &host));
    PERI_GO(peri_memory_acquire_zeroed(context, words, sizeof *seen, &seen));
    PERI_GO(peri_memory_acquire(context, n, sizeof *queue, &queue));
    peri_view view = peri_matrix_view(host);
    *out = walk_all(&view, entry, seen, queue);
done:
    peri_memory_release(context, queue, n, sizeof *queue);
    peri_memory_release(context, seen, words, sizeof *seen);
    peri_matrix_release(host);
    return status;
}
