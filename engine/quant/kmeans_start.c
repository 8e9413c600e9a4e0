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
#include "quant/kmeans_draw.h"
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
    peri_lane *lane;
    peri_matrix *sample;
    size_t rows;
    peri_matrix *drawn;     /* [each, d] of the sample's dtype: the rows of one round */
    peri_matrix *centroids; /* [each, d] f32: the same */
    peri_matrix *labels;    /* [rows] at the place */
    peri_matrix *distances; /* [rows] at the place, to the drawn ones */
    float *found;           /* [rows] on the host: the same */
    float *nearest;         /* [rows] to what was drawn so far */
    float *trial;           /* [rows] the same with the round's */
    double *sums;           /* running sums of `nearest` */
    double *trial_sums;
    double left;     /* the last of `sums` */
    int64_t *chosen; /* [clusters] rows of the sample */
    size_t count;
    uint64_t draws;
} seeding;

static int64_t draw(seeding *s) {
    uint64_t bits = peri_random_mix(s->seed, s->draws++);
    double share = (double)(bits >> 11) * 0x1p-53;
    if (!(s->left > 0) || !isfinite(s->left)) return (int64_t)(share * (double)s->rows);
    return (int64_t)peri_draw_row(s->nearest, s->rows, s->sums, share);
}

/* Enqueues: the rows `ids` of the sample, as f32, and how far each of the sample is from the
 * nearest. */
static peri_status measure(seeding *s, const int64_t *ids, size_t count) {
    peri_view drawn = peri_matrix_view(s->drawn), centroids = peri_matrix_view(s->centroids);
    drawn.rows = centroids.rows = count;
    peri_op_gather gather = { PERI_OP_GATHER, peri_matrix_view(s->sample), NULL, drawn };
    peri_op_convert convert = { PERI_OP_CONVERT, drawn, centroids };
    peri_op_assign assign = { .kind = PERI_OP_ASSIGN,
                              .metric = s->metric,
                              .rows = gather.rows,
                              .centroids = centroids,
                              .labels = peri_matrix_view(s->labels).data,
                              .distances = peri_matrix_view(s->distances).data };
    PERI_TRY(peri_lane_upload(s->lane, ids, count, sizeof *ids, &gather.slots));
    PERI_TRY(peri_lane_run(s->lane, (const peri_op *)&gather));
    if (drawn.data != centroids.data) PERI_TRY(peri_lane_run(s->lane, (const peri_op *)&convert));
    if (s->metric == PERI_COSINE) {
        peri_op_lengths lengths = { PERI_OP_LENGTHS, centroids, NULL };
        PERI_TRY(peri_lane_take(s->lane, count, sizeof *lengths.out, &lengths.out));
        PERI_TRY(peri_lane_run(s->lane, (const peri_op *)&lengths));
        assign.lengths = lengths.out;
    }
    PERI_TRY(peri_lane_run(s->lane, (const peri_op *)&assign));
    return peri_lane_fetch(s->lane, s->found, assign.distances, s->rows, sizeof *s->found);
}

/* trial = the smaller of nearest and the distance to the nearest of the rows `ids`; and its sum. */
static peri_status try_rows(seeding *s, const int64_t *ids, size_t count, double *out_sum) {
    peri_lane_follow(s->lane, s->control, s->asked->threads);
    peri_status status = measure(s, ids, count);
    if (status == PERI_OK)
        status = peri_lane_wait(s->lane, s->control);
    else
        (void)peri_lane_wait(s->lane, NULL);
    PERI_TRY(status);
    peri_lane_rewind(s->lane);
    *out_sum = peri_draw_lower(s->nearest, s->found, s->rows, s->trial, s->trial_sums);
    return PERI_OK;
}

static void keep_trial(seeding *s) {
    float *nearest = s->nearest;
    double *sums = s->sums;
    s->nearest = s->trial;
    s->trial = nearest;
    s->sums = s->trial_sums;
    s->trial_sums = sums;
    s->left = s->sums[peri_draw_blocks(s->rows) - 1];
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

static size_t drawn_at_once(size_t clusters) { return peri_ceil_div(clusters, ROUNDS_MOST); }

static peri_status choose(seeding *s, size_t clusters, peri_progress *progress) {
    size_t each = drawn_at_once(clusters);
    size_t tries = clusters <= GREEDY_CLUSTERS ? 2 + (size_t)log((double)clusters) : 1;
    for (size_t i = 0; i < s->rows; i++) s->nearest[i] = INFINITY;
    s->left = INFINITY;
    while (s->count < clusters) {
        size_t count = s->count == 0 ? 1 : peri_min_size(each, clusters - s->count);
        peri_progress_step(progress, s->count, count);
        PERI_TRY(peri_progress_tell(progress, s->count));
        if (s->left == 0) /* fewer different rows than clusters: any will do */
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
        return peri_kmeans_bring(s->asked, &s->sample);
    }
    PERI_TRY(peri_memory_acquire(s->context, s->rows, sizeof *ids, &ids));
    peri_kmeans_sample(n, s->seed, s->rows, ids);
    peri_status status = peri_matrix_gather(rows, ids, s->rows, &s->sample);
    peri_memory_release(s->context, ids, s->rows, sizeof *ids);
    return status == PERI_OK ? peri_kmeans_bring(s->asked, &s->sample) : status;
}

/* What lies at the place and does not change its size. */
static peri_status place_room(seeding *s, size_t each) {
    peri_view sample = peri_matrix_view(s->sample);
    peri_place place = sample.place;
    peri_device *device;
    PERI_TRY(peri_context_device(s->context, place, &device));
    PERI_TRY(peri_lane_acquire(device, &s->lane));
    PERI_TRY(peri_matrix_create(s->context, each, sample.cols, sample.dtype, place, &s->drawn));
    if (sample.dtype == PERI_F32) {
        peri_matrix_retain(s->drawn);
        s->centroids = s->drawn;
    } else {
        PERI_TRY(peri_matrix_create(s->context, each, sample.cols, PERI_F32, place, &s->centroids));
    }
    PERI_TRY(peri_matrix_create(s->context, s->rows, 1, PERI_U32, place, &s->labels));
    return peri_matrix_create(s->context, s->rows, 1, PERI_F32, place, &s->distances);
}

static peri_status host_room(seeding *s, size_t clusters) {
    size_t blocks = peri_draw_blocks(s->rows);
    PERI_TRY(peri_memory_acquire(s->context, s->rows, sizeof *s->found, &s->found));
    PERI_TRY(peri_memory_acquire(s->context, s->rows, sizeof *s->nearest, &s->nearest));
    PERI_TRY(peri_memory_acquire(s->context, s->rows, sizeof *s->trial, &s->trial));
    PERI_TRY(peri_memory_acquire(s->context, blocks, sizeof *s->sums, &s->sums));
    PERI_TRY(peri_memory_acquire(s->context, blocks, sizeof *s->trial_sums, &s->trial_sums));
    return peri_memory_acquire(s->context, clusters, sizeof *s->chosen, &s->chosen);
}

static void release(seeding *s, size_t clusters) {
    size_t blocks = peri_draw_blocks(s->rows);
    peri_matrix *all[] = { s->sample, s->drawn, s->centroids, s->labels, s->distances };
    peri_lane_close(s->lane);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) peri_matrix_release(all[i]);
    peri_memory_release(s->context, s->found, s->rows, sizeof *s->found);
    peri_memory_release(s->context, s->nearest, s->rows, sizeof *s->nearest);
    peri_memory_release(s->context, s->trial, s->rows, sizeof *s->trial);
    peri_memory_release(s->context, s->sums, blocks, sizeof *s->sums);
    peri_memory_release(s->context, s->trial_sums, blocks, sizeof *s->trial_sums);
    peri_memory_release(s->context, s->chosen, clusters, sizeof *s->chosen);
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
    PERI_GO(place_room(s, drawn_at_once(clusters)));
    PERI_GO(host_room(s, clusters));
    PERI_GO(choose_best(s, clusters, &progress, out));
done:
    release(s, clusters);
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
