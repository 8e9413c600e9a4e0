/* choose.h: links of rows chosen among candidates (peri_op_graph_link) for a graph on the host. */
#ifndef PERI_GRAPH_CHOOSE_H
#define PERI_GRAPH_CHOOSE_H

#include "core/lane.h"

/* A graph on the host that is being linked; the rows are at the lane's place. */
typedef struct peri_linking {
    peri_context *context;
    peri_lane *lane; /* a build's own: it is rewound between operations */
    peri_metric metric;
    peri_view rows;       /* [n, d] */
    const float *lengths; /* [n] at the place; see peri_op_graph_link */
    float alpha;
    uint32_t *graph; /* host [n, degree] PERI_SLOT_NONE ends a short row */
    size_t degree;
} peri_linking;

static inline uint32_t *peri_linking_row(const peri_linking *linking, size_t row) {
    return linking->graph + row * linking->degree;
}

/* One run of the operation on host arrays. `distances` and `link_distances` may be NULL. */
peri_status peri_links_choose(const peri_linking *linking, const uint32_t *slots, size_t count,
                              const uint32_t *candidates, const float *distances, size_t columns,
                              uint32_t *links, float *link_distances, size_t degree);

/* Rows whose links are to be chosen anew, gathered until a round is full: bounds the memory of
 * their candidates. */
typedef struct peri_choices {
    const peri_linking *linking;
    uint32_t *slots;      /* [room] */
    uint32_t *candidates; /* [room, columns] */
    uint32_t *links;      /* [room, degree] */
    size_t columns, room, count;
} peri_choices;

/* At most `most` rows will come. */
peri_status peri_choices_open(peri_choices *choices, const peri_linking *linking, size_t columns,
                              size_t most);
/* The list of the next row, `columns` of PERI_SLOT_NONE, for the caller to fill. */
uint32_t *peri_choices_next(peri_choices *choices, uint32_t slot);
/* Runs a full round (or any, at the end): rows of the graph become what was chosen. */
peri_status peri_choices_run(peri_choices *choices, bool end);
void peri_choices_reset(peri_choices *choices);

static inline size_t peri_links_length(const uint32_t *links, size_t degree) {
    size_t count = 0;
    while (count < degree && links[count] != PERI_SLOT_NONE) count++;
    return count;
}

/* Without an early end, so that it is a few vector instructions. */
static inline bool peri_links_contain(const uint32_t *links, size_t count, uint32_t slot) {
    uint32_t found = 0;
    for (size_t i = 0; i < count; i++) found |= links[i] == slot;
    return found != 0;
}

#endif
