/* graph_prune.c: detours, reverse edges and merge, step by step as perigee_backend.h defines
 * them. */
#include "backend/ref/ops.h"

typedef struct prune {
    const peri_op_graph_prune *op;
    uint32_t *kept;    /* [rows, degree] step 1 */
    uint32_t *reverse; /* [rows, degree] step 2 */
    uint32_t *counts;  /* [rows] reverse edges so far */
    uint32_t *detours; /* [knn_degree] of one row */
} prune;

size_t peri_ref_graph_prune_scratch(const peri_device *device, const peri_op_graph_prune *op) {
    (void)device;
    return (2 * op->rows * op->degree + op->rows + op->knn_degree) * sizeof(uint32_t);
}

static bool contains(const uint32_t *list, size_t count, uint32_t value) {
    for (size_t i = 0; i < count; i++)
        if (list[i] == value) return true;
    return false;
}

static size_t list_count(const uint32_t *list, size_t columns) {
    size_t count = 0;
    while (count < columns && list[count] != PERI_SLOT_NONE) count++;
    return count;
}

static void keep_edges(const prune *run, size_t row) {
    const peri_op_graph_prune *op = run->op;
    const uint32_t *list = op->knn + row * op->knn_degree;
    size_t count = list_count(list, op->knn_degree);
    for (size_t j = 0; j < count; j++) {
        run->detours[j] = 0;
        for (size_t i = 0; i < j; i++) {
            const uint32_t *second = op->knn + (size_t)list[i] * op->knn_degree;
            run->detours[j] += contains(second, list_count(second, op->knn_degree), list[j]);
        }
    }
    for (size_t at = 0; at < op->degree; at++) {
        size_t best = count;
        for (size_t j = 0; j < count; j++)
            if (run->detours[j] != UINT32_MAX &&
                (best == count || run->detours[j] < run->detours[best]))
                best = j;
        run->kept[row * op->degree + at] = best == count ? PERI_SLOT_NONE : list[best];
        if (best != count) run->detours[best] = UINT32_MAX; /* taken */
    }
}

static void reverse_edges(const prune *run) {
    size_t rows = run->op->rows, degree = run->op->degree;
    for (size_t row = 0; row < rows; row++) run->counts[row] = 0;
    for (size_t at = 0; at < degree; at++)
        for (size_t row = 0; row < rows; row++) {
            uint32_t target = run->kept[row * degree + at];
            if (target == PERI_SLOT_NONE || run->counts[target] == degree) continue;
            run->reverse[target * degree + run->counts[target]++] = (uint32_t)row;
        }
}

static void merge_edges(const prune *run, size_t row) {
    size_t degree = run->op->degree, count = 0;
    const uint32_t *kept = run->kept + row * degree;
    const uint32_t *reverse = run->reverse + row * degree;
    uint32_t *out = run->op->graph + row * degree;
    size_t kept_count = list_count(kept, degree), half = degree - degree / 2;
    for (size_t i = 0; i < kept_count && i < half; i++) out[count++] = kept[i];
    for (size_t i = 0; i < run->counts[row] && count < degree; i++)
        if (!contains(out, count, reverse[i])) out[count++] = reverse[i];
    for (size_t i = half; i < kept_count && count < degree; i++)
        if (!contains(out, count, kept[i])) out[count++] = kept[i];
    while (count < degree) out[count++] = PERI_SLOT_NONE;
}

peri_status peri_ref_graph_prune(peri_stream *stream, const peri_op_graph_prune *op, void *scratch,
                                 size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    prune run = { .op = op, .kept = scratch };
    run.reverse = run.kept + op->rows * op->degree;
    run.counts = run.reverse + op->rows * op->degree;
    run.detours = run.counts + op->rows;
    for (size_t row = 0; row < op->rows; row++) keep_edges(&run, row);
    reverse_edges(&run);
    for (size_t row = 0; row < op->rows; row++) merge_edges(&run, row);
    return PERI_OK;
}
