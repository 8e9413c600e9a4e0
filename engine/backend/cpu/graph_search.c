/* graph_search.c: the best-first walk: a worker keeps several walks under way, a half-step of each
 * in turn (walk.h), so that one's wait for memory is another's work. Queries are taken one by one
 * from a counter that all workers share, so that they end together; a task ends, its walks done,
 * after some queries only to let the control be asked.
 *
 * Every walk has its own part of the scratch and writes its own row of the results only, so the
 * answer depends neither on the number of workers nor on how many walks are under way. */
#include <stdatomic.h>

#include "backend/cpu/ops.h"
#include "backend/cpu/walk.h"
#include "backend/cpu/workers.h"

#define WALKS 4u /* under way at once: 2 lost 15 %, 3 lost 5 %, 6 and 8 gained nothing */
#define HEAD_BYTES 64u
/* Queries a task: those of a long list take longer. */
#define RUN_LEAST 8u
#define RUN_MOST 256u
#define RUN_ROWS 16384u

typedef struct search {
    peri_walk_plan plan;
    char *scratch; /* of each worker: how many of its walks are clean, then the walks */
    size_t walk_bytes, worker_bytes;
    size_t run;         /* queries a task */
    size_t at_once;     /* walks of a worker: few where that leaves none for the others */
    atomic_size_t next; /* query */
} search;

size_t peri_cpu_graph_search_scratch(const peri_device *device, const peri_op_graph_search *op) {
    const peri_walk_plan plan = { .op = op, .coded = op->codes.rows.data != NULL };
    peri_walk walk;
    return peri_cpu_workers_max(device) *
           (HEAD_BYTES + WALKS * peri_walk_lay_out(&plan, NULL, &walk));
}

/* Begins the next query, if there is one and the task has not had its run. */
static bool begin_next(search *s, peri_walk *walk, size_t *left) {
    if (*left == 0) return false;
    size_t query = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
    *left = query < s->plan.op->queries.rows ? *left - 1 : 0;
    if (query >= s->plan.op->queries.rows) return false;
    peri_walk_begin(walk, query);
    return true;
}

/* Lets the walks take turns until all that they began is answered. Every second walk begins a
 * half-step late, so that the walks don't all gather at once. */
static void take_turns(search *s, peri_walk *walks) {
    bool gathered[WALKS], live[WALKS];
    size_t left = s->run, count = 0, under_way;
    for (; count < s->at_once && begin_next(s, &walks[count], &left); count++) {
        live[count] = true;
        gathered[count] = count % 2 == 1;
        if (gathered[count]) peri_walk_gather(&walks[count]);
    }
    under_way = count;
    for (size_t i = 0; under_way > 0; i = i + 1 == count ? 0 : i + 1) {
        if (!live[i]) continue;
        gathered[i] = !gathered[i];
        if (gathered[i]) {
            peri_walk_gather(&walks[i]);
        } else if (!peri_walk_absorb(&walks[i])) {
            live[i] = begin_next(s, &walks[i], &left);
            under_way -= !live[i];
        }
    }
}

static peri_status search_run(void *ud, size_t task, size_t worker) {
    search *s = ud;
    peri_walk walks[WALKS];
    char *own = s->scratch + worker * s->worker_bytes;
    uint8_t *clean = (uint8_t *)own;
    (void)task;
    for (size_t i = 0; i < WALKS; i++) {
        peri_walk_lay_out(&s->plan, own + HEAD_BYTES + i * s->walk_bytes, &walks[i]);
        if (*clean <= i)
            peri_walk_clean(&walks[i]);
        else
            peri_walk_reset(&walks[i]);
    }
    *clean = WALKS;
    take_turns(s, walks);
    return PERI_OK;
}

peri_status peri_cpu_graph_search(peri_stream *stream, const peri_op_graph_search *op,
                                  void *scratch, size_t scratch_bytes) {
    (void)scratch_bytes;
    search s = { .scratch = scratch, .next = 0 };
    peri_walk walk;
    size_t workers = peri_cpu_workers(stream), queries = op->queries.rows;
    peri_walk_plan_init(&s.plan, op);
    s.walk_bytes = peri_walk_lay_out(&s.plan, NULL, &walk);
    s.worker_bytes = HEAD_BYTES + WALKS * s.walk_bytes;
    for (size_t i = 0; i < workers; i++) s.scratch[i * s.worker_bytes] = 0;
    s.run = peri_max_size(RUN_LEAST, peri_min_size(RUN_MOST, RUN_ROWS / op->itopk_size));
    s.at_once = peri_min_size(WALKS, peri_ceil_div(queries, workers));
    /* as many tasks as there are workers more, so that none is idle while queries are left */
    size_t tasks = peri_min_size(queries, peri_ceil_div(queries, s.run) + workers - 1);
    peri_loop loop = { .stage = "search", .threads = workers, .control = stream->control };
    return peri_parallel(stream->device->context, &loop, tasks, search_run, &s);
}
