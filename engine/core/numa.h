/* numa.h: the memory nodes of the machine, and threads and pages put on them.
 *
 * On a machine with several nodes a thread that wanders from one to another leaves its caches and
 * its memory behind, and a matrix that one thread wrote first lies on that thread's node, whose
 * memory then serves all others. So the threads of a pool are kept on a node each, and large blocks
 * that all threads will read are spread over the nodes. With one node nothing is done at all. What
 * the machine has is read from the folder of the kernel, of which nothing is trusted. A host that
 * keeps its process on some CPUs is obeyed: others are not counted. */
#ifndef PERI_CORE_NUMA_H
#define PERI_CORE_NUMA_H

#include "core/status.h"

#define PERI_NUMA_FOLDER "/sys/devices/system/node"
#define PERI_NUMA_CPUS_MAX 1024u /* the bits of a cpu_set_t */
#define PERI_NUMA_NODES_MAX 64u  /* with CPUs; further ones are left alone */

typedef struct peri_numa {
    uint32_t nodes;                      /* that have CPUs of ours; 1 = nothing is known or done */
    uint32_t cpus[PERI_NUMA_NODES_MAX];  /* of each */
    uint8_t node_of[PERI_NUMA_CPUS_MAX]; /* node of a CPU + 1; 0 = not ours */
} peri_numa;

/* Adds the numbers of a list such as "0-3,8,10-11\n" to a bitset of `count`; higher ones are left
 * out. False when the text is no such list. */
bool peri_numa_parse(const char *text, uint64_t *bits, uint32_t count);

/* Reads FOLDER/online and FOLDER/nodeN/cpulist. allowed: bitset of PERI_NUMA_CPUS_MAX CPUs. A node
 * without allowed CPUs is none; a folder that is missing or makes no sense gives one node. */
void peri_numa_read(const char *folder, const uint64_t *allowed, peri_numa *out);

/* Of this machine, for the CPUs that the calling thread may use. */
void peri_numa_find(peri_numa *out);

/* The node of worker 0, 1, 2, ..: each node gets its share of any number of first workers. */
uint32_t peri_numa_node_of_worker(const peri_numa *numa, size_t worker);

/* Keeps the calling thread on the CPUs of a node; nothing with one node. */
void peri_numa_pin(const peri_numa *numa, uint32_t node);

/* Zeroes a fresh block by parts, on the threads of the pool, so that its pages are spread over the
 * nodes. False, and nothing is done: one node, a block that is not worth it, inside a task, or no
 * threads. */
bool peri_numa_spread(peri_context *context, void *block, size_t bytes);

#endif
