/* cluster_sums.c: every centroid to the mean of its rows, one centroid after the other. */
#include <string.h>

#include "backend/convert_element.h"
#include "backend/ref/ops.h"
#include "core/distance.h"
#include "core/matrix.h"

/* Two sums of f64 and one mean of f32. */
size_t peri_ref_cluster_sums_scratch(const peri_device *device, const peri_op_cluster_sums *op) {
    (void)device;
    return op->rows.cols * (2 * sizeof(double) + sizeof(float));
}

static void add_row(const peri_op_cluster_sums *op, size_t i, double *group) {
    const void *row = peri_view_row(&op->rows, i);
    for (size_t j = 0; j < op->rows.cols; j++) {
        double x = (double)peri_element_load(op->rows.dtype, row, j);
        group[j] += op->lengths == NULL ? x : x / (double)op->lengths[i];
    }
}

static void fold(double *sums, double *group, size_t cols) {
    for (size_t j = 0; j < cols; j++) sums[j] += group[j];
    memset(group, 0, cols * sizeof *group);
}

/* Sums the rows of one centroid and returns how many they are. */
static uint32_t sum_rows(const peri_op_cluster_sums *op, size_t centroid, double *sums,
                         double *group) {
    size_t cols = op->rows.cols;
    uint32_t count = 0;
    memset(sums, 0, cols * sizeof *sums);
    memset(group, 0, cols * sizeof *group);
    for (size_t i = 0; i < op->rows.rows; i++) {
        if (op->labels[i] != centroid) continue;
        add_row(op, i, group);
        if (++count % PERI_SUMS_GROUP == 0) fold(sums, group, cols);
    }
    if (count % PERI_SUMS_GROUP != 0) fold(sums, group, cols);
    return count;
}

static void move(const peri_op_cluster_sums *op, size_t c, uint32_t count, const double *sums,
                 float *mean) {
    float *centroid = peri_view_row(&op->centroids, c);
    double weight = op->weights == NULL ? 0 : op->weights[c];
    size_t cols = op->rows.cols;
    for (size_t j = 0; j < cols; j++)
        mean[j] = weight == 0
                      ? (float)(sums[j] / count)
                      : (float)((weight * (double)centroid[j] + sums[j]) / (weight + count));
    float length = op->unit ? peri_canonical_length(PERI_F32, mean, (uint32_t)cols) : 1;
    if (!(length > 0) || !isfinite(length)) return;
    for (size_t j = 0; j < cols; j++) centroid[j] = op->unit ? mean[j] / length : mean[j];
}

peri_status peri_ref_cluster_sums(peri_stream *stream, const peri_op_cluster_sums *op,
                                  void *scratch, size_t scratch_bytes) {
    (void)stream;
    (void)scratch_bytes;
    size_t cols = op->rows.cols;
    double *sums = scratch, *group = sums + cols;
    for (size_t c = 0; c < op->centroids.rows; c++) {
        op->counts[c] = sum_rows(op, c, sums, group);
        if (op->counts[c] > 0) move(op, c, op->counts[c], sums, (float *)(void *)(group + cols));
    }
    return PERI_OK;
}
