/* knn_bound_test: data on which the coarse pass of exact search is of little use, or its arithmetic
 * in danger: clusters far from the origin, equal rows, huge and tiny norms, ties at the k-th place.
 * The answer must be that of ref, bit for bit. */
#include "operate.h"

#define QUERIES 40
#define ROWS 1500
#define DIM 48
#define K_FEW 10
#define K_MANY 150

static peri_context *context;
static peri_device *cpu, *ref;

/* Writes value j of row i; `query` tells queries from rows. */
typedef float (*make_fn)(bool query, size_t i, size_t j);

static float noise(bool query, size_t i, size_t j) {
    return test_uniform(query ? 1 : 2, i * 4096 + j);
}

static float plain(bool query, size_t i, size_t j) { return noise(query, i, j); }

/* One cluster of radius 1e-2 at 1e4: the centre helps. */
static float far_cluster(bool query, size_t i, size_t j) {
    return 1e4f + 1e-2f * noise(query, i, j);
}

/* Eight clusters at 1e4 in different directions: no centre helps. */
static float far_clusters(bool query, size_t i, size_t j) {
    return 1e4f * test_uniform(3, i % 8 * 4096 + j) + 1e-2f * noise(query, i, j);
}

static float one_far_column(bool query, size_t i, size_t j) {
    return j == 7 ? 1e6f : noise(query, i, j);
}

/* The value of all rows of one kind is the same: ties by slot everywhere. */
static float equal_rows(bool query, size_t i, size_t j) {
    (void)query;
    return test_uniform(4, i % 3 * 4096 + j);
}

static float all_equal(bool query, size_t i, size_t j) {
    (void)query;
    (void)i;
    return 0.1f * (float)j;
}

/* Small whole numbers: many distances are equal. */
static float whole(bool query, size_t i, size_t j) { return rintf(1.4f * noise(query, i, j)); }

static float huge(bool query, size_t i, size_t j) { return 1e18f * noise(query, i, j); }
static float overflowing(bool query, size_t i, size_t j) { return 2e19f * noise(query, i, j); }
static float tiny(bool query, size_t i, size_t j) { return 1e-20f * noise(query, i, j); }
static float subnormal(bool query, size_t i, size_t j) { return 1e-42f * noise(query, i, j); }

static float every_size(bool query, size_t i, size_t j) {
    return ldexpf(noise(query, i, j), (int)(i * 7 % 120) - 60);
}

/* A few rows of 1e30 among ordinary ones, and one query. */
static float outliers(bool query, size_t i, size_t j) {
    return (i % 97 == 5 ? 1e30f : 1.0f) * noise(query, i, j);
}

/* Rows along one line: the nearest differ from the others by the last bits. */
static float line(bool query, size_t i, size_t j) {
    return 100.0f * test_uniform(5, j) * (1.0f + 0x1p-20f * (float)(query ? 3 * i : i));
}

/* Products of 1e8 that cancel to some tens: the doubt is larger than the values. */
static float cancelling(bool query, size_t i, size_t j) {
    float pair = 1e4f * test_uniform(query ? 6 : 7, i * 4096 + j / 2);
    return (query || j % 2 == 0 ? pair : -pair) + 1e-2f * noise(query, i, j);
}

/* Squared lengths on both sides of the largest float, seen from near the origin. */
static float edge_of_range(bool query, size_t i, size_t j) {
    float value = noise(query, i, j);
    return query ? 1e17f * value : copysignf(2.6e18f, value) * (1.0f + 0.05f * value);
}

/* Products that underflow. */
static float vanishing(bool query, size_t i, size_t j) {
    return (query ? 1e-23f : 1e-20f) * noise(query, i, j);
}

static peri_view made(peri_dtype dtype, bool query, size_t rows, make_fn make) {
    peri_view view = test_matrix(dtype, rows, DIM, 0, 0);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < DIM; j++) {
            float value = make(query, i, j);
            if (dtype == PERI_F16) value = fminf(fmaxf(value, -65504.0f), 65504.0f);
            if (dtype == PERI_F32)
                ((float *)peri_view_row(&view, i))[j] = value;
            else
                ((uint16_t *)peri_view_row(&view, i))[j] = peri_float_to_half(value);
        }
    return view;
}

static void compare(peri_op_knn *op, const char *name) {
    size_t count = QUERIES * op->k, at = 0;
    int64_t *wanted_ids = test_new(count, sizeof *wanted_ids), *ids = test_new(count, sizeof *ids);
    float *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    op->ids = wanted_ids;
    op->distances = wanted;
    CHECK(test_run(ref, op, 0, NULL) == PERI_OK, "ref: %s", peri_error_detail());
    op->ids = ids;
    op->distances = found;
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        for (size_t threads = 1; threads <= 4; threads += 3) {
            peri_status status = test_run(cpu, op, threads, NULL);
            bool same = test_same_bits(found, wanted, count, &at);
            CHECK(status == PERI_OK && same, "%s, %s %s %s: value %zu is %a, wanted %a", name,
                  peri_dtype_name(op->rows.dtype), peri_metric_name(op->metric),
                  peri_isa_name((peri_isa)isa), at, (double)found[at], (double)wanted[at]);
            CHECK(memcmp(ids, wanted_ids, count * sizeof *ids) == 0, "%s, %s %s %s: other ids",
                  name, peri_dtype_name(op->rows.dtype), peri_metric_name(op->metric),
                  peri_isa_name((peri_isa)isa));
        }
    }
    peri_isa_force(PERI_ISA_COUNT);
    free(wanted_ids);
    free(ids);
    free(wanted);
    free(found);
}

static void check_data(const char *name, make_fn make, size_t k) {
    for (int dtype = PERI_F32; dtype <= PERI_F16; dtype++) {
        for (int m = 0; m < TEST_METRICS; m++) {
            peri_op_knn op = { .kind = PERI_OP_KNN, .metric = test_metrics[m], .k = k };
            op.queries = made(PERI_F32, true, QUERIES, make);
            op.rows = made((peri_dtype)dtype, false, ROWS, make);
            float *lengths = test_lengths(&op.rows);
            op.lengths = lengths;
            compare(&op, name);
            free(op.queries.data);
            free(op.rows.data);
            free(lengths);
        }
    }
}

int main(void) {
    static const struct {
        const char *name;
        make_fn make;
    } sets[] = {
        { "plain", plain },
        { "far cluster", far_cluster },
        { "far clusters", far_clusters },
        { "one far column", one_far_column },
        { "equal rows", equal_rows },
        { "all equal", all_equal },
        { "whole numbers", whole },
        { "huge", huge },
        { "overflowing", overflowing },
        { "tiny", tiny },
        { "subnormal", subnormal },
        { "every size", every_size },
        { "outliers", outliers },
        { "line", line },
        { "cancelling", cancelling },
        { "edge of range", edge_of_range },
        { "vanishing", vanishing },
    };
    context = test_context(4);
    cpu = test_device(context, PERI_PLACE_CPU);
    ref = test_device(context, PERI_PLACE_REF);
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++)
        if (!peri_isa_present((peri_isa)isa))
            check_skip(peri_isa_name((peri_isa)isa), "this CPU lacks it");
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        check_data(sets[i].name, sets[i].make, K_FEW);
        check_data(sets[i].name, sets[i].make, K_MANY);
    }
    peri_context_release(context);
    return check_done();
}
