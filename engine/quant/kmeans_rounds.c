/* kmeans_rounds.c: the rounds of Lloyd's algorithm: assign, move, repair.
 *
 * What is as large as the rows stays at their place; the host sees distances (for the inertia)
 * and, where clusters starve, labels. Rows that are too many for a device stay on the host with all
 * the rest, and only the assignment, which is nearly all of the work, is the device's: the sums
 * are those of the host, the same bits. One lane serves all operations; it is rewound after each,
 * so its scratch is that of the largest. */
#include "quant/kmeans_rounds.h"

#include <string.h>

#include "core/checked.h"
#include "core/memory.h"
#include "quant/kmeans_chunks.h"
#include "quant/kmeans_draw.h"

/* Rounds end when the inertia falls by a smaller share: what is left is far below the difference
 * between two seeds. */
#define TOLERANCE 1e-5
#define FEEDINGS_MOST 10u

static peri_status column(peri_kmeans_rounds *r, size_t rows, peri_dtype dtype, peri_matrix **out) {
    return peri_matrix_create(r->context, rows, 1, dtype, r->device->place, out);
}

static peri_status run_op(peri_kmeans_rounds *r, const peri_op *op) {
    peri_status status = peri_lane_run(r->lane, op);
    if (status == PERI_OK)
        status = peri_lane_wait(r->lane, r->control);
    else
        (void)peri_lane_wait(r->lane, NULL);
    if (status == PERI_OK) peri_lane_rewind(r->lane);
    return status;
}

static peri_status find_lengths(peri_kmeans_rounds *r, peri_matrix *rows, peri_matrix *lengths) {
    peri_op_lengths op = { PERI_OP_LENGTHS, peri_matrix_view(rows),
                           peri_matrix_view(lengths).data };
    return run_op(r, (const peri_op *)&op);
}

peri_status peri_kmeans_rounds_open(peri_kmeans_rounds *r, const peri_kmeans *asked,
                                    peri_matrix *rows, peri_matrix *centroids, uint64_t seed,
                                    const peri_control *control) {
    *r = (peri_kmeans_rounds){
        .asked = asked, .control = control, .seed = seed, .rows = rows, .centroids = centroids
    };
    size_t n = peri_matrix_view(rows).rows, clusters = peri_matrix_view(centroids).rows;
    r->metric = asked->metric == PERI_COSINE ? PERI_COSINE : PERI_SQEUCLIDEAN;
    r->context = peri_matrix_context(rows);
    if (peri_kmeans_streams(asked, rows)) r->through = asked->through;
    peri_matrix_retain(rows);
    peri_matrix_retain(centroids);
    PERI_TRY(peri_context_device(r->context, peri_matrix_view(rows).place, &r->device));
    PERI_TRY(peri_lane_acquire(r->device, &r->lane));
    peri_lane_follow(r->lane, control, asked->threads);
    PERI_TRY(column(r, n, PERI_U32, &r->labels));
    PERI_TRY(column(r, n, PERI_F32, &r->distances));
    PERI_TRY(column(r, clusters, PERI_U32, &r->counts));
    PERI_TRY(peri_memory_acquire(r->context, peri_draw_blocks(n), sizeof *r->sums, &r->sums));
    if (!r->device->shares_host)
        PERI_TRY(peri_memory_acquire(r->context, n, sizeof *r->found_room, &r->found_room));
    if (r->metric != PERI_COSINE) return PERI_OK;
    PERI_TRY(column(r, n, PERI_F32, &r->lengths));
    PERI_TRY(column(r, clusters, PERI_F32, &r->centroid_lengths));
    return find_lengths(r, rows, r->lengths);
}

void peri_kmeans_rounds_close(peri_kmeans_rounds *r) {
    size_t n = r->rows == NULL ? 0 : peri_matrix_view(r->rows).rows;
    peri_lane_close(r->lane);
    peri_memory_release(r->context, r->found_room, n, sizeof *r->found_room);
    peri_memory_release(r->context, r->sums, peri_draw_blocks(n), sizeof *r->sums);
    peri_matrix *all[] = { r->rows,   r->lengths,   r->centroids, r->centroid_lengths,
                           r->labels, r->distances, r->counts };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) peri_matrix_release(all[i]);
    *r = (peri_kmeans_rounds){ 0 };
}

static peri_status sum_distances(peri_kmeans_rounds *r) {
    peri_view view = peri_matrix_view(r->distances);
    r->found = r->found_room == NULL ? view.data : r->found_room;
    if (r->found_room != NULL)
        PERI_TRY(peri_matrix_read(r->distances, 0, view.rows, r->found_room));
    r->inertia = peri_draw_fill(r->found, view.rows, r->sums);
    return PERI_OK;
}

peri_status peri_kmeans_rounds_assign(peri_kmeans_rounds *r) {
    peri_op_assign op = { .kind = PERI_OP_ASSIGN, .metric = r->metric };
    op.rows = peri_matrix_view(r->rows);
    op.centroids = peri_matrix_view(r->centroids);
    op.labels = peri_matrix_view(r->labels).data;
    op.distances = peri_matrix_view(r->distances).data;
    r->assignments++;
    if (r->through != NULL) {
        const peri_assign_chunks chunks = {
            r->through, r->rows,      r->centroids,      r->metric,
            op.labels,  op.distances, r->asked->threads, r->control
        };
        PERI_TRY(peri_assign_chunks_pass(&chunks));
        return sum_distances(r);
    }
    if (r->metric == PERI_COSINE) {
        PERI_TRY(find_lengths(r, r->centroids, r->centroid_lengths));
        op.lengths = peri_matrix_view(r->centroid_lengths).data;
    }
    PERI_TRY(run_op(r, (const peri_op *)&op));
    return sum_distances(r);
}

peri_status peri_kmeans_rounds_move(peri_kmeans_rounds *r, const double *weights) {
    peri_op_cluster_sums op = { .kind = PERI_OP_CLUSTER_SUMS, .unit = r->metric == PERI_COSINE };
    op.rows = peri_matrix_view(r->rows);
    op.labels = peri_matrix_view(r->labels).data;
    op.centroids = peri_matrix_view(r->centroids);
    op.counts = peri_matrix_view(r->counts).data;
    if (r->lengths != NULL) op.lengths = peri_matrix_view(r->lengths).data;
    if (weights != NULL)
        PERI_TRY(
            peri_lane_upload(r->lane, weights, op.centroids.rows, sizeof *weights, &op.weights));
    return run_op(r, (const peri_op *)&op);
}

peri_status peri_kmeans_rounds_sizes(const peri_kmeans_rounds *r, uint32_t *sizes) {
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(r->labels, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    const uint32_t *labels = view.data;
    memset(sizes, 0, peri_matrix_view(r->centroids).rows * sizeof *sizes);
    for (size_t i = 0; i < view.rows; i++) sizes[labels[i]]++;
    peri_matrix_release(host);
    return PERI_OK;
}

/* ---- the rounds --------------------------------------------------------------------------- */

/* Moves the centroids and repairs; `sizes` is room for as many as there are clusters. */
static peri_status move_and_repair(peri_kmeans_rounds *r, double threshold, uint32_t *sizes,
                                   size_t *moved) {
    size_t clusters = peri_matrix_view(r->centroids).rows;
    PERI_TRY(peri_kmeans_rounds_move(r, NULL));
    r->iterations++;
    PERI_TRY(peri_matrix_read(r->counts, 0, clusters, sizes));
    return peri_kmeans_repair(r, threshold, sizes, moved);
}

static bool has_settled(const peri_kmeans_rounds *r, double before, size_t moved) {
    return r->inertia == 0 || (moved == 0 && before - r->inertia <= TOLERANCE * before);
}

static peri_status run_rounds(peri_kmeans_rounds *r, const peri_kmeans_plan *plan,
                              peri_progress *progress, uint32_t *sizes) {
    uint32_t earned = 0, most = 2 * plan->n_iters;
    size_t moved = 1;
    double before = 0;
    for (uint32_t i = 0; i <= plan->n_iters + peri_min_size(earned / plan->pull_back, most); i++) {
        peri_progress_step(progress, peri_min_size(i, progress->total - 1), 1);
        PERI_TRY(peri_progress_tell(progress, progress->base));
        if (i > 0) PERI_TRY(move_and_repair(r, plan->threshold, sizes, &moved));
        if (moved > 0 && i > 0 && plan->threshold > 0) earned++;
        PERI_TRY(peri_kmeans_rounds_assign(r));
        if (i > 0 && has_settled(r, before, moved)) break;
        before = r->inertia;
    }
    return PERI_OK;
}

/* No cluster starves at the end, unless there is nothing to cut: centroids that starve move, the
 * others stay, while fewer starve each time. */
static peri_status feed(peri_kmeans_rounds *r, double threshold, uint32_t *sizes) {
    size_t moved, before = SIZE_MAX;
    for (uint32_t i = 0; i < FEEDINGS_MOST && r->inertia > 0; i++) {
        PERI_TRY(peri_kmeans_rounds_sizes(r, sizes));
        PERI_TRY(peri_kmeans_repair(r, threshold, sizes, &moved));
        if (moved == 0) break;
        PERI_TRY(peri_kmeans_rounds_assign(r));
        if (moved >= before) break;
        before = moved;
    }
    return PERI_OK;
}

peri_status peri_kmeans_rounds_run(peri_kmeans_rounds *r, const peri_kmeans_plan *plan) {
    const peri_control *outer = r->control;
    size_t clusters = peri_matrix_view(r->centroids).rows;
    peri_progress progress;
    uint32_t *sizes;
    peri_progress_init(&progress, outer, plan->stage, peri_max_size(1, plan->n_iters));
    PERI_TRY(peri_memory_acquire(r->context, clusters, sizeof *sizes, &sizes));
    r->control = &progress.control;
    peri_lane_follow(r->lane, r->control, r->asked->threads);
    peri_status status = run_rounds(r, plan, &progress, sizes);
    if (status == PERI_OK && plan->threshold > 0) status = feed(r, plan->threshold, sizes);
    r->control = outer;
    peri_lane_follow(r->lane, outer, r->asked->threads);
    peri_memory_release(r->context, sizes, clusters, sizeof *sizes);
    return status;
}
