/* pointers.c: which memory an operation names, and whether it is the device's.
 *
 * The cpu backend would happily follow a host pointer; a GPU faults. This check makes the
 * difference show without one: each array of an operation must lie in one block of the device,
 * over its whole length. */
#include "backend/fake/fake.h"
#include "core/checked.h"
#include "core/code.h"
#include "core/codes.h"
#include "core/turns.h"

#define POINTERS_MAX 20

typedef struct pointers {
    const char *op;
    size_t count;
    struct {
        const char *name;
        const void *data;
        size_t bytes;
    } list[POINTERS_MAX];
} pointers;

/* rows * cols * size bytes; what does not fit a size_t can't lie in a block either. */
static void add(pointers *p, const char *name, const void *data, size_t rows, size_t cols,
                size_t size) {
    size_t bytes;
    if (data == NULL || rows == 0 || cols == 0) return;
    if (!peri_mul_fits(rows, cols, &bytes) || !peri_mul_fits(bytes, size, &bytes)) bytes = SIZE_MAX;
    PERI_ASSERT(p->count < POINTERS_MAX);
    p->list[p->count].name = name;
    p->list[p->count].data = data;
    p->list[p->count].bytes = bytes;
    p->count++;
}

/* The last row need not have the whole stride. */
static void add_view(pointers *p, const char *name, const peri_view *view) {
    if (view->rows == 0 || view->cols == 0) return;
    size_t row = view->cols * peri_dtype_bytes(view->dtype), bytes;
    if (!peri_mul_fits(view->rows - 1, view->stride_bytes, &bytes) ||
        !peri_add_fits(bytes, row, &bytes))
        bytes = SIZE_MAX;
    add(p, name, view->data, 1, 1, bytes);
}

static void add_filter(pointers *p, const peri_filter_view *filter, size_t queries) {
    if (filter->count == 0) return;
    add(p, "filter.bits", filter->bits, filter->count, 1, sizeof *filter->bits);
    add(p, "filter.lists", filter->lists, filter->count, 1, sizeof *filter->lists);
    add(p, "filter.which", filter->which, queries, 1, sizeof *filter->which);
}

static void of_convert(pointers *p, const peri_op_convert *op) {
    add_view(p, "in", &op->in);
    add_view(p, "out", &op->out);
}

static void of_lengths(pointers *p, const peri_op_lengths *op) {
    add_view(p, "rows", &op->rows);
    add(p, "out", op->out, op->rows.rows, 1, sizeof *op->out);
}

static void of_gather(pointers *p, const peri_op_gather *op) {
    add_view(p, "rows", &op->rows);
    add(p, "slots", op->slots, op->out.rows, 1, sizeof *op->slots);
    add_view(p, "out", &op->out);
}

static void of_scatter(pointers *p, const peri_op_scatter *op) {
    add_view(p, "rows", &op->rows);
    add(p, "from", op->from, op->count, 1, sizeof *op->from);
    add(p, "to", op->to, op->count, 1, sizeof *op->to);
    add_view(p, "out", &op->out);
}

static void of_select_k(pointers *p, const peri_op_select_k *op) {
    size_t n = op->values.rows;
    add_view(p, "values", &op->values);
    add(p, "ids", op->ids, n, op->values.cols, sizeof *op->ids);
    add(p, "best_ids", op->best_ids, n, op->k, sizeof *op->best_ids);
    add(p, "best_values", op->best_values, n, op->k, sizeof *op->best_values);
}

static void of_merge(pointers *p, const peri_op_merge *op) {
    size_t q = op->queries, entries;
    if (!peri_mul_fits(q, op->part_k, &entries)) entries = SIZE_MAX;
    add(p, "ids", op->ids, op->parts, entries, sizeof *op->ids);
    add(p, "distances", op->distances, op->parts, entries, sizeof *op->distances);
    add(p, "bases", op->bases, op->parts, 1, sizeof *op->bases);
    add(p, "best_ids", op->best_ids, q, op->k, sizeof *op->best_ids);
    add(p, "best_distances", op->best_distances, q, op->k, sizeof *op->best_distances);
}

static void of_pairwise(pointers *p, const peri_op_pairwise *op) {
    add_view(p, "queries", &op->queries);
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE)
        add(p, "lengths", op->lengths, op->rows.rows, 1, sizeof *op->lengths);
    add_view(p, "out", &op->out);
}

static void add_lists(pointers *p, const peri_lists_view *lists) {
    add(p, "lists.offsets", lists->offsets, lists->n_lists + 1, 1, sizeof *lists->offsets);
    add(p, "lists.sizes", lists->sizes, lists->n_lists, 1, sizeof *lists->sizes);
    add(p, "lists.slots", lists->slots, lists->capacity, 1, sizeof *lists->slots);
}

static void of_list_scan(pointers *p, const peri_op_list_scan *op) {
    size_t q = op->queries.rows;
    add_view(p, "queries", &op->queries);
    add(p, "probes", op->probes, q, op->n_probes, sizeof *op->probes);
    add_lists(p, &op->lists);
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE)
        add(p, "lengths", op->lengths, op->rows.rows, 1, sizeof *op->lengths);
    add_filter(p, &op->filter, q);
    add(p, "ids", op->ids, q, op->k, sizeof *op->ids);
    add(p, "distances", op->distances, q, op->k, sizeof *op->distances);
    add(p, "visited", op->visited, q, 1, sizeof *op->visited);
}

static void of_code_scan(pointers *p, const peri_op_code_scan *op) {
    size_t q = op->queries.rows, cols = op->queries.cols, capacity = op->lists.capacity;
    add_view(p, "queries", &op->queries);
    add(p, "probes", op->probes, q, op->n_probes, sizeof *op->probes);
    add_lists(p, &op->lists);
    add(p, "centroids", op->centroids, op->lists.n_lists, cols, sizeof *op->centroids);
    add(p, "codes", op->codes, capacity, peri_codes_bytes(cols, op->bits), 1);
    add(p, "low", op->low, cols, 1, sizeof *op->low);
    add(p, "step", op->step, cols, 1, sizeof *op->step);
    add(p, "adds", op->adds, capacity, 1, sizeof *op->adds);
    add(p, "scales", op->scales, capacity, 1, sizeof *op->scales);
    add_filter(p, &op->filter, q);
    add(p, "ids", op->ids, q, op->k, sizeof *op->ids);
    add(p, "distances", op->distances, q, op->k, sizeof *op->distances);
    add(p, "visited", op->visited, q, 1, sizeof *op->visited);
}

static void of_range_scan(pointers *p, const peri_op_range_scan *op) {
    size_t q = op->queries.rows;
    add_view(p, "queries", &op->queries);
    add(p, "probes", op->probes, q, op->n_probes, sizeof *op->probes);
    add_lists(p, &op->lists);
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE)
        add(p, "lengths", op->lengths, op->rows.rows, 1, sizeof *op->lengths);
    add_filter(p, &op->filter, q);
    add(p, "counts", op->counts, q, 1, sizeof *op->counts);
    add(p, "offsets", op->offsets, q, 1, sizeof *op->offsets);
    add(p, "ids", op->ids, op->room, 1, sizeof *op->ids);
    add(p, "distances", op->distances, op->room, 1, sizeof *op->distances);
}

static void of_pq_scan(pointers *p, const peri_op_pq_scan *op) {
    size_t q = op->queries.rows, dim = (size_t)op->pq_dim * op->pq_len;
    size_t books = op->per_cluster ? op->lists.n_lists : op->pq_dim;
    add_view(p, "queries", &op->queries);
    add(p, "probes", op->probes, q, op->n_probes, sizeof *op->probes);
    add_lists(p, &op->lists);
    add(p, "centroids", op->centroids, op->lists.n_lists, dim, sizeof *op->centroids);
    add(p, "codebooks", op->codebooks, books << op->pq_bits, op->pq_len, sizeof *op->codebooks);
    add(p, "codes", op->codes, op->lists.capacity, peri_codes_bytes(op->pq_dim, op->pq_bits), 1);
    add_filter(p, &op->filter, q);
    add(p, "ids", op->ids, q, op->k, sizeof *op->ids);
    add(p, "distances", op->distances, q, op->k, sizeof *op->distances);
    add(p, "visited", op->visited, q, 1, sizeof *op->visited);
}

static void of_knn(pointers *p, const peri_op_knn *op) {
    add_view(p, "queries", &op->queries);
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE)
        add(p, "lengths", op->lengths, op->rows.rows, 1, sizeof *op->lengths);
    add_filter(p, &op->filter, op->queries.rows);
    add(p, "ids", op->ids, op->queries.rows, op->k, sizeof *op->ids);
    add(p, "distances", op->distances, op->queries.rows, op->k, sizeof *op->distances);
    add(p, "redone", op->redone, 1, 1, sizeof *op->redone);
    add(p, "scanned", op->scanned, 1, 1, sizeof *op->scanned);
}

static void of_others(pointers *p, const peri_op_others *op) {
    add(p, "ids", op->ids, op->count, op->degree + 1, sizeof *op->ids);
    add(p, "distances", op->distances, op->count, op->degree + 1, sizeof *op->distances);
    add(p, "slots", op->slots, op->count, op->degree, sizeof *op->slots);
    add(p, "other_ids", op->other_ids, op->count, op->degree, sizeof *op->other_ids);
    add(p, "other_distances", op->other_distances, op->count, op->degree,
        sizeof *op->other_distances);
}

static void of_assign(pointers *p, const peri_op_assign *op) {
    add_view(p, "rows", &op->rows);
    add_view(p, "centroids", &op->centroids);
    if (op->metric == PERI_COSINE)
        add(p, "lengths", op->lengths, op->centroids.rows, 1, sizeof *op->lengths);
    add(p, "labels", op->labels, op->rows.rows, 1, sizeof *op->labels);
    add(p, "distances", op->distances, op->rows.rows, 1, sizeof *op->distances);
}

static void of_cluster_sums(pointers *p, const peri_op_cluster_sums *op) {
    size_t n = op->rows.rows, clusters = op->centroids.rows;
    add_view(p, "rows", &op->rows);
    add(p, "labels", op->labels, n, 1, sizeof *op->labels);
    add(p, "lengths", op->lengths, n, 1, sizeof *op->lengths);
    add(p, "weights", op->weights, clusters, 1, sizeof *op->weights);
    add_view(p, "centroids", &op->centroids);
    add(p, "counts", op->counts, clusters, 1, sizeof *op->counts);
}

static void of_refine(pointers *p, const peri_op_refine *op) {
    size_t q = op->queries.rows;
    add_view(p, "queries", &op->queries);
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE)
        add(p, "lengths", op->lengths, op->rows.rows, 1, sizeof *op->lengths);
    add(p, "candidates", op->candidates, q, op->columns, sizeof *op->candidates);
    if (op->k > 0) add(p, "ids", op->ids, q, op->k, sizeof *op->ids);
    add(p, "distances", op->distances, q, op->k > 0 ? op->k : op->columns, sizeof *op->distances);
}

static void of_list_join(pointers *p, const peri_op_list_join *op) {
    size_t n = op->rows.rows;
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE) add(p, "lengths", op->lengths, n, 1, sizeof *op->lengths);
    add(p, "starts", op->starts, op->lists + 1, 1, sizeof *op->starts);
    add(p, "probes", op->probes, n, op->probe_count, sizeof *op->probes);
    add(p, "slots", op->slots, n, op->degree, sizeof *op->slots);
    add(p, "distances", op->distances, n, op->degree, sizeof *op->distances);
}

static void of_graph_descent(pointers *p, const peri_op_graph_descent *op) {
    size_t n = op->rows.rows, degree = op->degree;
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE) add(p, "lengths", op->lengths, n, 1, sizeof *op->lengths);
    if (op->iteration > 0) {
        add(p, "slots", op->slots, n, degree, sizeof *op->slots);
        add(p, "distances", op->distances, n, degree, sizeof *op->distances);
        add(p, "fresh", op->fresh, n, degree, sizeof *op->fresh);
    }
    add(p, "slots_next", op->slots_next, n, degree, sizeof *op->slots_next);
    add(p, "distances_next", op->distances_next, n, degree, sizeof *op->distances_next);
    add(p, "fresh_next", op->fresh_next, n, degree, sizeof *op->fresh_next);
    add(p, "updates", op->updates, 1, 1, sizeof *op->updates);
}

static void of_graph_prune(pointers *p, const peri_op_graph_prune *op) {
    add(p, "knn", op->knn, op->rows, op->knn_degree, sizeof *op->knn);
    add(p, "graph", op->graph, op->rows, op->degree, sizeof *op->graph);
}

static void of_graph_link(pointers *p, const peri_op_graph_link *op) {
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE || op->metric == PERI_INNER_PRODUCT)
        add(p, "lengths", op->lengths, op->rows.rows, 1, sizeof *op->lengths);
    add(p, "slots", op->slots, op->count, 1, sizeof *op->slots);
    add(p, "candidates", op->candidates, op->count, op->columns, sizeof *op->candidates);
    add(p, "distances", op->distances, op->count, op->columns, sizeof *op->distances);
    add(p, "links", op->links, op->count, op->degree, sizeof *op->links);
    add(p, "link_distances", op->link_distances, op->count, op->degree, sizeof *op->link_distances);
}

static void of_graph_search(pointers *p, const peri_op_graph_search *op) {
    size_t n = op->rows.rows, q = op->queries.rows;
    add_view(p, "queries", &op->queries);
    add_view(p, "rows", &op->rows);
    if (op->metric == PERI_COSINE) add(p, "lengths", op->lengths, n, 1, sizeof *op->lengths);
    add(p, "graph", op->graph, n, op->degree, sizeof *op->graph);
    if (op->hierarchy.level_max > 0) {
        add(p, "hierarchy.first", op->hierarchy.first, n, 1, sizeof *op->hierarchy.first);
        /* its length is not told; one row at least */
        add(p, "hierarchy.links", op->hierarchy.links, op->hierarchy.degree, 1,
            sizeof *op->hierarchy.links);
    }
    if (op->landmark_count > 0)
        add(p, "landmarks", op->landmarks, op->landmark_count, 1, sizeof *op->landmarks);
    if (op->codes.rows.data != NULL) {
        add_view(p, "codes.rows", &op->codes.rows);
    }
    if (op->codes.rows.data != NULL && op->codes.bits == 0) {
        add(p, "codes.low", op->codes.low, op->rows.cols, 1, sizeof *op->codes.low);
        add(p, "codes.step", op->codes.step, op->rows.cols, 1, sizeof *op->codes.step);
        add(p, "codes.scale", op->codes.scale, op->rows.cols, 1, sizeof *op->codes.scale);
    } else if (op->codes.rows.data != NULL) {
        size_t block = peri_packed_block(op->codes.dim, op->codes.bits, op->degree);
        add(p, "codes.center", op->codes.center, op->codes.dim, 1, sizeof *op->codes.center);
        add(p, "codes.signs", op->codes.signs, op->codes.dim, PERI_TURNS_ROUNDS,
            sizeof *op->codes.signs);
        if (op->codes.linked != NULL) add(p, "codes.linked", op->codes.linked, n, block, 1);
    }
    add_filter(p, &op->filter, q);
    add(p, "ids", op->ids, q, op->k, sizeof *op->ids);
    add(p, "distances", op->distances, q, op->k, sizeof *op->distances);
    add(p, "visited", op->visited, q, 1, sizeof *op->visited);
}

static void of_rotate(pointers *p, const peri_op_rotate *op) {
    add_view(p, "rows", &op->rows);
    /* how many centroids there are is not told; one at least */
    add(p, "centroids", op->centroids, 1, op->rows.cols, sizeof *op->centroids);
    add(p, "lengths", op->lengths, op->rows.rows, 1, sizeof *op->lengths);
    add(p, "labels", op->labels, op->rows.rows, 1, sizeof *op->labels);
    add(p, "rotation", op->rotation, op->out.cols, op->rows.cols, sizeof *op->rotation);
    add_view(p, "out", &op->out);
}

static void of_pq_encode(pointers *p, const peri_op_pq_encode *op) {
    add_view(p, "rows", &op->rows);
    add(p, "codebooks", op->codebooks, op->books << op->pq_bits, op->pq_len, sizeof *op->codebooks);
    add(p, "labels", op->labels, op->rows.rows, 1, sizeof *op->labels);
    add(p, "codes", op->codes, op->rows.rows, peri_codes_bytes(op->pq_dim, op->pq_bits), 1);
}

static void of_report(pointers *p, const peri_op_report *op) {
    add(p, "values", op->values, op->count, 1, sizeof *op->values);
}

peri_status peri_fake_pointers_check(peri_fake_device *device, const peri_op *op) {
    pointers p = { "", 0, { { NULL, NULL, 0 } } };
    switch (op->kind) {
#define OF(NAME, name)                                                                             \
    case PERI_OP_##NAME:                                                                           \
        p.op = #name;                                                                              \
        of_##name(&p, (const peri_op_##name *)op);                                                 \
        break;
        PERI_OP_MAP(OF)
#undef OF
    case PERI_OP_COUNT: break;
    }
    for (size_t i = 0; i < p.count; i++)
        if (!peri_fake_memory_holds(device, p.list[i].data, p.list[i].bytes))
            return peri_fail(PERI_E_DEVICE,
                             "fake:%u: %s.%s, %zu bytes at %p, is not memory of this device",
                             (unsigned)device->base.place.number, p.op, p.list[i].name,
                             p.list[i].bytes, p.list[i].data);
    return PERI_OK;
}

static peri_status check_one(peri_fake_device *device, const char *what, uint32_t number,
                             const void *data, size_t bytes) {
    if (data == NULL || peri_fake_memory_holds(device, data, bytes)) return PERI_OK;
    return peri_fail(PERI_E_DEVICE,
                     "fake:%u: filter.%s[%u], %zu bytes at %p, is not memory of this device",
                     (unsigned)device->base.place.number, what, (unsigned)number, bytes, data);
}

peri_status peri_fake_filter_check(peri_fake_device *device, const peri_op *op) {
    const peri_filter_view *filter = NULL;
    if (op->kind == PERI_OP_KNN) filter = &((const peri_op_knn *)op)->filter;
    if (op->kind == PERI_OP_CODE_SCAN) filter = &((const peri_op_code_scan *)op)->filter;
    if (op->kind == PERI_OP_RANGE_SCAN) filter = &((const peri_op_range_scan *)op)->filter;
    if (op->kind == PERI_OP_LIST_SCAN) filter = &((const peri_op_list_scan *)op)->filter;
    if (op->kind == PERI_OP_PQ_SCAN) filter = &((const peri_op_pq_scan *)op)->filter;
    if (op->kind == PERI_OP_GRAPH_SEARCH) filter = &((const peri_op_graph_search *)op)->filter;
    if (filter == NULL || filter->count == 0) return PERI_OK;
    for (uint32_t i = 0; i < filter->count; i++) {
        if (filter->bits != NULL)
            PERI_TRY(check_one(device, "bits", i, filter->bits[i],
                               filter->words * sizeof **filter->bits));
        /* a list may be empty; how long it is, `passing` says */
        if (filter->lists != NULL) {
            size_t count = filter->passing == NULL ? 0 : filter->passing[i];
            PERI_TRY(
                check_one(device, "lists", i, filter->lists[i], count * sizeof **filter->lists));
        }
    }
    return PERI_OK;
}
