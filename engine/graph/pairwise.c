/* pairwise.c: the distance of every row of one matrix to every row of another.
 *
 * An operation of the seam does it, with the values that any search reports, bit for bit. Rows of
 * `a` are taken in chunks, so that progress is told and what must be converted stays small.
 *
 * What a device has no room for is made in tiles: some rows of `a` stay on the device while all of
 * `b` pass it (core/chunks.h), and a tile comes to the host while the next one is made. The link
 * that it takes home is the bound, at 4 bytes a pair; so many rows of `a` make what passes the
 * other way small beside it. */
#include "core/checked.h"
#include "core/chunks.h"
#include "core/distance.h"
#include "core/threads.h"
#include "graph/pairs.h"

#define CHUNK_PAIRS (1u << 24)        /* of one operation, about; */
#define DEVICE_CHUNK_PAIRS (1u << 28) /* of a device, which packs all of `b` for each */
#define TILE_ROWS ((size_t)4096)

typedef struct pairing {
    const peri_pairwise_options *asked;
    peri_context *context;
    peri_device *device;
    peri_matrix *a_rows, *b_rows; /* where they lie meanwhile */
    peri_view a, b;
    size_t chunk;         /* rows of a */
    peri_matrix *lengths; /* of b */
    peri_matrix *out;
    peri_progress progress;
} pairing;

/* ---- checks ------------------------------------------------------------------------------- */

static peri_status check_side(const pairing *p, peri_matrix *matrix, const char *name) {
    const peri_pairwise_options *asked = p->asked;
    if (matrix == NULL) return peri_fail(PERI_E_ARGUMENT, "%s: none given", name);
    peri_view view = peri_matrix_view(matrix);
    if (view.rows == 0)
        return peri_fail(PERI_E_ARGUMENT, "%s: 0 rows given, allowed: 1 and more", name);
    if (view.dtype > PERI_U8)
        return peri_fail(PERI_E_ARGUMENT, "%s: %s given, allowed: f32 f16 i8 u8", name,
                         peri_dtype_name(view.dtype));
    return peri_matrix_check(matrix, asked->metric == PERI_COSINE, name, asked->threads,
                             asked->control);
}

static peri_status check(const pairing *p) {
    const peri_pairwise_options *asked = p->asked;
    char of_a[32], of_b[32];
    if (asked->size != sizeof *asked)
        return peri_fail(PERI_E_ARGUMENT, "pairwise.size: %u given, this library takes %zu",
                         asked->size, sizeof *asked);
    if ((unsigned)asked->metric >= PERI_METRIC_COUNT)
        return peri_fail(PERI_E_ARGUMENT, "metric: %d is none", (int)asked->metric);
    PERI_TRY(check_side(p, asked->a, "a"));
    PERI_TRY(check_side(p, asked->b, "b"));
    peri_view a = peri_matrix_view(asked->a), b = peri_matrix_view(asked->b);
    if (a.cols != b.cols)
        return peri_fail(PERI_E_ARGUMENT, "a has %zu columns and b %zu, allowed: as many", a.cols,
                         b.cols);
    if (!peri_place_equal(a.place, b.place))
        return peri_fail(PERI_E_ARGUMENT, "a is at %s and b at %s, allowed: one place",
                         peri_place_format(a.place, of_a, sizeof of_a),
                         peri_place_format(b.place, of_b, sizeof of_b));
    if (a.dtype != b.dtype && peri_query_dtype(b.dtype) != PERI_F32)
        return peri_fail(PERI_E_ARGUMENT, "a: %s given, rows of %s need %s",
                         peri_dtype_name(a.dtype), peri_dtype_name(b.dtype),
                         peri_dtype_name(b.dtype));
    return PERI_OK;
}

/* ---- chunks ------------------------------------------------------------------------------- */

static peri_status run_chunk(pairing *p, peri_lane *lane, size_t first, size_t count) {
    peri_view out = peri_matrix_view(p->out);
    peri_op_pairwise op = {
        .kind = PERI_OP_PAIRWISE, .metric = p->asked->metric, .rows = p->b, .out = out
    };
    if (p->lengths != NULL) op.lengths = peri_matrix_view(p->lengths).data;
    op.out.rows = count;
    op.out.data = peri_view_row(&out, first);
    peri_dtype dtype = peri_query_dtype(p->b.dtype);
    PERI_TRY(peri_pairs_queries(lane, &p->a, first, count, dtype, &op.queries));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    return peri_lane_wait(lane, &p->progress.control);
}

static peri_status run_chunks(pairing *p) {
    peri_lane *lane;
    peri_status status = PERI_OK;
    peri_progress_init(&p->progress, p->asked->control, "pairwise", p->a.rows);
    PERI_TRY(peri_lane_acquire(p->device, &lane));
    peri_lane_follow(lane, &p->progress.control, p->asked->threads);
    for (size_t first = 0; first < p->a.rows; first += p->chunk) {
        size_t count = peri_min_size(p->chunk, p->a.rows - first);
        peri_progress_step(&p->progress, first, count);
        PERI_GO(run_chunk(p, lane, first, count));
        peri_lane_rewind(lane);
    }
done:
    peri_lane_close(lane);
    return status;
}

/* ---- tiles -------------------------------------------------------------------------------- */

typedef struct tiling {
    pairing *p;
    peri_chunks chunks;
    peri_view queries; /* of `a` at the place */
    size_t first;      /* of them in `a` */
} tiling;

static peri_status run_tile(void *ud, peri_lane *lane, const peri_chunk *chunk) {
    const tiling *t = ud;
    size_t count = chunk->rows.rows;
    peri_op_pairwise op = { .kind = PERI_OP_PAIRWISE,
                            .metric = t->p->asked->metric,
                            .queries = t->queries,
                            .rows = chunk->rows,
                            .out = { chunk->out, t->queries.rows, count, count * sizeof(float),
                                     PERI_F32, chunk->rows.place } };
    if (op.metric == PERI_COSINE) {
        peri_op_lengths lengths = { PERI_OP_LENGTHS, chunk->rows, NULL };
        PERI_TRY(peri_lane_take(lane, count, sizeof(float), &lengths.out));
        PERI_TRY(peri_lane_run(lane, (const peri_op *)&lengths));
        op.lengths = lengths.out;
    }
    const peri_op_report report = { PERI_OP_REPORT, op.metric, chunk->out,
                                    t->queries.rows * count };
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    return peri_lane_run(lane, (const peri_op *)&report);
}

static peri_status take_tile(void *ud, peri_lane *lane, const peri_chunk *chunk) {
    tiling *t = ud;
    size_t row_bytes = chunk->rows.rows * sizeof(float);
    peri_view out = peri_matrix_view(t->p->out);
    char *to = (char *)peri_view_row(&out, t->first) + chunk->first * sizeof(float);
    return peri_chunks_fetch(&t->chunks, lane, to, out.stride_bytes, chunk->out, row_bytes,
                             t->queries.rows, row_bytes);
}

static peri_status as_queries(const pairing *p, peri_matrix *rows, peri_matrix **out) {
    peri_dtype dtype = peri_query_dtype(p->b.dtype);
    if (peri_matrix_view(rows).dtype != dtype) return peri_matrix_convert(rows, dtype, out);
    peri_matrix_retain(rows);
    *out = rows;
    return PERI_OK;
}

/* Rows of `a` from `first` on, at the place, against all of `b`. */
static peri_status run_block(pairing *p, size_t first, size_t count) {
    tiling t = { .p = p, .first = first };
    peri_matrix *part = NULL, *there = NULL, *queries = NULL;
    peri_status status;
    t.chunks = (peri_chunks){ .device = p->device,
                              .rows = p->b_rows,
                              .out_bytes = count * sizeof(float),
                              .threads = p->asked->threads,
                              .progress = &p->progress,
                              .base = first * p->b.rows,
                              .each = count,
                              .ud = &t,
                              .run = run_tile,
                              .take = take_tile };
    PERI_GO(peri_matrix_slice(p->a_rows, first, first + count, &part));
    PERI_GO(peri_matrix_move(part, p->device->place, &there));
    PERI_GO(as_queries(p, there, &queries));
    t.queries = peri_matrix_view(queries);
    PERI_GO(peri_chunks_pass(&t.chunks));
done:
    peri_matrix_release(queries);
    peri_matrix_release(there);
    peri_matrix_release(part);
    return status;
}

/* Fewer rows of `a` where there is no room. */
static peri_status run_blocks(pairing *p) {
    size_t rows = peri_min_size(p->a.rows, TILE_ROWS), first = 0;
    peri_progress_init(&p->progress, p->asked->control, "pairwise", p->a.rows * p->b.rows);
    while (first < p->a.rows) {
        size_t count = peri_min_size(rows, p->a.rows - first);
        peri_status status = run_block(p, first, count);
        if (status == PERI_E_MEMORY && rows > 1) {
            rows = peri_max_size(rows / 4, 1);
            continue;
        }
        PERI_TRY(status);
        first += count;
    }
    return PERI_OK;
}

/* ---- the call ----------------------------------------------------------------------------- */

/* Rows and result where the operation runs. */
static peri_status make_there(pairing *p) {
    PERI_TRY(peri_matrix_move(p->asked->a, p->device->place, &p->a_rows));
    PERI_TRY(peri_matrix_move(p->asked->b, p->device->place, &p->b_rows));
    p->a = peri_matrix_view(p->a_rows);
    p->b = peri_matrix_view(p->b_rows);
    PERI_TRY(
        peri_matrix_create(p->context, p->a.rows, p->b.rows, PERI_F32, p->device->place, &p->out));
    PERI_TRY(peri_pairs_lengths(p->b_rows, p->asked->metric, p->asked->threads, p->asked->control,
                                &p->lengths));
    PERI_TRY(run_chunks(p));
    return peri_pairs_report(p->out, p->asked->metric);
}

/* The result on the host, and rows where they are. */
static peri_status make_in_tiles(pairing *p) {
    peri_matrix_retain(p->asked->a);
    peri_matrix_retain(p->asked->b);
    p->a_rows = p->asked->a;
    p->b_rows = p->asked->b;
    p->a = peri_matrix_view(p->a_rows);
    p->b = peri_matrix_view(p->b_rows);
    /* not cleared: its pages are touched first by the threads that fill them */
    PERI_TRY(peri_matrix_acquire(p->context, p->a.rows, p->b.rows, PERI_F32, PERI_CPU, &p->out));
    return run_blocks(p);
}

static void clear(pairing *p) {
    peri_matrix **held[] = { &p->a_rows, &p->b_rows, &p->lengths, &p->out };
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        peri_matrix_release(*held[i]);
        *held[i] = NULL;
    }
}

static peri_status make(pairing *p) {
    peri_residence residence = p->asked->residence;
    peri_view a = peri_matrix_view(p->asked->a), b = peri_matrix_view(p->asked->b);
    size_t more, a_bytes = a.rows * a.cols * peri_dtype_bytes(a.dtype);
    bool streams = false, there = peri_place_equal(a.place, p->device->place);
    bool may = there || a.place.kind == PERI_PLACE_CPU;
    if (!peri_mul_fits(a.rows, b.rows, &more) || !peri_mul_fits(more, sizeof(float), &more) ||
        !peri_add_fits(more, there ? 0 : a_bytes, &more))
        return peri_fail(PERI_E_MEMORY, "%zu x %zu distances are more than memory can hold", a.rows,
                         b.rows);
    if (may) PERI_TRY(peri_chunks_choose(p->device, &b, residence, more, &streams));
    if (!streams) {
        peri_status status = make_there(p);
        bool again = may && residence == PERI_RESIDENCE_AUTO && !p->device->shares_host;
        if (status != PERI_E_MEMORY || !again) return status;
        clear(p);
    }
    return make_in_tiles(p);
}

peri_status peri_pairwise(const peri_pairwise_options *asked, peri_matrix **out) {
    pairing p = { .asked = asked };
    *out = NULL;
    PERI_TRY(check(&p));
    p.context = peri_matrix_context(asked->a);
    peri_view a = peri_matrix_view(asked->a), b = peri_matrix_view(asked->b);
    PERI_TRY(
        peri_context_device(p.context, asked->place != NULL ? *asked->place : b.place, &p.device));
    size_t pairs = p.device->shares_host ? CHUNK_PAIRS : DEVICE_CHUNK_PAIRS;
    p.chunk = peri_max_size(pairs / b.rows, peri_threads(p.context, asked->threads));
    p.chunk = peri_min_size(p.chunk, a.rows);
    peri_status status = make(&p);
    if (status == PERI_OK) {
        *out = p.out;
        p.out = NULL;
    }
    clear(&p);
    return status;
}
