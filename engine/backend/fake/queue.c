/* queue.c: streams, events and the thread that serves a device.
 *
 * One thread a device takes the head of any stream that is ready, one task at a time, streams in
 * turn. A task stays at the head while it runs, so an empty stream is a finished one. After a
 * failure the rest of the stream is skipped, but for events and notifications, until stream_wait
 * tells of it. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "backend/drivers.h"
#include "backend/fake/fake.h"

#define POLL_NANOSECONDS 20000000L /* the seam asks for 50 ms at most */

static peri_fake_device *device_of(const peri_stream *stream) {
    return (peri_fake_device *)stream->device;
}

/* Host memory of the device's context. */
static void *resize(const peri_fake_device *device, void *p, size_t old_bytes, size_t new_bytes) {
    return device->base.host->resize(device->base.context, p, old_bytes, new_bytes);
}

static peri_status no_memory(size_t bytes) {
    return peri_fail(PERI_E_MEMORY, "%zu bytes of host memory needed: none given", bytes);
}

static bool forked(const peri_device *device) {
    return device->host->generation() != device->generation;
}

/* ---- marks -------------------------------------------------------------------------------- */

static peri_status mark_create(const peri_fake_device *device, peri_fake_mark **out) {
    *out = resize(device, NULL, 0, sizeof **out);
    if (*out == NULL) return no_memory(sizeof **out);
    memset(*out, 0, sizeof **out);
    pthread_mutex_init(&(*out)->lock, NULL);
    (*out)->references = 1;
    return PERI_OK;
}

static void mark_retain(peri_fake_mark *mark) {
    pthread_mutex_lock(&mark->lock);
    mark->references++;
    pthread_mutex_unlock(&mark->lock);
}

static void mark_release(const peri_fake_device *device, peri_fake_mark *mark) {
    if (mark == NULL) return;
    pthread_mutex_lock(&mark->lock);
    bool last = --mark->references == 0;
    pthread_mutex_unlock(&mark->lock);
    if (!last) return;
    pthread_mutex_destroy(&mark->lock);
    resize(device, mark, sizeof *mark, 0);
}

/* Who waits registers before its queue looks, and looks under its own lock: no wake-up is lost.
 * It gives its mark back before its device can go, so holding the mark's lock keeps the device
 * here. */
static void mark_fire(peri_fake_mark *mark) {
    pthread_mutex_lock(&mark->lock);
    atomic_store(&mark->fired, true);
    for (size_t i = 0; i < PERI_FAKE_DEVICES; i++) {
        peri_fake_device *device = mark->waiting[i];
        if (device == NULL) continue;
        pthread_mutex_lock(&device->lock);
        pthread_cond_broadcast(&device->work);
        pthread_mutex_unlock(&device->lock);
    }
    pthread_mutex_unlock(&mark->lock);
}

/* ---- the queue's thread ------------------------------------------------------------------- */

static bool ready(const peri_fake_stream *stream) {
    const peri_fake_task *task = stream->first;
    return task != NULL && (task->kind != PERI_FAKE_AWAIT || atomic_load(&task->as.mark->fired));
}

/* The next stream with work, after the one served last. Under the device's lock. */
static peri_fake_stream *choose(peri_fake_device *device, const peri_fake_stream *last) {
    peri_fake_stream *begin = device->streams;
    for (peri_fake_stream *s = begin; s != NULL; s = s->next)
        if (s == last && s->next != NULL) begin = s->next;
    for (peri_fake_stream *s = begin; s != NULL; s = s->next)
        if (ready(s)) return s;
    for (peri_fake_stream *s = device->streams; s != begin; s = s->next)
        if (ready(s)) return s;
    return NULL;
}

static void keep_failure(peri_fake_stream *stream, peri_status status, const char *detail) {
    if (status == PERI_OK || stream->failure != PERI_OK) return;
    stream->failure = status;
    strncpy(stream->detail, detail, sizeof stream->detail - 1);
}

/* One task, without the device's lock. The stream's failure changes on this thread and, once the
 * stream is empty, on the waiting one: reading it here needs no lock. */
static peri_status serve(peri_fake_device *device, peri_fake_stream *stream, peri_fake_task *task) {
    switch (task->kind) {
    case PERI_FAKE_FIRE:
        mark_fire(task->as.mark);
        mark_release(device, task->as.mark);
        return PERI_OK;
    case PERI_FAKE_AWAIT: mark_release(device, task->as.mark); return PERI_OK;
    case PERI_FAKE_NOTIFY:
        task->as.notify.fn(task->as.notify.ud, stream->failure,
                           stream->failure == PERI_OK ? "" : stream->detail);
        return PERI_OK;
    case PERI_FAKE_RUN:
    case PERI_FAKE_COPY:
    case PERI_FAKE_FILL: break;
    }
    int cancel = atomic_load(&stream->cancel);
    if (stream->failure != PERI_OK) return PERI_OK;
    if (cancel != 0) return peri_fail((peri_status)cancel, "the wait for it was ended");
    return peri_fake_work(device, stream, task);
}

static void *queue_main(void *argument) {
    peri_fake_device *device = argument;
    peri_fake_stream *stream = NULL;
    pthread_mutex_lock(&device->lock);
    for (;;) {
        stream = choose(device, stream);
        if (stream == NULL) {
            if (device->quit) break;
            pthread_cond_wait(&device->work, &device->lock);
            continue;
        }
        peri_fake_task *task = stream->first;
        pthread_mutex_unlock(&device->lock);
        peri_status status = serve(device, stream, task);
        pthread_mutex_lock(&device->lock);
        keep_failure(stream, status, peri_error_detail());
        stream->first = task->next;
        if (stream->first == NULL) stream->last = NULL;
        task->next = stream->spare;
        stream->spare = task;
        pthread_cond_broadcast(&device->idle);
    }
    pthread_mutex_unlock(&device->lock);
    return NULL;
}

/* Under the device's lock. The thread takes no signal: handlers are the host program's. */
static peri_status queue_begin(peri_fake_device *device) {
    if (device->started) return PERI_OK;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&device->thread, NULL, queue_main, device);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return peri_fail(PERI_E_DEVICE, "fake:%u: no thread for its queue (error %d)",
                         (unsigned)device->base.place.number, error);
    device->started = true;
    return PERI_OK;
}

void peri_fake_queue_end(peri_fake_device *device) {
    if (!device->started) return;
    pthread_mutex_lock(&device->lock);
    device->quit = true;
    pthread_cond_broadcast(&device->work);
    pthread_mutex_unlock(&device->lock);
    pthread_join(device->thread, NULL);
    device->started = false;
}

/* Any word of a task that lies in the range counts as a use: no size or seed looks like an
 * address. */
static bool task_names(const peri_fake_task *task, uintptr_t begin, size_t bytes) {
    if (task->kind > PERI_FAKE_FILL) return false;
    for (size_t at = 0; at + sizeof(uintptr_t) <= sizeof task->as; at += sizeof(uintptr_t)) {
        uintptr_t word;
        memcpy(&word, (const char *)&task->as + at, sizeof word);
        if (word >= begin && word - begin < bytes) return true;
    }
    return false;
}

bool peri_fake_queue_names(peri_fake_device *device, const void *data, size_t bytes) {
    bool named = false;
    pthread_mutex_lock(&device->lock);
    for (peri_fake_stream *s = device->streams; s != NULL; s = s->next)
        for (const peri_fake_task *t = s->first; t != NULL && !named; t = t->next)
            named = task_names(t, (uintptr_t)data, bytes);
    pthread_mutex_unlock(&device->lock);
    return named;
}

void peri_fake_queue_rest(peri_fake_device *device) {
    pthread_mutex_lock(&device->lock);
    for (peri_fake_stream *s = device->streams; s != NULL;) {
        if (s->first == NULL) {
            s = s->next;
            continue;
        }
        pthread_cond_wait(&device->idle, &device->lock);
        s = device->streams;
    }
    pthread_mutex_unlock(&device->lock);
}

/* ---- streams ------------------------------------------------------------------------------ */

/* The cpu backend polls this on the queue's thread. */
static peri_status relay_poll(void *ud, const char *stage, size_t done, size_t total) {
    peri_fake_stream *stream = ud;
    atomic_store(&stream->stage, stage);
    atomic_store(&stream->done, done);
    atomic_store(&stream->total, total);
    int cancel = atomic_load(&stream->cancel);
    return cancel == 0 ? PERI_OK : peri_fail((peri_status)cancel, "the wait for it was ended");
}

peri_status peri_fake_stream_open(peri_device *device, peri_stream **out) {
    *out = NULL;
    PERI_TRY(peri_fake_check(device));
    peri_fake_device *fake = (peri_fake_device *)device;
    peri_fake_stream *stream = resize(fake, NULL, 0, sizeof *stream);
    if (stream == NULL) return no_memory(sizeof *stream);
    memset(stream, 0, sizeof *stream);
    stream->base.device = device;
    peri_status status;
    PERI_GO(peri_cpu_driver.stream_open(fake->cpu, &stream->cpu));
    stream->relay = (peri_control){ relay_poll, stream };
    stream->cpu->control = &stream->relay;
    stream->cpu->threads = 1;
    pthread_mutex_lock(&fake->lock);
    status = queue_begin(fake);
    if (status == PERI_OK) {
        stream->next = fake->streams;
        fake->streams = stream;
    }
    pthread_mutex_unlock(&fake->lock);
    if (status == PERI_OK) *out = &stream->base;
done:
    if (status != PERI_OK) {
        if (stream->cpu != NULL) peri_cpu_driver.stream_close(stream->cpu);
        resize(fake, stream, sizeof *stream, 0);
    }
    return status;
}

/* The stream that a caller's value stands for. */
static peri_status find_foreign(peri_device *device, void *foreign, peri_fake_stream **out) {
    peri_fake_device *fake = (peri_fake_device *)device;
    *out = foreign;
    if ((uintptr_t)foreign <= 2) { /* one thread at a time asks first: tests do */
        if (fake->plain == NULL) PERI_TRY(peri_fake_stream_open(device, &fake->plain));
        *out = (peri_fake_stream *)fake->plain;
        return PERI_OK;
    }
    bool known = false;
    pthread_mutex_lock(&fake->lock);
    for (peri_fake_stream *s = fake->streams; s != NULL && !known; s = s->next) known = s == *out;
    pthread_mutex_unlock(&fake->lock);
    if (known) return PERI_OK;
    return peri_fail(PERI_E_ARGUMENT, "stream: %p given, which is none of fake:%u", foreign,
                     (unsigned)device->place.number);
}

peri_status peri_fake_stream_wrap(peri_device *device, void *foreign, peri_stream **out) {
    peri_fake_device *fake = (peri_fake_device *)device;
    peri_fake_stream *wrapped, *stream;
    *out = NULL;
    PERI_TRY(peri_fake_check(device));
    PERI_TRY(find_foreign(device, foreign, &wrapped));
    stream = resize(fake, NULL, 0, sizeof *stream);
    if (stream == NULL) return no_memory(sizeof *stream);
    memset(stream, 0, sizeof *stream);
    stream->base.device = device;
    stream->wrapped = wrapped;
    *out = &stream->base;
    return PERI_OK;
}

static void tasks_release(const peri_fake_device *device, peri_fake_task *task) {
    while (task != NULL) {
        peri_fake_task *before = task->made;
        resize(device, task, sizeof *task, 0);
        task = before;
    }
}

void peri_fake_stream_close(peri_stream *stream) {
    if (stream == NULL) return;
    peri_fake_stream *self = (peri_fake_stream *)stream;
    peri_fake_device *device = device_of(stream);
    if (self->wrapped != NULL) {
        resize(device, self, sizeof *self, 0);
        return;
    }
    if (!forked(stream->device)) {
        pthread_mutex_lock(&device->lock);
        while (self->first != NULL) pthread_cond_wait(&device->idle, &device->lock);
        peri_fake_stream **link = &device->streams;
        while (*link != self) link = &(*link)->next;
        *link = self->next;
        pthread_mutex_unlock(&device->lock);
    }
    tasks_release(device, self->made);
    peri_cpu_driver.stream_close(self->cpu);
    resize(device, self, sizeof *self, 0);
}

peri_fake_task peri_fake_task_of(peri_fake_task_kind kind) {
    peri_fake_task task;
    memset(&task, 0, sizeof task); /* all of it: task_names() reads every word */
    task.kind = kind;
    return task;
}

peri_status peri_fake_enqueue(peri_fake_stream *stream, const peri_fake_task *task) {
    peri_fake_device *device = device_of(&stream->base);
    pthread_mutex_lock(&device->lock);
    peri_fake_task *node = stream->spare;
    if (node != NULL) stream->spare = node->next;
    pthread_mutex_unlock(&device->lock);
    if (node == NULL) {
        node = resize(device, NULL, 0, sizeof *node);
        if (node == NULL) return no_memory(sizeof *node);
        node->made = stream->made;
        stream->made = node;
    }
    peri_fake_task *made = node->made;
    *node = *task;
    node->next = NULL;
    node->made = made;
    pthread_mutex_lock(&device->lock);
    if (stream->last != NULL)
        stream->last->next = node;
    else
        stream->first = node;
    stream->last = node;
    pthread_cond_broadcast(&device->work);
    pthread_mutex_unlock(&device->lock);
    return PERI_OK;
}

/* Sleeps until a task is done or it is time to poll. Under the device's lock. */
static void sleep_a_while(peri_fake_device *device) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += POLL_NANOSECONDS;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&device->idle, &device->lock, &until);
}

static peri_status ask(peri_fake_stream *stream, const peri_control *control) {
    const char *stage = atomic_load(&stream->stage);
    return control->poll(control->ud, stage == NULL ? "waiting" : stage, atomic_load(&stream->done),
                         atomic_load(&stream->total));
}

peri_status peri_fake_stream_wait(peri_stream *stream, const peri_control *control) {
    PERI_TRY(peri_fake_check(stream->device));
    peri_fake_stream *self = peri_fake_stream_of(stream);
    peri_fake_device *device = device_of(stream);
    peri_status ended = PERI_OK;
    pthread_mutex_lock(&device->lock);
    while (self->first != NULL) {
        if (control == NULL || control->poll == NULL || ended != PERI_OK) {
            pthread_cond_wait(&device->idle, &device->lock);
            continue;
        }
        sleep_a_while(device);
        pthread_mutex_unlock(&device->lock);
        ended = ask(self, control);
        if (ended != PERI_OK) atomic_store(&self->cancel, (int)ended);
        pthread_mutex_lock(&device->lock);
    }
    peri_status failure = self->failure;
    char detail[PERI_FAKE_DETAIL];
    memcpy(detail, self->detail, sizeof detail);
    self->failure = PERI_OK;
    memset(self->detail, 0, sizeof self->detail);
    atomic_store(&self->cancel, 0);
    atomic_store(&self->stage, NULL);
    pthread_mutex_unlock(&device->lock);
    if (ended != PERI_OK) return ended;
    return failure == PERI_OK ? PERI_OK : peri_fail_again(failure, detail);
}

peri_status peri_fake_stream_notify(peri_stream *stream, peri_notify_fn fn, void *ud) {
    PERI_TRY(peri_fake_check(stream->device));
    peri_fake_task task = peri_fake_task_of(PERI_FAKE_NOTIFY);
    task.as.notify.fn = fn;
    task.as.notify.ud = ud;
    return peri_fake_enqueue(peri_fake_stream_of(stream), &task);
}

/* ---- events ------------------------------------------------------------------------------- */

peri_status peri_fake_event_open(peri_device *device, peri_event **out) {
    *out = NULL;
    PERI_TRY(peri_fake_check(device));
    peri_fake_device *fake = (peri_fake_device *)device;
    peri_event *event = resize(fake, NULL, 0, sizeof *event);
    if (event == NULL) return no_memory(sizeof *event);
    memset(event, 0, sizeof *event);
    event->device = fake;
    pthread_mutex_init(&event->lock, NULL);
    *out = event;
    return PERI_OK;
}

peri_status peri_fake_event_record(peri_event *event, peri_stream *stream) {
    PERI_TRY(peri_fake_check(stream->device));
    PERI_ASSERT(stream->device == &event->device->base);
    peri_fake_mark *mark;
    PERI_TRY(mark_create(event->device, &mark));
    peri_fake_task task = peri_fake_task_of(PERI_FAKE_FIRE);
    task.as.mark = mark;
    mark_retain(mark); /* the task's; the first is the event's */
    peri_status status = peri_fake_enqueue(peri_fake_stream_of(stream), &task);
    if (status != PERI_OK) {
        mark_release(event->device, mark);
        mark_release(event->device, mark);
        return status;
    }
    pthread_mutex_lock(&event->lock);
    peri_fake_mark *before = event->mark;
    event->mark = mark;
    pthread_mutex_unlock(&event->lock);
    mark_release(event->device, before);
    return PERI_OK;
}

/* The latest recording holds, as it is when the wait is enqueued; none: nothing to wait for. */
peri_status peri_fake_event_wait(peri_event *event, peri_stream *stream) {
    PERI_TRY(peri_fake_check(stream->device));
    peri_fake_device *device = device_of(stream);
    PERI_ASSERT(device->base.context == event->device->base.context);
    pthread_mutex_lock(&event->lock);
    peri_fake_mark *mark = event->mark;
    if (mark != NULL) mark_retain(mark);
    pthread_mutex_unlock(&event->lock);
    if (mark == NULL) return PERI_OK;
    pthread_mutex_lock(&mark->lock);
    mark->waiting[device->base.place.number] = device;
    pthread_mutex_unlock(&mark->lock);
    peri_fake_task task = peri_fake_task_of(PERI_FAKE_AWAIT);
    task.as.mark = mark;
    peri_status status = peri_fake_enqueue(peri_fake_stream_of(stream), &task);
    if (status != PERI_OK) mark_release(device, mark);
    return status;
}

void peri_fake_event_close(peri_event *event) {
    if (event == NULL) return;
    peri_fake_device *device = event->device;
    if (!forked(&device->base)) {
        mark_release(device, event->mark);
        pthread_mutex_destroy(&event->lock);
    }
    resize(device, event, sizeof *event, 0);
}
