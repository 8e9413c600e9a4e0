/* ring.h: pageable host rows to a device and back, through page-locked blocks.
 *
 * A copy of pageable memory is staged by the driver on one thread; here all threads fill (or empty)
 * blocks while others are on their way, so that the copy runs at the rate of the link. Rings
 * are pooled with their device, as lanes are. One thread at a time. */
#ifndef PERI_CORE_RING_H
#define PERI_CORE_RING_H

#include "core/lane.h"

/* Copies of fewer bytes are the driver's: a first ring takes milliseconds to make. */
#define PERI_RING_BYTES_MIN ((size_t)1 << 20)

#define PERI_RING_ROW_BYTES_MAX ((size_t)4 << 20) /* a row fits a block */

typedef struct peri_ring peri_ring;

/* How a transfer runs. */
typedef struct peri_ring_way {
    size_t threads;              /* at most; 0 = as many as pay */
    const peri_control *control; /* asked meanwhile, with blocks as steps; may be NULL */
    const char *stage;           /* what it is told; NULL = "copy" */
} peri_ring_way;

/* A ring, or NULL with PERI_OK where none helps: memory is shared, or none can be page-locked. */
peri_status peri_ring_acquire(peri_device *device, peri_ring **out);
/* Waits for what is under way. NULL is allowed. */
void peri_ring_release(peri_ring *ring);

/* Copies `rows` rows of `row_bytes`, at most PERI_RING_ROW_BYTES_MAX, from host memory to the
 * device. Returns when the host rows were read; what is there can be used after peri_ring_wait. */
peri_status peri_ring_upload(peri_ring *ring, void *to, size_t to_stride, const void *from,
                             size_t from_stride, size_t rows, size_t row_bytes,
                             const peri_ring_way *way);
peri_status peri_ring_wait(peri_ring *ring);
/* What is enqueued on the lane from now on comes after all that was uploaded: a wait that is the
 * device's, so that the next upload can begin at once. */
peri_status peri_ring_before(peri_ring *ring, peri_lane *lane);

/* The other way round; done when it returns. */
peri_status peri_ring_download(peri_ring *ring, void *to, size_t to_stride, const void *from,
                               size_t from_stride, size_t rows, size_t row_bytes,
                               const peri_ring_way *way);

/* Frees the rings that nobody uses. Whether there were any. */
bool peri_rings_trim(peri_device *device);

#endif
