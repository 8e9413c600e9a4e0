/* list_direct.c: a query on a piece of a list by canonical distances alone.
 *
 * Entries lie one after the other, so 64 at a time cost what reading them costs. With a filter, the
 * entries that pass are gathered first; where most do, the values of all are taken and some
 * dropped. */
#include "backend/cpu/list_scan.h"
#include "core/bitset.h"
#include "core/checked.h"
#include "core/matrix.h"

#define CHUNK 64u
#define DENSE 32u /* of a chunk: from here on the values of all its entries cost less */

typedef struct scan {
    const peri_list_job *job;
    const void *query;
    const uint64_t *bits;
    float length;
    peri_list_keep *keep;
    uint32_t passed;
} scan;

/* A distance that is worse than the k-th needs no look at its slot. */
static void offer_all(scan *s, const float *values, const uint32_t *slots, size_t count) {
    for (size_t i = 0; i < count; i++) peri_list_keep_offer(s->keep, values[i], slots[i]);
    s->passed += (uint32_t)count;
}

static void scan_some(scan *s, size_t at, size_t count) {
    const uint32_t *slots = s->job->op->lists.slots + at;
    uint32_t passing[CHUNK], passing_slots[CHUNK];
    float values[CHUNK];
    size_t passed = 0;
    for (size_t i = 0; i < count; i++) {
        passing[passed] = (uint32_t)i;
        passed += peri_bitset_test(s->bits, slots[i]);
    }
    if (passed == 0) return;
    for (size_t i = 0; i < passed; i++) passing_slots[i] = slots[passing[i]];
    if (passed >= DENSE) {
        float all[CHUNK];
        peri_distances_range(&s->job->distances, s->query, s->length, at, count, all);
        for (size_t i = 0; i < passed; i++) values[i] = all[passing[i]];
    } else {
        peri_distances piece = s->job->distances; /* positions pass 32 bits, those of a piece not */
        piece.rows = (const char *)piece.rows + at * piece.stride;
        if (piece.lengths != NULL) piece.lengths += at;
        peri_distances_slots(&piece, s->query, s->length, passing, passed, values);
    }
    offer_all(s, values, passing_slots, passed);
}

static void scan_all(scan *s, size_t at, size_t count) {
    float values[CHUNK];
    peri_distances_range(&s->job->distances, s->query, s->length, at, count, values);
    offer_all(s, values, s->job->op->lists.slots + at, count);
}

void peri_list_direct_task(const peri_list_job *job, const peri_list_task *task) {
    for (size_t i = 0; i < task->count; i++) {
        size_t query = peri_list_member(task, i);
        scan s = { .job = job, .bits = peri_list_filter(&job->work, query) };
        s.query = peri_view_row(&job->op->queries, job->work.first + query);
        s.length = peri_distances_query_length(&job->distances, s.query);
        s.keep = peri_list_kept(&job->work, task->worker, query);
        for (size_t at = task->at; at < task->stop; at += CHUNK) {
            size_t count = peri_min_size(CHUNK, task->stop - at);
            (s.bits == NULL ? scan_all : scan_some)(&s, at, count);
        }
        peri_list_share_bound(&job->work, query, s.keep);
        peri_list_count(&job->work, task->worker, query, s.passed);
    }
}
