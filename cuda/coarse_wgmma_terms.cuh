/* coarse_wgmma_terms.cuh: terms made of the rows while these lie in their stages: part of
 * coarse_wgmma.cuh, for TF32. A stage is given back by whoever makes terms, too.
 *
 * With many queries two warps of the warpgroup that copies do it; where the second warpgroup has no
 * queries it does, and then memory binds: 1M x 128 take 0.153 ms with and without (H200; read at
 * 4.2 TB/s they take 0.122), while two warps with 40 registers took 0.228. */
#ifndef PERI_CUDA_COARSE_WGMMA_TERMS_CUH
#define PERI_CUDA_COARSE_WGMMA_TERMS_CUH

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace {

__device__ __forceinline__ float4 read_four(uint32_t address) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address));
    return v;
}

/* Adds the squares of a row's slice, 32 floats, whose 16-byte pieces lie crossed by the row. */
template <int AHEAD>
__device__ __forceinline__ void add_squares(uint32_t row, uint32_t cross, float (&sums)[2],
                                            uint32_t &bits) {
#pragma unroll AHEAD
    for (uint32_t piece = 0; piece < 8; piece++) {
        float4 v = read_four(row + (piece * 16 ^ cross));
        sums[0] = __fmaf_rn(v.x, v.x, sums[0]);
        sums[1] = __fmaf_rn(v.y, v.y, sums[1]);
        sums[0] = __fmaf_rn(v.z, v.z, sums[0]);
        sums[1] = __fmaf_rn(v.w, v.w, sums[1]);
        bits |= __float_as_uint(v.x) | __float_as_uint(v.y);
        bits |= __float_as_uint(v.z) | __float_as_uint(v.w);
    }
}

__device__ __forceinline__ void put_norms(const pass &p, float longest, uint32_t bits) {
    uint32_t max = __reduce_max_sync(PERI_ALL_LANES, __float_as_uint(longest));
    bits = __reduce_or_sync(PERI_ALL_LANES, bits);
    if (threadIdx.x % PERI_WARP != 0) return;
    if (max != 0) atomicMax(&p.norms->max, max);
    if ((bits & PERI_COARSE_PARTS) != 0) p.norms->parts = 1;
}

/* By NORM_WARPS warps, a thread two rows: the terms of float rows while these lie in their stages;
 * a stage is theirs too until they gave it back. */
__device__ __forceinline__ void make_terms(const pass &p, shared_state &s, const stages &at,
                                           runs all) {
    const uint32_t lane = threadIdx.x % PERI_WARP, mine = threadIdx.x - PERI_WARP;
    const uint32_t cross = mine % 8 * 16;
    const float most = p.norms->most;
    float longest = 0;
    uint32_t bits = 0;
    ring stage = { 0, 0 }, slot = { 0, 0 };
    run r;
    while (all.next(&r)) {
        for (uint32_t step = 0; step < r.steps; step++) {
            float sums[2][2] = {};
            for (uint32_t slice = 0; slice < p.slices; slice++) {
                peri_barrier_wait(peri_shared(&s.full[stage.at]), stage.parity);
                const uint32_t rows = at.rows + stage.at * at.bytes + mine * SLICE;
                add_squares<4>(rows, cross, sums[0], bits);
                add_squares<4>(rows + TILE_ROWS / 2 * SLICE, cross, sums[1], bits);
                __syncwarp();
                if (lane == 0) peri_barrier_arrive(peri_shared(&s.empty[stage.at]));
                stage.step(p.stages);
            }
            peri_barrier_wait(peri_shared(&s.terms_empty[slot.at]), slot.parity ^ 1);
#pragma unroll
            for (uint32_t i = 0; i < 2; i++) {
                uint32_t row = mine + i * TILE_ROWS / 2;
                bool there = all.row_tile(r, step) * TILE_ROWS + row < p.row_count;
                float term = peri_coarse_term(p.squared, sums[i][0] + sums[i][1], most, longest);
                s.terms[slot.at][row] = there ? term : __int_as_float(0x7F800000);
            }
            peri_barrier_arrive(peri_shared(&s.terms_full[slot.at]));
            slot.step(TERM_STAGES);
        }
    }
    put_norms(p, longest, bits);
}

/* By the second warpgroup when it has no queries, a thread a row: makes the terms, if there are to
 * be some, as make_terms() does. */
__device__ __forceinline__ void attend(const pass &p, shared_state &s, const stages &at, runs all) {
    const seat me;
    const uint32_t mine = threadIdx.x % 128, cross = mine % 8 * 16;
    const bool makes = p.norms != nullptr;
    const float most = makes ? p.norms->most : 0;
    float longest = 0;
    uint32_t bits = 0;
    ring stage = { 0, 0 }, slot = { 0, 0 };
    run r;
    while (all.next(&r)) {
        for (uint32_t step = 0; step < r.steps; step++) {
            float sums[2] = {};
            for (uint32_t slice = 0; slice < p.slices; slice++) {
                peri_barrier_wait(peri_shared(&s.full[stage.at]), stage.parity);
                if (makes)
                    add_squares<8>(at.rows + stage.at * at.bytes + mine * SLICE, cross, sums, bits);
                __syncwarp();
                give_back(p, s, me, stage.at);
                stage.step(p.stages);
            }
            if (makes) {
                peri_barrier_wait(peri_shared(&s.terms_empty[slot.at]), slot.parity ^ 1);
                bool there = all.row_tile(r, step) * TILE_ROWS + mine < p.row_count;
                float term = peri_coarse_term(p.squared, sums[0] + sums[1], most, longest);
                s.terms[slot.at][mine] = there ? term : __int_as_float(0x7F800000);
                peri_barrier_arrive(peri_shared(&s.terms_full[slot.at]));
            } else {
                peri_barrier_wait(peri_shared(&s.terms_full[slot.at]), slot.parity);
            }
            __syncwarp();
            if (me.lane == 0) peri_barrier_arrive(peri_shared(&s.terms_empty[slot.at]));
            slot.step(TERM_STAGES);
        }
        if (at.resident && me.lane == 0) peri_barrier_arrive(peri_shared(&s.queries_empty));
    }
    if (makes) put_norms(p, longest, bits);
}

} /* namespace */

#endif

#endif
