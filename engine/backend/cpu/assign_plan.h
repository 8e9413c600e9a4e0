/* assign_plan.h: what the parts of assignment share: the job of one operation.
 *
 * Rows are taken in batches. In a batch, blocks of rows meet segments of centroids, one segment
 * after the other, so a task is short enough for polling and its operands stay in the caches.
 * Who may touch what: the arrays of a batch belong to the task of their rows; worker scratch to
 * its worker; the rest is read only while tasks run. */
#ifndef PERI_BACKEND_CPU_ASSIGN_PLAN_H
#define PERI_BACKEND_CPU_ASSIGN_PLAN_H

#include "backend/cpu/assign_block.h"
#include "backend/cpu/distances.h"

typedef struct peri_assign_job {
    const peri_op_assign *op;
    peri_distances centroids;
    size_t workers;
    char *worker_scratch; /* wide rows, then panels and their norms */
    size_t worker_bytes;

    /* The coarse pass; kernels NULL: every distance is found. */
    const peri_block_kernels *kernels;
    peri_assign_tile_fn tile;
    float *centre;  /* [dim] near the mean of the centroids; NULL unless squared L2 */
    float *tiles;   /* centroids transposed by tiles */
    float *starts;  /* [c, in whole tiles] */
    double longest; /* inner product: of the centroids */
    bool usable;    /* the centroids are in the range of the bound */
    size_t block_rows, segment_tiles, tile_count;

    /* The batch at hand. */
    size_t first, count;
    peri_assign_best at; /* [batch] */
    float *norms;        /* [batch] squared lengths of the packed rows */
    float *values;       /* [batch] distance to the centroid in `at` */
    uint8_t *unsure;     /* [batch] another centroid may be as near */
    uint32_t *doubtful;  /* the rows of the batch that are */
    size_t doubtful_count;
} peri_assign_job;

#define PERI_ASSIGN_BATCH 65536u

/* Row i of the operation as f32: itself, or widened into the worker's scratch. */
const float *peri_assign_wide(const peri_assign_job *job, size_t i, size_t worker);
/* The answer for row i from the distances to all centroids. */
void peri_assign_directly(const peri_assign_job *job, size_t i, size_t worker);
void peri_assign_answer(const peri_assign_job *job, size_t i, uint32_t label, float value);

/* The coarse pass. Once an operation: bytes of its scratch, laid out from `base` unless NULL; the
 * centroids' centre; one tile. */
size_t peri_assign_coarse_lay_out(peri_assign_job *job, char *base);
size_t peri_assign_coarse_worker_bytes(const peri_assign_job *job);
void peri_assign_coarse_begin(peri_assign_job *job);
void peri_assign_coarse_tile(const peri_assign_job *job, size_t tile);
/* Rows [row, stop) of the batch against the tiles [first, last); the last segment certifies. */
void peri_assign_coarse_block(const peri_assign_job *job, size_t row, size_t stop, size_t first,
                              size_t last, size_t worker);
/* Doubtful rows [first, stop) against every centroid that the bound leaves. */
void peri_assign_coarse_resolve(const peri_assign_job *job, size_t first, size_t stop,
                                size_t worker);

#endif
