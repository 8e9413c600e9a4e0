/* choose.c: see choose.h. */
#include "graph/choose.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"

#define ROWS_A_ROUND 4096u

peri_status peri_links_choose(const peri_linking *linking, const uint32_t *slots, size_t count,
                              const uint32_t *candidates, const float *distances, size_t columns,
                              uint32_t *links, float *link_distances, size_t degree) {
    peri_lane *lane = linking->lane;
    size_t items = count * columns, chosen = count * degree;
    peri_op_graph_link op = { .kind = PERI_OP_GRAPH_LINK,
                              .metric = linking->metric,
                              .rows = linking->rows,
                              .lengths = linking->lengths,
                              .alpha = linking->alpha,
                              .count = count,
                              .columns = columns,
                              .degree = degree };
    peri_lane_rewind(lane);
    PERI_TRY(peri_lane_upload(lane, slots, count, sizeof *slots, &op.slots));
    PERI_TRY(peri_lane_upload(lane, candidates, items, sizeof *candidates, &op.candidates));
    if (distances != NULL)
        PERI_TRY(peri_lane_upload(lane, distances, items, sizeof *distances, &op.distances));
    PERI_TRY(peri_lane_out(lane, links, chosen, sizeof *links, &op.links));
    if (link_distances != NULL)
        PERI_TRY(peri_lane_out(lane, link_distances, chosen, sizeof *link_distances,
                               &op.link_distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    PERI_TRY(peri_lane_fetch(lane, links, op.links, chosen, sizeof *links));
    if (link_distances != NULL)
        PERI_TRY(peri_lane_fetch(lane, link_distances, op.link_distances, chosen,
                                 sizeof *link_distances));
    return peri_lane_wait(lane, NULL);
}

peri_status peri_choices_open(peri_choices *c, const peri_linking *linking, size_t columns,
                              size_t most) {
    peri_context *context = linking->context;
    *c = (peri_choices){ .linking = linking, .columns = columns };
    c->room = peri_min_size(ROWS_A_ROUND, most);
    peri_status status;
    PERI_GO(peri_memory_acquire(context, c->room, sizeof *c->slots, &c->slots));
    PERI_GO(peri_memory_acquire(context, c->room * columns, sizeof *c->candidates, &c->candidates));
    PERI_GO(peri_memory_acquire(context, c->room * linking->degree, sizeof *c->links, &c->links));
done:
    if (status != PERI_OK) peri_choices_reset(c);
    return status;
}

void peri_choices_reset(peri_choices *c) {
    if (c->linking == NULL) return;
    peri_context *context = c->linking->context;
    peri_memory_release(context, c->slots, c->room, sizeof *c->slots);
    peri_memory_release(context, c->candidates, c->room * c->columns, sizeof *c->candidates);
    peri_memory_release(context, c->links, c->room * c->linking->degree, sizeof *c->links);
    *c = (peri_choices){ .linking = NULL };
}

uint32_t *peri_choices_next(peri_choices *c, uint32_t slot) {
    PERI_ASSERT(c->count < c->room);
    uint32_t *list = c->candidates + c->count * c->columns;
    memset(list, 0xFF, c->columns * sizeof *list);
    c->slots[c->count++] = slot;
    return list;
}

peri_status peri_choices_run(peri_choices *c, bool end) {
    size_t degree = c->linking->degree;
    if (c->count == 0 || (!end && c->count < c->room)) return PERI_OK;
    PERI_TRY(peri_links_choose(c->linking, c->slots, c->count, c->candidates, NULL, c->columns,
                               c->links, NULL, degree));
    for (size_t i = 0; i < c->count; i++)
        memcpy(peri_linking_row(c->linking, c->slots[i]), c->links + i * degree,
               degree * sizeof *c->links);
    c->count = 0;
    return PERI_OK;
}
