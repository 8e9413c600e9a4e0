/* searcher.h: what every searcher is: a table of slots, and a search in two halves.
 *
 * submit() enqueues on the lane of the searcher's device and returns; when the lane's stream is
 * done, finish() looks at the answer on the caller's thread: it translates slots to ids, repairs
 * short rows, re-ranks. A synchronous search is submit, wait, finish; a batcher puts its own
 * waiting between them. A wrapper hands its inner searcher a peri_search of its own, made in the
 * lane's host arena.
 *
 * Inside, distances are "smaller is nearer" values; peri_searcher_search turns them into what
 * the metric reports, once, at the edge. */
#ifndef PERI_INDEX_SEARCHER_H
#define PERI_INDEX_SEARCHER_H

#include "core/lane.h"
#include "core/params.h"
#include "filter/filter.h"

/* Filters that wrappers add: all must let a row through, besides the request's own. */
typedef struct peri_also {
    peri_filter *filter;
    const struct peri_also *outer;
} peri_also;

/* A search under way. */
typedef struct peri_search {
    peri_view queries; /* of the right dim; dtype as the user gave it; finite when on the host, else
                          at the place of the searcher, which has `placed` then */
    size_t k;
    peri_filter *const *filters;
    size_t filter_count; /* 0, 1 or queries.rows */
    const peri_also *also;
    const peri_options *options;
    size_t threads;
    const peri_control *control;
    peri_lane *lane;  /* on the device of the tree's innermost searcher */
    int64_t *ids;     /* [q, k] host, out */
    float *distances; /* [q, k] host, out: inside values */
    peri_hits_info info;
    peri_stream *caller; /* a caller's queue that waits for the answer; NULL: none */
    /* Where the answer is to be in the end, at the place; NULL: on the host. Who can enqueues it
     * there in submit(), in reported values, and sets `left`: `ids` and `distances` are not written
     * then. */
    int64_t *placed_ids;
    float *placed_distances;
    bool left;
    void (*let_go)(
        void *ud);   /* with `left` and `caller`: called in place of finish() and abandon(),
                                 once all is done */
    void *let_go_ud; /* in the lane's host arena */
    void *state;     /* the layer's own, between submit and finish; in the lane's host arena */
} peri_search;

typedef struct peri_searcher_ops {
    const char *kind;
    const peri_param_table *search_table;
    peri_status (*submit)(peri_searcher *self, peri_search *search);
    peri_status (*finish)(peri_searcher *self, peri_search *search);
    /* Called when finish() will not be: gives back what submit() holds. `search->state` may be
     * NULL. */
    void (*abandon)(peri_searcher *self, peri_search *search);
    /* (optional) Inside values of given rows, [q, columns] in the order given; host pointers. */
    peri_status (*score)(peri_searcher *self, peri_search *search, const int64_t *ids,
                         size_t columns, float *distances);
    /* (optional) All rows at `radius` (inside) or nearer, at most search->k of each query, 0 = all;
     * waits. Distances in `hits` are inside values. */
    peri_status (*range)(peri_searcher *self, peri_search *search, float radius,
                         peri_range_hits *hits);
    void (*describe)(const peri_searcher *self, peri_field_fn field, void *ud);
    void (*line)(const peri_searcher *self, char *text, size_t size); /* one line of explain() */
    void (*release)(peri_searcher *self); /* the last reference is gone */
    bool placed; /* takes queries at the place; a wrapper: when what it wraps does */
} peri_searcher_ops;

/* The head of every searcher. */
struct peri_searcher {
    atomic_size_t references;
    peri_context *context;
    const peri_searcher_ops *ops;
    peri_searcher *inner; /* what it wraps, retained; NULL for an index */
    peri_device *device;  /* of the innermost searcher */
    peri_metric metric;
    uint32_t dim;
    atomic_size_t rows; /* of an index, which may grow; a wrapper asks what it wraps */
};

/* Fills the head and retains context and inner. */
void peri_searcher_init(peri_searcher *searcher, const peri_searcher_ops *ops,
                        peri_context *context, peri_searcher *inner);

/* For describe(). */
void peri_field_int(peri_field_fn field, void *ud, const char *key, int64_t value);
void peri_field_real(peri_field_fn field, void *ud, const char *key, double value);
void peri_field_flag(peri_field_fn field, void *ud, const char *key, bool value);
void peri_field_text(peri_field_fn field, void *ud, const char *key, const char *value);
/* Every parameter of a table as "params.<name>". */
void peri_field_params(peri_field_fn field, void *ud, const peri_param_table *table,
                       const void *params);

#endif
