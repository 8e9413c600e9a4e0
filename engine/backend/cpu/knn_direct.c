/* knn_direct.c: exact search by canonical distances alone, for few queries or few rows that pass; and the
 * rows that pass a filter, in order. */
#include "backend/cpu/knn_plan.h"
#include "core/checked.h"
#include "core/matrix.h"

#define CHUNK 256u /* values at a time */

peri_passing peri_passing_open(const peri_filter_view *filter, uint32_t which, size_t first,
                               size_t stop) {
    peri_passing passing = { NULL, NULL, first, first, stop };
    if (filter->count == 0) return passing;
    passing.list = filter->lists == NULL ? NULL : filter->lists[which];
    if (passing.list == NULL) {
        passing.bits = filter->bits[which];
        return passing;
    }
    size_t low = 0, high = filter->passing[which]; /* the first entry of the list in the segment */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (passing.list[middle] < first)
            low = middle + 1;
        else
            high = middle;
    }
    passing.at = low;
    passing.stop = filter->passing[which];
    while (passing.stop > low && passing.list[passing.stop - 1] >= stop) {
        size_t middle = low + (passing.stop - low) / 2;
        if (passing.list[middle] >= stop)
            passing.stop = middle;
        else
            low = middle + 1;
        if (low >= passing.stop) break;
    }
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

static void offer_all(peri_topk *top, const float *values, size_t count, size_t first) {
    for (size_t i = 0; i < count; i++) peri_topk_offer(top, values[i], (int64_t)(first + i));
}

/* One query on a segment whose rows all pass. */
static void scan_range(const peri_knn_job *job, const void *query, float length, peri_topk *top,
                       size_t row, size_t row_stop) {
    float values[CHUNK];
    for (size_t at = row; at < row_stop; at += CHUNK) {
        size_t some = peri_min_size(CHUNK, row_stop - at);
        peri_distances_range(&job->distances, query, length, at, some, values);
        offer_all(top, values, some, at);
    }
}

static void scan_passing(const peri_distances *d, const void *query, float length, peri_topk *top,
                         peri_passing passing) {
    float values[CHUNK];
    uint32_t slots[CHUNK];
    size_t some;
    while ((some = peri_passing_next(&passing, slots, CHUNK)) > 0) {
        peri_distances_slots(d, query, length, slots, some, values);
        for (size_t i = 0; i < some; i++)
            peri_topk_offer(top, values[i], (int64_t)(passing.base + slots[i]));
    }
}

void peri_knn_direct_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker) {
    const peri_op_knn *op = job->op;
    peri_distances shifted = peri_knn_shifted(job, row);
    for (size_t i = first; i < stop; i++) {
        size_t at = job->order[job->first + i];
        const void *query = peri_view_row(&op->queries, at);
        float length = peri_distances_query_length(&job->distances, query);
        peri_topk *top = peri_knn_heap(job, worker, i);
        if (op->filter.count == 0)
            scan_range(job, query, length, top, row, row_stop);
        else
            scan_passing(&shifted, query, length, top,
                         peri_passing_open(&op->filter, peri_knn_which(op, at), row, row_stop));
    }
}
