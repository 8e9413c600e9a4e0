/* certificate_test: what cuda/certificate.cuh claims of the coarse pass on tensor cores, with these
 * simulated: sums of blocks of products, cut as the coarsest of them do. For every row, taken as
 * the last candidate, the bound must not be above its canonical value, also when no more is known
 * of rows than that they are as near as that; and for plain rows it must be close to it. */
#include <float.h>

#include "core/half.h"
#include "cuda/certificate.cuh"
#include "operate.h"

#define ROWS 300u
#define QUERIES 6u
#define DIM_MAX 300u

/* What a device keeps: `block` terms and the running sum are cut to `bits` below the largest. */
typedef struct unit {
    unsigned block;
    int bits;
} unit;

static double cut(double value, int exponent, int bits) {
    double step = ldexp(1, exponent - bits);
    return trunc(value / step) * step;
}

static double multiply(const double *a, const double *b, uint32_t dim, unit u) {
    double sum = 0;
    for (uint32_t from = 0; from < dim; from += u.block) {
        uint32_t stop = from + u.block < dim ? from + u.block : dim;
        int largest = -1000, exponent;
        for (uint32_t j = from; j < stop; j++) {
            if (a[j] * b[j] == 0) continue;
            exponent = ilogb(a[j] * b[j]);
            if (exponent > largest) largest = exponent;
        }
        if (sum != 0 && ilogb(sum) > largest) largest = ilogb(sum);
        if (largest == -1000) continue;
        double block = cut(sum, largest, u.bits);
        for (uint32_t j = from; j < stop; j++) block += cut(a[j] * b[j], largest, u.bits);
        sum = block == 0 ? 0 : cut(block, ilogb(block), 23);
    }
    return sum;
}

typedef struct side {
    double halves[DIM_MAX]; /* P or Y */
    double norm, residual, length;
} side;

/* (x * factor - centre) * scale as halves, rounded as the kernels round. */
static void prepare(const float *x, float factor, const float *centre, float scale, uint32_t dim,
                    side *out) {
    double norm = 0, residual = 0, length = 0;
    for (uint32_t j = 0; j < dim; j++) {
        float scaled = x[j] * factor,
              value = (centre == NULL ? scaled : scaled - centre[j]) * scale;
        out->halves[j] = peri_half_to_float(peri_float_to_half(value));
        double left = fabs(value - out->halves[j]) + fabs((double)value) * 0x1.004p-24;
        norm += out->halves[j] * out->halves[j];
        residual += left * left;
        length += (double)x[j] * x[j];
    }
    out->norm = sqrt(norm);
    out->residual = sqrt(residual);
    out->length = sqrt(length);
}

enum { KINDS = 4 };

static float make(int kind, size_t i, size_t j, uint64_t seed, uint32_t dim) {
    float value = test_uniform(seed, i * dim + j);
    if (kind == 3) return value * powf(10, 4 * test_uniform(6, i)); /* long and short */
    if (kind == 1) return 900 * test_uniform(5, i % 4 * dim + j) + 0.5f * value; /* clusters */
    if (kind == 2) return 50 + value;                                            /* far */
    return value;
}

typedef struct setting {
    peri_metric metric;
    uint32_t dim;
    int kind;
    unit u;
} setting;

static side xs[ROWS], qs[QUERIES];
static float x[ROWS][DIM_MAX], q[QUERIES][DIM_MAX], centre[DIM_MAX];

static peri_doubt_rows prepare_all(const setting *s, bool squared, float scale) {
    peri_doubt_rows most = { .scale = scale };
    bool cosine = s->metric == PERI_COSINE;
    for (uint32_t j = 0; j < s->dim; j++) {
        centre[j] = 0;
        for (size_t i = 0; i < ROWS; i++) {
            x[i][j] = make(s->kind, i, j, 1, s->dim);
            if (!cosine) centre[j] += x[i][j] / ROWS;
        }
        for (size_t i = 0; i < QUERIES; i++) q[i][j] = make(s->kind, i, j, 2, s->dim);
    }
    for (size_t i = 0; i < ROWS; i++) {
        float length = peri_canonical_length(PERI_F32, x[i], s->dim);
        prepare(x[i], cosine ? 1 / length : 1, centre, scale, s->dim, &xs[i]);
        most.norm = fmax(most.norm, xs[i].norm);
        most.residual = fmax(most.residual, xs[i].residual);
        most.length = fmax(most.length, xs[i].length);
    }
    if (cosine) most.residual += scale * (peri_doubt_sum(s->dim) + 4 * PERI_DOUBT_U);
    for (size_t i = 0; i < QUERIES; i++)
        prepare(q[i], 1, squared ? centre : NULL, squared ? scale : 2, s->dim, &qs[i]);
    return most;
}

static void check(setting s) {
    bool squared = s.metric == PERI_SQEUCLIDEAN;
    size_t above = 0, far = 0;
    double loose = 0, spread = 0;
    peri_doubt_rows most = prepare_all(&s, squared, s.kind % 2 == 1 ? 0.125f : 4.0f);
    for (size_t i = 0; i < QUERIES; i++) {
        peri_doubt_query about = { qs[i].norm, qs[i].residual, qs[i].length, 0,
                                   squared ? 1.0 : 2.0 };
        for (uint32_t j = 0; j < s.dim; j++) about.centre_dot += (double)q[i][j] * centre[j];
        float query_length = peri_canonical_length(PERI_F32, q[i], s.dim);
        for (size_t r = 0; r < ROWS; r++) {
            float term = squared ? (float)(xs[r].norm * xs[r].norm) : 0;
            float last = fmaf(squared ? -2.0f : -1.0f,
                              (float)multiply(qs[i].halves, xs[r].halves, s.dim, s.u), term);
            double bound = peri_certificate(s.metric, s.dim, &most, &about, last);
            float value = peri_canonical_distance(s.metric, PERI_F32, q[i], x[r], s.dim,
                                                  query_length,
                                                  peri_canonical_length(PERI_F32, x[r], s.dim));
            above += bound > value;
            if (squared) {
                peri_doubt_rows near = most;
                far += !peri_doubt_near(s.dim, &near, &about, value);
                far += near.norm < xs[r].norm || near.residual < xs[r].residual;
                above += peri_certificate(s.metric, s.dim, &near, &about, last) > value;
            }
            loose = fmax(loose, value - bound);
            spread = fmax(spread, fabs((double)value));
        }
    }
    CHECK(above == 0, "%s, %u columns, kind %d, blocks of %u: %zu of %u bounds are not bounds",
          peri_metric_name(s.metric), (unsigned)s.dim, s.kind, s.u.block, above, ROWS * QUERIES);
    CHECK(far == 0, "%u columns, kind %d: %zu rows are longer than is possible", (unsigned)s.dim,
          s.kind, far);
    CHECK(s.kind != 0 || loose < 0.004 * spread, "%s, %u columns: up to %g of %g below",
          peri_metric_name(s.metric), (unsigned)s.dim, loose, spread);
}

/* ---- f32 rows that the tensor cores read as TF32 -------------------------------------------- */

static float tf32(float value, bool rounds) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + (rounds ? 0x1000u : 0)) & ~0x1FFFu;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

/* As knn_floats.cu and rescore.cu of cuda/ have it; sums of squares by one lane, the worst. */
static peri_doubt_rows prepare_floats(const setting *s, bool rounds) {
    peri_doubt_rows most = { .scale = 1, .term = (s->dim / 2 + 16) * PERI_DOUBT_U };
    for (size_t i = 0; i < ROWS + QUERIES; i++) {
        bool row = i < ROWS;
        side *to = row ? &xs[i] : &qs[i - ROWS];
        float *from = row ? x[i] : q[i - ROWS];
        *to = (side){ .norm = 0 };
        for (uint32_t j = 0; j < s->dim; j++) {
            from[j] = make(s->kind, row ? i : i - ROWS, j, row ? 1 : 2, s->dim);
            to->halves[j] = tf32(from[j], row ? rounds : true);
            to->norm += to->halves[j] * to->halves[j];
            to->residual += (from[j] - to->halves[j]) * (from[j] - to->halves[j]);
            to->length += (double)from[j] * from[j];
        }
        to->norm = sqrt(to->norm);
        to->residual = sqrt(to->residual);
        to->length = sqrt(to->length);
        if (row) most.length = fmax(most.length, to->length * (1 + 2 * most.term));
    }
    most.apart = most.length * 0x1p-10 + 1e-30;
    most.norm = most.length + most.apart;
    return most;
}

static void check_floats(setting s, bool rounds) {
    bool squared = s.metric == PERI_SQEUCLIDEAN;
    size_t above = 0;
    double loose = 0, spread = 0;
    peri_doubt_rows most = prepare_floats(&s, rounds);
    for (size_t i = 0; i < QUERIES; i++) {
        peri_doubt_query about = { qs[i].norm, qs[i].residual, qs[i].length, 0, 1 };
        for (size_t r = 0; r < ROWS; r++) {
            float term = 0;
            for (uint32_t j = 0; squared && j < s.dim; j++) term = fmaf(x[r][j], x[r][j], term);
            term *= r % 2 == 0 ? 1 : (float)(1 - most.term); /* any sum of that error */
            float last = fmaf(squared ? -2.0f : -1.0f,
                              (float)multiply(qs[i].halves, xs[r].halves, s.dim, s.u), term);
            double bound = peri_certificate(s.metric, s.dim, &most, &about, last);
            float value = peri_canonical_distance(s.metric, PERI_F32, q[i], x[r], s.dim, 0, 0);
            above += bound > value;
            loose = fmax(loose, value - bound);
            spread = fmax(spread, fabs((double)value));
        }
    }
    CHECK(above == 0, "tf32, %s, %u columns, kind %d, blocks of %u: %zu of %u are not bounds",
          peri_metric_name(s.metric), (unsigned)s.dim, s.kind, s.u.block, above, ROWS * QUERIES);
    CHECK(s.kind != 0 || loose < 0.01 * spread, "tf32, %s, %u columns: up to %g of %g below",
          peri_metric_name(s.metric), (unsigned)s.dim, loose, spread);
}

int main(void) {
    static const unit units[] = { { 4, 23 }, { 8, 24 }, { 16, 25 } };
    static const peri_metric metrics[] = { PERI_SQEUCLIDEAN, PERI_INNER_PRODUCT, PERI_COSINE };
    static const uint32_t dims[] = { 1, 7, 64, 128, 300 };
    for (size_t u = 0; u < 3; u++)
        for (size_t m = 0; m < 3; m++)
            for (size_t d = 0; d < 5; d++)
                for (int kind = 0; kind < KINDS; kind++)
                    check((setting){ metrics[m], dims[d], kind, units[u] });
    for (size_t u = 0; u < 3; u++)
        for (size_t m = 0; m < 2; m++)
            for (size_t d = 0; d < 5; d++)
                for (int kind = 0; kind < 3; kind++)
                    check_floats((setting){ metrics[m], dims[d], kind, units[u] }, d % 2 == 0);
    /* whole numbers that f32 holds are exact; longer rows are not */
    peri_doubt_rows rows = { .norm = 2000, .length = 2000, .scale = 1 };
    peri_doubt_query query = { 2000, 0, 2000, 0, 1 };
    CHECK(peri_doubt_none(&rows, &query), "4000 squared is below 2^24");
    query.norm = 3000;
    CHECK(!peri_doubt_none(&rows, &query), "5000 squared is not");
    CHECK(!peri_doubt_near(7, &rows, &query, 1e10), "rows 1e5 away may be out of range");
    return check_done();
}
