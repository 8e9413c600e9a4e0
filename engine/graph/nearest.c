/* nearest.c: the kNN operation on a few rows, with filters, and on the mean. */
#include "graph/nearest.h"

#include <math.h>
#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/half.h"
#include "core/lane.h"
#include "core/memory.h"
#include "core/random.h"

#define MEAN_ROWS 16384u /* sampled for the mean: its error is far below the rows' own spread */

static peri_device *device_of(const peri_nearest *nearest) {
    peri_device *device = NULL;
    peri_view view = peri_matrix_view(nearest->rows);
    (void)peri_context_device(peri_matrix_context(nearest->rows), view.place, &device);
    return device;
}

/* The rows `slots` at the place, in the dtype of queries. */
static peri_status gather_queries(peri_lane *lane, const peri_view *rows, const uint32_t *slots,
                                  size_t count, peri_view *out) {
    int64_t *wide;
    peri_op_gather gather = { PERI_OP_GATHER, *rows, NULL, *rows };
    PERI_TRY(peri_lane_take_host(lane, count, sizeof *wide, &wide));
    for (size_t i = 0; i < count; i++) wide[i] = (int64_t)slots[i];
    PERI_TRY(peri_lane_upload(lane, wide, count, sizeof *wide, &gather.slots));
    gather.out.rows = count;
    gather.out.stride_bytes = rows->cols * peri_dtype_bytes(rows->dtype);
    PERI_TRY(peri_lane_take(lane, count, gather.out.stride_bytes, &gather.out.data));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&gather));
    *out = gather.out;
    if (peri_query_dtype(rows->dtype) == rows->dtype) return PERI_OK;
    peri_op_convert convert = { PERI_OP_CONVERT, gather.out, gather.out };
    convert.out.dtype = peri_query_dtype(rows->dtype);
    convert.out.stride_bytes = rows->cols * peri_dtype_bytes(convert.out.dtype);
    PERI_TRY(peri_lane_take(lane, count, convert.out.stride_bytes, &convert.out.data));
    *out = convert.out;
    return peri_lane_run(lane, (const peri_op *)&convert);
}

static peri_status place_filter(peri_lane *lane, size_t n, const uint64_t *const *bits,
                                size_t bits_count, const uint32_t *which, size_t count,
                                peri_filter_view *out) {
    const uint64_t **placed;
    size_t *passing, words = peri_bitset_words(n);
    *out = (peri_filter_view){ .count = (uint32_t)bits_count, .words = words };
    PERI_TRY(peri_lane_take_host(lane, bits_count, sizeof *placed, &placed));
    PERI_TRY(peri_lane_take_host(lane, bits_count, sizeof *passing, &passing));
    for (size_t i = 0; i < bits_count; i++) {
        PERI_TRY(peri_lane_upload(lane, bits[i], words, sizeof **bits, &placed[i]));
        passing[i] = peri_bitset_count(bits[i], n);
    }
    PERI_TRY(peri_lane_upload(lane, placed, bits_count, sizeof *placed, &out->bits));
    PERI_TRY(peri_lane_upload(lane, passing, bits_count, sizeof *passing, &out->passing));
    if (which == NULL) return PERI_OK;
    return peri_lane_upload(lane, which, count, sizeof *which, &out->which);
}

static peri_status run_knn(peri_lane *lane, peri_op_knn *op, const peri_control *control,
                           int64_t *ids) {
    size_t results = op->queries.rows * op->k;
    PERI_TRY(peri_lane_out(lane, ids, results, sizeof *ids, &op->ids));
    PERI_TRY(peri_lane_take(lane, results, sizeof *op->distances, &op->distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)op));
    PERI_TRY(peri_lane_fetch(lane, ids, op->ids, results, sizeof *ids));
    return peri_lane_wait(lane, control);
}

peri_status peri_nearest_find(const peri_nearest *nearest, const uint32_t *slots, size_t count,
                              const uint64_t *const *bits, size_t bits_count, const uint32_t *which,
                              size_t k, int64_t *ids) {
    peri_view rows = peri_matrix_view(nearest->rows);
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = nearest->metric, .rows = rows, .k = k };
    if (nearest->lengths != NULL) op.lengths = peri_matrix_view(nearest->lengths).data;
    peri_lane *lane;
    PERI_TRY(peri_lane_acquire(device_of(nearest), &lane));
    peri_lane_follow(lane, nearest->control, nearest->threads);
    peri_status status;
    PERI_GO(gather_queries(lane, &rows, slots, count, &op.queries));
    PERI_GO(place_filter(lane, rows.rows, bits, bits_count, which, count, &op.filter));
    PERI_GO(run_knn(lane, &op, nearest->control, ids));
done:
    peri_lane_release(lane);
    return status;
}

/* ---- the mean ----------------------------------------------------------------------------- */

static double element(const peri_view *view, const void *row, size_t column) {
    switch (view->dtype) {
    case PERI_F32: return (double)((const float *)row)[column];
    case PERI_F16: return (double)peri_half_to_float(((const uint16_t *)row)[column]);
    case PERI_I8: return (double)((const int8_t *)row)[column];
    default: return (double)((const uint8_t *)row)[column];
    }
}

/* Writes the mean of the rows, or of a random part of them, as one query of theirs. */
static void mean_query(const peri_view *host, uint64_t seed, double *sums, void *query) {
    size_t n = host->rows, taken = peri_min_size(n, MEAN_ROWS);
    memset(sums, 0, host->cols * sizeof *sums);
    for (size_t i = 0; i < taken; i++) {
        size_t row = taken == n ? i : peri_random_below(seed, i, (uint32_t)n);
        for (size_t c = 0; c < host->cols; c++)
            sums[c] += element(host, peri_view_row(host, row), c);
    }
    for (size_t c = 0; c < host->cols; c++) {
        double mean = sums[c] / (double)taken;
        if (host->dtype == PERI_I8)
            ((int8_t *)query)[c] = (int8_t)lrint(mean);
        else if (host->dtype == PERI_U8)
            ((uint8_t *)query)[c] = (uint8_t)lrint(mean);
        else
            ((float *)query)[c] = (float)mean;
    }
}

peri_status peri_nearest_to_mean(const peri_nearest *nearest, const peri_view *host, uint64_t seed,
                                 uint32_t *out) {
    peri_op_knn op = { .kind = PERI_OP_KNN, .metric = PERI_SQEUCLIDEAN, .k = 1 };
    op.rows = peri_matrix_view(nearest->rows);
    peri_view query = { NULL, 1, host->cols, 0, peri_query_dtype(host->dtype), PERI_CPU };
    query.stride_bytes = query.cols * peri_dtype_bytes(query.dtype);
    peri_lane *lane;
    double *sums;
    int64_t id = PERI_ID_NONE;
    PERI_TRY(peri_lane_acquire(device_of(nearest), &lane));
    peri_lane_follow(lane, nearest->control, nearest->threads);
    peri_status status;
    PERI_GO(peri_lane_take_host(lane, host->cols, sizeof *sums, &sums));
    PERI_GO(peri_lane_take_host(lane, 1, query.stride_bytes, &query.data));
    mean_query(host, seed, sums, query.data);
    PERI_GO(peri_lane_upload_view(lane, &query, &op.queries));
    PERI_GO(run_knn(lane, &op, nearest->control, &id));
    *out = id < 0 ? 0 : (uint32_t)id;
done:
    peri_lane_release(lane);
    return status;
}
