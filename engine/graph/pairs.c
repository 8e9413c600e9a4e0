/* pairs.c: the small steps of pairs.h. */
#include "graph/pairs.h"

#include "core/distance.h"
#include "core/progress.h"

peri_status peri_pairs_lengths(peri_matrix *rows, peri_metric metric, size_t threads,
                               const peri_control *control, peri_matrix **out) {
    peri_view view = peri_matrix_view(rows);
    peri_context *context = peri_matrix_context(rows);
    peri_device *device;
    *out = NULL;
    if (metric != PERI_COSINE) return PERI_OK;
    PERI_TRY(peri_context_device(context, view.place, &device));
    PERI_TRY(peri_matrix_create(context, view.rows, 1, PERI_F32, view.place, out));
    peri_op_lengths op = { PERI_OP_LENGTHS, view, peri_matrix_view(*out).data };
    peri_status status = peri_progress_run(device, (const peri_op *)&op, control, threads);
    if (status == PERI_OK) return PERI_OK;
    peri_matrix_release(*out);
    *out = NULL;
    return status;
}

peri_status peri_pairs_queries(peri_lane *lane, const peri_view *rows, size_t first, size_t count,
                               peri_dtype dtype, peri_view *out) {
    *out = *rows;
    out->rows = count;
    out->data = peri_view_row(rows, first);
    if (out->dtype == dtype) return PERI_OK;
    peri_op_convert op = { PERI_OP_CONVERT, *out, *out };
    op.out.dtype = dtype;
    op.out.stride_bytes = out->cols * peri_dtype_bytes(dtype);
    PERI_TRY(peri_lane_take(lane, count, op.out.stride_bytes, &op.out.data));
    *out = op.out;
    return peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_pairs_report(peri_matrix *values, peri_metric metric) {
    peri_view view = peri_matrix_view(values);
    const peri_op_report op = { PERI_OP_REPORT, metric, view.data, view.rows * view.cols };
    peri_device *device;
    if (metric != PERI_EUCLIDEAN && metric != PERI_INNER_PRODUCT) return PERI_OK;
    PERI_TRY(peri_context_device(peri_matrix_context(values), view.place, &device));
    return peri_progress_run(device, (const peri_op *)&op, NULL, 0);
}
