/* coarse_masks.cuh: which rows of a tile each of a thread's queries may have, while the values are
 * in registers: filters in coarse_wgmma.cuh, whose names it shares.
 *
 * Queries with filters of their own look at 128 bits a tile: each is tested on its value, by one
 * predicated minimum in place of a plain one. What doesn't pass is neither a hit nor in a list, so
 * a search has as many hits as one of the passing rows alone, whatever share of the rows that is.
 * Four lanes have the same queries: each asks for 32 of a query's 128 bits, before the product, and
 * they trade them after it, by a transpose in registers. */
#ifndef PERI_CUDA_COARSE_MASKS_CUH
#define PERI_CUDA_COARSE_MASKS_CUH

#include "coarse_parts.cuh"

namespace {

/* Bit 8 w + 2 j + c of a query: its row 32 w + 8 j + column + c of the tile, in the order of the
 * thread's values. */
struct masks {
    uint32_t of[4];
};

/* least = min(least, value) where the mask has the bit; `first`: nothing is in it yet. */
__device__ __forceinline__ void lower_masked(float &least, float value, uint32_t mask, uint32_t bit,
                                             bool first) {
    if (first)
        least = mask >> bit & 1 ? value : __int_as_float(0x7F800000);
    else
        asm("{\n\t.reg .pred passes;\n\t.reg .b32 one;\n\t"
            "and.b32 one, %2, %3;\n\t"
            "setp.ne.b32 passes, one, 0;\n\t"
            "@passes min.f32 %0, %0, %1;\n\t}"
            : "+f"(least)
            : "f"(value), "r"(mask), "r"(1u << bit));
}

/* Pair i of byte w, of two bits, to pair w of byte i. */
__device__ __forceinline__ uint32_t transpose_pairs(uint32_t w) {
    uint32_t x = (w >> 12 ^ w) & 0x0000F0F0u;
    w ^= x ^ x << 12;
    x = (w >> 6 ^ w) & 0x00CC00CCu;
    return w ^ x ^ x << 6;
}

/* Byte i of lane w of four to byte w of lane i. */
__device__ __forceinline__ uint32_t transpose_bytes(uint32_t w, uint32_t lane) {
    w = __byte_perm(w, __shfl_xor_sync(PERI_ALL_LANES, w, 2), lane & 2 ? 0x3276 : 0x5410);
    return __byte_perm(w, __shfl_xor_sync(PERI_ALL_LANES, w, 1), lane & 1 ? 0x3715 : 0x6240);
}

/* Of a thread, the filters of its four queries and the words of a tile that it asked for. */
struct sieve {
    const uint32_t *volatile bits[4]; /* in local memory: registers are short elsewhere */
    uint32_t words[4];

    /* `queries` by their number in the call; any that is there for one that isn't. */
    __device__ __forceinline__ void begin(const peri_filter_view &filter,
                                          const size_t (&queries)[4]) {
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            uint32_t which = filter.which == nullptr ? 0 : filter.which[queries[q]];
            bits[q] = reinterpret_cast<const uint32_t *>(filter.bits[which]) + threadIdx.x % 4;
        }
    }
    /* Words of the 128 rows from `row` on, a multiple of 64. Volatile: it stays before the
     * product. */
    __device__ __forceinline__ void ask(const peri_filter_view &filter, size_t row) {
        const bool there = row / 64 + threadIdx.x % 4 / 2 < filter.words;
#pragma unroll
        for (uint32_t q = 0; q < 4; q++) {
            words[q] = 0;
            if (there)
                asm volatile("ld.global.nc.u32 %0, [%1];"
                             : "=r"(words[q])
                             : "l"(bits[q] + row / 32));
        }
    }
    /* All lanes of the warp. */
    __device__ __forceinline__ masks take() const {
        masks m;
#pragma unroll
        for (uint32_t q = 0; q < 4; q++)
            m.of[q] = transpose_bytes(transpose_pairs(words[q]), threadIdx.x);
        return m;
    }
};

} /* namespace */

#endif
