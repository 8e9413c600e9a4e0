/* knn_graph_streamed.c: exact lists of rows that a device has no room for.
 *
 * Both sides stream: a block of rows lies on the device as queries while all rows pass it
 * (knn_chunks.h), then its lists come to the host. A pass costs a transfer of the rows, so a block
 * is as large as a quarter of the free memory allows: above some 20 000 queries of 128 columns the
 * scan takes longer than the link. */
#include "core/checked.h"
#include "core/distance.h"
#include "graph/knn_chunks.h"
#include "graph/knn_graph.h"
#include "graph/pairs.h"

#define BLOCK_ROWS ((size_t)65536) /* well above what makes a pass the scan's */
#define BLOCK_SHARE 4              /* of what is free */

typedef struct graph {
    const peri_graph_build *build;
    peri_device *device;
    peri_view rows;
    size_t degree;
    peri_matrix *ids, *distances; /* the answer, on the host */
    peri_progress progress;
} graph;

/* The lists of rows first .. first + count - 1, without these rows themselves, to the host. */
static peri_status hand_over(const graph *g, peri_lane *lane, const peri_knn_chunks *knn,
                             size_t first, size_t count) {
    peri_context *context = g->device->context;
    peri_place place = g->device->place;
    peri_matrix *ids = NULL, *distances = NULL;
    peri_op_others op = { .kind = PERI_OP_OTHERS,
                          .ids = knn->best_ids,
                          .distances = knn->best_distances,
                          .count = count,
                          .degree = g->degree,
                          .first = first };
    peri_status status;
    PERI_GO(peri_matrix_acquire(context, count, g->degree, PERI_I64, place, &ids));
    PERI_GO(peri_matrix_acquire(context, count, g->degree, PERI_F32, place, &distances));
    op.other_ids = peri_matrix_view(ids).data;
    op.other_distances = peri_matrix_view(distances).data;
    const peri_op_report report = { PERI_OP_REPORT, g->build->metric, op.other_distances,
                                    count * g->degree };
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_run(lane, (const peri_op *)&report));
    PERI_GO(peri_lane_wait(lane, &g->progress.control));
    PERI_GO(peri_matrix_copy_into(g->ids, first, ids));
    PERI_GO(peri_matrix_copy_into(g->distances, first, distances));
done:
    if (status != PERI_OK) (void)peri_lane_wait(lane, NULL);
    peri_matrix_release(ids);
    peri_matrix_release(distances);
    return status;
}

static peri_status search_block(graph *g, peri_lane *lane, peri_matrix *block, size_t first) {
    peri_view view = peri_matrix_view(block);
    peri_chunks chunks = { .device = g->device,
                           .rows = g->build->rows,
                           .threads = g->build->threads,
                           .progress = &g->progress,
                           .base = first * g->rows.rows,
                           .each = view.rows };
    peri_knn_chunks knn = { .metric = g->build->metric, .k = g->degree + 1 };
    peri_dtype dtype = peri_query_dtype(view.dtype);
    PERI_TRY(peri_pairs_queries(lane, &view, 0, view.rows, dtype, &knn.queries));
    PERI_TRY(peri_knn_chunks_open(&knn, lane));
    PERI_TRY(peri_lane_wait(lane, &g->progress.control));
    PERI_TRY(peri_knn_chunks_pass(&knn, &chunks));
    return hand_over(g, lane, &knn, first, view.rows);
}

static peri_status run_block(graph *g, size_t first, size_t count) {
    peri_matrix *part = NULL, *block = NULL;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_GO(peri_matrix_slice(g->build->rows, first, first + count, &part));
    PERI_GO(peri_matrix_move(part, g->device->place, &block));
    PERI_GO(peri_lane_acquire(g->device, &lane));
    PERI_GO(search_block(g, lane, block, first));
done:
    peri_lane_close(lane);
    peri_matrix_release(block);
    peri_matrix_release(part);
    return status;
}

static peri_status block_rows(const graph *g, size_t *out) {
    size_t lists = 4 * (g->degree + 1) * (sizeof(int64_t) + sizeof(float));
    size_t bytes = lists + g->rows.cols * (sizeof(float) + peri_dtype_bytes(g->rows.dtype));
    peri_device_info info;
    PERI_TRY(peri_device_trim(g->device->context, g->device->place));
    PERI_TRY(peri_device_stat(g->device->context, g->device->place, &info));
    *out = peri_min_size(info.bytes_free / BLOCK_SHARE / bytes, BLOCK_ROWS);
    *out = peri_max_size(*out, 1);
    return PERI_OK;
}

/* Fewer rows at a time where a pass finds no memory. */
static peri_status run_blocks(graph *g) {
    size_t rows, n = g->rows.rows;
    PERI_TRY(block_rows(g, &rows));
    for (size_t first = 0; first < n;) {
        size_t count = peri_min_size(rows, n - first);
        peri_status status = run_block(g, first, count);
        if (status == PERI_E_MEMORY && rows > 1) {
            rows = peri_max_size(count / 4, 1);
            continue;
        }
        PERI_TRY(status);
        first += count;
    }
    return PERI_OK;
}

peri_status peri_knn_graph_streamed(const peri_graph_build *build, peri_device *device,
                                    size_t degree, peri_matrix *ids, peri_matrix *distances) {
    graph g = { .build = build,
                .device = device,
                .rows = peri_matrix_view(build->rows),
                .degree = degree,
                .ids = ids,
                .distances = distances };
    size_t steps;
    PERI_TRY(peri_knn_chunks_check(device));
    if (!peri_mul_fits(g.rows.rows, g.rows.rows, &steps)) steps = 0;
    peri_progress_init(&g.progress, build->control, "exact", steps);
    return run_blocks(&g);
}
