/* isa.c: which instruction sets the CPU has, and which one is used.
 *
 * A set is present when every extension that its files are compiled with is (CMakeLists.txt), so
 * that a call into one never meets an instruction that the CPU lacks. The best one is found once:
 * cpuid leaves a virtual machine, which takes longer than a small operation. Threads: any; both
 * variables are atomic, and two threads that find the best one at once find the same. */
#include <stdatomic.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "backend/cpu/distances.h"

static atomic_int forced = PERI_ISA_COUNT;
static atomic_int best = PERI_ISA_COUNT; /* not found yet */

const char *peri_isa_name(peri_isa isa) {
    static const char *const names[] = { "scalar", "avx2", "avx512", "neon" };
    return (unsigned)isa < PERI_ISA_COUNT ? names[isa] : "unknown";
}

#if defined(__x86_64__)
/* clang 14's __builtin_cpu_supports() does not know this one. The registers that it uses are
 * those of avx, which avx2 has made sure of. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#else
static bool has_avx2(void) { return false; }
static bool has_avx512(void) { return false; }
#endif

/* Every 64-bit Arm CPU has it. */
static bool has_neon(void) {
#if defined(__aarch64__)
    return true;
#else
    return false;
#endif
}

bool peri_isa_present(peri_isa isa) {
    switch (isa) {
    case PERI_ISA_SCALAR: return true;
    case PERI_ISA_AVX2: return has_avx2();
    case PERI_ISA_AVX512: return has_avx512();
    case PERI_ISA_NEON: return has_neon();
    case PERI_ISA_COUNT: break;
    }
    return false;
}

static peri_isa find_best(void) {
    return has_avx512() ? PERI_ISA_AVX512
           : has_avx2() ? PERI_ISA_AVX2
           : has_neon() ? PERI_ISA_NEON
                        : PERI_ISA_SCALAR;
}

peri_isa peri_isa_chosen(void) {
    int asked = atomic_load_explicit(&forced, memory_order_relaxed);
    if (asked != PERI_ISA_COUNT) return (peri_isa)asked;
    int found = atomic_load_explicit(&best, memory_order_relaxed);
    if (found != PERI_ISA_COUNT) return (peri_isa)found;
    found = (int)find_best();
    atomic_store_explicit(&best, found, memory_order_relaxed);
    return (peri_isa)found;
}

bool peri_isa_force(peri_isa isa) {
    if (isa != PERI_ISA_COUNT && !peri_isa_present(isa)) return false;
    atomic_store(&forced, (int)isa);
    return true;
}
