/* list_scan.h: what the two ways of a scan of whole rows share: several queries on a list go
 * together (list_coarse.c), few one by one (list_direct.c). */
#ifndef PERI_BACKEND_CPU_LIST_SCAN_H
#define PERI_BACKEND_CPU_LIST_SCAN_H

#include "backend/cpu/distances.h"
#include "backend/cpu/knn_block.h"
#include "backend/cpu/list_work.h"

typedef struct peri_list_job {
    peri_list_work work;
    const peri_op_list_scan *op;
    peri_distances distances;
    const peri_block_kernels *kernels; /* NULL: queries go one by one */
    bool shared_filter;                /* one filter for all */
    size_t coarse_queries;             /* of a block that goes together, at most */
    char *worker_scratch;              /* of list_coarse.c: worker_bytes each */
    size_t worker_bytes;
} peri_list_job;

/* Every entry that passes gets its canonical distance. */
void peri_list_direct_task(const peri_list_job *job, const peri_list_task *task);

/* The same with a coarse pass before; all queries have one filter. */
void peri_list_coarse_task(const peri_list_job *job, const peri_list_task *task);
size_t peri_list_coarse_worker_bytes(const peri_op_list_scan *op, size_t block_queries);

#endif
