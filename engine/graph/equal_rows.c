/* equal_rows.c: a hash of every row (in parallel), then one pass over an open-addressing table
 * of the rows met first. A row is compared only with rows of its 64-bit hash. */
#include "graph/equal_rows.h"

#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/memory.h"
#include "core/random.h"
#include "core/threads.h"

#define ROWS_A_TASK 1024u

typedef struct grouping {
    const peri_view *rows;
    size_t row_bytes;
    uint64_t *hashes; /* [rows] */
    uint32_t *table;  /* [table_size] group, PERI_SLOT_NONE = empty */
    size_t table_size;
    uint32_t *group; /* [rows] */
    uint32_t *first; /* [rows] the lowest row of a group */
    size_t groups;
} grouping;

static peri_status hash_rows(void *ud, size_t task, size_t worker) {
    (void)worker;
    grouping *g = ud;
    size_t stop = peri_min_size((task + 1) * ROWS_A_TASK, g->rows->rows);
    for (size_t row = task * ROWS_A_TASK; row < stop; row++)
        g->hashes[row] = peri_random_bytes(peri_view_row(g->rows, row), g->row_bytes);
    return PERI_OK;
}

/* The group of a row, a new one when it equals none before. */
static uint32_t find_group(grouping *g, size_t row) {
    size_t at = g->hashes[row] & (g->table_size - 1);
    for (;; at = (at + 1) & (g->table_size - 1)) {
        uint32_t group = g->table[at];
        if (group == PERI_SLOT_NONE) break;
        size_t other = g->first[group];
        if (g->hashes[other] == g->hashes[row] &&
            memcmp(peri_view_row(g->rows, other), peri_view_row(g->rows, row), g->row_bytes) == 0)
            return group;
    }
    g->table[at] = (uint32_t)g->groups;
    g->first[g->groups] = (uint32_t)row;
    return (uint32_t)g->groups++;
}

/* Rows sorted by group: a counting sort keeps them ascending in each. A row of no group
 * (PERI_SLOT_NONE) is left out. */
static void sort_by_group(const uint32_t *group, size_t groups, peri_equal_rows *out) {
    memset(out->starts, 0, (out->rows + 1) * sizeof(uint32_t));
    for (size_t row = 0; row < out->rows; row++)
        if (group[row] != PERI_SLOT_NONE) out->starts[group[row] + 1]++;
    for (size_t i = 0; i < groups; i++) out->starts[i + 1] += out->starts[i];
    for (size_t row = 0; row < out->rows; row++)
        if (group[row] != PERI_SLOT_NONE) out->order[out->starts[group[row]]++] = (uint32_t)row;
    /* Every start has moved to its group's end: back by one group. */
    for (size_t i = groups; i > 0; i--) out->starts[i] = out->starts[i - 1];
    out->starts[0] = 0;
    out->groups = groups;
}

peri_status peri_equal_rows_find(peri_context *context, const peri_view *rows, size_t threads,
                                 const peri_control *control, peri_equal_rows *out) {
    size_t n = rows->rows;
    grouping g = { .rows = rows, .row_bytes = rows->cols * peri_dtype_bytes(rows->dtype) };
    *out = (peri_equal_rows){ .context = context, .rows = n };
    for (g.table_size = 64; g.table_size < 2 * n;) g.table_size *= 2;
    peri_status status;
    PERI_GO(peri_memory_acquire(context, n, sizeof *g.hashes, &g.hashes));
    PERI_GO(peri_memory_acquire(context, g.table_size, sizeof *g.table, &g.table));
    PERI_GO(peri_memory_acquire(context, n, sizeof *g.group, &g.group));
    PERI_GO(peri_memory_acquire(context, n, sizeof *g.first, &g.first));
    PERI_GO(peri_memory_acquire(context, n, sizeof *out->order, &out->order));
    PERI_GO(peri_memory_acquire(context, n + 1, sizeof *out->starts, &out->starts));
    memset(g.table, 0xFF, g.table_size * sizeof *g.table);
    peri_loop loop = { "equal_rows", threads, control };
    PERI_GO(peri_parallel(context, &loop, peri_ceil_div(n, ROWS_A_TASK), hash_rows, &g));
    for (size_t row = 0; row < n; row++) g.group[row] = find_group(&g, row);
    sort_by_group(g.group, g.groups, out);
done:
    peri_memory_release(context, g.first, n, sizeof *g.first);
    peri_memory_release(context, g.group, n, sizeof *g.group);
    peri_memory_release(context, g.table, g.table_size, sizeof *g.table);
    peri_memory_release(context, g.hashes, n, sizeof *g.hashes);
    if (status != PERI_OK) peri_equal_rows_reset(out);
    return status;
}

peri_status peri_equal_rows_permute(peri_equal_rows *equal, const int64_t *order) {
    uint32_t *rows = NULL, *starts = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire(equal->context, equal->rows, sizeof *rows, &rows));
    PERI_GO(peri_memory_acquire(equal->context, equal->rows + 1, sizeof *starts, &starts));
    starts[0] = 0;
    for (size_t i = 0; i < equal->groups; i++) {
        uint32_t first = equal->starts[order[i]], count = equal->starts[order[i] + 1] - first;
        memcpy(rows + starts[i], equal->order + first, count * sizeof *rows);
        starts[i + 1] = starts[i] + count;
    }
    uint32_t *old_rows = equal->order, *old_starts = equal->starts;
    equal->order = rows;
    equal->starts = starts;
    rows = old_rows;
    starts = old_starts;
done:
    peri_memory_release(equal->context, rows, equal->rows, sizeof *rows);
    peri_memory_release(equal->context, starts, equal->rows + 1, sizeof *starts);
    return status;
}

peri_status peri_equal_rows_keep(peri_equal_rows *equal, const uint64_t *bits) {
    uint32_t *group = NULL, *number = NULL, groups = 0;
    size_t before = equal->groups;
    peri_status status;
    PERI_GO(peri_memory_acquire(equal->context, equal->rows, sizeof *group, &group));
    PERI_GO(peri_memory_acquire(equal->context, before, sizeof *number, &number));
    memset(number, 0xFF, before * sizeof *number);
    for (uint32_t i = 0; i < before; i++)
        for (size_t j = equal->starts[i]; j < equal->starts[i + 1]; j++) group[equal->order[j]] = i;
    for (size_t row = 0; row < equal->rows; row++) {
        uint32_t *renamed = &number[group[row]];
        bool kept = peri_bitset_test(bits, row);
        if (kept && *renamed == PERI_SLOT_NONE) *renamed = groups++;
        group[row] = kept ? *renamed : PERI_SLOT_NONE;
    }
    sort_by_group(group, groups, equal);
done:
    peri_memory_release(equal->context, number, before, sizeof *number);
    peri_memory_release(equal->context, group, equal->rows, sizeof *group);
    return status;
}

void peri_equal_rows_reset(peri_equal_rows *equal) {
    if (equal->context == NULL) return;
    peri_memory_release(equal->context, equal->order, equal->rows, sizeof *equal->order);
    peri_memory_release(equal->context, equal->starts, equal->rows + 1, sizeof *equal->starts);
    *equal = (peri_equal_rows){ .context = NULL };
}
