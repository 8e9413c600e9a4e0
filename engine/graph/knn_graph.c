/* knn_graph.c: kNN lists, exact, by NN-descent or by clusters, as runs of the backends' operations.
 *
 * Exact is the kNN operation with the rows as queries, in chunks, so that the memory for wide
 * results stays small and progress is seen. The row itself is dropped by its number, not by its
 * place: under the inner product it need not be the nearest, and may be missing from its own
 * list.
 *
 * NN-descent keeps two sets of lists, read one and write the other, and ends when an iteration
 * brings less than termination_threshold * n * degree new entries. */
#include "graph/knn_graph.h"

#include "core/checked.h"
#include "core/distance.h"
#include "core/memory.h"
#include "core/progress.h"

#define CHUNK_ROWS 2048u               /* queries of one kNN operation, so that progress is seen */
#define CHUNK_ROWS_DEVICE 32768u       /* the same where it takes as many to be busy */
#define CHUNK_BYTES ((size_t)64 << 20) /* of their answers */
#define DESCENT_SAMPLES 16u            /* new and old neighbours of a list that join, each way */

/* ---- exact -------------------------------------------------------------------------------- */

typedef struct exact {
    const peri_graph_build *build;
    peri_device *device;
    peri_view rows;
    const float *lengths;
    size_t degree, chunk;
    peri_matrix *slots; /* NULL: ids and distances are wanted */
    peri_matrix *ids, *distances;
    peri_progress progress;
} exact;

/* Rows first..first+count-1 as queries: f16 is widened, the others are what they are. */
static peri_status take_queries(exact *run, peri_lane *lane, size_t first, size_t count,
                                peri_view *out) {
    *out = run->rows;
    out->rows = count;
    out->data = peri_view_row(&run->rows, first);
    if (peri_query_dtype(out->dtype) == out->dtype) return PERI_OK;
    peri_op_convert op = { PERI_OP_CONVERT, *out, *out };
    op.out.dtype = peri_query_dtype(out->dtype);
    op.out.stride_bytes = out->cols * peri_dtype_bytes(op.out.dtype);
    PERI_TRY(peri_lane_take(lane, count, op.out.stride_bytes, &op.out.data));
    *out = op.out;
    return peri_lane_run(lane, (const peri_op *)&op);
}

static peri_status search_chunk(exact *run, peri_lane *lane, size_t first, size_t count) {
    size_t k = run->degree + 1, at = first * run->degree;
    peri_op_knn op = { .kind = PERI_OP_KNN,
                       .metric = run->build->metric,
                       .rows = run->rows,
                       .lengths = run->lengths,
                       .k = k };
    PERI_TRY(take_queries(run, lane, first, count, &op.queries));
    PERI_TRY(peri_lane_take(lane, count * k, sizeof *op.ids, &op.ids));
    PERI_TRY(peri_lane_take(lane, count * k, sizeof *op.distances, &op.distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    peri_op_others others = { .kind = PERI_OP_OTHERS,
                              .ids = op.ids,
                              .distances = op.distances,
                              .count = count,
                              .degree = run->degree,
                              .first = first };
    if (run->slots != NULL) {
        others.slots = (uint32_t *)peri_matrix_view(run->slots).data + at;
    } else {
        others.other_ids = (int64_t *)peri_matrix_view(run->ids).data + at;
        others.other_distances = (float *)peri_matrix_view(run->distances).data + at;
    }
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&others));
    return peri_lane_wait(lane, &run->progress.control);
}

static peri_status exact_chunks(exact *run) {
    size_t n = run->rows.rows;
    peri_lane *lane;
    peri_status status = PERI_OK;
    PERI_TRY(peri_lane_acquire(run->device, &lane));
    peri_lane_follow(lane, &run->progress.control, run->build->threads);
    for (size_t first = 0; first < n; first += run->chunk) {
        size_t count = peri_min_size(run->chunk, n - first);
        peri_progress_step(&run->progress, first, count);
        PERI_GO(search_chunk(run, lane, first, count));
        peri_lane_rewind(lane);
    }
done:
    peri_lane_close(lane);
    return status;
}

/* Rows at a time. */
static size_t chunk_rows(const peri_device *device, size_t degree) {
    size_t most = CHUNK_BYTES / ((degree + 1) * (sizeof(int64_t) + sizeof(float)));
    if (device->shares_host) return CHUNK_ROWS;
    return peri_max_size(CHUNK_ROWS, peri_min_size(most, CHUNK_ROWS_DEVICE));
}

static peri_status exact_run(exact *run) {
    const peri_graph_build *build = run->build;
    run->rows = peri_matrix_view(build->rows);
    run->chunk = chunk_rows(run->device, run->degree);
    if (build->lengths != NULL) run->lengths = peri_matrix_view(build->lengths).data;
    peri_progress_init(&run->progress, build->control, "exact", run->rows.rows);
    return exact_chunks(run);
}

static peri_status make_exact(const peri_graph_build *build, peri_device *device, size_t degree,
                              peri_matrix **out) {
    exact run = { .build = build, .device = device, .degree = degree };
    peri_view rows = peri_matrix_view(build->rows);
    PERI_TRY(
        peri_matrix_create(device->context, rows.rows, degree, PERI_U32, rows.place, &run.slots));
    peri_status status = exact_run(&run);
    if (status == PERI_OK)
        *out = run.slots;
    else
        peri_matrix_release(run.slots);
    return status;
}

peri_status peri_knn_graph_exact(const peri_graph_build *build, size_t degree, peri_matrix *ids,
                                 peri_matrix *distances) {
    exact run = { .build = build, .degree = degree, .ids = ids, .distances = distances };
    peri_view rows = peri_matrix_view(build->rows);
    PERI_ASSERT(degree > 0 && degree < rows.rows);
    PERI_TRY(peri_context_device(peri_matrix_context(build->rows), rows.place, &run.device));
    return exact_run(&run);
}

/* ---- NN-descent --------------------------------------------------------------------------- */

/* One set of lists at the place. */
typedef struct list_set {
    peri_matrix *slots, *distances, *fresh;
} list_set;

static peri_status list_set_create(list_set *set, peri_context *context, size_t rows, size_t degree,
                                   peri_place place) {
    PERI_TRY(peri_matrix_create(context, rows, degree, PERI_U32, place, &set->slots));
    PERI_TRY(peri_matrix_create(context, rows, degree, PERI_F32, place, &set->distances));
    return peri_matrix_create(context, rows, degree, PERI_U8, place, &set->fresh);
}

static void list_set_release(list_set *set) {
    peri_matrix_release(set->slots);
    peri_matrix_release(set->distances);
    peri_matrix_release(set->fresh);
}

/* Iterations until the lists settle; the final ones are in sets[*last]. */
static peri_status descend(const peri_graph_build *build, peri_device *device,
                           peri_op_graph_descent *op, list_set sets[2], peri_matrix *updates,
                           size_t *last) {
    peri_progress progress;
    size_t n = op->rows.rows, steps = (size_t)build->nn_descent_niter + 1;
    double least = build->termination_threshold * (double)n * (double)op->degree;
    peri_progress_init(&progress, build->control, "nn_descent", steps * n);
    for (uint32_t i = 0; i <= build->nn_descent_niter; i++) {
        const list_set *in = &sets[(i + 1) % 2], *out = &sets[i % 2];
        op->iteration = i;
        op->slots = peri_matrix_view(in->slots).data;
        op->distances = peri_matrix_view(in->distances).data;
        op->fresh = peri_matrix_view(in->fresh).data;
        op->slots_next = peri_matrix_view(out->slots).data;
        op->distances_next = peri_matrix_view(out->distances).data;
        op->fresh_next = peri_matrix_view(out->fresh).data;
        peri_progress_step(&progress, i * n, n);
        PERI_TRY(peri_progress_run(device, (const peri_op *)op, &progress.control, build->threads));
        uint64_t entered;
        PERI_TRY(peri_matrix_read(updates, 0, 1, &entered));
        *last = i % 2;
        if (i > 0 && (double)entered <= least) break;
    }
    return PERI_OK;
}

static peri_status make_descent(const peri_graph_build *build, peri_device *device, size_t degree,
                                peri_matrix **out) {
    peri_context *context = device->context;
    peri_op_graph_descent op = { .kind = PERI_OP_GRAPH_DESCENT,
                                 .metric = build->metric,
                                 .rows = peri_matrix_view(build->rows),
                                 .degree = degree,
                                 .samples = DESCENT_SAMPLES,
                                 .seed = build->seed };
    if (build->lengths != NULL) op.lengths = peri_matrix_view(build->lengths).data;
    list_set sets[2] = { { NULL, NULL, NULL }, { NULL, NULL, NULL } };
    peri_matrix *updates = NULL;
    size_t last = 0;
    peri_status status;
    for (size_t i = 0; i < 2; i++)
        PERI_GO(list_set_create(&sets[i], context, op.rows.rows, degree, op.rows.place));
    PERI_GO(peri_matrix_create(context, 1, 1, PERI_I64, op.rows.place, &updates));
    op.updates = peri_matrix_view(updates).data;
    PERI_GO(descend(build, device, &op, sets, updates, &last));
    *out = sets[last].slots;
    sets[last].slots = NULL;
done:
    list_set_release(&sets[0]);
    list_set_release(&sets[1]);
    peri_matrix_release(updates);
    return status;
}

/* ---- by clusters -------------------------------------------------------------------------- */

static peri_status make_joined(const peri_graph_build *build, peri_device *device,
                               const peri_cluster_lists *lists, size_t degree, peri_matrix **out) {
    peri_view starts = peri_matrix_view(lists->starts), probes = peri_matrix_view(lists->probes);
    peri_op_list_join op = { .kind = PERI_OP_LIST_JOIN,
                             .metric = build->metric,
                             .rows = peri_matrix_view(build->rows),
                             .starts = starts.data,
                             .lists = starts.rows - 1,
                             .probes = probes.data,
                             .probe_count = probes.cols,
                             .degree = degree };
    peri_progress progress;
    if (build->lengths != NULL) op.lengths = peri_matrix_view(build->lengths).data;
    PERI_TRY(
        peri_matrix_create(device->context, op.rows.rows, degree, PERI_U32, op.rows.place, out));
    op.slots = peri_matrix_view(*out).data;
    peri_progress_init(&progress, build->control, "ivf_flat", op.rows.rows);
    peri_progress_step(&progress, 0, op.rows.rows);
    peri_status status = peri_progress_run(device, (const peri_op *)&op, &progress.control,
                                           build->threads);
    if (status == PERI_OK) return PERI_OK;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

peri_status peri_knn_graph_make(const peri_graph_build *build, const peri_cluster_lists *lists,
                                size_t degree, peri_matrix **out) {
    peri_view rows = peri_matrix_view(build->rows);
    peri_device *device;
    *out = NULL;
    PERI_ASSERT(degree > 0 && degree < rows.rows && build->algo != PERI_GRAPH_AUTO);
    PERI_TRY(peri_context_device(peri_matrix_context(build->rows), rows.place, &device));
    switch (build->algo) {
    case PERI_GRAPH_IVF_FLAT: return make_joined(build, device, lists, degree, out);
    case PERI_GRAPH_NN_DESCENT: return make_descent(build, device, degree, out);
    default: return make_exact(build, device, degree, out);
    }
}
