/* report: values as a metric reports them, in place.
 *
 * values [n] f32. One thread a value. Bound by memory: 8 bytes a value; the answers of a batch are
 * some hundred KiB, so it is the launch that is paid. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;

__global__ void __launch_bounds__(THREADS) report(float *values, size_t count, bool negate) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (; i < count; i += (size_t)gridDim.x * THREADS) {
        float v = values[i];
        values[i] = negate     ? __uint_as_float(__float_as_uint(v) ^ 0x80000000u)
                    : v > 0.0f ? __fsqrt_rn(v)
                               : 0.0f;
    }
}

bool supports(const peri_device *, const peri_op *, peri_cuda_answer) { return true; }

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_report *)any;
    bool negate = op->metric == PERI_INNER_PRODUCT;
    if (op->count == 0 || (!negate && op->metric != PERI_EUCLIDEAN)) return PERI_OK;
    report<<<peri_blocks(op->count, THREADS), THREADS, 0, peri_cuda_handle(stream)>>>(
        op->values, op->count, negate);
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_report_op = { supports, nullptr, run };
