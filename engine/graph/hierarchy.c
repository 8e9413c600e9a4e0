/* hierarchy.c: levels are drawn as HNSW draws them, and each is a graph of its rows made like
 * the base.
 *
 * HNSW selects a row's links by its neighbour heuristic (algorithm 4), which keeps a candidate
 * that is nearer to the row than to any link kept before. Detour pruning is the same idea by
 * ranks instead of distances: an edge that two shorter ones replace is dropped. So a level is
 * peri_graph_make() over its rows: exact kNN, pruning, reverse links within m, connectivity; one
 * pipeline to trust instead of two.
 *
 * Rows equal to an earlier one have no upper level: they would only repeat it. */
#include "graph/hierarchy.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/random.h"
#include "graph/equal_rows.h"
#include "graph/graph_build.h"

#define LEVELS_MAX 30u

typedef struct tower {
    const peri_hierarchy_build *build;
    peri_context *context;
    size_t n;
    uint8_t *levels; /* [n] */
    uint32_t level_max;
    size_t link_rows;
    int64_t *slots;             /* [n] rows of the level that is being made */
    peri_matrix *first, *links; /* on the host */
    uint32_t entry;
} tower;

/* ---- drawing ------------------------------------------------------------------------------ */

uint8_t peri_level_draw(uint64_t seed, size_t row, size_t m) {
    /* In (0, 1]: the logarithm of 0 is never taken. */
    double u = ((double)(peri_random_mix(seed, row) >> 11) + 1.0) * 0x1p-53;
    double level = floor(-log(u) / log((double)peri_max_size(m, 2)));
    return (uint8_t)(level > LEVELS_MAX ? LEVELS_MAX : level);
}

static peri_status draw_levels(tower *t) {
    peri_matrix *host;
    peri_equal_rows equal = { .context = NULL };
    PERI_TRY(peri_matrix_move(t->build->rows, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    peri_status status = peri_equal_rows_find(t->context, &view, t->build->threads,
                                              t->build->control, &equal);
    peri_matrix_release(host);
    PERI_TRY(status);
    memset(t->levels, 0, t->n);
    for (size_t group = 0; group < equal.groups; group++) {
        uint32_t row = equal.order[equal.starts[group]];
        t->levels[row] = peri_level_draw(t->build->seed, row, t->build->m);
        t->link_rows += t->levels[row];
        if (t->levels[row] > t->level_max) t->level_max = t->levels[row];
    }
    peri_equal_rows_reset(&equal);
    return PERI_OK;
}

static peri_status lay_out(tower *t) {
    PERI_TRY(peri_matrix_create(t->context, t->n, 1, PERI_U32, PERI_CPU, &t->first));
    PERI_TRY(
        peri_matrix_create(t->context, t->link_rows, t->build->m, PERI_U32, PERI_CPU, &t->links));
    uint32_t *first = peri_matrix_view(t->first).data, next = 0;
    memset(peri_matrix_view(t->links).data, 0xFF, t->link_rows * t->build->m * sizeof(uint32_t));
    for (size_t row = 0; row < t->n; row++) {
        first[row] = t->levels[row] == 0 ? PERI_SLOT_NONE : next;
        next += t->levels[row];
    }
    return PERI_OK;
}

/* ---- one level ---------------------------------------------------------------------------- */

static void write_level(tower *t, uint32_t level, const peri_view *graph) {
    const uint32_t *first = peri_matrix_view(t->first).data;
    peri_view links = peri_matrix_view(t->links);
    for (size_t i = 0; i < graph->rows; i++) {
        const uint32_t *from = peri_view_row(graph, i);
        uint32_t *to = peri_view_row(&links, first[t->slots[i]] + level - 1);
        for (size_t j = 0; j < graph->cols && from[j] != PERI_SLOT_NONE; j++)
            to[j] = (uint32_t)t->slots[from[j]];
    }
}

static peri_status make_level(tower *t, uint32_t level) {
    size_t count = 0;
    for (size_t row = 0; row < t->n; row++)
        if (t->levels[row] >= level) t->slots[count++] = (int64_t)row;
    peri_graph_build build = { .metric = t->build->metric,
                               .graph_degree = t->build->m,
                               .intermediate_graph_degree = 2 * t->build->m,
                               .nn_descent_niter = 20,
                               .termination_threshold = 0.0001,
                               .guarantee_connectivity = true,
                               .seed = t->build->seed,
                               .threads = t->build->threads,
                               .control = t->build->control };
    peri_matrix *graph = NULL, *host = NULL;
    uint32_t entry;
    peri_status status;
    PERI_GO(peri_matrix_gather(t->build->rows, t->slots, count, &build.rows));
    if (t->build->lengths != NULL)
        PERI_GO(peri_matrix_gather(t->build->lengths, t->slots, count, &build.lengths));
    PERI_GO(peri_graph_make(&build, &graph, &entry));
    PERI_GO(peri_matrix_move(graph, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    write_level(t, level, &view);
    if (level == t->level_max) t->entry = (uint32_t)t->slots[entry];
done:
    peri_matrix_release(host);
    peri_matrix_release(graph);
    peri_matrix_release(build.lengths);
    peri_matrix_release(build.rows);
    return status;
}

peri_status peri_hierarchy_make(const peri_hierarchy_build *build, peri_matrix **first,
                                peri_matrix **links, uint32_t *entry, uint32_t *level_max) {
    tower t = { .build = build, .context = peri_matrix_context(build->rows) };
    peri_place place = peri_matrix_view(build->rows).place;
    t.n = peri_matrix_view(build->rows).rows;
    *first = *links = NULL;
    *entry = PERI_SLOT_NONE;
    *level_max = 0;
    peri_status status;
    PERI_GO(peri_memory_acquire(t.context, t.n, sizeof *t.levels, &t.levels));
    PERI_GO(peri_memory_acquire(t.context, t.n, sizeof *t.slots, &t.slots));
    PERI_GO(draw_levels(&t));
    if (t.level_max == 0) goto done;
    PERI_GO(lay_out(&t));
    for (uint32_t level = 1; level <= t.level_max; level++) PERI_GO(make_level(&t, level));
    PERI_GO(peri_matrix_move(t.first, place, first));
    PERI_GO(peri_matrix_move(t.links, place, links));
    *entry = t.entry;
    *level_max = t.level_max;
done:
    if (status != PERI_OK) {
        peri_matrix_release(*first);
        *first = NULL;
    }
    peri_matrix_release(t.links);
    peri_matrix_release(t.first);
    peri_memory_release(t.context, t.slots, t.n, sizeof *t.slots);
    peri_memory_release(t.context, t.levels, t.n, sizeof *t.levels);
    return status;
}

/* ---- checking ----------------------------------------------------------------------------- */

/* Writes the level of every row, from where the next one's links begin. */
static peri_status read_levels(const uint32_t *first, size_t rows, size_t link_rows,
                               uint32_t level_max, uint32_t *levels) {
    size_t end = link_rows;
    for (size_t row = rows; row-- > 0;) {
        levels[row] = 0;
        if (first[row] == PERI_SLOT_NONE) continue;
        if (first[row] >= end || end - first[row] > level_max)
            return peri_fail(PERI_E_CORRUPT, "first: row %zu begins at %u, before %zu", row,
                             first[row], end);
        levels[row] = (uint32_t)(end - first[row]);
        end = first[row];
    }
    return end == 0 ? PERI_OK
                    : peri_fail(PERI_E_CORRUPT, "first: %zu rows of links belong to none", end);
}

static peri_status check_links(const peri_view *links, const uint32_t *first,
                               const uint32_t *levels, size_t rows) {
    for (size_t row = 0; row < rows; row++)
        for (uint32_t level = 1; level <= levels[row]; level++) {
            const uint32_t *list = peri_view_row(links, (size_t)first[row] + level - 1);
            for (size_t i = 0; i < links->cols && list[i] != PERI_SLOT_NONE; i++)
                if (list[i] >= rows || list[i] == row || levels[list[i]] < level)
                    return peri_fail(PERI_E_CORRUPT,
                                     "links: row %zu, level %u, link %zu is %u, "
                                     "which is not a row of that level",
                                     row, level, i, list[i]);
        }
    return PERI_OK;
}

static peri_status check_shapes(peri_matrix *first, peri_matrix *links, size_t rows) {
    if (first == NULL || links == NULL) return peri_fail(PERI_E_CORRUPT, "levels: missing");
    peri_view f = peri_matrix_view(first), l = peri_matrix_view(links);
    if (f.dtype != PERI_U32 || f.cols != 1 || f.rows != rows || l.dtype != PERI_U32)
        return peri_fail(PERI_E_CORRUPT,
                         "levels: 'first' is %zu x %zu, 'links' %zu x %zu, expected "
                         "%zu x 1 and u32",
                         f.rows, f.cols, l.rows, l.cols, rows);
    if (f.stride_bytes != sizeof(uint32_t))
        return peri_fail(PERI_E_CORRUPT, "levels: 'first' is not packed");
    return PERI_OK;
}

peri_status peri_hierarchy_check(peri_matrix *first, peri_matrix *links, size_t rows,
                                 uint32_t entry, uint32_t level_max) {
    PERI_TRY(check_shapes(first, links, rows));
    peri_context *context = peri_matrix_context(first);
    peri_matrix *first_host = NULL, *links_host = NULL;
    uint32_t *levels = NULL;
    peri_status status;
    PERI_GO(peri_matrix_move(first, PERI_CPU, &first_host));
    PERI_GO(peri_matrix_move(links, PERI_CPU, &links_host));
    PERI_GO(peri_memory_acquire(context, rows, sizeof *levels, &levels));
    const uint32_t *begins = peri_matrix_view(first_host).data;
    peri_view view = peri_matrix_view(links_host);
    PERI_GO(read_levels(begins, rows, view.rows, level_max, levels));
    PERI_GO(check_links(&view, begins, levels, rows));
    if (entry >= rows || levels[entry] != level_max)
        status = peri_fail(PERI_E_CORRUPT, "entry: row %u is not on the top level, %u", entry,
                           level_max);
done:
    peri_memory_release(context, levels, rows, sizeof *levels);
    peri_matrix_release(links_host);
    peri_matrix_release(first_host);
    return status;
}
