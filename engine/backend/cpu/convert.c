/* convert.c: rows from dtype to dtype, in parallel over chunks of rows. */
#include "backend/cpu/convert.h"

#include <string.h>

#include "backend/convert_element.h"
#include "backend/cpu/distances.h"
#include "backend/cpu/ops.h"
#include "core/checked.h"
#include "core/matrix.h"
#include "core/threads.h"

#define CHUNK_ELEMENTS 65536u /* of one task: some 20 us of work */

void peri_widen(const uint16_t *in, size_t count, float *out) {
#if defined(__x86_64__)
    if (peri_isa_chosen() != PERI_ISA_SCALAR) {
        peri_widen_avx2(in, count, out);
        return;
    }
#elif defined(__aarch64__)
    if (peri_isa_chosen() == PERI_ISA_NEON) {
        peri_widen_neon(in, count, out);
        return;
    }
#endif
    for (size_t i = 0; i < count; i++) out[i] = peri_half_to_float(in[i]);
}

void peri_narrow(const float *in, size_t count, uint16_t *out) {
#if defined(__x86_64__)
    if (peri_isa_chosen() != PERI_ISA_SCALAR) {
        peri_narrow_avx2(in, count, out);
        return;
    }
#elif defined(__aarch64__)
    if (peri_isa_chosen() == PERI_ISA_NEON) {
        peri_narrow_neon(in, count, out);
        return;
    }
#endif
    for (size_t i = 0; i < count; i++) out[i] = peri_float_to_half(in[i]);
}

/* One loop for each pair: constant dtypes let the compiler make a plain loop of each. */
static void convert_row(const peri_op_convert *op, const void *in, void *out) {
    size_t count = op->in.cols;
    switch (op->in.dtype * 4 + op->out.dtype) {
#define CONVERT_CASE(from, to)                                                                     \
    case (from)*4 + (to):                                                                          \
        for (size_t j = 0; j < count; j++)                                                         \
            peri_element_store(to, out, j, peri_element_load(from, in, j));                        \
        break
        CONVERT_CASE(PERI_F32, PERI_I8);
        CONVERT_CASE(PERI_F32, PERI_U8);
        CONVERT_CASE(PERI_F16, PERI_I8);
        CONVERT_CASE(PERI_F16, PERI_U8);
        CONVERT_CASE(PERI_I8, PERI_F32);
        CONVERT_CASE(PERI_I8, PERI_F16);
        CONVERT_CASE(PERI_I8, PERI_U8);
        CONVERT_CASE(PERI_U8, PERI_F32);
        CONVERT_CASE(PERI_U8, PERI_F16);
        CONVERT_CASE(PERI_U8, PERI_I8);
#undef CONVERT_CASE
    case PERI_F16 * 4 + PERI_F32: peri_widen(in, count, out); break;
    case PERI_F32 * 4 + PERI_F16: peri_narrow(in, count, out); break;
    default: PERI_ASSERT(false);
    }
}

static size_t chunk_rows(const peri_op_convert *op) {
    return peri_max_size(1, CHUNK_ELEMENTS / peri_max_size(1, op->in.cols));
}

static peri_status convert_chunk(void *ud, size_t task, size_t worker) {
    const peri_op_convert *op = ud;
    size_t first = task * chunk_rows(op), stop = peri_min_size(first + chunk_rows(op), op->in.rows);
    (void)worker;
    for (size_t i = first; i < stop; i++) {
        const void *in = peri_view_row(&op->in, i);
        void *out = peri_view_row(&op->out, i);
        if (op->in.dtype == op->out.dtype)
            memcpy(out, in, op->in.cols * peri_dtype_bytes(op->in.dtype));
        else
            convert_row(op, in, out);
    }
    return PERI_OK;
}

size_t peri_cpu_convert_scratch(const peri_device *device, const peri_op_convert *op) {
    (void)device;
    (void)op;
    return 0;
}

peri_status peri_cpu_convert(peri_stream *stream, const peri_op_convert *op, void *scratch,
                             size_t scratch_bytes) {
    (void)scratch;
    (void)scratch_bytes;
    peri_op_convert copy = *op;
    peri_loop loop = { "convert", stream->threads, stream->control };
    return peri_parallel(stream->device->context, &loop, peri_ceil_div(op->in.rows, chunk_rows(op)),
                         convert_chunk, &copy);
}
