/* hnswlib_graph.c: the checks that a graph passes after it is read and before it is written. */
#include <string.h>

#include "io/follow.h"
#include "io/hnswlib_file.h"

void peri_hnswlib_graph_release(peri_hnswlib_graph *graph) {
    peri_matrix_release(graph->rows);
    peri_matrix_release(graph->labels);
    peri_matrix_release(graph->graph);
    peri_matrix_release(graph->first);
    peri_matrix_release(graph->links);
    peri_matrix_release(graph->deleted);
    memset(graph, 0, sizeof *graph);
}

/* The level of an element is the distance to the next element's first row of links. */
static peri_status find_levels(const peri_hnswlib_graph *graph, peri_status blame, const char *name,
                               uint8_t *levels) {
    if (graph->count > 0) memset(levels, 0, graph->count);
    if (graph->first == NULL) return PERI_OK;
    peri_view first = peri_matrix_view(graph->first);
    size_t used = graph->links == NULL ? 0 : peri_matrix_view(graph->links).rows;
    for (size_t i = graph->count; i-- > 0;) {
        uint32_t row = *(const uint32_t *)peri_view_row(&first, i);
        if (row == PERI_SLOT_NONE) continue;
        if (row >= used || used - row > PERI_HNSWLIB_LEVEL_MAX)
            return peri_fail(blame,
                             "%s: element %zu has its upper links at row %u of %zu; allowed: "
                             "ascending, up to %d rows an element",
                             name, i, row, used, PERI_HNSWLIB_LEVEL_MAX);
        levels[i] = (uint8_t)(used - row);
        used = row;
    }
    if (used == 0) return PERI_OK;
    return peri_fail(blame, "%s: the first %zu rows of upper links belong to no element", name,
                     used);
}

typedef struct checking {
    const peri_hnswlib_graph *graph;
    peri_status blame;
    const char *name;
    const uint8_t *levels;
} checking;

/* One row of links of `element` on `level`. */
static peri_status check_links(const checking *c, const uint32_t *links, size_t width,
                               size_t element, size_t level) {
    size_t used = 0;
    for (; used < width && links[used] != PERI_SLOT_NONE; used++) {
        if (links[used] >= c->graph->count)
            return peri_fail(c->blame, "%s: element %zu links to %u on level %zu, allowed: 0..%zu",
                             c->name, element, links[used], level, c->graph->count - 1);
        if (level > 0 && c->levels[links[used]] < level)
            return peri_fail(c->blame,
                             "%s: element %zu links to %u on level %zu, which has level %u "
                             "only",
                             c->name, element, links[used], level, c->levels[links[used]]);
    }
    for (size_t j = used; j < width; j++)
        if (links[j] != PERI_SLOT_NONE)
            return peri_fail(c->blame,
                             "%s: element %zu has a link on level %zu after the end of its "
                             "links",
                             c->name, element, level);
    return PERI_OK;
}

static peri_status check_upper(const checking *c, size_t element) {
    const peri_hnswlib_graph *graph = c->graph;
    peri_view first = peri_matrix_view(graph->first), links = peri_matrix_view(graph->links);
    uint32_t row = *(const uint32_t *)peri_view_row(&first, element);
    for (size_t level = 1; level <= c->levels[element]; level++)
        PERI_TRY(
            check_links(c, peri_view_row(&links, row + level - 1), graph->max_m, element, level));
    return PERI_OK;
}

static peri_status check_entry(const checking *c) {
    const peri_hnswlib_graph *graph = c->graph;
    if (graph->count == 0) {
        if (graph->level_max == 0 && graph->entry == PERI_SLOT_NONE) return PERI_OK;
        return peri_fail(c->blame, "%s: has no elements, but entry %u on level %u", c->name,
                         graph->entry, graph->level_max);
    }
    if (graph->entry >= graph->count)
        return peri_fail(c->blame, "%s: the entry is element %u, allowed: 0..%zu", c->name,
                         graph->entry, graph->count - 1);
    if (c->levels[graph->entry] == graph->level_max) return PERI_OK;
    return peri_fail(c->blame, "%s: the entry %u has level %u, the highest level is %u", c->name,
                     graph->entry, c->levels[graph->entry], graph->level_max);
}

peri_status peri_hnswlib_check(const peri_hnswlib_graph *graph, peri_status blame, const char *name,
                               const peri_control *control, uint8_t *levels) {
    PERI_TRY(find_levels(graph, blame, name, levels));
    checking c = { graph, blame, name, levels };
    PERI_TRY(check_entry(&c));
    peri_view base = peri_matrix_view(graph->graph);
    for (size_t i = 0; i < graph->count; i++) {
        if (i % 4096 == 0) PERI_TRY(peri_follow(control, "check", i, graph->count));
        if (levels[i] > graph->level_max)
            return peri_fail(blame, "%s: element %zu has level %u, the highest level is %u", name,
                             i, levels[i], graph->level_max);
        PERI_TRY(check_links(&c, peri_view_row(&base, i), graph->max_m0, i, 0));
        if (levels[i] > 0) PERI_TRY(check_upper(&c, i));
    }
    return PERI_OK;
}
