/* quant_test: the parts of the quantizers that only C can see: rotate and pq_encode of every
 * instruction set against ref, the fast rotation, RaBitQ's codes and estimates, packed codes, files
 * that are well-formed and lie. */
#include <unistd.h>

#include "operate.h"

#include "core/codes.h"
#include "io/container.h"
#include "quant/codebook.h"
#include "quant/lapack.h"
#include "quant/pq.h"
#include "quant/rabitq.h"
#include "quant/sq.h"

typedef struct devices {
    peri_context *context;
    peri_device *ref, *cpu;
} devices;

/* ---- packed codes ------------------------------------------------------------------------- */

static void check_packing(void) {
    for (uint32_t bits = 1; bits <= 8; bits++) {
        for (size_t count = 1; count < 40; count++) {
            uint8_t codes[40], back[40], row[41] = { 0 }, put[41] = { 0 };
            size_t bytes = peri_codes_bytes(count, bits);
            row[bytes] = 0x5A;
            for (size_t i = 0; i < count; i++)
                codes[i] = (uint8_t)(peri_random_mix(bits, i) & ((1u << bits) - 1u));
            peri_codes_pack(codes, count, bits, row);
            for (size_t i = 0; i < count; i++) peri_codes_put(put, i, bits, codes[i]);
            peri_codes_unpack(row, count, bits, back);
            CHECK(memcmp(codes, back, count) == 0, "%u bits, %zu codes come back", bits, count);
            CHECK(memcmp(row, put, bytes) == 0, "%u bits, %zu codes: pack and put", bits, count);
            CHECK(row[bytes] == 0x5A, "%u bits, %zu codes: no byte too many", bits, count);
        }
    }
}

/* ---- rotate ------------------------------------------------------------------------------- */

typedef struct rotate_case {
    peri_dtype dtype;
    size_t rows, dim, out;
    bool matrix, centroids, labels;
} rotate_case;

static void run_rotate(peri_device *device, const rotate_case *c, size_t threads, float *out) {
    peri_view rows = test_matrix(c->dtype, c->rows, c->dim, c->rows % 3, 5);
    peri_view matrix = test_matrix(PERI_F32, c->out, c->dim, 0, 6);
    peri_view centroids = test_matrix(PERI_F32, 3, c->dim, 0, 7);
    uint32_t *labels = test_new(c->rows, sizeof *labels);
    for (size_t i = 0; i < c->rows; i++) labels[i] = peri_random_below(8, i, 3);
    peri_op_rotate op = { .kind = PERI_OP_ROTATE, .rows = rows };
    op.rotation = c->matrix ? matrix.data : NULL;
    op.centroids = c->centroids ? centroids.data : NULL;
    op.labels = c->labels ? labels : NULL;
    op.out = (peri_view){ out, c->rows, c->out, c->out * sizeof(float), PERI_F32, PERI_CPU };
    CHECK(test_run(device, &op, threads, NULL) == PERI_OK, "rotate: %s", peri_error_detail());
    free(rows.data);
    free(matrix.data);
    free(centroids.data);
    free(labels);
}

static void check_rotate(peri_isa isa, void *ud) {
    static const size_t dims[] = { 1, 7, 32, 33, 96, 130, 1000 }, counts[] = { 0, 1, 5, 70 };
    const devices *d = ud;
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++)
            for (unsigned how = 0; how < 8; how++) {
                rotate_case c = {
                    (peri_dtype)(i % 4), counts[n], dims[i], dims[i] + n, how & 1, how & 2, how & 4
                };
                size_t count = c.rows * c.out, at = 0;
                float *wanted = test_new(count, sizeof *wanted);
                float *found = test_new(count, sizeof *found);
                run_rotate(d->ref, &c, 1, wanted);
                run_rotate(d->cpu, &c, 1 + how % 2, found);
                CHECK(test_same_bits(wanted, found, count, &at),
                      "rotate %s, %zu rows of %zu to %zu, case %u, %s: value %zu",
                      peri_isa_name(isa), c.rows, c.dim, c.out, how, peri_dtype_name(c.dtype), at);
                free(wanted);
                free(found);
            }
}

/* ---- pq_encode ---------------------------------------------------------------------------- */

typedef struct encode_case {
    size_t rows;
    uint32_t pq_dim, pq_len, pq_bits;
    bool labels, coarse;
} encode_case;

static void run_encode(peri_device *device, const encode_case *c, size_t threads, uint8_t *codes) {
    size_t books = c->labels ? 3 : c->pq_dim, words = books << c->pq_bits;
    peri_view rows = test_matrix(PERI_F32, c->rows, (size_t)c->pq_dim * c->pq_len, 2, 15);
    peri_view book = test_matrix(PERI_F32, words, c->pq_len, 0, 16);
    uint32_t *labels = test_new(c->rows, sizeof *labels);
    for (size_t i = 0; i < c->rows; i++) labels[i] = peri_random_below(17, i, 3);
    if (c->coarse) { /* ties, and a codeword that is nowhere */
        for (size_t i = 0; i < words * c->pq_len; i++)
            ((float *)book.data)[i] = rintf(((float *)book.data)[i]);
        ((float *)book.data)[0] = NAN;
    }
    peri_op_pq_encode op = { .kind = PERI_OP_PQ_ENCODE,
                             .rows = rows,
                             .codebooks = book.data,
                             .books = books,
                             .labels = c->labels ? labels : NULL,
                             .pq_dim = c->pq_dim,
                             .pq_len = c->pq_len,
                             .pq_bits = c->pq_bits,
                             .codes = codes };
    CHECK(test_run(device, &op, threads, NULL) == PERI_OK, "pq_encode: %s", peri_error_detail());
    free(rows.data);
    free(book.data);
    free(labels);
}

static void check_encode(peri_isa isa, void *ud) {
    static const uint32_t lens[] = { 1, 2, 3, 4, 8, 17, 40 };
    const devices *d = ud;
    for (uint32_t bits = 1; bits <= 8; bits++)
        for (size_t l = 0; l < sizeof lens / sizeof lens[0]; l++)
            for (unsigned how = 0; how < 4; how++) {
                encode_case c = {
                    how == 0 ? 1 : 131, 1 + (uint32_t)l * 3 % 11, lens[l], bits, how & 1, how & 2
                };
                size_t bytes = c.rows * peri_codes_bytes(c.pq_dim, bits);
                uint8_t *wanted = test_new(bytes, 1), *found = test_new(bytes, 1);
                run_encode(d->ref, &c, 1, wanted);
                run_encode(d->cpu, &c, 1 + how / 2, found);
                CHECK(memcmp(wanted, found, bytes) == 0,
                      "pq_encode %s, %u bits, %u pieces of %u, case %u", peri_isa_name(isa), bits,
                      c.pq_dim, c.pq_len, how);
                free(wanted);
                free(found);
            }
}

/* ---- the fast rotation -------------------------------------------------------------------- */

static double length_of(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static void check_rotation(peri_context *context) {
    static const uint32_t shapes[][2] = { { 1, 1 },     { 1, 32 },    { 2, 2 },
                                          { 3, 3 },     { 5, 7 },     { 96, 96 },
                                          { 100, 128 }, { 257, 257 }, { 960, 960 } };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        uint32_t dim = shapes[s][0], out_dim = shapes[s][1];
        peri_rotation rotation;
        peri_view x = test_matrix(PERI_F32, 1, dim, 0, s);
        float *y = test_new(out_dim, sizeof *y), most = 0;
        CHECK(peri_rotation_init(&rotation, context, dim, out_dim, 3) == PERI_OK, "init");
        peri_rotation_apply(&rotation, x.data, y);
        double before = length_of(x.data, dim), after = length_of(y, out_dim);
        CHECK(fabs(before - after) < 1e-5 * before, "%u to %u keeps lengths: %g became %g", dim,
              out_dim, before, after);
        for (size_t i = 0; i < out_dim; i++) most = fmaxf(most, fabsf(y[i]));
        CHECK(out_dim < 32 || (double)most < 0.6 * after || dim == 1, "%u to %u spreads", dim,
              out_dim);
        peri_rotation_undo(&rotation, y);
        for (size_t i = 0; i < dim; i++)
            CHECK(fabsf(y[i] - ((float *)x.data)[i]) < 1e-5f, "%u to %u and back: column %zu", dim,
                  out_dim, i);
        peri_rotation_reset(&rotation);
        free(x.data);
        free(y);
    }
}

/* ---- rabitq ------------------------------------------------------------------------------- */

typedef struct rabitq_case {
    peri_rabitq codes;
    float *row, *centroid, *query; /* rotated */
    int8_t *values;
    uint8_t *code;
    void *scratch;
} rabitq_case;

static rabitq_case rabitq_new(peri_context *context, uint32_t dim, uint32_t bits, uint64_t seed) {
    rabitq_case c;
    CHECK(peri_rabitq_init(&c.codes, context, dim, bits, seed) == PERI_OK, "init");
    size_t n = c.codes.padded_dim;
    c.row = test_new(n, sizeof(float));
    c.centroid = test_new(n, sizeof(float));
    c.query = test_new(n, sizeof(float));
    c.values = test_new(n, 1);
    c.code = test_new(peri_rabitq_row_bytes(n, bits), 1);
    c.scratch = test_new(peri_rabitq_scratch_bytes(&c.codes), 1);
    return c;
}

static void rabitq_free(rabitq_case *c) {
    peri_rabitq_reset(&c->codes);
    free(c->row);
    free(c->centroid);
    free(c->query);
    free(c->values);
    free(c->code);
    free(c->scratch);
}

/* The estimate of |x - q|^2 (or -<x, q>) by a fresh rotation, all of x, c and q of `dim`. */
static float estimate(peri_context *context, peri_metric metric, uint32_t dim, uint32_t bits,
                      uint64_t seed, const float *x, const float *center, const float *q) {
    rabitq_case c = rabitq_new(context, dim, bits, seed);
    size_t n = c.codes.padded_dim;
    peri_rabitq_query query;
    peri_rabitq_rotate(&c.codes, x, c.row);
    peri_rabitq_rotate(&c.codes, center, c.centroid);
    peri_rabitq_rotate(&c.codes, q, c.query);
    peri_rabitq_encode(&c.codes, c.row, c.centroid, c.code, NULL, c.scratch);
    peri_rabitq_prepare(&c.codes, c.query, c.values, &query);
    double base = 0;
    for (size_t i = 0; i < dim; i++)
        base += metric == PERI_INNER_PRODUCT
                    ? -(double)(center[i] * q[i])
                    : (double)(q[i] - center[i]) * (double)(q[i] - center[i]);
    float value = peri_rabitq_estimate(
        metric, &query, (float)base,
        peri_rabitq_row_factors(c.code, peri_rabitq_code_bytes(n, bits)),
        peri_rabitq_dot(c.code, c.values, n, bits));
    rabitq_free(&c);
    return value;
}

/* Over many rotations the mean of the estimates is the truth, and the spread is what the number of
 * bits promises. */
static void check_unbiased(peri_context *context, peri_metric metric, uint32_t dim, uint32_t bits) {
    enum { TRIALS = 200 };
    peri_view x = test_matrix(PERI_F32, 3, dim, 0, 77 + bits);
    float *row = x.data, *center = row + dim, *q = center + dim;
    double truth = 0, mean = 0, spread = 0, residual = 0, offset = 0;
    for (size_t i = 0; i < dim; i++) {
        double t = (double)row[i] - (double)q[i];
        truth += metric == PERI_INNER_PRODUCT ? -(double)row[i] * (double)q[i] : t * t;
        residual += pow((double)row[i] - (double)center[i], 2);
        offset += pow((double)q[i] - (double)center[i], 2);
    }
    for (uint64_t seed = 0; seed < TRIALS; seed++) {
        double value = (double)estimate(context, metric, dim, bits, seed, row, center, q);
        mean += value / TRIALS;
        spread += (value - truth) * (value - truth) / TRIALS;
    }
    spread = sqrt(spread);
    double scale = sqrt(residual * offset) / sqrt(dim) * (metric == PERI_INNER_PRODUCT ? 1 : 2);
    CHECK(fabs(mean - truth) < 4 * spread / sqrt(TRIALS) + 1e-3 * scale,
          "dim %u, %u bits: the mean is %g, the truth %g, the spread %g", dim, bits, mean, truth,
          spread);
    CHECK(spread < scale * 1.2 / (double)(1u << (bits - 1)) + 0.02 * scale,
          "dim %u, %u bits: the spread is %g of %g", dim, bits, spread, scale);
    free(x.data);
}

/* What the exact search for the best direction finds: every step at which a magnitude changes. */
static double best_cosine2(const float *r, size_t n, uint32_t bits) {
    double best = 0, length2 = 0;
    int most = (1 << (bits - 1)) - 1;
    for (size_t i = 0; i < n; i++) length2 += (double)r[i] * (double)r[i];
    for (size_t i = 0; i < n; i++)
        for (int m = 1; m <= most; m++) {
            double scale = m / fabs((double)r[i]) * (1 + 1e-9), dot = 0, square = 0;
            for (size_t j = 0; j < n; j++) {
                double x = fmin(most, floor(fabs((double)r[j]) * scale)) + 0.5;
                dot += x * fabs((double)r[j]);
                square += x * x;
            }
            best = fmax(best, dot * dot / square / length2);
        }
    return best;
}

static void check_search(peri_context *context, uint32_t bits) {
    double ours = 0, exact = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        rabitq_case c = rabitq_new(context, 64, bits, seed);
        peri_view x = test_matrix(PERI_F32, 1, 64, 0, seed);
        uint8_t codes[64];
        double dot = 0, square = 0, length2 = 0;
        peri_rabitq_rotate(&c.codes, x.data, c.row);
        peri_rabitq_encode(&c.codes, c.row, NULL, c.code, NULL, c.scratch);
        peri_codes_unpack(c.code, 64, bits, codes);
        for (size_t i = 0; i < 64; i++) {
            double u = codes[i] - (double)peri_rabitq_half(bits);
            dot += u * (double)c.row[i];
            square += u * u;
            length2 += (double)c.row[i] * (double)c.row[i];
        }
        ours += 1 - dot * dot / square / length2;
        exact += 1 - best_cosine2(c.row, 64, bits);
        free(x.data);
        rabitq_free(&c);
    }
    CHECK(ours < exact * 1.03, "%u bits: 1 - cos^2 is %g, the exact search has %g", bits, ours / 20,
          exact / 20);
}

static void check_rabitq_edges(peri_context *context) {
    for (uint32_t bits = 1; bits <= 8; bits++) {
        rabitq_case c = rabitq_new(context, 40, bits, 1);
        size_t n = c.codes.padded_dim, bytes = peri_rabitq_code_bytes(n, bits);
        peri_rabitq_query query;
        float error = -1, point[40];
        CHECK(n == 64 && bytes == 8 * bits, "40 columns are padded to %zu", n);
        for (size_t i = 0; i < 40; i++) point[i] = test_uniform(9, i);
        peri_rabitq_rotate(&c.codes, point, c.row);
        memcpy(c.centroid, c.row, n * sizeof(float));
        peri_rabitq_encode(&c.codes, c.row, c.centroid, c.code, &error, c.scratch);
        peri_rabitq_factors factors = peri_rabitq_row_factors(c.code, bytes);
        CHECK(factors.add == 0 && factors.scale == 0 && error == 0, "a row that is its centroid");
        peri_rabitq_decode(&c.codes, c.code, c.centroid, c.query, c.scratch);
        CHECK(memcmp(c.query, c.centroid, n * sizeof(float)) == 0, "decodes to its centroid");
        memset(c.query, 0, n * sizeof(float));
        peri_rabitq_prepare(&c.codes, c.query, c.values, &query);
        CHECK(query.delta == 0 && query.half_sum == 0, "a query of zeros");
        rabitq_free(&c);
    }
}

/* ---- codebooks ---------------------------------------------------------------------------- */

static peri_matrix *matrix_of(peri_context *context, const peri_view *view) {
    peri_matrix *matrix = NULL;
    if (peri_matrix_create(context, view->rows, view->cols, view->dtype, PERI_CPU, &matrix) !=
            PERI_OK ||
        peri_matrix_write(matrix, 0, view->rows, view->data) != PERI_OK)
        exit(2);
    return matrix;
}

/* One book for all pieces, as codebook_kind per_cluster has it, on rows of odd numbers. */
static void check_codebooks(peri_context *context) {
    static const size_t counts[] = { 1, 5, 16, 17, 300 };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        peri_view view = test_matrix(PERI_F32, counts[i], 3, 0, 4);
        peri_matrix *rows = matrix_of(context, &view), *one = NULL, *two = NULL;
        peri_codebook_training training = {
            .rows = rows, .books = 1, .pq_bits = 4, .n_iters = 20, .seed = 7, .threads = 1
        };
        CHECK(peri_codebooks_train(&training, &one) == PERI_OK, "train: %s", peri_error_detail());
        training.threads = 3;
        CHECK(peri_codebooks_train(&training, &two) == PERI_OK, "train: %s", peri_error_detail());
        peri_view a = peri_matrix_view(one), b = peri_matrix_view(two);
        size_t at = 0;
        CHECK(a.rows == 16 && a.cols == 3, "%zu words of %zu", a.rows, a.cols);
        CHECK(test_same_bits(a.data, b.data, 48, &at), "1 and 3 threads, %zu rows", counts[i]);
        for (size_t r = 0; r < counts[i] && counts[i] <= 16; r++) {
            const float *x = peri_view_row(&view, r);
            bool found = false;
            for (size_t w = 0; w < 16; w++)
                found = found || memcmp(x, peri_view_row(&a, w), 3 * sizeof *x) == 0;
            CHECK(found, "%zu rows: row %zu is a codeword", counts[i], r);
        }
        peri_matrix_release(rows);
        peri_matrix_release(one);
        peri_matrix_release(two);
        free(view.data);
    }
}

static void check_pq_rule(void) {
    static const uint32_t wanted[][2] = { { 1, 1 },    { 2, 2 },    { 3, 2 },    { 31, 16 },
                                          { 32, 32 },  { 96, 96 },  { 100, 96 }, { 127, 96 },
                                          { 128, 64 }, { 200, 96 }, { 960, 480 } };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        CHECK(peri_pq_default_dim(wanted[i][0]) == wanted[i][1], "pq_dim of dim %u is %u",
              wanted[i][0], peri_pq_default_dim(wanted[i][0]));
    peri_pq pq;
    CHECK(peri_pq_shape(&pq, 100, 32, 8) == PERI_OK && pq.pq_len == 4 && pq.rotated_dim == 128,
          "100 columns in 32 pieces are padded to %u", pq.rotated_dim);
    CHECK(peri_pq_shape(&pq, 10, 11, 8) == PERI_E_ARGUMENT, "more pieces than columns");
}

/* ---- procrustes --------------------------------------------------------------------------- */

static void check_procrustes(peri_context *context) {
    const char *name;
    double a[6] = { 3, 0, 0, 0, 0, 2 }, out[6], sum = 0;
    if (peri_lapack_find(&name) != PERI_OK) {
        check_skip("procrustes", peri_error_detail());
        return;
    }
    CHECK(peri_lapack_procrustes(context, a, 2, 3, out, &sum) == PERI_OK, "%s",
          peri_error_detail());
    CHECK(fabs(sum - 5) < 1e-12, "the singular values add up to %g", sum);
    static const double wanted[6] = { 1, 0, 0, 0, 0, 1 };
    for (size_t i = 0; i < 6; i++)
        CHECK(fabs(out[i] - wanted[i]) < 1e-12, "element %zu is %g", i, out[i]);
}

/* ---- files made to deceive ---------------------------------------------------------------- */

/* Writes a container of our own making, with valid checksums, and opens it as a quantizer. */
static peri_status open_made(peri_context *context, const char *kind, peri_option *list,
                             size_t params, peri_section *sections, size_t count) {
    char path[256];
    snprintf(path, sizeof path, "%.200s/quant_test.%ld", check_folder(), (long)getpid());
    peri_options options = { list, params };
    peri_quantizer *made = NULL;
    peri_status status = peri_container_save(context, path, kind, &options, sections, count, NULL);
    if (status != PERI_OK) exit(2);
    status = peri_quantizer_open(context, path, NULL, NULL, &made);
    CHECK((status == PERI_OK) == (made != NULL), "%s: a handle exactly when it went well", kind);
    peri_quantizer_release(made);
    remove(path);
    return status;
}

static peri_matrix *filled(peri_context *context, size_t rows, size_t cols, peri_dtype dtype,
                           float value) {
    peri_matrix *matrix = NULL;
    if (peri_matrix_create(context, rows, cols, dtype, PERI_CPU, &matrix) != PERI_OK) exit(2);
    float *data = peri_matrix_view(matrix).data;
    for (size_t i = 0; dtype == PERI_F32 && i < rows * cols; i++) data[i] = value;
    return matrix;
}

/* One section of a file of dim 8; the shape or the value is wrong unless `good`. */
static void deceive(peri_context *context, const char *kind, const char *section, size_t rows,
                    size_t cols, peri_dtype dtype, float value, bool good) {
    peri_option list[] = { { "dim", { PERI_VALUE_INT, { .i = 8 } } },
                           { "pq_dim", { PERI_VALUE_INT, { .i = 4 } } },
                           { "pq_bits", { PERI_VALUE_INT, { .i = 4 } } },
                           { "bits", { PERI_VALUE_INT, { .i = 8 } } } };
    peri_section sections[1] = { { .matrix = filled(context, rows, cols, dtype, value) } };
    snprintf(sections[0].name, sizeof sections[0].name, "%s", section);
    peri_status status = open_made(context, kind, list, 4, sections, 1);
    CHECK(status == (good ? PERI_OK : PERI_E_CORRUPT), "%s, %s %zu x %zu of %g: %s", kind, section,
          rows, cols, (double)value, peri_status_code(status));
    peri_matrix_release(sections[0].matrix);
}

static void check_files(peri_context *context) {
    deceive(context, "pq", "codebooks", 64, 2, PERI_F32, 1, true);
    deceive(context, "pq", "codebooks", 63, 2, PERI_F32, 1, false);
    deceive(context, "pq", "codebooks", 64, 3, PERI_F32, 1, false);
    deceive(context, "pq", "codebooks", 64, 2, PERI_I32, 1, false);
    deceive(context, "pq", "codebooks", 64, 2, PERI_F32, NAN, false);
    deceive(context, "pq", "words", 64, 2, PERI_F32, 1, false);
    deceive(context, "sq", "levels", 2, 8, PERI_F32, 1, true);
    deceive(context, "sq", "levels", 2, 9, PERI_F32, 1, false);
    deceive(context, "sq", "levels", 2, 8, PERI_F32, -1, false); /* a step below 0 */
    deceive(context, "sq", "levels", 2, 8, PERI_F32, INFINITY, false);
    deceive(context, "binary", "levels", 3, 8, PERI_F32, 0, true);
    deceive(context, "binary", "levels", 2, 8, PERI_F32, 0, false);
    deceive(context, "binary", "levels", 3, 8, PERI_F32, NAN, false);
    deceive(context, "rabitq", "centroid", 1, 8, PERI_F32, 0, true);
    deceive(context, "rabitq", "centroid", 8, 1, PERI_F32, 0, false);
    deceive(context, "rabitq", "centroid", 1, 8, PERI_F32, INFINITY, false);
    static const int64_t dims[] = { 0, -1, PERI_DIM_MAX + 1, INT64_MIN, INT64_MAX };
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        peri_option dim = { "dim", { PERI_VALUE_INT, { .i = dims[i] } } };
        CHECK(open_made(context, "sq", &dim, 1, NULL, 0) == PERI_E_CORRUPT, "dim %lld",
              (long long)dims[i]);
    }
    peri_option odd[] = { { "dim", { PERI_VALUE_INT, { .i = 8 } } },
                          { "bits", { PERI_VALUE_INT, { .i = 5 } } } };
    CHECK(open_made(context, "sq", odd, 2, NULL, 0) == PERI_E_CORRUPT, "sq of 5 bits");
    odd[1].value.as.i = 9;
    CHECK(open_made(context, "rabitq", odd, 2, NULL, 0) == PERI_E_CORRUPT, "rabitq of 9 bits");
    odd[1].value = (peri_value){ PERI_VALUE_TEXT, { .text = "8" } };
    CHECK(open_made(context, "sq", odd, 2, NULL, 0) == PERI_E_CORRUPT, "bits in words");
    odd[1] = (peri_option){ "pq_dim", { PERI_VALUE_INT, { .i = 9 } } };
    CHECK(open_made(context, "pq", odd, 2, NULL, 0) == PERI_E_CORRUPT, "9 pieces of 8 columns");
    CHECK(open_made(context, "sq", NULL, 0, NULL, 0) == PERI_E_CORRUPT, "no dim");
    CHECK(open_made(context, "flat", odd, 1, NULL, 0) == PERI_E_UNSUPPORTED, "an index");
}

int main(void) {
    peri_context *context = test_context(3);
    devices d = { context, test_device(context, PERI_PLACE_REF),
                  test_device(context, PERI_PLACE_CPU) };
    check_packing();
    test_each_isa(check_rotate, &d);
    test_each_isa(check_encode, &d);
    check_rotation(context);
    for (uint32_t bits = 1; bits <= 8; bits++) {
        check_unbiased(context, PERI_SQEUCLIDEAN, bits % 2 == 0 ? 50 : 128, bits);
        check_unbiased(context, PERI_INNER_PRODUCT, bits % 2 == 0 ? 96 : 64, bits);
        if (bits > 1 && bits < 6) check_search(context, bits);
    }
    check_rabitq_edges(context);
    check_codebooks(context);
    check_pq_rule();
    check_procrustes(context);
    check_files(context);
    peri_context_release(context);
    return check_done();
}
