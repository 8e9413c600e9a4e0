/* knn_direct.c: exact search by canonical distances alone, for few queries or few rows that pass;
 * and the rows that pass a filter, in order.
 *
 * A bitset is read by words of 64 rows: none set costs a comparison, many set takes the values of
 * all 64 in one run (and drops some), few set gathers slots, so a filter costs hardly more than
 * none. */
#include "backend/cpu/knn_keep.h"
#include "core/checked.h"
#include "core/matrix.h"

#define CHUNK 256u    /* slots gathered at a time */
#define LIST_SHARE 8u /* a list is read when fewer than one in so many rows pass, else the bits */
#define AHEAD_BYTES 8192u /* of rows, asked for before they are measured (Zen 5) */
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
    peri_passing passing = { NULL, NULL, first, stop };
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
        slots[count++] = (uint32_t)row;
        passing->at = row + 1;
    }
    return count;
}

size_t peri_passing_next(peri_passing *passing, uint32_t *slots, size_t most) {
    if (passing->bits != NULL) return next_by_bits(passing, slots, most);
    if (passing->at >= passing->stop) return 0;
    size_t count = peri_min_size(most, passing->stop - passing->at);
    for (size_t i = 0; i < count; i++)
        slots[i] = passing->list == NULL ? (uint32_t)(passing->at + i)
                                         : passing->list[passing->at + i];
    passing->at += count;
    return count;
}

/* One query on one segment. */
typedef struct scan {
    const peri_knn_job *job;
    size_t query, worker; /* the query's place in the batch */
    const void *bytes;
    float length;
    size_t first, stop; /* the segment */
    size_t pending;     /* slots gathered, not yet computed */
    uint32_t slots[CHUNK];
} scan;

/* Offers values in parts that what is kept has room for. */
static void offer(const scan *s, const float *values, const uint32_t *slots, size_t count) {
    for (size_t at = 0; at < count; at += PERI_BLOCK_ROWS_MAX)
        peri_keep_exact(s->job, s->worker, s->query, values + at, slots + at,
                        peri_min_size(PERI_BLOCK_ROWS_MAX, count - at));
}

/* Rows whose bytes are asked for at a time, before those in front of them are measured: the
 * hardware alone, which starts anew on each page, reads at little more than half of what memory
 * gives. */
static size_t part_rows(const peri_distances *rows) {
    size_t fitting = AHEAD_BYTES / rows->stride;
    return peri_max_size(4, peri_min_size(fitting, 16));
}

static void look_ahead(const scan *s, size_t first, size_t count) {
    const peri_distances *rows = &s->job->distances;
    if (first >= s->stop) return;
    const char *at = (const char *)rows->rows + first * rows->stride;
    size_t bytes = peri_min_size(count, s->stop - first) * rows->stride;
    for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(at + b);
}

/* `count` rows from `first` on, at most 64; of those whose bit is set. */
static void scan_range(const scan *s, size_t first, size_t count, uint64_t passing) {
    float values[64], bound = peri_knn_bound_of(s->job, s->query);
    uint32_t slots[64];
    bool any = false;
    for (size_t i = 0, wide = part_rows(&s->job->distances), part; i < count; i += part) {
        part = peri_min_size(wide, count - i);
        look_ahead(s, first + i + wide, wide);
        peri_distances_range(&s->job->distances, s->bytes, s->length, first + i, part, values + i);
    }
    for (size_t i = 0; i < count; i++) any |= values[i] <= bound;
    if (!any) return;
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        values[found] = values[i];
        slots[found] = (uint32_t)(first + i);
        found += values[i] <= bound && (passing >> i & 1) != 0;
    }
    offer(s, values, slots, found);
}

static void scan_slots(scan *s) {
    float values[CHUNK];
    peri_distances_slots(&s->job->distances, s->bytes, s->length, s->slots, s->pending, values);
    offer(s, values, s->slots, s->pending);
    s->pending = 0;
}

/* By words of a bitset; the segment begins with a word. The order of rows is free. */
static void scan_words(scan *s, const uint64_t *words) {
    for (size_t first = s->first; first < s->stop; first += 64) {
        uint64_t word = words == NULL ? UINT64_MAX : words[first / 64];
        size_t count = peri_min_size(64, s->stop - first);
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
    for (size_t i = first; i < stop; i++) {
        scan s = { .job = job, .query = i, .worker = worker, .first = row, .stop = row_stop };
        s.bytes = peri_knn_query_bytes(job, i);
        s.length = peri_distances_query_length(&job->distances, s.bytes);
        peri_passing passing = peri_passing_open(
            &op->filter, peri_knn_which(op, job->order[job->first + i]), row, row_stop);
        if (passing.list == NULL) {
            scan_words(&s, passing.bits);
            continue;
        }
        while ((s.pending = peri_passing_next(&passing, s.slots, CHUNK)) > 0) scan_slots(&s);
    }
}
