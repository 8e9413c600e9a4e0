/* filtered.c: a searcher whose every search also obeys a filter of its own. The filter travels
 * inward with the request and is joined where the rows are known. */
#include <stdio.h>

#include "core/memory.h"
#include "index/searcher.h"

typedef struct filtered {
    peri_searcher base;
    peri_filter *filter;
} filtered;

typedef struct filtered_state {
    peri_search inner;
    peri_also also;
} filtered_state;

static peri_status filtered_submit(peri_searcher *self, peri_search *search) {
    filtered_state *state;
    PERI_TRY(peri_lane_take_host(search->lane, 1, sizeof *state, &state));
    state->also = (peri_also){ ((filtered *)self)->filter, search->also };
    state->inner = *search;
    state->inner.also = &state->also;
    state->inner.state = NULL;
    search->state = state;
    PERI_TRY(self->inner->ops->submit(self->inner, &state->inner));
    search->info = state->inner.info;
    search->left = state->inner.left;
    search->let_go = state->inner.let_go;
    search->let_go_ud = state->inner.let_go_ud;
    return PERI_OK;
}

static peri_status filtered_finish(peri_searcher *self, peri_search *search) {
    filtered_state *state = search->state;
    peri_status status = self->inner->ops->finish(self->inner, &state->inner);
    search->info = state->inner.info;
    return status;
}

static void filtered_abandon(peri_searcher *self, peri_search *search) {
    filtered_state *state = search->state;
    if (state != NULL) self->inner->ops->abandon(self->inner, &state->inner);
}

static peri_status filtered_score(peri_searcher *self, peri_search *search, const int64_t *ids,
                                  size_t columns, float *distances) {
    if (self->inner->ops->score == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s holds no rows to score with",
                         self->inner->ops->kind);
    return self->inner->ops->score(self->inner, search, ids, columns, distances);
}

static peri_status filtered_range(peri_searcher *self, peri_search *search, float radius,
                                  peri_range_hits *hits) {
    const peri_also also = { ((filtered *)self)->filter, search->also };
    peri_search inner = *search;
    if (self->inner->ops->range == NULL)
        return peri_fail(PERI_E_UNSUPPORTED, "%s is not searched by distance",
                         self->inner->ops->kind);
    inner.also = &also;
    return self->inner->ops->range(self->inner, &inner, radius, hits);
}

static double selectivity(const peri_searcher *self) {
    size_t passing = 0, rows = peri_searcher_rows(self);
    if (rows == 0) return 1.0;
    if (peri_filter_count(((const filtered *)self)->filter, rows, &passing) != PERI_OK) return 0.0;
    return (double)passing / (double)rows;
}

static void filtered_describe(const peri_searcher *self, peri_field_fn field, void *ud) {
    peri_field_real(field, ud, "selectivity", selectivity(self));
}

static void filtered_line(const peri_searcher *self, char *text, size_t size) {
    snprintf(text, size, "filtered(selectivity %.3g)\tcpu\tscan when few rows pass",
             selectivity(self));
}

static void filtered_free(peri_searcher *self) {
    peri_context *context = self->context;
    peri_filter_release(((filtered *)self)->filter);
    peri_memory_release(context, self, 1, sizeof(filtered));
}

static const peri_searcher_ops filtered_ops = {
    .kind = "filtered",
    .submit = filtered_submit,
    .finish = filtered_finish,
    .abandon = filtered_abandon,
    .score = filtered_score,
    .range = filtered_range,
    .describe = filtered_describe,
    .line = filtered_line,
    .release = filtered_free,
    .placed = true,
};

peri_status peri_searcher_filtered(peri_searcher *inner, peri_filter *filter, peri_searcher **out) {
    filtered *self;
    *out = NULL;
    PERI_TRY(peri_memory_acquire_zeroed(inner->context, 1, sizeof *self, &self));
    peri_searcher_init(&self->base, &filtered_ops, inner->context, inner);
    peri_filter_retain(filter);
    self->filter = filter;
    *out = &self->base;
    return PERI_OK;
}
