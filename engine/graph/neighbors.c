/* neighbors.c: kNN graphs for users: the k nearest other rows of every row, with their distances.
 *
 * Exact lists come with their distances. The others are found by slot, wider than asked for, and
 * then ranked by canonical distances, which also gives those (knn_graph.h). By clusters the rows
 * are sorted first; the ranking is on the rows as they are, after slots were turned back into rows.
 * Equal rows are rows like others here: each is a neighbour of its twins.
 *
 * Where a device has no room, exact lists are made in blocks, and are on the host then; the other
 * ways need all rows at hand. */
#include "graph/neighbors.h"

#include "core/checked.h"
#include "core/chunks.h"
#include "core/distance.h"
#include "core/memory.h"
#include "core/params.h"
#include "graph/knn_graph.h"
#include "graph/pairs.h"
#include "core/progress.h"

#define K_MAX 1024
#define CHUNK_ROWS 4096u  /* ranked by one operation */
#define DESCENT_SPARE 2u  /* a list of nn_descent is so many times as wide as asked for, */
#define DESCENT_WIDTH 32u /* and so wide at least: its joins need rows to join */

#define KNN_GRAPH_PARAMS(X, S)                                                                     \
    X(S, CHOICE, metric, 0, 0, 5, "sqeuclidean|euclidean|inner_product|cosine|l1|hamming", NULL,   \
      "what near means; hamming: the bits that differ in rows of u8")                              \
    X(S, CHOICE, build_algo, 0, 0, 3, "auto|exact|nn_descent|ivf_flat", "the cheapest",            \
      "how the nearest rows are found")                                                            \
    X(S, INT, nn_descent_niter, 20, 1, 1000, NULL, NULL, "iterations of nn_descent at most")       \
    X(S, REAL, termination_threshold, 0.0001, 0, 1, NULL, NULL,                                    \
      "nn_descent ends when a smaller share of its lists changed")                                 \
    X(S, INT, seed, 137, 0, 9007199254740991, NULL, NULL, "of the random choices")

PERI_PARAMS_STRUCT(knn_graph_params, KNN_GRAPH_PARAMS)
static const peri_param knn_graph_rows[] = { PERI_PARAMS_ROWS(knn_graph_params, KNN_GRAPH_PARAMS) };
const peri_param_table peri_knn_graph_table = { "knn_graph.build", knn_graph_rows,
                                                sizeof knn_graph_rows / sizeof *knn_graph_rows };

typedef struct making {
    const peri_knn_graph *asked;
    knn_graph_params params;
    peri_context *context;
    peri_device *device;
    peri_matrix *source; /* the rows where they lie meanwhile */
    peri_view rows;
    peri_matrix *lengths;
    peri_cluster_lists lists;
    size_t k;            /* of the answer */
    size_t width;        /* of the lists; 0 when there is but one row */
    peri_matrix *slots;  /* u32 [n, width] at the place; of the sorted rows, by clusters */
    bool exact;          /* found is filled at once, by canonical distances */
    peri_matrix *listed; /* i64 [n, width] at the place: rows */
    peri_knn_lists found;
} making;

/* ---- the lists ---------------------------------------------------------------------------- */

static peri_graph_build describe(const making *m) {
    return (peri_graph_build){
        .rows = m->source,
        .lengths = m->lengths,
        .metric = (peri_metric)m->params.metric,
        .algo = peri_graph_algo_for((peri_graph_algo)m->params.build_algo,
                                    (peri_metric)m->params.metric, m->rows.rows),
        .nn_descent_niter = (uint32_t)m->params.nn_descent_niter,
        .termination_threshold = m->params.termination_threshold,
        .seed = (uint64_t)m->params.seed,
        .threads = m->asked->threads,
        .control = m->asked->control,
    };
}

/* By clusters: the rows in the order of their lists. */
static peri_status list_sorted(making *m, peri_graph_build *build) {
    peri_matrix *rows = NULL, *lengths = NULL;
    peri_status status;
    PERI_GO(peri_cluster_lists_make(build, &m->lists));
    PERI_GO(peri_matrix_gather(build->rows, m->lists.order, m->rows.rows, &rows));
    if (m->lengths != NULL)
        PERI_GO(peri_matrix_gather(m->lengths, m->lists.order, m->rows.rows, &lengths));
    build->rows = rows;
    build->lengths = lengths;
    PERI_GO(peri_knn_graph_make(build, &m->lists, m->width, &m->slots));
done:
    peri_matrix_release(lengths);
    peri_matrix_release(rows);
    return status;
}

static peri_status list(making *m) {
    peri_graph_build build = describe(m);
    PERI_TRY(peri_graph_algo_check(build.algo, build.metric));
    size_t others = m->rows.rows - 1;
    m->width = peri_min_size(m->k, others);
    if (m->width == 0) return PERI_OK;
    m->exact = build.algo == PERI_GRAPH_EXACT && m->width == m->k;
    if (m->exact) return peri_knn_graph_exact(&build, m->k, m->found.neighbors, m->found.distances);
    if (build.algo == PERI_GRAPH_NN_DESCENT)
        m->width = peri_min_size(peri_max_size(DESCENT_SPARE * m->k, DESCENT_WIDTH), others);
    if (build.algo == PERI_GRAPH_IVF_FLAT) return list_sorted(m, &build);
    return peri_knn_graph_make(&build, NULL, m->width, &m->slots);
}

/* ---- slots to rows ------------------------------------------------------------------------ */

static void turn_row(const making *m, const uint32_t *slots, int64_t *rows) {
    for (size_t j = 0; j < m->width; j++) {
        if (slots[j] == PERI_SLOT_NONE)
            rows[j] = PERI_ID_NONE;
        else
            rows[j] = m->lists.order == NULL ? slots[j] : m->lists.order[slots[j]];
    }
}

static peri_status turn(making *m) {
    peri_matrix *host = NULL, *listed = NULL;
    peri_status status;
    PERI_GO(peri_matrix_move(m->slots, PERI_CPU, &host));
    PERI_GO(peri_matrix_create(m->context, m->rows.rows, m->width, PERI_I64, PERI_CPU, &listed));
    peri_view from = peri_matrix_view(host), to = peri_matrix_view(listed);
    for (size_t i = 0; i < from.rows; i++) {
        size_t row = m->lists.order == NULL ? i : (size_t)m->lists.order[i];
        turn_row(m, peri_view_row(&from, i), peri_view_row(&to, row));
    }
    PERI_GO(peri_matrix_move(listed, m->rows.place, &m->listed));
done:
    peri_matrix_release(listed);
    peri_matrix_release(host);
    peri_matrix_release(m->slots);
    m->slots = NULL;
    return status;
}

/* ---- ranked by distance ------------------------------------------------------------------- */

static peri_status rank_chunk(making *m, peri_lane *lane, const peri_control *control, size_t first,
                              size_t count) {
    peri_op_refine op = { .kind = PERI_OP_REFINE,
                          .metric = (peri_metric)m->params.metric,
                          .rows = m->rows,
                          .columns = m->width,
                          .k = m->k };
    if (m->lengths != NULL) op.lengths = peri_matrix_view(m->lengths).data;
    op.candidates = (const int64_t *)peri_matrix_view(m->listed).data + first * m->width;
    op.ids = (int64_t *)peri_matrix_view(m->found.neighbors).data + first * m->k;
    op.distances = (float *)peri_matrix_view(m->found.distances).data + first * m->k;
    peri_dtype dtype = peri_query_dtype(m->rows.dtype);
    PERI_TRY(peri_pairs_queries(lane, &m->rows, first, count, dtype, &op.queries));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    return peri_lane_wait(lane, control);
}

static peri_status rank(making *m) {
    peri_lane *lane;
    peri_progress progress;
    peri_status status = PERI_OK;
    size_t n = m->rows.rows;
    peri_progress_init(&progress, m->asked->control, "rank", n);
    PERI_TRY(peri_lane_acquire(m->device, &lane));
    peri_lane_follow(lane, &progress.control, m->asked->threads);
    for (size_t first = 0; first < n; first += CHUNK_ROWS) {
        size_t count = peri_min_size(CHUNK_ROWS, n - first);
        peri_progress_step(&progress, first, count);
        PERI_GO(rank_chunk(m, lane, &progress.control, first, count));
        peri_lane_rewind(lane);
    }
done:
    peri_lane_close(lane);
    return status;
}

/* A single row has no neighbours: the ranking of no candidates. */
static peri_status list_nothing(making *m) {
    const int64_t none = PERI_ID_NONE;
    m->width = 1;
    PERI_TRY(peri_matrix_create(m->context, 1, 1, PERI_I64, m->rows.place, &m->listed));
    return peri_matrix_write(m->listed, 0, 1, &none);
}

/* ---- the call ----------------------------------------------------------------------------- */

static peri_status read(making *m) {
    const peri_knn_graph *asked = m->asked;
    const peri_param_table *table = &peri_knn_graph_table;
    if (asked->size != sizeof *asked)
        return peri_fail(PERI_E_ARGUMENT, "knn_graph.size: %u given, this library takes %zu",
                         asked->size, sizeof *asked);
    if (asked->rows == NULL) return peri_fail(PERI_E_ARGUMENT, "rows: none given");
    m->rows = peri_matrix_view(asked->rows);
    if (m->rows.rows == 0 || m->rows.rows > PERI_SLOTS_MAX)
        return peri_fail(PERI_E_ARGUMENT, "rows: %zu given, allowed: 1..%u", m->rows.rows,
                         PERI_SLOTS_MAX);
    if (m->rows.dtype > PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "rows: %s given, allowed: f32 f16 i8 u8",
                         peri_dtype_name(m->rows.dtype));
    if (asked->k < 1 || asked->k > K_MAX)
        return peri_fail(PERI_E_ARGUMENT, "k: %zu given, allowed: 1..%d", asked->k, K_MAX);
    peri_params_default(table, &m->params);
    PERI_TRY(peri_options_check(&asked->options, &table, 1));
    PERI_TRY(peri_params_read(table, &asked->options, &m->params));
    m->k = asked->k;
    m->context = peri_matrix_context(asked->rows);
    PERI_TRY(peri_matrix_check(asked->rows, m->params.metric == PERI_COSINE, "rows", asked->threads,
                               asked->control));
    return peri_context_device(m->context, asked->place != NULL ? *asked->place : m->rows.place,
                               &m->device);
}

/* Rows and lists where the operations run. */
static peri_status make_there(making *m) {
    peri_metric metric = (peri_metric)m->params.metric;
    peri_place place = m->device->place;
    size_t n = m->rows.rows;
    PERI_TRY(peri_matrix_move(m->asked->rows, place, &m->source));
    m->rows = peri_matrix_view(m->source);
    PERI_TRY(
        peri_pairs_lengths(m->source, metric, m->asked->threads, m->asked->control, &m->lengths));
    PERI_TRY(peri_matrix_create(m->context, n, m->k, PERI_I64, place, &m->found.neighbors));
    PERI_TRY(peri_matrix_create(m->context, n, m->k, PERI_F32, place, &m->found.distances));
    PERI_TRY(list(m));
    if (!m->exact) {
        PERI_TRY(m->width > 0 ? turn(m) : list_nothing(m));
        PERI_TRY(rank(m));
    }
    return peri_pairs_report(m->found.distances, metric);
}

/* Lists on the host, and rows where they are. */
static peri_status make_in_blocks(making *m) {
    size_t n = m->rows.rows;
    peri_matrix_retain(m->asked->rows);
    m->source = m->asked->rows;
    m->rows = peri_matrix_view(m->source);
    PERI_TRY(peri_matrix_acquire(m->context, n, m->k, PERI_I64, PERI_CPU, &m->found.neighbors));
    PERI_TRY(peri_matrix_acquire(m->context, n, m->k, PERI_F32, PERI_CPU, &m->found.distances));
    peri_graph_build build = describe(m);
    return peri_knn_graph_streamed(&build, m->device, m->k, m->found.neighbors, m->found.distances);
}

static void clear(making *m) {
    peri_matrix **held[] = { &m->listed, &m->slots, &m->lengths, &m->source };
    peri_cluster_lists_reset(&m->lists);
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        peri_matrix_release(*held[i]);
        *held[i] = NULL;
    }
}

/* Whether exact lists are asked for, or what is asked for leaves it open. */
static peri_status may_stream(const making *m, bool *out) {
    peri_place place = m->rows.place;
    peri_graph_algo asked = (peri_graph_algo)m->params.build_algo;
    peri_graph_algo algo = peri_graph_algo_for(asked, (peri_metric)m->params.metric, m->rows.rows);
    bool host = m->asked->residence == PERI_RESIDENCE_HOST;
    bool there = peri_place_equal(place, m->device->place);
    *out = !m->device->shares_host && (there || place.kind == PERI_PLACE_CPU) &&
           (algo == PERI_GRAPH_EXACT || (host && asked == PERI_GRAPH_AUTO));
    if (!host || *out || m->device->shares_host || asked == PERI_GRAPH_EXACT) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "residence: host given, allowed with build_algo exact only");
}

static peri_status make(making *m) {
    peri_residence residence = m->asked->residence;
    size_t lists = m->rows.rows * m->k, more; /* of PERI_SLOTS_MAX and K_MAX: no wrap */
    bool may, streams = false;
    PERI_TRY(may_stream(m, &may));
    if (!peri_mul_fits(lists, sizeof(int64_t) + sizeof(float), &more)) more = SIZE_MAX;
    if (may) PERI_TRY(peri_chunks_choose(m->device, &m->rows, residence, more, &streams));
    if (!streams) {
        peri_status status = make_there(m);
        if (status != PERI_E_MEMORY || !may || residence != PERI_RESIDENCE_AUTO) return status;
        clear(m);
        peri_knn_lists_reset(&m->found);
    }
    return make_in_blocks(m);
}

peri_status peri_knn_graph_build(const peri_knn_graph *asked, peri_knn_lists *out) {
    making m = { .asked = asked };
    *out = (peri_knn_lists){ 0 };
    PERI_TRY(read(&m));
    peri_status status = make(&m);
    if (status == PERI_OK)
        *out = m.found;
    else
        peri_knn_lists_reset(&m.found);
    clear(&m);
    return status;
}

void peri_knn_lists_reset(peri_knn_lists *lists) {
    peri_matrix_release(lists->neighbors);
    peri_matrix_release(lists->distances);
    *lists = (peri_knn_lists){ 0 };
}
