/* cluster_lists.c: k-means on a sample, the nearest centroids of every row, and a counting sort.
 *
 * A row belongs to the list of its nearest centroid and probes those of its LISTS_PROBED nearest:
 * some 4 000 rows, of which half a list's worth are wanted. Measured on debian-packages-96 and
 * sift-debian-photos: 94 % of the 128 nearest rows are there (97 % with text), and the graph that
 * is pruned from them finds what the exact one finds (recall@10 at itopk_size 32: 0.9888 against
 * 0.9898, degree 32).
 *
 * Where nothing clusters, lists say little: of 100 000 rows of 128 independent Gaussian columns a
 * graph by lists finds 0.22 (recall@10, itopk_size 32, degree 32), an exact one 0.27 in 3 times the
 * core time and NN-descent 0.28 in 11 times. With 32 latent dimensions all three find 0.99.
 *
 * Near under the inner product is not near to a centroid: a row's own list is found by the
 * distance, as k-means found the centroids, and the lists it probes beside by the product. Under
 * l1 the centroids are those of L2, and everything else goes by l1. */
#include "graph/cluster_lists.h"

#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/lane.h"
#include "core/memory.h"
#include "core/progress.h"
#include "quant/kmeans.h"

#define ROWS_A_LIST 128u
#define LISTS_PER_ROOT                                                                             \
    4.0                  /* at most, times sqrt(n): finding lists must not cost more than joining */
#define LISTS_PROBED 32u /* at most, and half as many at least */
#define ROWS_PROBED 4096u /* in between: what a row is compared with, about */
#define TRAIN_ROWS_A_LIST 32u
#define TRAIN_ITERS 5u
#define CHUNK_ROWS 2048u /* of one kNN operation */

typedef struct listing {
    const peri_graph_build *build;
    peri_context *context;
    peri_device *device;
    peri_view rows;
    size_t lists, probed, columns; /* columns: of probes */
    peri_matrix *centroids;        /* at the place */
    peri_matrix *probes;           /* host [rows, columns] u32, by row; column 0 is the own list */
    int64_t *ids;                  /* host [CHUNK_ROWS, probed] */
    peri_progress progress;
} listing;

static size_t list_count(const peri_graph_build *build, size_t rows) {
    size_t most = (size_t)(LISTS_PER_ROOT * sqrt((double)rows));
    if (build->list_rows > 0) return peri_max_size(1, rows / build->list_rows);
    return peri_max_size(1, peri_min_size(rows / ROWS_A_LIST, most));
}

static size_t probe_count(const peri_graph_build *build, size_t rows, size_t lists) {
    size_t wanted = ROWS_PROBED / peri_max_size(1, rows / lists);
    wanted = peri_min_size(LISTS_PROBED, peri_max_size(LISTS_PROBED / 2, wanted));
    return peri_min_size(build->list_probes > 0 ? build->list_probes : wanted, lists);
}

static peri_metric cluster_metric(const peri_graph_build *build) {
    return build->metric == PERI_L1 ? PERI_SQEUCLIDEAN : build->metric;
}

static peri_status train(listing *l) {
    peri_kmeans kmeans = PERI_KMEANS_INIT;
    kmeans.rows = l->build->rows;
    kmeans.metric = cluster_metric(l->build);
    kmeans.n_clusters = l->lists;
    kmeans.n_iters = TRAIN_ITERS;
    kmeans.max_rows_per_cluster = TRAIN_ROWS_A_LIST;
    kmeans.init = PERI_KMEANS_RANDOM;
    kmeans.balanced = true;
    kmeans.seed = l->build->seed;
    kmeans.threads = l->build->threads;
    kmeans.control = l->build->control;
    return peri_kmeans_train(&kmeans, &l->centroids, NULL);
}

/* ---- the lists that rows probe ------------------------------------------------------------ */

/* Rows first..first+count-1 as queries of f32. */
static peri_status take_queries(listing *l, peri_lane *lane, size_t first, size_t count,
                                peri_view *out) {
    *out = l->rows;
    out->rows = count;
    out->data = peri_view_row(&l->rows, first);
    if (out->dtype == PERI_F32) return PERI_OK;
    peri_op_convert op = { PERI_OP_CONVERT, *out, *out };
    op.out.dtype = PERI_F32;
    op.out.stride_bytes = out->cols * sizeof(float);
    PERI_TRY(peri_lane_take(lane, count, op.out.stride_bytes, &op.out.data));
    *out = op.out;
    return peri_lane_run(lane, (const peri_op *)&op);
}

/* Centroids of cosine have length 1: their order is that of the product. */
static peri_status probe_chunk(listing *l, peri_lane *lane, size_t first, size_t count) {
    bool product = l->build->metric == PERI_INNER_PRODUCT || l->build->metric == PERI_COSINE;
    peri_op_knn op = { .kind = PERI_OP_KNN,
                       .metric = product                       ? PERI_INNER_PRODUCT
                                 : l->build->metric == PERI_L1 ? PERI_L1
                                                               : PERI_SQEUCLIDEAN,
                       .rows = peri_matrix_view(l->centroids),
                       .k = l->probed };
    size_t found = count * op.k;
    PERI_TRY(take_queries(l, lane, first, count, &op.queries));
    PERI_TRY(peri_lane_out(lane, l->ids, found, sizeof *op.ids, &op.ids));
    PERI_TRY(peri_lane_take(lane, found, sizeof *op.distances, &op.distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    PERI_TRY(peri_lane_fetch(lane, l->ids, op.ids, found, sizeof *op.ids));
    return peri_lane_wait(lane, &l->progress.control);
}

/* The last columns of the rows' probes. */
static void write_probes(const listing *l, size_t first, size_t count) {
    peri_view probes = peri_matrix_view(l->probes);
    for (size_t i = 0; i < count; i++) {
        uint32_t *to = peri_view_row(&probes, first + i);
        to += l->columns - l->probed;
        for (size_t j = 0; j < l->probed; j++) to[j] = (uint32_t)l->ids[i * l->probed + j];
    }
}

static peri_status find_probes(listing *l) {
    peri_lane *lane;
    peri_status status = PERI_OK;
    size_t n = l->rows.rows, chunk = peri_min_size(CHUNK_ROWS, n);
    peri_progress_init(&l->progress, l->build->control, "probe", n);
    PERI_TRY(peri_memory_acquire(l->context, chunk * l->probed, sizeof *l->ids, &l->ids));
    PERI_GO(peri_lane_acquire(l->device, &lane));
    peri_lane_follow(lane, &l->progress.control, l->build->threads);
    for (size_t first = 0; first < n && status == PERI_OK; first += CHUNK_ROWS) {
        size_t count = peri_min_size(CHUNK_ROWS, n - first);
        peri_progress_step(&l->progress, first, count);
        status = probe_chunk(l, lane, first, count);
        if (status != PERI_OK) break;
        peri_lane_rewind(lane);
        write_probes(l, first, count);
    }
    peri_lane_close(lane);
done:
    peri_memory_release(l->context, l->ids, chunk * l->probed, sizeof *l->ids);
    return status;
}

/* Column 0 of the probes, where the product did not find it. */
static peri_status assign_own(listing *l) {
    peri_matrix *labels, *host = NULL;
    peri_status status;
    PERI_TRY(peri_kmeans_assign(l->build->rows, l->centroids, cluster_metric(l->build),
                                l->build->threads, l->build->control, &labels, NULL));
    PERI_GO(peri_matrix_move(labels, PERI_CPU, &host));
    peri_view from = peri_matrix_view(host), to = peri_matrix_view(l->probes);
    for (size_t i = 0; i < to.rows; i++)
        *(uint32_t *)peri_view_row(&to, i) = *(const uint32_t *)peri_view_row(&from, i);
done:
    peri_matrix_release(host);
    peri_matrix_release(labels);
    return status;
}

/* ---- the order ---------------------------------------------------------------------------- */

static peri_status sort_rows(listing *l, peri_cluster_lists *out) {
    peri_view probes = peri_matrix_view(l->probes);
    peri_matrix *starts;
    size_t n = probes.rows;
    PERI_TRY(peri_memory_acquire(l->context, n, sizeof *out->order, &out->order));
    PERI_TRY(peri_matrix_create(l->context, l->lists + 1, 1, PERI_U32, PERI_CPU, &starts));
    uint32_t *at = peri_matrix_view(starts).data;
    memset(at, 0, (l->lists + 1) * sizeof *at);
    for (size_t i = 0; i < n; i++) at[*(const uint32_t *)peri_view_row(&probes, i) + 1]++;
    for (size_t list = 0; list < l->lists; list++) at[list + 1] += at[list];
    for (size_t i = 0; i < n; i++)
        out->order[at[*(const uint32_t *)peri_view_row(&probes, i)]++] = (int64_t)i;
    /* Every start has moved to its list's end: back by one list. */
    memmove(at + 1, at, l->lists * sizeof *at);
    at[0] = 0;
    peri_status status = peri_matrix_move(starts, l->rows.place, &out->starts);
    peri_matrix_release(starts);
    return status;
}

static peri_status sort_probes(listing *l, peri_cluster_lists *out) {
    peri_matrix *sorted;
    PERI_TRY(peri_matrix_gather(l->probes, out->order, out->rows, &sorted));
    peri_status status = peri_matrix_move(sorted, l->rows.place, &out->probes);
    peri_matrix_release(sorted);
    return status;
}

peri_status peri_cluster_lists_make(const peri_graph_build *build, peri_cluster_lists *out) {
    listing l = { .build = build, .context = peri_matrix_context(build->rows) };
    l.rows = peri_matrix_view(build->rows);
    l.lists = list_count(build, l.rows.rows);
    l.probed = probe_count(build, l.rows.rows, l.lists);
    l.columns = l.probed + (build->metric == PERI_INNER_PRODUCT);
    *out = (peri_cluster_lists){ .context = l.context, .rows = l.rows.rows };
    peri_status status;
    PERI_GO(peri_context_device(l.context, l.rows.place, &l.device));
    PERI_GO(train(&l));
    PERI_GO(peri_matrix_create(l.context, l.rows.rows, l.columns, PERI_U32, PERI_CPU, &l.probes));
    PERI_GO(find_probes(&l));
    if (l.columns > l.probed) PERI_GO(assign_own(&l));
    PERI_GO(sort_rows(&l, out));
    PERI_GO(sort_probes(&l, out));
done:
    peri_matrix_release(l.probes);
    peri_matrix_release(l.centroids);
    if (status != PERI_OK) peri_cluster_lists_reset(out);
    return status;
}

void peri_cluster_lists_reset(peri_cluster_lists *lists) {
    if (lists->context == NULL) return;
    peri_memory_release(lists->context, lists->order, lists->rows, sizeof *lists->order);
    peri_matrix_release(lists->starts);
    peri_matrix_release(lists->probes);
    *lists = (peri_cluster_lists){ .context = NULL };
}
