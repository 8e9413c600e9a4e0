/* others: answers of rows about themselves, without themselves.
 *
 * ids [count, degree + 1] i64, distances f32 | slots u32, ids i64, distances f32 [count, degree]
 * One warp a row: whether the row's own slot came before an entry says which one goes to its place.
 * Bound by memory: count * degree * 24 bytes. */
#include "device.cuh"
#include "distance.cuh"
#include "ops.h"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / PERI_WARP;

__device__ void put(const peri_op_others &op, size_t to, size_t from) {
    int64_t id = op.ids[from];
    if (op.slots != nullptr) op.slots[to] = id < 0 ? PERI_SLOT_NONE : (uint32_t)id;
    if (op.other_ids != nullptr) op.other_ids[to] = id;
    if (op.other_distances != nullptr) op.other_distances[to] = op.distances[from];
}

__global__ void __launch_bounds__(THREADS) others(peri_op_others op) {
    const unsigned lane = threadIdx.x % PERI_WARP;
    size_t i = (size_t)blockIdx.x * WARPS + threadIdx.x / PERI_WARP;
    for (; i < op.count; i += (size_t)gridDim.x * WARPS) {
        const int64_t *ids = op.ids + i * (op.degree + 1);
        unsigned seen = 0; /* the own slot, before this round's entries */
        for (size_t at = 0; at < op.degree; at += PERI_WARP) {
            size_t j = at + lane;
            bool inside = j < op.degree;
            int64_t id = inside ? ids[j] : PERI_ID_NONE;
            unsigned own = __ballot_sync(PERI_ALL_LANES, id == (int64_t)(op.first + i));
            bool later = seen != 0 || (own & (0xFFFFFFFFu >> (PERI_WARP - 1 - lane))) != 0;
            if (inside) put(op, i * op.degree + j, i * (op.degree + 1) + j + later);
            seen |= own;
        }
    }
}

bool supports(const peri_device *, const peri_op *any, peri_cuda_answer why) {
    auto op = (const peri_op_others *)any;
    if (op->other_distances != nullptr && op->distances == nullptr)
        return peri_cuda_refuse(why, "distances of others need those of all");
    if (op->degree > 0 && op->first <= PERI_SLOTS_MAX && op->count <= PERI_SLOTS_MAX - op->first)
        return true;
    return peri_cuda_refuse(why, "lists of %zu for rows %zu .. %zu", op->degree, op->first,
                            op->first + op->count);
}

peri_status run(peri_stream *stream, const peri_op *any, void *, size_t) {
    auto op = (const peri_op_others *)any;
    if (op->count == 0) return PERI_OK;
    others<<<peri_blocks(op->count, WARPS), THREADS, 0, peri_cuda_handle(stream)>>>(*op);
    return peri_cuda_launched(stream);
}

} /* namespace */

const peri_cuda_op peri_cuda_others_op = { supports, nullptr, run };
