/* select_avx2.c: the kernels of select.h with AVX2; it has no instruction that packs chosen lanes,
 * so entries move one by one. */
#include "backend/cpu/select_body.h"

static float kth(const peri_span *spans, size_t span_count, size_t k, size_t most) {
    return select_kth(&select_plain_loops, spans, span_count, k, most);
}

static size_t filter(float *values, uint32_t *slots, size_t count, float most) {
    return peri_select_plain.filter(values, slots, count, most);
}

static void sort(const uint64_t *keys, size_t count, uint64_t *out) {
    select_sort(keys, count, out);
}

const peri_select_kernels peri_select_avx2 = { kth, filter, sort };
