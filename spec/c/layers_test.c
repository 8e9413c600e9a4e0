/* layers_test: graphs made by insertion, for every number of rows from 1 on: built, extended and
 * mended. Whatever came and went, all rows that are present can be reached, no link leads to
 * another, the levels may be walked, and the number of threads changes nothing. */
#include "core/bitset.h"
#include "graph/graph_check.h"
#include "graph/hierarchy.h"
#include "graph/layers.h"
#include "operate.h"

typedef struct shape {
    peri_metric metric;
    peri_dtype dtype;
    size_t degree, chosen, m, values; /* values: distinct numbers a column; few make equal rows */
    float alpha;
    bool twice;
} shape;

static const shape shapes[] = {
    { PERI_SQEUCLIDEAN, PERI_F32, 8, 4, 4, 1000, 1.1f, false },
    { PERI_SQEUCLIDEAN, PERI_F32, 4, 2, 2, 2, 1.0f, false },
    { PERI_INNER_PRODUCT, PERI_F32, 8, 8, 0, 1000, 1.2f, true },
    { PERI_COSINE, PERI_F16, 6, 6, 0, 3, 1.2f, true },
    { PERI_SQEUCLIDEAN, PERI_U8, 1, 1, 0, 1000, 1.2f, true },
    { PERI_INNER_PRODUCT, PERI_I8, 4, 2, 2, 5, 1.0f, false },
};

static peri_context *context;

static peri_matrix *make_rows(const shape *s, size_t count) {
    enum { COLS = 3 };
    peri_matrix *rows;
    if (peri_matrix_create(context, count, COLS, s->dtype, PERI_CPU, &rows) != PERI_OK) exit(2);
    peri_view view = peri_matrix_view(rows);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < COLS; j++) {
            uint32_t pick = peri_random_below(7, i * COLS + j, (uint32_t)s->values);
            test_store(s->dtype, peri_view_row(&view, i), j,
                       ((float)pick + 1.0f) / ((float)s->values + 1.0f));
        }
    return rows;
}

static peri_matrix *make_lengths(peri_matrix *rows) {
    peri_view view = peri_matrix_view(rows);
    peri_matrix *lengths;
    float *values = test_lengths(&view);
    if (peri_matrix_create(context, view.rows, 1, PERI_F32, PERI_CPU, &lengths) != PERI_OK ||
        peri_matrix_write(lengths, 0, view.rows, values) != PERI_OK)
        exit(2);
    free(values);
    return lengths;
}

static size_t check_holes(const peri_layers *l, size_t rows, const char *what) {
    peri_view graph = peri_matrix_view(l->graph);
    size_t present = 0, bad = 0;
    for (size_t i = 0; i < rows; i++) {
        bool here = l->present == NULL || peri_bitset_test(l->present, i);
        const uint32_t *links = peri_view_row(&graph, i);
        present += here;
        bad += !here && links[0] != PERI_SLOT_NONE;
        for (size_t j = 0; here && j < graph.cols && links[j] != PERI_SLOT_NONE; j++)
            bad += l->present != NULL && !peri_bitset_test(l->present, links[j]);
    }
    CHECK(bad == 0, "%s, %zu rows: %zu links of holes or to them", what, rows, bad);
    return present;
}

static void check_graph(const peri_layers *l, const char *what) {
    size_t rows = peri_matrix_view(l->rows).rows, reached = 0;
    CHECK(peri_graph_check(l->graph, rows) == PERI_OK, "%s, %zu rows: %s", what, rows,
          peri_error_detail());
    size_t present = check_holes(l, rows, what);
    if (present > 0) peri_graph_reachable(l->graph, l->entry, &reached);
    CHECK(reached == present, "%s, %zu rows, degree %zu: %zu of %zu reached", what, rows, l->degree,
          reached, present);
    if (l->level_max == 0) return;
    CHECK(peri_hierarchy_check(l->first, l->links, rows, l->entry, l->level_max) == PERI_OK,
          "%s, %zu rows: %s", what, rows, peri_error_detail());
}

static void release(peri_layers *l) {
    peri_matrix_release(l->graph);
    peri_matrix_release(l->first);
    peri_matrix_release(l->links);
}

/* The state after `old` (NULL: none) with these rows; what was is released. */
static void step(peri_layers *l, const shape *s, peri_matrix *rows, const uint64_t *present,
                 const char *what) {
    peri_layers old = *l;
    *l = (peri_layers){ .rows = rows,
                        .present = present,
                        .metric = s->metric,
                        .degree = s->degree,
                        .chosen = s->chosen,
                        .m = s->m,
                        .ef = 24,
                        .alpha = s->alpha,
                        .twice = s->twice,
                        .seed = 5,
                        .old_graph = old.graph,
                        .old_first = old.first,
                        .old_links = old.links,
                        .old_entry = old.entry,
                        .old_level_max = old.level_max };
    if (s->metric == PERI_COSINE) l->lengths = make_lengths(rows);
    peri_status status = peri_layers_make(l);
    CHECK(status == PERI_OK, "%s: %s", what, peri_error_detail());
    if (status != PERI_OK) exit(1);
    check_graph(l, what);
    release(&old);
    peri_matrix_release(l->lengths);
}

/* Leaves about one row in `keep`. */
static void drop_rows(uint64_t *present, size_t rows, uint32_t keep, uint64_t seed) {
    for (size_t i = 0; i < rows; i++)
        if (peri_random_below(seed, i, keep) != 0) present[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

static void comes_and_goes(const shape *s, size_t n) {
    size_t more = n + n / 2 + 3, words = peri_bitset_words(more);
    peri_matrix *rows = make_rows(s, more), *some;
    uint64_t *present = test_new(words, sizeof *present);
    if (peri_matrix_slice(rows, 0, n, &some) != PERI_OK) exit(2);
    peri_layers l = { .graph = NULL };
    step(&l, s, some, NULL, "built");
    for (size_t i = 0; i < more; i++) peri_bitset_add(present, i);
    step(&l, s, rows, present, "extended");
    drop_rows(present, more, 2, 1);
    step(&l, s, rows, present, "half left");
    drop_rows(present, more, 10, 2);
    step(&l, s, rows, present, "nearly all left");
    for (size_t i = 0; i < more; i++) peri_bitset_add(present, i);
    step(&l, s, rows, present, "all came back");
    memset(present, 0, words * sizeof *present);
    step(&l, s, rows, present, "none present");
    release(&l);
    peri_matrix_release(some);
    peri_matrix_release(rows);
    free(present);
}

static bool same(peri_matrix *a, peri_matrix *b) {
    if (a == NULL || b == NULL) return a == b;
    peri_view x = peri_matrix_view(a), y = peri_matrix_view(b);
    return x.rows == y.rows && memcmp(x.data, y.data, x.rows * x.stride_bytes) == 0;
}

static void ignores_threads(const shape *s) {
    peri_matrix *rows = make_rows(s, 3000), *lengths = NULL;
    peri_layers l[4];
    if (s->metric == PERI_COSINE) lengths = make_lengths(rows);
    for (size_t i = 0; i < 4; i++) {
        l[i] = (peri_layers){ .rows = rows,
                              .lengths = lengths,
                              .metric = s->metric,
                              .degree = s->degree,
                              .chosen = s->chosen,
                              .m = s->m,
                              .ef = 40,
                              .alpha = s->alpha,
                              .twice = s->twice,
                              .threads = i + 1 };
        CHECK(peri_layers_make(&l[i]) == PERI_OK, "%s", peri_error_detail());
        CHECK(l[i].entry == l[0].entry && same(l[i].graph, l[0].graph) &&
                  same(l[i].first, l[0].first) && same(l[i].links, l[0].links),
              "%zu threads give another graph", i + 1);
    }
    for (size_t i = 0; i < 4; i++) release(&l[i]);
    peri_matrix_release(lengths);
    peri_matrix_release(rows);
}

int main(void) {
    context = test_context(4);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (size_t n = 1; n <= 600; n += n < 70 ? 1 : 53) comes_and_goes(&shapes[i], n);
        ignores_threads(&shapes[i]);
    }
    peri_context_release(context);
    return check_done();
}
