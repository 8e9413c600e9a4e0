/* handle_test.c: an index that grows and shrinks while others search it. Every answer is one of a
 * whole index: of the rows that were there when the search began. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "check.h"
#include "perigee.h"

#define DIM 8
#define STEP 50
#define STEPS 40
#define READERS 3

static peri_context *context;
static peri_searcher *index_of_all;
static atomic_bool ended;

static void must(peri_status status) {
    if (status == PERI_OK) return;
    fprintf(stderr, "%s: %s\n", peri_status_code(status), peri_error_detail());
    exit(1);
}

/* Row r: its own number in each column, so that the nearest of a row is itself. */
static peri_matrix *make_rows(size_t first, size_t count) {
    peri_matrix *rows;
    must(peri_matrix_create(context, count, DIM, PERI_F32, PERI_CPU, &rows));
    float *data = peri_matrix_view(rows).data;
    for (size_t i = 0; i < count * DIM; i++) data[i] = (float)(first + i / DIM);
    return rows;
}

static peri_status search(float number, size_t k, int64_t *ids, float *distances) {
    float query[DIM];
    for (size_t i = 0; i < DIM; i++) query[i] = number;
    peri_request request = PERI_REQUEST_INIT;
    request.queries = (peri_view){ query, 1, DIM, sizeof query, PERI_F32, PERI_CPU };
    request.k = k;
    peri_hits hits = { .ids = ids, .distances = distances };
    return peri_searcher_search(index_of_all, &request, &hits);
}

static void *read_on(void *ud) {
    size_t wrong = 0, least = 0;
    do {
        int64_t ids[2];
        float distances[2];
        size_t rows = peri_searcher_rows(index_of_all);
        wrong += rows < least;
        least = rows;
        must(search((float)(rows - 1), 2, ids, distances));
        wrong += ids[0] != (int64_t)rows - 1 || distances[0] != 0;
    } while (!atomic_load(&ended));
    *(size_t *)ud = wrong;
    return NULL;
}

static void grow(size_t from) {
    peri_matrix *rows = make_rows(from, STEP);
    peri_extension more = PERI_EXTENSION_INIT;
    more.rows = rows;
    must(peri_searcher_extend(index_of_all, &more));
    peri_matrix_release(rows);
}

static void shrink(size_t from) {
    int64_t ids[STEP / 2];
    size_t removed;
    for (size_t i = 0; i < STEP / 2; i++) ids[i] = (int64_t)(from + i);
    peri_removal less = PERI_REMOVAL_INIT;
    less.ids = ids;
    less.count = STEP / 2;
    must(peri_searcher_remove(index_of_all, &less, &removed));
    CHECK(removed == STEP / 2, "%zu removed", removed);
}

static void grows_under_searches(const char *kind, const peri_option *options, size_t count) {
    pthread_t readers[READERS];
    size_t wrong[READERS] = { 0 };
    peri_matrix *rows = make_rows(0, STEP);
    peri_build build = PERI_BUILD_INIT;
    build.kind = kind;
    build.rows = rows;
    build.options = (peri_options){ options, count };
    atomic_store(&ended, false);
    must(peri_searcher_build(&build, &index_of_all));
    peri_matrix_release(rows);
    for (size_t i = 0; i < READERS; i++) pthread_create(&readers[i], NULL, read_on, &wrong[i]);
    for (size_t step = 1; step < STEPS; step++) {
        grow(step * STEP);
        shrink((step - 1) * STEP);
    }
    atomic_store(&ended, true);
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i], NULL);
        CHECK(wrong[i] == 0, "reader %zu: %zu wrong answers", i, wrong[i]);
    }
    size_t slots = peri_searcher_rows(index_of_all);
    CHECK(slots == (size_t)STEPS * STEP, "%zu rows", slots);
    int64_t ids[1];
    float distances[1];
    must(search(0, 1, ids, distances));
    CHECK(ids[0] == STEP / 2, "nearest is %lld", (long long)ids[0]);
    peri_searcher_release(index_of_all);
}

int main(void) {
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    options.threads = 2;
    must(peri_context_create(&options, &context));
    grows_under_searches("flat", NULL, 0);
    const peri_option lists = { "n_lists", { PERI_VALUE_INT, { .i = 7 } } };
    grows_under_searches("ivf_flat", &lists, 1); /* all of them are probed */
    peri_context_release(context);
    return check_done();
}
