/* graph_link.c: links chosen among candidates, step by step as perigee_backend.h defines them. */
#include <math.h>
#include <string.h>

#include "backend/ref/ops.h"
#include "core/distance.h"
#include "core/half.h"
#include "core/matrix.h"
#include "core/topk.h"

typedef struct entry {
    float distance; /* v(t, slot) */
    uint32_t slot;
} entry;

typedef struct linking {
    const peri_op_graph_link *op;
    entry *list;  /* [columns] candidates, then the links kept */
    float *query; /* [d] a row of f16 as f32 */
} linking;

size_t peri_ref_graph_link_scratch(const peri_device *device, const peri_op_graph_link *op) {
    (void)device;
    return op->columns * sizeof(entry) + op->rows.cols * sizeof(float);
}

static float value(const linking *run, uint32_t a, uint32_t b) {
    const peri_op_graph_link *op = run->op;
    const void *query = peri_view_row(&op->rows, a);
    bool cosine = op->metric == PERI_COSINE;
    if (op->rows.dtype == PERI_F16) {
        for (size_t j = 0; j < op->rows.cols; j++)
            run->query[j] = peri_half_to_float(((const uint16_t *)query)[j]);
        query = run->query;
    }
    float v = peri_canonical_distance(op->metric, op->rows.dtype, query,
                                      peri_view_row(&op->rows, b), (uint32_t)op->rows.cols,
                                      cosine ? op->lengths[a] : 0, cosine ? op->lengths[b] : 0);
    return isnan(v) ? INFINITY : v;
}

/* The candidates of output row i, sorted, each once. */
static size_t sort_candidates(linking *run, size_t i) {
    const peri_op_graph_link *op = run->op;
    size_t count = 0;
    for (size_t j = 0; j < op->columns; j++) {
        uint32_t c = op->candidates[i * op->columns + j];
        if (c == PERI_SLOT_NONE || c == op->slots[i]) continue;
        float v = op->distances != NULL ? op->distances[i * op->columns + j]
                                        : value(run, op->slots[i], c);
        bool seen = false;
        for (size_t x = 0; x < count; x++) seen = seen || run->list[x].slot == c;
        if (seen) continue;
        size_t at = count++;
        for (; at > 0 && peri_nearer(v, c, run->list[at - 1].distance, run->list[at - 1].slot);
             at--)
            run->list[at] = run->list[at - 1];
        run->list[at] = (entry){ v, c };
    }
    return count;
}

static float limit_of(const linking *run, uint32_t t, const entry *c) {
    const peri_op_graph_link *op = run->op;
    if (op->alpha == 1.0f) return c->distance;
    if (op->metric != PERI_INNER_PRODUCT) return c->distance / op->alpha;
    float gap = fmaf(op->lengths[t], op->lengths[c->slot], c->distance);
    return fmaf(1.0f / op->alpha - 1.0f, gap, c->distance);
}

static bool dropped(const linking *run, uint32_t t, const entry *c, size_t kept) {
    float limit = limit_of(run, t, c);
    for (size_t i = 0; i < kept; i++) {
        float v = value(run, run->list[i].slot, c->slot);
        if (v < limit || (v == limit && v <= run->list[i].distance)) return true;
    }
    return false;
}

peri_status peri_ref_graph_link(peri_stream *stream, const peri_op_graph_link *op, void *scratch,
                                size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    linking run = { .op = op, .list = scratch };
    run.query = (float *)(void *)(run.list + op->columns);
    for (size_t i = 0; i < op->count; i++) {
        size_t count = sort_candidates(&run, i), kept = 0;
        uint32_t *links = op->links + i * op->degree;
        for (size_t j = 0; j < count && kept < op->degree; j++)
            if (!dropped(&run, op->slots[i], &run.list[j], kept)) run.list[kept++] = run.list[j];
        for (size_t j = 0; j < op->degree; j++) {
            links[j] = j < kept ? run.list[j].slot : PERI_SLOT_NONE;
            if (op->link_distances != NULL)
                op->link_distances[i * op->degree + j] = j < kept ? run.list[j].distance + 0.0f
                                                                  : INFINITY;
        }
    }
    return PERI_OK;
}
