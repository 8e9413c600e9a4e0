/* kmeans_chunks.h: the nearest centroid of rows that pass a device in chunks. */
#ifndef PERI_QUANT_KMEANS_CHUNKS_H
#define PERI_QUANT_KMEANS_CHUNKS_H

#include "core/matrix.h"
#include "perigee_backend.h"

typedef struct peri_assign_chunks {
    peri_device *device;
    peri_matrix *rows;      /* [n, d] f32 f16 i8 u8 on the host */
    peri_matrix *centroids; /* [c, d] f32 anywhere */
    peri_metric metric;     /* sqeuclidean or cosine */
    uint32_t *labels;       /* [n] host, out */
    float *distances;       /* [n] host, out */
    size_t threads;
    const peri_control *control;
} peri_assign_chunks;

/* One pass (core/chunks.h): the same bits as operation ASSIGN on all rows. */
peri_status peri_assign_chunks_pass(const peri_assign_chunks *asked);

#endif
