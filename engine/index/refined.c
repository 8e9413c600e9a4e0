/* refined.c: asks the inner searcher for more and re-ranks on better rows: a graph walked on f16
 * or i8 with the originals beside it. The rows may be at another place; they belong to row
 * numbers 0..n-1 of the inner searcher, whatever ids it has. */
#include <stdio.h>
#include <string.h>

#include "core/checked.h"
#include "core/distance.h"
#include "core/matrix.h"
#include "core/memory.h"
#include "index/combinators.h"
#include "index/handle.h"

#define REFINED_PARAMS(X, S)                                                                       \
    X(S, REAL, ratio, 4, 1, 1024, NULL, NULL,                                                      \
      "candidates asked of the inner searcher, as a multiple of k")

PERI_PARAMS_STRUCT(refined_params, REFINED_PARAMS)

static const peri_param refined_rows[] = { PERI_PARAMS_ROWS(refined_params, REFINED_PARAMS) };
const peri_param_table peri_refined_table = { "refined.search", refined_rows, 1 };

typedef struct refined {
    peri_searcher base;
    peri_matrix *rows;
    peri_matrix *lengths; /* cosine, at the rows' place */
    refined_params params;
} refined;

typedef struct refined_state {
    peri_search inner;
    int64_t *candidates;
} refined_state;

static peri_status refined_submit(peri_searcher *self, peri_search *search) {
    refined_params params = ((refined *)self)->params;
    PERI_TRY(peri_params_read(&peri_refined_table, search->options, &params));
    double wanted = (double)search->k * params.ratio + 0.5;
    size_t k = peri_max_size(search->k, peri_min_size((size_t)wanted, PERI_K_MAX));
    size_t items = search->queries.rows * k;
    refined_state *state;
    PERI_TRY(peri_lane_take_host(search->lane, 1, sizeof *state, &state));
    state->inner = *search;
    state->inner.k = k;
    state->inner.state = NULL;
    search->state = state;
    PERI_TRY(peri_lane_take_host(search->lane, items, sizeof(int64_t), &state->inner.ids));
    PERI_TRY(peri_lane_take_host(search->lane, items, sizeof(float), &state->inner.distances));
    return self->inner->ops->submit(self->inner, &state->inner);
}

/* A float copy of queries for rows of f32, in the lane's host arena. */
static peri_status float_queries(peri_lane *lane, const peri_view *from, peri_view *out) {
    *out = *from;
    if (from->dtype == PERI_F32) return PERI_OK;
    out->dtype = PERI_F32;
    out->stride_bytes = from->cols * sizeof(float);
    return peri_lane_take_host(lane, from->rows, out->stride_bytes, &out->data);
}

static peri_status prepare_queries(const refined *self, peri_lane *lane, const peri_view *from,
                                   peri_view *out) {
    peri_dtype dtype = peri_query_dtype(peri_matrix_view(self->rows).dtype);
    if (from->dtype == dtype) {
        *out = *from;
        return PERI_OK;
    }
    if (dtype != PERI_F32)
        return peri_fail(PERI_E_ARGUMENT, "queries: dtype %s given, the refining rows need %s",
                         peri_dtype_name(from->dtype), peri_dtype_name(dtype));
    PERI_TRY(float_queries(lane, from, out));
    const peri_driver *driver = peri_lane_device(lane)->driver;
    peri_op_convert op = { PERI_OP_CONVERT, *from, *out };
    if (driver->kind == PERI_PLACE_CPU) return peri_lane_run(lane, (const peri_op *)&op);
    peri_device *cpu;
    peri_lane *host;
    PERI_TRY(peri_context_device(self->base.context, PERI_CPU, &cpu));
    PERI_TRY(peri_lane_acquire(cpu, &host));
    peri_status status = peri_lane_run(host, (const peri_op *)&op);
    peri_lane_release(host);
    return status;
}

static peri_status rerank(const refined *self, peri_search *search, const peri_search *inner,
                          peri_lane *lane) {
    peri_view queries;
    PERI_TRY(prepare_queries(self, search->lane, &search->queries, &queries));
    size_t items = queries.rows * search->k;
    peri_op_refine op = { .kind = PERI_OP_REFINE,
                          .metric = self->base.metric,
                          .rows = peri_matrix_view(self->rows),
                          .lengths = self->lengths == NULL ? NULL
                                                           : peri_matrix_view(self->lengths).data,
                          .columns = inner->k,
                          .k = search->k };
    PERI_TRY(peri_lane_upload_view(lane, &queries, &op.queries));
    PERI_TRY(peri_lane_upload(lane, inner->ids, queries.rows * inner->k, sizeof *inner->ids,
                              &op.candidates));
    PERI_TRY(peri_lane_out(lane, search->ids, items, sizeof *search->ids, &op.ids));
    PERI_TRY(peri_lane_out(lane, search->distances, items, sizeof(float), &op.distances));
    PERI_TRY(peri_lane_run(lane, (const peri_op *)&op));
    PERI_TRY(peri_lane_fetch(lane, search->ids, op.ids, items, sizeof *search->ids));
    PERI_TRY(peri_lane_fetch(lane, search->distances, op.distances, items, sizeof(float)));
    return peri_lane_wait(lane, search->control);
}

/* ---- ids ---------------------------------------------------------------------------------- */

/* The innermost index, retained. */
static peri_index *take_index(const peri_searcher *searcher) {
    while (searcher->inner != NULL) searcher = searcher->inner;
    return peri_handle_take(searcher);
}

/* The candidates as numbers of rows to refine with. */
static peri_status rows_of_ids(const refined *self, const peri_index *index,
                               const peri_search *inner) {
    size_t rows = peri_matrix_view(self->rows).rows;
    for (size_t i = 0; i < inner->queries.rows * inner->k; i++) {
        int64_t *id = &inner->ids[i];
        if (*id == PERI_ID_NONE) continue;
        int64_t row = index->ids == NULL ? *id : peri_index_find(index, *id);
        if (row != PERI_ID_NONE && (uint64_t)row >= rows)
            return peri_fail(PERI_E_UNSUPPORTED,
                             "refined: the inner index was extended, and its row %lld is not among "
                             "the %zu rows to refine with",
                             (long long)row, rows);
        *id = row;
    }
    return PERI_OK;
}

static void ids_of_rows(const peri_index *index, const peri_search *search) {
    if (index->ids == NULL) return;
    for (size_t i = 0; i < search->queries.rows * search->k; i++)
        if (search->ids[i] != PERI_ID_NONE) search->ids[i] = index->ids[search->ids[i]];
}

static peri_status refined_finish(peri_searcher *self, peri_search *search) {
    const refined *outer = (refined *)self;
    refined_state *state = search->state;
    PERI_TRY(self->inner->ops->finish(self->inner, &state->inner));
    search->info = state->inner.info;
    peri_index *index = take_index(self);
    peri_device *device;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_GO(rows_of_ids(outer, index, &state->inner));
    PERI_GO(peri_context_device(self->context, peri_matrix_view(outer->rows).place, &device));
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_lane_follow(lane, search->control, search->threads);
    PERI_GO(rerank(outer, search, &state->inner, lane));
    ids_of_rows(index, search);
done:
    if (lane != NULL) peri_lane_release(lane);
    peri_index_release(index);
    return status;
}

static void refined_abandon(peri_searcher *self, peri_search *search) {
    refined_state *state = search->state;
    if (state != NULL) self->inner->ops->abandon(self->inner, &state->inner);
}

static void refined_describe(const peri_searcher *self, peri_field_fn field, void *ud) {
    const refined *outer = (const refined *)self;
    peri_field_text(field, ud, "dtype", peri_dtype_name(peri_matrix_view(outer->rows).dtype));
    peri_field_params(field, ud, &peri_refined_table, &outer->params);
}

static void refined_line(const peri_searcher *self, char *text, size_t size) {
    const refined *outer = (const refined *)self;
    peri_view rows = peri_matrix_view(outer->rows);
    char place[32];
    snprintf(text, size, "refined(ratio %g, %s rows)\t%s\tre-ranks ratio * k candidates",
             outer->params.ratio, peri_dtype_name(rows.dtype),
             peri_place_format(rows.place, place, sizeof place));
}

static void refined_free(peri_searcher *self) {
    refined *outer = (refined *)self;
    peri_context *context = self->context;
    peri_matrix_release(outer->rows);
    peri_matrix_release(outer->lengths);
    peri_memory_release(context, outer, 1, sizeof *outer);
}

static const peri_searcher_ops refined_ops = {
    .kind = "refined",
    .search_table = &peri_refined_table,
    .submit = refined_submit,
    .finish = refined_finish,
    .abandon = refined_abandon,
    .describe = refined_describe,
    .line = refined_line,
    .release = refined_free,
};

static peri_status check_refined(peri_searcher *inner, peri_matrix *rows) {
    peri_view view = peri_matrix_view(rows);
    size_t count = peri_searcher_rows(inner);
    for (peri_searcher *s = inner; s != NULL; s = s->inner)
        if (s->ops == &refined_ops)
            return peri_fail(PERI_E_ARGUMENT,
                             "option 'ratio' would belong to two layers: the inner "
                             "searcher is refined already");
    if (view.dtype > PERI_U8 || view.rows != count || view.cols != inner->dim)
        return peri_fail(PERI_E_ARGUMENT,
                         "rows: %zu x %zu %s given, allowed: %zu x %u of f32 f16 "
                         "i8 u8",
                         view.rows, view.cols, peri_dtype_name(view.dtype), count, inner->dim);
    if (!peri_metric_takes(inner->metric, view.dtype))
        return peri_fail(PERI_E_ARGUMENT, "rows: %s given, allowed under %s: u8",
                         peri_dtype_name(view.dtype), peri_metric_name(inner->metric));
    return peri_matrix_check(rows, inner->metric == PERI_COSINE, "rows", 0, NULL);
}

static peri_status make_lengths(refined *self) {
    if (self->base.metric != PERI_COSINE) return PERI_OK;
    peri_view rows = peri_matrix_view(self->rows);
    peri_device *device;
    peri_lane *lane = NULL;
    peri_status status;
    PERI_GO(
        peri_matrix_create(self->base.context, rows.rows, 1, PERI_F32, rows.place, &self->lengths));
    PERI_GO(peri_context_device(self->base.context, rows.place, &device));
    PERI_GO(peri_lane_acquire(device, &lane));
    peri_op_lengths op = { PERI_OP_LENGTHS, rows, peri_matrix_view(self->lengths).data };
    PERI_GO(peri_lane_run(lane, (const peri_op *)&op));
    PERI_GO(peri_lane_wait(lane, NULL));
done:
    peri_lane_release(lane);
    return status;
}

peri_status peri_searcher_refined(peri_searcher *inner, peri_matrix *rows, peri_options options,
                                  peri_searcher **out) {
    static const peri_param_table *const tables[] = { &peri_refined_table };
    refined *self;
    *out = NULL;
    PERI_TRY(peri_options_check(&options, tables, 1));
    PERI_TRY(check_refined(inner, rows));
    PERI_TRY(peri_memory_acquire_zeroed(inner->context, 1, sizeof *self, &self));
    peri_searcher_init(&self->base, &refined_ops, inner->context, inner);
    peri_matrix_retain(rows);
    self->rows = rows;
    peri_params_default(&peri_refined_table, &self->params);
    peri_status status = peri_params_read(&peri_refined_table, &options, &self->params);
    if (status == PERI_OK) status = make_lengths(self);
    if (status != PERI_OK) {
        peri_searcher_release(&self->base);
        return status;
    }
    *out = &self->base;
    return PERI_OK;
}
