/* families.c: the links of equal rows.
 *
 * Equal rows would cut pieces off: a row with more twins than its degree links to nothing else.
 * So a graph is made of one row a group, the lowest, and the others are attached after it as a
 * binary tree under that row: member i links to members 2i + 1 and 2i + 2 and to its parent, and
 * has the first row's edges in the rest of its places. The two edges that the first row gives up
 * are put first in its two children, so what they reached is reached still. With fewer than 4
 * links a row the tree is a chain. */
#include "core/checked.h"
#include "core/matrix.h"
#include "graph/equal_rows.h"

/* The tree of one group's members. */
typedef struct family {
    const uint32_t *members; /* slots, the first row first */
    size_t count, fanout;
    const uint32_t *edges; /* of the first row, as slots */
    size_t edge_count, degree;
} family;

/* Children of member i: how many, and the first. */
static size_t children_of(const family *f, size_t i, size_t *first) {
    *first = f->fanout * i + 1;
    return *first >= f->count ? 0 : peri_min_size(f->fanout, f->count - *first);
}

static size_t append_edge(uint32_t *row, size_t count, size_t degree, uint32_t edge) {
    if (count == degree) return count;
    for (size_t i = 0; i < count; i++)
        if (row[i] == edge) return count;
    row[count] = edge;
    return count + 1;
}

/* Member i's row: children, parent, the edge it took over, then the first row's. */
static void write_member(const family *f, size_t i, uint32_t *row) {
    size_t first, children = children_of(f, i, &first), count = 0;
    size_t kept = peri_min_size(f->edge_count, f->degree - peri_min_size(f->fanout, f->count - 1));
    if (i == 0) {
        for (size_t j = 0; j < kept; j++) row[count++] = f->edges[j];
        for (size_t j = 0; j < children; j++) row[count++] = f->members[first + j];
    } else {
        for (size_t j = 0; j < children; j++) row[count++] = f->members[first + j];
        if (f->degree >= 3) row[count++] = f->members[(i - 1) / f->fanout];
        if (i <= f->fanout && kept + i - 1 < f->edge_count)
            count = append_edge(row, count, f->degree, f->edges[kept + i - 1]);
        for (size_t j = 0; j < f->edge_count; j++)
            count = append_edge(row, count, f->degree, f->edges[j]);
    }
    while (count < f->degree) row[count++] = PERI_SLOT_NONE;
}

void peri_equal_rows_spread(const peri_equal_rows *equal, const uint32_t *links, size_t degree,
                            const peri_view *out, uint32_t *spare) {
    for (size_t group = 0; group < equal->groups; group++) {
        const uint32_t *members = equal->order + equal->starts[group];
        const uint32_t *from = links + group * degree;
        family f = { .members = members, .edges = spare, .degree = out->cols };
        f.count = equal->starts[group + 1] - equal->starts[group];
        f.fanout = f.degree >= 4 ? 2 : 1;
        for (size_t i = 0; i < degree && from[i] != PERI_SLOT_NONE; i++)
            spare[f.edge_count++] = equal->order[equal->starts[from[i]]];
        for (size_t i = 0; i < f.count; i++) write_member(&f, i, peri_view_row(out, members[i]));
    }
}
