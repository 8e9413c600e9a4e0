/* pq_encode.c: the nearest codeword of every piece of a row, in parallel over chunks of rows.
 *
 * The books are transposed once (pq_nearest.h). A chunk takes one book after the other, which stays
 * in L1 for all its rows; with labels, each row takes its own book for all of its pieces. */
#include <math.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/pq_nearest.h"
#include "backend/cpu/workers.h"
#include "core/codes.h"
#include "core/matrix.h"

#define CHUNK_ROWS 64u

typedef struct encode_job {
    const peri_op_pq_encode *op;
    peri_pq_nearest_fn nearest;
    float *books;   /* [books, pq_len, 2^pq_bits] */
    uint8_t *codes; /* [workers, part_bytes]: a chunk's codes, a byte each, [pq_dim, rows] */
    size_t part_bytes;
} encode_job;

void peri_pq_nearest_scalar(const float *x, size_t stride, size_t count, const float *book,
                            uint32_t codes, uint32_t len, uint8_t *out) {
    for (size_t i = 0; i < count; i++) {
        const float *piece = x + i * stride;
        float best = INFINITY;
        uint32_t best_code = 0;
        for (uint32_t c = 0; c < codes; c++) {
            float sum = 0;
            for (uint32_t l = 0; l < len; l++) {
                float t = piece[l] - book[(size_t)l * codes + c];
                sum = fmaf(t, t, sum);
            }
            if (!(sum < best)) continue;
            best = sum;
            best_code = c;
        }
        out[i] = (uint8_t)best_code;
    }
}

static peri_pq_nearest_fn kernel_for(uint32_t codes) {
#if defined(__x86_64__)
    peri_isa isa = peri_isa_chosen();
    if (isa == PERI_ISA_AVX512 && codes >= 16) return peri_pq_nearest_avx512;
    if (isa != PERI_ISA_SCALAR && codes >= 8) return peri_pq_nearest_avx2;
#elif defined(__aarch64__)
    if (peri_isa_chosen() == PERI_ISA_NEON && codes >= 4) return peri_pq_nearest_neon;
#endif
    (void)codes;
    return peri_pq_nearest_scalar;
}

static size_t books_bytes(const peri_op_pq_encode *op) {
    return (op->books << op->pq_bits) * op->pq_len * sizeof(float);
}

static size_t part_bytes(const peri_op_pq_encode *op) {
    return peri_round_up((size_t)CHUNK_ROWS * op->pq_dim + op->pq_dim, 64);
}

size_t peri_cpu_pq_encode_scratch(const peri_device *device, const peri_op_pq_encode *op) {
    return peri_round_up(books_bytes(op), 64) + peri_cpu_workers_max(device) * part_bytes(op);
}

static peri_status transpose_book(void *ud, size_t task, size_t worker) {
    const encode_job *job = ud;
    size_t codes = (size_t)1 << job->op->pq_bits, len = job->op->pq_len;
    const float *from = job->op->codebooks + task * codes * len;
    float *to = job->books + task * codes * len;
    (void)worker;
    for (size_t c = 0; c < codes; c++)
        for (size_t l = 0; l < len; l++) to[l * codes + c] = from[c * len + l];
    return PERI_OK;
}

/* All rows of a chunk against one book after the other; then each row's codes are packed. */
static void encode_rows(const encode_job *job, size_t first, size_t count, uint8_t *codes) {
    const peri_op_pq_encode *op = job->op;
    size_t stride = op->rows.stride_bytes / sizeof(float), book = (size_t)op->pq_len << op->pq_bits;
    uint8_t *row = codes + (size_t)CHUNK_ROWS * op->pq_dim;
    const float *x = peri_view_row(&op->rows, first);
    for (size_t j = 0; j < op->pq_dim; j++)
        job->nearest(x + j * op->pq_len, stride, count, job->books + j * book, 1u << op->pq_bits,
                     op->pq_len, codes + j * count);
    size_t bytes = peri_codes_bytes(op->pq_dim, op->pq_bits);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < op->pq_dim; j++) row[j] = codes[j * count + i];
        peri_codes_pack(row, op->pq_dim, op->pq_bits, op->codes + (first + i) * bytes);
    }
}

static void encode_labelled(const encode_job *job, size_t first, size_t count, uint8_t *codes) {
    const peri_op_pq_encode *op = job->op;
    size_t book = (size_t)op->pq_len << op->pq_bits;
    size_t bytes = peri_codes_bytes(op->pq_dim, op->pq_bits);
    for (size_t i = first; i < first + count; i++) {
        job->nearest(peri_view_row(&op->rows, i), op->pq_len, op->pq_dim,
                     job->books + op->labels[i] * book, 1u << op->pq_bits, op->pq_len, codes);
        peri_codes_pack(codes, op->pq_dim, op->pq_bits, op->codes + i * bytes);
    }
}

static peri_status encode_chunk(void *ud, size_t task, size_t worker) {
    const encode_job *job = ud;
    size_t first = task * CHUNK_ROWS;
    size_t count = peri_min_size(CHUNK_ROWS, job->op->rows.rows - first);
    uint8_t *codes = job->codes + worker * job->part_bytes;
    if (job->op->labels == NULL)
        encode_rows(job, first, count, codes);
    else
        encode_labelled(job, first, count, codes);
    return PERI_OK;
}

peri_status peri_cpu_pq_encode(peri_stream *stream, const peri_op_pq_encode *op, void *scratch,
                               size_t scratch_bytes) {
    peri_context *context = stream->device->context;
    (void)scratch_bytes;
    encode_job job = { op, kernel_for(1u << op->pq_bits), scratch,
                       (uint8_t *)scratch + peri_round_up(books_bytes(op), 64), part_bytes(op) };
    peri_loop quiet = { NULL, peri_cpu_workers(stream), NULL };
    peri_loop loop = { "encode", quiet.threads, stream->control };
    PERI_TRY(peri_parallel(context, &quiet, op->books, transpose_book, &job));
    return peri_parallel(context, &loop, peri_ceil_div(op->rows.rows, CHUNK_ROWS), encode_chunk,
                         &job);
}
