/* report.c: values as a metric reports them. */
#include "backend/ref/ops.h"
#include "core/distance.h"

size_t peri_ref_report_scratch(const peri_device *device, const peri_op_report *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_ref_report(peri_stream *stream, const peri_op_report *op, void *scratch,
                            size_t scratch_bytes) {
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    peri_metric_report(op->metric, op->values, op->count);
    return PERI_OK;
}
