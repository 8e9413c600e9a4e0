/* list_join.c: an inverted file joined with itself, a chunk of rows a task.
 *
 * Rows of a chunk are of one list or of a few, so they probe much the same lists. The lists that
 * any of them probes are gone through once: a block of a list's rows, which lie side by side and
 * stay in the first cache, meets every row of the chunk that probes the list. What is near enough
 * goes into the pool of its row (near_pool.h), and a pool is sorted when all lists are done, so
 * the result does not depend on how rows were put into chunks. Source: perigee_backend.h. */
#include <math.h>
#include <string.h>

#include "backend/cpu/distances.h"
#include "backend/cpu/near_pool.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/workers.h"
#include "core/half.h"
#include "core/matrix.h"

#define CHUNK_ROWS 128u
#define BLOCK_ROWS PERI_NEAR_POOL_BATCH /* of a list, measured at once */

/* A worker's scratch. A pair is one probe of a row of the chunk: row * probe_count + probe. */
typedef struct worker {
    uint8_t *clean;    /* [1] heads was set since the operation began */
    uint32_t *heads;   /* [lists] the last pair of a list, PERI_SLOT_NONE = none */
    uint32_t *links;   /* [CHUNK_ROWS * probe_count] the pair of the same list before this one */
    uint32_t *touched; /* [CHUNK_ROWS * probe_count] lists, in the order of their first pair */
    float *queries;    /* [CHUNK_ROWS, d] rows of f16 as f32 */
    peri_near_batch *batch; /* [1] */
    peri_near_pool *pools;  /* [CHUNK_ROWS] */
    uint64_t *keys;         /* [CHUNK_ROWS, room + 1] */
    uint64_t *spare;        /* [room + 1] */
} worker;

typedef struct joining {
    const peri_op_list_join *op;
    peri_distances measure;
    const peri_select_kernels *select;
    size_t room; /* keys of a pool */
    char *workers;
    size_t worker_bytes;
} joining;

/* The rows of one task. */
typedef struct chunk {
    const joining *run;
    worker own;
    size_t first, count, touched;
} chunk;

static size_t pool_room(size_t degree) { return 3 * degree + BLOCK_ROWS; }

static size_t lay_out_worker(const peri_op_list_join *op, void *base, worker *w) {
    size_t at = 0, pairs = CHUNK_ROWS * op->probe_count, keys = pool_room(op->degree) + 1;
    bool widened = op->rows.dtype == PERI_F16;
    w->clean = peri_scratch_cut(&at, base, 1);
    w->heads = peri_scratch_cut(&at, base, op->lists * sizeof *w->heads);
    w->links = peri_scratch_cut(&at, base, pairs * sizeof *w->links);
    w->touched = peri_scratch_cut(&at, base, pairs * sizeof *w->touched);
    w->queries = peri_scratch_cut(&at, base,
                                  widened ? CHUNK_ROWS * op->rows.cols * sizeof(float) : 0);
    w->batch = peri_scratch_cut(&at, base, sizeof *w->batch);
    w->pools = peri_scratch_cut(&at, base, CHUNK_ROWS * sizeof *w->pools);
    w->keys = peri_scratch_cut(&at, base, CHUNK_ROWS * keys * sizeof *w->keys);
    w->spare = peri_scratch_cut(&at, base, keys * sizeof *w->spare);
    return at;
}

size_t peri_cpu_list_join_scratch(const peri_device *device, const peri_op_list_join *op) {
    worker w;
    return peri_cpu_workers_max(device) * lay_out_worker(op, NULL, &w);
}

/* ---- which rows of the chunk probe a list ------------------------------------------------- */

static void add_pairs(chunk *c, size_t row) {
    const peri_op_list_join *op = c->run->op;
    const uint32_t *probes = op->probes + (c->first + row) * op->probe_count;
    for (size_t i = 0; i < op->probe_count; i++) {
        uint32_t list = probes[i], pair = (uint32_t)(row * op->probe_count + i);
        if (list == PERI_SLOT_NONE) continue;
        uint32_t before = c->own.heads[list];
        if (before == PERI_SLOT_NONE) c->own.touched[c->touched++] = list;
        if (before != PERI_SLOT_NONE && before / op->probe_count == row) continue; /* named twice */
        c->own.links[pair] = before;
        c->own.heads[list] = pair;
    }
}

/* ---- the rows as queries ------------------------------------------------------------------ */

static const void *query_of(const chunk *c, size_t row) {
    const peri_op_list_join *op = c->run->op;
    if (op->rows.dtype == PERI_F16) return c->own.queries + row * op->rows.cols;
    return peri_view_row(&op->rows, c->first + row);
}

static float length_of(const chunk *c, size_t row) {
    const peri_op_list_join *op = c->run->op;
    return op->metric == PERI_COSINE ? op->lengths[c->first + row] : 0.0f;
}

static void begin_row(chunk *c, size_t row) {
    const peri_op_list_join *op = c->run->op;
    size_t room = c->run->room;
    c->own.pools[row] = peri_near_pool_open(c->own.keys + row * (room + 1), op->degree, room);
    add_pairs(c, row);
    if (op->rows.dtype != PERI_F16) return;
    const uint16_t *halves = peri_view_row(&op->rows, c->first + row);
    float *wide = c->own.queries + row * op->rows.cols;
    for (size_t j = 0; j < op->rows.cols; j++) wide[j] = peri_half_to_float(halves[j]);
}

/* ---- the join ----------------------------------------------------------------------------- */

/* One row of the chunk meets rows first..first+count-1, of which it may be one. */
static void meet(chunk *c, size_t row, uint32_t first, size_t count) {
    uint32_t own = (uint32_t)(c->first + row);
    peri_distances_range(&c->run->measure, query_of(c, row), length_of(c, row), first, count,
                         c->own.batch->distances);
    peri_near_pool_offer(&c->own.pools[row], c->run->select, c->own.batch, first, count, own,
                         c->own.spare);
}

static void join_list(chunk *c, uint32_t list) {
    const peri_op_list_join *op = c->run->op;
    uint32_t stop = op->starts[list + 1];
    for (uint32_t first = op->starts[list]; first < stop; first += BLOCK_ROWS) {
        size_t count = peri_min_size(BLOCK_ROWS, stop - first);
        for (uint32_t pair = c->own.heads[list]; pair != PERI_SLOT_NONE; pair = c->own.links[pair])
            meet(c, pair / op->probe_count, first, count);
    }
    c->own.heads[list] = PERI_SLOT_NONE;
}

static void write_row(chunk *c, size_t row) {
    const peri_op_list_join *op = c->run->op;
    peri_near_pool *pool = &c->own.pools[row];
    uint32_t *slots = op->slots + (c->first + row) * op->degree;
    peri_near_pool_settle(pool, c->own.spare);
    peri_near_sort_many(pool->keys, pool->count, c->own.spare);
    for (size_t i = 0; i < pool->count; i++) slots[i] = peri_near_slot(pool->keys[i]);
    for (size_t i = pool->count; i < op->degree; i++) slots[i] = PERI_SLOT_NONE;
    if (op->distances == NULL) return;
    float *distances = op->distances + (c->first + row) * op->degree;
    for (size_t i = 0; i < pool->count; i++) {
        distances[i] = peri_near_distance(pool->keys[i]);
        if (distances[i] == 0) /* its sign is lost in the key */
            peri_distances_slots(&c->run->measure, query_of(c, row), length_of(c, row), &slots[i],
                                 1, &distances[i]);
    }
    for (size_t i = pool->count; i < op->degree; i++) distances[i] = INFINITY;
}

static peri_status join_chunk(void *ud, size_t task, size_t worker_number) {
    const joining *run = ud;
    chunk c = { .run = run, .first = task * CHUNK_ROWS };
    lay_out_worker(run->op, run->workers + worker_number * run->worker_bytes, &c.own);
    if (!*c.own.clean) {
        memset(c.own.heads, 0xFF, run->op->lists * sizeof *c.own.heads);
        *c.own.clean = 1;
    }
    c.count = peri_min_size(CHUNK_ROWS, run->op->rows.rows - c.first);
    for (size_t row = 0; row < c.count; row++) begin_row(&c, row);
    for (size_t i = 0; i < c.touched; i++) join_list(&c, c.own.touched[i]);
    for (size_t row = 0; row < c.count; row++) write_row(&c, row);
    return PERI_OK;
}

peri_status peri_cpu_list_join(peri_stream *stream, const peri_op_list_join *op, void *scratch,
                               size_t scratch_bytes) {
    (void)scratch_bytes;
    worker w;
    joining run = { .op = op, .room = pool_room(op->degree), .workers = scratch };
    size_t workers = peri_cpu_workers(stream);
    run.worker_bytes = lay_out_worker(op, NULL, &w);
    for (size_t i = 0; i < workers; i++) {
        lay_out_worker(op, run.workers + i * run.worker_bytes, &w);
        *w.clean = 0;
    }
    run.select = peri_select_chosen();
    peri_distances_init(&run.measure, op->metric, &op->rows, op->lengths);
    peri_loop loop = { .stage = "list_join", .threads = workers, .control = stream->control };
    return peri_parallel(stream->device->context, &loop, peri_ceil_div(op->rows.rows, CHUNK_ROWS),
                         join_chunk, &run);
}
