/* knn_block_test: every set of kernels of the coarse pass that this CPU has, also those that it
 * would not choose, against plain loops: integer scores exactly, f32 scores within the error of
 * their sums; masks, returned bits, entries. */
#include "backend/cpu/knn_block.h"

#include "operate.h"

#define DIM_MOST 300

static char row_bytes[PERI_BLOCK_ROWS_MAX][4 * DIM_MOST];
static const char *rows[PERI_BLOCK_ROWS_MAX];
static int32_t queries[PERI_BLOCK_QUERIES_MAX][DIM_MOST]; /* Q */
static float real_queries[PERI_BLOCK_QUERIES_MAX][DIM_MOST];
static _Alignas(64) char panel[PERI_BLOCK_ROWS_MAX * 4 * (DIM_MOST + 4)];
static _Alignas(64) char tile[PERI_BLOCK_QUERIES_MAX * 4 * (DIM_MOST + 4)];

static int32_t x_of(peri_dtype dtype, size_t r, size_t j) {
    return dtype == PERI_I8 ? ((const int8_t *)rows[r])[j] + 128 : ((const uint8_t *)rows[r])[j];
}

static void make(peri_dtype dtype, uint32_t dim, size_t group, size_t wide) {
    memset(tile, 0, sizeof tile);
    for (size_t r = 0; r < PERI_BLOCK_ROWS_MAX; r++) {
        rows[r] = row_bytes[r];
        for (uint32_t j = 0; j < dim; j++)
            test_store(dtype, row_bytes[r], j, test_uniform(1, r * DIM_MOST + j));
    }
    for (size_t i = 0; i < wide; i++)
        for (uint32_t j = 0; j < dim; j++) {
            int32_t q = (int32_t)peri_random_below(2, i * DIM_MOST + j, 256) - 128;
            size_t at = (j / group * wide + i) * group + j % group;
            queries[i][j] = j % 7 == 0 ? -128 : q;
            real_queries[i][j] = test_uniform(3, i * DIM_MOST + j);
            if (peri_dtype_bytes(dtype) > 1)
                ((float *)(void *)tile)[j * wide + i] = real_queries[i][j];
            else if (group == 4)
                ((int8_t *)tile)[at] = (int8_t)queries[i][j];
            else
                ((int16_t *)(void *)tile)[at] = (int16_t)queries[i][j];
        }
}

/* What a tile must have said of query i, given its true masks. */
static void check_masks(const char *name, uint32_t dim, size_t i, uint32_t wanted, uint32_t hits,
                        const uint32_t *masks) {
    CHECK((hits >> i & 1) == (wanted != 0), "%s, %u columns: query %zu, hits %x, mask %x", name,
          dim, i, hits, wanted);
    if (wanted != 0)
        CHECK(masks[i] == wanted, "%s, %u columns: query %zu, mask %x, wanted %x", name, dim, i,
              masks[i], wanted);
}

static void check_whole(const peri_block_kernels *k, const char *name, peri_dtype dtype,
                        uint32_t dim, bool scaled) {
    int32_t sums[PERI_BLOCK_ROWS_MAX], squares[PERI_BLOCK_ROWS_MAX], start[PERI_BLOCK_ROWS_MAX];
    int32_t least[PERI_BLOCK_QUERIES_MAX], base[PERI_BLOCK_QUERIES_MAX];
    int32_t scores[PERI_BLOCK_SCORES_MAX], wanted[PERI_BLOCK_SCORES_MAX];
    float scale[PERI_BLOCK_ROWS_MAX], bar[PERI_BLOCK_QUERIES_MAX];
    uint32_t masks[PERI_BLOCK_QUERIES_MAX],
        groups = (dim + (uint32_t)k->group - 1) / (uint32_t)k->group;
    make(dtype, dim, k->group, k->queries);
    k->pack_whole(dtype, rows, dim, panel, sums, squares);
    for (size_t r = 0; r < k->rows; r++) {
        int32_t sum = 0, square = 0;
        for (uint32_t j = 0; j < dim; j++) {
            sum += x_of(dtype, r, j);
            square += x_of(dtype, r, j) * (x_of(dtype, r, j) - 128);
        }
        CHECK(sums[r] == sum && squares[r] == square, "%s, %u columns: sums of row %zu", name, dim,
              r);
        start[r] = (int32_t)r * 1000;
        scale[r] = 1.0f / (float)(r + 1);
        for (size_t i = 0; i < k->queries; i++) {
            int32_t *score = &wanted[i * k->rows + r];
            *score = start[r];
            for (uint32_t j = 0; j < dim; j++) *score += queries[i][j] * x_of(dtype, r, j);
        }
    }
    for (size_t i = 0; i < k->queries; i++) { /* none, one or some reach the threshold */
        base[i] = (int32_t)i * 77;
        least[i] = i % 3 == 0 ? INT32_MAX : wanted[i * k->rows + i % k->rows];
        bar[i] = i % 3 == 0 ? INFINITY
                            : scale[i] * (float)(base[i] + wanted[i * k->rows + i % k->rows]);
    }
    uint32_t hits = scaled ? k->tile_scaled(panel, start, scale, tile, groups, base, bar, masks,
                                            scores)
                           : k->tile_whole(panel, start, tile, groups, least, masks, scores);
    for (size_t i = 0; i < k->queries; i++) {
        const int32_t *of = &wanted[i * k->rows];
        uint32_t mask = 0;
        for (size_t r = 0; r < k->rows; r++) {
            bool in = scaled ? scale[r] * (float)(base[i] + of[r]) >= bar[i] : of[r] >= least[i];
            mask |= (uint32_t)in << r;
        }
        check_masks(name, dim, i, mask, hits, masks);
        bool same = memcmp(&scores[i * k->rows], of, k->rows * sizeof *of) == 0;
        if (mask != 0) CHECK(same, "%s, %u columns: scores of query %zu", name, dim, i);
    }
}

static void check_real(const peri_block_kernels *k, const char *name, uint32_t dim) {
    float norms[PERI_BLOCK_ROWS_MAX], start[PERI_BLOCK_ROWS_MAX], least[PERI_BLOCK_QUERIES_MAX];
    float scores[PERI_BLOCK_SCORES_MAX];
    uint32_t masks[PERI_BLOCK_QUERIES_MAX];
    make(PERI_F32, dim, 4, k->queries);
    k->pack(PERI_F32, rows, dim, NULL, NULL, (float *)(void *)panel, norms);
    for (size_t r = 0; r < k->rows; r++) start[r] = (float)r;
    for (size_t i = 0; i < k->queries; i++) least[i] = i % 3 == 0 ? INFINITY : i % 3 == 1 ? 9 : NAN;
    uint32_t hits = k->tile((const float *)(void *)panel, start, (const float *)(void *)tile, dim,
                            least, masks, scores);
    for (size_t i = 0; i < k->queries; i++) {
        uint32_t mask = 0;
        for (size_t r = 0; r < k->rows && (hits >> i & 1) != 0; r++) {
            double score = start[r];
            for (uint32_t j = 0; j < dim; j++)
                score += (double)real_queries[i][j] *
                         (double)((const float *)(const void *)rows[r])[j];
            float found = scores[i * k->rows + r];
            CHECK(fabs(found - score) < 1e-4, "%s, %u columns: score %zu, %zu is %g, wanted %g",
                  name, dim, i, r, (double)found, score);
            mask |= (uint32_t) !(found < least[i]) << r;
        }
        CHECK((hits >> i & 1) == (i % 3 != 0), "%s, %u columns: hits %x", name, dim, hits);
        check_masks(name, dim, i, mask, hits, masks);
    }
}

/* The value that a rule makes of a score, in plain C. */
static float value_of(const peri_block_rule *rule, float real, int32_t whole, size_t r) {
    switch (rule->form) {
    case PERI_BLOCK_FLOAT: return rule->offset - real;
    case PERI_BLOCK_SQUARED: return (float)(rule->base - 2 * whole - rule->odd[r]);
    case PERI_BLOCK_DOT: return -(float)(rule->base + whole);
    default: break;
    }
    float value = 1.0f - (float)(rule->base + whole) / (rule->length * rule->lengths[r]);
    return isnan(value) ? INFINITY : value;
}

static void check_take(const peri_block_kernels *k, const char *name, peri_block_form form) {
    int32_t whole[PERI_BLOCK_ROWS_MAX], odd[PERI_BLOCK_ROWS_MAX];
    float real[PERI_BLOCK_ROWS_MAX], lengths[PERI_BLOCK_ROWS_MAX], values[PERI_BLOCK_ROWS_MAX];
    uint32_t slots[PERI_BLOCK_ROWS_MAX], kept[PERI_BLOCK_ROWS_MAX];
    peri_block_rule rule = { form, 2.5f, 12345, 3.5f, odd, lengths };
    for (size_t r = 0; r < k->rows; r++) {
        whole[r] = r == 3 ? -12345 : (int32_t)peri_random_below(5, r, 100000) - 50000;
        real[r] = test_uniform(6, r);
        odd[r] = (int32_t)r % 2;
        lengths[r] = r == 3 ? 0 : 1 + (float)r; /* 0 / 0 */
        slots[r] = 1000 + 3 * (uint32_t)r;
    }
    for (uint32_t turn = 0; turn < 70; turn++) {
        uint32_t all = k->rows == 32 ? UINT32_MAX : (UINT32_C(1) << k->rows) - 1;
        uint32_t mask = turn < 32 ? UINT32_C(1) << turn & all
                                  : (uint32_t)peri_random_mix(7, turn) & all;
        if (turn == 69) mask = all;
        size_t count = k->take(&rule, form == PERI_BLOCK_FLOAT ? (void *)real : (void *)whole, mask,
                               slots, values, kept);
        size_t at = 0, wrong = 0;
        for (size_t r = 0; r < k->rows; r++) {
            if ((mask >> r & 1) == 0) continue;
            float value = value_of(&rule, real[r], whole[r], r);
            wrong += memcmp(&value, &values[at], sizeof value) != 0 || kept[at] != slots[r];
            at++;
        }
        CHECK(count == at && wrong == 0, "%s, form %d, mask %x: %zu entries, %zu wrong", name, form,
              mask, count, wrong);
    }
}

static void check_kernels(const peri_block_kernels *k, const char *name) {
    static const uint32_t dims[] = { 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 299 };
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        for (int dtype = PERI_I8; dtype <= PERI_U8; dtype++) {
            check_whole(k, name, (peri_dtype)dtype, dims[d], false);
            check_whole(k, name, (peri_dtype)dtype, dims[d], true);
        }
        check_real(k, name, dims[d]);
    }
    for (int form = PERI_BLOCK_FLOAT; form <= PERI_BLOCK_COSINE; form++)
        check_take(k, name, (peri_block_form)form);
}

int main(void) {
    const struct {
        const char *name;
        const peri_block_kernels *kernels;
        bool present;
    } sets[] = {
#if defined(__x86_64__)
        { "avx2", &peri_block_avx2, peri_isa_present(PERI_ISA_AVX2) },
        { "avxvnni", &peri_block_avxvnni, peri_block_has_avxvnni() },
        { "avx512", &peri_block_avx512, peri_isa_present(PERI_ISA_AVX512) },
#elif defined(__aarch64__)
        { "neon", &peri_block_neon, peri_isa_present(PERI_ISA_NEON) },
#endif
    };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (sets[i].present)
            check_kernels(sets[i].kernels, sets[i].name);
        else
            check_skip(sets[i].name, "this CPU lacks it");
    }
    return check_done();
}
