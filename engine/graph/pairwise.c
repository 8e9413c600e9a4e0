/* pairwise.c: the distance of every row of one matrix to every row of another.
 *
 * An operation of the seam does it, with the values that any search reports, bit for bit. Rows of
 * `a` are taken in chunks, so that progress is told and what must be converted stays small. */
#include "core/checked.h"
#include "core/distance.h"
#include "core/threads.h"
#include "graph/pairs.h"
#include "core/progress.h"

#define CHUNK_PAIRS (1u << 24) /* of one operation, about */

typedef struct pairing {
    const peri_pairwise_options *asked;
    peri_context *context;
    peri_device *device;
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

peri_status peri_pairwise(const peri_pairwise_options *asked, peri_matrix **out) {
    pairing p = { .asked = asked };
    peri_status status;
    *out = NULL;
    PERI_TRY(check(&p));
    p.context = peri_matrix_context(asked->a);
    p.a = peri_matrix_view(asked->a);
    p.b = peri_matrix_view(asked->b);
    p.chunk = peri_max_size(CHUNK_PAIRS / p.b.rows, peri_threads(p.context, asked->threads));
    p.chunk = peri_min_size(p.chunk, p.a.rows);
    PERI_TRY(peri_context_device(p.context, p.b.place, &p.device));
    PERI_GO(peri_matrix_create(p.context, p.a.rows, p.b.rows, PERI_F32, p.b.place, &p.out));
    PERI_GO(
        peri_pairs_lengths(asked->b, asked->metric, asked->threads, asked->control, &p.lengths));
    PERI_GO(run_chunks(&p));
    PERI_GO(peri_pairs_report(p.out, asked->metric));
    *out = p.out;
    p.out = NULL;
done:
    peri_matrix_release(p.lengths);
    peri_matrix_release(p.out);
    return status;
}
