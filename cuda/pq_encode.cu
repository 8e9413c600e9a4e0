/* pq_encode: the nearest codeword of every piece of a row.
 *
 * rows [n, pq_dim * pq_len] f32 | codebooks [books * 2^pq_bits, pq_len] | labels [n] or none
 * codes [n, bytes] packed, lowest bits first
 * A thread takes a row and goes through its pieces, so that it packs the codes by itself. The book
 * of a piece is staged in shared memory by the block, as far as it fits (32 KiB); with labels each
 * row has its own and reads it from L2. A piece of up to 16 columns is held in registers. Bound by
 * FP32, n * d * 2^pq_bits * 2 flop, and by the loads of words, one for each of its steps: plain. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 128;
constexpr unsigned STAGED = 8192; /* floats of a book in shared memory */
constexpr unsigned LEN_HELD = 16; /* columns of a piece in registers */

/* The nearest of `count` words; x is held where the piece is short. */
template <bool HELD>
__device__ unsigned nearest(const float *x, const float *book, unsigned count, unsigned len) {
    float held[LEN_HELD], best = __int_as_float(0x7F800000);
    unsigned code = 0;
    if (HELD) {
#pragma unroll
        for (unsigned l = 0; l < LEN_HELD; l++) held[l] = l < len ? x[l] : 0.0f;
    }
    for (unsigned c = 0; c < count; c++) {
        const float *word = book + (size_t)c * len;
        float sum = 0.0f;
        if (HELD) {
#pragma unroll
            for (unsigned l = 0; l < LEN_HELD; l++) {
                if (l >= len) break;
                float t = __fsub_rn(held[l], word[l]);
                sum = __fmaf_rn(t, t, sum);
            }
        } else {
            for (unsigned l = 0; l < len; l++) {
                float t = __fsub_rn(x[l], word[l]);
                sum = __fmaf_rn(t, t, sum);
            }
        }
        if (!(sum < best)) continue;
        best = sum;
        code = c;
    }
    return code;
}

template <bool HELD>
__global__ void __launch_bounds__(THREADS) encode_rows(peri_op_pq_encode op, size_t bytes) {
    __shared__ float staged[STAGED];
    const unsigned count = 1u << op.pq_bits, len = op.pq_len, floats = count * len;
    const size_t tiles = (op.rows.rows + THREADS - 1) / THREADS;
    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const size_t i = tile * THREADS + threadIdx.x;
        const bool mine = i < op.rows.rows;
        const float *row = peri_row<float>(op.rows.data, op.rows.stride_bytes, mine ? i : 0);
        uint8_t *to = op.codes + (mine ? i : 0) * bytes;
        unsigned bits = 0, held = 0;
        for (unsigned j = 0; j < op.pq_dim; j++) {
            const float *book = op.codebooks + (size_t)j * floats;
            if (op.labels != nullptr) {
                book = op.codebooks + (size_t)(mine ? op.labels[i] : 0) * floats;
            } else if (floats <= STAGED) {
                __syncthreads(); /* the book before is done with */
                for (unsigned f = threadIdx.x; f < floats; f += THREADS) staged[f] = book[f];
                __syncthreads();
                book = staged;
            }
            if (!mine) continue;
            bits |= nearest<HELD>(row + (size_t)j * len, book, count, len) << held;
            for (held += op.pq_bits; held >= 8; held -= 8, bits >>= 8) *to++ = (uint8_t)bits;
        }
        if (mine && held > 0) *to = (uint8_t)bits;
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
    if (op->rows.rows == 0) return PERI_OK;
    if (op->pq_len <= LEN_HELD)
        encode_rows<true><<<blocks, THREADS, 0, handle>>>(*op, bytes);
    else
        encode_rows<false><<<blocks, THREADS, 0, handle>>>(*op, bytes);
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_pq_encode_op = { supports, nullptr, run };
