/* asked.c: queries and filters of a search, made ready for operations. */
#include "index/asked.h"

#include <math.h>
#include <string.h>

#include "core/bitset.h"
#include "core/checked.h"
#include "core/distance.h"
#include "core/half.h"

/* ---- queries ------------------------------------------------------------------------------ */

static float to_float(const peri_view *view, const void *row, size_t c) {
    switch (view->dtype) {
    case PERI_F32: return ((const float *)row)[c];
    case PERI_F16: return peri_half_to_float(((const uint16_t *)row)[c]);
    case PERI_I8: return ((const int8_t *)row)[c];
    default: return ((const uint8_t *)row)[c];
    }
}

static peri_status convert_row(const peri_view *from, const peri_view *to, size_t r) {
    const void *in = peri_view_row(from, r);
    void *out = peri_view_row(to, r);
    float low = to->dtype == PERI_I8 ? -128.0f : 0.0f,
          high = to->dtype == PERI_I8 ? 127.0f : 255.0f;
    for (size_t c = 0; c < from->cols; c++) {
        float value = to_float(from, in, c);
        if (to->dtype == PERI_F32) {
            ((float *)out)[c] = value;
            continue;
        }
        if (value != rintf(value) || value < low || value > high)
            return peri_fail(PERI_E_INVALID,
                             "queries: row %zu, column %zu is %g, allowed for %s "
                             "rows: whole numbers %g..%g",
                             r, c, (double)value, peri_dtype_name(to->dtype), (double)low,
                             (double)high);
        if (to->dtype == PERI_I8)
            ((int8_t *)out)[c] = (int8_t)value;
        else
            ((uint8_t *)out)[c] = (uint8_t)value;
    }
    return PERI_OK;
}

/* At the place the values are not looked at, so only what any value converts to is taken. */
static peri_status convert_placed(peri_lane *lane, const peri_view *from, peri_view *out) {
    if (out->dtype != PERI_F32)
        return peri_fail(PERI_E_ARGUMENT, "queries: %s on a device given, allowed there: %s",
                         peri_dtype_name(from->dtype), peri_dtype_name(out->dtype));
    PERI_TRY(peri_lane_take(lane, from->rows, out->stride_bytes, &out->data));
    const peri_op_convert op = { PERI_OP_CONVERT, *from, *out };
    return peri_lane_run(lane, (const peri_op *)&op);
}

peri_status peri_queries_prepare(const peri_index *index, peri_lane *lane, const peri_view *from,
                                 peri_view *out) {
    peri_dtype dtype = peri_query_dtype(index->dtype);
    *out = *from;
    if (from->dtype == dtype) return PERI_OK;
    out->dtype = dtype;
    out->stride_bytes = from->cols * peri_dtype_bytes(dtype);
    if (!peri_lane_device(lane)->shares_host &&
        peri_place_equal(from->place, peri_lane_device(lane)->place))
        return convert_placed(lane, from, out);
    PERI_TRY(peri_lane_take_host(lane, from->rows, out->stride_bytes, &out->data));
    for (size_t r = 0; r < from->rows; r++) PERI_TRY(convert_row(from, out, r));
    return PERI_OK;
}

/* ---- filters ------------------------------------------------------------------------------ */

static peri_status bind(peri_index *index, peri_asked *p, peri_filter *filter,
                        const peri_bound **out) {
    peri_bound *bound;
    PERI_TRY(peri_filter_bind(filter, index->rows, &index->map, &bound));
    p->bounds[p->bound_count++] = bound;
    *out = bound;
    return PERI_OK;
}

/* The request's filter `i` and those of the wrappers, joined; a copy only when there are
 * several. */
static peri_status join_filters(peri_index *index, peri_search *search, peri_asked *p, uint32_t i) {
    const peri_bound *first = NULL, *bound;
    uint64_t *joined = NULL;
    size_t words = peri_bitset_words(index->rows);
    if (search->filter_count > 0) PERI_TRY(bind(index, p, search->filters[i], &first));
    for (const peri_also *also = search->also; also != NULL; also = also->outer) {
        PERI_TRY(bind(index, p, also->filter, &bound));
        if (first == NULL) {
            first = bound;
            continue;
        }
        if (joined == NULL) {
            PERI_TRY(peri_lane_take_host(search->lane, words, sizeof *joined, &joined));
            if (words > 0) memcpy(joined, first->bits, words * sizeof *joined);
        }
        for (size_t w = 0; w < words; w++) joined[w] &= bound->bits[w];
    }
    p->bits[i] = joined != NULL ? joined : first->bits;
    p->passing[i] = joined != NULL ? peri_bitset_count(joined, index->rows) : first->passing;
    return PERI_OK;
}

static peri_status bind_filters(peri_index *index, peri_search *search, peri_asked *p) {
    size_t also = 0;
    for (const peri_also *a = search->also; a != NULL; a = a->outer) also++;
    if (search->filter_count == 0 && also == 0) return PERI_OK;
    size_t count = peri_max_size(search->filter_count, 1);
    p->per_query = count > 1;
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *p->bits, &p->bits));
    PERI_TRY(peri_lane_take_host(search->lane, count, sizeof *p->passing, &p->passing));
    PERI_TRY(peri_lane_take_host(search->lane, count * (1 + also), sizeof *p->bounds, &p->bounds));
    for (size_t i = 0; i < count; i++) PERI_TRY(join_filters(index, search, p, (uint32_t)i));
    p->filter_count = (uint32_t)count;
    return PERI_OK;
}

/* The filters where the operations read them. */
static peri_status place_filters(const peri_index *index, peri_search *search, peri_asked *p) {
    if (p->filter_count == 0) return PERI_OK;
    peri_lane *lane = search->lane;
    const uint64_t **bits = p->bits;
    size_t words = peri_bitset_words(index->rows);
    if (!index->device->shares_host) {
        PERI_TRY(peri_lane_take_host(lane, p->filter_count, sizeof *bits, &bits));
        for (uint32_t i = 0; i < p->filter_count; i++)
            PERI_TRY(peri_lane_upload(lane, p->bits[i], words, sizeof **bits, &bits[i]));
    }
    p->placed_bits = (uint64_t *const *)bits;
    p->placed = (peri_filter_view){ .count = p->filter_count,
                                    .words = words,
                                    .passing = p->passing };
    return peri_lane_upload(lane, bits, p->filter_count, sizeof *bits, &p->placed.bits);
}

/* Whether removed rows must be kept out: a filter may name them, a search may meet those that are
 * not holes, and where none is alive there is nothing to search. A walk may begin at a hole (a
 * random row), and the scan that repairs a short answer of it meets them all. */
static bool meets_removed(const peri_index *index, const peri_search *search) {
    bool filtered = search->filter_count > 0 || search->also != NULL || index->kind->walk != NULL;
    return index->alive != NULL &&
           (filtered || index->holes < index->removed || index->removed == index->rows);
}

peri_status peri_asked_open(peri_asked *p, peri_index *index, peri_search *search) {
    memset(p, 0, sizeof *p);
    p->index = index;
    PERI_TRY(peri_queries_prepare(index, search->lane, &search->queries, &p->queries));
    const peri_also alive = { index->alive, search->also };
    peri_search joined = *search;
    if (meets_removed(index, search)) joined.also = &alive;
    PERI_TRY(bind_filters(index, &joined, p));
    return place_filters(index, search, p);
}

void peri_asked_close(peri_asked *p) {
    for (size_t i = 0; i < p->bound_count; i++) peri_bound_release(p->bounds[i]);
    peri_index_release(p->index);
    p->bound_count = 0;
    p->index = NULL;
}

size_t peri_asked_passing(const peri_asked *p, size_t query) {
    if (p->filter_count == 0) return p->index->rows - p->index->holes;
    return p->passing[p->per_query ? query : 0];
}
