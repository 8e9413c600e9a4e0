/* lane.h: what a search borrows: a stream of a device and two arenas, one at the place, one on the
 * host.
 *
 * Lanes are pooled with their device, and an arena keeps what it held (up to 256 MiB), so that a
 * search allocates nothing once one of its shape has run. A lane belongs to one thread at a
 * time. When a device shares the host's memory, both arenas are the same kind of memory and
 * nothing is copied. */
#ifndef PERI_CORE_LANE_H
#define PERI_CORE_LANE_H

#include "core/context.h"

typedef struct peri_lane peri_lane;

peri_status peri_lane_acquire(peri_device *device, peri_lane **out);
/* Everything taken from the lane is gone. Waits for the stream if it was not waited for. */
void peri_lane_release(peri_lane *lane);

/* Gives everything taken back to the arenas and keeps the lane: for loops. The stream must be
 * idle. */
void peri_lane_rewind(peri_lane *lane);
/* Frees the lane instead of pooling it: what a build took is not kept for searches. */
void peri_lane_close(peri_lane *lane);

peri_stream *peri_lane_stream(peri_lane *lane);
peri_device *peri_lane_device(peri_lane *lane);

/* Scratch at the lane's place / on the host, 64-byte aligned, not cleared; count * size is
 * checked. `out` is the address of a pointer of any type. */
peri_status peri_lane_take(peri_lane *lane, size_t count, size_t size, void *out);
peri_status peri_lane_take_host(peri_lane *lane, size_t count, size_t size, void *out);

/* A host array at the lane's place: the same pointer when memory is shared, else an enqueued
 * copy. */
peri_status peri_lane_upload(peri_lane *lane, const void *host, size_t count, size_t size,
                             void *out);
/* The same for a view; rows are packed in the copy. What is at the lane's place already stays. */
peri_status peri_lane_upload_view(peri_lane *lane, const peri_view *host, peri_view *out);

/* Where an operation writes `count` items that the host wants in `host`: `host` itself when
 * memory is shared, else scratch; then peri_lane_fetch enqueues the copy back. */
peri_status peri_lane_out(peri_lane *lane, void *host, size_t count, size_t size, void *out);
peri_status peri_lane_fetch(peri_lane *lane, void *host, const void *place, size_t count,
                            size_t size);

/* Enqueues a copy of host memory to memory at the place that the caller has. */
peri_status peri_lane_send(peri_lane *lane, void *place, const void *host, size_t count,
                           size_t size);

/* Enqueues a copy of rows between strides, from memory of the host (pageable too) to the lane's
 * place, or the other way round. */
peri_status peri_lane_copy_in(peri_lane *lane, void *place, size_t place_stride, const void *host,
                              size_t host_stride, size_t rows, size_t row_bytes);
peri_status peri_lane_copy_out(peri_lane *lane, void *host, size_t host_stride, const void *place,
                               size_t place_stride, size_t rows, size_t row_bytes);

/* Asks the device whether it can, takes scratch, enqueues. PERI_E_UNSUPPORTED with the reason. */
peri_status peri_lane_run(peri_lane *lane, const peri_op *op);

/* Waits for the lane's stream; `control` may be NULL. */
peri_status peri_lane_wait(peri_lane *lane, const peri_control *control);

/* Workers and progress of the next runs (backends that run on the pool). */
void peri_lane_follow(peri_lane *lane, const peri_control *control, size_t threads);

/* A caller's queue on the lane's device, closed with the driver's stream_close.
 * PERI_E_UNSUPPORTED where there are none. */
peri_status peri_queue_open(peri_device *device, peri_queue queue, peri_stream **out);
/* What is enqueued on the lane from now on comes after what is in a caller's queue; and what is
 * enqueued there from now on comes after what is on the lane. */
peri_status peri_lane_after(peri_lane *lane, peri_stream *caller);
peri_status peri_lane_before(peri_lane *lane, peri_stream *caller);

/* Gives the lane back without waiting. let_go(ud) is called once its work is done: when it is taken
 * again, or by peri_lanes_settle. `ud` may be in its host arena. */
void peri_lane_park(peri_lane *lane, void (*let_go)(void *ud), void *ud);
/* Waits for all lanes of a device that were parked. */
void peri_lanes_settle(peri_device *device);

/* Frees the lanes that nobody uses: what they keep for the next search. Whether there were any. */
bool peri_lanes_trim(peri_device *device);

/* Memory of a device: when it is short, once more after idle lanes were freed. */
peri_status peri_device_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                peri_memory_use use, peri_mem **out);

/* Frees the pool of a device that is being closed. */
void peri_lanes_close(peri_device *device);

#endif
