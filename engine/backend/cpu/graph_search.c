/* graph_search.c: the best-first walk, one query a task.
 *
 * What a step costs is the distances, and of those the waiting for memory: the links of a row
 * that are new to the walk are collected first, then handed to the distance kernel at once,
 * which prefetches ahead; the row of links that will be opened next is prefetched while they are
 * worked on. `taken` is a bitset of all rows (8 KB for 60 000: it stays in the first cache) that
 * is cleaned after a walk by the list of what was set, or whole when that is cheaper.
 *
 * Every worker has its own part of the scratch; a walk writes its own row of the results only,
 * so the answer does not depend on the number of workers. Source: perigee_backend.h, which
 * defines the walk; Malkov & Yashunin 2018, algorithms 2 and 5, for the descent. */
#include <math.h>
#include <string.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/near_list.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/bitset.h"
#include "core/matrix.h"
#include "core/random.h"
#include "core/topk.h"

#define BATCH 128u /* links handed to the distance kernel at once */

/* A worker's scratch. */
typedef struct worker {
    peri_near_list list; /* L; marked = closed */
    uint32_t *opened;    /* [search_width] */
    uint64_t *taken;     /* [words] */
    uint32_t *touched;   /* [words] what was set in taken, as long as it fits */
    uint32_t *slots;     /* [BATCH] */
    float *distances;    /* [BATCH] */
    uint64_t *spare;     /* [BATCH] keys */
    uint8_t *clean;      /* [1] taken was cleared since the operation began */
} worker;

typedef struct walk {
    const peri_op_graph_search *op;
    const peri_distances *measure;
    worker *own;
    const void *query;
    float query_length;
    const uint64_t *passing; /* bits of the query's filter; NULL = all */
    peri_topk top;           /* used with a filter only: without, L begins with the results */
    size_t first_open;       /* nothing before it in L is open */
    size_t touched_count;
    uint32_t visited;
} walk;

typedef struct search {
    const peri_op_graph_search *op;
    peri_distances measure;
    char *scratch;
    size_t worker_bytes;
} search;

/* Lays a worker's parts out over `base`; returns their size. */
static size_t lay_out(const peri_op_graph_search *op, void *base, worker *w) {
    size_t at = 0, words = peri_bitset_words(op->rows.rows);
    w->clean = peri_scratch_cut(&at, base, 1);
    w->list.capacity = op->itopk_size;
    w->list.keys = peri_scratch_cut(&at, base, op->itopk_size * sizeof(uint64_t));
    w->opened = peri_scratch_cut(&at, base, op->search_width * sizeof(uint32_t));
    w->taken = peri_scratch_cut(&at, base, words * sizeof(uint64_t));
    w->touched = peri_scratch_cut(&at, base, words * sizeof(uint32_t));
    w->slots = peri_scratch_cut(&at, base, BATCH * sizeof(uint32_t));
    w->distances = peri_scratch_cut(&at, base, BATCH * sizeof(float));
    w->spare = peri_scratch_cut(&at, base, BATCH * sizeof(uint64_t));
    return at;
}

size_t peri_cpu_graph_search_scratch(const peri_device *device, const peri_op_graph_search *op) {
    worker w;
    return peri_cpu_workers_max(device) * lay_out(op, NULL, &w);
}

/* ---- offering ----------------------------------------------------------------------------- */

/* Slots in own->slots, all new, with their distances in own->distances. */
static void offer_batch(walk *w, size_t count) {
    worker *own = w->own;
    size_t words = peri_bitset_words(w->op->rows.rows);
    if (w->touched_count + count <= words)
        memcpy(own->touched + w->touched_count, own->slots, count * sizeof(uint32_t));
    w->touched_count += count;
    if (w->passing != NULL)
        for (size_t i = 0; i < count; i++)
            if (peri_bitset_test(w->passing, own->slots[i]))
                peri_topk_offer(&w->top, own->distances[i], (int64_t)own->slots[i]);
    size_t lowest = peri_near_offer(&own->list, own->distances, own->slots, count, own->spare);
    if (lowest < w->first_open) w->first_open = lowest;
}

static void measure_and_offer(walk *w, size_t count) {
    if (count == 0) return;
    peri_distances_slots(w->measure, w->query, w->query_length, w->own->slots, count,
                         w->own->distances);
    w->visited += (uint32_t)count;
    offer_batch(w, count);
}

/* Appends the slot to the batch unless it was taken before, without a branch: it is a toss. */
static inline size_t append_new(uint64_t *taken, uint32_t *slots, size_t count, uint32_t slot) {
    uint64_t word = taken[slot / 64];
    slots[count] = slot;
    taken[slot / 64] = word | UINT64_C(1) << (slot % 64);
    return count + (~word >> (slot % 64) & 1);
}

static void offer_links(walk *w, const uint32_t *links, size_t degree) {
    size_t i = 0;
    uint64_t *taken = w->own->taken;
    uint32_t *slots = w->own->slots;
    while (i < degree) {
        size_t stop = peri_min_size(degree, i + BATCH), count = 0;
        for (; i < stop && links[i] != PERI_SLOT_NONE; i++)
            count = append_new(taken, slots, count, links[i]);
        measure_and_offer(w, count);
        if (i < stop) return; /* a short row */
    }
}

/* ---- the walk ----------------------------------------------------------------------------- */

/* The nearest of the row's links when it is nearer than (nearest, at). */
static bool step_down(walk *w, const uint32_t *links, uint32_t *at, float *nearest) {
    size_t degree = w->op->hierarchy.degree;
    bool moved = false;
    for (size_t first = 0; first < degree; first += BATCH) {
        size_t count = 0, room = peri_min_size(degree - first, BATCH);
        while (count < room && links[first + count] != PERI_SLOT_NONE) count++;
        if (count == 0) break;
        peri_distances_slots(w->measure, w->query, w->query_length, links + first, count,
                             w->own->distances);
        w->visited += (uint32_t)count;
        for (size_t i = 0; i < count; i++) {
            float d = w->own->distances[i];
            if (!peri_nearer(d, links[first + i], *nearest, *at)) continue;
            *nearest = d;
            *at = links[first + i];
            moved = true;
        }
    }
    return moved;
}

static void descend(walk *w) {
    const peri_hierarchy *h = &w->op->hierarchy;
    uint32_t at = h->entry;
    if (at == PERI_SLOT_NONE) return;
    float nearest;
    peri_distances_slots(w->measure, w->query, w->query_length, &at, 1, &nearest);
    w->visited++;
    for (uint32_t level = h->level_max; level > 0; level--)
        while (step_down(w, h->links + ((size_t)h->first[at] + level - 1) * h->degree, &at,
                         &nearest)) {}
    size_t count = append_new(w->own->taken, w->own->slots, 0, at);
    w->own->distances[0] = nearest;
    offer_batch(w, count);
}

static void plant_seeds(walk *w) {
    const peri_op_graph_search *op = w->op;
    size_t n = op->rows.rows, seeds = peri_min_size(op->seeds, n), count = 0;
    uint64_t key = 0;
    if (n > seeds)
        key = op->rand_xor_mask ^
              peri_random_bytes(w->query, op->queries.cols * peri_dtype_bytes(op->queries.dtype));
    for (size_t i = 0; i < seeds; i++) {
        uint32_t slot = n > seeds ? (uint32_t)(peri_random_mix(key, i) % n) : (uint32_t)i;
        count = append_new(w->own->taken, w->own->slots, count, slot);
        if (count < BATCH) continue;
        measure_and_offer(w, count);
        count = 0;
    }
    measure_and_offer(w, count);
}

static void prefetch_row(const uint32_t *links, size_t degree) {
    const char *at = (const char *)links;
    size_t bytes = peri_min_size(degree * sizeof(uint32_t), 512);
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
}

static bool open_and_offer(walk *w) {
    const peri_op_graph_search *op = w->op;
    peri_near_list *list = &w->own->list;
    size_t opened = 0, i = w->first_open;
    for (; i < list->count && opened < op->search_width; i++)
        if ((list->keys[i] & PERI_NEAR_MARK) == 0) {
            w->own->opened[opened++] = peri_near_slot(list->keys[i]);
            list->keys[i] |= PERI_NEAR_MARK;
        }
    while (i < list->count && (list->keys[i] & PERI_NEAR_MARK) != 0) i++;
    w->first_open = i;
    if (i < list->count)
        prefetch_row(op->graph + (size_t)peri_near_slot(list->keys[i]) * op->degree, op->degree);
    for (size_t j = 0; j < opened; j++)
        offer_links(w, op->graph + (size_t)w->own->opened[j] * op->degree, op->degree);
    return opened > 0;
}

static void clean_taken(walk *w) {
    size_t words = peri_bitset_words(w->op->rows.rows);
    worker *own = w->own;
    if (w->touched_count <= words)
        for (size_t i = 0; i < w->touched_count; i++) own->taken[own->touched[i] / 64] = 0;
    else
        memset(own->taken, 0, words * sizeof(uint64_t));
}

/* The distance of a key; that of a zero has lost its sign. */
static float distance_of(const walk *w, uint64_t key) {
    float distance = peri_near_distance(key);
    uint32_t slot = peri_near_slot(key);
    if (distance == 0)
        peri_distances_slots(w->measure, w->query, w->query_length, &slot, 1, &distance);
    return distance;
}

static void write_results(walk *w, size_t query) {
    const peri_op_graph_search *op = w->op;
    const peri_near_list *list = &w->own->list;
    if (op->visited != NULL) op->visited[query] = w->visited;
    if (w->passing != NULL) {
        peri_topk_finish(&w->top);
        return;
    }
    int64_t *ids = op->ids + query * op->k;
    float *distances = op->distances + query * op->k;
    for (size_t i = 0; i < op->k; i++) {
        ids[i] = i < list->count ? (int64_t)peri_near_slot(list->keys[i]) : PERI_ID_NONE;
        distances[i] = i < list->count ? distance_of(w, list->keys[i]) : INFINITY;
    }
}

static peri_status search_query(void *ud, size_t query, size_t worker_number) {
    search *run = ud;
    const peri_op_graph_search *op = run->op;
    const peri_filter_view *filter = &op->filter;
    worker own;
    lay_out(op, run->scratch + worker_number * run->worker_bytes, &own);
    own.list.count = 0;
    if (!*own.clean) {
        memset(own.taken, 0, peri_bitset_words(op->rows.rows) * sizeof(uint64_t));
        *own.clean = 1;
    }
    walk w = { .op = op, .measure = &run->measure, .own = &own };
    w.query = peri_view_row(&op->queries, query);
    w.query_length = peri_distances_query_length(&run->measure, w.query);
    if (filter->count > 0)
        w.passing = filter->bits[filter->which == NULL ? 0 : filter->which[query]];
    peri_topk_init(&w.top, op->distances + query * op->k, op->ids + query * op->k, op->k);
    descend(&w);
    offer_links(&w, op->landmarks, op->landmark_count);
    plant_seeds(&w);
    size_t limit = op->max_iterations == 0 ? SIZE_MAX
                                           : peri_max_size(op->max_iterations, op->min_iterations);
    for (size_t i = 0; i < limit && open_and_offer(&w); i++) {}
    clean_taken(&w);
    write_results(&w, query);
    return PERI_OK;
}

peri_status peri_cpu_graph_search(peri_stream *stream, const peri_op_graph_search *op,
                                  void *scratch, size_t scratch_bytes) {
    (void)scratch_bytes;
    search run = { .op = op, .scratch = scratch };
    worker w;
    run.worker_bytes = lay_out(op, NULL, &w);
    size_t workers = peri_cpu_workers(stream);
    for (size_t i = 0; i < workers; i++) {
        lay_out(op, run.scratch + i * run.worker_bytes, &w);
        *w.clean = 0;
    }
    peri_distances_init(&run.measure, op->metric, &op->rows, op->lengths);
    peri_loop loop = { .stage = "search", .threads = workers, .control = stream->control };
    return peri_parallel(stream->device->context, &loop, op->queries.rows, search_query, &run);
}
