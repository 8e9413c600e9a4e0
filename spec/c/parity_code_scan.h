/* parity_code_scan.h: the scan of inverted lists by codes at a place against ref: every number of
 * bits, with and without centroids, steps, factors and filters; on the host by every instruction
 * set. */
#ifndef PERIGEE_SPEC_PARITY_CODE_SCAN_H
#define PERIGEE_SPEC_PARITY_CODE_SCAN_H

#include "backend/cpu/distances.h"
#include "core/codes.h"
#include "parity_lists.h"

typedef struct code_case {
    list_case l; /* rows: of the codes */
    peri_view centroids, levels, factors;
    uint32_t bits, query_bytes;
    bool centred, stepped, added, scaled;
} code_case;

static inline peri_op_code_scan code_scan_op(place *p, const code_case *c) {
    const list_case *l = &c->l;
    size_t q = l->c.queries.rows, cols = l->c.queries.cols;
    peri_op_code_scan op = { .kind = PERI_OP_CODE_SCAN, .metric = l->c.metric, .k = l->c.k };
    op.queries = place_put_view(p, &l->c.queries);
    op.probes = place_put(p, l->probes, q * l->n_probes * sizeof *l->probes);
    op.n_probes = l->n_probes;
    op.lists = l->lists;
    op.lists.offsets = place_put(p, l->lists.offsets, (l->lists.n_lists + 1) * sizeof(int64_t));
    op.lists.sizes = place_put(p, l->lists.sizes, l->lists.n_lists * sizeof(uint32_t));
    op.lists.slots = place_put(p, l->lists.slots, l->lists.capacity * sizeof(uint32_t));
    op.codes = place_put(p, l->c.rows.data, l->c.rows.rows * l->c.rows.cols);
    op.bits = c->bits;
    op.query_bytes = c->query_bytes;
    if (c->centred) op.centroids = place_put_view(p, &c->centroids).data;
    if (c->stepped) {
        const float *levels = place_put_view(p, &c->levels).data;
        op.low = levels;
        op.step = levels + cols;
    }
    const float *factors = place_put_view(p, &c->factors).data;
    if (c->added) op.adds = factors;
    if (c->scaled) op.scales = factors + l->lists.capacity;
    op.filter = filters_put(p, &l->c.filters, q);
    return op;
}

static inline peri_status code_scan_at(place *p, const code_case *c, int64_t *ids, float *distances,
                                       uint32_t *visited) {
    size_t q = c->l.c.queries.rows, count = q * c->l.c.k;
    peri_op_code_scan op = code_scan_op(p, c);
    op.ids = place_room(p, count * sizeof *ids);
    op.distances = place_room(p, count * sizeof *distances);
    op.visited = place_room(p, q * sizeof *visited);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, ids, op.ids, count * sizeof *ids);
    place_fetch(p, distances, op.distances, count * sizeof *distances);
    place_fetch(p, visited, op.visited, q * sizeof *visited);
    return PERI_OK;
}

static inline void compare_code_scan(pair *t, const code_case *c) {
    size_t q = c->l.c.queries.rows, count = q * c->l.c.k;
    int64_t *wanted = test_new(count, sizeof *wanted), *found = test_new(count, sizeof *found);
    float *wanted_values = test_new(count, sizeof *wanted_values);
    float *found_values = test_new(count, sizeof *found_values);
    uint32_t *wanted_visited = test_new(q, sizeof *wanted_visited);
    uint32_t *found_visited = test_new(q, sizeof *found_visited);
    place_must(code_scan_at(&t->ref, c, wanted, wanted_values, wanted_visited), "ref code_scan");
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        if (!went(t, PERI_OP_CODE_SCAN, "code_scan",
                  code_scan_at(&t->tested, c, found, found_values, found_visited)))
            break;
        compare_hits("code_scan", &c->l.c, wanted, wanted_values, found, found_values);
        CHECK(memcmp(wanted_visited, found_visited, q * sizeof *found_visited) == 0,
              "code_scan by %s: %u bits, %zu lists, %zu probes: entries looked at differ",
              peri_isa_name((peri_isa)isa), c->bits, c->l.lists.n_lists, c->l.n_probes);
        place_clear(&t->tested);
        if (t->tested.device->place.kind == PERI_PLACE_CUDA) break;
    }
    peri_isa_force(PERI_ISA_COUNT);
    clear(t);
    free(wanted);
    free(found);
    free(wanted_values);
    free(found_values);
    free(wanted_visited);
    free(found_visited);
}

typedef struct code_shape {
    size_t queries, rows, cols, lists, probes, k;
    uint32_t filters;
} code_shape;

/* Bytes of any value; the spare bits of a row's last byte are 0. */
static inline peri_view random_codes(size_t rows, size_t cols, uint32_t bits) {
    size_t bytes = peri_codes_bytes(cols, bits);
    peri_view view = { test_new(rows * bytes, 1), rows, bytes, bytes, PERI_U8, { 0 } };
    for (size_t i = 0; i < rows; i++) {
        uint8_t *row = peri_view_row(&view, i);
        for (size_t j = 0; j < cols; j++)
            peri_codes_put(row, j, bits, peri_random_below(31, i * cols + j, 1u << bits));
    }
    return view;
}

static inline void check_code_scan(pair *t, peri_metric metric, const code_shape *s, uint32_t bits,
                                   unsigned how) {
    code_case c = { .l = list_case_make(s->rows, s->lists, s->queries, s->probes),
                    .bits = bits,
                    .query_bytes = 1 + how % 2,
                    .centred = how & 2,
                    .stepped = how & 4,
                    .added = how & 8,
                    .scaled = how & 16 };
    c.l.c = (knn_case){ .metric = metric, .k = s->k, .what = "random" };
    c.l.c.queries = test_matrix(PERI_F32, s->queries, s->cols, s->queries % 2, 32);
    c.l.c.rows = random_codes(c.l.lists.capacity, s->cols, bits);
    c.l.c.filters = filters_make(s->filters, s->rows, s->queries);
    c.centroids = test_matrix(PERI_F32, s->lists, s->cols, 0, 33);
    c.levels = test_matrix(PERI_F32, 2, s->cols, 0, 34);
    c.factors = test_matrix(PERI_F32, 2, c.l.lists.capacity, 0, 35);
    compare_code_scan(t, &c);
    filters_free(&c.l.c.filters);
    free(c.l.c.queries.data);
    free(c.l.c.rows.data);
    free(c.centroids.data);
    free(c.levels.data);
    free(c.factors.data);
    free(c.l.probes);
    free((void *)(uintptr_t)c.l.lists.offsets);
    free((void *)(uintptr_t)c.l.lists.sizes);
    free((void *)(uintptr_t)c.l.lists.slots);
}

static inline void sweep_code_scan(pair *t) {
    static const code_shape shapes[] = {
        { 1, 1, 1, 1, 1, 1, 0 },     { 2, 31, 7, 4, 2, 5, 1 },      { 14, 300, 33, 9, 4, 32, 4 },
        { 3, 133, 64, 5, 0, 33, 2 }, { 70, 700, 130, 7, 3, 10, 0 }, { 9, 165, 96, 6, 0, 70, 4 },
    };
    unsigned how = 0;
    for (uint32_t bits = 1; bits <= PERI_CODE_BITS_MAX; bits++)
        for (size_t m = 0; m <= PERI_COSINE; m++)
            for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                check_code_scan(t, metrics[m], &shapes[s], bits, how++ * 7 % 32);
    if (t->small) return;
    code_shape many = { 4200, 40, 5, 3, 2, 3, 4 }, wide = { 2, 70, 4097, 3, 2, 10, 0 };
    code_shape high = { 1, 10, PERI_DIM_MAX, 2, 0, 3, 0 };
    check_code_scan(t, PERI_SQEUCLIDEAN, &many, 3, 31);
    check_code_scan(t, PERI_COSINE, &wide, 8, 31);
    check_code_scan(t, PERI_SQEUCLIDEAN, &high, 8, 31);
}

#endif
