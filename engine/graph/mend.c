/* mend.c: see mend.h.
 *
 * The candidates of a row come in a fixed order: its own links, then those of each row that left,
 * in the order of the links to them, until the list is full. Eight times the degree was enough for
 * half of the rows to leave at once. */
#include "graph/mend.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"

#define MEMBERS_JOINED 3u /* the first row and its two children hold all edges (families.c) */
#define LISTS 8u

typedef struct mending {
    const peri_linking *linking;
    const peri_old_links *old;
    const uint32_t *now;
    uint32_t *list; /* [columns] */
    size_t columns, count;
    bool left; /* some link led to a row that left */
} mending;

static void take_link(mending *m, uint32_t self, uint32_t slot, size_t most) {
    uint32_t row = slot < m->old->rows ? m->now[slot] : PERI_SLOT_NONE;
    if (row == PERI_SLOT_NONE) m->left = true;
    if (row == PERI_SLOT_NONE || row == self || m->count >= most ||
        peri_links_contain(m->list, m->count, row))
        return;
    m->list[m->count++] = row;
}

static void take_links(mending *m, uint32_t self, uint32_t slot, size_t most) {
    const uint32_t *links = slot < m->old->rows ? m->old->row(m->old->ud, slot) : NULL;
    for (size_t i = 0; links != NULL && i < m->old->degree && links[i] != PERI_SLOT_NONE; i++)
        take_link(m, self, links[i], most);
}

/* What the rows that left were linked to, seen from one row. */
static void take_beyond(mending *m, uint32_t self, uint32_t slot) {
    const uint32_t *links = slot < m->old->rows ? m->old->row(m->old->ud, slot) : NULL;
    for (size_t i = 0; links != NULL && i < m->old->degree && links[i] != PERI_SLOT_NONE; i++)
        if (links[i] < m->old->rows && m->now[links[i]] == PERI_SLOT_NONE)
            take_links(m, self, links[i], m->columns);
}

static peri_status mend_row(mending *m, peri_choices *choices, uint32_t row,
                            const uint32_t *members, size_t count) {
    size_t degree = m->linking->degree;
    m->count = 0;
    m->left = false;
    for (size_t i = 0; i < count; i++) take_links(m, row, members[i], degree);
    if (m->left)
        for (size_t i = 0; i < count; i++) take_beyond(m, row, members[i]);
    if (m->count == 0) return PERI_OK;
    uint32_t *to = m->left ? peri_choices_next(choices, row) : peri_linking_row(m->linking, row);
    memcpy(to, m->list, m->count * sizeof *m->list);
    return m->left ? peri_choices_run(choices, false) : PERI_OK;
}

peri_status peri_graph_mend(const peri_linking *linking, const peri_old_links *old, size_t count,
                            const uint32_t *groups, const uint32_t *members, const uint32_t *starts,
                            const uint32_t *now) {
    mending m = { .linking = linking, .old = old, .now = now, .columns = LISTS * linking->degree };
    peri_choices choices = { .linking = NULL };
    peri_status status;
    PERI_GO(peri_memory_acquire(linking->context, m.columns, sizeof *m.list, &m.list));
    PERI_GO(peri_choices_open(&choices, linking, m.columns, count));
    for (uint32_t row = 0; row < count; row++) {
        uint32_t group = groups == NULL ? row : groups[row];
        size_t joined = peri_min_size(MEMBERS_JOINED, starts[group + 1] - starts[group]);
        PERI_GO(mend_row(&m, &choices, row, members + starts[group], joined));
    }
    PERI_GO(peri_choices_run(&choices, true));
done:
    peri_choices_reset(&choices);
    peri_memory_release(linking->context, m.list, m.columns, sizeof *m.list);
    return status;
}
