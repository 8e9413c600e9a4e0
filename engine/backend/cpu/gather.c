/* gather.c: rows by slot, in parallel over chunks of the result; rows ahead are prefetched. */
#include <string.h>

#include "backend/cpu/ops.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/threads.h"

#define CHUNK_BYTES 262144u /* of one task */
#define AHEAD 4u            /* rows */

static size_t row_bytes(const peri_op_gather *op) {
    return op->rows.cols * peri_dtype_bytes(op->rows.dtype);
}

static size_t chunk_rows(const peri_op_gather *op) {
    return peri_max_size(1, CHUNK_BYTES / peri_max_size(1, row_bytes(op)));
}

static peri_status gather_chunk(void *ud, size_t task, size_t worker) {
    const peri_op_gather *op = ud;
    size_t first = task * chunk_rows(op),
           stop = peri_min_size(first + chunk_rows(op), op->out.rows);
    size_t bytes = row_bytes(op);
    (void)worker;
    for (size_t i = first; i < stop; i++) {
        if (i + AHEAD < stop)
            __builtin_prefetch(peri_view_row(&op->rows, (size_t)op->slots[i + AHEAD]));
        memcpy(peri_view_row(&op->out, i), peri_view_row(&op->rows, (size_t)op->slots[i]), bytes);
    }
    return PERI_OK;
}

size_t peri_cpu_gather_scratch(const peri_device *device, const peri_op_gather *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_cpu_gather(peri_stream *stream, const peri_op_gather *op, void *scratch,
                            size_t scratch_bytes) {
    (void)scratch;
    (void)scratch_bytes;
    peri_op_gather copy = *op;
    peri_loop loop = { "gather", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop,
                         peri_ceil_div(op->out.rows, chunk_rows(op)), gather_chunk, &copy);
}
