/* list_scan_test: the scans of inverted lists on the CPU against ref, on each instruction set. */
#include "parity_lists.h"

static void sweep(peri_isa isa, void *ud) {
    pair *t = ud;
    size_t failed = check_counts.failed;
    t->small = isa == PERI_ISA_SCALAR;
    sweep_lists(t);
    CHECK(check_counts.failed == failed, "with %s", peri_isa_name(isa));
}

int main(void) {
    pair t = { .context = place_context() };
    place_open(&t.ref, test_device(t.context, PERI_PLACE_REF));
    place_open(&t.tested, test_device(t.context, PERI_PLACE_CPU));
    test_each_isa(sweep, &t);
    place_close(&t.ref);
    place_close(&t.tested);
    peri_context_release(t.context);
    return check_done();
}
