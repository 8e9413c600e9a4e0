/* device_faults_test: what fails at a device, call by call: for everything that can be asked of
 * one, each block of its memory, each block of the host's, each call of its driver fails once, and
 * all calls from there on. Each time the failure is told as what it is, nothing stays held, and
 * what is asked next is answered as ever.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset). */
#include "core/dlpack_abi.h"
#include "faulty.h"
#include "perigee_dlpack.h"
#include "place.h"

#define ROWS 200
#define DIM 12
#define QUERIES 20
#define K 5
#define STEPS_MAX 4000 /* of one case; none comes near */

static peri_context *context;
static peri_device *device;
static peri_matrix *rows, *bytes, *queries, *there, *queries_there, *centroids;
static peri_filter *filters[QUERIES];

/* What a case found: any bit that differs changes it. */
static uint64_t digest;

static void mix(const void *data, size_t size) {
    const unsigned char *at = data;
    for (size_t i = 0; i < size; i++) digest = (digest ^ at[i]) * UINT64_C(0x100000001B3);
}

static peri_status mix_matrix(const peri_matrix *matrix) {
    peri_view view = peri_matrix_view(matrix);
    size_t size = view.rows * view.cols * peri_dtype_bytes(view.dtype);
    void *data = test_new(size, 1);
    peri_status status = peri_matrix_read(matrix, 0, view.rows, data);
    if (status == PERI_OK) mix(data, size);
    free(data);
    return status;
}

static peri_option text(const char *key, const char *value) {
    return (peri_option){ key, { PERI_VALUE_TEXT, { .text = value } } };
}

static peri_option number(const char *key, int64_t value) {
    return (peri_option){ key, { PERI_VALUE_INT, { .i = value } } };
}

/* ---- matrices ----------------------------------------------------------------------------- */

static peri_status case_move(void) {
    peri_matrix *moved = NULL, *part = NULL, *back = NULL;
    float row[2 * DIM] = { 0 };
    peri_status status;
    PERI_GO(peri_matrix_move(rows, device->place, &moved));
    PERI_GO(peri_matrix_slice(moved, 3, 9, &part));
    PERI_GO(peri_matrix_write(part, 2, 2, row));
    PERI_GO(mix_matrix(part));
    PERI_GO(peri_matrix_move(moved, PERI_CPU, &back));
    PERI_GO(mix_matrix(back));
done:
    peri_matrix_release(back);
    peri_matrix_release(part);
    peri_matrix_release(moved);
    return status;
}

static peri_status case_values(void) {
    const int64_t ids[] = { 5, 3, 3, ROWS - 1 };
    peri_matrix *half = NULL, *picked = NULL, *unit = NULL, *zeros = NULL;
    peri_status status;
    PERI_GO(peri_matrix_convert(there, PERI_F16, &half));
    PERI_GO(peri_matrix_gather(half, ids, 4, &picked));
    PERI_GO(mix_matrix(picked));
    PERI_GO(peri_matrix_normalize(picked, &unit));
    PERI_GO(mix_matrix(unit));
    PERI_GO(peri_matrix_create(context, 7, 3, PERI_I64, device->place, &zeros));
    PERI_GO(mix_matrix(zeros));
done:
    peri_matrix_release(zeros);
    peri_matrix_release(unit);
    peri_matrix_release(picked);
    peri_matrix_release(half);
    return status;
}

static peri_status case_pinned(void) {
    peri_matrix *empty = NULL, *kept = NULL, *moved = NULL;
    peri_status status;
    PERI_GO(peri_matrix_create_pinned(context, 9, 4, PERI_F32, device->place, &empty));
    PERI_GO(peri_matrix_pin(there, device->place, &kept));
    PERI_GO(peri_matrix_move(kept, device->place, &moved));
    PERI_GO(mix_matrix(moved));
    PERI_GO(mix_matrix(empty));
done:
    peri_matrix_release(moved);
    peri_matrix_release(kept);
    peri_matrix_release(empty);
    return status;
}

static peri_status case_tensor(void) {
    struct DLManagedTensor *tensor = NULL;
    peri_matrix *again = NULL;
    peri_status status;
    PERI_GO(peri_matrix_to_dlpack(there, &tensor));
    PERI_GO(peri_matrix_from_dlpack(context, tensor, &again));
    tensor = NULL; /* the matrix's now */
    PERI_GO(mix_matrix(again));
done:
    if (tensor != NULL) tensor->deleter(tensor); /* what failed left it ours */
    peri_matrix_release(again);
    return status;
}

/* ---- searches ----------------------------------------------------------------------------- */

static peri_status build(const char *kind, peri_matrix *of, const peri_option *list, size_t count,
                         peri_searcher **out) {
    peri_build b = PERI_BUILD_INIT;
    b.kind = kind;
    b.rows = of;
    b.place = device->place;
    b.options = (peri_options){ list, count };
    return peri_searcher_build(&b, out);
}

static peri_status search(peri_searcher *index, peri_matrix *asked, size_t filter_count) {
    int64_t ids[QUERIES * K];
    float distances[QUERIES * K];
    peri_request request = PERI_REQUEST_INIT;
    peri_hits hits = { .ids = ids, .distances = distances };
    request.queries = peri_matrix_view(asked);
    request.k = K;
    request.filters = filters;
    request.filter_count = filter_count;
    PERI_TRY(peri_searcher_search(index, &request, &hits));
    mix(ids, sizeof ids);
    mix(distances, sizeof distances);
    return PERI_OK;
}

static peri_status build_and_search(const char *kind, peri_matrix *of, peri_matrix *asked,
                                    const peri_option *list, size_t count, size_t filter_count) {
    peri_searcher *index = NULL;
    peri_status status;
    PERI_GO(build(kind, of, list, count, &index));
    PERI_GO(search(index, asked, filter_count));
done:
    peri_searcher_release(index);
    return status;
}

static peri_status case_flat(void) {
    const peri_option metric = text("metric", "euclidean");
    return build_and_search("flat", rows, queries, &metric, 1, 0);
}
static peri_status case_flat_there(void) {
    const peri_option metric = text("metric", "cosine");
    return build_and_search("flat", there, queries_there, &metric, 1, 1);
}
static peri_status case_flat_filters(void) {
    const peri_option metric = text("metric", "inner_product");
    return build_and_search("flat", there, queries, &metric, 1, QUERIES);
}
static peri_status case_flat_bytes(void) {
    return build_and_search("flat", bytes, bytes, NULL, 0, 0);
}
static peri_status case_flat_l1(void) {
    const peri_option metric = text("metric", "l1");
    return build_and_search("flat", rows, queries, &metric, 1, 0);
}
static peri_status case_streamed(void) {
    const peri_option options[] = { text("metric", "cosine"), text("residence", "host") };
    return build_and_search("flat", rows, queries, options, 2, 1);
}
static peri_status case_ivf_flat(void) {
    const peri_option options[] = { number("n_lists", 9), number("kmeans_n_iters", 2) };
    return build_and_search("ivf_flat", rows, queries, options, 2, 1);
}
static peri_status case_ivf_pq(void) {
    const peri_option options[] = { number("n_lists", 5), number("pq_dim", 4),
                                    number("kmeans_n_iters", 2) };
    return build_and_search("ivf_pq", rows, queries, options, 3, 0);
}
static peri_status case_cagra(void) {
    const peri_option metric = text("metric", "inner_product");
    return build_and_search("cagra", rows, queries, &metric, 1, 1);
}

/* Answers left at the place, behind a caller's queue. */
static peri_status case_queue(void) {
    peri_searcher *index = NULL;
    peri_matrix *ids = NULL, *distances = NULL;
    peri_request request = PERI_REQUEST_INIT;
    peri_hits hits = { .place = device->place };
    peri_status status;
    request.queries = peri_matrix_view(queries_there);
    request.k = K;
    request.queue = (peri_queue){ true, NULL };
    PERI_GO(build("flat", there, NULL, 0, &index));
    PERI_GO(peri_matrix_create(context, QUERIES, K, PERI_I64, device->place, &ids));
    PERI_GO(peri_matrix_create(context, QUERIES, K, PERI_F32, device->place, &distances));
    hits.ids = peri_matrix_view(ids).data;
    hits.distances = peri_matrix_view(distances).data;
    peri_matrix_share(ids);
    peri_matrix_share(distances);
    for (int i = 0; i < 3 && status == PERI_OK; i++)
        status = peri_searcher_search(index, &request, &hits);
    if (status != PERI_OK) goto done;
    PERI_GO(peri_queue_wait(context, device->place, request.queue));
    PERI_GO(mix_matrix(ids));
    PERI_GO(mix_matrix(distances));
done:
    peri_searcher_release(index);
    peri_matrix_release(ids);
    peri_matrix_release(distances);
    return status;
}

static peri_status case_range(void) {
    peri_searcher *index = NULL;
    peri_range_hits range = { NULL, NULL, NULL };
    peri_request request = PERI_REQUEST_INIT;
    peri_status status;
    request.queries = peri_matrix_view(queries);
    request.filters = filters;
    request.filter_count = 1;
    PERI_GO(build("flat", there, NULL, 0, &index));
    PERI_GO(peri_searcher_range(index, &request, 3.0f, &range));
    PERI_GO(mix_matrix(range.offsets));
    PERI_GO(mix_matrix(range.ids));
    PERI_GO(mix_matrix(range.distances));
done:
    peri_matrix_release(range.offsets);
    peri_matrix_release(range.ids);
    peri_matrix_release(range.distances);
    peri_searcher_release(index);
    return status;
}

static peri_status case_score_and_move(void) {
    peri_searcher *index = NULL, *refined = NULL, *here = NULL, *again = NULL;
    const int64_t ids[] = { 4, 1, PERI_ID_NONE };
    float scores[3];
    peri_view one = peri_matrix_view(queries);
    peri_status status;
    one.rows = 1;
    PERI_GO(build("flat", there, NULL, 0, &index));
    PERI_GO(peri_searcher_score(index, &one, ids, 3, scores));
    mix(scores, sizeof scores);
    PERI_GO(peri_searcher_refined(index, rows, (peri_options){ NULL, 0 }, &refined));
    PERI_GO(search(refined, queries, 0));
    PERI_GO(peri_searcher_move(index, PERI_CPU, &here));
    PERI_GO(search(here, queries, 0));
    PERI_GO(peri_searcher_move(here, device->place, &again));
    PERI_GO(search(again, queries, 0));
done:
    peri_searcher_release(again);
    peri_searcher_release(here);
    peri_searcher_release(refined);
    peri_searcher_release(index);
    return status;
}

static peri_status case_grow(void) {
    peri_searcher *index = NULL;
    peri_extension more = PERI_EXTENSION_INIT;
    peri_removal less = PERI_REMOVAL_INIT;
    const int64_t ids[] = { 3, ROWS + 1 };
    size_t removed;
    peri_status status;
    more.rows = queries;
    less.ids = ids;
    less.count = 2;
    PERI_GO(build("flat", there, NULL, 0, &index));
    PERI_GO(peri_searcher_extend(index, &more));
    PERI_GO(peri_searcher_remove(index, &less, &removed));
    PERI_GO(search(index, queries, 0));
done:
    peri_searcher_release(index);
    return status;
}

/* ---- what is learned ---------------------------------------------------------------------- */

static peri_status cluster(peri_matrix *given, const peri_option *list, size_t count) {
    peri_clustering how = PERI_CLUSTERING_INIT;
    peri_clusters found = { .centroids = NULL };
    peri_status status;
    how.rows = there;
    how.centroids = given;
    how.options = (peri_options){ list, count };
    PERI_GO(peri_clusters_train(&how, &found));
    PERI_GO(mix_matrix(found.centroids));
    PERI_GO(mix_matrix(found.labels));
    PERI_GO(mix_matrix(found.distances));
    mix(&found.inertia, sizeof found.inertia);
done:
    peri_clusters_reset(&found);
    return status;
}

static peri_status case_kmeans(void) {
    const peri_option options[] = { number("n_clusters", 6), number("n_iters", 3) };
    return cluster(NULL, options, 2);
}
static peri_status case_kmeans_balanced(void) {
    const peri_option options[] = { number("n_clusters", 5),
                                    number("n_iters", 2),
                                    text("metric", "cosine"),
                                    { "balanced", { PERI_VALUE_FLAG, { .flag = true } } } };
    return cluster(NULL, options, 4);
}
static peri_status case_assign(void) { return cluster(centroids, NULL, 0); }

static peri_status case_quantizer(void) {
    const peri_option options[] = { number("pq_dim", 4), number("pq_bits", 4) };
    peri_train train = PERI_TRAIN_INIT;
    peri_quantizer *quantizer = NULL;
    peri_matrix *codes = NULL;
    peri_status status;
    train.kind = "pq";
    train.rows = there;
    train.options = (peri_options){ options, 2 };
    PERI_GO(peri_quantizer_train(&train, &quantizer));
    PERI_GO(peri_quantizer_encode(quantizer, there, NULL, &codes));
    PERI_GO(mix_matrix(codes));
done:
    peri_matrix_release(codes);
    peri_quantizer_release(quantizer);
    return status;
}

static peri_status case_knn_graph(void) {
    const peri_option options[] = { text("build_algo", "exact"), text("metric", "euclidean") };
    peri_knn_graph how = PERI_KNN_GRAPH_INIT;
    peri_knn_lists lists = { NULL, NULL };
    peri_status status;
    how.rows = there;
    how.k = K;
    how.options = (peri_options){ options, 2 };
    PERI_GO(peri_knn_graph_build(&how, &lists));
    PERI_GO(mix_matrix(lists.neighbors));
    PERI_GO(mix_matrix(lists.distances));
done:
    peri_knn_lists_reset(&lists);
    return status;
}

static peri_status case_pairwise(void) {
    peri_pairwise_options how = PERI_PAIRWISE_OPTIONS_INIT;
    peri_matrix *out = NULL;
    peri_status status;
    how.a = queries_there;
    how.b = there;
    how.metric = PERI_COSINE;
    PERI_GO(peri_pairwise(&how, &out));
    PERI_GO(mix_matrix(out));
done:
    peri_matrix_release(out);
    return status;
}

static const struct {
    const char *name;
    peri_status (*run)(void);
} cases[] = {
    { "matrices moved", case_move },
    { "values of matrices", case_values },
    { "page-locked matrices", case_pinned },
    { "tensors", case_tensor },
    { "flat", case_flat },
    { "flat, all at the place", case_flat_there },
    { "flat, a filter a query", case_flat_filters },
    { "flat, bytes", case_flat_bytes },
    { "flat, l1", case_flat_l1 },
    { "flat, rows on the host", case_streamed },
    { "a caller's queue", case_queue },
    { "range", case_range },
    { "score, refined, moved", case_score_and_move },
    { "flat that grows", case_grow },
    { "ivf_flat", case_ivf_flat },
    { "ivf_pq", case_ivf_pq },
    { "cagra", case_cagra },
    { "kmeans", case_kmeans },
    { "kmeans, balanced", case_kmeans_balanced },
    { "assign", case_assign },
    { "pq", case_quantizer },
    { "knn_graph", case_knn_graph },
    { "pairwise", case_pairwise },
};

/* ---- the faults --------------------------------------------------------------------------- */

static const struct {
    const char *word;
    peri_status status;
} kinds[] = { [FAULTY_MEMORY] = { "memory", PERI_E_MEMORY },
              [FAULTY_HOST] = { "host memory", PERI_E_MEMORY },
              [FAULTY_SHORT] = { "short", PERI_E_MEMORY },
              [FAULTY_CALL] = { "call", PERI_E_DEVICE },
              [FAULTY_LOST] = { "lost", PERI_E_DEVICE } };

static size_t held(void) {
    peri_device_info info;
    size_t all = 0;
    place_must(peri_device_stat(context, device->place, &info), "stat");
    for (int use = 0; use < PERI_USE_COUNT; use++) all += info.bytes_held[use];
    return all;
}

static size_t host_blocks(void) {
    peri_context_stats stats;
    peri_context_stat(context, &stats);
    return stats.blocks;
}

static peri_status run_case(size_t c, uint64_t *out) {
    digest = UINT64_C(0xCBF29CE484222325);
    peri_status status = cases[c].run();
    *out = digest;
    return status;
}

static size_t stayed; /* blocks of the host, after a fault */

/* One fault; whether it was met. */
static bool check_once(size_t c, faulty_kind kind, size_t step, uint64_t wanted) {
    uint64_t found;
    place_must(peri_device_trim(context, device->place), "trim");
    size_t device_before = held(), blocks_before = host_blocks();
    faulty_set(kind, step);
    peri_status status = run_case(c, &found);
    bool met = faulty_hits() > 0;
    faulty_set(FAULTY_NONE, 0);
    CHECK(status == PERI_OK ? found == wanted : status == kinds[kind].status, "%s, %s %zu: %s: %s",
          cases[c].name, kinds[kind].word, step, peri_status_code(status),
          status == PERI_OK ? "another answer" : peri_error_detail());
    CHECK(met || status == PERI_OK, "%s, %s %zu: %s without a fault", cases[c].name,
          kinds[kind].word, step, peri_error_detail());
    place_must(peri_device_trim(context, device->place), "trim");
    CHECK(held() == device_before, "%s, %s %zu: %zu bytes stay on the device", cases[c].name,
          kinds[kind].word, step, held() - device_before);
    stayed = host_blocks() > blocks_before ? host_blocks() - blocks_before : 0;
    return met;
}

/* A queue that was longer than ever before keeps its room: what stays is lost when it stays each
 * time. */
static bool check_fault(size_t c, faulty_kind kind, size_t step, uint64_t wanted) {
    bool met = check_once(c, kind, step, wanted);
    for (int again = 0; again < 6 && stayed > 0; again++) met = check_once(c, kind, step, wanted);
    CHECK(stayed == 0, "%s, %s %zu: %zu blocks stay on the host", cases[c].name, kinds[kind].word,
          step, stayed);
    return met;
}

static void check_case(size_t c) {
    uint64_t wanted, found;
    peri_status status = run_case(c, &wanted);
    if (status == PERI_E_UNSUPPORTED) {
        char line[400];
        snprintf(line, sizeof line, "%s", peri_error_detail());
        check_skip(cases[c].name, line);
        return;
    }
    CHECK(status == PERI_OK, "%s: %s", cases[c].name, peri_error_detail());
    printf("%-28s", cases[c].name);
    for (faulty_kind kind = FAULTY_MEMORY; kind <= FAULTY_LOST; kind++) {
        size_t step = 1;
        /* far in, a step is as good as the next: most are of one loop */
        while (step < STEPS_MAX && check_fault(c, kind, step, wanted)) step += 1 + step / 5;
        CHECK(step < STEPS_MAX, "%s, %s: no end", cases[c].name, kinds[kind].word);
        printf("  %s %zu", kinds[kind].word, step);
        status = run_case(c, &found);
        CHECK(status == PERI_OK && found == wanted, "%s after %s: %s", cases[c].name,
              kinds[kind].word, status == PERI_OK ? "another answer" : peri_error_detail());
    }
    printf("\n");
    fflush(stdout);
}

/* ---- all of it ---------------------------------------------------------------------------- */

static peri_matrix *random_matrix(size_t count, peri_dtype dtype, uint64_t seed) {
    peri_matrix *matrix = NULL;
    place_must(peri_matrix_create(context, count, DIM, dtype, PERI_CPU, &matrix), "matrix");
    peri_view view = peri_matrix_view(matrix);
    for (size_t r = 0; r < count; r++)
        for (size_t c = 0; c < DIM; c++)
            test_store(dtype, peri_view_row(&view, r), c, test_uniform(seed, r * DIM + c));
    return matrix;
}

static void make_data(void) {
    rows = random_matrix(ROWS, PERI_F32, 1);
    queries = random_matrix(QUERIES, PERI_F32, 2);
    bytes = random_matrix(QUERIES, PERI_U8, 3);
    peri_matrix *some = random_matrix(7, PERI_F32, 4);
    place_must(peri_matrix_move(rows, device->place, &there), "rows there");
    place_must(peri_matrix_move(queries, device->place, &queries_there), "queries there");
    place_must(peri_matrix_move(some, device->place, &centroids), "centroids there");
    peri_matrix_release(some);
    for (int64_t i = 0; i < QUERIES; i++)
        place_must(peri_filter_range(context, i, 100 + 5 * i, &filters[i]), "filter");
}

static void drop_data(void) {
    for (size_t i = 0; i < QUERIES; i++) peri_filter_release(filters[i]);
    peri_matrix *all[] = { rows, queries, bytes, there, queries_there, centroids };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) peri_matrix_release(all[i]);
}

int main(int argc, char **argv) {
    const char *name = getenv("PERIGEE_TEST_PLACE");
    peri_place at;
    context = place_context_of((peri_allocator){ NULL, faulty_resize });
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    place_must(peri_context_device(context, at, &device), "device");
    make_data();
    faulty_begin(device);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        if (argc < 2 || strcmp(argv[1], cases[c].name) == 0) check_case(c);
    faulty_end(device);
    drop_data();
    peri_context_release(context);
    return check_done();
}
