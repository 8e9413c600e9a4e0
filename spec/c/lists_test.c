/* lists_test: inverted lists from within: files that lie, and indexes that grow apart from one
 * arena. */
#include "index/handle.h"
#include "index/lists.h"
#include "operate.h"

#define DIM 6
#define ROWS 120
#define LISTS 9

static peri_context *context;

static void must(peri_status status) {
    if (status == PERI_OK) return;
    fprintf(stderr, "%s: %s\n", peri_status_code(status), peri_error_detail());
    exit(1);
}

static peri_matrix *make_rows(size_t count, uint64_t seed) {
    peri_matrix *rows;
    must(peri_matrix_create(context, count, DIM, PERI_F32, PERI_CPU, &rows));
    float *data = peri_matrix_view(rows).data;
    for (size_t i = 0; i < count * DIM; i++) data[i] = test_uniform(seed, i);
    return rows;
}

static peri_searcher *build(const char *metric) {
    const peri_option options[] = { { "n_lists", { PERI_VALUE_INT, { .i = LISTS } } },
                                    { "metric", { PERI_VALUE_TEXT, { .text = metric } } } };
    peri_build build = PERI_BUILD_INIT;
    peri_searcher *searcher;
    build.kind = "ivf_flat";
    build.rows = make_rows(ROWS, 1);
    build.options = (peri_options){ options, 2 };
    must(peri_searcher_build(&build, &searcher));
    peri_matrix_release(build.rows);
    return searcher;
}

/* ---- files that lie ------------------------------------------------------------------------ */

/* `size` bytes at `at` of a section become those of `value`; adopt must refuse; then all is put
 * back. */
static void check_lie(peri_index *index, const char *section, size_t at, const void *value,
                      size_t size, const char *what) {
    char *data = peri_matrix_view(peri_index_section(index, section)).data, before[8];
    memcpy(before, data + at, size);
    memcpy(data + at, value, size);
    peri_status status = index->kind->adopt(index);
    CHECK(status == PERI_E_CORRUPT, "%s: %s: %s", section, what, peri_status_code(status));
    memcpy(data + at, before, size);
    CHECK(index->kind->adopt(index) == PERI_OK, "%s, put back: %s", section, peri_error_detail());
}

static void check_offset(peri_index *index, size_t list, int64_t value, const char *what) {
    check_lie(index, "list_offsets", list * sizeof value, &value, sizeof value, what);
}

static void check_slot(peri_index *index, uint32_t value, const char *what) {
    check_lie(index, "list_slots", 4 * sizeof value, &value, sizeof value, what);
}

static void check_size(peri_index *index, size_t list, uint32_t value, const char *what) {
    check_lie(index, "list_sizes", list * sizeof value, &value, sizeof value, what);
}

static void check_value(peri_index *index, const char *section, float value) {
    check_lie(index, section, 5 * sizeof value, &value, sizeof value, "a value");
}

/* A section of another shape, or none at all. */
static void check_shape(peri_index *index, const char *section, size_t rows, size_t cols,
                        peri_dtype dtype) {
    peri_matrix *before = peri_index_section(index, section), *other;
    peri_matrix_retain(before);
    must(peri_matrix_create(context, rows, cols, dtype, PERI_CPU, &other));
    must(peri_index_replace(index, section, other));
    peri_status status = index->kind->adopt(index);
    CHECK(status == PERI_E_CORRUPT, "%s of %zu x %zu: %s", section, rows, cols,
          peri_status_code(status));
    must(peri_index_replace(index, section, before));
    CHECK(index->kind->adopt(index) == PERI_OK, "%s, put back", section);
}

static void lies_are_refused(const char *metric) {
    peri_searcher *searcher = build(metric);
    peri_index *index = peri_handle_take(searcher);
    uint32_t first = peri_lists_of(index).slots[0];
    check_offset(index, 0, 1, "does not begin at 0");
    check_offset(index, 0, -1, "begins before 0");
    check_offset(index, 3, -5, "below 0");
    check_offset(index, 3, INT64_MAX, "past all");
    check_offset(index, LISTS, ROWS + 1, "a capacity that is too large");
    check_offset(index, LISTS, INT64_MIN, "no capacity");
    check_slot(index, ROWS, "slot past the rows");
    check_slot(index, UINT32_MAX, "no slot");
    check_slot(index, first, "a slot twice");
    check_size(index, 2, UINT32_MAX, "longer than its room");
    check_size(index, LISTS - 1, 0, "entries that are missing");
    check_value(index, "centroids", NAN);
    check_value(index, "list_rows", INFINITY);
    check_shape(index, "centroids", LISTS + 1, DIM, PERI_F32);
    check_shape(index, "centroids", LISTS, DIM + 1, PERI_F32);
    check_shape(index, "list_rows", ROWS, DIM, PERI_F16);
    check_shape(index, "list_rows", ROWS - 1, DIM, PERI_F32);
    check_shape(index, "list_rows", ROWS, DIM + 1, PERI_F32);
    check_shape(index, "list_offsets", LISTS, 1, PERI_I64);
    check_shape(index, "list_offsets", LISTS + 1, 1, PERI_U32);
    check_shape(index, "list_sizes", LISTS, 2, PERI_U32);
    check_shape(index, "list_slots", ROWS, 1, PERI_I64);
    if (index->metric == PERI_COSINE) check_shape(index, "list_lengths", ROWS - 1, 1, PERI_F32);
    if (index->metric == PERI_COSINE) check_shape(index, "list_lengths", ROWS, 1, PERI_U32);
    peri_index_release(index);
    peri_searcher_release(searcher);
}

/* ---- growing apart ------------------------------------------------------------------------- */

static void extend(peri_searcher *searcher, size_t count, uint64_t seed) {
    peri_extension more = PERI_EXTENSION_INIT;
    more.rows = make_rows(count, seed);
    must(peri_searcher_extend(searcher, &more));
    peri_matrix_release(more.rows);
}

/* Every row finds itself, and no slot comes twice. */
static void check_whole(peri_searcher *searcher, size_t from, uint64_t seed, const char *what) {
    peri_matrix *rows = make_rows(20, seed);
    peri_request request = PERI_REQUEST_INIT;
    int64_t ids[20];
    float distances[20];
    request.queries = peri_matrix_view(rows);
    request.k = 1;
    peri_hits hits = { .ids = ids, .distances = distances };
    must(peri_searcher_search(searcher, &request, &hits));
    for (size_t i = 0; i < 20; i++)
        CHECK(ids[i] == (int64_t)(from + i) && distances[i] == 0, "%s: row %zu finds %lld", what,
              from + i, (long long)ids[i]);
    peri_index *index = peri_handle_take(searcher);
    CHECK(index->kind->adopt(index) == PERI_OK, "%s: %s", what, peri_error_detail());
    peri_index_release(index);
    peri_matrix_release(rows);
}

/* Two handles go on from one index with room in its arena: the first takes the room, the second
 * moves out; neither sees the other's rows, and the index they came from stays as it was. */
static void grow_apart(void) {
    peri_searcher *one = build("sqeuclidean"), *two, *three;
    extend(one, 20, 2); /* moves out, with room behind each list */
    peri_index *before = peri_handle_take(one);
    peri_matrix *arena = peri_index_section(before, "list_rows");
    peri_index_retain(before);
    must(peri_handle_create(before, &two));
    peri_index_retain(before);
    must(peri_handle_create(before, &three));
    extend(one, 3, 3);
    extend(two, 20, 4);
    extend(one, 20, 5);
    extend(two, 20, 6);
    check_whole(one, ROWS + 23, 5, "one");
    check_whole(two, ROWS + 20, 4, "two");
    check_whole(two, ROWS + 40, 6, "two");
    check_whole(three, ROWS, 2, "the first");
    peri_index *after = peri_handle_take(two);
    CHECK(peri_index_section(after, "list_rows") != arena, "two indexes write into one arena");
    peri_index_release(after);
    peri_index_release(before);
    peri_searcher_release(one);
    peri_searcher_release(two);
    peri_searcher_release(three);
}

/* Few rows are written into the room, without a copy of those that are there. */
static void rooms_are_used(void) {
    peri_searcher *searcher = build("cosine");
    size_t moves = 0;
    peri_matrix *arena = NULL;
    for (uint64_t i = 0; i < 400; i++) {
        extend(searcher, 1, 100 + i);
        peri_index *index = peri_handle_take(searcher);
        moves += peri_index_section(index, "list_rows") != arena;
        arena = peri_index_section(index, "list_rows");
        peri_index_release(index);
    }
    CHECK(moves > 1 && moves < 80, "%zu moves for 400 rows", moves);
    peri_index *index = peri_handle_take(searcher);
    CHECK(index->kind->adopt(index) == PERI_OK, "grown by ones: %s", peri_error_detail());
    peri_index_release(index);
    peri_searcher_release(searcher);
}

/* ---- groups -------------------------------------------------------------------------------- */

static const peri_lists_layout grouped = { .group = 32, .parts = { "list_rows", NULL } };

static peri_matrix *make_labels(size_t count, uint64_t seed) {
    peri_matrix *labels;
    must(peri_matrix_create(context, count, 1, PERI_U32, PERI_CPU, &labels));
    for (size_t i = 0; i < count; i++)
        ((uint32_t *)peri_matrix_view(labels).data)[i] = peri_random_below(seed, i, LISTS - 1);
    return labels;
}

static peri_index *make_index(size_t rows) {
    peri_index *index;
    must(peri_index_create(context, &peri_ivf_flat_kind, PERI_CPU, &index));
    must(peri_index_set_shape(index, rows, DIM, PERI_F32));
    return index;
}

/* Lists begin with groups, and each entry holds the row of its slot. */
static void check_groups(peri_index *index, const peri_view *rows, const char *what) {
    peri_lists_view lists = peri_lists_of(index);
    peri_view held = peri_matrix_view(peri_index_section(index, "list_rows"));
    size_t wrong = 0;
    CHECK(peri_lists_check(index, &grouped, LISTS) == PERI_OK, "%s: %s", what, peri_error_detail());
    for (size_t l = 0; l < LISTS; l++)
        for (size_t i = 0; i < lists.sizes[l]; i++) {
            size_t at = (size_t)lists.offsets[l] + i;
            wrong += memcmp(peri_view_row(&held, at), peri_view_row(rows, lists.slots[at]),
                            DIM * sizeof(float)) != 0;
        }
    CHECK(wrong == 0 && lists.capacity % 32 == 0 && held.rows == lists.capacity,
          "%s: %zu entries hold other rows, capacity %zu", what, wrong, lists.capacity);
}

/* The last list is empty; rows come twice, into room and out of it, and are packed. */
static void groups_begin_lists(void) {
    peri_matrix *rows = make_rows(3 * ROWS, 9), *first, *second;
    peri_view all = peri_matrix_view(rows);
    peri_index *index = make_index(ROWS), *next = make_index(3 * ROWS), *packed;
    must(peri_matrix_slice(rows, 0, ROWS, &first));
    must(peri_matrix_slice(rows, ROWS, 3 * ROWS, &second));
    peri_entries entries = { .labels = make_labels(ROWS, 10), .parts = { first } };
    peri_entries more = { .labels = make_labels(2 * ROWS, 11), .first = ROWS, .parts = { second } };
    must(peri_lists_create(index, &grouped, LISTS, &entries));
    check_groups(index, &all, "made");
    must(peri_lists_extend(index, next, &grouped, &more));
    check_groups(next, &all, "extended");
    CHECK(next->loose && !index->loose, "room is told");
    packed = make_index(3 * ROWS);
    for (size_t i = 0; i < next->section_count; i++)
        must(peri_index_share(packed, next, next->sections[i].name));
    must(peri_lists_pack(next, packed, &grouped));
    check_groups(packed, &all, "packed");
    CHECK(peri_lists_of(packed).capacity < peri_lists_of(next).capacity, "packed is smaller");
    peri_matrix_release(entries.labels);
    peri_matrix_release(more.labels);
    peri_matrix_release(first);
    peri_matrix_release(second);
    peri_matrix_release(rows);
    peri_index_release(index);
    peri_index_release(next);
    peri_index_release(packed);
}

int main(void) {
    context = test_context(2);
    lies_are_refused("sqeuclidean");
    lies_are_refused("cosine");
    grow_apart();
    rooms_are_used();
    groups_begin_lists();
    peri_context_release(context);
    return check_done();
}
