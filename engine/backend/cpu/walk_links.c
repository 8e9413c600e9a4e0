/* walk_links.c: which one the CPU takes, and the one in plain C. */
#include "backend/cpu/walk_links.h"

#include "backend/cpu/distances.h"

static size_t plain_links(const uint32_t *links, size_t count, uint64_t *taken, uint32_t *slots) {
    size_t fresh = 0;
    for (size_t i = 0; i < count; i++) fresh = peri_walk_append(taken, slots, fresh, links[i]);
    return fresh;
}

peri_walk_links_fn peri_walk_links_chosen(void) {
#if defined(__x86_64__)
    if (peri_isa_chosen() == PERI_ISA_AVX512 || peri_isa_chosen() == PERI_ISA_AVX2)
        return peri_walk_links_avx2;
#endif
    return plain_links;
}
