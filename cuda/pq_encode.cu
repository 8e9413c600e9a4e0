/* pq_encode: the nearest codeword of every piece of a row.
 *
 * rows [n, pq_dim * pq_len] f32 | codebooks [books * 2^pq_bits, pq_len] | labels [n] or none
 * codes [n, bytes] packed, lowest bits first
 * A thread takes ROWS rows and goes through their pieces, so that it packs the codes by itself. The
 * book of a piece is staged in shared memory by the block, as far as it fits (32 KiB), and a load
 * of it serves all rows of the thread; with labels each row has a book of its own and reads it
 * from L2. Pieces of up to 16 columns are held in registers. Bound by FP32: n * d * 2^pq_bits * 2
 * flop. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 128;
constexpr unsigned STAGED = 8192; /* floats of a book in shared memory */

/* Adds what column l of a word is apart from ROWS pieces. */
template <unsigned ROWS>
__device__ void add_column(float (&sums)[ROWS], const float (&x)[ROWS], float w) {
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) {
        const float t = __fsub_rn(x[r], w);
        sums[r] = __fmaf_rn(t, t, sums[r]);
    }
}

/* The nearest of `count` words to ROWS pieces of up to HELD columns; HELD 0: any number of them,
 * read again for each word. */
template <unsigned ROWS, unsigned HELD>
__device__ void nearest(const float *const (&pieces)[ROWS], const float *book, unsigned count,
                        unsigned len, unsigned (&codes)[ROWS]) {
    float held[HELD + 1][ROWS], best[ROWS];
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) {
        codes[r] = 0;
        best[r] = __int_as_float(0x7F800000);
#pragma unroll
        for (unsigned l = 0; l + 1 <= HELD; l++) held[l][r] = l < len ? pieces[r][l] : 0.0f;
    }
    for (unsigned c = 0; c < count; c++) {
        const float *word = book + (size_t)c * len;
        float sums[ROWS] = {};
        if constexpr (HELD > 0) {
#pragma unroll
            for (unsigned l = 0; l < HELD; l++)
                if (l < len) add_column<ROWS>(sums, held[l], word[l]);
        } else {
            for (unsigned l = 0; l < len; l++) {
#pragma unroll
                for (unsigned r = 0; r < ROWS; r++) held[0][r] = pieces[r][l];
                add_column<ROWS>(sums, held[0], word[l]);
            }
        }
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            if (!(sums[r] < best[r])) continue;
            best[r] = sums[r];
            codes[r] = c;
        }
    }
}

/* Rows t, t + THREADS, .. of a tile are those of thread t. With labels ROWS is 1. */
template <unsigned ROWS, unsigned HELD>
__global__ void __launch_bounds__(THREADS) encode_rows(peri_op_pq_encode op, size_t bytes) {
    __shared__ float staged[STAGED];
    const unsigned count = 1u << op.pq_bits, len = op.pq_len, floats = count * len;
    const size_t rows = op.rows.rows;
    for (size_t tile = blockIdx.x; tile * THREADS * ROWS < rows; tile += gridDim.x) {
        const float *pieces[ROWS];
        uint8_t *to[ROWS];
        unsigned bits[ROWS] = {}, held = 0, present = 0, label = 0;
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) {
            size_t i = (tile * ROWS + r) * THREADS + threadIdx.x;
            if (i < rows) present++;
            if (i >= rows) i = rows - 1;
            pieces[r] = peri_row<float>(op.rows.data, op.rows.stride_bytes, i);
            to[r] = op.codes + i * bytes;
            if (op.labels != nullptr) label = op.labels[i];
        }
        for (unsigned j = 0; j < op.pq_dim; j++) {
            const bool own = op.labels != nullptr;
            const float *book = op.codebooks + (size_t)(own ? label : j) * floats;
            if (!own && floats <= STAGED) {
                __syncthreads(); /* the book before is done with */
                for (unsigned f = threadIdx.x; f < floats; f += THREADS) staged[f] = book[f];
                __syncthreads();
                book = staged;
            }
            unsigned codes[ROWS];
            nearest<ROWS, HELD>(pieces, book, count, len, codes);
            held += op.pq_bits;
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++) {
                pieces[r] += len;
                bits[r] |= codes[r] << (held - op.pq_bits);
                if (held >= 8 && r < present) *to[r]++ = (uint8_t)bits[r];
                if (held >= 8) bits[r] >>= 8;
            }
            if (held >= 8) held -= 8;
        }
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            if (held > 0 && r < present) *to[r] = (uint8_t)bits[r];
    }
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_pq_encode *)any;
    if (op->rows.dtype != PERI_F32)
        return peri_cuda_refuse(why, "rows of %s are not coded, only f32",
                                peri_cuda_name(op->rows.dtype));
    if (op->pq_bits < 1 || op->pq_bits > 8)
        return peri_cuda_refuse(why, "pq_bits: %u given, 1..8 are taken", op->pq_bits);
    if (op->pq_dim == 0 || op->pq_len == 0 || op->rows.cols != (size_t)op->pq_dim * op->pq_len)
        return peri_cuda_refuse(why, "%zu columns are not %u pieces of %u", op->rows.cols,
                                op->pq_dim, op->pq_len);
    if (op->rows.cols > PERI_DIM_MAX)
        return peri_cuda_refuse(why, "%zu columns given, 1..%u are taken", op->rows.cols,
                                PERI_DIM_MAX);
    if (op->labels == nullptr && op->books != op->pq_dim)
        return peri_cuda_refuse(why, "%zu codebooks for %u pieces without labels", op->books,
                                op->pq_dim);
    return peri_cuda_aligned(&op->rows, why);
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_pq_encode *)any;
    cudaStream_t handle = peri_cuda_handle(stream);
    const size_t bytes = ((size_t)op->pq_dim * op->pq_bits + 7) / 8;
    const unsigned blocks = peri_blocks(op->rows.rows, THREADS);
    const unsigned quarter = peri_blocks(op->rows.rows, 4 * THREADS);
    if (op->rows.rows == 0) return PERI_OK;
    if (op->pq_len > 16 || op->labels != nullptr)
        encode_rows<1, 0><<<blocks, THREADS, 0, handle>>>(*op, bytes);
    else if (op->pq_len > 8)
        encode_rows<4, 16><<<quarter, THREADS, 0, handle>>>(*op, bytes);
    else
        encode_rows<4, 8><<<quarter, THREADS, 0, handle>>>(*op, bytes);
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_pq_encode_op = { supports, nullptr, run };
