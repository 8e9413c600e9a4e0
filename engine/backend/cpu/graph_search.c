/* graph_search.c: the best-first walk: a worker takes a run of queries and keeps several walks
 * under way, a half-step of each in turn (walk.h), so that one's wait for memory is another's
 * work.
 *
 * Every walk has its own part of the scratch and writes its own row of the results only, so the
 * answer depends neither on the number of workers nor on how many walks are under way. */
#include "backend/cpu/ops.h"
#include "backend/cpu/walk.h"
#include "backend/cpu/workers.h"

#define WALKS 4u /* under way at once: 2 lost 15 %, 3 lost 5 %, 6 and 8 gained nothing */
#define HEAD_BYTES 64u
#define RUN_MAX 64u /* queries a task, at most */

typedef struct search {
    peri_walk_plan plan;
    char *scratch; /* of each worker: how many of its walks are clean, then the walks */
    size_t walk_bytes, worker_bytes;
    size_t run; /* queries a task */
} search;

size_t peri_cpu_graph_search_scratch(const peri_device *device, const peri_op_graph_search *op) {
    const peri_walk_plan plan = { .op = op, .coded = op->codes.rows.data != NULL };
    peri_walk walk;
    return peri_cpu_workers_max(device) *
           (HEAD_BYTES + WALKS * peri_walk_lay_out(&plan, NULL, &walk));
}

/* Lets the walks take turns until all queries from *next to stop are answered. Every second walk
 * begins a half-step late, so that the walks don't all gather at once. */
static void take_turns(peri_walk *walks, size_t count, size_t next, size_t stop) {
    bool gathered[WALKS], live[WALKS];
    size_t left = 0;
    for (size_t i = 0; i < count && next < stop; i++, left++) {
        peri_walk_begin(&walks[i], next++);
        live[i] = true;
        gathered[i] = i % 2 == 1;
        if (gathered[i]) peri_walk_gather(&walks[i]);
    }
    count = left;
    for (size_t i = 0; left > 0; i = i + 1 == count ? 0 : i + 1) {
        if (!live[i]) continue;
        gathered[i] = !gathered[i];
        if (gathered[i]) {
            peri_walk_gather(&walks[i]);
        } else if (!peri_walk_absorb(&walks[i])) {
            live[i] = next < stop;
            if (live[i])
                peri_walk_begin(&walks[i], next++);
            else
                left--;
        }
    }
}

static peri_status search_run(void *ud, size_t task, size_t worker) {
    search *s = ud;
    peri_walk walks[WALKS];
    char *own = s->scratch + worker * s->worker_bytes;
    uint8_t *clean = (uint8_t *)own;
    size_t queries = s->plan.op->queries.rows, first = task * s->run;
    size_t stop = peri_min_size(queries, first + s->run), count = peri_min_size(WALKS, s->run);
    for (size_t i = 0; i < count; i++) {
        peri_walk_lay_out(&s->plan, own + HEAD_BYTES + i * s->walk_bytes, &walks[i]);
        walks[i].touched_count = 0;
        for (; *clean <= i; ++*clean) peri_walk_clean(&walks[i]);
    }
    take_turns(walks, count, first, stop);
    return PERI_OK;
}

peri_status peri_cpu_graph_search(peri_stream *stream, const peri_op_graph_search *op,
                                  void *scratch, size_t scratch_bytes) {
    (void)scratch_bytes;
    search s = { .scratch = scratch };
    peri_walk walk;
    size_t workers = peri_cpu_workers(stream), queries = op->queries.rows;
    peri_walk_plan_init(&s.plan, op);
    s.walk_bytes = peri_walk_lay_out(&s.plan, NULL, &walk);
    s.worker_bytes = HEAD_BYTES + WALKS * s.walk_bytes;
    for (size_t i = 0; i < workers; i++) s.scratch[i * s.worker_bytes] = 0;
    s.run = peri_max_size(1, peri_min_size(RUN_MAX, queries / (workers * 4)));
    peri_loop loop = { .stage = "search", .threads = workers, .control = stream->control };
    return peri_parallel(stream->device->context, &loop, peri_ceil_div(queries, s.run), search_run,
                         &s);
}
