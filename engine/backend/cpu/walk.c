/* walk.c: one walk. See walk.h; perigee_backend.h defines what it finds.
 *
 * `taken` is a bitset of all rows (8 KB for 60 000: it stays in the first cache) that is cleaned
 * after a walk by the log of what was set, or whole when that is cheaper. Batches are gathered at
 * the end of the log, so that it is written as a walk goes. Source: Malkov &
 * Yashunin 2018, algorithms 2 and 5, for the descent. */
#include "backend/cpu/walk.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/workers.h"
#include "core/bitset.h"
#include "core/code.h"
#include "core/matrix.h"
#include "core/random.h"
#include "core/topk.h"

#define PREFETCH_LINES 8u /* of a row, at most: the hardware follows a long row by itself */
#define BLOCK_LINES 64u   /* of the codes beside a row's links */
#define LINE 64u
#define CLEARED 64u /* words at once */
/* Words of `taken` that are cleaned in a run as fast as one that the log names. */
#define WORDS_A_SLOT 16u

static size_t asked_bytes(const peri_distances *of) {
    return peri_min_size(of->dim * peri_dtype_bytes(of->dtype), LINE * PREFETCH_LINES);
}

/* Rows whose bits are cleaned one by one, at most, and room for a batch behind them. */
static size_t log_room(const peri_op_graph_search *op) {
    return peri_bitset_words(op->rows.rows) / WORDS_A_SLOT + 2 * PERI_WALK_BATCH;
}

/* Of `walk` only the place of the rows is used then. */
static void init_packed(peri_walk_plan *plan, const peri_op_graph_search *op) {
    const peri_view *rows = &op->codes.rows;
    plan->packed = peri_packed_codes_of(&op->codes, op->degree);
    plan->kernels = peri_packed_kernels_chosen();
    plan->walk = (peri_distances){ .dtype = PERI_U8,
                                   .dim = (uint32_t)rows->cols,
                                   .rows = rows->data,
                                   .stride = rows->stride_bytes };
}

void peri_walk_plan_init(peri_walk_plan *plan, const peri_op_graph_search *op) {
    *plan = (peri_walk_plan){ .op = op,
                              .offer = peri_near_offer_chosen(),
                              .links = peri_walk_links_chosen(),
                              .coded = op->codes.rows.data != NULL };
    peri_distances_init(&plan->exact, op->metric, &op->rows, op->lengths);
    plan->walk = plan->exact;
    if (plan->coded && op->codes.bits == 0)
        peri_distances_codes(&plan->walk, op->metric, &op->codes);
    if (plan->coded && op->codes.bits != 0) init_packed(plan, op);
    plan->walk_bytes = asked_bytes(&plan->walk);
    plan->exact_bytes = asked_bytes(&plan->exact);
    plan->log_room = log_room(op);
    plan->limit = op->max_iterations == 0 ? SIZE_MAX
                                          : peri_max_size(op->max_iterations, op->min_iterations);
}

size_t peri_walk_lay_out(const peri_walk_plan *plan, void *base, peri_walk *w) {
    const peri_op_graph_search *op = plan->op;
    size_t at = 0, words = peri_bitset_words(op->rows.rows);
    w->plan = plan;
    w->list.capacity = op->itopk_size;
    w->passing.capacity = op->filter.count == 0 ? 0 : plan->coded ? op->rerank : op->k;
    w->best.capacity = plan->coded ? op->k : 0;
    w->list.keys = peri_scratch_cut(&at, base, op->itopk_size * sizeof(uint64_t));
    w->passing.keys = peri_scratch_cut(&at, base, w->passing.capacity * sizeof(uint64_t));
    w->best.keys = peri_scratch_cut(&at, base, w->best.capacity * sizeof(uint64_t));
    w->opened = peri_scratch_cut(&at, base, op->search_width * sizeof(uint32_t));
    w->taken = peri_scratch_cut(&at, base, words * sizeof(uint64_t));
    w->log = peri_scratch_cut(&at, base, log_room(op) * sizeof(uint32_t));
    w->passed = peri_scratch_cut(&at, base, PERI_WALK_BATCH * sizeof(uint32_t));
    w->distances = peri_scratch_cut(&at, base, PERI_WALK_BATCH * sizeof(float));
    w->spare = peri_scratch_cut(&at, base, (PERI_WALK_BATCH + PERI_NEAR_BLOCK) * sizeof(uint64_t));
    w->code = peri_scratch_cut(&at, base, peri_code_query_bytes(&op->codes));
    return at;
}

/* In pieces for which no C library's memset takes `rep stosb`, which may send the lines to farther
 * caches: it cost a third of a short walk. */
static void clear_words(uint64_t *words, size_t count) {
    size_t i = 0;
    for (; i + CLEARED <= count; i += CLEARED) memset(words + i, 0, CLEARED * sizeof *words);
    memset(words + i, 0, (count - i) * sizeof *words);
}

void peri_walk_reset(peri_walk *w) {
    w->slots = w->log;
    w->log_lost = false;
}

void peri_walk_clean(peri_walk *w) {
    clear_words(w->taken, peri_bitset_words(w->plan->op->rows.rows));
    peri_walk_reset(w);
}

/* ---- asking for memory -------------------------------------------------------------------- */

/* Inlined by force: for GCC a function that only prefetches does nothing, and its calls go. */
#define INLINE static inline __attribute__((always_inline))

INLINE void prefetch(const void *at, size_t bytes) {
    const char *line = at, *stop = line + bytes;
    for (; line < stop; line += LINE) __builtin_prefetch(line);
}

INLINE void prefetch_rows(const peri_distances *of, size_t bytes, const uint32_t *slots,
                          size_t count) {
    size_t stride = of->stride;
    const char *rows = of->rows;
    if (bytes > LINE && bytes <= 2 * LINE) { /* codes and bytes, mostly: without an inner loop */
        for (size_t i = 0; i < count; i++) {
            const char *row = rows + slots[i] * stride;
            __builtin_prefetch(row);
            __builtin_prefetch(row + LINE);
        }
        return;
    }
    for (size_t i = 0; i < count; i++) prefetch(rows + slots[i] * stride, bytes);
}

INLINE void prefetch_links(const uint32_t *links, size_t degree) {
    prefetch(links, peri_min_size(degree * sizeof *links, LINE * PREFETCH_LINES));
}

static void read_links(peri_walk *w, const uint32_t *links, size_t degree) {
    w->links = links;
    w->links_left = degree;
    prefetch_links(links, degree);
}

/* ---- which links come next ----------------------------------------------------------------- */

static void enter_graph(peri_walk *w) {
    const peri_op_graph_search *op = w->plan->op;
    w->stage = PERI_WALK_LANDMARKS;
    read_links(w, op->landmarks, op->landmark_count);
}

static void read_level(peri_walk *w) {
    const peri_hierarchy *h = &w->plan->op->hierarchy;
    w->moved = false;
    size_t first = h->first[peri_near_slot(w->here)];
    read_links(w, h->links + (first + w->level - 1) * h->degree, h->degree);
}

static void end_walk(peri_walk *w) {
    w->stage = w->plan->coded ? PERI_WALK_RERANK : PERI_WALK_DONE;
    w->next = 0;
}

/* Closes the next rows of L; false when none is open. */
static bool open_rows(peri_walk *w) {
    const peri_op_graph_search *op = w->plan->op;
    peri_near_list *list = &w->list;
    size_t opened = 0, i = w->first_open;
    for (; i < list->count && opened < op->search_width; i++)
        if ((list->keys[i] & PERI_NEAR_MARK) == 0) {
            w->opened[opened++] = peri_near_slot(list->keys[i]);
            list->keys[i] |= PERI_NEAR_MARK;
        }
    while (i < list->count && (list->keys[i] & PERI_NEAR_MARK) != 0) i++;
    w->first_open = i;
    w->opened_next = 0;
    w->opened_count = opened;
    return opened > 0;
}

/* Of row `slot` of the graph: its links, and the codes beside them. */
INLINE const uint32_t *ask_for_row(const peri_walk *w, uint32_t slot) {
    const peri_op_graph_search *op = w->plan->op;
    const peri_packed_codes *packed = &w->plan->packed;
    const uint32_t *links = op->graph + (size_t)slot * op->degree;
    prefetch_links(links, op->degree);
    if (packed->linked != NULL)
        prefetch(packed->linked + slot * packed->block,
                 peri_min_size(packed->block, LINE * BLOCK_LINES));
    return links;
}

static void read_next_row(peri_walk *w) {
    const peri_op_graph_search *op = w->plan->op;
    const peri_packed_codes *packed = &w->plan->packed;
    if (w->opened_next == w->opened_count) {
        if (w->rounds == w->plan->limit || !open_rows(w)) {
            end_walk(w);
            return;
        }
        w->rounds++;
    }
    uint32_t slot = w->opened[w->opened_next++];
    w->links = ask_for_row(w, slot);
    w->links_left = op->degree;
    if (packed->linked != NULL) w->block = packed->linked + slot * packed->block;
    /* the likely next one */
    if (w->opened_next == w->opened_count && w->first_open < w->list.count)
        prefetch_links(op->graph + (size_t)peri_near_slot(w->list.keys[w->first_open]) * op->degree,
                       op->degree);
}

/* ---- the first half ------------------------------------------------------------------------ */

/* The next links of the row under way, up to a batch and to the end of a short row. */
static size_t next_links(peri_walk *w, const uint32_t **links) {
    size_t stop = peri_min_size(w->links_left, PERI_WALK_BATCH), count = stop;
    *links = w->links;
    w->links += stop;
    w->links_left -= stop;
    if (count == 0 || (*links)[count - 1] != PERI_SLOT_NONE) return count;
    for (count = 0; (*links)[count] != PERI_SLOT_NONE;) count++;
    w->links_left = 0;
    return count;
}

/* Those that are new. */
static void gather_links(peri_walk *w) {
    const uint32_t *links;
    size_t count = next_links(w, &links);
    w->gathered = w->plan->links(links, count, w->taken, w->slots);
    if (w->plan->packed.bits != 0 && w->stage == PERI_WALK_GRAPH)
        w->visited += (uint32_t)(count - w->gathered);
}

/* Nothing farther than this can enter. */
static float bound_of(const peri_walk *w) {
    const peri_near_list *list = &w->list;
    if (w->bits != NULL || list->count < list->capacity) return INFINITY;
    return peri_near_distance(list->keys[list->count - 1]);
}

/* Those that are new and may enter, with their values. What may not now never will, so that it need
 * not be taken. */
static void gather_linked(peri_walk *w) {
    const peri_walk_plan *plan = w->plan;
    const uint32_t *links;
    size_t count = next_links(w, &links), fresh = 0;
    size_t near = plan->kernels.links(&plan->packed, (const void *)w->code, w->block, links, count,
                                      bound_of(w), w->slots, w->distances);
    for (size_t i = 0; i < near; i++) {
        w->distances[fresh] = w->distances[i];
        fresh = peri_walk_append(w->taken, w->slots, fresh, w->slots[i]);
    }
    w->gathered = fresh;
    w->visited += (uint32_t)count;
    w->block += PERI_WALK_BATCH / PERI_PACKED_GROUP *
                peri_packed_group_bytes(plan->packed.dim, plan->packed.bits);
}

static bool by_linked(const peri_walk *w) {
    return w->stage == PERI_WALK_GRAPH && w->plan->packed.linked != NULL;
}

/* All of them, taken or not. */
static void gather_level(peri_walk *w) {
    const uint32_t *links;
    w->gathered = next_links(w, &links);
    memcpy(w->slots, links, w->gathered * sizeof *links);
}

static void gather_seeds(peri_walk *w) {
    size_t n = w->plan->op->rows.rows, seeds = peri_min_size(w->plan->op->seeds, n), count = 0;
    for (; w->next < seeds && count < PERI_WALK_BATCH; w->next++) {
        uint32_t slot = n > seeds ? (uint32_t)(peri_random_mix(w->seed_key, w->next) % n)
                                  : (uint32_t)w->next;
        count = peri_walk_append(w->taken, w->slots, count, slot);
    }
    w->gathered = count;
}

static const peri_near_list *candidates(const peri_walk *w) {
    return w->bits == NULL ? &w->list : &w->passing;
}

static size_t candidate_count(const peri_walk *w) {
    return peri_min_size(candidates(w)->count, w->plan->op->rerank);
}

static void gather_candidates(peri_walk *w) {
    const uint64_t *keys = candidates(w)->keys;
    size_t stop = candidate_count(w), count = 0;
    for (; w->next < stop && count < PERI_WALK_BATCH; w->next++)
        w->slots[count++] = peri_near_slot(keys[w->next]);
    w->gathered = count;
}

void peri_walk_gather(peri_walk *w) {
    if (by_linked(w)) {
        gather_linked(w);
        return;
    }
    switch (w->stage) {
    case PERI_WALK_ENTRY:
        w->slots[0] = w->plan->op->hierarchy.entry;
        w->gathered = 1;
        break;
    case PERI_WALK_DESCENT: gather_level(w); break;
    case PERI_WALK_LANDMARKS:
    case PERI_WALK_GRAPH: gather_links(w); break;
    case PERI_WALK_SEEDS: gather_seeds(w); break;
    case PERI_WALK_RERANK: gather_candidates(w); break;
    case PERI_WALK_DONE: w->gathered = 0; break;
    }
    const peri_walk_plan *plan = w->plan;
    bool exact = w->stage == PERI_WALK_RERANK;
    prefetch_rows(exact ? &plan->exact : &plan->walk, exact ? plan->exact_bytes : plan->walk_bytes,
                  w->slots, w->gathered);
}

/* ---- the second half ----------------------------------------------------------------------- */

/* The first `count` of `slots` stay where they are: they are the log. */
static void advance_log(peri_walk *w, size_t count) {
    w->slots += count;
    if ((size_t)(w->slots - w->log) + PERI_WALK_BATCH <= w->plan->log_room) return;
    w->slots = w->log;
    w->log_lost = true;
}

static void offer_passing(peri_walk *w, size_t count) {
    size_t passing = 0;
    for (size_t i = 0; i < count; i++) {
        w->passed[passing] = w->slots[i];
        w->distances[passing] = w->distances[i];
        passing += peri_bitset_test(w->bits, w->slots[i]);
    }
    w->plan->offer(&w->passing, w->distances, w->passed, passing, w->spare);
}

/* Slots in `slots`, all new, with their distances in `distances`. */
static void offer_batch(peri_walk *w, size_t count) {
    size_t lowest = w->plan->offer(&w->list, w->distances, w->slots, count, w->spare);
    if (lowest < w->first_open) w->first_open = lowest;
    if (w->bits != NULL) offer_passing(w, count);
    advance_log(w, count);
}

/* The links of a level may repeat a row, which no list of near rows takes. */
static void step_down(peri_walk *w) {
    uint64_t best = w->here;
    for (size_t i = 0; i < w->gathered; i++) {
        uint64_t key = peri_near_key(w->distances[i], w->slots[i]);
        if (key < best) best = key;
    }
    w->moved |= best < w->here;
    w->here = best;
    if (w->links_left > 0) return;
    if (!w->moved) w->level--;
    if (w->level > 0) read_level(w);
}

static void begin_level(peri_walk *w) {
    w->stage = PERI_WALK_DESCENT;
    w->level = w->plan->op->hierarchy.level_max;
    if (w->level > 0) read_level(w);
}

/* The row where the descent ended, its distance known. */
static void offer_entry(peri_walk *w) {
    peri_walk_append(w->taken, w->slots, 0, peri_near_slot(w->here));
    w->distances[0] = peri_near_distance(w->here);
    offer_batch(w, 1);
}

static void measure(peri_walk *w) {
    const peri_walk_plan *plan = w->plan;
    if (w->gathered == 0 || by_linked(w)) return;
    if (plan->packed.bits != 0 && w->stage != PERI_WALK_RERANK)
        plan->kernels.rows(&plan->packed, (const void *)w->code, w->slots, w->gathered,
                           w->distances);
    else if (w->stage == PERI_WALK_RERANK)
        peri_distances_slots(&plan->exact, w->query, w->query_length, w->slots, w->gathered,
                             w->distances);
    else
        peri_distances_slots(&plan->walk, w->asked, w->query_length, w->slots, w->gathered,
                             w->distances);
    w->visited += (uint32_t)w->gathered;
}

/* The distance of a key; that of a zero has lost its sign. */
static float distance_of(const peri_walk *w, uint64_t key) {
    float distance = peri_near_distance(key);
    uint32_t slot = peri_near_slot(key);
    if (distance == 0)
        peri_distances_slots(&w->plan->exact, w->query, w->query_length, &slot, 1, &distance);
    return distance;
}

static void write_results(peri_walk *w) {
    const peri_op_graph_search *op = w->plan->op;
    const peri_near_list *list = w->plan->coded ? &w->best : candidates(w);
    int64_t *ids = op->ids + w->number * op->k;
    float *distances = op->distances + w->number * op->k;
    for (size_t i = 0; i < op->k; i++) {
        ids[i] = i < list->count ? (int64_t)peri_near_slot(list->keys[i]) : PERI_ID_NONE;
        distances[i] = i < list->count ? distance_of(w, list->keys[i]) : INFINITY;
    }
    if (op->visited != NULL) op->visited[w->number] = w->visited;
}

static void finish(peri_walk *w) {
    size_t words = peri_bitset_words(w->plan->op->rows.rows), count = (size_t)(w->slots - w->log);
    write_results(w);
    if (w->log_lost || count > words / WORDS_A_SLOT) {
        peri_walk_clean(w);
        return;
    }
    for (size_t i = 0; i < count; i++) w->taken[w->log[i] / 64] = 0;
    w->slots = w->log;
}

/* Takes what was measured, and goes on to the next stage when this one is through. */
bool peri_walk_absorb(peri_walk *w) {
    const peri_op_graph_search *op = w->plan->op;
    measure(w);
    switch (w->stage) {
    case PERI_WALK_ENTRY:
        w->here = peri_near_key(w->distances[0], w->slots[0]);
        begin_level(w);
        break;
    case PERI_WALK_DESCENT: step_down(w); break;
    case PERI_WALK_RERANK:
        w->plan->offer(&w->best, w->distances, w->slots, w->gathered, w->spare);
        if (w->next == candidate_count(w)) w->stage = PERI_WALK_DONE;
        break;
    default: offer_batch(w, w->gathered); break;
    }
    if (w->stage == PERI_WALK_DESCENT && w->level == 0) {
        offer_entry(w);
        enter_graph(w);
    }
    if (w->stage == PERI_WALK_LANDMARKS && w->links_left == 0) w->stage = PERI_WALK_SEEDS;
    if (w->stage == PERI_WALK_SEEDS && w->next >= peri_min_size(op->seeds, op->rows.rows))
        w->stage = PERI_WALK_GRAPH;
    if (w->stage == PERI_WALK_GRAPH && w->links_left == 0) read_next_row(w);
    if (w->stage != PERI_WALK_DONE) return true;
    finish(w);
    return false;
}

/* ---- a query ------------------------------------------------------------------------------- */

static void begin_query(peri_walk *w, size_t number) {
    const peri_walk_plan *plan = w->plan;
    const peri_op_graph_search *op = plan->op;
    const peri_filter_view *filter = &op->filter;
    w->number = number;
    w->query = w->asked = peri_view_row(&op->queries, number);
    w->query_length = peri_distances_query_length(&plan->exact, w->query);
    w->bits = NULL;
    if (filter->count > 0)
        w->bits = filter->bits[filter->which == NULL ? 0 : filter->which[number]];
    if (plan->coded) {
        peri_code_query(&op->codes, op->metric, op->queries.dtype, w->query, op->rows.cols,
                        w->code);
        w->asked = w->code;
    }
    if (op->seeds > 0 && op->rows.rows > op->seeds)
        w->seed_key = op->rand_xor_mask ^
                      peri_random_bytes(w->query,
                                        op->queries.cols * peri_dtype_bytes(op->queries.dtype));
}

void peri_walk_begin(peri_walk *w, size_t number) {
    begin_query(w, number);
    w->list.count = w->passing.count = w->best.count = 0;
    w->visited = 0;
    w->gathered = w->next = 0;
    w->first_open = w->opened_count = w->opened_next = w->rounds = 0;
    w->stage = PERI_WALK_ENTRY;
    if (w->plan->op->hierarchy.entry == PERI_SLOT_NONE) enter_graph(w);
}
