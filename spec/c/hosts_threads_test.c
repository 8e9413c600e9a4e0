/* A threaded host: four threads open and close lua_States in a loop while they share the context
 * and one index, as HAProxy with a state a thread or Apache with a state a request do. Closing a
 * state unloads C modules; the pool's threads must not notice. */
#include <pthread.h>
#include <stdatomic.h>

#include "hosts.h"

#define THREADS 4
#define ROUNDS 25

static const char build_script[] =
    "local pg = require 'perigee'\n"
    "rows = assert(pg.load 'spec/data/packages.fvecs')\n"
    "index = assert(pg.cagra.build(rows:slice(0, 1000), { metric = 'cosine' }))\n"
    "wanted = assert(index:search(rows:slice(0, 20), 5)).neighbors:pack()\n";

/* What every state does with the index it was handed. */
static const char search_script[] =
    "local pg = require 'perigee'\n"
    "local rows = assert(index:dataset())\n"
    "local hits <close> = assert(index:search(rows:slice(0, 20), 5))\n"
    "assert(hits.neighbors:pack() == wanted, 'another answer')\n"
    "local own = assert(pg.flat.build(rows:slice(0, 50)))\n"
    "assert(own:search(rows:row(7), 1).neighbors:row(0)[1] == 7)\n"
    "local even = assert(index:filtered(pg.filter.range(0, 500)))\n"
    "for id in assert(even:search(rows:row(3), 5)):each() do assert(id < 500) end\n"
    "leftover = even\n"; /* closed by the state, not by us */

typedef void (*push_fn)(lua_State *L, peri_searcher *searcher);
typedef void (*set_context_fn)(lua_State *L, peri_context *context);
typedef void (*require_fn)(lua_State *L);

static struct {
    push_fn push;
    set_context_fn set_context;
    require_fn require;
    peri_searcher *index;
    peri_context *context;
    const char *wanted;
    size_t wanted_bytes;
    pthread_barrier_t start;
    atomic_int done, failed;
} host;

static void one_state(int round) {
    lua_State *L = host_open_state();
    if (L == NULL) {
        atomic_fetch_add(&host.failed, 1);
        return;
    }
    if (round % 2 == 0) host.set_context(L, host.context);
    host.require(L);
    lua_pop(L, 1);
    host.push(L, host.index);
    lua_setglobal(L, "index");
    lua_pushlstring(L, host.wanted, host.wanted_bytes);
    lua_setglobal(L, "wanted");
    if (luaL_dostring(L, search_script) != LUA_OK) {
        fprintf(stderr, "round %d: %s\n", round, lua_tostring(L, -1));
        atomic_fetch_add(&host.failed, 1);
    }
    lua_close(L);
    atomic_fetch_add(&host.done, 1);
}

static void *worker(void *argument) {
    (void)argument;
    pthread_barrier_wait(&host.start);
    for (int round = 0; round < ROUNDS; round++) one_state(round);
    return NULL;
}

/* The index, made in a first state that is closed before the threads begin. */
static bool make_index(lua_State *L) {
    peri_searcher *(*check)(lua_State *, int) = NULL;
    void (*retain)(peri_searcher *) = NULL;
    peri_context *(*context_of)(const peri_searcher *) = NULL;
    *(void **)&check = host_symbol("lperi_checksearcher");
    *(void **)&retain = host_symbol("peri_searcher_retain");
    *(void **)&context_of = host_symbol("peri_searcher_context");
    *(void **)&host.push = host_symbol("lperi_pushsearcher");
    *(void **)&host.set_context = host_symbol("lperi_setcontext");
    *(void **)&host.require = host_symbol("lperi_requiref");
    if (!CHECK(check && retain && context_of && host.push && host.set_context && host.require,
               "the module lacks a function of perigee_lua.h"))
        return false;
    if (!host_run(L, build_script)) return false;
    lua_getglobal(L, "index");
    host.index = check(L, -1);
    retain(host.index);
    host.context = context_of(host.index);
    lua_getglobal(L, "wanted");
    host.wanted = lua_tolstring(L, -1, &host.wanted_bytes);
    return CHECK(host.wanted_bytes == (size_t)20 * 5 * 8, "%zu bytes", host.wanted_bytes);
}

int main(void) {
    pthread_t threads[THREADS];
    lua_State *first = host_open_state();
    if (!CHECK(first != NULL, "no state")) return check_done();
    if (make_index(first)) {
        pthread_barrier_init(&host.start, NULL, THREADS);
        for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, worker, NULL);
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
        CHECK(atomic_load(&host.failed) == 0, "%d states failed", atomic_load(&host.failed));
        CHECK(atomic_load(&host.done) == THREADS * ROUNDS, "%d states", atomic_load(&host.done));
        void (*release)(peri_searcher *) = NULL;
        *(void **)&release = host_symbol("peri_searcher_release");
        release(host.index);
    }
    lua_close(first);
    lua_State *last = host_open_state(); /* the module still works once every state was closed */
    CHECK(last != NULL && host_run(last, build_script), "a state after all others");
    if (last != NULL) lua_close(last);
    return check_done();
}
