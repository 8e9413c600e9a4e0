/* chunks.h: rows that a device has no room for pass through it in chunks.
 *
 * Two buffers on the device take chunks in turn, and each has a lane. While one chunk is worked at,
 * the host copies the next into page-locked blocks (ring.h) and sends it, and what was made of the
 * one before goes home. Rows that are at the place already pass as they are. Whatever runs over
 * all rows of a matrix on the host runs this way; what it does with a chunk is two functions. */
#ifndef PERI_CORE_CHUNKS_H
#define PERI_CORE_CHUNKS_H

#include "core/matrix.h"
#include "core/progress.h"
#include "core/ring.h"

/* Chunks begin at multiples of so many rows: the part of a bitset that is theirs begins with a
 * word. */
#define PERI_CHUNK_ROWS_UNIT ((size_t)64)

typedef struct peri_chunk {
    peri_view rows; /* [count, d] at the place */
    size_t first;   /* of all rows */
    void *out;      /* [count * out_bytes] at the place, 64-byte aligned, until `take` returned */
    size_t turn;    /* 0, 1, 0, ..: which of the two buffers it has */
} peri_chunk;

typedef struct peri_chunks {
    /* What the caller sets. */
    peri_device *device;
    const peri_matrix *rows; /* on the host, or at the device's place */
    size_t out_bytes;        /* a row: room on the device for what is made of it */
    bool keeps;     /* scratch, for the next pass: a search comes again, a build does not */
    size_t threads; /* that copy; 0 = as many as pay */
    peri_progress *progress; /* of which row r is the `each` steps from base + r * each on */
    size_t base, each;       /* each 0: 1 */
    void *ud;
    /* Enqueues the work on a chunk. It comes after that on the chunk before; the lane's arenas are
     * the chunk's. PERI_E_MEMORY makes the chunks smaller: then it is asked again, and must not
     * have changed anything. */
    peri_status (*run)(void *ud, peri_lane *lane, const peri_chunk *chunk);
    /* (optional) The work is done, and that on the next chunk goes on: takes what was made of it,
     * perhaps by more work on the lane, which it waits for. Not asked again. */
    peri_status (*take)(void *ud, peri_lane *lane, const peri_chunk *chunk);

    /* What a pass has. */
    peri_view all;       /* the rows */
    peri_ring *ring;     /* NULL: the driver copies, as it does what is page-locked */
    peri_lane *lanes[2]; /* the second NULL: memory is short, and chunks wait for each other */
    peri_mem *buffers[2];
    size_t row_bytes, chunk_rows;
    size_t done; /* rows whose work is done and taken */
    bool broken; /* it was not, and can't be any more */
    peri_control quiet;
} peri_chunks;

/* All rows, in order; every `take` has returned then, and nothing is under way. Cost: one transfer
 * of the rows; memory for two chunks, at most 256 MiB each, with their `out`, and for two runs.
 * PERI_E_MEMORY when not even PERI_CHUNK_ROWS_UNIT rows find room, with the bytes needed and free;
 * what `run`, `take` and the control say. */
peri_status peri_chunks_pass(peri_chunks *chunks);

/* In `take`: what was made of a chunk, to the host; done when it returns. Rows of more than
 * PERI_RING_ROW_BYTES_MAX bytes go as slowly as pageable memory does. */
peri_status peri_chunks_fetch(peri_chunks *chunks, peri_lane *lane, void *to, size_t to_stride,
                              const void *from, size_t from_stride, size_t rows, size_t row_bytes);

/* Whether so many bytes fit the device, an eighth of what is free left for work; idle memory is
 * freed first. */
peri_status peri_chunks_fit(peri_device *device, size_t bytes, bool *out);

/* Whether these rows are to pass `device` rather than to go there: they are on the host, and it is
 * asked for, or they and `more_bytes` do not fit. */
peri_status peri_chunks_choose(peri_device *device, const peri_view *rows, peri_residence residence,
                               size_t more_bytes, bool *out);

#endif
