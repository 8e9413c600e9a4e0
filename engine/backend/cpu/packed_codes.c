/* packed_codes.c: the plain kernels, and which ones are used. */
#include "backend/cpu/packed_codes.h"

#include "backend/cpu/distances.h"

peri_packed_codes peri_packed_codes_of(const peri_codes_view *view, size_t degree) {
    return (peri_packed_codes){ .bits = view->bits,
                                .dim = view->dim,
                                .code_bytes = peri_packed_code_bytes(view->dim, view->bits),
                                .rows = view->rows.data,
                                .stride = view->rows.stride_bytes,
                                .linked = view->linked,
                                .block = peri_packed_block(view->dim, view->bits, degree) };
}

/* Word w of the codes against the query: 4 bytes of 8 / bits numbers each. */
static int32_t word_dot(const peri_packed_codes *codes, const peri_packed_query *query,
                        const uint8_t *word, size_t w) {
    uint32_t bits = codes->bits;
    int32_t dot = 0;
    for (uint32_t s = 0; s < 8 / bits; s++) {
        const int8_t *v = query->values + (size_t)s * query->stride + 4 * w;
        for (size_t b = 0; b < 4; b++) dot += (word[b] >> (s * bits) & ((1 << bits) - 1)) * v[b];
    }
    return dot;
}

static void rows_plain(const peri_packed_codes *codes, const peri_packed_query *query,
                       const uint32_t *slots, size_t count, float *values) {
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = codes->rows + slots[i] * codes->stride;
        int32_t dot = 0;
        for (size_t w = 0; w < codes->code_bytes / 4; w++)
            dot += word_dot(codes, query, row + 4 * w, w);
        values[i] = peri_packed_value(query, codes->bits,
                                      peri_packed_row_factors(row, codes->code_bytes), dot);
    }
}

static size_t links_plain(const peri_packed_codes *codes, const peri_packed_query *query,
                          const uint8_t *group, const uint32_t *links, size_t count, float bound,
                          uint32_t *slots, float *values) {
    size_t group_bytes = peri_packed_group_bytes(codes->dim, codes->bits), kept = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *at = group + i / PERI_PACKED_GROUP * group_bytes;
        size_t lane = i % PERI_PACKED_GROUP;
        peri_packed_factors factors;
        int32_t dot = 0;
        memcpy(&factors.add, at + 4 * lane, 4);
        memcpy(&factors.scale, at + 4 * (PERI_PACKED_GROUP + lane), 4);
        at += PERI_PACKED_GROUP * sizeof factors;
        for (size_t w = 0; w < codes->code_bytes / 4; w++)
            dot += word_dot(codes, query, at + 4 * (w * PERI_PACKED_GROUP + lane), w);
        float value = peri_packed_value(query, codes->bits, factors, dot);
        slots[kept] = links[i];
        values[kept] = value;
        kept += value <= bound;
    }
    return kept;
}

peri_packed_kernels peri_packed_kernels_chosen(void) {
#if defined(__x86_64__)
    peri_isa isa = peri_isa_chosen();
    if (isa == PERI_ISA_AVX512)
        return (peri_packed_kernels){ peri_packed_rows_avx512, peri_packed_links_avx512 };
    if (isa == PERI_ISA_AVX2)
        return (peri_packed_kernels){ peri_packed_rows_avx2, peri_packed_links_avx2 };
#endif
    return (peri_packed_kernels){ rows_plain, links_plain };
}
