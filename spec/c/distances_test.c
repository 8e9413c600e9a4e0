/* distances_test: the sum kernels of every instruction set against the canonical routine, bit for
 * bit: every dtype and metric, dimensions 1..130 and odd large ones, rows by range and by slot;
 * values that underflow, overflow and cancel. */
#include "backend/cpu/packed_codes.h"
#include "codes.h"

#define ROWS 7
#define DEGREE 40 /* rows, and links of a row, of packed codes */

typedef struct shape {
    peri_dtype dtype;
    peri_metric metric;
    peri_view query, rows;
    float *lengths, query_length;
    float wanted[ROWS];
    const char *what;
} shape;

static void compare(const shape *s, peri_isa isa, const float *found, const uint32_t *slots,
                    size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t at, row = slots == NULL ? i : slots[i];
        CHECK(test_same_bits(&found[i], &s->wanted[row], 1, &at),
              "%s, %s %s %s dim %zu, row %zu of %zu: %a, wanted %a", s->what, peri_isa_name(isa),
              peri_dtype_name(s->dtype), peri_metric_name(s->metric), s->rows.cols, row, count,
              (double)found[i], (double)s->wanted[row]);
    }
}

static void with_isa(peri_isa isa, void *ud) {
    const shape *s = ud;
    static const uint32_t slots[] = { 6, 0, 3, 3, 1, 5, 2, 4, 0 };
    peri_distances d;
    float found[9];
    size_t at;
    peri_distances_init(&d, s->metric, &s->rows, s->lengths);
    float length = peri_distances_query_length(&d, s->query.data);
    CHECK(test_same_bits(&length, &s->query_length, 1, &at), "query length %a, wanted %a",
          (double)length, (double)s->query_length);
    for (size_t count = 0; count <= ROWS; count++) {
        peri_distances_range(&d, s->query.data, length, 0, count, found);
        compare(s, isa, found, NULL, count);
    }
    for (size_t count = 1; count <= 9; count += 4) {
        peri_distances_slots(&d, s->query.data, length, slots, count, found);
        compare(s, isa, found, slots, count);
    }
    peri_distances_range(&d, s->query.data, length, 2, 3, found);
    static const uint32_t middle[] = { 2, 3, 4 };
    compare(s, isa, found, middle, 3);
}

static void check_shape(shape *s) {
    uint32_t dim = (uint32_t)s->rows.cols;
    s->lengths = test_lengths(&s->rows);
    s->query_length = s->metric == PERI_COSINE
                          ? peri_canonical_length(s->query.dtype, s->query.data, dim)
                          : 0;
    for (size_t i = 0; i < ROWS; i++)
        s->wanted[i] = peri_canonical_distance(s->metric, s->dtype, s->query.data,
                                               peri_view_row(&s->rows, i), dim, s->query_length,
                                               s->lengths[i]);
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++)
        if (peri_isa_force((peri_isa)isa)) with_isa((peri_isa)isa, s);
    peri_isa_force(PERI_ISA_COUNT);
    free(s->lengths);
}

static void check_random(peri_dtype dtype, peri_metric metric, size_t dim) {
    shape s = { .dtype = dtype, .metric = metric, .what = "random" };
    s.query = test_matrix(peri_query_dtype(dtype), 1, dim, 0, 10 + dim);
    s.rows = test_matrix(dtype, ROWS, dim, dim % 3, 20 + dim);
    check_shape(&s);
    free(s.query.data);
    free(s.rows.data);
}

/* Integers at the ends of their range: the largest sums. */
static void check_extremes(peri_dtype dtype, peri_metric metric, size_t dim) {
    shape s = { .dtype = dtype, .metric = metric, .what = "extremes" };
    s.query = test_matrix(dtype, 1, dim, 0, 1);
    s.rows = test_matrix(dtype, ROWS, dim, 1, 2);
    memset(s.query.data, dtype == PERI_I8 ? 0x80 : 0xFF, dim);
    for (size_t i = 0; i < ROWS; i++)
        memset(peri_view_row(&s.rows, i), i % 2 == 0 ? 0x80 : dtype == PERI_I8 ? 0x7F : 0x00, dim);
    check_shape(&s);
    free(s.query.data);
    free(s.rows.data);
}

/* Floats whose sums underflow to -0, stay subnormal, overflow, and cancel to NaN. */
static void check_strange(peri_metric metric, size_t dim) {
    static const float scales[] = { 1e-30f, -1e-30f, 1e-22f, 1e19f, 3e38f, -0.0f, 1e-45f };
    shape s = { .dtype = PERI_F32, .metric = metric, .what = "strange" };
    for (size_t variant = 0; variant < 7; variant++) {
        s.query = test_matrix(PERI_F32, 1, dim, 0, 3);
        s.rows = test_matrix(PERI_F32, ROWS, dim, 0, 4);
        float *query = s.query.data;
        for (size_t j = 0; j < dim; j++) query[j] *= scales[variant];
        for (size_t i = 0; i < ROWS; i++) {
            float *row = peri_view_row(&s.rows, i);
            for (size_t j = 0; j < dim; j++) row[j] *= scales[i];
        }
        check_shape(&s);
        free(s.query.data);
        free(s.rows.data);
    }
}

/* Codes 0..255 at random, and all 255 under the largest weights. */
static void check_codes(peri_metric metric, size_t dim, bool largest) {
    peri_view rows = test_matrix(PERI_F32, ROWS, dim, 0, dim);
    peri_view query = test_matrix(PERI_F32, 1, dim, 0, dim + 1);
    float *lengths = test_lengths(&rows), found[ROWS];
    peri_codes_view codes = test_codes(&rows, metric, lengths);
    uint32_t cols = (uint32_t)codes.rows.cols, slots[] = { 6, 0, 3, 3, 1, 5, 2 };
    uint8_t *encoded = test_new(peri_code_query_bytes(&codes), 1);
    float *values = query.data;
    for (size_t j = 0; j < dim && largest; j++) values[j] = j % 2 == 0 ? -1 : 1;
    for (size_t j = 0; j < ROWS * cols && largest; j++)
        ((uint8_t *)codes.rows.data)[j] = j % cols % 2 == 0 ? 255 : 0;
    peri_code_query(&codes, metric, PERI_F32, query.data, dim, encoded);
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        peri_distances d;
        if (!peri_isa_force((peri_isa)isa)) continue;
        peri_distances_codes(&d, metric, &codes);
        peri_distances_slots(&d, encoded, 0, slots, ROWS, found);
        for (size_t i = 0; i < ROWS; i++) {
            const uint8_t *row = peri_view_row(&codes.rows, slots[i]);
            float wanted = peri_code_distance(metric, encoded, row, cols);
            CHECK(wanted == found[i], "codes, %s %s dim %zu: %a, wanted %a",
                  peri_isa_name((peri_isa)isa), peri_metric_name(metric), dim, (double)found[i],
                  (double)wanted);
        }
    }
    peri_isa_force(PERI_ISA_COUNT);
    free(encoded);
    test_codes_free(&codes);
    free(lengths);
    free(rows.data);
    free(query.data);
}

/* Links of a row whose values are near enough, in order, against the definition. */
static void check_links(const peri_codes_view *codes, peri_metric metric, const uint8_t *encoded,
                        const uint32_t *links, size_t degree, float bound) {
    peri_packed_kernels kernels = peri_packed_kernels_chosen();
    peri_packed_codes packed = peri_packed_codes_of(codes, degree);
    uint32_t slots[DEGREE + 16];
    float values[DEGREE + 16];
    size_t kept = kernels.links(&packed, (const void *)encoded, codes->linked, links, degree, bound,
                                slots, values);
    size_t wanted = 0;
    for (size_t i = 0; i < degree; i++) {
        float value = peri_code_value_of(codes, metric, encoded,
                                         peri_view_row(&codes->rows, links[i]));
        if (!(value <= bound)) continue;
        CHECK(wanted < kept && slots[wanted] == links[i] && values[wanted] == value,
              "%u bits, dim %u, degree %zu: link %zu, value %a", codes->bits, codes->dim, degree, i,
              (double)value);
        wanted++;
    }
    CHECK(wanted == kept, "%u bits, dim %u: %zu links within %g, wanted %zu", codes->bits,
          codes->dim, kept, (double)bound, wanted);
}

/* Packed codes at random, and the largest ones under the largest values. */
static void check_packed(peri_metric metric, peri_dtype dtype, size_t dim, uint32_t bits,
                         bool largest) {
    peri_view rows = test_matrix(dtype, DEGREE, dim, 0, dim);
    peri_view query = test_matrix(peri_query_dtype(dtype), 1, dim, 0, dim + 1);
    uint32_t links[DEGREE * DEGREE];
    for (size_t i = 0; i < DEGREE * DEGREE; i++) links[i] = (uint32_t)(i * 7 % DEGREE);
    peri_codes_view codes = test_packed_codes(&rows, bits, links, DEGREE);
    if (largest) memset(codes.rows.data, 0xFF, DEGREE * peri_packed_row_bytes(codes.dim, bits));
    uint8_t *encoded = test_new(peri_code_query_bytes(&codes), 1);
    peri_code_query(&codes, metric, query.dtype, query.data, dim, encoded);
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        float found[DEGREE];
        if (!peri_isa_force((peri_isa)isa)) continue;
        peri_packed_codes packed = peri_packed_codes_of(&codes, DEGREE);
        for (size_t count = 1; count <= DEGREE; count += 5) {
            peri_packed_kernels_chosen().rows(&packed, (const void *)encoded, links, count, found);
            for (size_t i = 0; i < count; i++) {
                float wanted = peri_code_value_of(&codes, metric, encoded,
                                                  peri_view_row(&codes.rows, links[i]));
                CHECK(wanted == found[i], "%s, %u bits, dim %zu: %a, wanted %a",
                      peri_isa_name((peri_isa)isa), bits, dim, (double)found[i], (double)wanted);
            }
        }
        for (size_t degree = 1; degree <= DEGREE && !largest; degree += 6) {
            check_links(&codes, metric, encoded, links, degree, INFINITY);
            check_links(&codes, metric, encoded, links, degree, found[3]);
        }
    }
    peri_isa_force(PERI_ISA_COUNT);
    free(encoded);
    test_codes_free(&codes);
    free(rows.data);
    free(query.data);
}

static void sweep_packed(void) {
    static const size_t dims[] = { 1, 31, 64, 96, 130, 768 };
    static const peri_dtype dtypes[] = { PERI_F32, PERI_F16, PERI_I8, PERI_U8 };
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (uint32_t bits = 1; bits <= 4; bits *= 2)
            for (int largest = 0; largest < 2; largest++) {
                check_packed(PERI_SQEUCLIDEAN, dtypes[d % 4], dims[d], bits, largest);
                check_packed(PERI_INNER_PRODUCT, dtypes[(d + 1) % 4], dims[d], bits, largest);
            }
}

/* A value by the codes is near the distance that they stand for. */
static void check_code_meaning(peri_metric metric) {
    size_t dim = 64;
    peri_view rows = test_matrix(PERI_F32, 2, dim, 0, 5);
    float *lengths = test_lengths(&rows);
    for (size_t j = 0; j < 2 * dim; j++) ((float *)rows.data)[j] *= 0.6f;
    for (size_t r = 0; r < 2; r++) ((float *)rows.data)[r * dim + 5] = -0.86f; /* constant there */
    peri_codes_view codes = test_codes(&rows, metric, lengths);
    uint8_t encoded[128];
    const float *query = rows.data;
    peri_code_query(&codes, metric, PERI_F32, query, dim, encoded);
    float value = peri_code_distance(metric, encoded, peri_view_row(&codes.rows, 1), 64), unit = 1;
    float wanted = peri_canonical_distance(metric, PERI_F32, query, peri_view_row(&rows, 1), 64, 1,
                                           1);
    double most = 0, offset = 0;
    for (size_t j = 0; j < dim; j++) {
        most = fmax(most, fabs((double)query[j] * (double)codes.step[j]));
        offset -= (double)query[j] * (double)codes.low[j];
    }
    unit = metric == PERI_SQEUCLIDEAN ? codes.step[0] * codes.step[0]
                                      : (float)most / PERI_CODE_WEIGHT;
    double got = (double)(value * unit) + (metric == PERI_SQEUCLIDEAN ? 0 : offset);
    CHECK(fabs(got - (double)wanted) < 0.05 * (1 + fabs((double)wanted)), "%s: %g by codes, is %g",
          peri_metric_name(metric), got, (double)wanted);
    test_codes_free(&codes);
    free(lengths);
    free(rows.data);
}

/* By hand: l1 of floats and bytes, bits that differ. */
static void check_others(void) {
    const float a[] = { 1, -2, 0.5f }, b[] = { -1, 3, 0.25f };
    const uint8_t x[] = { 0xFF, 0x0F, 200 }, y[] = { 0x00, 0xF0, 201 };
    const int8_t s[] = { -128, 127 }, u[] = { 127, -128 };
    float value = peri_canonical_distance(PERI_L1, PERI_F32, a, b, 3, 0, 0);
    CHECK(value == 7.25f, "l1 of floats is %g", (double)value);
    value = peri_canonical_distance(PERI_L1, PERI_U8, x, y, 3, 0, 0);
    CHECK(value == 255 + 225 + 1, "l1 of u8 is %g", (double)value);
    value = peri_canonical_distance(PERI_L1, PERI_I8, s, u, 2, 0, 0);
    CHECK(value == 510, "l1 of i8 is %g", (double)value);
    value = peri_canonical_distance(PERI_HAMMING, PERI_U8, x, y, 3, 0, 0);
    CHECK(value == 8 + 8 + 1, "hamming is %g", (double)value);
}

static void check_others_at_all_dims(size_t dim) {
    for (int m = 0; m < TEST_OTHER_METRICS; m++)
        for (int dtype = 0; dtype < TEST_DTYPES; dtype++)
            if (peri_metric_takes(test_other_metrics[m], (peri_dtype)dtype))
                check_random((peri_dtype)dtype, test_other_metrics[m], dim);
}

static void check_report(void) {
    float values[] = { 4.0f, -0.0f, INFINITY }, squared[] = { 4.0f, 2.0f, INFINITY };
    peri_metric_report(PERI_INNER_PRODUCT, values, 3);
    CHECK(values[0] == -4.0f && values[1] == 0 && !signbit(values[1]) && values[2] == -INFINITY,
          "inner product reports %g %g %g", (double)values[0], (double)values[1],
          (double)values[2]);
    peri_metric_report(PERI_EUCLIDEAN, squared, 3);
    CHECK(squared[0] == 2.0f && squared[1] == sqrtf(2.0f) && isinf(squared[2]), "euclidean");
    peri_metric_report(PERI_SQEUCLIDEAN, squared, 3);
    peri_metric_report(PERI_COSINE, squared, 3);
    peri_metric_report(PERI_L1, squared, 3);
    peri_metric_report(PERI_HAMMING, squared, 3);
    CHECK(squared[0] == 2.0f && isinf(squared[2]), "the others report as they are");
}

int main(void) {
    static const size_t large[] = { 255, 256, 257, 768, 1023, 1536, 4095 };
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++)
        if (!peri_isa_present((peri_isa)isa))
            check_skip(peri_isa_name((peri_isa)isa), "this CPU lacks it");
    for (int dtype = 0; dtype < TEST_DTYPES; dtype++) {
        for (int m = 0; m < TEST_METRICS; m++) {
            for (size_t dim = 1; dim <= 130; dim++)
                check_random((peri_dtype)dtype, test_metrics[m], dim);
            for (size_t i = 0; i < sizeof large / sizeof *large; i++)
                check_random((peri_dtype)dtype, test_metrics[m], large[i]);
        }
    }
    for (int m = 0; m < TEST_METRICS; m++) {
        check_extremes(PERI_I8, test_metrics[m], PERI_DIM_MAX);
        check_extremes(PERI_U8, test_metrics[m], PERI_DIM_MAX);
        check_extremes(PERI_U8, test_metrics[m], 77);
        check_strange(test_metrics[m], 31);
        check_strange(test_metrics[m], 96);
        check_strange(test_metrics[m], 105);
    }
    for (int m = 0; m < TEST_METRICS; m++) {
        for (size_t dim = 1; dim <= 130; dim++) check_codes(test_metrics[m], dim, dim % 2 == 0);
        check_codes(test_metrics[m], PERI_DIM_MAX, true);
        check_codes(test_metrics[m], 4095, false);
    }
    for (size_t dim = 1; dim <= 130; dim++) check_others_at_all_dims(dim);
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) check_others_at_all_dims(large[i]);
    check_extremes(PERI_I8, PERI_L1, PERI_DIM_MAX);
    check_extremes(PERI_U8, PERI_L1, PERI_DIM_MAX);
    check_extremes(PERI_U8, PERI_L1, 77);
    check_extremes(PERI_U8, PERI_HAMMING, PERI_DIM_MAX);
    check_strange(PERI_L1, 31);
    check_strange(PERI_L1, 105);
    check_others();
    check_code_meaning(PERI_SQEUCLIDEAN);
    check_code_meaning(PERI_INNER_PRODUCT);
    check_report();
    sweep_packed();
    return check_done();
}
