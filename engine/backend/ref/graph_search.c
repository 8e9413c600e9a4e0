/* graph_search.c: the best-first walk, step by step as perigee_backend.h defines it. */
#include <math.h>
#include <string.h>

#include "backend/ref/ops.h"
#include "core/bitset.h"
#include "core/checked.h"
#include "core/code.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/random.h"
#include "core/topk.h"

typedef struct entry {
    float distance;
    uint32_t slot;
    bool open;
} entry;

/* One query's walk. */
typedef struct walk {
    const peri_op_graph_search *op;
    const void *query;
    float query_length;
    const uint64_t *passing; /* bits of the query's filter; NULL = all */
    entry *list;             /* [itopk_size] L */
    size_t count;
    uint32_t *opened; /* [search_width] */
    uint8_t *taken;   /* [n] */
    uint8_t *code;    /* the encoded query */
    entry *found;     /* [rerank] with codes: the best of the rows that pass */
    size_t found_count;
    peri_topk top;
    uint32_t visited;
} walk;

size_t peri_ref_graph_search_scratch(const peri_device *device, const peri_op_graph_search *op) {
    (void)device;
    return peri_round_up(peri_code_query_bytes(&op->codes), 64) +
           (op->itopk_size + op->rerank) * sizeof(entry) + op->search_width * sizeof(uint32_t) +
           op->rows.rows;
}

static bool coded(const walk *w) { return w->op->codes.rows.data != NULL; }

static float canonical_to(walk *w, uint32_t slot) {
    const peri_op_graph_search *op = w->op;
    w->visited++;
    float d = peri_canonical_distance(op->metric, op->rows.dtype, w->query,
                                      peri_view_row(&op->rows, slot), (uint32_t)op->rows.cols,
                                      w->query_length,
                                      op->metric == PERI_COSINE ? op->lengths[slot] : 0.0f);
    return isnan(d) ? INFINITY : d;
}

/* What the walk goes by. */
static float distance_to(walk *w, uint32_t slot) {
    const peri_codes_view *codes = &w->op->codes;
    if (!coded(w)) return canonical_to(w, slot);
    w->visited++;
    return peri_code_value_of(codes, w->op->metric, w->code, peri_view_row(&codes->rows, slot));
}

/* Puts (d, slot) into a sorted list. */
static void insert(entry *list, size_t *count, size_t capacity, float d, uint32_t slot) {
    size_t at = *count;
    while (at > 0 && peri_nearer(d, slot, list[at - 1].distance, list[at - 1].slot)) at--;
    if (at == capacity) return;
    size_t moved = peri_min_size(*count, capacity - 1) - at;
    memmove(list + at + 1, list + at, moved * sizeof(entry));
    list[at] = (entry){ d, slot, true };
    if (*count < capacity) (*count)++;
}

static void offer_at(walk *w, uint32_t slot, float d) {
    w->taken[slot] = 1;
    insert(w->list, &w->count, w->op->itopk_size, d, slot);
    if (w->passing != NULL && !peri_bitset_test(w->passing, slot)) return;
    if (coded(w))
        insert(w->found, &w->found_count, w->op->rerank, d, slot);
    else
        peri_topk_offer(&w->top, d, (int64_t)slot);
}

static void offer(walk *w, uint32_t slot) {
    if (!w->taken[slot]) offer_at(w, slot, distance_to(w, slot));
}

static void descend(walk *w) {
    const peri_hierarchy *h = &w->op->hierarchy;
    if (h->entry == PERI_SLOT_NONE) return;
    uint32_t at = h->entry;
    float nearest = distance_to(w, at);
    for (uint32_t level = h->level_max; level > 0; level--) {
        uint32_t before;
        do {
            before = at;
            const uint32_t *links = h->links + ((size_t)h->first[at] + level - 1) * h->degree;
            for (size_t i = 0; i < h->degree && links[i] != PERI_SLOT_NONE; i++) {
                float d = distance_to(w, links[i]);
                if (!peri_nearer(d, links[i], nearest, at)) continue;
                nearest = d;
                at = links[i];
            }
        } while (at != before);
    }
    offer_at(w, at, nearest);
}

static void plant_seeds(walk *w) {
    const peri_op_graph_search *op = w->op;
    size_t n = op->rows.rows;
    for (size_t i = 0; i < op->landmark_count; i++) offer(w, op->landmarks[i]);
    if (n <= op->seeds) {
        for (size_t i = 0; i < n; i++) offer(w, (uint32_t)i);
        return;
    }
    uint64_t hash = peri_random_bytes(w->query,
                                      op->queries.cols * peri_dtype_bytes(op->queries.dtype));
    for (size_t i = 0; i < op->seeds; i++)
        offer(w, (uint32_t)(peri_random_mix(op->rand_xor_mask ^ hash, i) % n));
}

/* One round; false when nothing was open. */
static bool open_and_offer(walk *w) {
    const peri_op_graph_search *op = w->op;
    size_t opened = 0;
    for (size_t i = 0; i < w->count && opened < op->search_width; i++)
        if (w->list[i].open) {
            w->list[i].open = false;
            w->opened[opened++] = w->list[i].slot;
        }
    for (size_t i = 0; i < opened; i++) {
        const uint32_t *links = op->graph + (size_t)w->opened[i] * op->degree;
        for (size_t j = 0; j < op->degree && links[j] != PERI_SLOT_NONE; j++) {
            w->visited += op->codes.bits != 0 && w->taken[links[j]];
            offer(w, links[j]);
        }
    }
    return opened > 0;
}

/* Without a filter `found` is the head of L: all that was offered passes. */
static void rerank(walk *w) {
    for (size_t i = 0; i < w->found_count; i++)
        peri_topk_offer(&w->top, canonical_to(w, w->found[i].slot), (int64_t)w->found[i].slot);
}

static const uint64_t *passing_bits(const peri_filter_view *filter, size_t query) {
    if (filter->count == 0) return NULL;
    return filter->bits[filter->which == NULL ? 0 : filter->which[query]];
}

peri_status peri_ref_graph_search(peri_stream *stream, const peri_op_graph_search *op,
                                  void *scratch, size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    walk w = { .op = op, .code = scratch };
    w.list = (entry *)(void *)(w.code + peri_round_up(peri_code_query_bytes(&op->codes), 64));
    w.found = w.list + op->itopk_size;
    w.opened = (uint32_t *)(void *)(w.found + op->rerank);
    w.taken = (uint8_t *)(w.opened + op->search_width);
    size_t limit = op->max_iterations == 0 ? SIZE_MAX
                                           : peri_max_size(op->max_iterations, op->min_iterations);
    for (size_t q = 0; q < op->queries.rows; q++) {
        w.query = peri_view_row(&op->queries, q);
        w.query_length = op->metric == PERI_COSINE
                             ? peri_canonical_length(op->queries.dtype, w.query,
                                                     (uint32_t)op->queries.cols)
                             : 0.0f;
        w.passing = passing_bits(&op->filter, q);
        w.count = w.found_count = 0;
        w.visited = 0;
        if (coded(&w))
            peri_code_query(&op->codes, op->metric, op->queries.dtype, w.query, op->rows.cols,
                            w.code);
        memset(w.taken, 0, op->rows.rows);
        peri_topk_init(&w.top, op->distances + q * op->k, op->ids + q * op->k, op->k);
        descend(&w);
        plant_seeds(&w);
        for (size_t i = 0; i < limit && open_and_offer(&w); i++) {}
        rerank(&w);
        peri_topk_finish(&w.top);
        if (op->visited != NULL) op->visited[q] = w.visited;
    }
    return PERI_OK;
}
