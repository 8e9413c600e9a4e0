/* knn_direct.c: exact search by canonical distances alone, for few queries or few rows that pass;
 * and the rows that pass a filter, in order.
 *
 * A bitset is read by words of 64 rows: none set costs a comparison, many set takes the values of
 * all 64 in one run (and drops some), few set gathers slots, so a filter costs hardly more than
 * none. */
#include "backend/cpu/knn_plan.h"
#include "core/checked.h"
#include "core/matrix.h"

#define CHUNK 256u    /* slots gathered at a time */
#define LIST_SHARE 8u /* a list is read when fewer than one in so many rows pass, else the bits */
#define DENSE_BITS                                                                                 \
    32 /* of a word: from here on the values of all its rows cost less (Zen 4, 96 x f32) */

/* The first entry of a list that is not below `row`. */
static size_t lower_bound(const uint32_t *list, size_t count, size_t row) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (list[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

peri_passing peri_passing_open(const peri_filter_view *filter, uint32_t which, size_t first,
                               size_t stop) {
    peri_passing passing = { NULL, NULL, first, first, stop };
    if (filter->count == 0) return passing;
    bool few = filter->passing[which] < filter->words * (64 / LIST_SHARE);
    if (filter->lists != NULL && few) passing.list = filter->lists[which];
    if (passing.list == NULL) {
        passing.bits = filter->bits[which];
        return passing;
    }
    passing.at = lower_bound(passing.list, filter->passing[which], first);
    passing.stop = lower_bound(passing.list, filter->passing[which], stop);
    return passing;
}

static size_t next_by_bits(peri_passing *passing, uint32_t *slots, size_t most) {
    size_t count = 0;
    while (passing->at < passing->stop && count < most) {
        uint64_t word = passing->bits[passing->at / 64] >> (passing->at % 64);
        if (word == 0) {
            passing->at = (passing->at / 64 + 1) * 64;
            continue;
        }
        size_t row = passing->at + (size_t)__builtin_ctzll(word);
        if (row >= passing->stop) break;
        slots[count++] = (uint32_t)(row - passing->base);
        passing->at = row + 1;
    }
    return count;
}

size_t peri_passing_next(peri_passing *passing, uint32_t *slots, size_t most) {
    if (passing->bits != NULL) return next_by_bits(passing, slots, most);
    if (passing->at >= passing->stop) return 0;
    size_t count = peri_min_size(most, passing->stop - passing->at);
    for (size_t i = 0; i < count; i++)
        slots[i] = (uint32_t)((passing->list == NULL ? passing->at + i
                                                     : passing->list[passing->at + i]) -
                              passing->base);
    passing->at += count;
    return count;
}

peri_distances peri_knn_shifted(const peri_knn_job *job, size_t first) {
    peri_distances d = job->distances;
    d.rows = (const char *)d.rows + first * d.stride;
    if (d.lengths != NULL) d.lengths += first;
    return d;
}

/* One query on one segment. */
typedef struct scan {
    const peri_distances *rows; /* row 0 is the segment's first */
    const void *query;
    float length;
    peri_topk *top;
    size_t base, count; /* the segment */
    size_t pending;     /* slots gathered, not yet computed */
    uint32_t slots[CHUNK];
} scan;

static void scan_range(scan *s, size_t first, size_t count, uint64_t passing) {
    float values[64];
    peri_distances_range(s->rows, s->query, s->length, first, count, values);
    if (passing == UINT64_MAX) {
        for (size_t i = 0; i < count; i++)
            peri_topk_offer(s->top, values[i], (int64_t)(s->base + first + i));
        return;
    }
    for (; passing != 0; passing &= passing - 1) {
        size_t i = (size_t)__builtin_ctzll(passing);
        peri_topk_offer(s->top, values[i], (int64_t)(s->base + first + i));
    }
}

static void scan_slots(scan *s) {
    float values[CHUNK];
    peri_distances_slots(s->rows, s->query, s->length, s->slots, s->pending, values);
    for (size_t i = 0; i < s->pending; i++)
        peri_topk_offer(s->top, values[i], (int64_t)(s->base + s->slots[i]));
    s->pending = 0;
}

/* By words of a bitset; the segment begins with a word. The order of rows is free: the heap's is
 * not. */
static void scan_words(scan *s, const uint64_t *words) {
    for (size_t first = 0; first < s->count; first += 64) {
        uint64_t word = words == NULL ? UINT64_MAX : words[first / 64];
        size_t count = peri_min_size(64, s->count - first);
        if (__builtin_popcountll(word) >= DENSE_BITS) {
            scan_range(s, first, count, word);
            continue;
        }
        for (; word != 0; word &= word - 1)
            s->slots[s->pending++] = (uint32_t)(first + (size_t)__builtin_ctzll(word));
        if (s->pending + 64 > CHUNK) scan_slots(s);
    }
    scan_slots(s);
}

void peri_knn_direct_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker) {
    const peri_op_knn *op = job->op;
    peri_distances rows = peri_knn_shifted(job, row);
    for (size_t i = first; i < stop; i++) {
        size_t at = job->order[job->first + i];
        scan s = { .rows = &rows, .query = peri_view_row(&op->queries, at), .base = row };
        s.count = row_stop - row;
        s.length = peri_distances_query_length(&rows, s.query);
        s.top = peri_knn_heap(job, worker, i);
        peri_passing passing = peri_passing_open(&op->filter, peri_knn_which(op, at), row,
                                                 row_stop);
        if (passing.list == NULL) {
            scan_words(&s, passing.bits == NULL ? NULL : passing.bits + row / 64);
            continue;
        }
        while ((s.pending = peri_passing_next(&passing, s.slots, CHUNK)) > 0) scan_slots(&s);
    }
}
