/* threads.c: the pool of a context and its parallel loops.
 *
 * A loop lives on its caller's stack and hangs in the pool's list while it has tasks to give. Tasks
 * are handed out by an atomic counter; the caller is worker 0 and each helper that joins takes the
 * next number, so scratch can be indexed by worker.
 *
 * Who may touch what: `lock` guards the list, the counts of a loop's helpers and the flags of
 * the pool; `next`, `finished` and `stop` of a loop are atomic; its failure is written under
 * `lock`, once. A helper does not touch a loop once it has left its `active`. The fork handlers
 * take, in this order, the list of contexts and then the lock of each context (context.c); a
 * pool's own lock is never needed in a child, which drops the old pool by its generation. */
#include "core/threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "core/checked.h"
#include "core/context.h"
#include "core/memory.h"
#include "core/pool.h"

#define POLL_NS 20000000L
#define SPIN_NS 30000L /* a sleep and its end cost about as much */
#define DETAIL_MAX 512

typedef struct loop_state {
    peri_task_fn fn;
    void *ud;
    size_t tasks, limit;
    atomic_size_t next, finished;
    atomic_bool stop;
    size_t joined;        /* under the pool's lock; counts the caller */
    atomic_size_t active; /* helpers; written under the pool's lock */
    peri_status status;   /* under the pool's lock */
    char detail[DETAIL_MAX];
    pthread_mutex_t *lock; /* the pool's; NULL when the caller is alone */
    struct loop_state *following;
} loop_state;

struct peri_pool {
    peri_context *context;
    uint64_t generation;
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    loop_state *loops;
    bool closing;
    size_t begun; /* workers that have, under the lock: their numbers choose their nodes */
    size_t workers;
    pthread_t threads[];
};

static _Thread_local bool inside_task;

bool peri_inside_task(void) { return inside_task; }

static atomic_uint_fast64_t process_generation = 1;

uint64_t peri_process_generation(void) { return atomic_load(&process_generation); }
void peri_process_forked(void) { atomic_fetch_add(&process_generation, 1); }

size_t peri_threads(const peri_context *context, size_t limit) {
    return limit == 0 ? context->threads : peri_min_size(limit, context->threads);
}

static void record_failure(loop_state *loop, peri_status status) {
    if (loop->lock != NULL) pthread_mutex_lock(loop->lock);
    if (loop->status == PERI_OK) {
        loop->status = status;
        strncpy(loop->detail, peri_error_detail(), sizeof loop->detail - 1);
    }
    if (loop->lock != NULL) pthread_mutex_unlock(loop->lock);
    atomic_store(&loop->stop, true);
}

/* One task, or false when none is left. */
static bool run_next(loop_state *loop, size_t worker) {
    if (atomic_load(&loop->stop)) return false;
    size_t task = atomic_fetch_add(&loop->next, 1);
    if (task >= loop->tasks) return false;
    inside_task = true;
    peri_status status = loop->fn(loop->ud, task, worker);
    inside_task = false;
    if (status != PERI_OK) record_failure(loop, status);
    atomic_fetch_add(&loop->finished, 1);
    return true;
}

static bool has_room(loop_state *loop) {
    return loop->joined < loop->limit && !atomic_load(&loop->stop) &&
           atomic_load(&loop->next) < loop->tasks;
}

static loop_state *find_loop(peri_pool *pool) {
    for (loop_state *loop = pool->loops; loop != NULL; loop = loop->following)
        if (has_room(loop)) return loop;
    return NULL;
}

static void *worker_main(void *ud) {
    peri_pool *pool = ud;
    pthread_mutex_lock(&pool->lock);
    size_t number = pool->begun++;
    pthread_mutex_unlock(&pool->lock);
    const peri_numa *numa = &pool->context->numa;
    peri_numa_pin(numa, peri_numa_node_of_worker(numa, number));
    pthread_mutex_lock(&pool->lock);
    while (!pool->closing) {
        loop_state *loop = find_loop(pool);
        if (loop == NULL) {
            pthread_cond_wait(&pool->work, &pool->lock);
            continue;
        }
        size_t worker = loop->joined++;
        atomic_fetch_add(&loop->active, 1);
        pthread_mutex_unlock(&pool->lock);
        while (run_next(loop, worker)) {}
        pthread_mutex_lock(&pool->lock);
        if (atomic_fetch_sub(&loop->active, 1) == 1) pthread_cond_broadcast(&pool->idle);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Signals stay with the host's threads: a worker never runs a handler of someone else's. */
static size_t start_workers(peri_pool *pool, size_t wanted) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    size_t started = 0;
    while (started < wanted &&
           pthread_create(&pool->threads[started], NULL, worker_main, pool) == 0)
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static size_t pool_bytes(const peri_context *context) {
    return sizeof(peri_pool) + (context->threads - 1) * sizeof(pthread_t);
}

/* The pool, made now if there is none or it belongs to the process before a fork. Fewer threads
 * than wanted are no failure. */
static peri_status pool_get(peri_context *context, peri_pool **out) {
    peri_status status = PERI_OK;
    pthread_mutex_lock(&context->lock);
    if (context->pool != NULL && context->pool->generation != peri_process_generation())
        peri_pool_close(context);
    if (context->pool == NULL) {
        peri_pool *pool;
        PERI_GO(peri_memory_acquire_zeroed(context, pool_bytes(context), 1, &pool));
        pool->context = context;
        pool->generation = peri_process_generation();
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->work, NULL);
        pthread_condattr_t clock;
        pthread_condattr_init(&clock);
        pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
        pthread_cond_init(&pool->idle, &clock);
        pthread_condattr_destroy(&clock);
        pool->workers = start_workers(pool, context->threads - 1);
        context->pool = pool;
    }
    *out = context->pool;
done:
    pthread_mutex_unlock(&context->lock);
    return status;
}

void peri_pool_close(peri_context *context) {
    peri_pool *pool = context->pool;
    if (pool == NULL) return;
    context->pool = NULL;
    if (pool->generation == peri_process_generation()) {
        pthread_mutex_lock(&pool->lock);
        pool->closing = true;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        for (size_t i = 0; i < pool->workers; i++) pthread_join(pool->threads[i], NULL);
        pthread_cond_destroy(&pool->work);
        pthread_cond_destroy(&pool->idle);
        pthread_mutex_destroy(&pool->lock);
    }
    peri_memory_release(context, pool, pool_bytes(context), 1);
}

/* ---- the caller's side -------------------------------------------------------------------- */

typedef struct poller {
    const peri_loop *loop;
    struct timespec last;
} poller;

static long nanoseconds_since(const struct timespec *then, const struct timespec *now) {
    return (now->tv_sec - then->tv_sec) * 1000000000L + (now->tv_nsec - then->tv_nsec);
}

/* Asks the control, at most every POLL_NS. */
static void poll_control(poller *poll, loop_state *state) {
    const peri_control *control = poll->loop->control;
    if (control == NULL || control->poll == NULL) return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (nanoseconds_since(&poll->last, &now) < POLL_NS) return;
    peri_status status = control->poll(control->ud, poll->loop->stage,
                                       atomic_load(&state->finished), state->tasks);
    clock_gettime(CLOCK_MONOTONIC, &poll->last);
    if (status == PERI_OK) return;
    const char *stage = poll->loop->stage;
    peri_fail(status, "%s%s%s", peri_status_text(status), stage == NULL ? "" : " during ",
              stage == NULL ? "" : stage);
    record_failure(state, status);
}

/* No more helpers than the loop takes: all of a large pool would queue for its lock. One that is
 * busy looks for work by itself when it ends. */
static void wake(peri_pool *pool, size_t helpers) {
    if (helpers >= pool->workers)
        pthread_cond_broadcast(&pool->work);
    else
        for (size_t i = 0; i < helpers; i++) pthread_cond_signal(&pool->work);
}

static void join_list(peri_pool *pool, loop_state *state) {
    pthread_mutex_lock(&pool->lock);
    state->following = pool->loops;
    pool->loops = state;
    wake(pool, state->limit - 1);
    pthread_mutex_unlock(&pool->lock);
}

/* Helpers end within a short task of each other and of the caller, mostly: that is waited for
 * awake. */
static void spin(const loop_state *state) {
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    do {
        for (int i = 0; i < 64; i++)
            if (atomic_load(&state->active) == 0) return;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (nanoseconds_since(&began, &now) < SPIN_NS);
}

/* Takes the loop off the list and waits for its helpers, polling. */
static void leave_list(peri_pool *pool, loop_state *state, poller *poll) {
    pthread_mutex_lock(&pool->lock);
    loop_state **slot = &pool->loops;
    while (*slot != state) slot = &(*slot)->following;
    *slot = state->following;
    if (atomic_load(&state->active) > 0) {
        pthread_mutex_unlock(&pool->lock);
        spin(state);
        pthread_mutex_lock(&pool->lock);
    }
    while (atomic_load(&state->active) > 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += POLL_NS;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000L;
        }
        pthread_cond_timedwait(&pool->idle, &pool->lock, &until);
        pthread_mutex_unlock(&pool->lock);
        poll_control(poll, state);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

peri_status peri_parallel(peri_context *context, const peri_loop *loop, size_t tasks,
                          peri_task_fn fn, void *ud) {
    static const peri_loop plain;
    if (loop == NULL) loop = &plain;
    PERI_ASSERT(!inside_task);
    loop_state state = { .fn = fn, .ud = ud, .tasks = tasks, .joined = 1 };
    state.limit = peri_min_size(peri_threads(context, loop->threads), tasks);
    poller poll = { loop, { 0, 0 } };
    clock_gettime(CLOCK_MONOTONIC, &poll.last);
    peri_pool *pool = NULL;
    if (state.limit > 1) {
        PERI_TRY(pool_get(context, &pool));
        state.lock = &pool->lock;
        join_list(pool, &state);
    }
    while (run_next(&state, 0)) poll_control(&poll, &state);
    if (pool != NULL) leave_list(pool, &state, &poll);
    if (state.status != PERI_OK) return peri_fail_again(state.status, state.detail);
    return PERI_OK;
}
