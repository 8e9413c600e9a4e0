/* lists.c: the arena of inverted lists: where entries go, and moving them there.
 *
 * Where entries go is worked out on the host, in the order of slots, so it depends on nothing but
 * the labels; the rows themselves move at their place, by one scatter a part. */
#include "index/lists.h"

#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/memory.h"

#define OFFSETS "list_offsets"
#define SIZES "list_sizes"
#define SLOTS "list_slots"
#define ROOM_SHARE 4u /* room behind a list: one entry for so many */
#define DEAD_SHARE 8u /* entries of removed rows: moved out when one in so many is */

/* ---- who may write into the room ---------------------------------------------------------- */

/* Keeps the slots of an arena, and counts the entries of the newest index of it. */
typedef struct arena {
    peri_matrix *slots;
    atomic_size_t filled;
} arena;

static void arena_release(void *anchor) {
    arena *a = anchor;
    peri_context *context = peri_matrix_context(a->slots);
    peri_context_retain(context);
    peri_matrix_release(a->slots);
    peri_memory_release(context, a, 1, sizeof *a);
    peri_context_release(context);
}

/* Takes `slots` over and gives them back as the matrix that says whose the room is. */
static peri_status arena_create(peri_matrix *slots, size_t filled, peri_matrix **out) {
    peri_context *context = peri_matrix_context(slots);
    arena *a;
    peri_status status = peri_memory_acquire_zeroed(context, 1, sizeof *a, &a);
    if (status != PERI_OK) {
        peri_matrix_release(slots);
        return status;
    }
    a->slots = slots;
    atomic_init(&a->filled, filled);
    return peri_matrix_anchor(context, peri_matrix_view(slots), arena_release, a, out);
}

/* Whether an index with `filled` entries may write `more` into its arena; nobody else may then. */
static bool arena_claim(const peri_matrix *slots, size_t filled, size_t more) {
    arena *a = peri_matrix_anchored(slots, arena_release);
    return a != NULL && atomic_compare_exchange_strong(&a->filled, &filled, filled + more);
}

/* ---- what is worked out on the host -------------------------------------------------------- */

typedef struct host_lists {
    peri_matrix *offsets, *sizes, *slots;
    peri_lists_view view;
    size_t entries;
} host_lists;

static void host_close(host_lists *h) {
    peri_matrix_release(h->offsets);
    peri_matrix_release(h->sizes);
    peri_matrix_release(h->slots);
}

static peri_status to_host(const peri_index *index, const char *name, peri_matrix **out) {
    return peri_matrix_move(peri_index_section(index, name), PERI_CPU, out);
}

static peri_status host_open(const peri_index *index, bool slots, host_lists *h) {
    memset(h, 0, sizeof *h);
    PERI_TRY(to_host(index, OFFSETS, &h->offsets));
    PERI_TRY(to_host(index, SIZES, &h->sizes));
    if (slots) PERI_TRY(to_host(index, SLOTS, &h->slots));
    peri_view sizes = peri_matrix_view(h->sizes);
    h->view = (peri_lists_view){ .n_lists = sizes.rows,
                                 .offsets = peri_matrix_view(h->offsets).data,
                                 .sizes = sizes.data };
    h->view.capacity = (size_t)h->view.offsets[sizes.rows];
    if (slots) h->view.slots = peri_matrix_view(h->slots).data;
    for (size_t l = 0; l < sizes.rows; l++) h->entries += h->view.sizes[l];
    return PERI_OK;
}

/* An arena in the making. */
typedef struct making {
    peri_index *next;
    const peri_lists_layout *layout;
    const peri_index *old;       /* whose entries move in; NULL = none */
    const peri_entries *entries; /* that come; NULL = none */
    const uint8_t *gone;         /* [old slots] 1 = removed; NULL = none */
    bool room;                   /* behind each list */
    bool plain;                  /* parts are not interleaved: for files */
    size_t threads;
    const peri_control *control;

    host_lists before;   /* of old */
    peri_matrix *labels; /* on the host */
    size_t coming;       /* entries */
    size_t n_lists, staying;
    int64_t *offsets;          /* [n_lists + 1] */
    uint32_t *sizes;           /* [n_lists] */
    int64_t *from;             /* [staying] positions in the old arena */
    int64_t *to;               /* [staying] and in this one */
    int64_t *to_coming;        /* [coming] */
    peri_matrix *coming_slots; /* u32 [coming, 1] */
} making;

static void making_close(making *m) {
    peri_context *context = m->next->context;
    host_close(&m->before);
    peri_matrix_release(m->labels);
    peri_matrix_release(m->coming_slots);
    peri_memory_release(context, m->offsets, m->n_lists + 1, sizeof *m->offsets);
    peri_memory_release(context, m->sizes, m->n_lists, sizeof *m->sizes);
    peri_memory_release(context, m->from, m->before.entries, sizeof *m->from);
    peri_memory_release(context, m->to, m->before.entries, sizeof *m->to);
    peri_memory_release(context, m->to_coming, m->coming, sizeof *m->to_coming);
}

/* Slots of what comes, at the place, and their labels on the host. */
static peri_status open_coming(making *m) {
    peri_context *context = m->next->context;
    if (m->entries == NULL) return PERI_OK;
    size_t coming = peri_matrix_view(m->entries->labels).rows;
    peri_matrix *slots;
    PERI_TRY(peri_matrix_move(m->entries->labels, PERI_CPU, &m->labels));
    PERI_TRY(peri_memory_acquire(context, coming, sizeof *m->to_coming, &m->to_coming));
    m->coming = coming;
    PERI_TRY(peri_matrix_create(context, coming, 1, PERI_U32, PERI_CPU, &slots));
    uint32_t *list = peri_matrix_view(slots).data;
    for (size_t i = 0; i < coming; i++) list[i] = (uint32_t)(m->entries->first + i);
    peri_status status = peri_matrix_move(slots, m->next->device->place, &m->coming_slots);
    peri_matrix_release(slots);
    return status;
}

/* Whether an entry of the old arena moves in. */
static bool stays(const making *m, size_t position) {
    return m->gone == NULL || m->gone[m->before.view.slots[position]] == 0;
}

/* Positions of the old arena that move in, list by list, and how many of each list do. */
static peri_status open_staying(making *m) {
    peri_context *context = m->next->context;
    const peri_lists_view *view = &m->before.view;
    if (m->old == NULL) return PERI_OK;
    PERI_TRY(host_open(m->old, m->gone != NULL, &m->before));
    size_t entries = m->before.entries;
    m->before.entries = 0; /* until both are there */
    PERI_TRY(peri_memory_acquire(context, entries, sizeof *m->from, &m->from));
    peri_status status = peri_memory_acquire(context, entries, sizeof *m->to, &m->to);
    if (status != PERI_OK) {
        peri_memory_release(context, m->from, entries, sizeof *m->from);
        m->from = NULL;
        return status;
    }
    m->before.entries = entries;
    for (size_t l = 0; l < m->n_lists; l++) {
        size_t first = (size_t)view->offsets[l], was = m->staying;
        for (size_t p = first; p < first + view->sizes[l]; p++)
            if (stays(m, p)) m->from[m->staying++] = (int64_t)p;
        m->sizes[l] = (uint32_t)(m->staying - was);
    }
    return PERI_OK;
}

static size_t room_for(const making *m, size_t size) {
    if (m->room) size += size / ROOM_SHARE + 1;
    return peri_round_up(size, m->layout->group);
}

/* From the sizes of what stays to offsets, positions and sizes of all. */
static void place_entries(making *m) {
    const uint32_t *labels = m->labels == NULL ? NULL : peri_matrix_view(m->labels).data;
    uint32_t *added = m->sizes; /* counts what stays and what comes */
    size_t at = 0;
    for (size_t l = 0; l < m->n_lists; l++) m->offsets[l] = m->sizes[l];
    for (size_t i = 0; i < m->coming; i++) added[labels[i]]++;
    for (size_t l = 0, entry = 0; l < m->n_lists; l++) {
        size_t stay = (size_t)m->offsets[l];
        m->offsets[l] = (int64_t)at;
        for (size_t i = 0; i < stay; i++) m->to[entry++] = (int64_t)(at + i);
        at += room_for(m, m->sizes[l]);
        m->sizes[l] = (uint32_t)stay; /* grows to its end below */
    }
    m->offsets[m->n_lists] = (int64_t)at;
    for (size_t i = 0; i < m->coming; i++)
        m->to_coming[i] = m->offsets[labels[i]] + m->sizes[labels[i]]++;
}

static peri_status making_open(making *m) {
    peri_context *context = m->next->context;
    PERI_TRY(peri_memory_acquire_zeroed(context, m->n_lists + 1, sizeof *m->offsets, &m->offsets));
    PERI_TRY(peri_memory_acquire_zeroed(context, m->n_lists, sizeof *m->sizes, &m->sizes));
    PERI_TRY(open_staying(m));
    PERI_TRY(open_coming(m));
    place_entries(m);
    return PERI_OK;
}

/* ---- moving ------------------------------------------------------------------------------- */

/* One scatter: rows of `from` (all, or those named) to positions of `into`. */
typedef struct move {
    peri_lane *lane;
    const int64_t *from, *to; /* at the place */
    size_t count;
} move;

static bool is_interleaved(const peri_lists_layout *layout, size_t part) {
    return (layout->interleaved >> part & 1) != 0;
}

static peri_status move_rows(const move *v, peri_matrix *rows, bool rows_interleaved,
                             peri_matrix *into, bool into_interleaved) {
    peri_op_scatter op = { .kind = PERI_OP_SCATTER, .from = v->from, .to = v->to };
    op.rows_interleaved = rows_interleaved;
    op.out_interleaved = into_interleaved;
    op.rows = peri_matrix_view(rows);
    op.count = v->count;
    op.out = peri_matrix_view(into);
    return v->count == 0 ? PERI_OK : peri_lane_run(v->lane, (const peri_op *)&op);
}

/* What one part of the new arena is made of: old rows, then those that come. Either may be NULL. */
typedef struct part_rows {
    peri_matrix *before, *coming;
    bool interleaved; /* in memory */
} part_rows;

static peri_status make_part(making *m, const move *stay, const move *come, part_rows rows,
                             peri_matrix **out) {
    peri_matrix *before = rows.before, *coming = rows.coming;
    bool into = rows.interleaved && !m->plain;
    peri_view view = peri_matrix_view(before != NULL ? before : coming);
    PERI_TRY(peri_matrix_create(m->next->context, (size_t)m->offsets[m->n_lists], view.cols,
                                view.dtype, m->next->device->place, out));
    peri_status status = PERI_OK;
    if (before != NULL) status = move_rows(stay, before, rows.interleaved, *out, into);
    if (status == PERI_OK && coming != NULL) status = move_rows(come, coming, false, *out, into);
    if (status == PERI_OK) return PERI_OK;
    peri_lane_wait(stay->lane, NULL); /* nothing may write into it any more */
    peri_matrix_release(*out);
    return status;
}

static peri_matrix *section_of(const peri_index *index, const char *name) {
    return index == NULL ? NULL : peri_index_section(index, name);
}

/* Slots as the arena's, which knows how many there are. They are being written: where this fails
 * they go once that is over. */
static peri_status keep_slots(making *m, peri_lane *lane, peri_matrix *slots) {
    peri_matrix *kept;
    peri_matrix_retain(slots);
    peri_status status = arena_create(slots, m->staying + m->coming, &kept);
    if (status == PERI_OK) status = peri_index_replace(m->next, SLOTS, kept);
    if (status != PERI_OK) (void)peri_lane_wait(lane, NULL);
    peri_matrix_release(slots);
    return status;
}

static peri_status make_parts(making *m, const move *stay, const move *come) {
    peri_matrix *part;
    part_rows rows = { section_of(m->old, SLOTS), m->coming_slots, false };
    PERI_TRY(make_part(m, stay, come, rows, &part));
    PERI_TRY(keep_slots(m, stay->lane, part));
    for (size_t i = 0; m->layout->parts[i] != NULL; i++) {
        rows.before = section_of(m->old, m->layout->parts[i]);
        rows.coming = m->entries == NULL ? NULL : m->entries->parts[i];
        rows.interleaved = is_interleaved(m->layout, i);
        if (rows.before == NULL && rows.coming == NULL) continue;
        PERI_TRY(make_part(m, stay, come, rows, &part));
        PERI_TRY(peri_index_replace(m->next, m->layout->parts[i], part));
    }
    return peri_lane_wait(stay->lane, m->control);
}

static peri_status add_host(peri_index *index, const char *name, const void *data, size_t count,
                            peri_dtype dtype) {
    peri_matrix *matrix;
    PERI_TRY(peri_matrix_create(index->context, count, 1, dtype, index->device->place, &matrix));
    peri_status status = count == 0 ? PERI_OK : peri_matrix_write(matrix, 0, count, data);
    if (status == PERI_OK) return peri_index_replace(index, name, matrix);
    peri_matrix_release(matrix);
    return status;
}

/* The arena at the place, from what was worked out. */
static peri_status make_arena(making *m) {
    peri_lane *lane = NULL;
    move stay = { .count = m->staying }, come = { .count = m->coming };
    peri_status status;
    PERI_GO(add_host(m->next, OFFSETS, m->offsets, m->n_lists + 1, PERI_I64));
    PERI_GO(add_host(m->next, SIZES, m->sizes, m->n_lists, PERI_U32));
    PERI_GO(peri_lane_acquire(m->next->device, &lane));
    peri_lane_follow(lane, m->control, m->threads);
    stay.lane = come.lane = lane;
    PERI_GO(peri_lane_upload(lane, m->from, m->staying, sizeof *m->from, &stay.from));
    PERI_GO(peri_lane_upload(lane, m->to, m->staying, sizeof *m->to, &stay.to));
    PERI_GO(peri_lane_upload(lane, m->to_coming, m->coming, sizeof *m->to_coming, &come.to));
    PERI_GO(make_parts(m, &stay, &come));
    m->next->holes = m->next->removed;
    m->next->loose = m->room || (m->layout->interleaved != 0 && !m->plain);
done:
    if (lane != NULL) peri_lane_close(lane);
    return status;
}

static peri_status make(making *m) {
    peri_status status = making_open(m);
    if (status == PERI_OK) status = make_arena(m);
    making_close(m);
    return status;
}

peri_status peri_lists_create(peri_index *index, const peri_lists_layout *layout, size_t n_lists,
                              const peri_entries *entries) {
    making m = { .next = index,
                 .layout = layout,
                 .entries = entries,
                 .n_lists = n_lists,
                 .threads = entries->threads,
                 .control = entries->control };
    return make(&m);
}

/* ---- coming ------------------------------------------------------------------------------- */

static const uint8_t *gone_of(const peri_index *index) {
    peri_matrix *deleted = peri_index_section(index, "deleted");
    return deleted == NULL ? NULL : peri_matrix_view(deleted).data;
}

static peri_status move_out(const peri_index *old, peri_index *next,
                            const peri_lists_layout *layout, const peri_entries *entries) {
    making m = { .next = next,
                 .layout = layout,
                 .old = old,
                 .entries = entries,
                 .gone = gone_of(old),
                 .room = entries != NULL,
                 .plain = entries == NULL,
                 .n_lists = peri_matrix_view(peri_index_section(old, SIZES)).rows };
    if (entries != NULL) {
        m.threads = entries->threads;
        m.control = entries->control;
    }
    return make(&m);
}

/* Positions in the room of the lists there are; `fits` is false when one of them has too little. */
static void fit(const host_lists *h, const uint32_t *labels, size_t count, uint32_t *sizes,
                int64_t *to, bool *fits) {
    *fits = true;
    for (size_t l = 0; l < h->view.n_lists; l++) sizes[l] = h->view.sizes[l];
    for (size_t i = 0; i < count && *fits; i++) {
        to[i] = h->view.offsets[labels[i]] + sizes[labels[i]]++;
        *fits = to[i] < h->view.offsets[labels[i] + 1];
    }
}

static peri_status write_room(const peri_index *old, peri_index *next,
                              const peri_lists_layout *layout, const making *m) {
    peri_lane *lane = NULL;
    move come = { .count = m->coming };
    peri_status status;
    PERI_GO(peri_lane_acquire(next->device, &lane));
    peri_lane_follow(lane, m->control, m->threads);
    come.lane = lane;
    PERI_GO(peri_lane_upload(lane, m->to_coming, m->coming, sizeof *m->to_coming, &come.to));
    PERI_GO(move_rows(&come, m->coming_slots, false, peri_index_section(old, SLOTS), false));
    PERI_GO(peri_index_share(next, old, OFFSETS));
    PERI_GO(peri_index_share(next, old, SLOTS));
    PERI_GO(add_host(next, SIZES, m->sizes, m->n_lists, PERI_U32));
    for (size_t i = 0; layout->parts[i] != NULL; i++) {
        peri_matrix *part = peri_index_section(old, layout->parts[i]);
        if (part == NULL) continue;
        PERI_GO(move_rows(&come, m->entries->parts[i], false, part, is_interleaved(layout, i)));
        PERI_GO(peri_index_share(next, old, layout->parts[i]));
    }
    PERI_GO(peri_lane_wait(lane, m->control));
    next->holes = old->holes;
    next->loose = old->loose || m->coming > 0;
done:
    if (lane != NULL) peri_lane_close(lane);
    return status;
}

peri_status peri_lists_extend(const peri_index *old, peri_index *next,
                              const peri_lists_layout *layout, const peri_entries *entries) {
    making m = { .next = next,
                 .layout = layout,
                 .entries = entries,
                 .n_lists = peri_matrix_view(peri_index_section(old, SIZES)).rows,
                 .threads = entries->threads,
                 .control = entries->control };
    host_lists before;
    bool fits = false;
    peri_status status;
    PERI_GO(host_open(old, false, &before));
    PERI_GO(peri_memory_acquire(next->context, m.n_lists, sizeof *m.sizes, &m.sizes));
    PERI_GO(open_coming(&m));
    fit(&before, peri_matrix_view(m.labels).data, m.coming, m.sizes, m.to_coming, &fits);
    if (fits && m.coming > 0)
        fits = arena_claim(peri_index_section(old, SLOTS), before.entries, m.coming);
    if (fits) PERI_GO(write_room(old, next, layout, &m));
done:
    host_close(&before);
    making_close(&m);
    return status != PERI_OK || fits ? status : move_out(old, next, layout, entries);
}

/* ---- leaving ------------------------------------------------------------------------------ */

peri_status peri_lists_pack(const peri_index *old, peri_index *next,
                            const peri_lists_layout *layout) {
    return move_out(old, next, layout, NULL);
}

static peri_status count_entries(const peri_index *index, size_t *entries) {
    host_lists h;
    peri_status status = host_open(index, false, &h);
    if (status == PERI_OK) *entries = h.entries;
    host_close(&h);
    return status;
}

peri_status peri_lists_remove(const peri_index *old, peri_index *next,
                              const peri_lists_layout *layout, const peri_loss *loss) {
    size_t entries, alive = next->rows - next->removed;
    PERI_TRY(count_entries(old, &entries));
    next->holes = old->holes;
    next->loose = old->loose;
    if ((entries - alive) * DEAD_SHARE < entries) return PERI_OK;
    making m = { .next = next,
                 .layout = layout,
                 .old = old,
                 .gone = gone_of(next),
                 .n_lists = peri_matrix_view(peri_index_section(old, SIZES)).rows,
                 .threads = loss->threads,
                 .control = loss->control };
    return make(&m);
}

/* ---- trusting nothing ---------------------------------------------------------------------- */

static peri_status check_shape(const peri_index *index, const char *name, size_t rows, size_t cols,
                               peri_dtype dtype) {
    peri_matrix *matrix = peri_index_section(index, name);
    if (matrix == NULL) return peri_fail(PERI_E_CORRUPT, "section '%s' is missing", name);
    peri_view view = peri_matrix_view(matrix);
    if (view.rows == rows && view.cols == cols && view.dtype == dtype && peri_view_packed(&view))
        return PERI_OK;
    return peri_fail(PERI_E_CORRUPT, "section '%s' is %zu x %zu %s, expected %zu x %zu %s", name,
                     view.rows, view.cols, peri_dtype_name(view.dtype), rows, cols,
                     peri_dtype_name(dtype));
}

/* Offsets ascend from 0, whole groups apart, and no list is longer than its room. */
static peri_status check_offsets(const peri_lists_view *view, size_t group) {
    for (size_t l = 0; l < view->n_lists; l++) {
        int64_t first = view->offsets[l], stop = view->offsets[l + 1];
        bool whole = first >= 0 && (uint64_t)first % group == 0 && stop >= first;
        if ((l == 0 && first != 0) || !whole || view->sizes[l] > (uint64_t)(stop - first))
            return peri_fail(PERI_E_CORRUPT, "list %zu is %lld..%lld with %u entries", l,
                             (long long)first, (long long)stop, view->sizes[l]);
    }
    if ((uint64_t)view->offsets[view->n_lists] % group != 0)
        return peri_fail(PERI_E_CORRUPT, "a capacity of %lld, expected a multiple of %zu",
                         (long long)view->offsets[view->n_lists], group);
    return PERI_OK;
}

static peri_status check_slot(const peri_index *index, uint64_t *seen, size_t list, uint32_t slot) {
    if (slot >= index->rows)
        return peri_fail(PERI_E_CORRUPT, "list %zu holds slot %u of %zu", list, slot, index->rows);
    if (peri_bitset_test(seen, slot))
        return peri_fail(PERI_E_CORRUPT, "slot %u is in two entries", slot);
    peri_bitset_add(seen, slot);
    return PERI_OK;
}

/* Each slot that is alive has one entry, the others one at most. */
static peri_status check_slots(peri_index *index, const host_lists *h) {
    size_t words = peri_bitset_words(index->rows), alive = 0;
    const uint8_t *gone = gone_of(index);
    uint64_t *seen;
    PERI_TRY(peri_memory_acquire_zeroed(index->context, words, sizeof *seen, &seen));
    peri_status status = PERI_OK;
    for (size_t l = 0; l < h->view.n_lists; l++)
        for (size_t i = 0; i < h->view.sizes[l] && status == PERI_OK; i++) {
            uint32_t slot = h->view.slots[(size_t)h->view.offsets[l] + i];
            status = check_slot(index, seen, l, slot);
            if (status == PERI_OK) alive += gone == NULL || gone[slot] == 0;
        }
    peri_memory_release(index->context, seen, words, sizeof *seen);
    PERI_TRY(status);
    if (alive != index->rows - index->removed)
        return peri_fail(PERI_E_CORRUPT, "%zu entries of %zu rows", alive,
                         index->rows - index->removed);
    index->holes = index->rows - h->entries;
    return PERI_OK;
}

static peri_status check_parts(const peri_index *index, const peri_lists_layout *layout,
                               size_t capacity) {
    for (size_t i = 0; layout->parts[i] != NULL; i++) {
        peri_matrix *part = peri_index_section(index, layout->parts[i]);
        if (part == NULL) continue; /* whether it must be there is the kind's */
        peri_view view = peri_matrix_view(part);
        PERI_TRY(check_shape(index, layout->parts[i], capacity, view.cols, view.dtype));
    }
    return PERI_OK;
}

peri_status peri_lists_check(peri_index *index, const peri_lists_layout *layout, size_t n_lists) {
    host_lists h = { 0 };
    peri_status status;
    PERI_GO(check_shape(index, OFFSETS, n_lists + 1, 1, PERI_I64));
    PERI_GO(check_shape(index, SIZES, n_lists, 1, PERI_U32));
    PERI_GO(host_open(index, false, &h));
    PERI_GO(check_offsets(&h.view, layout->group));
    PERI_GO(check_shape(index, SLOTS, h.view.capacity, 1, PERI_U32));
    PERI_GO(check_parts(index, layout, h.view.capacity));
    PERI_GO(to_host(index, SLOTS, &h.slots));
    h.view.slots = peri_matrix_view(h.slots).data;
    PERI_GO(check_slots(index, &h));
done:
    host_close(&h);
    return status;
}

/* ---- opening ------------------------------------------------------------------------------ */

static peri_status interleave(peri_index *index, const char *name) {
    peri_view view = peri_matrix_view(peri_index_section(index, name));
    peri_matrix *mixed;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_TRY(
        peri_matrix_create(index->context, view.rows, view.cols, view.dtype, view.place, &mixed));
    peri_op_scatter op = { .kind = PERI_OP_SCATTER,
                           .rows = view,
                           .count = view.rows,
                           .out = peri_matrix_view(mixed),
                           .out_interleaved = true };
    PERI_GO(peri_lane_acquire(index->device, &lane));
    if (view.rows > 0) PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, NULL));
done:
    peri_lane_release(lane);
    if (status == PERI_OK) return peri_index_replace(index, name, mixed);
    peri_matrix_release(mixed);
    return status;
}

peri_status peri_lists_interleave(peri_index *index, const peri_lists_layout *layout) {
    for (size_t i = 0; layout->parts[i] != NULL; i++)
        if (is_interleaved(layout, i)) PERI_TRY(interleave(index, layout->parts[i]));
    index->loose = true;
    return PERI_OK;
}

/* ---- reading ------------------------------------------------------------------------------ */

peri_lists_view peri_lists_of(const peri_index *index) {
    peri_view sizes = peri_matrix_view(peri_index_section(index, SIZES));
    peri_view slots = peri_matrix_view(peri_index_section(index, SLOTS));
    return (peri_lists_view){
        .n_lists = sizes.rows,
        .capacity = slots.rows,
        .offsets = peri_matrix_view(peri_index_section(index, OFFSETS)).data,
        .sizes = sizes.data,
        .slots = slots.data,
    };
}

void peri_lists_describe(const peri_index *index, peri_field_fn field, void *ud) {
    host_lists h;
    if (host_open(index, false, &h) == PERI_OK) {
        uint32_t smallest = UINT32_MAX, largest = 0, empty = 0;
        for (size_t l = 0; l < h.view.n_lists; l++) {
            uint32_t size = h.view.sizes[l];
            smallest = size < smallest ? size : smallest;
            largest = size > largest ? size : largest;
            empty += size == 0;
        }
        peri_field_int(field, ud, "lists.smallest", smallest);
        peri_field_int(field, ud, "lists.largest", largest);
        peri_field_real(field, ud, "lists.mean", (double)h.entries / (double)h.view.n_lists);
        peri_field_int(field, ud, "lists.empty", empty);
        peri_field_int(field, ud, "lists.entries", (int64_t)h.entries);
    }
    host_close(&h);
}
