/* device_doubt_test: exact search among rows that a pass with less precision cannot tell apart:
 * tight clusters far from the origin, the same row many times, lengths over many orders of
 * magnitude. The answer is ref's bit for bit on any place. A device that looks for candidates first
 * must have found its first look insufficient where it cannot be enough, and enough for plain rows;
 * and its second look must not be a scan of all rows unless more rows than it has room for are in
 * doubt.
 *
 * PERIGEE_TEST_PLACE names the place; fake:0 when unset. */
#include "parity_knn.h"

typedef enum rows_kind {
    PLAIN,
    CLUSTERS, /* `each` rows about a centre, at `spread` of the distance between centres */
    REPEATS,  /* `each` times the same */
    LENGTHS   /* log-normal, of deviation `spread` */
} rows_kind;

typedef enum outcome { ANY, NONE, SOME } outcome;

typedef struct doubt_case {
    const char *name;
    rows_kind kind;
    size_t each;
    float spread;
    size_t queries, rows, cols, k;
    peri_metric metric;
    peri_dtype dtype;
    uint32_t filters;
    outcome redone, scanned; /* on a device that looks for candidates first */
} doubt_case;

#define L2 PERI_SQEUCLIDEAN
#define IP PERI_INNER_PRODUCT
#define COS PERI_COSINE

static const doubt_case cases[] = {
    { "plain", PLAIN, 0, 0, 100, 4000, 128, 10, L2, PERI_F32, 0, NONE, NONE },
    { "plain", PLAIN, 0, 0, 100, 4000, 128, 10, IP, PERI_F32, 0, NONE, NONE },
    { "plain", PLAIN, 0, 0, 100, 4000, 128, 10, COS, PERI_F32, 0, NONE, NONE },
    { "clusters of 8", CLUSTERS, 8, 1e-3f, 100, 4000, 128, 10, L2, PERI_F32, 0, ANY, NONE },
    { "clusters of 64", CLUSTERS, 64, 1e-3f, 100, 4000, 128, 10, L2, PERI_F32, 0, SOME, NONE },
    { "clusters of 64", CLUSTERS, 64, 1e-3f, 100, 4000, 128, 10, L2, PERI_F16, 0, SOME, NONE },
    { "clusters of 64", CLUSTERS, 64, 1e-3f, 100, 4000, 128, 10, IP, PERI_F32, 0, SOME, NONE },
    { "clusters of 64", CLUSTERS, 64, 1e-3f, 100, 4000, 128, 10, COS, PERI_F32, 0, SOME, NONE },
    { "clusters of 64", CLUSTERS, 64, 1e-4f, 257, 4001, 33, 10, L2, PERI_F32, 0, SOME, NONE },
    { "one filter", CLUSTERS, 64, 1e-3f, 100, 4000, 96, 10, L2, PERI_F32, 1, SOME, NONE },
    { "filters", CLUSTERS, 64, 1e-3f, 100, 4000, 96, 10, L2, PERI_F32, 4, SOME, NONE },
    { "filters", CLUSTERS, 64, 1e-3f, 40, 4000, 200, 10, IP, PERI_F32, 3, SOME, NONE },
    { "clusters of 700", CLUSTERS, 700, 1e-3f, 64, 4000, 768, 10, L2, PERI_F32, 0, SOME, NONE },
    { "clusters of 700", CLUSTERS, 700, 1e-3f, 65, 4000, 128, 200, L2, PERI_F32, 0, SOME, NONE },
    { "clusters of 700", CLUSTERS, 700, 1e-3f, 20, 2100, 7, 1, L2, PERI_F32, 0, ANY, NONE },
    { "30 the same", REPEATS, 30, 0, 100, 4000, 128, 10, L2, PERI_F32, 0, SOME, NONE },
    { "300 the same", REPEATS, 300, 0, 100, 4000, 128, 10, L2, PERI_F32, 0, SOME, NONE },
    { "300 the same", REPEATS, 300, 0, 100, 4000, 128, 10, COS, PERI_F16, 0, SOME, NONE },
    { "300 the same", REPEATS, 300, 0, 100, 4000, 128, 10, L2, PERI_U8, 0, ANY, NONE },
    { "all the same", REPEATS, 40000, 0, 520, 40000, 8, 10, L2, PERI_F32, 0, SOME, SOME },
    { "long and short", LENGTHS, 0, 3, 100, 4000, 128, 10, L2, PERI_F32, 0, SOME, ANY },
    { "long and short", LENGTHS, 0, 1, 100, 4000, 128, 10, IP, PERI_F32, 0, ANY, ANY },
    { "long and short", LENGTHS, 0, 3, 100, 4000, 128, 10, COS, PERI_F32, 0, ANY, ANY },
};

static float normal(uint64_t seed, uint64_t i) {
    float sum = 0;
    for (uint64_t a = 0; a < 4; a++) sum += test_uniform(seed, 4 * i + a);
    return 0.87f * sum;
}

static float value_of(const doubt_case *c, size_t i, size_t j, bool query) {
    size_t groups = c->each == 0 ? 1 : (c->rows + c->each - 1) / c->each, at = i * c->cols + j;
    size_t group = (query ? 7 * i : i) % groups * c->cols + j;
    float own = normal(query ? 31 : 32, at);
    switch (c->kind) {
    case CLUSTERS: return 5 + normal(33, group) + 1.4f * c->spread * own;
    case REPEATS: return query ? own : normal(33, group);
    case LENGTHS: return own * expf(c->spread * normal(query ? 34 : 35, i));
    default: return own;
    }
}

static peri_view make_rows(const doubt_case *c, size_t rows, peri_dtype dtype, bool query) {
    peri_view view = test_matrix(dtype, rows, c->cols, 0, 1);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < c->cols; j++) {
            float value = value_of(c, i, j, query);
            if (dtype == PERI_U8) value = fmaxf(0, 100 + 30 * value);
            test_store(dtype, peri_view_row(&view, i), j, value);
        }
    return view;
}

static void check_count(const doubt_case *c, const char *what, uint32_t count, outcome wanted) {
    CHECK(wanted == ANY || (wanted == SOME) == (count > 0), "%s, %s %s, k %zu: %u %s", c->name,
          peri_dtype_name(c->dtype), peri_metric_name(c->metric), c->k, count, what);
}

static void check(pair *t, const doubt_case *c, bool candidates) {
    knn_case k = { .metric = c->metric, .k = c->k, .what = c->name };
    k.queries = make_rows(c, c->queries, peri_query_dtype(c->dtype), true);
    k.rows = make_rows(c, c->rows, c->dtype, false);
    k.lengths = test_lengths(&k.rows);
    k.filters = filters_make(c->filters, c->rows, c->queries);
    knn_counts counts = compare_knn(t, &k);
    printf("%s, %s %s %zu, k %zu: of %zu queries %u done twice, %u scanned\n", c->name,
           peri_dtype_name(c->dtype), peri_metric_name(c->metric), c->cols, c->k, c->queries,
           counts.redone, counts.scanned);
    check_count(c, "done twice", counts.redone, candidates ? c->redone : NONE);
    check_count(c, "scanned", counts.scanned, candidates ? c->scanned : NONE);
    filters_free(&k.filters);
    free(k.queries.data);
    free(k.rows.data);
    free(k.lengths);
}

int main(void) {
    const char *name = getenv("PERIGEE_TEST_PLACE");
    peri_place at;
    peri_device *device;
    pair t = { .context = place_context() };
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    place_must(peri_context_device(t.context, at, &device), "device");
    place_open(&t.ref, test_device(t.context, PERI_PLACE_REF));
    place_open(&t.tested, device);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check(&t, &cases[i], at.kind == PERI_PLACE_CUDA);
    place_close(&t.ref);
    place_close(&t.tested);
    peri_context_release(t.context);
    return check_done();
}
