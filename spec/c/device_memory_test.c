/* device_memory_test: memory, queues and plans of a device: what runs short is told and leaves
 * nothing behind, a batch that does not fit is answered in parts, what is not the device's is
 * refused, a plan does what its operations do, a caller's queue is taken as it is.
 *
 * PERIGEE_TEST_PLACE names the place (fake:0 when unset). */
#include "backend/fake/fake.h"
#include "core/lane.h"
#include "place.h"

#define ROWS 3000
#define DIM 24
#define QUERIES 400
#define K 10

static peri_context *context;
static peri_device *device;
static const peri_driver *driver;
static bool fake;

static size_t held(peri_memory_use use) {
    peri_device_info info;
    place_must(peri_device_stat(context, device->place, &info), "stat");
    return info.bytes_held[use];
}

static size_t held_in_all(void) {
    size_t bytes = 0;
    for (int use = 0; use < PERI_USE_COUNT; use++) bytes += held((peri_memory_use)use);
    return bytes;
}

/* ---- the limit ---------------------------------------------------------------------------- */

static void check_limit(void) {
    peri_mem *mem = NULL, *more = NULL;
    place_must(peri_device_trim(context, device->place), "trim");
    size_t rows = held(PERI_USE_ROWS), staging = held(PERI_USE_STAGING), before = held_in_all();
    place_must(peri_device_limit(context, device->place, before + 10000), "limit");
    place_must(driver->mem_acquire(device, 6000, PERI_MEMORY_DEVICE, PERI_USE_ROWS, &mem), "6000");
    peri_status status = driver->mem_acquire(device, 4001, PERI_MEMORY_DEVICE, PERI_USE_STAGING,
                                             &more);
    CHECK(status == PERI_E_MEMORY && more == NULL, "4001 of 4000 bytes: %s",
          peri_status_code(status));
    CHECK(strstr(peri_error_detail(), "4001 bytes needed, 4000 bytes free") != NULL, "detail: %s",
          peri_error_detail());
    CHECK(held(PERI_USE_ROWS) == rows + 6000 && held(PERI_USE_STAGING) == staging,
          "rows %zu, staging %zu", held(PERI_USE_ROWS) - rows, held(PERI_USE_STAGING) - staging);
    status = driver->mem_acquire(device, 4000, PERI_MEMORY_DEVICE, PERI_USE_STAGING, &more);
    CHECK(status == PERI_OK && held(PERI_USE_STAGING) == staging + 4000, "the last 4000: %s",
          peri_error_detail());
    driver->mem_release(more);
    driver->mem_release(mem);
    CHECK(held_in_all() == before, "%zu bytes stay", held_in_all() - before);
    status = driver->mem_acquire(device, SIZE_MAX / 2, PERI_MEMORY_DEVICE, PERI_USE_ROWS, &mem);
    CHECK(status == PERI_E_MEMORY && mem == NULL, "half an address space: %s",
          peri_status_code(status));
    place_must(peri_device_limit(context, device->place, 0), "no limit");
    CHECK(peri_device_limit(context, PERI_CPU, 1) == PERI_E_UNSUPPORTED, "a limit of the cpu");
    peri_place none = { device->place.kind, 60000 };
    CHECK(peri_device_limit(context, none, 1) == PERI_E_DEVICE &&
              strstr(peri_error_detail(), "60000") != NULL,
          "a device that is not there: %s", peri_error_detail());
}

/* Scratch that idle searches keep goes to who needs memory. */
static void check_trim(void) {
    peri_lane *lane = NULL;
    void *scratch;
    peri_matrix *rows = NULL;
    place_must(peri_device_trim(context, device->place), "trim");
    size_t before = held_in_all();
    place_must(peri_device_limit(context, device->place, before + ((size_t)1 << 20)), "limit");
    place_must(peri_lane_acquire(device, &lane), "lane");
    place_must(peri_lane_take(lane, 800000, 1, &scratch), "scratch");
    peri_lane_release(lane);
    CHECK(held(PERI_USE_SCRATCH) >= 800000, "the lane keeps %zu bytes", held(PERI_USE_SCRATCH));
    peri_status status = peri_matrix_create(context, 1000, 200, PERI_F32, device->place, &rows);
    CHECK(status == PERI_OK, "800000 bytes of rows: %s", peri_error_detail());
    peri_matrix_release(rows);
    place_must(peri_device_trim(context, device->place), "trim");
    CHECK(held_in_all() == before, "%zu bytes stay", held_in_all() - before);
    place_must(peri_device_limit(context, device->place, 0), "no limit");
}

/* ---- searches ----------------------------------------------------------------------------- */

typedef struct answer {
    int64_t ids[QUERIES * K];
    float distances[QUERIES * K];
} answer;

static peri_matrix *random_rows(size_t rows, uint64_t seed) {
    peri_matrix *matrix = NULL;
    place_must(peri_matrix_create(context, rows, DIM, PERI_F32, PERI_CPU, &matrix), "matrix");
    float *to = peri_matrix_view(matrix).data;
    for (size_t i = 0; i < rows * DIM; i++) to[i] = test_uniform(seed, i);
    return matrix;
}

static peri_status build(peri_matrix *rows, peri_place at, peri_searcher **out) {
    static const peri_option metric = { "metric", { PERI_VALUE_TEXT, { .text = "cosine" } } };
    peri_build b = PERI_BUILD_INIT;
    b.kind = "flat";
    b.rows = rows;
    b.place = at;
    b.options = (peri_options){ &metric, 1 };
    return peri_searcher_build(&b, out);
}

static peri_status search(peri_searcher *index, peri_matrix *queries, peri_filter *filter,
                          answer *out) {
    peri_request request = PERI_REQUEST_INIT;
    peri_hits hits = { .ids = out->ids, .distances = out->distances };
    request.queries = peri_matrix_view(queries);
    request.k = K;
    request.filters = &filter;
    request.filter_count = filter != NULL;
    return peri_searcher_search(index, &request, &hits);
}

static bool same(const answer *a, const answer *b) {
    return memcmp(a->ids, b->ids, sizeof a->ids) == 0 &&
           memcmp(a->distances, b->distances, sizeof a->distances) == 0;
}

/* With a limit that the scratch of the whole batch does not keep to. */
static void check_parts(void) {
    static answer wanted, found;
    peri_matrix *rows = random_rows(ROWS, 1), *queries = random_rows(QUERIES, 2);
    peri_searcher *here = NULL, *there = NULL;
    peri_filter *filter = NULL;
    place_must(peri_filter_range(context, 100, 2500, &filter), "filter");
    place_must(build(rows, PERI_CPU, &here), "build on the cpu");
    place_must(build(rows, device->place, &there), "build there");
    place_must(search(here, queries, filter, &wanted), "search on the cpu");
    place_must(peri_device_trim(context, device->place), "trim");
    size_t before = held_in_all(), rest = 0;
    for (size_t room = 1 << 22; room >= 1 << 13; room >>= 1) {
        place_must(peri_device_limit(context, device->place, before + room), "limit");
        memset(&found, 0, sizeof found);
        peri_status status = search(there, queries, filter, &found);
        if (status == PERI_OK) rest = room;
        CHECK(status == PERI_OK ? same(&wanted, &found) : status == PERI_E_MEMORY,
              "%zu bytes of scratch: %s", room, peri_error_detail());
        place_must(peri_device_trim(context, device->place), "trim");
        CHECK(held_in_all() == before, "%zu bytes of scratch: %zu bytes stay", room,
              held_in_all() - before);
    }
    /* queries and answers alone are more than this */
    if (fake) CHECK(rest > 0 && rest < QUERIES * (DIM * 4 + K * 12), "the least room: %zu", rest);
    place_must(peri_device_limit(context, device->place, 0), "no limit");
    peri_filter_release(filter);
    peri_searcher_release(here);
    peri_searcher_release(there);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
}

/* ---- faults ------------------------------------------------------------------------------- */

/* What is made of a device in one go; nothing of it is left. */
static peri_status everything(peri_matrix *rows, peri_matrix *queries, answer *out) {
    peri_searcher *index = NULL, *copy = NULL;
    peri_matrix *there = NULL, *half = NULL, *back = NULL, *picked = NULL;
    peri_range_hits range = { NULL, NULL, NULL };
    peri_request request = PERI_REQUEST_INIT;
    const int64_t ids[] = { 5, 3, 3 };
    peri_status status;
    PERI_GO(peri_matrix_move(rows, device->place, &there));
    PERI_GO(peri_matrix_convert(there, PERI_F16, &half));
    PERI_GO(peri_matrix_gather(half, ids, 3, &picked));
    PERI_GO(peri_matrix_normalize(half, &back));
    PERI_GO(build(there, device->place, &index));
    PERI_GO(search(index, queries, NULL, out));
    request.queries = peri_matrix_view(queries);
    status = peri_searcher_range(index, &request, 0.2f, &range);
    if (status == PERI_E_UNSUPPORTED) status = PERI_OK;
    if (status != PERI_OK) goto done;
    PERI_GO(peri_searcher_move(index, PERI_CPU, &copy));
done:
    peri_matrix_release(range.offsets);
    peri_matrix_release(range.ids);
    peri_matrix_release(range.distances);
    peri_searcher_release(copy);
    peri_searcher_release(index);
    peri_matrix_release(picked);
    peri_matrix_release(back);
    peri_matrix_release(half);
    peri_matrix_release(there);
    return status;
}

/* The fault that is number `step`; false when this kind can't be made here. */
static bool make_fault(bool memory, size_t step, size_t before) {
    if (fake && memory)
        peri_fake_short(device, step);
    else if (fake)
        peri_fake_fail(device, step);
    else if (memory)
        place_must(peri_device_limit(context, device->place, before + step * 8192), "limit");
    else
        return false;
    return true;
}

static void end_faults(void) {
    if (fake) peri_fake_short(device, 0);
    if (fake) peri_fake_fail(device, 0);
    place_must(peri_device_limit(context, device->place, 0), "no limit");
}

static void check_faults(bool memory) {
    static answer wanted, found;
    peri_matrix *rows = random_rows(ROWS / 10, 3), *queries = random_rows(QUERIES, 4);
    place_must(everything(rows, queries, &wanted), "without a fault");
    size_t failed = 0, fine = 0, step = 1;
    for (; fine < 3 && step < 1000; step++) {
        peri_context_stats host_before, host_after;
        place_must(peri_device_trim(context, device->place), "trim");
        size_t before = held_in_all();
        peri_context_stat(context, &host_before);
        memset(&found, 0, sizeof found);
        if (!make_fault(memory, step, before)) break;
        peri_status status = everything(rows, queries, &found);
        end_faults();
        fine = status == PERI_OK && same(&wanted, &found) ? fine + 1 : 0;
        failed += status != PERI_OK;
        CHECK(status == PERI_OK || status == (memory ? PERI_E_MEMORY : PERI_E_DEVICE),
              "fault %zu: %s: %s", step, peri_status_code(status), peri_error_detail());
        CHECK(status != PERI_OK || same(&wanted, &found), "fault %zu: other results", step);
        place_must(peri_device_trim(context, device->place), "trim");
        peri_context_stat(context, &host_after);
        CHECK(held_in_all() == before, "fault %zu: %zu bytes stay on the device", step,
              held_in_all() - before);
        CHECK(host_after.bytes <= host_before.bytes + 65536, "fault %zu: %zu bytes stay", step,
              host_after.bytes - host_before.bytes);
    }
    if (step > 1) CHECK(failed > 3 && fine == 3, "%zu of %zu failed", failed, step - 1);
    peri_matrix_release(queries);
    peri_matrix_release(rows);
}

/* ---- what is whose ------------------------------------------------------------------------ */

static void check_wrap(void) {
    peri_mem *own = NULL, *mem = NULL;
    float host[16] = { 0 };
    peri_status status = driver->mem_wrap(device, host, sizeof host, &mem);
    CHECK(status == PERI_E_ARGUMENT && mem == NULL, "a host pointer as the device's: %s",
          peri_status_code(status));
    place_must(driver->mem_acquire(device, 4096, PERI_MEMORY_DEVICE, PERI_USE_OTHER, &own), "own");
    size_t before = held_in_all();
    status = driver->mem_wrap(device, (char *)own->data + 256, 1024, &mem);
    CHECK(status == PERI_OK && mem->foreign && held_in_all() == before, "a part of a block: %s",
          peri_error_detail());
    driver->mem_release(mem);
    own->shared = true;
    driver->mem_release(own);
}

/* ---- much memory at once ------------------------------------------------------------------ */

static void keep(void *anchor) { (void)anchor; }

/* Some blocks of rows at a stride, up and down; and a row that no block holds. */
static void check_ring(size_t rows, size_t cols, size_t stride) {
    unsigned char *from = test_new(rows, stride), *to = test_new(rows, cols);
    peri_view view = { from, rows, cols, stride, PERI_U8, PERI_CPU };
    peri_matrix *here = NULL, *there = NULL;
    size_t wrong = 0;
    for (size_t i = 0; i < rows * stride; i += 7) from[i] = (unsigned char)peri_random_mix(5, i);
    place_must(peri_matrix_anchor(context, view, keep, NULL, &here), "anchor");
    place_must(peri_matrix_move(here, device->place, &there), "up");
    place_must(peri_matrix_read(there, 1, rows - 1, to), "down");
    for (size_t r = 1; r < rows; r++)
        wrong += memcmp(from + r * stride, to + (r - 1) * cols, cols) != 0;
    CHECK(wrong == 0, "%zu of %zu rows of %zu bytes are wrong", wrong, rows, cols);
    peri_matrix_release(here);
    peri_matrix_release(there);
    free(from);
    free(to);
}

/* ---- plans -------------------------------------------------------------------------------- */

static void check_plan(void) {
    enum { N = 70, COLS = 9 };
    place p;
    place_open(&p, device);
    peri_view first = test_matrix(PERI_F32, N, COLS, 0, 1);
    peri_view second = test_matrix(PERI_F32, N, COLS, 0, 2);
    peri_view rows = place_put_view(&p, &first);
    peri_view half = rows;
    half.dtype = PERI_F16;
    half.stride_bytes = COLS * 2;
    half.data = place_room(&p, N * half.stride_bytes);
    peri_op_convert narrow = { PERI_OP_CONVERT, rows, half };
    peri_op_lengths lengths = { PERI_OP_LENGTHS, half, place_room(&p, N * sizeof(float)) };
    const peri_op *ops[] = { (const peri_op *)&narrow, (const peri_op *)&lengths };
    void *scratch[] = { place_room(&p, driver->scratch_bytes(device, ops[0]) + 1),
                        place_room(&p, driver->scratch_bytes(device, ops[1]) + 1) };
    float wanted[2][N], found[N];
    const peri_view *sets[] = { &first, &second };
    void *plan = NULL;
    place_wait(&p);
    place_must(driver->plan_compile(p.stream, ops, scratch, 2, &plan), "plan_compile");
    for (int s = 0; s < 2; s++) {
        place_must(driver->copy(p.stream, rows.data, rows.stride_bytes, device, sets[s]->data,
                                sets[s]->stride_bytes, NULL, N, COLS * sizeof(float)),
                   "copy");
        for (int o = 0; o < 2; o++)
            place_must(
                driver->run(p.stream, ops[o], scratch[o], driver->scratch_bytes(device, ops[o])),
                "run");
        place_fetch(&p, wanted[s], lengths.out, sizeof wanted[s]);
        place_must(driver->fill(p.stream, lengths.out, 0, sizeof found), "fill");
        place_must(driver->plan_run(p.stream, plan), "plan_run");
        place_fetch(&p, found, lengths.out, sizeof found);
        CHECK(memcmp(found, wanted[s], sizeof found) == 0, "run %d of the plan", s);
    }
    CHECK(memcmp(wanted[0], wanted[1], sizeof found) != 0, "both runs were of the same rows");
    driver->plan_close(plan);
    place_close(&p);
    free(first.data);
    free(second.data);
}

/* An operation that a place declines is no part of a plan: the compilation fails with words, the
 * queue goes on, and so do plans. One that is of no operations does nothing. A plan outlives the
 * queue that it was compiled on. */
static void check_plan_faults(void) {
    enum { N = 40, COLS = 8 };
    place p, other;
    void *plan = NULL, *empty = NULL;
    float found[N], wanted[N], again[N];
    place_open(&p, device);
    place_open(&other, device);
    peri_view first = test_matrix(PERI_F32, N, COLS, 0, 1);
    peri_view rows = place_put_view(&other, &first);
    peri_op_lengths good = { PERI_OP_LENGTHS, rows, place_room(&other, sizeof found) };
    peri_op_lengths bad = good;
    if (fake)
        bad.rows.data = found; /* the host's */
    else
        bad.kind = PERI_OP_COUNT;
    place_wait(&other);
    const peri_op *pair[] = { (const peri_op *)&good, (const peri_op *)&bad };
    void *scratch[] = { place_room(&p, driver->scratch_bytes(device, pair[0]) + 1), NULL };
    if (!fake)
        for (int round = 0; round < 3; round++) {
            peri_status status = driver->plan_compile(p.stream, pair, scratch, 2, &plan);
            CHECK(status == PERI_E_UNSUPPORTED && plan == NULL, "a part that there is not: %s: %s",
                  peri_status_code(status), peri_error_detail());
        }
    place_must(driver->plan_compile(p.stream, NULL, NULL, 0, &empty), "a plan of nothing");
    place_must(driver->plan_run(p.stream, empty), "a run of nothing");
    place_must(driver->run(p.stream, pair[0], scratch[0], driver->scratch_bytes(device, pair[0])),
               "run");
    place_fetch(&p, wanted, good.out, sizeof wanted);
    place_must(driver->plan_compile(p.stream, pair, scratch, 1, &plan), "plan_compile");
    place_must(driver->fill(p.stream, good.out, 0, sizeof found), "fill");
    place_must(driver->plan_run(p.stream, plan), "plan_run");
    place_fetch(&p, found, good.out, sizeof found);
    CHECK(memcmp(found, wanted, sizeof found) == 0, "the plan after a failed one");
    void *kept = p.blocks[0];
    p.count = 0; /* the scratch outlives the queue */
    place_close(&p);
    place_must(driver->fill(other.stream, good.out, 0, sizeof found), "fill");
    for (int round = 0; round < 3; round++)
        place_must(driver->plan_run(other.stream, plan), "plan_run on another queue");
    place_fetch(&other, again, good.out, sizeof again);
    CHECK(memcmp(again, wanted, sizeof again) == 0, "the plan on another queue");
    driver->plan_close(plan);
    driver->plan_close(empty);
    driver->plan_close(NULL);
    driver->mem_release(kept);
    place_close(&other);
    free(first.data);
}

/* ---- a caller's queue --------------------------------------------------------------------- */

/* What is enqueued on the wrapped queue comes after what its owner enqueued; events order others
 * behind it. */
static void check_foreign_queue(void) {
    place owner, other;
    peri_stream *wrapped = NULL, *plain = NULL;
    peri_event *event = NULL;
    int seen = 0, two = 2;
    place_open(&owner, device);
    place_open(&other, device);
    int *data = place_room(&owner, sizeof seen);
    place_wait(&owner);
    void *foreign = fake ? (void *)owner.stream : NULL;
    place_must(driver->stream_wrap(device, foreign, &wrapped), "stream_wrap");
    place_must(driver->stream_wrap(device, (void *)1, &plain), "the default queue");
    place_must(driver->event_open(device, &event), "event_open");
    place_must(
        driver->copy(wrapped, data, sizeof two, device, &two, sizeof two, NULL, 1, sizeof two),
        "copy");
    place_must(driver->event_record(event, wrapped), "record");
    place_must(driver->event_wait(event, other.stream), "wait");
    place_fetch(&other, &seen, data, sizeof seen);
    CHECK(seen == 2, "%d was seen behind the caller's queue", seen);
    place_must(driver->fill(plain, data, 0, sizeof seen), "fill");
    place_must(driver->stream_wait(plain, NULL), "wait");
    place_fetch(&other, &seen, data, sizeof seen);
    CHECK(seen == 0, "%d after the default queue", seen);
    driver->event_close(event);
    driver->stream_close(plain);
    driver->stream_close(wrapped);
    place_close(&other);
    place_close(&owner);
}

int main(void) {
    const char *name = getenv("PERIGEE_TEST_PLACE");
    peri_place at;
    context = place_context();
    place_must(peri_place_parse(name == NULL || name[0] == '\0' ? "fake:0" : name, &at), "place");
    place_must(peri_context_device(context, at, &device), "device");
    driver = device->driver;
    fake = at.kind == PERI_PLACE_FAKE;
    check_limit();
    check_trim();
    check_wrap();
    check_ring(30001, 1000, 1003);
    check_ring(7000000, 4, 4);
    check_ring(3, 9000001, 9000001);
    check_plan();
    check_plan_faults();
    check_foreign_queue();
    check_parts();
    check_faults(true);
    check_faults(false);
    peri_context_release(context);
    return check_done();
}
