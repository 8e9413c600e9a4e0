/* assign: the nearest centroid of every row: the plan. No kernels.
 *
 * rows [n, d] f32 f16 i8 u8 | centroids [c, d] f32 | labels, distances [n]
 * Rows go in chunks, so that scratch is bounded. */
#include "assign.cuh"
#include "ops.h"

namespace {

constexpr size_t CHUNK_ROWS = (size_t)4 << 20; /* 32 MiB of keys */

size_t least(size_t a, size_t b) { return a < b ? a : b; }

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_assign *)any;
    peri_view queries = op->rows;
    if (op->centroids.rows == 0) return peri_cuda_refuse(why, "centroids: 0 given, 1 is the least");
    if (op->centroids.dtype != PERI_F32)
        return peri_cuda_refuse(why, "centroids of %s, f32 is taken",
                                peri_cuda_name(op->centroids.dtype));
    queries.dtype = PERI_F32; /* what they stand for */
    return peri_cuda_rows_taken(&op->rows, why) && peri_cuda_search_taken(op->metric, &queries,
                                                                          &op->centroids,
                                                                          op->lengths, why);
}

size_t scratch(const peri_device *, const peri_op *any) {
    auto op = (const peri_op_assign *)any;
    return least(op->rows.rows, CHUNK_ROWS) * sizeof(uint64_t);
}

peri_status run(peri_stream *stream, const peri_op *any, void *scratch, size_t) {
    peri_assign_part part = {};
    part.op = *(const peri_op_assign *)any;
    part.keys = static_cast<uint64_t *>(scratch);
    for (; part.first < part.op.rows.rows; part.first += part.count) {
        part.count = least(CHUNK_ROWS, part.op.rows.rows - part.first);
        peri_status status = peri_assign_direct(stream, &part);
        if (status != PERI_OK) return status;
    }
    return PERI_OK;
}

} /* namespace */

const peri_cuda_op peri_cuda_assign_op = { supports, scratch, run };
