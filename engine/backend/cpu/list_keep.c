/* list_keep.c: appending, dropping and sorting the entries of list_keep.h. */
#include "backend/cpu/list_keep.h"

#include <math.h>

#include "core/checked.h"
#include "core/status.h"

#define ROOM_LEAST 32u /* entries beyond k: with fewer the reductions come too often (taste) */
#define MOST_SHARE 8u  /* of the entries beyond k, what a reduction may leave to be quick (taste) */

size_t peri_list_keep_room(size_t k) { return peri_round_up(k + peri_max_size(k, ROOM_LEAST), 16); }

void peri_list_keep_init(peri_list_keep *keep, float *values, uint32_t *slots, size_t k) {
    *keep = (peri_list_keep){ .values = values,
                              .slots = slots,
                              .room = (uint32_t)peri_list_keep_room(k),
                              .k = (uint32_t)k,
                              .bound = INFINITY };
}

static void reduce(peri_list_keep *keep, size_t most) {
    size_t count = keep->count;
    float bound = peri_select_best(peri_select_chosen(), keep->values, keep->slots, &count, keep->k,
                                   most);
    keep->count = keep->known = (uint32_t)count;
    keep->bound = fminf(keep->bound, bound);
}

void peri_list_keep_reduce(peri_list_keep *keep) {
    reduce(keep, keep->k + (keep->room - keep->k) / MOST_SHARE);
}

void peri_list_keep_finish(peri_list_keep *keep, float *distances, int64_t *ids, uint64_t *keys) {
    if (keep->count > keep->k) reduce(keep, keep->k);
    peri_select_sort(keep->values, keep->slots, keep->count, keys);
    for (size_t i = 0; i < keep->k; i++) {
        distances[i] = i < keep->count ? keep->values[i] : INFINITY;
        ids[i] = i < keep->count ? (int64_t)keep->slots[i] : PERI_ID_NONE;
    }
}
