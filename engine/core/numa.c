/* numa.c: which CPUs belong together, from the kernel's files. See numa.h. */
#include "core/numa.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "core/context.h"
#include "core/threads.h"

#define WORDS (PERI_NUMA_CPUS_MAX / 64)
#define LIST_MAX 8192u                  /* bytes of a list that are read */
#define PART_BYTES ((size_t)2 << 20)    /* a huge page: placed as a whole */
#define SPREAD_BYTES ((size_t)16 << 20) /* below, the caches hold what is used (taste) */

static bool has_bit(const uint64_t *bits, uint32_t at) { return bits[at / 64] >> (at % 64) & 1; }

/* ---- lists of numbers --------------------------------------------------------------------- */

/* The number at `*text`, which moves behind it; false: there is none. Large ones stay large. */
static bool take_number(const char **text, uint32_t *out) {
    const char *at = *text;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        if (value < UINT32_MAX) value = 10 * value + (uint64_t)(*at - '0');
    *out = value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
    bool any = at != *text;
    *text = at;
    return any;
}

bool peri_numa_parse(const char *text, uint64_t *bits, uint32_t count) {
    while (*text != '\0' && *text != '\n') {
        uint32_t first, last;
        if (!take_number(&text, &first)) return false;
        last = first;
        if (*text == '-') {
            text++;
            if (!take_number(&text, &last) || last < first) return false;
        }
        for (uint32_t i = first; i < count && i <= last; i++)
            bits[i / 64] |= UINT64_C(1) << (i % 64);
        if (*text == ',')
            text++;
        else if (*text != '\0' && *text != '\n')
            return false;
    }
    return true;
}

/* The list in a file, added to `bits`. */
static bool read_list(const char *path, uint64_t *bits, uint32_t count) {
    char text[LIST_MAX];
    FILE *file = fopen(path, "re");
    if (file == NULL) return false;
    size_t read = fread(text, 1, sizeof text - 1, file);
    bool whole = read < sizeof text - 1 && ferror(file) == 0;
    fclose(file);
    text[read] = '\0';
    return whole && strlen(text) == read && peri_numa_parse(text, bits, count);
}

/* ---- the nodes ---------------------------------------------------------------------------- */

static void one_node(peri_numa *out) { *out = (peri_numa){ .nodes = 1 }; }

/* Takes the CPUs of a node that are allowed and that no other has. */
static void add_node(const uint64_t *cpus, const uint64_t *allowed, peri_numa *out) {
    uint32_t found = 0;
    if (out->nodes == PERI_NUMA_NODES_MAX) return;
    for (uint32_t cpu = 0; cpu < PERI_NUMA_CPUS_MAX; cpu++) {
        if (!has_bit(cpus, cpu) || !has_bit(allowed, cpu) || out->node_of[cpu] != 0) continue;
        out->node_of[cpu] = (uint8_t)(out->nodes + 1);
        found++;
    }
    if (found > 0) out->cpus[out->nodes++] = found;
}

void peri_numa_read(const char *folder, const uint64_t *allowed, peri_numa *out) {
    char path[1200];
    uint64_t online[WORDS] = { 0 };
    *out = (peri_numa){ .nodes = 0 };
    snprintf(path, sizeof path, "%s/online", folder);
    bool good = read_list(path, online, PERI_NUMA_CPUS_MAX);
    for (uint32_t node = 0; node < PERI_NUMA_CPUS_MAX && good; node++) {
        uint64_t cpus[WORDS] = { 0 };
        if (!has_bit(online, node)) continue;
        snprintf(path, sizeof path, "%s/node%u/cpulist", folder, node);
        good = read_list(path, cpus, PERI_NUMA_CPUS_MAX);
        add_node(cpus, allowed, out);
    }
    if (!good || out->nodes <= 1) one_node(out);
}

void peri_numa_find(peri_numa *out) {
    cpu_set_t set;
    uint64_t allowed[WORDS] = { 0 };
    one_node(out);
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return; /* more CPUs than the set has */
    for (uint32_t cpu = 0; cpu < PERI_NUMA_CPUS_MAX; cpu++)
        if (CPU_ISSET(cpu, &set)) allowed[cpu / 64] |= UINT64_C(1) << (cpu % 64);
    peri_numa_read(PERI_NUMA_FOLDER, allowed, out);
}

/* ---- threads ------------------------------------------------------------------------------ */

uint32_t peri_numa_node_of_worker(const peri_numa *numa, size_t worker) {
    size_t given[PERI_NUMA_NODES_MAX] = { 0 };
    uint32_t best = 0;
    if (numa->nodes <= 1) return 0;
    for (size_t i = 0; i <= worker; i++) { /* the node that is furthest behind its share */
        best = 0;
        for (uint32_t n = 1; n < numa->nodes; n++)
            if ((given[n] + 1) * numa->cpus[best] < (given[best] + 1) * numa->cpus[n]) best = n;
        given[best]++;
    }
    return best;
}

void peri_numa_pin(const peri_numa *numa, uint32_t node) {
    cpu_set_t set;
    if (numa->nodes <= 1) return;
    CPU_ZERO(&set);
    for (uint32_t cpu = 0; cpu < PERI_NUMA_CPUS_MAX; cpu++)
        if (numa->node_of[cpu] == node + 1) CPU_SET(cpu, &set);
    /* A failure leaves the thread where it may run anyway. */
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

/* ---- pages -------------------------------------------------------------------------------- */

typedef struct spreading {
    char *block;
    size_t bytes;
} spreading;

static peri_status zero_part(void *ud, size_t task, size_t worker) {
    const spreading *s = ud;
    size_t first = task * PART_BYTES;
    (void)worker;
    memset(s->block + first, 0, peri_min_size(PART_BYTES, s->bytes - first));
    return PERI_OK;
}

bool peri_numa_spread(peri_context *context, void *block, size_t bytes) {
    spreading s = { block, bytes };
    if (context->numa.nodes <= 1 || bytes < SPREAD_BYTES || peri_inside_task()) return false;
    return peri_parallel(context, NULL, peri_ceil_div(bytes, PART_BYTES), zero_part, &s) == PERI_OK;
}
