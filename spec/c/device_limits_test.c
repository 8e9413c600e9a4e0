/* device_limits_test: what operations say of sizes that no memory holds: one more than is taken is
 * refused, with the number in the reason, and what scratch the largest want is a number that did
 * not wrap around. Nothing is run, so nothing of these sizes is there.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset). */
#include "place.h"

#define MANY ((size_t)PERI_SLOTS_MAX)
#define SCRATCH_SOUND ((size_t)1 << 46) /* bytes: more is a product that wrapped around */

static peri_device *device;
static const peri_driver *driver;

/* Where no operation looks while it is only asked. */
static void *const there = (void *)(uintptr_t)0x100000;

static peri_view view(size_t rows, size_t cols, peri_dtype dtype) {
    return (peri_view){ there, rows, cols, cols * peri_dtype_bytes(dtype), dtype, device->place };
}

/* Taken, and its scratch is no nonsense. */
static void taken(const void *op, const char *what) {
    char reason[256] = "";
    bool supported = driver->supports(device, op, reason, sizeof reason);
    if (!supported && strstr(reason, "not on ") != NULL) {
        check_skip(what, reason);
        return;
    }
    CHECK(supported, "%s: %s", what, reason);
    size_t bytes = supported ? driver->scratch_bytes(device, op) : 0;
    CHECK(bytes < SCRATCH_SOUND, "%s: %zu bytes of scratch", what, bytes);
}

/* Refused, and the reason has these words: the number that is too much. */
static void refused(const void *op, const char *words, const char *what) {
    char reason[256] = "";
    bool supported = driver->supports(device, op, reason, sizeof reason);
    if (!supported && strstr(reason, words) == NULL && strstr(reason, "not on cuda: ") != NULL &&
        strstr(reason, "given") == NULL) {
        check_skip(what, reason);
        return;
    }
    CHECK(!supported && strstr(reason, words) != NULL, "%s: '%s' wanted: %s", what, words,
          supported ? "taken" : reason);
}

static peri_op_knn knn_of(size_t queries, size_t rows, size_t cols, size_t k) {
    return (peri_op_knn){ .kind = PERI_OP_KNN,
                          .metric = PERI_SQEUCLIDEAN,
                          .queries = view(queries, cols, PERI_F32),
                          .rows = view(rows, cols, PERI_F32),
                          .k = k,
                          .ids = there,
                          .distances = there };
}

static void check_knn(void) {
    peri_op_knn op = knn_of(1, MANY, 1, 1);
    taken(&op, "knn of the most rows");
    op = knn_of(100000, MANY, PERI_DIM_MAX, 10);
    taken(&op, "knn of the most and widest rows");
    op = knn_of(MANY, 10, 1, 1);
    taken(&op, "knn of the most queries");
    op = knn_of(1, MANY + 1, 1, 1);
    refused(&op, "2147483647 rows given", "knn of a row more");
    op = knn_of(1, ((size_t)1 << 32) + 5, 1, 1);
    refused(&op, "4294967301 rows given", "knn of rows past 32 bits");
    op = knn_of(1, 10, PERI_DIM_MAX + 1, 1);
    refused(&op, "32769 columns given", "knn of a column more");
    op = knn_of(1, 10, 4, 0);
    refused(&op, "k: 0 given", "knn of none");
    op = knn_of(1, 10, 4, PERI_K_MAX + 1);
    refused(&op, "k: 16385 given", "knn of too many");
    op = knn_of(1, 10, 4, 1);
    op.metric = (peri_metric)99;
    refused(&op, "99", "knn by an unknown metric");
    op.metric = PERI_HAMMING;
    refused(&op, "hamming", "bits of floats");
    op.metric = PERI_COSINE;
    refused(&op, "lengths", "cosine without lengths");
    op.metric = PERI_SQEUCLIDEAN;
    op.rows.dtype = PERI_I64;
    refused(&op, "rows of i64", "knn of i64");
    op.rows.dtype = PERI_F32;
    op.queries.dtype = PERI_U8;
    refused(&op, "queries of u8", "queries of another dtype");
    op.queries = view(1, 5, PERI_F32);
    refused(&op, "queries have 5 columns, rows 4", "queries of another width");
}

static void check_pairs(void) {
    peri_op_pairwise op = { .kind = PERI_OP_PAIRWISE, .metric = PERI_SQEUCLIDEAN };
    op.queries = view(100000, 128, PERI_F32);
    op.rows = view(MANY, 128, PERI_F32);
    op.out = view(100000, MANY, PERI_F32);
    taken(&op, "the largest table");
    op.rows.rows = op.out.cols = MANY + 1;
    refused(&op, "2147483647 rows given", "a table of a row more");
    peri_op_select_k select = { .kind = PERI_OP_SELECT_K, .values = view(9, MANY, PERI_F32) };
    select.k = PERI_SELECT_K_MAX;
    taken(&select, "selection from the longest rows");
    select.values = view((size_t)1 << 33, 5, PERI_F32);
    taken(&select, "selection from the most rows");
    select.k++;
    refused(&select, "k: 4097 given", "selection of too many");
    select.k = 1;
    select.values = view(1, MANY + 1, PERI_F32);
    refused(&select, "2147483647", "selection from too long rows");
    peri_op_merge merge = { .kind = PERI_OP_MERGE, .queries = 1000000, .parts = 5000 };
    merge.part_k = merge.k = PERI_K_MAX;
    taken(&merge, "the largest merge");
    merge.part_k++;
    refused(&merge, "16385 given", "a merge of longer lists");
}

static void check_assignment(void) {
    peri_op_assign op = { .kind = PERI_OP_ASSIGN, .metric = PERI_SQEUCLIDEAN, .labels = there };
    op.rows = view((size_t)1 << 33, 16, PERI_F32);
    op.centroids = view(65536, 16, PERI_F32);
    taken(&op, "assignment of the most rows");
    op.rows.rows = 0;
    op.centroids.rows = (size_t)5 << 20;
    taken(&op, "assignment of no rows to many centroids");
    op.rows.rows = 1;
    taken(&op, "assignment of one row to many centroids");
    op.centroids.rows = 0;
    refused(&op, "centroids", "assignment to none");
    peri_op_cluster_sums sums = { .kind = PERI_OP_CLUSTER_SUMS, .labels = there, .counts = there };
    sums.rows = view(MANY, 16, PERI_F32);
    sums.centroids = view(1000, 16, PERI_F32);
    taken(&sums, "sums of the most rows");
}

static void check_lists(void) {
    peri_op_list_scan op = { .kind = PERI_OP_LIST_SCAN, .metric = PERI_SQEUCLIDEAN };
    op.queries = view(1000000, 64, PERI_F32);
    op.rows = view(MANY, 64, PERI_F32);
    op.lists.n_lists = 100000;
    op.lists.capacity = MANY;
    op.k = 4096;
    taken(&op, "a scan of the largest lists");
    op.rows.rows = op.lists.capacity = MANY + 1; /* slots are apart from positions on the host */
    if (device->place.kind == PERI_PLACE_CUDA)
        refused(&op, "2147483647 rows given", "a scan of an entry more");
    peri_op_refine refine = { .kind = PERI_OP_REFINE, .metric = PERI_SQEUCLIDEAN };
    refine.queries = view((size_t)1 << 30, 64, PERI_F32);
    refine.rows = view(MANY, 64, PERI_F32);
    refine.columns = 100000;
    refine.k = 4096;
    taken(&refine, "the largest refinement");
    refine.k = PERI_K_MAX + 1;
    refused(&refine, "16385 given", "a refinement of too many");
}

static void check_codes(void) {
    peri_op_rotate rotate = { .kind = PERI_OP_ROTATE, .rotation = there };
    rotate.rows = view((size_t)1 << 34, PERI_DIM_MAX, PERI_F16);
    rotate.out = view((size_t)1 << 34, PERI_DIM_MAX, PERI_F32);
    taken(&rotate, "the largest rotation");
    rotate.out.rows--;
    refused(&rotate, "17179869183", "a rotation into fewer rows");
    peri_op_pq_encode encode = { .kind = PERI_OP_PQ_ENCODE, .books = 1, .pq_dim = 1, .pq_bits = 8 };
    encode.rows = view((size_t)1 << 34, 64, PERI_F32);
    encode.pq_len = 64;
    taken(&encode, "the most codes");
    encode.pq_bits = 9;
    refused(&encode, "9", "codes of too many bits");
    peri_op_others others = { .kind = PERI_OP_OTHERS, .ids = there, .slots = there, .degree = 5 };
    others.first = MANY - 10;
    others.count = 10;
    taken(&others, "the last lists");
    others.count = 11;
    refused(&others, "2147483636", "lists past the last");
}

int main(void) {
    const char *name = getenv("PERIGEE_TEST_PLACE");
    peri_place at;
    peri_context *context = place_context();
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    place_must(peri_context_device(context, at, &device), "device");
    driver = device->driver;
    check_knn();
    check_pairs();
    check_assignment();
    check_lists();
    check_codes();
    peri_context_release(context);
    return check_done();
}
