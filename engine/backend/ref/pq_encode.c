/* pq_encode.c: the nearest codeword of every piece of a row. */
#include <math.h>
#include <string.h>

#include "backend/ref/ops.h"
#include "core/codes.h"
#include "core/matrix.h"

size_t peri_ref_pq_encode_scratch(const peri_device *device, const peri_op_pq_encode *op) {
    (void)device;
    (void)op;
    return 0;
}

static uint32_t nearest(const float *x, const float *book, uint32_t count, uint32_t len) {
    float best = INFINITY;
    uint32_t code = 0;
    for (uint32_t c = 0; c < count; c++) {
        float sum = 0;
        for (uint32_t l = 0; l < len; l++) {
            float t = x[l] - book[(size_t)c * len + l];
            sum = fmaf(t, t, sum);
        }
        if (!(sum < best)) continue;
        best = sum;
        code = c;
    }
    return code;
}

peri_status peri_ref_pq_encode(peri_stream *stream, const peri_op_pq_encode *op, void *scratch,
                               size_t scratch_bytes) {
    size_t bytes = peri_codes_bytes(op->pq_dim, op->pq_bits);
    uint32_t count = 1u << op->pq_bits;
    (void)stream;
    (void)scratch;
    (void)scratch_bytes;
    for (size_t i = 0; i < op->rows.rows; i++) {
        const float *x = peri_view_row(&op->rows, i);
        uint8_t *row = op->codes + i * bytes;
        memset(row, 0, bytes);
        for (size_t j = 0; j < op->pq_dim; j++) {
            size_t book = op->labels == NULL ? j : op->labels[i];
            const float *words = op->codebooks + book * count * op->pq_len;
            peri_codes_put(row, j, op->pq_bits,
                           nearest(x + j * op->pq_len, words, count, op->pq_len));
        }
    }
    return PERI_OK;
}
