/* pairwise.c: the canonical distance of every query to every row.
 *
 * A task is a block of queries on a segment of rows that stays in L1 or L2 while each query of the
 * block passes over it; a query's values go straight to their places. */
#include "backend/cpu/distances.h"
#include "backend/cpu/ops.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/threads.h"

#define SEGMENT_BYTES 65536u /* of rows */
#define SEGMENT_ROWS_LEAST 16u
#define BLOCK_QUERIES 32u

typedef struct pairwise_job {
    const peri_op_pairwise *op;
    peri_distances distances;
    size_t segment_rows, segments;
} pairwise_job;

size_t peri_cpu_pairwise_scratch(const peri_device *device, const peri_op_pairwise *op) {
    (void)device;
    (void)op;
    return 0;
}

static peri_status pairwise_task(void *ud, size_t task, size_t worker) {
    const pairwise_job *job = ud;
    const peri_op_pairwise *op = job->op;
    size_t query = task / job->segments * BLOCK_QUERIES;
    size_t stop = peri_min_size(query + BLOCK_QUERIES, op->queries.rows);
    size_t first = task % job->segments * job->segment_rows;
    size_t count = peri_min_size(job->segment_rows, op->rows.rows - first);
    (void)worker;
    for (; query < stop; query++) {
        const void *bytes = peri_view_row(&op->queries, query);
        float length = peri_distances_query_length(&job->distances, bytes);
        peri_distances_range(&job->distances, bytes, length, first, count,
                             (float *)peri_view_row(&op->out, query) + first);
    }
    return PERI_OK;
}

peri_status peri_cpu_pairwise(peri_stream *stream, const peri_op_pairwise *op, void *scratch,
                              size_t scratch_bytes) {
    (void)scratch;
    (void)scratch_bytes;
    if (op->rows.rows == 0) return PERI_OK;
    pairwise_job job = { .op = op };
    size_t row = op->rows.cols * peri_dtype_bytes(op->rows.dtype);
    peri_distances_init(&job.distances, op->metric, &op->rows, op->lengths);
    job.segment_rows = peri_max_size(SEGMENT_ROWS_LEAST, SEGMENT_BYTES / row);
    job.segments = peri_ceil_div(op->rows.rows, job.segment_rows);
    peri_loop loop = { "pairwise", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop,
                         peri_ceil_div(op->queries.rows, BLOCK_QUERIES) * job.segments,
                         pairwise_task, &job);
}
