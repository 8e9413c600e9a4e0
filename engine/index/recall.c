/* recall.c: the share of true neighbours found, by id or by value. */
#include <math.h>

#include "core/matrix.h"

#define VALUE_TOLERANCE 1e-5

static int64_t id_at(const peri_view *view, size_t row, size_t column) {
    const void *data = peri_view_row(view, row);
    switch (view->dtype) {
    case PERI_I64: return ((const int64_t *)data)[column];
    case PERI_I32: return ((const int32_t *)data)[column];
    default: {
        uint32_t id = ((const uint32_t *)data)[column];
        return id == UINT32_MAX ? PERI_ID_NONE : (int64_t)id;
    }
    }
}

/* True neighbours of a row: fewer than k when the truth itself is short. */
static size_t true_count(const peri_view *truth, size_t row, size_t k) {
    size_t count = 0;
    while (count < k && id_at(truth, row, count) != PERI_ID_NONE) count++;
    return count;
}

static size_t right_by_id(const peri_view *found, const peri_view *truth, size_t row, size_t k,
                          size_t wanted) {
    size_t right = 0;
    for (size_t t = 0; t < wanted; t++) {
        int64_t id = id_at(truth, row, t);
        for (size_t f = 0; f < k; f++) {
            if (id_at(found, row, f) == id) {
                right++;
                break;
            }
        }
    }
    return right;
}

/* A repeated id counts once. */
static bool seen_before(const peri_view *ids, size_t row, size_t column) {
    int64_t id = id_at(ids, row, column);
    for (size_t f = 0; f < column; f++)
        if (id_at(ids, row, f) == id) return true;
    return false;
}

static size_t right_by_value(const peri_view *ids, const peri_view *values, const peri_view *truth,
                             peri_metric metric, size_t row, size_t k, size_t wanted) {
    const float *found = peri_view_row(values, row);
    double worst = ((const float *)peri_view_row(truth, row))[wanted - 1];
    /* Of a similarity near 1, 1 - cos keeps the rounding error of the similarity. */
    double scale = metric == PERI_COSINE ? fabs(1.0 - worst) : fabs(worst);
    double slack = VALUE_TOLERANCE * fmax(scale, 1e-6);
    size_t right = 0;
    for (size_t f = 0; f < k && right < wanted; f++) {
        if (id_at(ids, row, f) == PERI_ID_NONE || seen_before(ids, row, f)) continue;
        bool near = metric == PERI_INNER_PRODUCT ? found[f] >= worst - slack
                                                 : found[f] <= worst + slack;
        right += near;
    }
    return right;
}

static peri_status check_ids(const peri_view *view, const char *what) {
    if (view->dtype == PERI_I64 || view->dtype == PERI_I32 || view->dtype == PERI_U32)
        return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "%s: dtype %s given, allowed: i64 i32 u32", what,
                     peri_dtype_name(view->dtype));
}

static peri_status check_values(const peri_view *values, const peri_view *ids, const char *what) {
    if (values->dtype == PERI_F32 && values->rows == ids->rows && values->cols >= ids->cols)
        return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "%s: %zu x %zu %s given, allowed: %zu x %zu f32", what,
                     values->rows, values->cols, peri_dtype_name(values->dtype), ids->rows,
                     ids->cols);
}

peri_status peri_recall(const peri_view *found_ids, const peri_view *found_values,
                        const peri_view *truth_ids, const peri_view *truth_values,
                        peri_metric metric, double *out) {
    *out = 0;
    PERI_TRY(check_ids(found_ids, "neighbors"));
    PERI_TRY(check_ids(truth_ids, "truth"));
    bool by_value = found_values != NULL && truth_values != NULL;
    if (by_value) PERI_TRY(check_values(found_values, found_ids, "distances"));
    if (by_value) PERI_TRY(check_values(truth_values, truth_ids, "truth distances"));
    size_t k = found_ids->cols;
    if (found_ids->rows != truth_ids->rows || truth_ids->cols < k)
        return peri_fail(PERI_E_ARGUMENT,
                         "truth: %zu x %zu given, allowed: %zu rows of at least "
                         "%zu",
                         truth_ids->rows, truth_ids->cols, found_ids->rows, k);
    size_t right = 0, total = 0;
    for (size_t row = 0; row < found_ids->rows; row++) {
        size_t wanted = true_count(truth_ids, row, k);
        if (wanted == 0) continue;
        total += wanted;
        right += by_value
                     ? right_by_value(found_ids, found_values, truth_values, metric, row, k, wanted)
                     : right_by_id(found_ids, truth_ids, row, k, wanted);
    }
    *out = total == 0 ? 1.0 : (double)right / (double)total;
    return PERI_OK;
}
