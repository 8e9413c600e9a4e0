/* graph_build.c: the pipeline of graph_build.h.
 *
 * Equal rows would cut pieces off: a row with more twins than its degree links to nothing else.
 * So the graph is made of one row a group, the lowest, and the others are attached after it
 * (families.c). */
#include "graph/graph_build.h"

#include <stdlib.h>

#include "core/checked.h"
#include "core/lane.h"
#include "core/memory.h"
#include "graph/cluster_lists.h"
#include "graph/connect.h"
#include "graph/equal_rows.h"
#include "graph/knn_graph.h"
#include "graph/landmarks.h"
#include "core/progress.h"

/* Above, the join of clusters is cheaper than n^2 distances: on one core with AVX-512 they meet at
 * 14 000 rows of 96 f32, for either default degree; at 32 000 the join saves a third. NN-descent is
 * never the cheapest. */
#define EXACT_ROWS_MAX 14000u

typedef struct making {
    peri_graph_build *build;
    peri_context *context;
    peri_device *device;
    peri_matrix *host; /* the rows, on the host */
    peri_equal_rows equal;
    peri_cluster_lists lists; /* of the groups, when they are sorted by them */
    peri_graph_build part;    /* of one row a group: rows and lengths are its own */
    peri_matrix *pruned;      /* [groups, pruned_degree] at the place, later on the host */
    size_t pruned_degree;
    uint32_t entry;      /* number of a group */
    uint32_t *landmarks; /* numbers of groups */
    size_t landmark_count;
} making;

/* Bytes of bits have no mean, so there are no clusters of them. */
peri_graph_algo peri_graph_algo_for(peri_graph_algo asked, peri_metric metric, size_t rows) {
    if (asked != PERI_GRAPH_AUTO) return asked;
    if (rows <= EXACT_ROWS_MAX) return PERI_GRAPH_EXACT;
    return metric == PERI_HAMMING ? PERI_GRAPH_NN_DESCENT : PERI_GRAPH_IVF_FLAT;
}

peri_status peri_graph_algo_check(peri_graph_algo algo, peri_metric metric) {
    if (algo == PERI_GRAPH_IVF_FLAT && metric == PERI_HAMMING)
        return peri_fail(PERI_E_ARGUMENT, "option 'build_algo': 'ivf_flat' given, allowed under "
                                          "hamming: auto exact nn_descent");
    return PERI_OK;
}

/* ---- one row a group ---------------------------------------------------------------------- */

static peri_status gather_matrix(const making *m, peri_matrix *from, const int64_t *slots,
                                 peri_matrix **out) {
    bool all = m->equal.groups == m->equal.rows && m->lists.order == NULL;
    if (from != NULL && !all) return peri_matrix_gather(from, slots, m->equal.groups, out);
    if (from != NULL) peri_matrix_retain(from);
    *out = from;
    return PERI_OK;
}

static void release_part(making *m) {
    peri_matrix_release(m->part.rows);
    peri_matrix_release(m->part.lengths);
    m->part.rows = m->part.lengths = NULL;
}

/* The rows of the part: one a group, in the order of the groups. */
static peri_status take_part(making *m) {
    const peri_equal_rows *equal = &m->equal;
    int64_t *slots = NULL;
    release_part(m);
    m->part = *m->build;
    m->part.rows = m->part.lengths = NULL;
    peri_status status;
    PERI_GO(peri_memory_acquire(m->context, equal->groups, sizeof *slots, &slots));
    for (size_t i = 0; i < equal->groups; i++) slots[i] = equal->order[equal->starts[i]];
    PERI_GO(gather_matrix(m, m->build->rows, slots, &m->part.rows));
    PERI_GO(gather_matrix(m, m->build->lengths, slots, &m->part.lengths));
done:
    peri_memory_release(m->context, slots, equal->groups, sizeof *slots);
    return status;
}

/* Groups in the order of the lists that clusters make of them: what is near lies near in memory,
 * for the join and for everything after it. */
static peri_status sort_part(making *m) {
    if (m->build->algo != PERI_GRAPH_IVF_FLAT) return PERI_OK;
    PERI_TRY(peri_cluster_lists_make(&m->part, &m->lists));
    PERI_TRY(peri_equal_rows_permute(&m->equal, m->lists.order));
    return take_part(m);
}

static peri_status find_landmarks(making *m, peri_matrix *knn) {
    if (m->build->landmarks == NULL) return PERI_OK;
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(knn, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    peri_status status = peri_landmarks_find(m->context, &view, &m->landmarks, &m->landmark_count);
    peri_matrix_release(host);
    return status;
}

/* ---- pruning and connectivity ------------------------------------------------------------- */

static peri_status prune(making *m) {
    peri_matrix *knn = NULL;
    peri_progress progress;
    size_t groups = m->equal.groups;
    size_t knn_degree = peri_min_size(m->build->intermediate_graph_degree, groups - 1);
    m->pruned_degree = peri_min_size(m->build->graph_degree, knn_degree);
    peri_place place = peri_matrix_view(m->part.rows).place;
    peri_status status;
    PERI_GO(peri_knn_graph_make(&m->part, &m->lists, knn_degree, &knn));
    PERI_GO(find_landmarks(m, knn));
    PERI_GO(peri_matrix_create(m->context, groups, m->pruned_degree, PERI_U32, place, &m->pruned));
    peri_op_graph_prune op = { .kind = PERI_OP_GRAPH_PRUNE,
                               .rows = groups,
                               .knn = peri_matrix_view(knn).data,
                               .knn_degree = knn_degree,
                               .graph = peri_matrix_view(m->pruned).data,
                               .degree = m->pruned_degree };
    peri_progress_init(&progress, m->build->control, "prune", groups);
    peri_progress_step(&progress, 0, groups);
    PERI_GO(
        peri_progress_run(m->device, (const peri_op *)&op, &progress.control, m->build->threads));
done:
    peri_matrix_release(knn);
    return status;
}

static peri_status to_host(peri_matrix **matrix) {
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(*matrix, PERI_CPU, &host));
    peri_matrix_release(*matrix);
    *matrix = host;
    return PERI_OK;
}

static peri_status connect(making *m) {
    const peri_graph_build *build = m->build;
    peri_connect job = { .nearest = { m->part.rows, m->part.lengths, build->metric, build->threads,
                                      build->control },
                         .seed = build->seed };
    peri_matrix *host;
    PERI_TRY(peri_matrix_move(m->part.rows, PERI_CPU, &host));
    peri_view view = peri_matrix_view(host);
    peri_status status = peri_nearest_to_mean(&job.nearest, &view, build->seed, &m->entry);
    peri_matrix_release(host);
    PERI_TRY(status);
    if (m->equal.groups == 1) return PERI_OK;
    PERI_TRY(prune(m));
    PERI_TRY(to_host(&m->pruned));
    if (!build->guarantee_connectivity) return PERI_OK;
    job.graph = peri_matrix_view(m->pruned).data;
    job.degree = m->pruned_degree;
    job.entry = m->entry;
    PERI_TRY(peri_graph_connect(&job));
    m->build->bridges = job.added;
    return PERI_OK;
}

/* ---- all rows ----------------------------------------------------------------------------- */

static peri_status finish(making *m, peri_matrix **graph, uint32_t *entry) {
    const peri_equal_rows *equal = &m->equal;
    peri_place place = peri_matrix_view(m->build->rows).place;
    *entry = equal->order[equal->starts[m->entry]];
    if (equal->groups == equal->rows && m->lists.order == NULL &&
        m->pruned_degree == m->build->graph_degree)
        return peri_matrix_move(m->pruned, place, graph);
    peri_matrix *wide = NULL;
    uint32_t *edges = NULL;
    peri_view pruned = { .rows = 0 }, out;
    peri_status status;
    if (m->pruned != NULL) pruned = peri_matrix_view(m->pruned);
    PERI_GO(peri_memory_acquire(m->context, m->build->graph_degree, sizeof *edges, &edges));
    PERI_GO(peri_matrix_create(m->context, equal->rows, m->build->graph_degree, PERI_U32, PERI_CPU,
                               &wide));
    out = peri_matrix_view(wide);
    peri_equal_rows_spread(equal, pruned.data, m->pruned_degree, &out, edges);
    PERI_GO(peri_matrix_move(wide, place, graph));
done:
    peri_matrix_release(wide);
    peri_memory_release(m->context, edges, m->build->graph_degree, sizeof *edges);
    return status;
}

static int lower_first(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The landmarks as slots, ascending, at the place of the rows. */
static peri_status place_landmarks(making *m) {
    if (m->landmark_count == 0) return PERI_OK;
    peri_matrix *host;
    PERI_TRY(peri_matrix_create(m->context, m->landmark_count, 1, PERI_U32, PERI_CPU, &host));
    uint32_t *slots = peri_matrix_view(host).data;
    for (size_t i = 0; i < m->landmark_count; i++)
        slots[i] = m->equal.order[m->equal.starts[m->landmarks[i]]];
    if (m->lists.order != NULL) qsort(slots, m->landmark_count, sizeof *slots, lower_first);
    peri_status status = peri_matrix_move(host, peri_matrix_view(m->build->rows).place,
                                          m->build->landmarks);
    peri_matrix_release(host);
    return status;
}

static peri_status make_empty(peri_graph_build *build, peri_matrix **graph, uint32_t *entry) {
    *entry = PERI_SLOT_NONE;
    return peri_matrix_create(peri_matrix_context(build->rows), 0, build->graph_degree, PERI_U32,
                              peri_matrix_view(build->rows).place, graph);
}

peri_status peri_graph_make(peri_graph_build *build, peri_matrix **graph, uint32_t *entry) {
    making m = { .build = build, .context = peri_matrix_context(build->rows) };
    peri_view rows = peri_matrix_view(build->rows);
    *graph = NULL;
    if (build->landmarks != NULL) *build->landmarks = NULL;
    build->algo = peri_graph_algo_for(build->algo, build->metric, rows.rows);
    build->groups = build->bridges = 0;
    PERI_TRY(peri_graph_algo_check(build->algo, build->metric));
    if (rows.rows == 0) return make_empty(build, graph, entry);
    if (rows.rows > PERI_SLOTS_MAX)
        return peri_fail(PERI_E_ARGUMENT, "rows: %zu given, a graph has at most %u", rows.rows,
                         PERI_SLOTS_MAX);
    peri_status status;
    PERI_GO(peri_context_device(m.context, rows.place, &m.device));
    PERI_GO(peri_matrix_move(build->rows, PERI_CPU, &m.host));
    rows = peri_matrix_view(m.host);
    PERI_GO(peri_equal_rows_find(m.context, &rows, build->threads, build->control, &m.equal));
    build->groups = m.equal.groups;
    PERI_GO(take_part(&m));
    PERI_GO(sort_part(&m));
    PERI_GO(connect(&m));
    PERI_GO(place_landmarks(&m));
    PERI_GO(finish(&m, graph, entry));
done:
    peri_matrix_release(m.pruned);
    release_part(&m);
    peri_cluster_lists_reset(&m.lists);
    peri_equal_rows_reset(&m.equal);
    peri_matrix_release(m.host);
    peri_memory_release(m.context, m.landmarks, m.landmark_count, sizeof *m.landmarks);
    if (status != PERI_OK && build->landmarks != NULL) {
        peri_matrix_release(*build->landmarks);
        *build->landmarks = NULL;
    }
    return status;
}
