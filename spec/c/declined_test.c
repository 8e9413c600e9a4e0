/* declined_test: what works on a device that has few operations, those that a backend begins with:
 * k-means, matrices, exact search, distances of pairs, exact kNN graphs; with the CPU's bits. What
 * needs more is refused, and the message names the operation and the place. */
#include "backend/fake/fake.h"
#include "place.h"

static peri_context *shared;
static peri_place place_there = { PERI_PLACE_FAKE, 0 };

static void decline_all_but(const peri_op_kind *kept, size_t count) {
    bool declined[PERI_OP_COUNT];
    peri_device *device;
    memset(declined, true, sizeof declined);
    for (size_t i = 0; i < count; i++) declined[kept[i]] = false;
    place_must(peri_context_device(shared, place_there, &device), "device");
    peri_fake_decline(device, declined);
}

static peri_matrix *matrix_of(const peri_view *view) {
    peri_matrix *matrix;
    place_must(peri_matrix_create(shared, view->rows, view->cols, view->dtype, PERI_CPU, &matrix),
               "matrix");
    place_must(peri_matrix_write(matrix, 0, view->rows, view->data), "write");
    return matrix;
}

static void check_same(peri_matrix *wanted, peri_matrix *found, const char *what) {
    peri_view view = peri_matrix_view(wanted), other = peri_matrix_view(found);
    size_t bytes = view.rows * view.cols * peri_dtype_bytes(view.dtype);
    char *a = test_new(1, bytes), *b = test_new(1, bytes);
    bool alike = view.rows == other.rows && view.cols == other.cols && view.dtype == other.dtype;
    if (CHECK(alike, "%s: another shape", what)) {
        place_must(peri_matrix_read(wanted, 0, view.rows, a), "read");
        place_must(peri_matrix_read(found, 0, view.rows, b), "read");
        CHECK(memcmp(a, b, bytes) == 0, "%s: other bits", what);
    }
    free(a);
    free(b);
}

static void check_clusters(peri_matrix *rows, peri_matrix *there, const peri_option *options,
                           size_t count, const char *what) {
    peri_clustering asked = PERI_CLUSTERING_INIT;
    peri_clusters here, other;
    asked.options = (peri_options){ options, count };
    asked.rows = rows;
    place_must(peri_clusters_train(&asked, &here), what);
    asked.rows = there;
    if (!CHECK(peri_clusters_train(&asked, &other) == PERI_OK, "%s: %s", what, peri_error_detail()))
        return;
    check_same(here.centroids, other.centroids, what);
    check_same(here.labels, other.labels, what);
    peri_clusters_reset(&here);
    peri_clusters_reset(&other);
}

static peri_option word(const char *key, const char *text) {
    return (peri_option){ key, { PERI_VALUE_TEXT, { .text = text } } };
}

static peri_option number(const char *key, int64_t value) {
    return (peri_option){ key, { PERI_VALUE_INT, { .i = value } } };
}

static void check_kmeans(peri_matrix *rows, peri_matrix *there) {
    peri_option random[] = { number("n_clusters", 40), number("n_iters", 3),
                             word("init", "random") };
    peri_option drawn[] = { number("n_clusters", 70), number("n_iters", 2) };
    peri_option cosine[] = { number("n_clusters", 5), number("n_iters", 2),
                             word("metric", "cosine") };
    check_clusters(rows, there, random, 3, "k-means from random rows");
    check_clusters(rows, there, drawn, 2, "k-means++");
    check_clusters(rows, there, cosine, 3, "k-means by cosine");
}

static void check_pairs(peri_matrix *rows, peri_matrix *there) {
    peri_pairwise_options asked = PERI_PAIRWISE_OPTIONS_INIT;
    peri_matrix *here, *other;
    asked.a = asked.b = rows;
    place_must(peri_pairwise(&asked, &here), "pairwise");
    asked.a = asked.b = there;
    if (CHECK(peri_pairwise(&asked, &other) == PERI_OK, "pairwise: %s", peri_error_detail())) {
        check_same(here, other, "pairwise");
        peri_matrix_release(other);
    }
    peri_matrix_release(here);
}

static void check_graph(peri_matrix *rows, peri_matrix *there) {
    peri_option exact = word("build_algo", "exact"), descent = word("build_algo", "nn_descent");
    peri_knn_graph asked = PERI_KNN_GRAPH_INIT;
    peri_knn_lists here, other;
    asked.k = 7;
    asked.options = (peri_options){ &exact, 1 };
    asked.rows = rows;
    place_must(peri_knn_graph_build(&asked, &here), "knn_graph");
    asked.rows = there;
    if (CHECK(peri_knn_graph_build(&asked, &other) == PERI_OK, "knn_graph: %s",
              peri_error_detail())) {
        check_same(here.neighbors, other.neighbors, "knn_graph");
        check_same(here.distances, other.distances, "knn_graph");
        peri_knn_lists_reset(&other);
    }
    peri_knn_lists_reset(&here);
    asked.options.list = &descent;
    CHECK(peri_knn_graph_build(&asked, &other) == PERI_E_UNSUPPORTED, "nn_descent is not declined");
    CHECK(strstr(peri_error_detail(), "fake:0") != NULL &&
              strstr(peri_error_detail(), "graph_descent") != NULL,
          "nn_descent: %s", peri_error_detail());
}

static void check_flat(const peri_view *queries, peri_matrix *rows, peri_matrix *there) {
    peri_matrix *sides[] = { rows, there };
    int64_t ids[2][50];
    float distances[2][50];
    for (size_t side = 0; side < 2; side++) {
        peri_build build = PERI_BUILD_INIT;
        peri_request request = PERI_REQUEST_INIT;
        peri_hits hits = { .ids = ids[side], .distances = distances[side] };
        peri_searcher *flat;
        build.kind = "flat";
        build.rows = sides[side];
        build.place = peri_matrix_view(sides[side]).place;
        place_must(peri_searcher_build(&build, &flat), "flat");
        request.queries = *queries;
        request.k = 50 / queries->rows;
        place_must(peri_searcher_search(flat, &request, &hits), "search");
        peri_searcher_release(flat);
    }
    CHECK(memcmp(ids[0], ids[1], sizeof ids[0]) == 0, "flat: other ids");
    CHECK(memcmp(distances[0], distances[1], sizeof distances[0]) == 0, "flat: other distances");
}

static void check_refused(peri_matrix *there) {
    static const char *const kinds[] = { "cagra", "hnsw" };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        peri_build build = PERI_BUILD_INIT;
        peri_searcher *index = NULL;
        build.kind = kinds[i];
        build.rows = there;
        build.place = place_there;
        CHECK(peri_searcher_build(&build, &index) == PERI_E_UNSUPPORTED && index == NULL,
              "%s is not declined", kinds[i]);
        CHECK(strstr(peri_error_detail(), "fake:0") != NULL, "%s: %s", kinds[i],
              peri_error_detail());
    }
}

int main(void) {
    static const peri_op_kind few[] = { PERI_OP_CONVERT, PERI_OP_LENGTHS,  PERI_OP_GATHER,
                                        PERI_OP_KNN,     PERI_OP_ASSIGN,   PERI_OP_CLUSTER_SUMS,
                                        PERI_OP_REFINE,  PERI_OP_PAIRWISE, PERI_OP_OTHERS };
    shared = place_context();
    decline_all_but(few, sizeof few / sizeof *few);
    for (size_t dtype = 0; dtype < TEST_DTYPES; dtype++) {
        peri_view view = test_matrix((peri_dtype)dtype, 300, 21, 0, 71), queries;
        peri_matrix *rows = matrix_of(&view), *there;
        place_must(peri_matrix_move(rows, place_there, &there), "move");
        queries = test_matrix(peri_query_dtype((peri_dtype)dtype), 5, 21, 0, 72);
        check_kmeans(rows, there);
        check_pairs(rows, there);
        check_graph(rows, there);
        check_flat(&queries, rows, there);
        check_refused(there);
        peri_matrix_release(rows);
        peri_matrix_release(there);
        free(view.data);
        free(queries.data);
    }
    peri_context_release(shared);
    return check_done();
}
