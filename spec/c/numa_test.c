/* numa_test: lists of CPUs as the kernel writes them, nodes read from folders made here, the share
 * of each node of the workers; and that this machine's own threads may still run. */
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "core/numa.h"
#include "core/threads.h"
#include "operate.h"

#define WORDS (PERI_NUMA_CPUS_MAX / 64)

static char folder[200];

static void check_list(const char *text, bool good, uint64_t low, uint64_t next) {
    uint64_t bits[WORDS] = { 0 };
    CHECK(peri_numa_parse(text, bits, 128) == good, "'%s' is %s list", text, good ? "a" : "no");
    if (good)
        CHECK(bits[0] == low && bits[1] == next, "'%s' is %llx %llx", text,
              (unsigned long long)bits[0], (unsigned long long)bits[1]);
}

static void check_lists(void) {
    check_list("0-3\n", true, 0xF, 0);
    check_list("0\n", true, 1, 0);
    check_list("", true, 0, 0);
    check_list("\n", true, 0, 0); /* a node of memory alone */
    check_list("0-1,4,8-9,64-65", true, 0x313, 3);
    check_list("63-64", true, UINT64_C(1) << 63, 1);
    check_list("120-300\n", true, 0, UINT64_C(0xFF) << 56);
    check_list("5000,4294967296-99999999999999999999", true, 0, 0);
    check_list("0-4294967295", true, UINT64_MAX, UINT64_MAX);
    check_list("3-1", false, 0, 0);
    check_list("a", false, 0, 0);
    check_list("1-", false, 0, 0);
    check_list("1;2", false, 0, 0);
    check_list("-1", false, 0, 0);
    check_list(",1", false, 0, 0);
    check_list("1 ", false, 0, 0);
}

/* ---- folders ------------------------------------------------------------------------------ */

static void put(const char *name, const char *text, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    if (file == NULL || fwrite(text, 1, size, file) != size) exit(2);
    fclose(file);
}

static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }

static void put_node(const char *node, const char *cpus) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, node);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cpulist", node);
    put_text(path, cpus);
}

static void clear_folder(void) {
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'/*", folder);
    if (system(command) != 0) exit(2);
}

static peri_numa read_nodes(const char *allowed) {
    uint64_t bits[WORDS] = { 0 };
    peri_numa numa;
    if (!peri_numa_parse(allowed, bits, PERI_NUMA_CPUS_MAX)) exit(2);
    peri_numa_read(folder, bits, &numa);
    return numa;
}

static void check_two_nodes(void) {
    clear_folder();
    put_text("online", "0-1\n");
    put_node("node0", "0-3,8-11\n");
    put_node("node1", "4-7,12-15\n");
    peri_numa numa = read_nodes("0-15");
    CHECK(numa.nodes == 2 && numa.cpus[0] == 8 && numa.cpus[1] == 8, "%u nodes of %u and %u",
          numa.nodes, numa.cpus[0], numa.cpus[1]);
    CHECK(numa.node_of[3] == 1 && numa.node_of[4] == 2 && numa.node_of[11] == 1 &&
              numa.node_of[15] == 2 && numa.node_of[16] == 0,
          "CPUs are of the wrong nodes");
    for (size_t w = 0; w < 9; w++)
        CHECK(peri_numa_node_of_worker(&numa, w) == w % 2, "worker %zu of equal nodes", w);
    numa = read_nodes("0-7"); /* the host keeps us on half of each */
    CHECK(numa.nodes == 2 && numa.cpus[0] == 4 && numa.node_of[8] == 0, "of half the CPUs");
    numa = read_nodes("4-7,12-15"); /* or on one */
    CHECK(numa.nodes == 1, "%u nodes where one is allowed", numa.nodes);
}

/* Numbers with a gap, a node of memory alone, shares of 3 to 1. */
static void check_uneven_nodes(void) {
    clear_folder();
    put_text("online", "0,2,9\n");
    put_node("node0", "0-2\n");
    put_node("node2", "\n");
    put_node("node9", "3,200000\n");
    peri_numa numa = read_nodes("0-1023");
    CHECK(numa.nodes == 2 && numa.cpus[0] == 3 && numa.cpus[1] == 1, "%u nodes of %u and %u",
          numa.nodes, numa.cpus[0], numa.cpus[1]);
    size_t given[2] = { 0, 0 };
    for (size_t w = 0; w < 8; w++) given[peri_numa_node_of_worker(&numa, w)]++;
    CHECK(given[0] == 6 && given[1] == 2, "%zu and %zu workers", given[0], given[1]);
}

static void check_broken(const char *what) {
    peri_numa numa = read_nodes("0-1023");
    CHECK(numa.nodes == 1 && peri_numa_node_of_worker(&numa, 5) == 0, "%s: %u nodes", what,
          numa.nodes);
}

static void check_folders_without_sense(void) {
    static const char zeros[10000];
    clear_folder();
    check_broken("no files");
    put_text("online", "0-1\n");
    check_broken("no lists");
    put_node("node0", "0-1\n");
    check_broken("one list of two");
    put_node("node1", "x");
    check_broken("no numbers");
    put("node1/cpulist", zeros, 3);
    check_broken("bytes of zero");
    put("node1/cpulist", zeros, sizeof zeros);
    check_broken("a long file");
    put_node("node1", "0-1\n");
    check_broken("both have the same CPUs");
}

/* ---- threads and pages -------------------------------------------------------------------- */

static peri_status count_task(void *ud, size_t task, size_t worker) {
    (void)task;
    (void)worker;
    atomic_fetch_add((atomic_size_t *)ud, 1);
    return PERI_OK;
}

/* As if the machine's CPUs, or half of those that there are, were of two nodes. */
static void check_pool(void) {
    size_t bytes = ((size_t)33 << 20) + 5, dirty = 0;
    peri_context *context = test_context(4);
    atomic_size_t done = 0;
    char *block = test_new(bytes, 1);
    CHECK(context->numa.nodes >= 1, "a machine has a node");
    context->numa.nodes = 2;
    for (uint32_t cpu = 0; cpu < PERI_NUMA_CPUS_MAX; cpu++)
        context->numa.node_of[cpu] = (uint8_t)(1 + cpu % 2);
    context->numa.cpus[0] = context->numa.cpus[1] = 2;
    memset(block, 7, bytes);
    CHECK(peri_parallel(context, NULL, 100, count_task, &done) == PERI_OK && done == 100,
          "tasks of pinned threads");
    CHECK(peri_numa_spread(context, block, bytes), "a large block is spread");
    for (size_t i = 0; i < bytes; i++) dirty += block[i] != 0;
    CHECK(dirty == 0, "%zu bytes of a fresh block are not zero", dirty);
    CHECK(!peri_numa_spread(context, block, 4096), "a small one is not");
    context->numa.nodes = 1;
    CHECK(!peri_numa_spread(context, block, bytes), "nothing is spread on one node");
    free(block);
    peri_context_release(context);
}

int main(void) {
    snprintf(folder, sizeof folder, "%.150s/perigee-numa-XXXXXX", check_folder());
    if (mkdtemp(folder) == NULL) return 2;
    check_lists();
    check_two_nodes();
    check_uneven_nodes();
    check_folders_without_sense();
    check_pool();
    clear_folder();
    rmdir(folder);
    return check_done();
}
