/* A forking host: after require, after a search, and while another thread searches. A CPU handle
 * works in the child; one that was on a device before the fork answers "fork". HAProxy runs a
 * script's body in the parent and serves from a forked worker. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "hosts.h"

#define CHILD_SECONDS 120

static const char require_script[] = "pg = require 'perigee'\n";

static const char build_script[] = "rows = assert(pg.load 'spec/data/packages.fvecs')\n"
                                   "queries = rows:slice(0, 200)\n"
                                   "index = assert(pg.cagra.build(rows, { metric = 'cosine' }))\n"
                                   "wanted = assert(index:search(queries, 5)).neighbors\n";

static const char device_script[] = "there = assert(pg.flat.build(rows, { place = 'fake:0' }))\n"
                                    "assert(there:search(queries, 5))\n";

static const char search_script[] =
    "assert(assert(index:search(queries, 5)).neighbors:equals(wanted))\n"
    "local own = assert(pg.cagra.build(rows:slice(0, 800)))\n"
    "assert(own:search(rows:row(7), 1).neighbors:row(0)[1] == 7)\n";

static const char lost_script[] =
    "local hits, message, code = there:search(queries, 5)\n"
    "assert(hits == nil and code == 'fork', tostring(message) .. ' ' .. tostring(code))\n"
    "assert(#message > 0)\n"
    "there:close()\n";

/* Runs `source` in a child, and in the parent again after it. */
static void fork_and_run(lua_State *L, const char *what, const char *source) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS); /* a child that hangs is killed, and so seen */
        bool well = host_run(L, source);
        fflush(NULL);
        _exit(well ? 0 : 1);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "%s: no child", what);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: the child ended with status %x", what,
          (unsigned)status);
}

static atomic_bool stop;

/* Searches in a state of its own until told to stop. */
static void *searching(void *argument) {
    lua_State *L = argument;
    while (!atomic_load(&stop))
        if (luaL_dostring(L, "assert(index:search(queries, 5))") != LUA_OK) return (void *)"failed";
    return NULL;
}

static void fork_while_searching(lua_State *L) {
    lua_State *other = host_open_state();
    pthread_t thread;
    void *outcome = NULL;
    if (!CHECK(other != NULL && host_run(other, require_script) && host_run(other, build_script),
               "a second state"))
        return;
    pthread_create(&thread, NULL, searching, other);
    for (int round = 0; round < 10; round++)
        fork_and_run(L, "while another thread searches", search_script);
    atomic_store(&stop, true);
    pthread_join(thread, &outcome);
    CHECK(outcome == NULL, "the searching thread failed");
    lua_close(other);
}

int main(void) {
#ifdef __SANITIZE_THREAD__
    check_skip("fork", "thread sanitizer starts no threads in the child of a threaded process");
    return 77;
#endif
    lua_State *L = host_open_state();
    if (!CHECK(L != NULL && host_run(L, require_script), "no module")) return check_done();
    char child_script[2048];
    snprintf(child_script, sizeof child_script, "%s%s", build_script, search_script);
    fork_and_run(L, "after require", child_script);
    if (host_run(L, build_script)) {
        fork_and_run(L, "after a search", search_script);
        CHECK(host_run(L, search_script), "the parent after the child");
        if (host_run(L, device_script)) fork_and_run(L, "after a search on a device", lost_script);
        CHECK(host_run(L, "assert(there:search(queries, 5))"), "the parent's device");
        fork_while_searching(L);
    }
    lua_close(L);
    return check_done();
}
