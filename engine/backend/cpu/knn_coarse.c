/* knn_coarse.c: the coarse pass. */
#include "backend/cpu/knn_plan.h"
const peri_block_kernels *peri_block_chosen(void) { return NULL; }
size_t peri_knn_coarse_worker_bytes(uint32_t dim, size_t block_limit) { (void)dim; (void)block_limit; return 0; }
void peri_knn_coarse_task(const peri_knn_job *job, size_t first, size_t stop, size_t row,
                          size_t row_stop, size_t worker) { (void)job; (void)first; (void)stop; (void)row; (void)row_stop; (void)worker; }
void peri_knn_coarse_tile(const peri_knn_job *job, size_t tile) { (void)job; (void)tile; }
void peri_knn_coarse_centre(const peri_knn_job *job) { (void)job; }
