/* hopper.cuh: the instructions of sm_90a that CUDA C++ has no words for: transaction barriers in
 * shared memory, the bulk tensor copy engine, wgmma and the registers of a warpgroup.
 *
 * All take shared memory as a 32-bit address (peri_shared()). A wgmma here is m64n128 over 32 bytes
 * of depth: operands are tiles of 128-byte rows in the copy engine's 128-byte swizzle, so a tile
 * begins at a multiple of 1024 bytes and eight rows are 1024 bytes. */
#ifndef PERI_CUDA_HOPPER_CUH
#define PERI_CUDA_HOPPER_CUH

#include <cuda.h>
#include <stdint.h>

__device__ inline uint32_t peri_shared(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers */

__device__ inline void peri_barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)
                 : "memory");
}
__device__ inline void peri_barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/* One arrival, which also announces `bytes` of copies. */
__device__ inline void peri_barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
__device__ inline void peri_barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* At the same barrier of block `rank` of the cluster. What it gives back was read by wgmma, which
 * is over: asked for release at the cluster's scope, ptxas would put a fence of the whole device
 * before it. */
__device__ inline void peri_barrier_arrive_at(uint32_t barrier, uint32_t rank) {
    asm volatile("{\n\t.reg .b32 there;\n\t"
                 "mapa.shared::cluster.u32 there, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}
/* All threads of all blocks of the cluster. */
__device__ inline void peri_cluster_wait() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}
/* Until the phase of this parity is over; of a fresh barrier the phase of parity 1 is. */
__device__ inline void peri_barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n\t.reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* Barriers of the whole block, by number: wait with, or only announce to, `threads` in all. */
__device__ inline void peri_named_wait(uint32_t number, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void peri_named_arrive(uint32_t number, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/* ---- the copy engine */

/* The box of `map` at (column, row) to shared memory; what is outside of the map arrives as 0. */
__device__ inline void peri_copy_box(uint32_t to, const CUtensorMap *map, uint32_t barrier,
                                     int32_t column, int32_t row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                 "l"((uint64_t)map), "r"(barrier), "r"(column), "r"(row)
                 : "memory");
}
/* The same to this address of each block of the cluster whose bit is set, to their barriers too. */
__device__ inline void peri_copy_box_shared(uint32_t to, const CUtensorMap *map, uint32_t barrier,
                                            int32_t column, int32_t row, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
                 "l"((uint64_t)map), "r"(barrier), "r"(column), "r"(row), "h"(blocks)
                 : "memory");
}
__device__ inline void peri_copy_prefetch(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"((uint64_t)map) : "memory");
}

/* ---- registers of a warpgroup */

template <int COUNT> __device__ inline void peri_registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ inline void peri_registers_less() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* ---- wgmma */

/* Rows of 128 bytes, swizzled; the next 32 bytes of depth are 2 further. */
__device__ inline uint64_t peri_wgmma_tile(uint32_t address) {
    return (uint64_t)((address & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}
__device__ inline void peri_wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void peri_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int LEFT> __device__ inline void peri_wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#define PERI_D8(c, d, i)                                                                           \
    c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3]), c(d[i + 4]), c(d[i + 5]), c(d[i + 6]),         \
        c(d[i + 7])
#define PERI_D64(c, d)                                                                             \
    PERI_D8(c, d, 0), PERI_D8(c, d, 8), PERI_D8(c, d, 16), PERI_D8(c, d, 24), PERI_D8(c, d, 32),   \
        PERI_D8(c, d, 40), PERI_D8(c, d, 48), PERI_D8(c, d, 56)
#define PERI_WGMMA_TEXT(kind, tail)                                                                \
    "{\n\t.reg .pred p;\n\t"                                                                       \
    "setp.ne.b32 p, %66, 0;\n\t"                                                                   \
    "wgmma.mma_async.sync.aligned.m64n128" kind " "                                                \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                      \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "            \
    "%64, %65, p" tail ";\n\t}"

/* d = a * b (first) or d += a * b. That the first only writes d frees its registers before. */
#define PERI_WGMMA(name, type, word, kind, tail)                                                   \
    __device__ inline void name##_first(type(&d)[64], uint64_t a, uint64_t b) {                    \
        asm volatile(PERI_WGMMA_TEXT(kind, tail)                                                   \
                     : PERI_D64("=" word, d)                                                       \
                     : "l"(a), "l"(b), "r"(0));                                                    \
    }                                                                                              \
    __device__ inline void name(type(&d)[64], uint64_t a, uint64_t b) {                            \
        asm volatile(PERI_WGMMA_TEXT(kind, tail)                                                   \
                     : PERI_D64("+" word, d)                                                       \
                     : "l"(a), "l"(b), "r"(1));                                                    \
    }
PERI_WGMMA(peri_wgmma_f16, float, "f", "k16.f32.f16.f16", ", 1, 1, 0, 0")
PERI_WGMMA(peri_wgmma_bf16, float, "f", "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
PERI_WGMMA(peri_wgmma_tf32, float, "f", "k8.f32.tf32.tf32", ", 1, 1")
PERI_WGMMA(peri_wgmma_s8, int32_t, "r", "k32.s32.s8.s8", "")
PERI_WGMMA(peri_wgmma_u8, int32_t, "r", "k32.s32.u8.u8", "")

/* Nothing of d is read before this point in the program. */
__device__ inline void peri_wgmma_settle(float (&d)[64]) {
#pragma unroll
    for (int i = 0; i < 64; i++) asm volatile("" : "+f"(d[i])::"memory");
}
__device__ inline void peri_wgmma_settle(int32_t (&d)[64]) {
#pragma unroll
    for (int i = 0; i < 64; i++) asm volatile("" : "+r"(d[i])::"memory");
}

#endif
