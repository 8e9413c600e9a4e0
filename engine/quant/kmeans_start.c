/* kmeans_start.c: where k-means begins: rows drawn at random, or by k-means++.
 *
 * k-means++ draws each next centroid with a probability in proportion to the squared distance to
 * the nearest one drawn so far (Arthur & Vassilvitskii, SODA 2007), here on a sample of some rows a
 * cluster. Few clusters: the best of several draws is taken each time (the greedy form), and the
 * best of several starts after some rounds on the sample: there a bad start costs most and a good
 * one least. Many: some are drawn at a time, so that the rounds stay few and each is one operation
 * of the place. */
#include <math.h>

#include "core/checked.h"
#include "core/memory.h"
#include "core/random.h"
#include "quant/kmeans_rounds.h"

#define SAMPLE_PER_CLUSTER 16u
#define SAMPLE_LEAST 2048u
#define GREEDY_CLUSTERS 64u /* up to here several draws are tried */
#define ROUNDS_MOST 256u
#define STARTS 4u
#define START_ROUNDS 6u

void peri_kmeans_sample(size_t n, uint64_t seed, size_t count, int64_t *ids) {
    size_t whole = n / count, spare = n % count; /* spans of whole or whole + 1 rows */
    for (size_t i = 0; i < count; i++) {
        size_t first = i * whole + peri_min_size(i, spare), span = whole + (i < spare);
        size_t within = (size_t)(((double)(peri_random_mix(seed, i) >> 11)) * 0x1p-53 *
                                 (double)span);
        ids[i] = (int64_t)(first + peri_min_size(within, span - 1));
    }
}

peri_status peri_kmeans_gather(const peri_kmeans *asked, peri_matrix *rows, const int64_t *ids,
                               size_t count, const peri_control *control, peri_matrix **out) {
    peri_view view = peri_matrix_view(rows);
    peri_context *context = peri_matrix_context(rows);
    peri_op_gather op = { PERI_OP_GATHER, view, NULL, view };
    peri_device *device;
    peri_lane *lane = NULL;
    peri_status status;
    *out = NULL;
    PERI_GO(peri_context_device(context, view.place, &device));
    PERI_GO(peri_lane_acquire(device, &lane));
    PERI_GO(peri_matrix_acquire(context, count, view.cols, view.dtype, view.place, out));
    op.out = peri_matrix_view(*out);
    peri_lane_follow(lane, control, asked->threads);
    PERI_GO(peri_lane_upload(lane, ids, count, sizeof *ids, &op.slots));
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, control));
done:
    peri_lane_release(lane);
    if (status != PERI_OK) {
        peri_matrix_release(*out);
        *out = NULL;
    }
    return status;
}

peri_status peri_kmeans_rows_at(peri_matrix *rows, peri_metric metric, const int64_t *ids,
                                size_t count, peri_matrix **out) {
    peri_matrix *taken;
    *out = NULL;
    PERI_TRY(peri_matrix_gather(rows, ids, count, &taken));
    peri_status status = metric == PERI_COSINE ? peri_matrix_normalize(taken, out)
                                               : peri_matrix_convert(taken, PERI_F32, out);
    peri_matrix_release(taken);
    return status;
}

static peri_status start_random(peri_matrix *rows, peri_metric metric, size_t clusters,
                                uint64_t seed, peri_matrix **out) {
    peri_context *context = peri_matrix_context(rows);
    int64_t *ids;
    PERI_TRY(peri_memory_acquire(context, clusters, sizeof *ids, &ids));
    peri_kmeans_sample(peri_matrix_view(rows).rows, seed, clusters, ids);
    peri_status status = peri_kmeans_rows_at(rows, metric, ids, clusters, out);
    peri_memory_release(context, ids, clusters, sizeof *ids);
    return status;
}

/* ---- k-means++ ---------------------------------------------------------------------------- */

typedef struct seeding {
    const peri_kmeans *asked;
    peri_context *context;
    peri_metric metric;
    uint64_t seed;
    const peri_control *control; /* of the part at hand */
    peri_matrix *sample;
    size_t rows;
    float *nearest;  /* [rows] to what is drawn */
    float *trial;    /* [rows] the same with a draw more */
    double *sums;    /* [rows] running sums of `nearest` */
    int64_t *chosen; /* [clusters] rows of the sample */
    size_t count;
    uint64_t draws;
} seeding;

static double sum_up(seeding *s) {
    double sum = 0;
    for (size_t i = 0; i < s->rows; i++) {
        if (s->nearest[i] > 0) sum += (double)s->nearest[i];
        s->sums[i] = sum;
    }
    return sum;
}

static int64_t draw(seeding *s) {
    double total = s->sums[s->rows - 1];
    uint64_t bits = peri_random_mix(s->seed, s->draws++);
    double share = (double)(bits >> 11) * 0x1p-53;
    size_t low = 0, high = s->rows - 1;
    if (!(total > 0) || !isfinite(total)) return (int64_t)(share * (double)s->rows);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->sums[middle] > share * total)
            high = middle;
        else
            low = middle + 1;
    }
    return (int64_t)low;
}

/* trial = min(nearest, distance to the nearest of the rows `ids`); returns its sum. */
static peri_status try_rows(seeding *s, const int64_t *ids, size_t count, double *out_sum) {
    peri_matrix *centroids = NULL, *labels = NULL, *distances = NULL, *host = NULL;
    peri_status status;
    PERI_GO(peri_kmeans_rows_at(s->sample, s->metric, ids, count, &centroids));
    PERI_GO(peri_kmeans_assign(s->sample, centroids, s->metric, s->asked->threads, s->control,
                               &labels, &distances));
    PERI_GO(peri_matrix_move(distances, PERI_CPU, &host));
    const float *found = peri_matrix_view(host).data;
    double sum = 0;
    for (size_t i = 0; i < s->rows; i++) {
        s->trial[i] = found[i] < s->nearest[i] ? found[i] : s->nearest[i];
        if (s->trial[i] > 0) sum += (double)s->trial[i];
    }
    *out_sum = sum;
done:
    peri_matrix_release(centroids);
    peri_matrix_release(labels);
    peri_matrix_release(distances);
    peri_matrix_release(host);
    return status;
}

static void keep_trial(seeding *s) {
    float *swap = s->nearest;
    s->nearest = s->trial;
    s->trial = swap;
}

/* One more, the best of `tries` draws. */
static peri_status add_best(seeding *s, size_t tries) {
    int64_t best = 0, id;
    double sum, least = INFINITY;
    for (size_t i = 0; i < tries; i++) {
        id = draw(s);
        PERI_TRY(try_rows(s, &id, 1, &sum));
        if (i > 0 && !(sum < least)) continue;
        least = sum;
        best = id;
    }
    if (tries > 1) PERI_TRY(try_rows(s, &best, 1, &sum));
    s->chosen[s->count++] = best;
    keep_trial(s);
    return PERI_OK;
}

static peri_status add_some(seeding *s, size_t count) {
    double sum;
    for (size_t i = 0; i < count; i++) s->chosen[s->count + i] = draw(s);
    PERI_TRY(try_rows(s, s->chosen + s->count, count, &sum));
    s->count += count;
    keep_trial(s);
    return PERI_OK;
}

static peri_status choose(seeding *s, size_t clusters, peri_progress *progress) {
    size_t each = peri_ceil_div(clusters, ROUNDS_MOST);
    size_t tries = clusters <= GREEDY_CLUSTERS ? 2 + (size_t)log((double)clusters) : 1;
    for (size_t i = 0; i < s->rows; i++) s->nearest[i] = INFINITY;
    while (s->count < clusters) {
        double left = sum_up(s);
        size_t count = s->count == 0 ? 1 : peri_min_size(each, clusters - s->count);
        peri_progress_step(progress, s->count, count);
        PERI_TRY(peri_progress_tell(progress, s->count));
        if (left == 0) /* fewer different rows than clusters: any will do */
            s->chosen[s->count++] = draw(s);
        else if (count == 1)
            PERI_TRY(add_best(s, s->count == 0 ? 1 : tries));
        else
            PERI_TRY(add_some(s, count));
    }
    return PERI_OK;
}

/* Some rounds on the sample from where `s` has begun; `centroids` become theirs. */
static peri_status settle(seeding *s, peri_matrix *centroids, double *inertia) {
    peri_kmeans_plan plan = { "k-means++", START_ROUNDS, 0, 1 };
    peri_kmeans_rounds r;
    peri_status status;
    PERI_GO(peri_kmeans_rounds_open(&r, s->asked, s->sample, centroids, s->seed, s->control));
    PERI_GO(peri_kmeans_rounds_run(&r, &plan));
    *inertia = r.inertia;
done:
    peri_kmeans_rounds_close(&r);
    return status;
}

static peri_status choose_best(seeding *s, size_t clusters, peri_progress *progress,
                               peri_matrix **out) {
    size_t starts = clusters > 1 && clusters <= GREEDY_CLUSTERS ? STARTS : 1;
    double least = INFINITY, inertia = 0;
    for (size_t i = 0; i < starts; i++) {
        peri_matrix *centroids;
        s->count = 0;
        PERI_TRY(choose(s, clusters, progress));
        PERI_TRY(peri_kmeans_rows_at(s->sample, s->metric, s->chosen, clusters, &centroids));
        peri_status status = starts == 1 ? PERI_OK : settle(s, centroids, &inertia);
        bool better = status == PERI_OK && (*out == NULL || inertia < least);
        peri_matrix *loser = better ? *out : centroids;
        if (better) {
            *out = centroids;
            least = inertia;
        }
        peri_matrix_release(loser);
        PERI_TRY(status);
    }
    return PERI_OK;
}

static peri_status take_sample(seeding *s, peri_matrix *rows) {
    size_t n = peri_matrix_view(rows).rows;
    int64_t *ids;
    if (s->rows == n) {
        peri_matrix_retain(rows);
        s->sample = rows;
        return PERI_OK;
    }
    PERI_TRY(peri_memory_acquire(s->context, s->rows, sizeof *ids, &ids));
    peri_kmeans_sample(n, s->seed, s->rows, ids);
    peri_status status = peri_matrix_gather(rows, ids, s->rows, &s->sample);
    peri_memory_release(s->context, ids, s->rows, sizeof *ids);
    return status;
}

static peri_status start_plusplus(seeding *s, peri_matrix *rows, size_t clusters,
                                  peri_matrix **out) {
    size_t wanted = peri_max_size(SAMPLE_LEAST, clusters * SAMPLE_PER_CLUSTER);
    peri_progress progress;
    peri_status status;
    peri_progress_init(&progress, s->control, "k-means++", clusters);
    s->control = &progress.control;
    s->rows = peri_min_size(peri_matrix_view(rows).rows, wanted);
    PERI_GO(take_sample(s, rows));
    PERI_GO(peri_memory_acquire(s->context, s->rows, sizeof *s->nearest, &s->nearest));
    PERI_GO(peri_memory_acquire(s->context, s->rows, sizeof *s->trial, &s->trial));
    PERI_GO(peri_memory_acquire(s->context, s->rows, sizeof *s->sums, &s->sums));
    PERI_GO(peri_memory_acquire(s->context, clusters, sizeof *s->chosen, &s->chosen));
    PERI_GO(choose_best(s, clusters, &progress, out));
done:
    peri_matrix_release(s->sample);
    peri_memory_release(s->context, s->nearest, s->rows, sizeof *s->nearest);
    peri_memory_release(s->context, s->trial, s->rows, sizeof *s->trial);
    peri_memory_release(s->context, s->sums, s->rows, sizeof *s->sums);
    peri_memory_release(s->context, s->chosen, clusters, sizeof *s->chosen);
    return status;
}

peri_status peri_kmeans_start(const peri_kmeans *asked, peri_matrix *rows, size_t n_clusters,
                              uint64_t seed, const peri_control *control, peri_matrix **out) {
    seeding s = { .asked = asked, .seed = seed, .control = control };
    s.context = peri_matrix_context(rows);
    s.metric = asked->metric == PERI_COSINE ? PERI_COSINE : PERI_SQEUCLIDEAN;
    *out = NULL;
    if (asked->init == PERI_KMEANS_RANDOM)
        return start_random(rows, s.metric, n_clusters, seed, out);
    return start_plusplus(&s, rows, n_clusters, out);
}
