/* walk_links_avx2.c: the same with shifts that leave the flags alone (BMI2), four links a turn. */
#include "backend/cpu/walk_links.h"

size_t peri_walk_links_avx2(const uint32_t *links, size_t count, uint64_t *taken, uint32_t *slots) {
    size_t fresh = 0, i = 0;
    for (; i + 4 <= count; i += 4) {
        fresh = peri_walk_append(taken, slots, fresh, links[i]);
        fresh = peri_walk_append(taken, slots, fresh, links[i + 1]);
        fresh = peri_walk_append(taken, slots, fresh, links[i + 2]);
        fresh = peri_walk_append(taken, slots, fresh, links[i + 3]);
    }
    for (; i < count; i++) fresh = peri_walk_append(taken, slots, fresh, links[i]);
    return fresh;
}
