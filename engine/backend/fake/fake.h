/* fake.h: two pretend devices whose queues are threads and whose memory is closed to the host.
 *
 * What a GPU does and a CPU backend can't show: run() returns before the work is done, host code
 * that touches device memory faults, a device pointer of the wrong place is refused, memory runs
 * out early, and failures come back at stream_wait, from another thread. The operations are those
 * of the cpu backend, run by the queue's thread.
 *
 * Who may touch what
 *   - peri_fake_device.lock: the list of streams, their tasks, failures and counters, `quit`.
 *   - peri_fake_device.memory_lock: the blocks, `bytes`, `limit`, `opened`. Taken inside no other
 *     lock.
 *   - peri_fake_mark.lock: the mark but for `fired`. A device's lock is taken inside it, never
 *     the other way round.
 *   - A task that runs is the queue thread's alone; it stays at the head of its stream until it
 *     is done.
 *   - After a fork the child's copies of these locks mean nothing: every slot first compares
 *     generations, and what closes or releases there frees its own block and leaves the queue's
 *     alone. */
#ifndef PERI_BACKEND_FAKE_FAKE_H
#define PERI_BACKEND_FAKE_FAKE_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/status.h"
#include "perigee_backend.h"

#define PERI_FAKE_DEVICES 2u
#define PERI_FAKE_BYTES ((size_t)1 << 30) /* of each device, unless mem_limit says otherwise */
#define PERI_FAKE_DETAIL 512u             /* as the engine's own */

typedef struct peri_fake_device peri_fake_device;
typedef struct peri_fake_stream peri_fake_stream;

/* One block of device memory: an address range that is PROT_NONE while no queue works. The data
 * ends at a page that never opens, so that running past the end faults as well. */
typedef struct peri_fake_block {
    peri_mem mem;
    char *pages;        /* of the mapping; NULL when the memory is the host's */
    size_t pages_bytes; /* those that open and close, the last page not counted */
    struct peri_fake_block *previous, *next;
} peri_fake_block;

/* One recording of an event: fires once. Shared by the event, the task that fires it and those
 * that wait. */
typedef struct peri_fake_mark {
    pthread_mutex_t lock;
    size_t references;
    atomic_bool fired;
    peri_fake_device *waiting[PERI_FAKE_DEVICES]; /* to be woken */
} peri_fake_mark;

struct peri_event {
    peri_fake_device *device;
    pthread_mutex_t lock;
    peri_fake_mark *mark; /* the latest; NULL before the first record */
};

typedef struct peri_fake_copy {
    void *to;
    const void *from;
    size_t to_stride, from_stride, rows, row_bytes;
    peri_fake_device *to_device, *from_device;
} peri_fake_copy;

typedef struct peri_fake_fill {
    void *to;
    size_t bytes;
    int byte;
} peri_fake_fill;

typedef union peri_fake_op {
    peri_op head;
#define PERI_FAKE_OP(NAME, name) peri_op_##name name;
    PERI_OP_MAP(PERI_FAKE_OP)
#undef PERI_FAKE_OP
} peri_fake_op;

typedef enum peri_fake_task_kind {
    PERI_FAKE_RUN,
    PERI_FAKE_COPY,
    PERI_FAKE_FILL,
    PERI_FAKE_FIRE,
    PERI_FAKE_AWAIT,
    PERI_FAKE_NOTIFY,
} peri_fake_task_kind;

typedef struct peri_fake_task {
    peri_fake_task_kind kind;
    struct peri_fake_task *next; /* of the stream's list, or of its spare ones */
    struct peri_fake_task *made; /* the one made before, whatever became of either */
    union {
        struct {
            peri_fake_op op;
            void *scratch;
            size_t scratch_bytes;
        } run;
        peri_fake_copy copy;
        peri_fake_fill fill;
        peri_fake_mark *mark;
        struct {
            peri_notify_fn fn;
            void *ud;
        } notify;
    } as;
} peri_fake_task;

struct peri_fake_stream {
    peri_stream base;
    peri_fake_stream *wrapped;    /* a caller's stream, which all is given on to; NULL: its own */
    peri_stream *cpu;             /* runs the operations; its control is `relay` */
    peri_control relay;           /* passes progress out and cancellation in */
    peri_fake_task *first, *last; /* first is the one that runs or waits */
    peri_fake_task *spare;  /* done ones, used again: enqueueing allocates only while it grows */
    peri_fake_task *made;   /* all of them; the queue's thread never touches this chain */
    peri_fake_stream *next; /* of the device */
    peri_status failure;    /* the first since the last wait; what follows it is skipped */
    char detail[PERI_FAKE_DETAIL];
    atomic_int cancel; /* the status that ended a wait; 0 = none */
    _Atomic(const char *) stage;
    atomic_size_t done, total; /* progress of the operation that runs */
};

struct peri_fake_device {
    peri_device base;
    peri_device *cpu;
    pthread_mutex_t lock;
    pthread_cond_t work; /* something was enqueued or may have become ready */
    pthread_cond_t idle; /* a task is done */
    pthread_t thread;
    bool started, quit;
    peri_fake_stream *streams;
    peri_stream *plain;      /* what stream_wrap takes numbers for; made when it is asked for */
    size_t tasks_to_failure; /* 0 = not set; counts down, at 1 the task fails */
    bool declined[PERI_OP_COUNT];

    pthread_mutex_t memory_lock;
    peri_fake_block *blocks;
    size_t bytes, limit;
    size_t held[PERI_USE_COUNT]; /* `bytes` by use */
    size_t acquires_to_failure;  /* 0 = not set; counts down to 1, where all fail */
    size_t opened;               /* tasks that work on the memory now; 0 = closed */
};

/* For tests: copy, fill or operation number `tasks` from now (1 = the next) fails on the queue. */
void peri_fake_fail(peri_device *device, size_t tasks);

/* For tests: acquire number `acquires` of device memory from now (1 = the next) and all after it
 * find none; 0 ends that. */
void peri_fake_short(peri_device *device, size_t acquires);

/* For tests: operations that the device does not do from now on, [PERI_OP_COUNT], as a device whose
 * backend lacks them. While nothing runs. */
void peri_fake_decline(peri_device *device, const bool *declined);

/* PERI_E_FORK in a child of the process that opened the device. */
peri_status peri_fake_check(const peri_device *device);

/* ---- memory.c */

peri_status peri_fake_mem_acquire(peri_device *device, size_t bytes, peri_memory_kind kind,
                                  peri_memory_use use, peri_mem **out);
void peri_fake_mem_release(peri_mem *mem);
peri_status peri_fake_mem_check(peri_device *device, const void *data, size_t bytes);
peri_status peri_fake_mem_wrap(peri_device *device, void *data, size_t bytes, peri_mem **out);
peri_status peri_fake_mem_limit(peri_device *device, size_t bytes);

/* Opens the memory of a device to the process, and closes it when as many calls closed it. */
void peri_fake_memory_open(peri_fake_device *device);
void peri_fake_memory_close(peri_fake_device *device);

/* Whether [data, data + bytes) lies in one block of the device. */
bool peri_fake_memory_holds(peri_fake_device *device, const void *data, size_t bytes);

/* PERI_E_DEVICE when a pointer of an operation is not memory of the device, as a GPU would
 * fault. */
peri_status peri_fake_pointers_check(peri_fake_device *device, const peri_op *op);
/* The pointers behind a filter's pointers; on the queue's thread, with the memory open. */
peri_status peri_fake_filter_check(peri_fake_device *device, const peri_op *op);

/* ---- queue.c */

peri_status peri_fake_stream_open(peri_device *device, peri_stream **out);
/* A caller's queue: a stream of this device (a peri_stream *), or a number, 0..2, as CUDA has for
 * its default streams: here they are one. */
peri_status peri_fake_stream_wrap(peri_device *device, void *foreign, peri_stream **out);
void peri_fake_stream_close(peri_stream *stream);
/* The stream that the tasks of `stream` go to. */
static inline peri_fake_stream *peri_fake_stream_of(peri_stream *stream) {
    peri_fake_stream *self = (peri_fake_stream *)stream;
    return self->wrapped != NULL ? self->wrapped : self;
}
peri_status peri_fake_stream_wait(peri_stream *stream, const peri_control *control);
peri_status peri_fake_stream_notify(peri_stream *stream, peri_notify_fn fn, void *ud);
peri_status peri_fake_event_open(peri_device *device, peri_event **out);
peri_status peri_fake_event_record(peri_event *event, peri_stream *stream);
peri_status peri_fake_event_wait(peri_event *event, peri_stream *stream);
void peri_fake_event_close(peri_event *event);

/* An empty task of a kind. */
peri_fake_task peri_fake_task_of(peri_fake_task_kind kind);
/* A task at the end of the stream's list, filled from `task`. */
peri_status peri_fake_enqueue(peri_fake_stream *stream, const peri_fake_task *task);
/* Ends the queue's thread and waits for it. */
void peri_fake_queue_end(peri_fake_device *device);
/* Waits until no task is left. */
void peri_fake_queue_rest(peri_fake_device *device);
/* Whether a task that has not run names an address in the range. */
bool peri_fake_queue_names(peri_fake_device *device, const void *data, size_t bytes);

/* ---- work.c */

/* Does one task, on the queue's thread. */
peri_status peri_fake_work(peri_fake_device *device, peri_fake_stream *stream,
                           peri_fake_task *task);

#endif
