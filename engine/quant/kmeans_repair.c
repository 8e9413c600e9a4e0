/* kmeans_repair.c: clusters without rows, or with too few, get a place where rows are.
 *
 * Empty clusters only: the centroid becomes a row drawn with a probability in proportion to its
 * distance, as in k-means++, so it falls where the error is. Balanced: a starving cluster moves
 * into a large one, next to that one's centroid, in the direction of one of its rows: drawn among
 * the rows of clusters of average size and above, so large ones are cut more often; a cluster that
 * was cut counts as half afterwards. (The balancing step of the coarse quantizers of GPU libraries;
 * the weight 7 of the old centroid is theirs.) Rows that are all equal can't be cut: the moved
 * centroid ties with the old one and the next round tries again, a bounded number of times. */
#include <math.h>
#include <string.h>

#include "core/checked.h"
#include "core/distance.h"
#include "core/memory.h"
#include "core/random.h"
#include "quant/kmeans_draw.h"
#include "quant/kmeans_rounds.h"

#define DRAWS 64u /* until a row of a large cluster comes; half the rows are in one, or nearly */
#define CENTROID_WEIGHT 7u

/* A cluster and where it goes. */
typedef struct removal {
    uint32_t cluster, from;
    uint32_t weight; /* of the centroid of `from`; 0 = the row itself */
} removal;

typedef struct repair {
    peri_kmeans_rounds *rounds;
    double threshold;
    uint32_t *sizes; /* [c] a copy: cut as clusters are */
    const uint32_t *labels;
    size_t rows, clusters;
    removal *list;
    int64_t *ids; /* [count] the row of each */
    size_t count;
} repair;

static double average(const repair *p) { return (double)p->rows / (double)p->clusters; }

static bool is_starving(const repair *p, uint32_t size) {
    return size == 0 || (double)size <= p->threshold * average(p);
}

static uint64_t key_of(const repair *p) {
    return peri_random_mix(p->rounds->seed, UINT64_C(0x7265706169720000) + p->rounds->assignments);
}

/* A row of a large cluster; false when none came. */
static bool draw_large(repair *p, size_t cluster, removal *out, int64_t *row) {
    for (size_t i = 0; i < DRAWS; i++) {
        uint32_t r = peri_random_below(key_of(p), cluster * DRAWS + i, (uint32_t)p->rows);
        uint32_t from = p->labels[r];
        if (from == cluster || p->sizes[from] < 2 || (double)p->sizes[from] < average(p)) continue;
        uint32_t weight = (uint32_t)peri_min_size(p->sizes[from], CENTROID_WEIGHT);
        *out = (removal){ (uint32_t)cluster, from, weight };
        *row = r;
        p->sizes[from] -= p->sizes[from] / 2;
        return true;
    }
    return false;
}

/* A row by its share of the error. */
static bool draw_far(repair *p, size_t cluster, removal *out, int64_t *row) {
    const peri_kmeans_rounds *r = p->rounds;
    double share = (double)(peri_random_mix(key_of(p), cluster) >> 11) * 0x1p-53;
    if (!(r->inertia > 0) || !isfinite(r->inertia)) return false;
    size_t drawn = peri_draw_row(r->found, p->rows, r->sums, share);
    *out = (removal){ (uint32_t)cluster, p->labels[drawn], 0 };
    *row = (int64_t)drawn;
    return true;
}

static void draw_all(repair *p) {
    for (size_t c = 0; c < p->clusters; c++) {
        if (!is_starving(p, p->sizes[c])) continue;
        bool drawn = (p->threshold > 0 ? draw_large : draw_far)(p, c, &p->list[p->count],
                                                                &p->ids[p->count]);
        if (drawn) p->count++;
    }
}

/* (weight * centroid + row) / (weight + 1), of length 1 for cosine. */
static void blend(const repair *p, const removal *move, const float *row, peri_view *centroids) {
    const float *from = peri_view_row(centroids, move->from);
    float *to = peri_view_row(centroids, move->cluster), weight = (float)move->weight;
    size_t cols = centroids->cols;
    for (size_t j = 0; j < cols; j++) to[j] = (weight * from[j] + row[j]) / (weight + 1);
    if (p->rounds->metric != PERI_COSINE) return;
    float length = peri_canonical_length(PERI_F32, to, (uint32_t)cols);
    if (!(length > 0))
        memcpy(to, row, cols * sizeof *to);
    else
        for (size_t j = 0; j < cols; j++) to[j] /= length;
}

static peri_status apply(repair *p) {
    peri_matrix *rows = NULL, *host_rows = NULL, *host = NULL;
    peri_kmeans_rounds *r = p->rounds;
    peri_status status;
    PERI_GO(peri_kmeans_rows_at(r->rows, r->metric, p->ids, p->count, &rows));
    PERI_GO(peri_matrix_move(rows, PERI_CPU, &host_rows));
    PERI_GO(peri_matrix_move(r->centroids, PERI_CPU, &host));
    peri_view from = peri_matrix_view(host_rows), to = peri_matrix_view(host);
    for (size_t i = 0; i < p->count; i++) blend(p, &p->list[i], peri_view_row(&from, i), &to);
    if (host != r->centroids) PERI_GO(peri_matrix_write(r->centroids, 0, p->clusters, to.data));
done:
    peri_matrix_release(rows);
    peri_matrix_release(host_rows);
    peri_matrix_release(host);
    return status;
}

static size_t starving(const repair *p) {
    size_t count = 0;
    for (size_t c = 0; c < p->clusters; c++) count += is_starving(p, p->sizes[c]);
    return count;
}

peri_status peri_kmeans_repair(peri_kmeans_rounds *r, double threshold, const uint32_t *sizes,
                               size_t *out_moved) {
    repair p = { .rounds = r,
                 .threshold = threshold,
                 .rows = peri_matrix_view(r->rows).rows,
                 .clusters = peri_matrix_view(r->centroids).rows };
    peri_matrix *labels = NULL;
    peri_status status;
    *out_moved = 0;
    p.sizes = (uint32_t *)(uintptr_t)sizes;
    size_t most = starving(&p);
    p.sizes = NULL;
    if (most == 0) return PERI_OK;
    PERI_GO(peri_memory_acquire(r->context, p.clusters, sizeof *p.sizes, &p.sizes));
    PERI_GO(peri_memory_acquire(r->context, most, sizeof *p.list, &p.list));
    PERI_GO(peri_memory_acquire(r->context, most, sizeof *p.ids, &p.ids));
    memcpy(p.sizes, sizes, p.clusters * sizeof *sizes);
    PERI_GO(peri_matrix_move(r->labels, PERI_CPU, &labels));
    p.labels = peri_matrix_view(labels).data;
    draw_all(&p);
    if (p.count > 0) PERI_GO(apply(&p));
    r->repaired += *out_moved = p.count;
done:
    peri_matrix_release(labels);
    peri_memory_release(r->context, p.sizes, p.clusters, sizeof *p.sizes);
    peri_memory_release(r->context, p.list, most, sizeof *p.list);
    peri_memory_release(r->context, p.ids, most, sizeof *p.ids);
    return status;
}
