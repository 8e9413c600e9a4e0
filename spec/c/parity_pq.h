/* parity_pq.h: the scan of product-quantized codes at a place against ref, and codes that move
 * between layouts. */
#ifndef PERIGEE_SPEC_PARITY_PQ_H
#define PERIGEE_SPEC_PARITY_PQ_H

#include "core/codes.h"
#include "parity.h"

typedef struct pq_case {
    peri_metric metric;
    size_t queries, rows, n_lists, n_probes, k;
    uint32_t pq_dim, pq_len, pq_bits, filter_count;
    bool residual, per_cluster, coarse, huge;
} pq_case;

typedef struct pq_data {
    peri_view queries, centroids, words;
    int64_t *probes, *offsets;
    uint32_t *sizes, *slots;
    uint8_t *codes;
    size_t capacity, row_bytes;
    filters filters;
} pq_data;

/* Lists of very different sizes, the second one empty, room behind the last ones. */
static inline void pq_make_lists(const pq_case *c, pq_data *d) {
    size_t group = PERI_CODES_GROUP, left = c->rows;
    d->offsets = test_new(c->n_lists + 1, sizeof *d->offsets);
    d->sizes = test_new(c->n_lists, sizeof *d->sizes);
    for (size_t l = 0; l < c->n_lists; l++) {
        d->sizes[l] = l == 1 && c->n_lists > 2 ? 0
                                               : (uint32_t)(l + 1 == c->n_lists ? left : left / 3);
        left -= d->sizes[l];
        size_t room = (d->sizes[l] + group - 1) / group * group + l % 3 * group;
        d->offsets[l + 1] = d->offsets[l] + (int64_t)room;
    }
    d->capacity = (size_t)d->offsets[c->n_lists];
    d->slots = test_new(d->capacity, sizeof *d->slots);
    for (size_t i = 0; i < d->capacity; i++) d->slots[i] = PERI_SLOT_NONE; /* never read */
    uint32_t entry = 0;
    for (size_t l = 0; l < c->n_lists; l++)
        for (size_t i = 0; i < d->sizes[l]; i++, entry++)
            d->slots[(size_t)d->offsets[l] + i] = (uint32_t)((uint64_t)entry * 7919 % c->rows);
}

static inline peri_view pq_matrix(const pq_case *c, size_t rows, size_t cols, uint64_t seed) {
    if (c->coarse) return coarse_matrix(PERI_F32, rows, cols, seed);
    peri_view view = test_matrix(PERI_F32, rows, cols, 0, seed);
    for (size_t i = 0; c->huge && i < rows; i += 3) /* squares that overflow */
        ((float *)peri_view_row(&view, i))[i % cols] = i % 2 == 0 ? 3e38f : -3e38f;
    return view;
}

static inline pq_data pq_make(const pq_case *c) {
    pq_data d = { .row_bytes = peri_codes_bytes(c->pq_dim, c->pq_bits) };
    size_t dim = (size_t)c->pq_dim * c->pq_len, books = c->per_cluster ? c->n_lists : c->pq_dim;
    pq_make_lists(c, &d);
    d.queries = pq_matrix(c, c->queries, dim, 31);
    d.centroids = pq_matrix(c, c->n_lists, dim, 32);
    d.words = pq_matrix(c, books << c->pq_bits, c->pq_len, 33);
    d.codes = test_new(d.capacity * d.row_bytes, 1);
    for (size_t i = 0; i < d.capacity * d.row_bytes; i++)
        d.codes[i] = (uint8_t)peri_random_below(34, i, 256);
    d.filters = filters_make(c->filter_count, c->rows, c->queries);
    d.probes = test_new(c->queries * (c->n_probes + 1), sizeof *d.probes);
    for (size_t q = 0; q < c->queries; q++)
        for (size_t p = 0; p < c->n_probes; p++) /* the last one of some is none */
            d.probes[q * c->n_probes + p] = p > 0 && p + 1 == c->n_probes && q % 3 == 0
                                                ? PERI_ID_NONE
                                                : (int64_t)((q * 5 + p) % c->n_lists);
    return d;
}

static inline void pq_free(pq_data *d) {
    filters_free(&d->filters);
    free(d->queries.data);
    free(d->centroids.data);
    free(d->words.data);
    free(d->codes);
    free(d->probes);
    free(d->offsets);
    free(d->sizes);
    free(d->slots);
}

typedef struct pq_answer {
    int64_t *ids;
    float *distances;
    uint32_t *visited;
} pq_answer;

static inline peri_status pq_scan_at(place *p, const pq_case *c, const pq_data *d, pq_answer *a) {
    size_t q = c->queries, count = q * c->k;
    peri_op_pq_scan op = { .kind = PERI_OP_PQ_SCAN,
                           .metric = c->metric,
                           .queries = place_put_view(p, &d->queries),
                           .n_probes = c->n_probes,
                           .per_cluster = c->per_cluster,
                           .pq_dim = c->pq_dim,
                           .pq_len = c->pq_len,
                           .pq_bits = c->pq_bits,
                           .k = c->k };
    if (c->n_probes > 0) op.probes = place_put(p, d->probes, q * c->n_probes * sizeof *d->probes);
    op.lists = (peri_lists_view){
        .n_lists = c->n_lists,
        .capacity = d->capacity,
        .offsets = place_put(p, d->offsets, (c->n_lists + 1) * sizeof *d->offsets),
        .sizes = place_put(p, d->sizes, c->n_lists * sizeof *d->sizes),
        .slots = place_put(p, d->slots, d->capacity * sizeof *d->slots),
    };
    if (c->residual) op.centroids = place_put_view(p, &d->centroids).data;
    op.codebooks = place_put_view(p, &d->words).data;
    op.codes = place_put(p, d->codes, d->capacity * d->row_bytes);
    op.filter = filters_put(p, &d->filters, q);
    op.ids = place_room(p, count * sizeof *a->ids);
    op.distances = place_room(p, count * sizeof *a->distances);
    op.visited = place_room(p, q * sizeof *a->visited);
    peri_status status = place_run(p, &op);
    if (status != PERI_OK) return status;
    place_fetch(p, a->ids, op.ids, count * sizeof *a->ids);
    place_fetch(p, a->distances, op.distances, count * sizeof *a->distances);
    place_fetch(p, a->visited, op.visited, q * sizeof *a->visited);
    return PERI_OK;
}

static inline pq_answer pq_answer_new(const pq_case *c) {
    return (pq_answer){ test_new(c->queries * c->k, sizeof(int64_t)),
                        test_new(c->queries * c->k, sizeof(float)),
                        test_new(c->queries, sizeof(uint32_t)) };
}

static inline void pq_answer_free(pq_answer *a) {
    free(a->ids);
    free(a->distances);
    free(a->visited);
}

static inline void check_pq_scan(pair *t, pq_case c) {
    pq_data d = pq_make(&c);
    pq_answer wanted = pq_answer_new(&c), found = pq_answer_new(&c);
    knn_case told = { .metric = c.metric, .queries = d.queries, .k = c.k, .rows = d.words };
    told.what = c.huge ? "huge" : c.coarse ? "coarse" : c.per_cluster ? "per_cluster" : "random";
    told.rows.rows = c.pq_dim;
    told.rows.cols = c.pq_bits;
    told.filters.count = c.filter_count;
    place_must(pq_scan_at(&t->ref, &c, &d, &wanted), "ref pq_scan");
    if (went(t, PERI_OP_PQ_SCAN, "pq_scan", pq_scan_at(&t->tested, &c, &d, &found))) {
        compare_hits("pq_scan", &told, wanted.ids, wanted.distances, found.ids, found.distances);
        CHECK(memcmp(wanted.visited, found.visited, c.queries * sizeof *found.visited) == 0,
              "pq_scan: %zu lists, %zu probes: entries looked at differ", c.n_lists, c.n_probes);
    }
    clear(t);
    pq_answer_free(&wanted);
    pq_answer_free(&found);
    pq_free(&d);
}

static inline void sweep_pq_metric(pair *t, peri_metric metric) {
    static const struct {
        size_t queries, rows, lists, probes, k;
        uint32_t pq_dim, pq_len, filters;
    } shapes[] = { { 1, 1, 1, 1, 1, 1, 1, 0 },      { 1, 31, 4, 2, 5, 2, 3, 1 },
                   { 3, 300, 9, 4, 32, 7, 1, 0 },   { 14, 133, 5, 3, 33, 8, 2, 4 },
                   { 40, 700, 7, 3, 10, 17, 2, 2 }, { 9, 65, 6, 0, 70, 32, 1, 4 },
                   { 30, 900, 10, 0, 10, 5, 4, 0 } };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (uint32_t bits = s == 0 ? 1 : 4; bits <= 8; bits++)
            for (unsigned how = 0; how < 4; how++)
                check_pq_scan(t, (pq_case){ .metric = metric,
                                            .queries = shapes[s].queries,
                                            .rows = shapes[s].rows,
                                            .n_lists = shapes[s].lists,
                                            .n_probes = shapes[s].probes,
                                            .k = shapes[s].k,
                                            .pq_dim = shapes[s].pq_dim,
                                            .pq_len = shapes[s].pq_len,
                                            .pq_bits = bits,
                                            .filter_count = shapes[s].filters,
                                            .residual = how != 2,
                                            .per_cluster = how == 1 || s == 5,
                                            .coarse = how == 3 });
}

/* Row-major to interleaved and back, to places in reverse. */
static inline peri_status interleave_at(place *p, const uint8_t *codes, size_t rows, size_t cols,
                                        bool back, uint8_t *out) {
    int64_t *to = test_new(rows, sizeof *to);
    for (size_t i = 0; i < rows; i++) to[i] = (int64_t)(rows - 1 - i);
    peri_view in = {
        place_put(p, codes, rows * cols), rows, cols, cols, PERI_U8, p->device->place
    };
    peri_op_scatter op = { .kind = PERI_OP_SCATTER, .rows = in, .out = in, .count = rows };
    op.out.data = place_room(p, rows * cols);
    op.rows_interleaved = back;
    op.out_interleaved = !back;
    if (!back) op.to = place_put(p, to, rows * sizeof *to);
    peri_status status = place_run(p, &op);
    if (status == PERI_OK) place_fetch(p, out, op.out.data, rows * cols);
    free(to);
    return status;
}

static inline void check_interleave(pair *t, size_t groups, size_t cols) {
    size_t rows = groups * PERI_CODES_GROUP, bytes = rows * cols;
    uint8_t *codes = test_new(bytes, 1), *wanted = test_new(bytes, 1), *found = test_new(bytes, 1);
    for (size_t i = 0; i < bytes; i++) codes[i] = (uint8_t)peri_random_below(35, i, 256);
    for (unsigned back = 0; back < 2; back++) {
        place_must(interleave_at(&t->ref, codes, rows, cols, back, wanted), "ref scatter");
        if (went(t, PERI_OP_SCATTER, "scatter",
                 interleave_at(&t->tested, codes, rows, cols, back, found)))
            CHECK(memcmp(wanted, found, bytes) == 0, "%zu x %zu codes interleaved, back %u", rows,
                  cols, back);
        memcpy(codes, wanted, bytes);
    }
    clear(t);
    free(codes);
    free(wanted);
    free(found);
}

static inline void sweep_pq(pair *t) {
    for (size_t m = 0; m <= PERI_COSINE; m++) sweep_pq_metric(t, metrics[m]);
    for (size_t m = 0; m <= PERI_COSINE; m++)
        for (uint32_t bits = 4; bits <= 8; bits += 4)
            check_pq_scan(t, (pq_case){ metrics[m], 9, 400, 4, 3, 12, 9, 2, bits, 0, true, false,
                                        false, true });
    check_interleave(t, 1, 1);
    check_interleave(t, 5, 7);
    check_interleave(t, 40, 33);
    if (t->small) return;
    for (size_t m = 0; m <= PERI_COSINE; m++)
        check_pq_scan(t, (pq_case){ metrics[m], 70, 5000, 6, 4, 20, 48, 2, 4, (uint32_t)m, m != 2,
                                    false, false, false });
}

#endif
