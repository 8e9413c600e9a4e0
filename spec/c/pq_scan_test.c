/* pq_scan_test.c: the scan of product-quantized codes on the CPU against ref, by every instruction
 * set that this machine has, with one worker and several. */
#include "backend/cpu/distances.h"
#include "backend/cpu/pq_scan.h"
#include "parity_pq.h"

static void sweep_kernels(pair *t, int isa, uint32_t threads, const char *which) {
    printf("%s%s, %u workers\n", peri_isa_name((peri_isa)isa), which, threads);
    sweep_pq(t);
}

static void sweep(uint32_t threads) {
    pair t = { .context = NULL, .small = true };
    peri_context_options options = PERI_CONTEXT_OPTIONS_INIT;
    options.threads = threads;
    place_must(peri_context_create(&options, &t.context), "context");
    place_open(&t.ref, test_device(t.context, PERI_PLACE_REF));
    place_open(&t.tested, test_device(t.context, PERI_PLACE_CPU));
    for (int isa = 0; isa < PERI_ISA_COUNT; isa++) {
        if (!peri_isa_force((peri_isa)isa)) continue;
        const peri_pq_kernels *best = peri_pq_kernels_chosen();
        sweep_kernels(&t, isa, threads, "");
        peri_pq_kernels_force_common(true);
        if (peri_pq_kernels_chosen() != best) sweep_kernels(&t, isa, threads, ", common");
        peri_pq_kernels_force_common(false);
    }
    peri_isa_force(PERI_ISA_COUNT);
    place_close(&t.ref);
    place_close(&t.tested);
    peri_context_release(t.context);
}

int main(void) {
    sweep(1);
    sweep(3);
    return check_done();
}
